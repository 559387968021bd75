/* Stands between a process and its C library: the regular files in one folder, FAULTY_DISK, are on a disk that is full or
 * slow, as the file beside it says whose name ends in ".fault": "full", or "slow" and milliseconds. Each call that felt it
 * adds a byte to the file beside it whose name ends in ".hits". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void count(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.hits", folder);
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0) {
        syscall(SYS_write, file, "x", 1);
        close(file);
    }
}

/* 1 when a write fails; otherwise waits as long as it takes. */
static int suffer(const char *path, int is_write)
{
    const char *folder = getenv("FAULTY_DISK");
    if (folder == NULL || strncmp(path, folder, strlen(folder)) != 0 || path[strlen(folder)] != '/')
        return 0;
    char name[4096], fault[32] = "";
    snprintf(name, sizeof name, "%s.fault", folder);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, fault, sizeof fault - 1);
    close(file);
    if (length <= 0)
        return 0;
    if (strncmp(fault, "slow ", 5) == 0) {
        long milliseconds = atol(fault + 5);
        struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
        count(folder);
        nanosleep(&time, NULL);
        return 0;
    }
    if (is_write && strncmp(fault, "full", 4) == 0) {
        count(folder);
        return 1;
    }
    return 0;
}

static int suffer_file(int file, int is_write)
{
    struct stat status;
    char link[64], path[4096];
    if (getenv("FAULTY_DISK") == NULL || fstat(file, &status) != 0 || !S_ISREG(status.st_mode))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return suffer(path, is_write);
}

ssize_t write(int file, const void *bytes, size_t length)
{
    int before = errno;
    if (suffer_file(file, 1)) {
        errno = ENOSPC;
        return -1;
    }
    errno = before;
    return syscall(SYS_write, file, bytes, length);
}

int ftruncate64(int file, off64_t length)
{
    suffer_file(file, 0);
    return (int)syscall(SYS_ftruncate, file, length);
}

int unlink(const char *path)
{
    suffer(path, 0);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
