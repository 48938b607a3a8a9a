/* The gate that every creation and every enqueue passes: open until the grant expires, closed for
 * good when grant or accounts turn out to be damaged. */
#include "layer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Atomic(const char *) closed_why;
static atomic_bool told[NOTICE_KINDS];

static const char EXPIRED[] = "the time of this job's share is over";

void notice(enum notice kind, const char *format, ...)
{
    if (atomic_exchange(&told[kind], true))
        return;
    char line[512];
    int before = errno;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > 0) {
        size_t size = (size_t)length < sizeof line - 1 ? (size_t)length : sizeof line - 2;
        line[size++] = '\n';
        /* Where stderr is closed or full there is nobody to tell. */
        ssize_t written = write(STDERR_FILENO, line, size);
        (void)written;
    }
    errno = before;
}

void gate_close(const char *why)
{
    const char *open = NULL;
    if (atomic_compare_exchange_strong(&closed_why, &open, why))
        notice(NOTICE_CLOSED,
               "cumulus: this job's share of the device can't be enforced, so OpenCL is refused: %s",
               why);
}

/* The kernel looks for us and says EFAULT, where our own look would end in SIGBUS or SIGSEGV; with an
 * impossible `how` it does nothing else. */
bool is_there(const void *address)
{
    int before = errno;
    long status = syscall(SYS_rt_sigprocmask, -1, address, NULL, sizeof(uint64_t));
    bool there = !(status != 0 && errno == EFAULT);
    errno = before;
    return there;
}

static bool expired(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return true;
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec >= grant.expires_boottime_ns;
}

bool gate_is_closed(void)
{
    return atomic_load_explicit(&closed_why, memory_order_relaxed) != NULL;
}

const char *gate_reason(void)
{
    const char *why = atomic_load(&closed_why);
    return why != NULL ? why : expired() ? EXPIRED : NULL;
}

cl_int gate(void)
{
    if (gate_is_closed())
        return CL_OUT_OF_RESOURCES;
    if (expired()) {
        notice(NOTICE_EXPIRED, "cumulus: %s: OpenCL makes and runs nothing more", EXPIRED);
        return CL_OUT_OF_RESOURCES;
    }
    return CL_SUCCESS;
}
