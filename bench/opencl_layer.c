/* What an OpenCL call costs, in nanoseconds: `opencl_layer ROUNDS`, one line a round: creating and
 * releasing a buffer, enqueueing, and the device's bytes, which tell whether a layer was in the way.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CREATIONS = 20000, BATCHES = 50, ENQUEUES = 200, BUFFER_BYTES = 4096 };

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void must(cl_int status, const char *what)
{
    if (status != CL_SUCCESS) {
        fprintf(stderr, "%s: OpenCL error %d\n", what, status);
        exit(1);
    }
}

static double creation_ns(cl_context context)
{
    double began = now_ns();
    for (int i = 0; i < CREATIONS; i++) {
        cl_int status;
        cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, BUFFER_BYTES, NULL, &status);
        must(status, "clCreateBuffer");
        clReleaseMemObject(buffer);
    }
    return (now_ns() - began) / CREATIONS;
}

/* Behind an event that waits, so that the device works on nothing while the calls are counted. */
static double enqueue_ns(cl_context context, cl_command_queue queue)
{
    double spent = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        cl_int status;
        cl_event gate = clCreateUserEvent(context, &status);
        must(status, "clCreateUserEvent");
        must(clEnqueueBarrierWithWaitList(queue, 1, &gate, NULL), "clEnqueueBarrierWithWaitList");
        double began = now_ns();
        for (int i = 0; i < ENQUEUES; i++)
            must(clEnqueueMarkerWithWaitList(queue, 0, NULL, NULL), "clEnqueueMarkerWithWaitList");
        spent += now_ns() - began;
        must(clSetUserEventStatus(gate, CL_COMPLETE), "clSetUserEventStatus");
        must(clFinish(queue), "clFinish");
        clReleaseEvent(gate);
    }
    return spent / (BATCHES * ENQUEUES);
}

int main(int count, char **arguments)
{
    cl_platform_id platform;
    cl_device_id device;
    cl_int status;
    must(clGetPlatformIDs(1, &platform, NULL), "clGetPlatformIDs");
    must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "clGetDeviceIDs");
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    must(status, "clCreateContext");
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &status);
    must(status, "clCreateCommandQueue");
    cl_ulong bytes;
    must(clGetDeviceInfo(device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof bytes, &bytes, NULL),
         "clGetDeviceInfo");
    creation_ns(context);
    for (int round = count > 1 ? atoi(arguments[1]) : 1; round > 0; round--)
        printf("%.1f %.1f %llu\n", creation_ns(context), enqueue_ns(context, queue),
               (unsigned long long)bytes);
    return 0;
}
