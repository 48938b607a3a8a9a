/* Who a process is, and whether it still is. A process id alone is used again after its end: the
 * start time tells them apart, and the namespace says whose ids are meant. */
#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct stat_line {
    char state;
    uint64_t pid;
    uint64_t threads;
    uint64_t start_ticks;
};

/* Reads /proc/PID/stat; `name`: a pid or "self". */
static bool read_stat(const char *name, struct stat_line *line)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t length;
    do
        length = read(file, text, sizeof text - 1);
    while (length < 0 && errno == EINTR);
    close(file);
    if (length <= 0)
        return false;
    text[length] = '\0';
    /* The command's name, in parentheses, may hold anything. */
    const char *rest = strrchr(text, ')');
    if (rest == NULL)
        return false;
    unsigned long long threads, start;
    /* proc(5): state is field 3, num_threads 20, starttime 22. */
    if (sscanf(rest + 1,
               " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %*s %llu",
               &line->state, &threads, &start) != 3)
        return false;
    line->pid = strtoull(text, NULL, 10);
    line->threads = threads;
    line->start_ticks = start;
    return true;
}

bool process_self(struct process *self)
{
    struct stat_line line;
    struct stat namespace;
    if (!read_stat("self", &line) || stat("/proc/self/ns/pid", &namespace) != 0)
        return false;
    *self = (struct process){
        .pid = (uint64_t)getpid(),
        .start_ticks = line.start_ticks,
        .pid_namespace = (uint64_t)namespace.st_ino,
    };
    /* A /proc of another namespace would name others by our ids. */
    return line.pid == self->pid;
}

bool process_lives(const struct process *process, const struct process *self)
{
    if (process->pid_namespace != self->pid_namespace)
        return true; /* it can't be seen from here */
    int before = errno;
    bool gone = kill((pid_t)process->pid, 0) != 0 && errno == ESRCH;
    errno = before;
    if (gone)
        return false;
    char name[32];
    struct stat_line line;
    snprintf(name, sizeof name, "%llu", (unsigned long long)process->pid);
    if (!read_stat(name, &line))
        return true; /* ended just now, or hidden from us: not certain */
    if (line.start_ticks != process->start_ticks)
        return false;
    /* A zombie whose other threads run on is none yet. */
    return !((line.state == 'Z' || line.state == 'X') && line.threads <= 1);
}
