/* SPDX-License-Identifier: MIT */
/* The operating system on Linux and other POSIX systems: see os.h; what the machine has is in
 * os_posix_machine.c. What only Linux has (eventfd, futex, affinity) stands under __linux__ beside
 * a portable fallback. */
#include "os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#endif

#include "checked.h"

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

enum { HUGE_PAGE = 2 << 20 };

/* Failures are kept in errno. Three of its values are given a text of their own. */
enum { OS_END_OF_FILE = ENODATA, OS_NOT_REGULAR = ESPIPE, OS_LIBRARY = ENOEXEC };

const char *os_error_text(char *buffer, size_t size)
{
    int error = errno;
    const char *text = NULL;
    if (size == 0) return "";
    if (error == OS_END_OF_FILE) text = "the file ends too early";
    if (error == OS_NOT_REGULAR) text = "not a regular file";
    if (error == OS_LIBRARY) text = dlerror();
    if (!text) {
#ifdef __GLIBC__
        text = strerror_r(error, buffer, size);
#else
        text = strerror_r(error, buffer, size) == 0 ? buffer : "unknown error";
#endif
    }
    if (text != buffer) snprintf(buffer, size, "%s", text);
    return buffer;
}

/* --- Files */

bool os_file_open(const char *path, os_file *ret_file)
{
    struct stat info;
    int fd, error;
    do { /* not blocking, so that a FIFO without a writer is refused, not waited for */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return false;
    if (fstat(fd, &info) == 0) {
        if (S_ISREG(info.st_mode)) {
            ret_file->handle = fd;
            return true;
        }
        errno = S_ISDIR(info.st_mode) ? EISDIR : OS_NOT_REGULAR;
    }
    error = errno;
    close(fd);
    errno = error;
    return false;
}

void os_file_close(os_file file)
{
    close((int)file.handle);
}

bool os_file_size(os_file file, uint64_t *ret_size)
{
    struct stat info;
    if (fstat((int)file.handle, &info) != 0) return false;
    *ret_size = (uint64_t)info.st_size;
    return true;
}

/* Does a range fit the system's signed offsets? */
static bool range_ok(uint64_t offset, uint64_t size)
{
    uint64_t end;
    const uint64_t max = sizeof(off_t) == 8 ? INT64_MAX : INT32_MAX;
    if (checked_add(offset, size, &end) && end <= max) return true;
    errno = EOVERFLOW;
    return false;
}

bool os_file_read_at(os_file file, uint64_t offset, void *buffer, size_t size)
{
    char *to = buffer;
    if (!range_ok(offset, size)) return false;
    while (size > 0) {
        const size_t max = (size_t)1 << 30; /* Linux reads less than 2 GiB a call */
        ssize_t n = pread((int)file.handle, to, size < max ? size : max, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = OS_END_OF_FILE;
        if (n <= 0) return false;
        to += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return true;
}

bool os_file_map(os_file file, uint64_t size, const void **ret_data)
{
    size_t length;
    void *data;
    if (!checked_size(size, &length)) {
        errno = EOVERFLOW;
        return false;
    }
    data = mmap(NULL, length, PROT_READ, MAP_PRIVATE, (int)file.handle, 0);
    if (data == MAP_FAILED) return false;
    *ret_data = data;
    return true;
}

void os_file_unmap(const void *data, uint64_t size)
{
    if (data) munmap((void *)(uintptr_t)data, (size_t)size);
}

void os_file_will_need(os_file file, uint64_t offset, uint64_t size)
{
#ifdef POSIX_FADV_WILLNEED
    if (range_ok(offset, size))
        posix_fadvise((int)file.handle, (off_t)offset, (off_t)size, POSIX_FADV_WILLNEED);
#endif
}

/* Makes the folders that `path` stands in; path is changed on the way, and whole again after. */
static bool make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        const bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!made) return false;
    }
    return true;
}

/* A file that outgrows the process's limit raises SIGXFSZ, which kills by default: it is held back
 * meanwhile, and taken away. */
static bool write_all(int fd, const char *data, size_t size)
{
    sigset_t too_large, before, pending;
    int error = 0, number;
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, &before);
    while (size > 0 && error == 0) {
        const ssize_t n = write(fd, data, size);
        if (n < 0) {
            error = errno == EINTR ? 0 : errno;
            continue;
        }
        data += n;
        size -= (size_t)n;
    }
    if (error == EFBIG && !sigismember(&before, SIGXFSZ) && sigpending(&pending) == 0 &&
        sigismember(&pending, SIGXFSZ))
        sigwait(&too_large, &number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error == 0;
}

bool os_file_replace(const char *path, const void *data, size_t size)
{
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s.%llx-%llx", path, (unsigned long long)os_process_id(),
                 (unsigned long long)os_thread_id()) >= (int)sizeof part) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(part, flags, 0600);
    if (fd < 0 && errno == ENOENT && make_folders(part)) fd = open(part, flags, 0600);
    /* Left by a process of the same number that was killed. */
    if (fd < 0 && errno == EEXIST && unlink(part) == 0) fd = open(part, flags, 0600);
    if (fd < 0) return false;
    bool written = write_all(fd, data, size);
    int error = errno;
    if (close(fd) != 0 && written) {
        written = false;
        error = errno;
    }
    if (written && rename(part, path) != 0) {
        written = false;
        error = errno;
    }
    if (!written) unlink(part);
    errno = error;
    return written;
}

bool os_file_remove(const char *path)
{
    return unlink(path) == 0;
}

/* --- Memory */

void *os_pages_alloc(size_t size, bool huge)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t rounded, with_slack;
    size_t length, head;
    char *pages;
    if (size < HUGE_PAGE) huge = false;
    if (!checked_round_up(size ? size : 1, page, &rounded) ||
        !checked_add(rounded, huge ? HUGE_PAGE : 0, &with_slack) ||
        !checked_size(with_slack, &length)) {
        errno = ENOMEM;
        return NULL;
    }
    pages = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    if (huge) { /* huge pages are aligned: cut the slack off on both sides */
        head = -(uintptr_t)pages & (HUGE_PAGE - 1);
        if (head > 0) munmap(pages, head);
        if (head < HUGE_PAGE) munmap(pages + head + rounded, HUGE_PAGE - head);
        pages += head;
    }
#ifdef MADV_HUGEPAGE
    /* Without the second advice one touched byte may commit 2 MiB. Either may be refused. */
    madvise(pages, (size_t)rounded, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    return pages;
}

void os_pages_free(void *pages, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (pages) munmap(pages, ((size ? size : 1) + page - 1) & ~(page - 1));
}

void *os_aligned_alloc(size_t size, size_t align)
{
    void *ptr;
    int error;
    if (align < sizeof(void *)) align = sizeof(void *);
    error = posix_memalign(&ptr, align, size ? size : 1);
    if (error == 0) return ptr;
    errno = error;
    return NULL;
}

void os_aligned_free(void *ptr)
{
    free(ptr);
}

/* --- Time */

uint64_t os_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- Threads */

struct os_thread {
    pthread_t thread;
    void (*run)(void *arg);
    void *arg;
};

static void *thread_main(void *arg)
{
    os_thread *thread = arg;
#ifdef __linux__
    pthread_setname_np(pthread_self(), "sobre");
#endif
    thread->run(thread->arg);
    return NULL;
}

os_thread *os_thread_start(void (*run)(void *arg), void *arg)
{
    /* Signals of a fault go to the thread that caused it; all others are the host's business. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF};
    sigset_t blocked, before;
    int error;
    os_thread *thread = os_aligned_alloc(sizeof *thread, sizeof(void *));
    if (!thread) return NULL;
    thread->run = run;
    thread->arg = arg;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    error = pthread_create(&thread->thread, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) return thread;
    os_aligned_free(thread);
    errno = error;
    return NULL;
}

void os_thread_join(os_thread *thread)
{
    if (!thread) return;
    pthread_join(thread->thread, NULL);
    os_aligned_free(thread);
}

uint64_t os_thread_id(void)
{
    return (uint64_t)(uintptr_t)pthread_self();
}

uint64_t os_process_id(void)
{
    return (uint64_t)getpid();
}

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(os_mutex), "os_mutex is too small");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(os_cond), "os_cond is too small");

bool os_mutex_init(os_mutex *mutex)
{
    return pthread_mutex_init((pthread_mutex_t *)mutex, NULL) == 0;
}

void os_mutex_destroy(os_mutex *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

void os_mutex_lock(os_mutex *mutex)
{
    pthread_mutex_lock((pthread_mutex_t *)mutex);
}

void os_mutex_unlock(os_mutex *mutex)
{
    pthread_mutex_unlock((pthread_mutex_t *)mutex);
}

bool os_cond_init(os_cond *cond)
{
    return pthread_cond_init((pthread_cond_t *)cond, NULL) == 0;
}

void os_cond_destroy(os_cond *cond)
{
    pthread_cond_destroy((pthread_cond_t *)cond);
}

void os_cond_wait(os_cond *cond, os_mutex *mutex)
{
    pthread_cond_wait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex);
}

void os_cond_broadcast(os_cond *cond)
{
    pthread_cond_broadcast((pthread_cond_t *)cond);
}

#ifdef __linux__
_Static_assert(sizeof(atomic_uint) == sizeof(uint32_t), "a futex is 32 bits");

void os_word_wait(atomic_uint *word, unsigned expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void os_word_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
/* Looks at the word ever more seldom, at least every 2 ms; nobody has to wake it. */
void os_word_wait(atomic_uint *word, unsigned expected)
{
    struct timespec pause = {0, 50000};
    while (atomic_load_explicit(word, memory_order_acquire) == expected) {
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 2000000) pause.tv_nsec *= 2;
    }
}

void os_word_wake_all(atomic_uint *word)
{
    (void)word;
}
#endif

#ifdef __linux__
bool os_thread_confine(os_thread *thread, const int *cpus, int n)
{
    cpu_set_t sets[OS_MAX_CPUS / CPU_SETSIZE] = {0};
    for (int i = 0; i < n; i++) {
        if (cpus[i] < 0 || cpus[i] >= OS_MAX_CPUS) return false;
        CPU_SET_S(cpus[i], sizeof sets, sets);
    }
    return pthread_setaffinity_np(thread ? thread->thread : pthread_self(), sizeof sets, sets) == 0;
}
#else
bool os_thread_confine(os_thread *thread, const int *cpus, int n)
{
    (void)thread, (void)cpus, (void)n;
    return false;
}
#endif

/* --- Events: an eventfd, or a pipe that holds a byte while the event is raised */

bool os_event_init(os_event *event)
{
#ifdef __linux__
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return false;
    event->handle[0] = event->handle[1] = fd;
#else
    int fds[2];
    if (pipe(fds) != 0) return false;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
        event->handle[i] = fds[i];
    }
#endif
    return true;
}

void os_event_destroy(os_event *event)
{
    close((int)event->handle[0]);
    if (event->handle[1] != event->handle[0]) close((int)event->handle[1]);
}

void os_event_raise(os_event *event)
{
    const int error = errno; /* a signal handler must not change it */
    const uint64_t one = 1;
    ssize_t n;
    do { /* a full pipe or counter is a raised event already */
        n = write((int)event->handle[1], &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    errno = error;
}

void os_event_clear(os_event *event)
{
    uint64_t drain[8];
    ssize_t n;
    do { /* until it would block */
        n = read((int)event->handle[0], drain, sizeof drain);
    } while (n > 0 || (n < 0 && errno == EINTR));
}

bool os_event_wait(os_event *event, int timeout_ms)
{
    struct pollfd fd = {.fd = (int)event->handle[0], .events = POLLIN};
    const uint64_t start = os_now_ns();
    int left = timeout_ms, n;
    while ((n = poll(&fd, 1, left)) < 0 && errno == EINTR) {
        if (timeout_ms <= 0) continue;
        const uint64_t passed = (os_now_ns() - start) / 1000000;
        left = passed < (uint64_t)timeout_ms ? timeout_ms - (int)passed : 0;
    }
    return n > 0;
}

int os_event_fd(const os_event *event)
{
    return (int)event->handle[0];
}

/* --- Libraries */

bool os_own_folder(char *ret_path, size_t size)
{
    Dl_info info;
    char path[PATH_MAX];
    const char *slash;

    if (!dladdr((void *)(uintptr_t)os_own_folder, &info) || !info.dli_fname) return false;
    if (info.dli_fname[0] == '/') {
        if (strlen(info.dli_fname) >= sizeof path) return false;
        strcpy(path, info.dli_fname);
    } else { /* the program itself, as it was called */
        const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
        if (n <= 0) return false;
        path[n] = 0;
    }
    slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) >= size) return false;
    memcpy(ret_path, path, (size_t)(slash - path));
    ret_path[slash - path] = 0;
    return true;
}

void *os_library_open(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) errno = OS_LIBRARY;
    return library;
}

void *os_library_symbol(void *library, const char *name)
{
    return dlsym(library, name);
}

void os_library_close(void *library)
{
    if (library) dlclose(library);
}
