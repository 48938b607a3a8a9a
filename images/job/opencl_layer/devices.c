/* Which device the job has, and what it is told of it: no other device, no more memory than its share.
 */
#include "layer.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "report.h"

enum {
    MAX_PLATFORMS = 64,
    MAX_DEVICES = 256,
    MAX_NESTING = 16,
    /* Of extensions whose headers aren't everywhere. */
    DEVICE_UUID_KHR = 0x106A,
    DEVICE_PCI_BUS_INFO_KHR = 0x410F,
    DEVICE_PCI_BUS_ID_NV = 0x4008,
    DEVICE_PCI_SLOT_ID_NV = 0x4009,
    DEVICE_PCI_DOMAIN_ID_NV = 0x400A,
    DEVICE_GLOBAL_FREE_MEMORY_AMD = 0x4039,
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static cl_platform_id granted_platform_id;
static cl_device_id granted_device_id;

/* --- which one it is --------------------------------------------------------------------------- */

static bool number(cl_device_id device, cl_device_info what, cl_uint *value)
{
    return driver->clGetDeviceInfo(device, what, sizeof *value, value, NULL) == CL_SUCCESS;
}

static bool has_uuid(cl_device_id device)
{
    unsigned char uuid[16];
    size_t size = 0;
    return driver->clGetDeviceInfo(device, DEVICE_UUID_KHR, sizeof uuid, uuid, &size) == CL_SUCCESS &&
           size == sizeof uuid && memcmp(uuid, grant.device_uuid, sizeof uuid) == 0;
}

static bool has_pci(cl_device_id device)
{
    cl_uint place[4]; /* domain, bus, device, function */
    size_t size = 0;
    if (driver->clGetDeviceInfo(device, DEVICE_PCI_BUS_INFO_KHR, sizeof place, place, &size) !=
            CL_SUCCESS ||
        size != sizeof place) {
        cl_uint slot;
        if (!number(device, DEVICE_PCI_DOMAIN_ID_NV, &place[0]) ||
            !number(device, DEVICE_PCI_BUS_ID_NV, &place[1]) ||
            !number(device, DEVICE_PCI_SLOT_ID_NV, &slot))
            return false;
        place[2] = slot >> 3;
        place[3] = slot & 7;
    }
    char text[64];
    snprintf(text, sizeof text, "%04x:%02x:%02x.%x", place[0], place[1], place[2], place[3]);
    return strcasecmp(text, grant.device_pci) == 0;
}

/* As the agent writes names down: without spaces at either end. */
static bool is_called(const char *found, const char *wanted)
{
    found += strspn(found, " ");
    size_t length = strlen(found);
    while (length > 0 && found[length - 1] == ' ')
        length--;
    return length == strlen(wanted) && memcmp(found, wanted, length) == 0;
}

static bool has_name(cl_platform_id platform, cl_device_id device)
{
    char name[GRANT_TEXT_BYTES * 2] = "";
    return driver->clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof name - 1, name, NULL) ==
               CL_SUCCESS &&
           is_called(name, grant.device_platform) &&
           driver->clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name - 1, name, NULL) ==
               CL_SUCCESS &&
           is_called(name, grant.device_name);
}

static bool matches(cl_platform_id platform, cl_device_id device, cl_uint *alike)
{
    switch (grant.identity) {
    case BY_UUID:
        return has_uuid(device);
    case BY_PCI:
        return has_pci(device);
    default:
        return has_name(platform, device) && (*alike)++ == grant.device_ordinal;
    }
}

static void find(void)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_device_id devices[MAX_DEVICES];
    cl_uint platform_count = 0, alike = 0;
    if (driver->clGetPlatformIDs(MAX_PLATFORMS, platforms, &platform_count) != CL_SUCCESS)
        return;
    for (cl_uint p = 0; p < platform_count && p < MAX_PLATFORMS; p++) {
        cl_uint device_count = 0;
        if (driver->clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, devices,
                                  &device_count) != CL_SUCCESS)
            continue;
        for (cl_uint d = 0; d < device_count && d < MAX_DEVICES; d++)
            if (matches(platforms[p], devices[d], &alike)) {
                granted_platform_id = platforms[p];
                granted_device_id = devices[d];
                objects_use_driver(devices[d]);
                return;
            }
    }
}

cl_int granted_device(cl_platform_id *platform, cl_device_id *device)
{
    /* Not expiry: what is there may still be looked at. */
    if (gate_is_closed())
        return CL_DEVICE_NOT_FOUND;
    pthread_once(&once, find);
    if (granted_device_id == NULL) {
        gate_close("no OpenCL driver in this container shows the granted device");
        return CL_DEVICE_NOT_FOUND;
    }
    *platform = granted_platform_id;
    *device = granted_device_id;
    return CL_SUCCESS;
}

bool is_granted(cl_device_id device)
{
    cl_platform_id platform;
    cl_device_id granted;
    if (granted_device(&platform, &granted) != CL_SUCCESS)
        return false;
    for (int depth = 0; device != NULL && depth < MAX_NESTING; depth++) {
        if (device == granted)
            return true;
        /* Each begins with its driver's table (cl_khr_icd): another driver's we mustn't ask ours. */
        if (*(void **)device != *(void **)granted)
            return false;
        cl_device_id parent = NULL;
        if (driver->clGetDeviceInfo(device, CL_DEVICE_PARENT_DEVICE, sizeof parent, &parent, NULL) !=
            CL_SUCCESS)
            return false;
        device = parent;
    }
    return false;
}

/* --- what the job sees ------------------------------------------------------------------------- */

static cl_int CL_API_CALL get_platform_ids(cl_uint capacity, cl_platform_id *platforms,
                                           cl_uint *count)
{
    if ((platforms == NULL && count == NULL) || (capacity == 0 && platforms != NULL))
        return CL_INVALID_VALUE;
    cl_platform_id platform;
    cl_device_id device;
    bool found = granted_device(&platform, &device) == CL_SUCCESS;
    if (count != NULL)
        *count = found ? 1 : 0;
    if (!found)
        return CL_PLATFORM_NOT_FOUND_KHR;
    if (platforms != NULL)
        platforms[0] = platform;
    return CL_SUCCESS;
}

static cl_int CL_API_CALL get_platform_info(cl_platform_id platform, cl_platform_info what,
                                            size_t capacity, void *value, size_t *size)
{
    if (what == CUMULUS_REPORT)
        return report(capacity, value, size);
    cl_platform_id own;
    cl_device_id device;
    if (granted_device(&own, &device) != CL_SUCCESS || platform != own)
        return CL_INVALID_PLATFORM;
    return driver->clGetPlatformInfo(platform, what, capacity, value, size);
}

cl_device_id device_of_type(cl_platform_id platform, cl_device_type type)
{
    cl_platform_id own;
    cl_device_id device;
    cl_device_type types = 0;
    if (granted_device(&own, &device) != CL_SUCCESS || (platform != NULL && platform != own))
        return NULL;
    /* To the job, the only one is the default. */
    if (type == CL_DEVICE_TYPE_ALL || (type & CL_DEVICE_TYPE_DEFAULT) != 0)
        return device;
    if (driver->clGetDeviceInfo(device, CL_DEVICE_TYPE, sizeof types, &types, NULL) != CL_SUCCESS)
        return NULL;
    return (types & type & ~(cl_device_type)CL_DEVICE_TYPE_DEFAULT) != 0 ? device : NULL;
}

static cl_int CL_API_CALL get_device_ids(cl_platform_id platform, cl_device_type type,
                                         cl_uint capacity, cl_device_id *devices, cl_uint *count)
{
    if ((devices == NULL && count == NULL) || (capacity == 0 && devices != NULL))
        return CL_INVALID_VALUE;
    cl_device_id device = device_of_type(platform, type);
    if (count != NULL)
        *count = device == NULL ? 0 : 1;
    if (device == NULL)
        return CL_DEVICE_NOT_FOUND;
    if (devices != NULL)
        devices[0] = device;
    return CL_SUCCESS;
}

static void at_most(uint64_t *value, uint64_t bound)
{
    if (*value > bound)
        *value = bound;
}

static cl_int CL_API_CALL get_device_info(cl_device_id device, cl_device_info what, size_t capacity,
                                          void *value, size_t *size)
{
    if (!is_granted(device))
        return CL_INVALID_DEVICE;
    cl_int status = driver->clGetDeviceInfo(device, what, capacity, value, size);
    if (status != CL_SUCCESS || value == NULL || capacity < sizeof(uint64_t))
        return status;
    uint64_t used;
    switch (what) {
    case CL_DEVICE_GLOBAL_MEM_SIZE:
    case CL_DEVICE_MAX_MEM_ALLOC_SIZE:
        at_most(value, grant.quota_bytes);
        break;
    case DEVICE_GLOBAL_FREE_MEMORY_AMD: /* KiB */
        if (!accounts_used(&used) || used > grant.quota_bytes)
            used = grant.quota_bytes;
        at_most(value, (grant.quota_bytes - used) >> 10);
        break;
    default:
        break;
    }
    return status;
}

static cl_int CL_API_CALL create_sub_devices(cl_device_id device,
                                             const cl_device_partition_property *properties,
                                             cl_uint capacity, cl_device_id *devices, cl_uint *count)
{
    if (!is_granted(device))
        return CL_INVALID_DEVICE;
    return driver->clCreateSubDevices(device, properties, capacity, devices, count);
}

static cl_int CL_API_CALL create_sub_devices_ext(cl_device_id device,
                                                 const cl_device_partition_property_ext *properties,
                                                 cl_uint capacity, cl_device_id *devices,
                                                 cl_uint *count)
{
    if (!is_granted(device))
        return CL_INVALID_DEVICE;
    return driver->clCreateSubDevicesEXT(device, properties, capacity, devices, count);
}

void install_devices(cl_icd_dispatch *table)
{
    table->clGetPlatformIDs = get_platform_ids;
    table->clGetPlatformInfo = get_platform_info;
    table->clGetDeviceIDs = get_device_ids;
    table->clGetDeviceInfo = get_device_info;
    table->clCreateSubDevices = create_sub_devices;
    table->clCreateSubDevicesEXT = create_sub_devices_ext;
}
