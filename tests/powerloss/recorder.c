/* Records, in order, what a process does to the files below a directory: loaded with LD_PRELOAD (recording.py).

   RECORD_BELOW names the directory, RECORD_TO the file that the records go to. A record is five 64-bit integers, the
   operation, two numbers, and the lengths of a path and of what comes with it; then those two. One lock is held around
   each call and its record, so the records are in the order in which things happened. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, PUNCH, SYNC, CREATE, MKDIR, RENAME, UNLINK, RMDIR, MARK };

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static char below[PATH_MAX];
static int to = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("RECORD_BELOW"), *file = getenv("RECORD_TO");
    if (directory == NULL || file == NULL)
        return;
    snprintf(below, sizeof below, "%s", directory);
    to = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record(uint64_t op, uint64_t a, uint64_t b, const char *path, const void *with, uint64_t length) {
    size_t skip = strlen(below);
    if (to < 0 || strncmp(path, below, skip) != 0)
        return;
    uint64_t head[5] = {op, a, b, strlen(path) - skip, length};
    struct iovec parts[3] = {{head, sizeof head}, {(char *)path + skip, head[3]}, {(void *)with, length}};
    if (writev(to, parts, 3) != (ssize_t)(sizeof head + head[3] + length))
        abort();
}

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void path_at(int directory, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (name[0] != '/' && directory == AT_FDCWD && getcwd(base, sizeof base) == NULL)
        base[0] = 0;
    else if (name[0] != '/' && directory != AT_FDCWD)
        path_of(directory, base);
    if (snprintf(path, PATH_MAX, "%s%s%s", base, name[0] == '/' ? "" : "/", name) >= PATH_MAX)
        path[0] = 0;
}

static void record_fd(uint64_t op, uint64_t a, uint64_t b, int fd, const void *with, uint64_t length) {
    int error = errno;
    char path[PATH_MAX];
    path_of(fd, path);
    record(op, a, b, path, with, length);
    errno = error;
}

static int open_recorded(int directory, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    path_at(directory, name, path);
    pthread_mutex_lock(&gate);
    int there = faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = REAL(openat)(directory, name, flags, mode), error = errno;
    if (fd >= 0 && (flags & O_CREAT) && !there)
        record(CREATE, 0, 0, path, NULL, 0);
    if (fd >= 0 && (flags & O_TRUNC) && there)
        record(TRUNCATE, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&gate);
    errno = error;
    return fd;
}

static mode_t mode_in(int flags, va_list arguments) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name, first, directory, ...)                                                                             \
    int name(__VA_ARGS__, int flags, ...) {                                                                           \
        va_list arguments;                                                                                            \
        va_start(arguments, flags);                                                                                   \
        mode_t mode = mode_in(flags, arguments);                                                                      \
        va_end(arguments);                                                                                            \
        return open_recorded(directory, first, flags, mode);                                                          \
    }

OPEN(open, path, AT_FDCWD, const char *path)
OPEN(open64, path, AT_FDCWD, const char *path)
OPEN(openat, path, directory, int directory, const char *path)
OPEN(openat64, path, directory, int directory, const char *path)

ssize_t write(int fd, const void *from, size_t length) {
    pthread_mutex_lock(&gate);
    off_t start = lseek(fd, 0, SEEK_CUR);
    ssize_t count = REAL(write)(fd, from, length);
    if (count > 0 && start >= 0)
        record_fd(WRITE, start, 0, fd, from, count);
    pthread_mutex_unlock(&gate);
    return count;
}

#define PWRITE(name, offset_t)                                                                                        \
    ssize_t name(int fd, const void *from, size_t length, offset_t start) {                                           \
        pthread_mutex_lock(&gate);                                                                                    \
        ssize_t count = REAL(name)(fd, from, length, start);                                                          \
        if (count > 0)                                                                                                \
            record_fd(WRITE, start, 0, fd, from, count);                                                              \
        pthread_mutex_unlock(&gate);                                                                                  \
        return count;                                                                                                 \
    }

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t pwritev64v2(int fd, const struct iovec *from, int count, off64_t start, int flags) {
    pthread_mutex_lock(&gate);
    ssize_t written = REAL(pwritev64v2)(fd, from, count, start, flags), left = written;
    for (off64_t at = start; left > 0; from++) {
        ssize_t length = left < (ssize_t)from->iov_len ? left : (ssize_t)from->iov_len;
        record_fd(WRITE, at, 0, fd, from->iov_base, length);
        at += length;
        left -= length;
    }
    pthread_mutex_unlock(&gate);
    return written;
}

/* Calls that return 0 when they have done it. */
#define CALL(name, parameters, arguments, recorded)                                                                   \
    int name parameters {                                                                                             \
        pthread_mutex_lock(&gate);                                                                                    \
        int failed = REAL(name) arguments;                                                                            \
        if (failed == 0)                                                                                              \
            recorded;                                                                                                 \
        pthread_mutex_unlock(&gate);                                                                                  \
        return failed;                                                                                                \
    }

CALL(ftruncate, (int fd, off_t size), (fd, size), record_fd(TRUNCATE, size, 0, fd, NULL, 0))
CALL(ftruncate64, (int fd, off64_t size), (fd, size), record_fd(TRUNCATE, size, 0, fd, NULL, 0))
CALL(fallocate, (int fd, int mode, off_t start, off_t length), (fd, mode, start, length),
     record_fd(PUNCH, start, length, fd, &mode, sizeof mode))
CALL(fallocate64, (int fd, int mode, off64_t start, off64_t length), (fd, mode, start, length),
     record_fd(PUNCH, start, length, fd, &mode, sizeof mode))
CALL(fsync, (int fd), (fd), record_fd(SYNC, 0, 0, fd, NULL, 0))
CALL(fdatasync, (int fd), (fd), record_fd(SYNC, 0, 0, fd, NULL, 0))

static void record_at(uint64_t op, int directory, const char *name) {
    char path[PATH_MAX];
    path_at(directory, name, path);
    record(op, 0, 0, path, NULL, 0);
}

static void record_rename(int from, const char *old, int directory, const char *new) {
    char before[PATH_MAX], after[PATH_MAX];
    path_at(from, old, before);
    path_at(directory, new, after);
    record(RENAME, 0, 0, before, after + strlen(below), strlen(after) - strlen(below));
}

CALL(mkdir, (const char *path, mode_t mode), (path, mode), record_at(MKDIR, AT_FDCWD, path))
CALL(mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode),
     record_at(MKDIR, directory, path))
CALL(rmdir, (const char *path), (path), record_at(RMDIR, AT_FDCWD, path))
CALL(unlink, (const char *path), (path), record_at(UNLINK, AT_FDCWD, path))
CALL(unlinkat, (int directory, const char *path, int flags), (directory, path, flags),
     record_at(flags & AT_REMOVEDIR ? RMDIR : UNLINK, directory, path))
CALL(rename, (const char *old, const char *new), (old, new), record_rename(AT_FDCWD, old, AT_FDCWD, new))
CALL(renameat, (int from, const char *old, int directory, const char *new), (from, old, directory, new),
     record_rename(from, old, directory, new))

/* For the recorded program: what it has come to. */
void recorded_mark(const char *name) {
    pthread_mutex_lock(&gate);
    char path[PATH_MAX + 256];
    snprintf(path, sizeof path, "%s/%s", below, name);
    record(MARK, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&gate);
}
