/* Preloaded, the layer answers for the variables by which OpenCL loaders find layers and drivers: they
 * are what the image says, whatever a process does to its environment. In a container without a grant
 * nothing of this acts. */
#include "layer.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

/* Loaders may write into what getenv gives them. */
static char layer_path[] = LAYER_PATH;

/* NULL: not set, so that the loader's own folder under /etc holds, which the job can't write. */
static const struct {
    const char *name;
    char *value;
} KEPT[] = {
    {"OPENCL_LAYERS", layer_path}, {"OPENCL_LAYER_PATH", NULL}, {"OPENCL_VENDOR_PATH", NULL},
    {"OCL_ICD_VENDORS", NULL},     {"OCL_ICD_FILENAMES", NULL},
};

enum { KEPT_COUNT = sizeof KEPT / sizeof *KEPT };

/* Asked by other libraries' constructors, before our own has run. */
static bool is_active(void)
{
    static _Atomic signed char known = -1;
    signed char active = atomic_load_explicit(&known, memory_order_relaxed);
    if (active < 0) {
        active = grant_exists();
        atomic_store_explicit(&known, active, memory_order_relaxed);
    }
    return active != 0;
}

/* Which of KEPT begins `text`, up to its end or `=`; -1: none. */
static int kept(const char *text)
{
    if (text[0] != 'O' || !is_active())
        return -1;
    for (int i = 0; i < KEPT_COUNT; i++) {
        size_t length = strlen(KEPT[i].name);
        if (strncmp(text, KEPT[i].name, length) == 0 &&
            (text[length] == '\0' || text[length] == '='))
            return i;
    }
    return -1;
}

static char *find(const char *name)
{
    size_t length = strlen(name);
    for (char **at = environ; at != NULL && *at != NULL; at++)
        if (strncmp(*at, name, length) == 0 && (*at)[length] == '=')
            return *at + length + 1;
    return NULL;
}

EXPORTED char *getenv(const char *name)
{
    int which = kept(name);
    return which < 0 ? find(name) : KEPT[which].value;
}

EXPORTED char *secure_getenv(const char *name)
{
    return getauxval(AT_SECURE) != 0 ? NULL : getenv(name);
}

/* --- what changes the environment: it has no effect on these ------------------------------------- */

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

EXPORTED int setenv(const char *name, const char *value, int overwrite)
{
    return name != NULL && kept(name) >= 0 ? 0 : REAL(setenv)(name, value, overwrite);
}

EXPORTED int unsetenv(const char *name)
{
    return kept(name) >= 0 ? 0 : REAL(unsetenv)(name);
}

EXPORTED int putenv(char *text)
{
    return kept(text) >= 0 ? 0 : REAL(putenv)(text);
}

/* What a process was started with, set right: children of it and loaders that don't ask us read it. */
static void mend(void)
{
    for (int i = 0; i < KEPT_COUNT; i++) {
        const char *found = find(KEPT[i].name);
        if (KEPT[i].value == NULL) {
            if (found != NULL)
                REAL(unsetenv)(KEPT[i].name);
        } else if (found == NULL || strcmp(found, KEPT[i].value) != 0) {
            REAL(setenv)(KEPT[i].name, KEPT[i].value, 1);
        }
    }
}

EXPORTED int clearenv(void)
{
    int status = REAL(clearenv)();
    if (is_active())
        mend();
    return status;
}

__attribute__((constructor)) static void at_start(void)
{
    int before = errno;
    if (is_active())
        mend();
    errno = before;
}
