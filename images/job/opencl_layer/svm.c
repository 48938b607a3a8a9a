/* Shared virtual memory: pointers, not objects; no callback tells of their end, so that each is kept
 * in a table until it is freed. */
#include "layer.h"

#include <pthread.h>
#include <stdlib.h>

enum { BUCKETS = 1024 };

struct allocation {
    struct allocation *next;
    void *pointer;
    uint64_t bytes;
    uint32_t generation;
};

static struct allocation *buckets[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

void svm_before_fork(void)
{
    pthread_mutex_lock(&table_lock);
}

void svm_after_fork(void)
{
    pthread_mutex_unlock(&table_lock);
}

static struct allocation **bucket_of(const void *pointer)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)pointer >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    return &buckets[(mixed >> 40) % BUCKETS];
}

static void remember(struct allocation *allocation)
{
    struct allocation **bucket = bucket_of(allocation->pointer);
    pthread_mutex_lock(&table_lock);
    allocation->next = *bucket;
    *bucket = allocation;
    pthread_mutex_unlock(&table_lock);
}

/* Takes it out of the table; NULL: it is none of ours. */
static struct allocation *forget(const void *pointer)
{
    struct allocation *found = NULL;
    pthread_mutex_lock(&table_lock);
    for (struct allocation **at = bucket_of(pointer); *at != NULL; at = &(*at)->next)
        if ((*at)->pointer == pointer) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&table_lock);
    return found;
}

static void free_and_return(cl_context context, void *pointer)
{
    /* First out of the table: once it is free, another thread may get the same pointer. */
    struct allocation *allocation = forget(pointer);
    driver->clSVMFree(context, pointer);
    if (allocation == NULL)
        return;
    if (allocation->generation == accounts_generation())
        accounts_return(allocation->bytes);
    free(allocation);
}

static void *CL_API_CALL svm_alloc(cl_context context, cl_svm_mem_flags flags, size_t size,
                                   cl_uint alignment)
{
    if (accounts_charge(size) != CL_SUCCESS)
        return NULL;
    struct allocation *allocation = malloc(sizeof *allocation);
    void *pointer =
        allocation == NULL ? NULL : driver->clSVMAlloc(context, flags, size, alignment);
    if (pointer == NULL) {
        free(allocation);
        accounts_return(size);
        return NULL;
    }
    *allocation = (struct allocation){
        .pointer = pointer,
        .bytes = size,
        .generation = accounts_generation(),
    };
    remember(allocation);
    return pointer;
}

static void CL_API_CALL svm_free(cl_context context, void *pointer)
{
    free_and_return(context, pointer);
}

/* Called by the driver when the queue has come to it. */
static void CL_CALLBACK free_queued(cl_command_queue queue, cl_uint count, void *pointers[],
                                    void *data)
{
    cl_context context = NULL;
    (void)data;
    if (driver->clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL) !=
        CL_SUCCESS)
        return; /* they stay, and stay charged */
    for (cl_uint i = 0; i < count; i++)
        free_and_return(context, pointers[i]);
}

typedef void(CL_CALLBACK *free_function)(cl_command_queue, cl_uint, void *[], void *);

/* Also after the expiry: it only gives back. A function of the job's own calls clSVMFree. */
static cl_int CL_API_CALL enqueue_svm_free(cl_command_queue queue, cl_uint count, void *pointers[],
                                           free_function function, void *data, cl_uint waits,
                                           const cl_event *wait_list, cl_event *event)
{
    return driver->clEnqueueSVMFree(queue, count, pointers,
                                   function == NULL ? free_queued : function, data, waits,
                                   wait_list, event);
}

void install_svm(cl_icd_dispatch *table)
{
    table->clSVMAlloc = svm_alloc;
    table->clSVMFree = svm_free;
    table->clEnqueueSVMFree = enqueue_svm_free;
}
