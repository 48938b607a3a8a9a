/* A library with the ABI of chronos_c.h and the defects of the real one, for the tests.
 *
 * CHRONOS_DOUBLE names a folder that the test owns:
 *   devices        how many devices there are (a number; without it 0: every create fails)
 *   locks/         the lock files
 *   share_locks    while there, a lock is of a device and a share, as before 1.1, not of a partition
 *   hang, crash    while there, the next call that creates hangs or aborts
 *   slow           while there, what is released is answered half a second later
 *   calls          one line for each call
 *   expire         while there, the monitor thread expires all it holds
 *
 * Built with -DCHRONOS_DOUBLE_FOLDER="…" that is the folder without the variable, and there is one
 * device: as a machine that has it installed loads it.
 */

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef CHRONOS_DOUBLE_FOLDER
#define DEVICES 1
#else
#define CHRONOS_DOUBLE_FOLDER "/nonexistent"
#define DEVICES 0
#endif
#define MAX_PARTITIONS 256
#define MAX_DEVICES 8

typedef struct {
    char partition_id[64];
    int device_index;
    float memory_fraction;
    int duration_seconds;
    int time_remaining_seconds;
    char username[256];
    int process_id;
    int active;
} Info;

_Static_assert(sizeof(Info) == 344, "the ABI of ChronosPartitionInfo");

typedef struct {
    char id[64];
    int device;
    float fraction;
    int seconds;
    char user[256];
    int active;
} Partition;

typedef struct {
    int devices;
    float available[MAX_DEVICES];
    Partition partitions[MAX_PARTITIONS];
    int count;
    pthread_mutex_t mutex;
} Partitioner;

static const char *last_error = "";
static int next_id;

static const char *path_of(const char *name) {
    static _Thread_local char path[4096];
    const char *folder = getenv("CHRONOS_DOUBLE");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : CHRONOS_DOUBLE_FOLDER, name);
    return path;
}

static int is_there(const char *name) {
    return access(path_of(name), F_OK) == 0;
}

static void note(const char *call) {
    mkdir(path_of(""), 0777);
    FILE *file = fopen(path_of("calls"), "a");
    if (file) {
        fprintf(file, "%d %s\n", (int)getpid(), call);
        fclose(file);
    }
    /* The real one prints to stdout from every call. */
    printf("chronos: %s\n", call);
    fflush(stdout);
}

static const char *lock_of(const Partition *one) {
    static _Thread_local char name[128];
    if (is_there("share_locks"))
        snprintf(name, sizeof name, "locks/gpu_%d_%04d.lock", one->device,
                 (int)lroundf(one->fraction * 1000));
    else
        snprintf(name, sizeof name, "locks/%s.lock", one->id);
    return path_of(name);
}

static void give_back(Partitioner *all, Partition *one) {
    all->available[one->device] += one->fraction;
    unlink(lock_of(one)); /* whoever made it */
    one->active = 0;
}

static void *monitor(void *argument) {
    Partitioner *all = argument;
    for (;;) {
        usleep(20000);
        if (!is_there("expire"))
            continue;
        pthread_mutex_lock(&all->mutex);
        for (int i = 0; i < all->count; i++)
            if (all->partitions[i].active) {
                give_back(all, &all->partitions[i]);
                printf("Partition %s expired and released\n", all->partitions[i].id);
                fflush(stdout);
            }
        unlink(path_of("expire"));
        pthread_mutex_unlock(&all->mutex);
    }
    return NULL;
}

void *chronos_partitioner_create(void) {
    note("partitioner_create");
    if (is_there("hang_at_start"))
        for (;;)
            pause();
    Partitioner *all = calloc(1, sizeof *all);
    pthread_t thread;
    all->devices = DEVICES;
    FILE *file = fopen(path_of("devices"), "r");
    if (file) {
        if (fscanf(file, "%d", &all->devices) != 1)
            all->devices = 0;
        fclose(file);
    }
    if (all->devices == 0)
        fprintf(stderr, "No OpenCL platforms found\n");
    for (int i = 0; i < MAX_DEVICES; i++)
        all->available[i] = 1.0f;
    mkdir(path_of("locks"), 0777);
    pthread_mutex_init(&all->mutex, NULL);
    pthread_create(&thread, NULL, monitor, all);
    pthread_detach(thread);
    return all;
}

void chronos_partitioner_destroy(void *handle) {
    note("partitioner_destroy");
    memset(handle, 0xff, sizeof(Partitioner)); /* use after this crashes */
    free(handle);
}

static int refuse(const char *why) {
    fprintf(stderr, "%s\n", why);
    last_error = "Failed to create partition";
    return -1;
}

int chronos_create_partition(void *handle, int device, float fraction, int seconds,
                             const char *user, char *id_out, size_t size) {
    Partitioner *all = handle;
    char call[128];
    snprintf(call, sizeof call, "create %d %.3f %d %s", device, fraction, seconds,
             user ? user : "-");
    note(call);
    if (is_there("hang"))
        for (;;)
            pause();
    if (is_there("crash")) {
        fprintf(stderr, "terminate called after throwing an instance of 'std::system_error'\n");
        abort();
    }
    if (device < 0 || device >= all->devices)
        return refuse("Invalid device index");
    if (!(fraction > 0.0f && fraction <= 1.0f))
        return refuse("Invalid memory fraction. Must be between 0 and 1.");
    if (seconds <= 0)
        return refuse("Invalid duration. Must be positive.");
    pthread_mutex_lock(&all->mutex);
    if (fraction > all->available[device] + 1e-6f || all->count == MAX_PARTITIONS) {
        pthread_mutex_unlock(&all->mutex);
        fprintf(stderr, "Not enough available memory on device %d\n", device);
        return refuse("Cannot create partition: GPU portion is locked by another user");
    }
    Partition *one = &all->partitions[all->count];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(one->id, sizeof one->id, "partition_%d_%lld_%04d", (int)getpid(),
             now.tv_sec * 1000LL + now.tv_nsec / 1000000, ++next_id);
    one->device = device;
    one->fraction = fraction;
    one->seconds = seconds;
    snprintf(one->user, sizeof one->user, "%s", user ? user : "me");
    char host[256] = "", content[1024];
    gethostname(host, sizeof host - 1);
    int length = snprintf(content, sizeof content,
                          "pid: %d\nuser: %s\nhost: %s\ntime: 2026-01-01 00:00:00\ndevice: %d\n"
                          "fraction: %g\npartition: %s\n",
                          (int)getpid(), one->user, host, device, fraction, one->id);
    int lock = open(lock_of(one), O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (lock < 0 || write(lock, content, (size_t)length) != length) {
        pthread_mutex_unlock(&all->mutex);
        if (lock >= 0)
            close(lock);
        return refuse("Failed to create lock for GPU partition");
    }
    close(lock);
    all->count++;
    one->active = 1;
    all->available[device] -= fraction;
    snprintf(id_out, size, "%s", one->id);
    pthread_mutex_unlock(&all->mutex);
    return 0;
}

int chronos_release_partition(void *handle, const char *id) {
    Partitioner *all = handle;
    char call[128];
    snprintf(call, sizeof call, "release %s", id);
    note(call);
    pthread_mutex_lock(&all->mutex);
    for (int i = 0; i < all->count; i++) {
        Partition *one = &all->partitions[i];
        if (one->active && strcmp(one->id, id) == 0) {
            int mine = strcmp(one->user, "me") == 0;
            if (mine)
                give_back(all, one);
            pthread_mutex_unlock(&all->mutex);
            if (is_there("slow"))
                usleep(500000);
            if (mine)
                return 0;
            fprintf(stderr, "Permission denied: partition owned by %s\n", one->user);
            last_error = "Failed to release partition";
            return -1;
        }
    }
    pthread_mutex_unlock(&all->mutex);
    fprintf(stderr, "Partition not found or already released: %s\n", id);
    last_error = "Failed to release partition";
    return -1;
}

int chronos_list_partitions(void *handle, Info *out, size_t *count) {
    Partitioner *all = handle;
    size_t room = *count, found = 0;
    note("list");
    pthread_mutex_lock(&all->mutex);
    for (int i = 0; i < all->count; i++) {
        Partition *one = &all->partitions[i];
        if (!one->active)
            continue;
        if (out && found < room) {
            Info *info = &out[found];
            memset(info, 0, sizeof *info);
            snprintf(info->partition_id, sizeof info->partition_id, "%s", one->id);
            info->device_index = 0; /* whichever it is */
            info->memory_fraction = one->fraction;
            info->duration_seconds = info->time_remaining_seconds = one->seconds;
            snprintf(info->username, sizeof info->username, "%s", one->user);
            info->process_id = getpid();
            info->active = 1;
        }
        found++;
    }
    pthread_mutex_unlock(&all->mutex);
    *count = found;
    return 0;
}

float chronos_get_available_percentage(void *handle, int device) {
    Partitioner *all = handle;
    if (device < 0 || device >= all->devices) {
        fprintf(stderr, "Invalid device index: %d\n", device);
        return -1.0f;
    }
    return 100.0f * all->available[device];
}

const char *chronos_get_last_error(void) {
    return last_error;
}
