/* A disk and a clock that fail on demand, loaded into the program with LD_PRELOAD.
 *
 * Every call that changes something below one directory is counted. The environment says what happens:
 *   FAULTS_ROOT   the directory that is watched
 *   FAULTS_LOG    a file that gets every change with its data, in the order in which they happened
 *   FAULTS_FAIL   "K ERRNO MODE": change number K fails with ERRNO; MODE is
 *                 `once`, `on` (so do all later ones that need room or a right to write), or
 *                 `half` (a write writes half of its bytes first, then as `on`)
 *   FAULTS_VANISH "K FROM TO": before change number K, FROM is renamed to TO
 *   FAULTS_HIT    a file that gets "NUMBER KIND PATH" of each change that was made to fail
 *   FAULTS_CLOCK  a seed: all clocks jump back and forth by up to twelve hours
 *
 * Real work is done by system calls, so nothing here calls what it replaces. A record of the log is
 *   kind (1 byte), file (u32), number (u64), length of the name (u32), length of the data (u32), name, data
 * in the byte order of the machine; `number` is an offset, a length or flags, as the kind wants.
 */

#define _GNU_SOURCE
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
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES 65536

enum mode { ONCE, ON, HALF };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1, hit_file = -1;
static long count, fail_at = -1, vanish_at = -1;
static int fail_errno;
static enum mode mode;
static char vanish_from[PATH_MAX], vanish_to[PATH_MAX];
/* Which opened file a descriptor is; 0 is one that is not watched. */
static uint32_t files[FILES];
static char *names[FILES];
static uint32_t opened;
static uint64_t clock_state;

static int create(const char *variable) {
    const char *path = getenv(variable);
    if (!path) return -1;
    return syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
}

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("FAULTS_ROOT"), *text;
    if (watched && realpath(watched, root)) root_length = strlen(root);
    log_file = create("FAULTS_LOG");
    hit_file = create("FAULTS_HIT");
    char word[16] = "";
    if ((text = getenv("FAULTS_FAIL")) && sscanf(text, "%ld %d %15s", &fail_at, &fail_errno, word) == 3)
        mode = !strcmp(word, "half") ? HALF : !strcmp(word, "on") ? ON : ONCE;
    if ((text = getenv("FAULTS_VANISH"))) sscanf(text, "%ld %4095s %4095s", &vanish_at, vanish_from, vanish_to);
    if ((text = getenv("FAULTS_CLOCK"))) clock_state = strtoull(text, NULL, 10) | 1;
    /* What is started from here is not watched. */
    unsetenv("LD_PRELOAD");
}

/* The name of a path below the root, in `name`; "" is the root itself. False if it lies elsewhere. */
static int watched(int directory, const char *path, char name[PATH_MAX]) {
    char whole[2 * PATH_MAX];
    size_t length = 0;
    if (!root_length || !path) return 0;
    if (path[0] != '/') {
        char link[64];
        ssize_t got;
        if (directory == AT_FDCWD) {
            got = syscall(SYS_getcwd, whole, PATH_MAX) - 1;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            got = syscall(SYS_readlinkat, AT_FDCWD, link, whole, PATH_MAX);
        }
        if (got <= 0) return 0;
        length = got;
    }
    /* Part by part, without empty parts, `.` and `..`. */
    for (const char *part = path; *part;) {
        size_t size = strcspn(part, "/");
        if (size == 2 && part[0] == '.' && part[1] == '.') {
            while (length > 0 && whole[--length] != '/') {}
        } else if (size > 0 && !(size == 1 && part[0] == '.')) {
            if (length + size + 2 > sizeof whole) return 0;
            whole[length++] = '/';
            memcpy(whole + length, part, size);
            length += size;
        }
        part += size;
        part += strspn(part, "/");
    }
    whole[length] = 0;
    if (strncmp(whole, root, root_length) || (whole[root_length] && whole[root_length] != '/')) return 0;
    snprintf(name, PATH_MAX, "%s", whole + root_length + (whole[root_length] == '/'));
    return 1;
}

static void record(char kind, uint32_t file, uint64_t number, const char *name, const void *data, size_t size) {
    if (log_file < 0) return;
    uint32_t name_length = name ? strlen(name) : 0, data_length = size;
    char head[21];
    head[0] = kind;
    memcpy(head + 1, &file, 4);
    memcpy(head + 5, &number, 8);
    memcpy(head + 13, &name_length, 4);
    memcpy(head + 17, &data_length, 4);
    syscall(SYS_write, log_file, head, sizeof head);
    if (name_length) syscall(SYS_write, log_file, name, name_length);
    if (data_length) syscall(SYS_write, log_file, data, data_length);
}

/* Counts a change; the error that it must fail with, or 0. -1: a write is cut in half. */
static int fault(char kind, const char *name) {
    long number = count++;
    if (number == vanish_at) syscall(SYS_renameat2, AT_FDCWD, vanish_from, AT_FDCWD, vanish_to, 0);
    if (fail_at < 0 || number < fail_at) return 0;
    /* A full disk still takes names away and moves them. */
    int roomless = strchr("urx", kind) && fail_errno == ENOSPC;
    if (number > fail_at && (mode == ONCE || roomless)) return 0;
    if (hit_file >= 0) {
        char line[PATH_MAX + 32];
        int length = snprintf(line, sizeof line, "%ld %c %s\n", number, kind, name);
        syscall(SYS_write, hit_file, line, length);
    }
    if (number == fail_at && mode == HALF && kind == 'w') return -1;
    return fail_errno;
}

static int fails(char kind, const char *name) {
    int error = fault(kind, name);
    if (error > 0) errno = error;
    return error > 0;
}

static int there(int directory, const char *path) {
    return syscall(SYS_faccessat, directory, path, F_OK) == 0;
}

#define LOCKED(type, body)                  \
    do {                                    \
        pthread_mutex_lock(&lock);          \
        type result = body;                 \
        int error = errno;                  \
        pthread_mutex_unlock(&lock);        \
        errno = error;                      \
        return result;                      \
    } while (0)

/* ---- opening and closing ---- */

static uint32_t file_of(int fd) { return fd >= 0 && fd < FILES ? files[fd] : 0; }

static int open_locked(int directory, const char *path, int flags, mode_t permission) {
    char name[PATH_MAX];
    if (!watched(directory, path, name)) {
        int fd = syscall(SYS_openat, directory, path, flags, permission);
        if (fd >= 0 && fd < FILES) files[fd] = 0;
        return fd;
    }
    int was_there = there(directory, path);
    int creates = !was_there && (flags & O_CREAT), empties = was_there && (flags & O_TRUNC);
    int changes = creates || empties || (flags & O_ACCMODE) != O_RDONLY;
    if (changes && fails('o', name)) return -1;
    int fd = syscall(SYS_openat, directory, path, flags, permission);
    if (fd < 0 || fd >= FILES || opened + 1 >= FILES) return fd;
    files[fd] = ++opened;
    names[opened] = strdup(name);
    record(changes ? 'o' : 'd', opened, creates | empties << 1, name, NULL, 0);
    return fd;
}

#define OPEN(function, directory, parameters)                                        \
    int function parameters {                                                        \
        mode_t permission = 0;                                                       \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                       \
            va_list rest;                                                            \
            va_start(rest, flags);                                                   \
            permission = va_arg(rest, mode_t);                                       \
            va_end(rest);                                                            \
        }                                                                            \
        LOCKED(int, open_locked(directory, path, flags, permission));                \
    }
OPEN(open, AT_FDCWD, (const char *path, int flags, ...))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...))
OPEN(openat, directory, (int directory, const char *path, int flags, ...))
OPEN(openat64, directory, (int directory, const char *path, int flags, ...))

int creat(const char *path, mode_t permission) {
    LOCKED(int, open_locked(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, permission));
}
int creat64(const char *path, mode_t permission) { return creat(path, permission); }

static int close_locked(int fd) {
    if (fd >= 0 && fd < FILES) files[fd] = 0;
    return syscall(SYS_close, fd);
}
int close(int fd) { LOCKED(int, close_locked(fd)); }

static int same(int from, int to) {
    if (to >= 0 && to < FILES) files[to] = file_of(from);
    return to;
}
int dup(int fd) { LOCKED(int, same(fd, syscall(SYS_dup, fd))); }
int dup3(int fd, int to, int flags) { LOCKED(int, same(fd, syscall(SYS_dup3, fd, to, flags))); }
int dup2(int fd, int to) { return fd == to ? to : dup3(fd, to, 0); }

static int fcntl_locked(int fd, int command, void *argument) {
    int result = syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? same(fd, result) : result;
}
#define FCNTL(function)                                      \
    int function(int fd, int command, ...) {                 \
        va_list rest;                                        \
        va_start(rest, command);                             \
        void *argument = va_arg(rest, void *);               \
        va_end(rest);                                        \
        LOCKED(int, fcntl_locked(fd, command, argument));    \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---- data ---- */

/* `offset` < 0: at the position of the descriptor. */
static ssize_t write_locked(int fd, const void *data, size_t size, off_t offset) {
    uint32_t file = file_of(fd);
    if (file) {
        int error = fault('w', names[file]);
        if (error > 0) {
            errno = error;
            return -1;
        }
        if (error < 0) size = (size + 1) / 2;
    }
    off_t at = offset;
    if (file && offset < 0) {
        int end = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
        at = syscall(SYS_lseek, fd, 0, end ? SEEK_END : SEEK_CUR);
    }
    ssize_t written = offset < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, offset);
    if (file && written > 0) record('w', file, at, names[file], data, written);
    return written;
}
/* Descriptors that are not watched do not wait for each other: one may block. */
ssize_t write(int fd, const void *data, size_t size) {
    if (!file_of(fd)) return syscall(SYS_write, fd, data, size);
    LOCKED(ssize_t, write_locked(fd, data, size, -1));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    LOCKED(ssize_t, write_locked(fd, data, size, offset));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return pwrite(fd, data, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int parts_count) {
    if (!file_of(fd)) return syscall(SYS_writev, fd, parts, parts_count);
    /* One part: a write may always be short. */
    for (int part = 0; part < parts_count; part++)
        if (parts[part].iov_len) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

/* Those who copy within the kernel fall back to `write`. */
ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size, unsigned flags) {
    if (!file_of(to)) return syscall(SYS_copy_file_range, from, from_offset, to, to_offset, size, flags);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    if (!file_of(to)) return syscall(SYS_sendfile, to, from, offset, size);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) { return sendfile(to, from, offset, size); }

static int truncate_locked(int fd, off_t length) {
    uint32_t file = file_of(fd);
    if (file && fails('t', names[file])) return -1;
    int result = syscall(SYS_ftruncate, fd, length);
    if (file && !result) record('t', file, length, names[file], NULL, 0);
    return result;
}
int ftruncate(int fd, off_t length) { LOCKED(int, truncate_locked(fd, length)); }
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

static int sync_locked(long call, int fd) {
    uint32_t file = file_of(fd);
    if (file && fails('s', names[file])) return -1;
    /* The real disk need not be waited for. */
    if (!file) return syscall(call, fd);
    record('s', file, 0, names[file], NULL, 0);
    return 0;
}
int fsync(int fd) { LOCKED(int, sync_locked(SYS_fsync, fd)); }
int fdatasync(int fd) { LOCKED(int, sync_locked(SYS_fdatasync, fd)); }

/* ---- names ---- */

static int rename_locked(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    char from_name[PATH_MAX], to_name[PATH_MAX];
    int known = watched(from_directory, from, from_name) && watched(to_directory, to, to_name);
    known = known && there(from_directory, from);
    if (known && fails('r', to_name)) return -1;
    int result = syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    if (known && !result) record('r', 0, flags, from_name, to_name, strlen(to_name));
    return result;
}
int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    LOCKED(int, rename_locked(from_directory, from, to_directory, to, flags));
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return renameat2(from_directory, from, to_directory, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

static int mkdir_locked(int directory, const char *path, mode_t permission) {
    char name[PATH_MAX];
    int known = watched(directory, path, name) && !there(directory, path);
    if (known && fails('m', name)) return -1;
    int result = syscall(SYS_mkdirat, directory, path, permission);
    if (known && !result) record('m', 0, 0, name, NULL, 0);
    return result;
}
int mkdirat(int directory, const char *path, mode_t permission) {
    LOCKED(int, mkdir_locked(directory, path, permission));
}
int mkdir(const char *path, mode_t permission) { return mkdirat(AT_FDCWD, path, permission); }

static int unlink_locked(int directory, const char *path, int flags) {
    char name[PATH_MAX], kind = flags & AT_REMOVEDIR ? 'x' : 'u';
    int known = watched(directory, path, name) && there(directory, path);
    if (known && fails(kind, name)) return -1;
    int result = syscall(SYS_unlinkat, directory, path, flags);
    if (known && !result) record(kind, 0, 0, name, NULL, 0);
    return result;
}
int unlinkat(int directory, const char *path, int flags) { LOCKED(int, unlink_locked(directory, path, flags)); }
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

static int link_locked(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    char from_name[PATH_MAX], to_name[PATH_MAX];
    int known = watched(from_directory, from, from_name) && watched(to_directory, to, to_name);
    known = known && there(from_directory, from) && !there(to_directory, to);
    if (known && fails('l', to_name)) return -1;
    int result = syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
    if (known && !result) record('l', 0, 0, from_name, to_name, strlen(to_name));
    return result;
}
int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    LOCKED(int, link_locked(from_directory, from, to_directory, to, flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

static int symlink_locked(const char *target, int directory, const char *path) {
    char name[PATH_MAX];
    int known = watched(directory, path, name) && !there(directory, path);
    if (known && fails('y', name)) return -1;
    int result = syscall(SYS_symlinkat, target, directory, path);
    if (known && !result) record('y', 0, 0, name, target, strlen(target));
    return result;
}
int symlinkat(const char *target, int directory, const char *path) {
    LOCKED(int, symlink_locked(target, directory, path));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

/* ---- clocks ---- */

/* Seconds that the clocks are off by now; it changes with one call in eight. */
static time_t jump(void) {
    static time_t offset;
    pthread_mutex_lock(&lock);
    clock_state ^= clock_state << 13;
    clock_state ^= clock_state >> 7;
    clock_state ^= clock_state << 17;
    if (clock_state % 8 == 0) offset = (time_t)(clock_state / 8 % 86400) - 43200;
    time_t now = offset;
    pthread_mutex_unlock(&lock);
    return now;
}
int clock_gettime(clockid_t id, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, id, time);
    if (!result && clock_state && id != CLOCK_PROCESS_CPUTIME_ID && id != CLOCK_THREAD_CPUTIME_ID) {
        time->tv_sec += jump();
        if (time->tv_sec < 0) time->tv_sec = 0;
    }
    return result;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *there) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (there) *there = now.tv_sec;
    return now.tv_sec;
}
