#include "report.h"

#include <stdio.h>
#include <string.h>

cl_int report(size_t capacity, void *value, size_t *size)
{
    char text[1024];
    cl_platform_id platform;
    cl_device_id device;
    uint64_t used = 0;
    (void)granted_device(&platform, &device);
    (void)accounts_used(&used);
    const char *why = gate_reason();
    int length = snprintf(text, sizeof text,
                          "version=1\nquota_bytes=%llu\nused_bytes=%llu\nrefused=%s\n",
                          (unsigned long long)grant.quota_bytes, (unsigned long long)used,
                          why == NULL ? "" : why);
    if (length < 0 || (size_t)length >= sizeof text)
        return CL_OUT_OF_HOST_MEMORY;
    if (size != NULL)
        *size = (size_t)length + 1;
    if (value == NULL)
        return CL_SUCCESS;
    if (capacity < (size_t)length + 1)
        return CL_INVALID_VALUE;
    memcpy(value, text, (size_t)length + 1);
    return CL_SUCCESS;
}
