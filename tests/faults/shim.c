/* Copyright (c) 2026, the fleet.backup contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Counts the calls that a run makes below chosen paths, and kills, fails or tears the Nth of them (ld.so(8),
 * LD_PRELOAD).
 *
 * Everything is agreed on in one file that FAULTS_STATE names and every process of the run maps: so all of them share
 * one count, and whoever makes the Nth call gets the fault. execve(2) puts both variables back into an environment that
 * a program took them out of: a child with a minimal environment is still part of its run.
 *
 * A descriptor belongs to the path that /proc/self/fd says. With the prefix "socket:", what is sent to a server counts
 * too, and fails by the loss of the connection, whatever the error. Calls that only read are not counted, except open(2) and close(2).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, LEADER, FAIL, TEAR, SHORT };

/* injection.py knows this layout. */
struct state {
    uint32_t armed, count, target, mode;
    int32_t error;
    uint32_t lasting, fired;
    int32_t leader;
    char call[32];
    char path[1024];
    char prefixes[4096]; /* each ends with NUL, and the last one is empty */
};

static struct state *state;
static char settings[2][PATH_MAX + 32];

__attribute__((constructor)) static void map_state(void)
{
    const char *file = getenv("FAULTS_STATE"), *library = getenv("LD_PRELOAD");
    if (!file || !library)
        return;
    snprintf(settings[0], sizeof settings[0], "FAULTS_STATE=%s", file);
    snprintf(settings[1], sizeof settings[1], "LD_PRELOAD=%s", library);
    int descriptor = open(file, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped != MAP_FAILED)
        state = mapped;
}

#define REAL(name)                                                                                                     \
    static __typeof__(&name) real;                                                                                     \
    if (!real)                                                                                                         \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int is_armed(void)
{
    return state && __atomic_load_n(&state->armed, __ATOMIC_SEQ_CST);
}

static int is_below(const char *path)
{
    for (const char *prefix = state->prefixes; *prefix; prefix += strlen(prefix) + 1)
        if (strncmp(path, prefix, strlen(prefix)) == 0)
            return 1;
    return 0;
}

/* The path of a descriptor, or nothing. */
static void path_of(int descriptor, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void path_at(int directory, const char *name, char *path)
{
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    char above[PATH_MAX];
    if (directory != AT_FDCWD)
        path_of(directory, above);
    else if (!getcwd(above, sizeof above))
        above[0] = 0;
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX / 2, above, name ? name : "");
}

/* Which errors a call can end with: a fault that cannot be proves nothing. */
static int can_fail(const char *call, int error)
{
    static const char *const interruptible[] = {"open", "write", "ftruncate", "fallocate", "close", "flock", NULL};
    if (error == EINTR) {
        for (int i = 0; interruptible[i]; i++)
            if (strcmp(call, interruptible[i]) == 0)
                return 1;
        return 0;
    }
    if (strcmp(call, "read-close") == 0)
        return 0;
    if (strcmp(call, "read-open") == 0)
        return error == EIO;
    if (error == EROFS)
        return strcmp(call, "write") && strcmp(call, "close") && strcmp(call, "fsync") && strcmp(call, "flock");
    if (error == ENOSPC || error == EDQUOT)
        return strcmp(call, "unlink") && strcmp(call, "ftruncate") && strcmp(call, "flock") && strcmp(call, "chmod");
    return 1;
}

/* Count a call; the error that it is to fail with, TORN or SHORTENED, or 0. */
enum { TORN = -1, SHORTENED = -2 };

static int meet(const char *call, const char *path)
{
    uint32_t number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
    int lasts = state->lasting && state->target && number > state->target && strcmp(call, "read-open");
    if (number != state->target && !lasts)
        return 0;
    if (number == state->target) {
        snprintf(state->call, sizeof state->call, "%s", call);
        snprintf(state->path, sizeof state->path, "%s", path);
        state->fired = 1;
    }
    switch (state->mode) {
    case KILL:
        kill(getpid(), SIGKILL);
        pause();
        return 0;
    case LEADER:
        kill(state->leader, SIGKILL);
        if (state->leader == getpid())
            pause();
        return 0;
    case FAIL:
        return can_fail(call, state->error) ? state->error : 0;
    case TEAR:
        if (strcmp(call, "write"))
            kill(getpid(), SIGKILL);
        return TORN;
    case SHORT:
        return strcmp(call, "write") ? 0 : SHORTENED;
    }
    return 0;
}

static int meet_at(const char *call, int directory, const char *name)
{
    char path[PATH_MAX];
    if (!is_armed())
        return 0;
    int before = errno;
    path_at(directory, name, path);
    int fault = is_below(path) ? meet(call, path) : 0;
    errno = before;
    return fault;
}

static int meet_on(const char *call, int descriptor)
{
    char path[PATH_MAX];
    if (!is_armed())
        return 0;
    int before = errno;
    path_of(descriptor, path);
    int fault = is_below(path) ? meet(call, path) : 0;
    if (fault > 0 && !strncmp(path, "socket:", 7)) {
        /* What a write to a server can fail with: its connection is gone. A disk that stays full is another thing. */
        fault = state->count == state->target || !state->lasting ? ECONNRESET : 0;
        if (fault)
            shutdown(descriptor, SHUT_RDWR);
    }
    errno = before;
    return fault;
}

#define FAIL_IF(fault)                                                                                                 \
    do {                                                                                                               \
        int met = (fault);                                                                                             \
        if (met > 0) {                                                                                                 \
            errno = met;                                                                                               \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

static const char *kind_of(int flags)
{
    return (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) ? "open" : "read-open";
}

#define MODE_OF(flags)                                                                                                 \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode = va_arg(arguments, mode_t);                                                                              \
        va_end(arguments);                                                                                             \
    }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        MODE_OF(flags)                                                                                                 \
        REAL(name);                                                                                                    \
        FAIL_IF(meet_at(kind_of(flags), AT_FDCWD, path));                                                              \
        return real(path, flags, mode);                                                                                \
    }
#define OPENAT(name)                                                                                                   \
    int name(int directory, const char *path, int flags, ...)                                                          \
    {                                                                                                                  \
        MODE_OF(flags)                                                                                                 \
        REAL(name);                                                                                                    \
        FAIL_IF(meet_at(kind_of(flags), directory, path));                                                             \
        return real(directory, path, flags, mode);                                                                     \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* A call whose first argument is a path, or a descriptor, and that changes what is there. */
#define BY_PATH(name, call, parameters, values)                                                                        \
    int name parameters                                                                                                \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        FAIL_IF(meet_at(call, AT_FDCWD, path));                                                                        \
        return real values;                                                                                            \
    }
#define BY_NAME(name, call, parameters, values)                                                                        \
    int name parameters                                                                                                \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        FAIL_IF(meet_at(call, directory, path));                                                                       \
        return real values;                                                                                            \
    }
#define BY_DESCRIPTOR(name, call, parameters, values)                                                                  \
    int name parameters                                                                                                \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        FAIL_IF(meet_on(call, descriptor));                                                                            \
        return real values;                                                                                            \
    }

BY_PATH(creat, "open", (const char *path, mode_t mode), (path, mode))
BY_PATH(creat64, "open", (const char *path, mode_t mode), (path, mode))
BY_PATH(unlink, "unlink", (const char *path), (path))
BY_NAME(unlinkat, "unlink", (int directory, const char *path, int flags), (directory, path, flags))
BY_PATH(rmdir, "unlink", (const char *path), (path))
BY_PATH(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
BY_NAME(mkdirat, "mkdir", (int directory, const char *path, mode_t mode), (directory, path, mode))
BY_PATH(rename, "rename", (const char *path, const char *to), (path, to))
BY_NAME(renameat, "rename", (int directory, const char *path, int other, const char *to), (directory, path, other, to))
BY_NAME(renameat2, "rename", (int directory, const char *path, int other, const char *to, unsigned int flags),
        (directory, path, other, to, flags))
BY_PATH(link, "link", (const char *path, const char *to), (path, to))
BY_NAME(linkat, "link", (int directory, const char *path, int other, const char *to, int flags),
        (directory, path, other, to, flags))
BY_PATH(chmod, "chmod", (const char *path, mode_t mode), (path, mode))
BY_DESCRIPTOR(fchmod, "chmod", (int descriptor, mode_t mode), (descriptor, mode))
BY_NAME(fchmodat, "chmod", (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags))
BY_PATH(chown, "chmod", (const char *path, uid_t owner, gid_t group), (path, owner, group))
BY_PATH(lchown, "chmod", (const char *path, uid_t owner, gid_t group), (path, owner, group))
BY_DESCRIPTOR(fchown, "chmod", (int descriptor, uid_t owner, gid_t group), (descriptor, owner, group))
BY_NAME(fchownat, "chmod", (int directory, const char *path, uid_t owner, gid_t group, int flags),
        (directory, path, owner, group, flags))
BY_DESCRIPTOR(fsync, "fsync", (int descriptor), (descriptor))
BY_DESCRIPTOR(fdatasync, "fsync", (int descriptor), (descriptor))
BY_DESCRIPTOR(flock, "flock", (int descriptor, int operation), (descriptor, operation))
BY_PATH(truncate, "ftruncate", (const char *path, off_t length), (path, length))
BY_PATH(truncate64, "ftruncate", (const char *path, off64_t length), (path, length))
BY_DESCRIPTOR(ftruncate, "ftruncate", (int descriptor, off_t length), (descriptor, length))
BY_DESCRIPTOR(ftruncate64, "ftruncate", (int descriptor, off64_t length), (descriptor, length))
BY_DESCRIPTOR(fallocate, "fallocate", (int descriptor, int mode, off_t at, off_t length), (descriptor, mode, at, length))
BY_DESCRIPTOR(fallocate64, "fallocate", (int descriptor, int mode, off64_t at, off64_t length),
              (descriptor, mode, at, length))

/* These return the error instead of setting errno. */
#define ALLOCATE(name, offset)                                                                                         \
    int name(int descriptor, offset at, offset length)                                                                 \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        int fault = meet_on("fallocate", descriptor);                                                                  \
        return fault > 0 ? fault : real(descriptor, at, length);                                                       \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

/* A descriptor is closed whatever close(2) returns, which tells of writes that went wrong later (NFS). */
int close(int descriptor)
{
    REAL(close);
    int before = errno;
    int flags = is_armed() ? fcntl(descriptor, F_GETFL) : 0;
    errno = before;
    int fault = meet_on(flags & (O_WRONLY | O_RDWR) ? "close" : "read-close", descriptor);
    int result = real(descriptor);
    if (fault > 0) {
        errno = fault;
        return -1;
    }
    return result;
}

/* Write half where a write is torn or shortened; then a torn one kills. */
#define WRITE(name, parameters, values, half)                                                                          \
    ssize_t name parameters                                                                                            \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        int fault = meet_on("write", descriptor);                                                                      \
        FAIL_IF(fault);                                                                                                \
        if (fault == 0)                                                                                                \
            return real values;                                                                                        \
        ssize_t result = half;                                                                                         \
        if (fault == TORN)                                                                                             \
            kill(getpid(), SIGKILL);                                                                                   \
        return result;                                                                                                 \
    }
/* Nothing at all would be the end of the file to some, so that one byte stays one. */
#define HALF(size) ((size) / 2 + (size) % 2)

WRITE(write, (int descriptor, const void *data, size_t size), (descriptor, data, size),
      real(descriptor, data, HALF(size)))
WRITE(pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at),
      real(descriptor, data, HALF(size), at))
WRITE(pwrite64, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size, at),
      real(descriptor, data, HALF(size), at))
WRITE(writev, (int descriptor, const struct iovec *parts, int count), (descriptor, parts, count),
      real(descriptor, parts, HALF(count)))
WRITE(send, (int descriptor, const void *data, size_t size, int flags), (descriptor, data, size, flags),
      real(descriptor, data, HALF(size), flags))
WRITE(sendfile, (int descriptor, int from, off_t *at, size_t size), (descriptor, from, at, size),
      real(descriptor, from, at, HALF(size)))
WRITE(sendfile64, (int descriptor, int from, off64_t *at, size_t size), (descriptor, from, at, size),
      real(descriptor, from, at, HALF(size)))
WRITE(splice, (int from, off64_t *start, int descriptor, off64_t *at, size_t size, unsigned int flags),
      (from, start, descriptor, at, size, flags), real(from, start, descriptor, at, HALF(size), flags))
WRITE(copy_file_range, (int from, off64_t *start, int descriptor, off64_t *at, size_t size, unsigned int flags),
      (from, start, descriptor, at, size, flags), real(from, start, descriptor, at, HALF(size), flags))

int execve(const char *path, char *const arguments[], char *const environment[])
{
    REAL(execve);
    int count = 0;
    while (environment && environment[count])
        count++;
    char *whole[count + 3];
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (strncmp(environment[i], "LD_PRELOAD=", 11) && strncmp(environment[i], "FAULTS_STATE=", 13))
            whole[kept++] = environment[i];
    for (int i = 0; state && i < 2; i++)
        whole[kept++] = settings[i];
    whole[kept] = NULL;
    return real(path, arguments, whole);
}
