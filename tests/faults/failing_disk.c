/* A disk that fails: preloaded into a process, it makes calls on files below one directory fail, as a file says that
 * others write to and that is mapped here (failing_disk.py).
 *
 * Every call of a chosen kind on such a file is counted; the n-th, every n-th, or all from the n-th on fail. What the C
 * library does by itself (stdio) does not pass here; Python and SQLite call these functions.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { READ = 1, WRITE = 2, OPEN = 4, CREATE = 8, SYNC = 16, LOCK = 32, MAKE = 64 };
enum mode { NONE, ONCE, EVERY, FROM };

static struct plan {
    int32_t mode, error, kinds, unused;
    int64_t n, count, fired;
    char below[PATH_MAX];
} *plan;

__attribute__((constructor)) static void map_plan(void)
{
    const char *name = getenv("FAILING_DISK");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void *found = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (found != MAP_FAILED)
        plan = found;
}

/* Whether a call on this path is to fail; errno is set then. */
static int fails(const char *path)
{
    size_t length = strlen(plan->below);
    if (strncmp(path, plan->below, length) != 0 || path[length] != '/')
        return 0;
    int64_t count = __atomic_add_fetch(&plan->count, 1, __ATOMIC_SEQ_CST);
    int32_t mode = plan->mode;
    if (!((mode == ONCE && count == plan->n) || (mode == EVERY && count % plan->n == 0) ||
          (mode == FROM && count >= plan->n)))
        return 0;
    __atomic_add_fetch(&plan->fired, 1, __ATOMIC_SEQ_CST);
    errno = plan->error;
    return 1;
}

static int chosen(int kinds) { return plan && plan->mode != NONE && (plan->kinds & kinds); }

static ssize_t path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int before = errno;
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = before;
    path[length < 0 ? 0 : length] = 0;
    return length;
}

static int fd_fails(int kind, int fd)
{
    char path[PATH_MAX];
    return chosen(kind) && path_of(fd, path) > 0 && fails(path);
}

static int name_fails(int kinds, int dir, const char *name)
{
    char path[2 * PATH_MAX];
    if (!chosen(kinds))
        return 0;
    /* A full disk opens what is there, and no disk but a broken one minds the making of what is there. */
    if (plan->error == ENOSPC || (plan->error == EROFS && kinds & MAKE)) {
        int before = errno, there = faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        errno = before;
        if (there)
            return 0;
    }
    if (name[0] == '/')
        return fails(name);
    if (dir == AT_FDCWD || path_of(dir, path) <= 0)
        return 0;
    strncat(path, "/", 2);
    strncat(path, name, PATH_MAX - 1);
    return fails(path);
}

#define REAL(function) ((__typeof__(&function))real(&found_##function, #function))

static void *real(void **found, const char *name)
{
    if (!*found)
        *found = dlsym(RTLD_NEXT, name);
    return *found;
}

#define ON_FD(result, function, kind, parameters, ...)   \
    static void *found_##function;                       \
    result function parameters                           \
    {                                                    \
        if (fd_fails(kind, fd))                          \
            return -1;                                   \
        return REAL(function)(__VA_ARGS__);              \
    }

ON_FD(ssize_t, read, READ, (int fd, void *to, size_t size), fd, to, size)
ON_FD(ssize_t, pread, READ, (int fd, void *to, size_t size, off_t at), fd, to, size, at)
ON_FD(ssize_t, pread64, READ, (int fd, void *to, size_t size, off64_t at), fd, to, size, at)
ON_FD(ssize_t, preadv64, READ, (int fd, const struct iovec *to, int count, off64_t at), fd, to, count, at)
ON_FD(ssize_t, preadv64v2, READ, (int fd, const struct iovec *to, int count, off64_t at, int flags), fd, to, count, at,
      flags)
ON_FD(ssize_t, write, WRITE, (int fd, const void *from, size_t size), fd, from, size)
ON_FD(ssize_t, pwrite, WRITE, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
ON_FD(ssize_t, pwrite64, WRITE, (int fd, const void *from, size_t size, off64_t at), fd, from, size, at)
ON_FD(ssize_t, pwritev64v2, WRITE, (int fd, const struct iovec *from, int count, off64_t at, int flags), fd, from,
      count, at, flags)
ON_FD(int, ftruncate, WRITE, (int fd, off_t size), fd, size)
ON_FD(int, ftruncate64, WRITE, (int fd, off64_t size), fd, size)
ON_FD(int, fallocate64, WRITE, (int fd, int mode, off64_t at, off64_t size), fd, mode, at, size)
ON_FD(int, fsync, SYNC, (int fd), fd)
ON_FD(int, fdatasync, SYNC, (int fd), fd)

#define OPENS(function, parameters, dir, ...)                                                        \
    static void *found_##function;                                                                   \
    int function parameters                                                                          \
    {                                                                                                \
        va_list rest;                                                                                \
        va_start(rest, flags);                                                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                      \
        va_end(rest);                                                                                \
        if (name_fails(OPEN | ((flags & O_ACCMODE) == O_RDONLY ? 0 : CREATE), dir, name))            \
            return -1;                                                                               \
        return REAL(function)(__VA_ARGS__, flags, mode);                                             \
    }

OPENS(open, (const char *name, int flags, ...), AT_FDCWD, name)
OPENS(open64, (const char *name, int flags, ...), AT_FDCWD, name)
OPENS(openat, (int at, const char *name, int flags, ...), at, at, name)
OPENS(openat64, (int at, const char *name, int flags, ...), at, at, name)

#define ON_NAME(function, kinds, dir, name, parameters, ...)    \
    static void *found_##function;                       \
    int function parameters                              \
    {                                                    \
        if (name_fails(kinds, dir, name))                \
            return -1;                                   \
        return REAL(function)(__VA_ARGS__);              \
    }

ON_NAME(mkdir, CREATE | MAKE, AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
ON_NAME(mkdirat, CREATE | MAKE, at, path, (int at, const char *path, mode_t mode), at, path, mode)
ON_NAME(rename, CREATE, AT_FDCWD, from, (const char *from, const char *to), from, to)
ON_NAME(renameat, CREATE, at, from, (int at, const char *from, int at2, const char *to), at, from, at2, to)
ON_NAME(unlink, CREATE, AT_FDCWD, path, (const char *path), path)
ON_NAME(unlinkat, CREATE, at, path, (int at, const char *path, int flags), at, path, flags)

#define CONTROLS(function)                                                                           \
    static void *found_##function;                                                                   \
    int function(int fd, int command, ...)                                                           \
    {                                                                                                \
        va_list rest;                                                                                \
        va_start(rest, command);                                                                     \
        void *argument = va_arg(rest, void *);                                                       \
        va_end(rest);                                                                                \
        /* Not SQLite's own locks: when those fail it waits for ten seconds, and no disk makes them fail. */ \
        int locks = command == F_OFD_SETLK || command == F_OFD_GETLK;                                \
        if (locks && fd_fails(LOCK, fd))                                                             \
            return -1;                                                                               \
        return REAL(function)(fd, command, argument);                                                \
    }

CONTROLS(fcntl)
CONTROLS(fcntl64)
