/* Past an idle loader. A process may have several OpenCL loaders (pyopencl's wheel brings one, a library
 * is linked with the system's), and handles of one are handed to the other. A loader that nobody asked
 * for its platforms has no layers yet: it calls what stands in the table that each object begins with
 * (cl_khr_icd), the driver's. So contexts and queues begin with a table of ours instead, and we call the
 * driver ourselves. */
#include "layer.h"

#include <stdint.h>

/* ICD 2.0: such a table holds no functions, the loader keeps them elsewhere. */
#define ICD2_TAG ((intptr_t)INT64_C(0x4F50454E434C3331))

enum { ENTRIES = sizeof(cl_icd_dispatch) / sizeof(void *) };

const cl_icd_dispatch *driver = &loader;

/* The driver's, but for what the layer does. */
static cl_icd_dispatch table;
static bool complete;

/* What each object begins with. */
static const cl_icd_dispatch **table_of(void *object)
{
    return object;
}

void objects_use_driver(cl_device_id device)
{
    const cl_icd_dispatch *drivers = *table_of(device);
    /* Tables of older standards are shorter: what follows them must at least be there to be read. */
    if ((intptr_t)drivers->clGetPlatformIDs == ICD2_TAG || !is_there(&drivers->clGetPlatformIDs) ||
        !is_there(&drivers->clSetContextDestructorCallback))
        return;
    driver = drivers;
    for (size_t entry = 0; entry < ENTRIES; entry++) {
        void *ours = ((void *const *)layer)[entry];
        ((void **)&table)[entry] = ours != NULL ? ours : ((void *const *)drivers)[entry];
    }
    complete = true;
}

cl_context objects_adopt_context(cl_context context)
{
    if (context == NULL || !complete)
        return context;
    *table_of(context) = &table;
    /* A driver that knows its objects by their table has it back. */
    cl_mem buffer = driver->clCreateBuffer(context, CL_MEM_READ_WRITE, 1, NULL, NULL);
    if (buffer != NULL)
        driver->clReleaseMemObject(buffer);
    else
        *table_of(context) = driver;
    return context;
}

cl_command_queue objects_adopt_queue(cl_command_queue queue)
{
    if (queue == NULL || !complete)
        return queue;
    *table_of(queue) = &table;
    if (driver->clFlush(queue) != CL_SUCCESS)
        *table_of(queue) = driver;
    return queue;
}
