/* An OpenCL driver that hangs for ever or takes its process down, as the file named by BAD_ICD says:
 * "hang", "crash", or anything else: it shows no platform. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CL_PLATFORM_NOT_FOUND_KHR (-1001)

static int platforms(unsigned entries, void **found, unsigned *count) {
    char order[16] = "";
    const char *path = getenv("BAD_ICD");
    FILE *file = path ? fopen(path, "r") : NULL;
    (void)entries;
    (void)found;
    if (file) {
        if (!fgets(order, sizeof order, file))
            order[0] = 0;
        fclose(file);
    }
    if (strncmp(order, "hang", 4) == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        for (;;)
            pause();
    }
    if (strncmp(order, "crash", 5) == 0) {
        fprintf(stderr, "bad_icd: the driver is broken\n");
        abort();
    }
    if (count)
        *count = 0;
    return CL_PLATFORM_NOT_FOUND_KHR;
}

/* What loaders ask a driver for. */
int clIcdGetPlatformIDsKHR(unsigned entries, void **found, unsigned *count) {
    return platforms(entries, found, count);
}

int clGetPlatformIDs(unsigned entries, void **found, unsigned *count) {
    return platforms(entries, found, count);
}

int clGetPlatformInfo(void *platform, unsigned what, size_t size, void *value, size_t *written) {
    (void)platform, (void)what, (void)size, (void)value, (void)written;
    return -30;
}

void *clGetExtensionFunctionAddress(const char *name) {
    if (strcmp(name, "clIcdGetPlatformIDsKHR") == 0)
        return (void *)clIcdGetPlatformIDsKHR;
    if (strcmp(name, "clGetPlatformInfo") == 0)
        return (void *)clGetPlatformInfo;
    return NULL;
}
