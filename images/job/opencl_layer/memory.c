/* Buffers, images and pipes: charged before the driver makes them, given back when it deletes them. */
#include "layer.h"

#include <stdlib.h>

/* What an object was charged. */
struct charge {
    uint64_t bytes;
    uint32_t generation;
};

static void CL_CALLBACK give_back(cl_mem memory, void *data)
{
    struct charge *charge = data;
    (void)memory;
    if (charge->generation == accounts_generation())
        accounts_return(charge->bytes);
    free(charge);
}

/* Refuses an object that was made already; nothing of it stays. */
static cl_mem unmake(cl_mem memory, uint64_t charged, cl_int *errcode, cl_int why)
{
    driver->clReleaseMemObject(memory);
    accounts_return(charged);
    return no_object(errcode, why);
}

/* Takes the driver's answer for an object that was charged `bytes`. `measured`: the driver may take
 * more or less than was thought, and says how much. */
static cl_mem settle(cl_mem memory, uint64_t bytes, bool measured, cl_int status, cl_int *errcode)
{
    if (memory == NULL) {
        accounts_return(bytes);
        return no_object(errcode, status);
    }
    size_t size = 0;
    if (measured && driver->clGetMemObjectInfo(memory, CL_MEM_SIZE, sizeof size, &size, NULL) ==
                        CL_SUCCESS) {
        if (size > bytes) {
            cl_int refused = accounts_charge(size - bytes);
            if (refused != CL_SUCCESS)
                return unmake(memory, bytes, errcode, refused);
        } else if (size != 0) {
            accounts_return(bytes - size);
        }
        bytes = size != 0 ? size : bytes;
    }
    struct charge *charge = malloc(sizeof *charge);
    if (charge == NULL)
        return unmake(memory, bytes, errcode, CL_OUT_OF_HOST_MEMORY);
    *charge = (struct charge){bytes, accounts_generation()};
    status = driver->clSetMemObjectDestructorCallback(memory, give_back, charge);
    if (status != CL_SUCCESS) {
        free(charge);
        return unmake(memory, bytes, errcode, CL_OUT_OF_HOST_MEMORY);
    }
    if (errcode != NULL)
        *errcode = CL_SUCCESS;
    return memory;
}

/* --- buffers ------------------------------------------------------------------------------------ */

static cl_mem CL_API_CALL create_buffer(cl_context context, cl_mem_flags flags, size_t size,
                                        void *host, cl_int *errcode)
{
    cl_int status = accounts_charge(size);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory = driver->clCreateBuffer(context, flags, size, host, &status);
    return settle(memory, size, false, status, errcode);
}

static cl_mem CL_API_CALL create_buffer_with_properties(cl_context context,
                                                        const cl_mem_properties *properties,
                                                        cl_mem_flags flags, size_t size, void *host,
                                                        cl_int *errcode)
{
    cl_int status = accounts_charge(size);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory =
        driver->clCreateBufferWithProperties(context, properties, flags, size, host, &status);
    return settle(memory, size, false, status, errcode);
}

/* A part of a buffer, which it keeps alive: charged with the whole. */
static cl_mem CL_API_CALL create_sub_buffer(cl_mem buffer, cl_mem_flags flags,
                                            cl_buffer_create_type type, const void *info,
                                            cl_int *errcode)
{
    cl_int status = gate();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    return driver->clCreateSubBuffer(buffer, flags, type, info, errcode);
}

/* --- images ------------------------------------------------------------------------------------- */

/* Charges such an image. `backed`: it is another view of memory that was charged with its owner.
 * CL_SUCCESS also when the driver has to say what is wrong with it. */
static cl_int charge_image(const cl_image_format *format, const cl_image_desc *desc, uint64_t *bytes,
                           bool *backed)
{
    *bytes = 0;
    *backed = desc != NULL && desc->mem_object != NULL;
    if (format != NULL && desc != NULL && !*backed && !image_bytes(format, desc, bytes))
        return CL_IMAGE_FORMAT_NOT_SUPPORTED;
    return accounts_charge(*bytes);
}

static cl_mem CL_API_CALL create_image(cl_context context, cl_mem_flags flags,
                                       const cl_image_format *format, const cl_image_desc *desc,
                                       void *host, cl_int *errcode)
{
    uint64_t bytes;
    bool backed;
    cl_int status = charge_image(format, desc, &bytes, &backed);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory = driver->clCreateImage(context, flags, format, desc, host, &status);
    return settle(memory, bytes, !backed, status, errcode);
}

static cl_mem CL_API_CALL create_image_with_properties(cl_context context,
                                                       const cl_mem_properties *properties,
                                                       cl_mem_flags flags,
                                                       const cl_image_format *format,
                                                       const cl_image_desc *desc, void *host,
                                                       cl_int *errcode)
{
    uint64_t bytes;
    bool backed;
    cl_int status = charge_image(format, desc, &bytes, &backed);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory =
        driver->clCreateImageWithProperties(context, properties, flags, format, desc, host, &status);
    return settle(memory, bytes, !backed, status, errcode);
}

static cl_mem CL_API_CALL create_image_2d(cl_context context, cl_mem_flags flags,
                                          const cl_image_format *format, size_t width,
                                          size_t height, size_t row_pitch, void *host,
                                          cl_int *errcode)
{
    cl_image_desc desc = {
        .image_type = CL_MEM_OBJECT_IMAGE2D, .image_width = width, .image_height = height};
    uint64_t bytes;
    bool backed;
    cl_int status = charge_image(format, &desc, &bytes, &backed);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory =
        driver->clCreateImage2D(context, flags, format, width, height, row_pitch, host, &status);
    return settle(memory, bytes, true, status, errcode);
}

static cl_mem CL_API_CALL create_image_3d(cl_context context, cl_mem_flags flags,
                                          const cl_image_format *format, size_t width,
                                          size_t height, size_t depth, size_t row_pitch,
                                          size_t slice_pitch, void *host, cl_int *errcode)
{
    cl_image_desc desc = {.image_type = CL_MEM_OBJECT_IMAGE3D,
                          .image_width = width,
                          .image_height = height,
                          .image_depth = depth};
    uint64_t bytes;
    bool backed;
    cl_int status = charge_image(format, &desc, &bytes, &backed);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory = driver->clCreateImage3D(context, flags, format, width, height, depth, row_pitch,
                                           slice_pitch, host, &status);
    return settle(memory, bytes, true, status, errcode);
}

/* --- pipes -------------------------------------------------------------------------------------- */

static cl_mem CL_API_CALL create_pipe(cl_context context, cl_mem_flags flags, cl_uint packet_bytes,
                                      cl_uint packets, const cl_pipe_properties *properties,
                                      cl_int *errcode)
{
    uint64_t bytes = (uint64_t)packet_bytes * packets;
    cl_int status = accounts_charge(bytes);
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    cl_mem memory = driver->clCreatePipe(context, flags, packet_bytes, packets, properties, &status);
    return settle(memory, bytes, true, status, errcode);
}

void install_memory(cl_icd_dispatch *table)
{
    table->clCreateBuffer = create_buffer;
    table->clCreateBufferWithProperties = create_buffer_with_properties;
    table->clCreateSubBuffer = create_sub_buffer;
    table->clCreateImage = create_image;
    table->clCreateImageWithProperties = create_image_with_properties;
    table->clCreateImage2D = create_image_2d;
    table->clCreateImage3D = create_image_3d;
    table->clCreatePipe = create_pipe;
}
