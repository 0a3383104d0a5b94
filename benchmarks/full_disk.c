/* Stands between a process and libc: from the n-th write below a folder on, the disk is full.
   Compiled and preloaded by benchmarks/faults.py, which sets `fail_from` and `folder` in the child. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

long fail_from = 0;     /* 0: never */
long writes_seen = 0;
char folder[4096] = "";
int names = -1;         /* descriptor that takes the name of each file written to */

static int full(int fd) {
    char link[64], path[4096];
    if (!folder[0] || fd == names) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0) return 0;
    writes_seen++;
    if (names >= 0) {
        static ssize_t (*plain)(int, const void *, size_t);
        if (!plain) plain = dlsym(RTLD_NEXT, "write");
        plain(names, path, strlen(path));
        plain(names, "\n", 1);
    }
    return fail_from && writes_seen >= fail_from;
}

ssize_t write(int fd, const void *data, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (full(fd)) { errno = ENOSPC; return -1; }
    return real(fd, data, count);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (full(fd)) { errno = ENOSPC; return -1; }
    return real(fd, data, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    if (full(fd)) { errno = ENOSPC; return -1; }
    return real(fd, parts, count);
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t count) {
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "sendfile64");
    if (full(out)) { errno = ENOSPC; return -1; }
    return real(out, in, at, count);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *at, size_t count, unsigned flags) {
    static ssize_t (*real)(int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!real) real = dlsym(RTLD_NEXT, "copy_file_range");
    if (full(out)) { errno = ENOSPC; return -1; }
    return real(in, from, out, at, count, flags);
}
