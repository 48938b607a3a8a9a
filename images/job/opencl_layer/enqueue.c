/* Enqueues: none after the expiry, except those that only give something back (unmapping, freeing). */
#include "layer.h"

#define WAITS cl_uint waits, const cl_event *wait_list, cl_event *event
#define THE_WAITS waits, wait_list, event

/* clEnqueue<name>, behind the gate. */
#define GATED(name, parameters, arguments)                                                         \
    static cl_int CL_API_CALL enqueue_##name parameters                                            \
    {                                                                                              \
        cl_int status = gate();                                                                    \
        return status == CL_SUCCESS ? driver->clEnqueue##name arguments : status;                   \
    }

GATED(ReadBuffer,
      (cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset, size_t size, void *to,
       WAITS),
      (queue, buffer, blocking, offset, size, to, THE_WAITS))
GATED(WriteBuffer,
      (cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset, size_t size,
       const void *from, WAITS),
      (queue, buffer, blocking, offset, size, from, THE_WAITS))
GATED(ReadBufferRect,
      (cl_command_queue queue, cl_mem buffer, cl_bool blocking, const size_t *origin,
       const size_t *host_origin, const size_t *region, size_t row, size_t slice, size_t host_row,
       size_t host_slice, void *to, WAITS),
      (queue, buffer, blocking, origin, host_origin, region, row, slice, host_row, host_slice, to,
       THE_WAITS))
GATED(WriteBufferRect,
      (cl_command_queue queue, cl_mem buffer, cl_bool blocking, const size_t *origin,
       const size_t *host_origin, const size_t *region, size_t row, size_t slice, size_t host_row,
       size_t host_slice, const void *from, WAITS),
      (queue, buffer, blocking, origin, host_origin, region, row, slice, host_row, host_slice, from,
       THE_WAITS))
GATED(CopyBuffer,
      (cl_command_queue queue, cl_mem from, cl_mem to, size_t from_offset, size_t to_offset,
       size_t size, WAITS),
      (queue, from, to, from_offset, to_offset, size, THE_WAITS))
GATED(CopyBufferRect,
      (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin,
       const size_t *to_origin, const size_t *region, size_t from_row, size_t from_slice,
       size_t to_row, size_t to_slice, WAITS),
      (queue, from, to, from_origin, to_origin, region, from_row, from_slice, to_row, to_slice,
       THE_WAITS))
GATED(FillBuffer,
      (cl_command_queue queue, cl_mem buffer, const void *pattern, size_t pattern_size,
       size_t offset, size_t size, WAITS),
      (queue, buffer, pattern, pattern_size, offset, size, THE_WAITS))
GATED(ReadImage,
      (cl_command_queue queue, cl_mem image, cl_bool blocking, const size_t *origin,
       const size_t *region, size_t row, size_t slice, void *to, WAITS),
      (queue, image, blocking, origin, region, row, slice, to, THE_WAITS))
GATED(WriteImage,
      (cl_command_queue queue, cl_mem image, cl_bool blocking, const size_t *origin,
       const size_t *region, size_t row, size_t slice, const void *from, WAITS),
      (queue, image, blocking, origin, region, row, slice, from, THE_WAITS))
GATED(CopyImage,
      (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin,
       const size_t *to_origin, const size_t *region, WAITS),
      (queue, from, to, from_origin, to_origin, region, THE_WAITS))
GATED(FillImage,
      (cl_command_queue queue, cl_mem image, const void *colour, const size_t *origin,
       const size_t *region, WAITS),
      (queue, image, colour, origin, region, THE_WAITS))
GATED(CopyImageToBuffer,
      (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *origin, const size_t *region,
       size_t offset, WAITS),
      (queue, from, to, origin, region, offset, THE_WAITS))
GATED(CopyBufferToImage,
      (cl_command_queue queue, cl_mem from, cl_mem to, size_t offset, const size_t *origin,
       const size_t *region, WAITS),
      (queue, from, to, offset, origin, region, THE_WAITS))
GATED(MigrateMemObjects,
      (cl_command_queue queue, cl_uint count, const cl_mem *objects, cl_mem_migration_flags flags,
       WAITS),
      (queue, count, objects, flags, THE_WAITS))
GATED(NDRangeKernel,
      (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset,
       const size_t *global, const size_t *local, WAITS),
      (queue, kernel, dimensions, offset, global, local, THE_WAITS))
GATED(Task, (cl_command_queue queue, cl_kernel kernel, WAITS), (queue, kernel, THE_WAITS))
GATED(NativeKernel,
      (cl_command_queue queue, void(CL_CALLBACK *function)(void *), void *arguments, size_t size,
       cl_uint count, const cl_mem *objects, const void **places, WAITS),
      (queue, function, arguments, size, count, objects, places, THE_WAITS))
GATED(MarkerWithWaitList, (cl_command_queue queue, WAITS), (queue, THE_WAITS))
GATED(BarrierWithWaitList, (cl_command_queue queue, WAITS), (queue, THE_WAITS))
GATED(Marker, (cl_command_queue queue, cl_event *event), (queue, event))
GATED(WaitForEvents, (cl_command_queue queue, cl_uint count, const cl_event *events),
      (queue, count, events))
GATED(Barrier, (cl_command_queue queue), (queue))
GATED(SVMMemcpy,
      (cl_command_queue queue, cl_bool blocking, void *to, const void *from, size_t size, WAITS),
      (queue, blocking, to, from, size, THE_WAITS))
GATED(SVMMemFill,
      (cl_command_queue queue, void *to, const void *pattern, size_t pattern_size, size_t size,
       WAITS),
      (queue, to, pattern, pattern_size, size, THE_WAITS))
GATED(SVMMap,
      (cl_command_queue queue, cl_bool blocking, cl_map_flags flags, void *pointer, size_t size,
       WAITS),
      (queue, blocking, flags, pointer, size, THE_WAITS))
GATED(SVMMigrateMem,
      (cl_command_queue queue, cl_uint count, const void **pointers, const size_t *sizes,
       cl_mem_migration_flags flags, WAITS),
      (queue, count, pointers, sizes, flags, THE_WAITS))

static void *CL_API_CALL enqueue_map_buffer(cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                                            cl_map_flags flags, size_t offset, size_t size, WAITS,
                                            cl_int *errcode)
{
    cl_int status = gate();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    return driver->clEnqueueMapBuffer(queue, buffer, blocking, flags, offset, size, THE_WAITS,
                                     errcode);
}

static void *CL_API_CALL enqueue_map_image(cl_command_queue queue, cl_mem image, cl_bool blocking,
                                           cl_map_flags flags, const size_t *origin,
                                           const size_t *region, size_t *row, size_t *slice, WAITS,
                                           cl_int *errcode)
{
    cl_int status = gate();
    if (status != CL_SUCCESS)
        return no_object(errcode, status);
    return driver->clEnqueueMapImage(queue, image, blocking, flags, origin, region, row, slice,
                                    THE_WAITS, errcode);
}

void install_enqueues(cl_icd_dispatch *table)
{
    table->clEnqueueReadBuffer = enqueue_ReadBuffer;
    table->clEnqueueWriteBuffer = enqueue_WriteBuffer;
    table->clEnqueueReadBufferRect = enqueue_ReadBufferRect;
    table->clEnqueueWriteBufferRect = enqueue_WriteBufferRect;
    table->clEnqueueCopyBuffer = enqueue_CopyBuffer;
    table->clEnqueueCopyBufferRect = enqueue_CopyBufferRect;
    table->clEnqueueFillBuffer = enqueue_FillBuffer;
    table->clEnqueueReadImage = enqueue_ReadImage;
    table->clEnqueueWriteImage = enqueue_WriteImage;
    table->clEnqueueCopyImage = enqueue_CopyImage;
    table->clEnqueueFillImage = enqueue_FillImage;
    table->clEnqueueCopyImageToBuffer = enqueue_CopyImageToBuffer;
    table->clEnqueueCopyBufferToImage = enqueue_CopyBufferToImage;
    table->clEnqueueMapBuffer = enqueue_map_buffer;
    table->clEnqueueMapImage = enqueue_map_image;
    table->clEnqueueMigrateMemObjects = enqueue_MigrateMemObjects;
    table->clEnqueueNDRangeKernel = enqueue_NDRangeKernel;
    table->clEnqueueTask = enqueue_Task;
    table->clEnqueueNativeKernel = enqueue_NativeKernel;
    table->clEnqueueMarkerWithWaitList = enqueue_MarkerWithWaitList;
    table->clEnqueueBarrierWithWaitList = enqueue_BarrierWithWaitList;
    table->clEnqueueMarker = enqueue_Marker;
    table->clEnqueueWaitForEvents = enqueue_WaitForEvents;
    table->clEnqueueBarrier = enqueue_Barrier;
    table->clEnqueueSVMMemcpy = enqueue_SVMMemcpy;
    table->clEnqueueSVMMemFill = enqueue_SVMMemFill;
    table->clEnqueueSVMMap = enqueue_SVMMap;
    table->clEnqueueSVMMigrateMem = enqueue_SVMMigrateMem;
}
