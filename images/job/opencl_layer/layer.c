/* Where an OpenCL loader takes the layer in (Khronos's extension cl_loader_layers). */
#include "layer.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define LAYER_NAME "cumulus"

enum { ENTRIES = sizeof(cl_icd_dispatch) / sizeof(void *) };

cl_icd_dispatch loader;

static cl_icd_dispatch own;
const cl_icd_dispatch *const layer = &own;
static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static bool ready;

EXPORTED cl_int CL_API_CALL clGetLayerInfo(cl_layer_info what, size_t capacity, void *value,
                                           size_t *size)
{
    static const cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    const void *answer;
    size_t length;
    switch (what) {
    case CL_LAYER_API_VERSION:
        answer = &version;
        length = sizeof version;
        break;
    case CL_LAYER_NAME:
        answer = LAYER_NAME;
        length = sizeof LAYER_NAME;
        break;
    default:
        return CL_INVALID_VALUE;
    }
    if (value != NULL) {
        if (capacity < length)
            return CL_INVALID_VALUE;
        memcpy(value, answer, length);
    }
    if (size != NULL)
        *size = length;
    return CL_SUCCESS;
}

/* What is below must stay as long as we do, whoever unloads the loader that brought it. */
static void pin(const void *function)
{
    Dl_info info;
    if (dladdr(function, &info) != 0 && info.dli_fname != NULL)
        (void)dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

static void take_in(cl_uint count, const cl_icd_dispatch *below)
{
    memcpy(&loader, below, (count < ENTRIES ? count : ENTRIES) * sizeof(void *));
    pin((void *)loader.clGetPlatformInfo);
    install_devices(&own);
    install_contexts(&own);
    install_memory(&own);
    install_svm(&own);
    install_enqueues(&own);
    install_extensions(&own);
    const char *why = grant_read();
    if (why != NULL)
        gate_close(why);
    ready = true;
}

/* Several loaders in one process, each with its drivers, all get the same table: objects know their
 * driver, whichever loader's functions they are handed to. */
EXPORTED cl_int CL_API_CALL clInitLayer(cl_uint count, const cl_icd_dispatch *below,
                                        cl_uint *own_count, const cl_icd_dispatch **own_table)
{
    if (below == NULL || own_count == NULL || own_table == NULL ||
        count <= offsetof(cl_icd_dispatch, clCreateImage) / sizeof(void *))
        return CL_INVALID_VALUE;
    /* Inert without a grant. A loader that has us in its chain already mustn't have us twice. */
    if (!grant_exists() ||
        (own.clGetPlatformIDs != NULL && below->clGetPlatformIDs == own.clGetPlatformIDs))
        return CL_INVALID_OPERATION;
    pthread_mutex_lock(&init_lock);
    if (!ready)
        take_in(count, below);
    pthread_mutex_unlock(&init_lock);
    *own_count = ENTRIES;
    *own_table = &own;
    return CL_SUCCESS;
}
