/* Contexts and queues: of the granted device only, and none after the grant has expired. What a
 * context, a queue or a program says of its devices is right by itself then. */
#include "layer.h"

typedef void(CL_CALLBACK *context_notice)(const char *, const void *, size_t, void *);

static cl_int may_make(void)
{
    cl_int status = gate();
    return status == CL_SUCCESS ? accounts_open() : status;
}

static cl_context CL_API_CALL create_context(const cl_context_properties *properties, cl_uint count,
                                             const cl_device_id *devices, context_notice tell,
                                             void *user_data, cl_int *errcode)
{
    cl_int status = may_make();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    if (devices == NULL || count == 0)
        return no_object(errcode, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < count; i++)
        if (!is_granted(devices[i]))
            return no_object(errcode, CL_INVALID_DEVICE);
    return objects_adopt_context(
        driver->clCreateContext(properties, count, devices, tell, user_data, errcode));
}

static cl_context CL_API_CALL create_context_from_type(const cl_context_properties *properties,
                                                       cl_device_type type, context_notice tell,
                                                       void *user_data, cl_int *errcode)
{
    cl_platform_id wanted = NULL;
    cl_int status = may_make();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    for (const cl_context_properties *at = properties; at != NULL && at[0] != 0; at += 2)
        if (at[0] == CL_CONTEXT_PLATFORM)
            wanted = (cl_platform_id)at[1];
    /* The driver chooses among all its devices: choose before it does. */
    cl_device_id device = device_of_type(wanted, type);
    if (device == NULL)
        return no_object(errcode, CL_DEVICE_NOT_FOUND);
    return objects_adopt_context(
        driver->clCreateContext(properties, 1, &device, tell, user_data, errcode));
}

static cl_command_queue CL_API_CALL create_queue(cl_context context, cl_device_id device,
                                                 cl_command_queue_properties properties,
                                                 cl_int *errcode)
{
    cl_int status = may_make();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    return objects_adopt_queue(
        driver->clCreateCommandQueue(context, device, properties, errcode));
}

static cl_command_queue CL_API_CALL create_queue_with_properties(
    cl_context context, cl_device_id device, const cl_queue_properties *properties, cl_int *errcode)
{
    cl_int status = may_make();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    /* A queue on the device takes of its memory and can't be watched: nothing tells of its end. */
    for (const cl_queue_properties *at = properties; at != NULL && at[0] != 0; at += 2)
        if (at[0] == CL_QUEUE_PROPERTIES && (at[1] & CL_QUEUE_ON_DEVICE) != 0)
            return no_object(errcode, CL_INVALID_QUEUE_PROPERTIES);
    return objects_adopt_queue(
        driver->clCreateCommandQueueWithProperties(context, device, properties, errcode));
}

void install_contexts(cl_icd_dispatch *table)
{
    table->clCreateContext = create_context;
    table->clCreateContextFromType = create_context_from_type;
    table->clCreateCommandQueue = create_queue;
    table->clCreateCommandQueueWithProperties = create_queue_with_properties;
}
