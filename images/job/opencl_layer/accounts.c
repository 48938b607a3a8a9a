/* The accounts: what each of the job's processes holds, in one file that they all have mapped.
 *
 * The job can write this file (it can't replace it), so nothing in it is believed: a process that
 * finds it truncated, overwritten or at odds with what it remembers is refused everything from then
 * on. A process killed at any moment leaves a lock that the next one takes over, and a slot that is
 * reaped when somebody needs the room.
 */
#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x31304c434d554355) /* changes with the layout */
#define TAIL_MAGIC (~MAGIC)

enum {
    FILE_BYTES = 256 << 10, /* OPENCL_USAGE_BYTES in cumulus_wire/grant.py */
    HEADER_BYTES = 256,
    SLOT_BYTES = 64,
    SLOTS = (FILE_BYTES - HEADER_BYTES - SLOT_BYTES) / SLOT_BYTES,
    PATIENCE_S = 5,
    OPEN_PAUSE_NS = 2000000,
    OPEN_TRIES = PATIENCE_S * 500,
};

struct slot {
    struct process owner; /* pid 0: free */
    uint64_t used_bytes;
    uint64_t spare[4];
};

struct accounts {
    union {
        struct {
            _Atomic uint64_t magic; /* written last */
            uint64_t used_bytes;    /* of all slots */
            pthread_mutex_t lock;   /* robust, shared */
        };
        char header[HEADER_BYTES];
    };
    struct slot slots[SLOTS];
    uint64_t spare[7];
    uint64_t tail_magic; /* the file's last bytes: gone with any truncation */
};

_Static_assert(sizeof(struct slot) == SLOT_BYTES, "slots");
_Static_assert(sizeof(struct accounts) == FILE_BYTES, "the file's size");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct accounts *shared; /* NULL: they can't be kept */

/* This process's own memory of its slot; under the shared lock. */
static struct {
    struct process self;
    struct slot *slot;
    uint64_t used_bytes;
} mine;

static _Atomic uint32_t generation;
/* Given back while the lock could not be had. */
static _Atomic uint64_t owed_bytes;

uint32_t accounts_generation(void)
{
    return atomic_load_explicit(&generation, memory_order_relaxed);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* All zero, but for the lock: whoever made it may have died before the magic was written. */
static bool is_blank(const struct accounts *accounts)
{
    const unsigned char *const first = (const unsigned char *)accounts;
    const size_t lock = offsetof(struct accounts, lock), after = lock + sizeof accounts->lock;
    for (size_t at = 0; at < FILE_BYTES; at++)
        if (first[at] != 0 && (at < lock || at >= after))
            return false;
    return true;
}

static bool make_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes) != 0)
        return false;
    bool made = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
                pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
                pthread_mutex_init(lock, &attributes) == 0;
    pthread_mutexattr_destroy(&attributes);
    return made;
}

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = OPEN_PAUSE_NS}, NULL);
}

/* Takes the shared lock of the open file that every process keeps as long as it lives. Only a file
 * that nobody uses can be made anew: else truncating it would forget what is held.
 * NULL, or why the accounts can't be used. */
static const char *settle(int file, struct accounts *accounts)
{
    for (int tries = 0; tries < OPEN_TRIES; tries++) {
        if (flock(file, LOCK_SH | LOCK_NB) == 0) {
            if (atomic_load_explicit(&accounts->magic, memory_order_acquire) == MAGIC)
                return NULL;
            if (atomic_load(&accounts->magic) != 0)
                return "the usage file is damaged";
            /* Let go first: two that wait for each other's shared lock would wait for ever. */
            flock(file, LOCK_UN);
        }
        if (flock(file, LOCK_EX | LOCK_NB) == 0 && atomic_load(&accounts->magic) == 0) {
            if (!is_blank(accounts))
                return "the usage file is damaged";
            if (!make_lock(&accounts->lock))
                return "the usage file's lock can't be made";
            accounts->tail_magic = TAIL_MAGIC;
            atomic_store_explicit(&accounts->magic, MAGIC, memory_order_release);
        }
        flock(file, LOCK_UN);
        pause_briefly();
    }
    return "the usage file was emptied while others use it, or is locked by somebody";
}

static void before_fork(void)
{
    svm_before_fork();
}

static void after_fork(void)
{
    svm_after_fork();
}

/* The child holds nothing yet: what it inherited stays its parent's. */
static void in_child(void)
{
    svm_after_fork();
    atomic_fetch_add(&generation, 1);
    atomic_store(&owed_bytes, 0);
    mine.slot = NULL;
    mine.used_bytes = 0;
    if (shared != NULL && !process_self(&mine.self))
        gate_close("/proc doesn't tell which process this is");
}

static const char *open_file(void)
{
    if (!process_self(&mine.self))
        return "/proc doesn't tell which process this is";
    int file = open(grant.usage_file, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW);
    if (file < 0)
        return "the usage file can't be opened";
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size != FILE_BYTES) {
        close(file);
        return "the usage file is of another size than this layer's";
    }
    void *memory = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        close(file);
        return "the usage file can't be mapped";
    }
    const char *why = settle(file, memory);
    if (why == NULL && pthread_atfork(before_fork, after_fork, in_child) != 0)
        why = "no memory for the layer itself";
    if (why != NULL) {
        munmap(memory, FILE_BYTES);
        close(file);
        return why;
    }
    shared = memory; /* `file` stays open: it holds the shared lock */
    return NULL;
}

static void open_once(void)
{
    int before = errno;
    const char *why = open_file();
    if (why != NULL)
        gate_close(why);
    errno = before;
}

cl_int accounts_open(void)
{
    pthread_once(&once, open_once);
    return shared == NULL ? CL_OUT_OF_RESOURCES : CL_SUCCESS;
}

/* --- the lock --------------------------------------------------------------------------------- */

static bool is_sound(void)
{
    /* Has the file been truncated? With the last page all are there. */
    return is_there(&shared->tail_magic) &&
           atomic_load_explicit(&shared->magic, memory_order_acquire) == MAGIC &&
           shared->tail_magic == TAIL_MAGIC;
}

static void recount(void)
{
    uint64_t sum = 0;
    for (const struct slot *slot = shared->slots; slot < shared->slots + SLOTS; slot++)
        if (slot->owner.pid != 0)
            sum += slot->used_bytes;
    shared->used_bytes = sum;
}

static bool slot_is_mine(const struct slot *slot)
{
    return slot->owner.pid == mine.self.pid && slot->owner.start_ticks == mine.self.start_ticks &&
           slot->owner.pid_namespace == mine.self.pid_namespace;
}

static void unlock(void)
{
    pthread_mutex_unlock(&shared->lock);
}

/* True with the accounts locked, and sound as far as this process can tell. */
static bool lock(void)
{
    if (!is_sound()) {
        gate_close("the usage file was truncated or overwritten");
        return false;
    }
    int status = pthread_mutex_trylock(&shared->lock);
    if (status == EBUSY) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += PATIENCE_S;
        status = pthread_mutex_clocklock(&shared->lock, CLOCK_MONOTONIC, &until);
    }
    if (status == EOWNERDEAD) {
        /* It died in the middle of a change: the slots are right, their sum may not be. */
        recount();
        status = pthread_mutex_consistent(&shared->lock);
    }
    if (status == ETIMEDOUT)
        return false; /* a process that is stopped holds it: not for ever, perhaps */
    if (status != 0) {
        gate_close("the usage file's lock is damaged");
        return false;
    }
    if ((mine.slot != NULL && (!slot_is_mine(mine.slot) || mine.slot->used_bytes != mine.used_bytes)) ||
        shared->used_bytes < mine.used_bytes) {
        unlock();
        gate_close("the usage file was overwritten");
        return false;
    }
    return true;
}

/* --- under the lock ---------------------------------------------------------------------------- */

static void change(uint64_t used_bytes)
{
    shared->used_bytes += used_bytes - mine.used_bytes;
    mine.slot->used_bytes = mine.used_bytes = used_bytes;
}

/* Frees the slots of processes that have ended. */
static void reap(void)
{
    for (struct slot *slot = shared->slots; slot < shared->slots + SLOTS; slot++)
        if (slot->owner.pid != 0 && slot != mine.slot && !process_lives(&slot->owner, &mine.self))
            *slot = (struct slot){0};
    recount();
}

static struct slot *free_slot(void)
{
    struct slot *found = NULL;
    for (struct slot *slot = shared->slots; slot < shared->slots + SLOTS; slot++) {
        /* This process before an exec, which ended all that it held. */
        if (slot_is_mine(slot))
            return slot;
        if (found == NULL && slot->owner.pid == 0)
            found = slot;
    }
    return found;
}

static bool have_slot(void)
{
    if (mine.slot != NULL)
        return true;
    struct slot *slot = free_slot();
    if (slot == NULL) {
        reap();
        slot = free_slot();
    }
    if (slot == NULL)
        return false;
    *slot = (struct slot){.owner = mine.self};
    recount();
    mine.slot = slot;
    return true;
}

static void pay_owed(void)
{
    if (mine.slot == NULL)
        return;
    uint64_t bytes = atomic_exchange(&owed_bytes, 0);
    change(mine.used_bytes - (bytes < mine.used_bytes ? bytes : mine.used_bytes));
}

static bool fits(uint64_t bytes)
{
    return shared->used_bytes <= grant.quota_bytes &&
           bytes <= grant.quota_bytes - shared->used_bytes;
}

/* --- what the rest of the layer calls ----------------------------------------------------------- */

cl_int accounts_charge(uint64_t bytes)
{
    cl_int status = gate();
    if (status == CL_SUCCESS)
        status = accounts_open();
    if (status != CL_SUCCESS)
        return status;
    if (!lock())
        return CL_OUT_OF_RESOURCES;
    if (!have_slot()) {
        unlock();
        notice(NOTICE_QUOTA, "cumulus: over %d processes of this job use OpenCL at once", SLOTS);
        return CL_OUT_OF_RESOURCES;
    }
    pay_owed();
    if (!fits(bytes))
        reap();
    uint64_t others = shared->used_bytes - mine.used_bytes, own = mine.used_bytes;
    bool fit = fits(bytes);
    if (fit)
        change(mine.used_bytes + bytes);
    unlock();
    if (fit)
        return CL_SUCCESS;
    notice(NOTICE_QUOTA,
           "cumulus: OpenCL refused %llu bytes: of this job's share of %llu bytes this process holds "
           "%llu, its others %llu",
           (unsigned long long)bytes, (unsigned long long)grant.quota_bytes,
           (unsigned long long)own, (unsigned long long)others);
    return CL_MEM_OBJECT_ALLOCATION_FAILURE;
}

void accounts_return(uint64_t bytes)
{
    if (bytes == 0 || shared == NULL || gate_is_closed())
        return;
    atomic_fetch_add(&owed_bytes, bytes);
    if (lock()) {
        pay_owed();
        unlock();
    }
}

bool accounts_used(uint64_t *bytes)
{
    if (accounts_open() != CL_SUCCESS || gate_is_closed() || !lock())
        return false;
    pay_owed();
    reap();
    *bytes = shared->used_bytes;
    unlock();
    return true;
}
