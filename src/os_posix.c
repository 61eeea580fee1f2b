/* SPDX-License-Identifier: MIT */
/* The operating system on Linux and other POSIX systems: see os.h. What only Linux has (eventfd,
 * futex, affinity, control groups) stands under __linux__ beside a portable fallback. */
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

#ifdef __linux__
/* The start of a small text file, zero-terminated; "" if it cannot be read. */
static const char *read_text(const char *path, char *buffer, size_t size)
{
    size_t used = 0;
    ssize_t n = 1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && n != 0 && used < size - 1) {
        n = read(fd, buffer + used, size - 1 - used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        used += (size_t)n;
    }
    if (fd >= 0) close(fd);
    buffer[used] = 0;
    return buffer;
}

/* The number after `key` at the start of a line. */
static bool find_number(const char *text, const char *key, uint64_t *ret_value)
{
    const size_t length = strlen(key);
    for (; text; text = strchr(text, '\n'), text = text ? text + 1 : NULL) {
        if (strncmp(text, key, length) != 0) continue;
        text += length;
        text += strspn(text, " \t");
        if (*text < '0' || *text > '9') return false;
        *ret_value = strtoull(text, NULL, 10);
        return true;
    }
    return false;
}

/* A control group of this process. Limits of all its ancestors hold too; inside a container the
 * path may not be visible, and its root is then the container's own group. */
typedef struct cgroup {
    char path[PATH_MAX];
    size_t root_size; /* of the part of the path that is the mount point */
    bool v2;
} cgroup;

/* Is `name` one of the `size` bytes of comma-separated names? */
static bool list_has(const char *list, size_t size, const char *name)
{
    const size_t length = strlen(name);
    for (size_t i = 0; i + length <= size; i++) {
        if (strncmp(list + i, name, length) == 0 && (i == 0 || list[i - 1] == ',') &&
            (i + length == size || list[i + length] == ','))
            return true;
    }
    return false;
}

/* Lines of /proc/self/cgroup are "id:controllers:path"; version 2 has no controllers there. */
static bool cgroup_find(const char *controller, cgroup *ret_group)
{
    char text[8192];
    bool found = false;
    const char *line = read_text("/proc/self/cgroup", text, sizeof text);
    for (; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        const char *names = strchr(line, ':');
        const char *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) break;
        names++;
        const size_t names_size = (size_t)(path - names);
        const int path_size = (int)strcspn(path + 1, "\n");
        const bool v2 = names_size == 0;
        if (v2 ? found : !list_has(names, names_size, controller)) continue;
        ret_group->v2 = v2;
        ret_group->root_size =
            (size_t)snprintf(ret_group->path, sizeof ret_group->path, "/sys/fs/cgroup%s%s",
                             v2 ? "" : "/", v2 ? "" : controller);
        found = snprintf(ret_group->path + ret_group->root_size,
                         sizeof ret_group->path - ret_group->root_size, "%.*s", path_size,
                         path + 1) < (int)(sizeof ret_group->path - ret_group->root_size);
    }
    return found;
}

static bool cgroup_parent(cgroup *group)
{
    char *last = strrchr(group->path + group->root_size, '/');
    if (!last) return false;
    *last = 0;
    return true;
}

static const char *cgroup_read(const cgroup *group, const char *file, char *buffer, size_t size)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", group->path, file);
    return read_text(path, buffer, size);
}

static void limit_by_cgroups(uint64_t *total, uint64_t *available)
{
    cgroup group;
    char text[8192];
    if (!cgroup_find("memory", &group)) return;
    do {
        uint64_t limit, used, cached;
        const char *file = group.v2 ? "memory.max" : "memory.limit_in_bytes";
        if (!find_number(cgroup_read(&group, file, text, sizeof text), "", &limit)) continue;
        if (limit < *total) *total = limit;
        file = group.v2 ? "memory.current" : "memory.usage_in_bytes";
        if (!find_number(cgroup_read(&group, file, text, sizeof text), "", &used)) continue;
        cgroup_read(&group, "memory.stat", text, sizeof text); /* cached files can be dropped */
        for (int active = 0; active < 2; active++) {
            const char *keys[2][2] = {{"total_inactive_file", "total_active_file"},
                                      {"inactive_file", "active_file"}};
            if (find_number(text, keys[group.v2][active], &cached))
                used -= cached < used ? cached : used;
        }
        limit -= used < limit ? used : limit;
        if (limit < *available) *available = limit;
    } while (cgroup_parent(&group));
}

/* CPUs that the control groups' quotas pay for, rounded up; INT_MAX without a quota. */
static int cpu_quota(void)
{
    cgroup group;
    char text[64];
    int n_cpus = INT_MAX;
    if (!cgroup_find("cpu", &group)) return n_cpus;
    do {
        uint64_t quota, period, n;
        if (group.v2) { /* "200000 100000", or "max 100000" */
            const char *space = strchr(cgroup_read(&group, "cpu.max", text, sizeof text), ' ');
            if (!space || !find_number(text, "", &quota) || !find_number(space + 1, "", &period))
                continue;
        } else { /* the quota is -1 where there is none */
            cgroup_read(&group, "cpu.cfs_quota_us", text, sizeof text);
            if (!find_number(text, "", &quota)) continue;
            cgroup_read(&group, "cpu.cfs_period_us", text, sizeof text);
            if (!find_number(text, "", &period)) continue;
        }
        if (quota == 0 || period == 0) continue;
        n = quota / period + (quota % period != 0);
        if (n < (uint64_t)n_cpus) n_cpus = (int)n;
    } while (cgroup_parent(&group));
    return n_cpus;
}
#endif

void os_memory_info(uint64_t *ret_total, uint64_t *ret_free)
{
    uint64_t total = 0, available = 0;
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) total = (uint64_t)pages * (uint64_t)page;
#ifdef __linux__
    char text[4096];
    uint64_t kib;
    if (find_number(read_text("/proc/meminfo", text, sizeof text), "MemAvailable:", &kib))
        available = kib << 10;
    limit_by_cgroups(&total, &available);
#endif
    *ret_total = total;
    *ret_free = available;
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
enum { MAX_CPUS = 8192 };
typedef struct cpu_bits {
    cpu_set_t sets[MAX_CPUS / CPU_SETSIZE];
} cpu_bits;

static const char *cpu_text(int cpu, const char *file, char *buffer, size_t size)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
    return read_text(path, buffer, size);
}

/* The lowest CPU of the core; `cpu` itself if that is not known. */
int os_cpu_core(int cpu)
{
    char text[256];
    uint64_t first;
    if (!find_number(cpu_text(cpu, "topology/thread_siblings_list", text, sizeof text), "",
                     &first) ||
        first >= MAX_CPUS)
        return cpu;
    return (int)first;
}

/* Comparable between the CPUs of a machine; 0 if it does not tell. */
static uint64_t cpu_speed(int cpu)
{
    static const char *const files[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
    char text[64];
    uint64_t speed;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (find_number(cpu_text(cpu, files[i], text, sizeof text), "", &speed)) return speed;
    return 0;
}

/* Cores of one kind differ by a few per cent, kinds by a quarter or more. */
static bool is_fast(uint64_t speed, uint64_t fastest)
{
    return speed >= fastest - fastest / 6;
}

int os_fast_cores(const int *cpus, int n)
{
    int n_fast = 0;
    uint64_t fastest = 0;
    for (int i = 0; i < n; i++) {
        const uint64_t speed = cpu_speed(cpus[i]);
        if (speed > fastest) fastest = speed;
    }
    while (n_fast < n && is_fast(cpu_speed(cpus[n_fast]), fastest)) n_fast++;
    return n_fast;
}

static int n_allowed(cpu_bits *ret_allowed)
{
    const size_t size = sizeof *ret_allowed;
    if (sched_getaffinity(0, size, ret_allowed->sets) != 0) CPU_SET_S(0, size, ret_allowed->sets);
    return CPU_COUNT_S(size, ret_allowed->sets);
}

bool os_cpu_time_limited(void)
{
    cpu_bits allowed = {0};
    return cpu_quota() < n_allowed(&allowed);
}

int os_cpus(int *cpus, int capacity, int *ret_n_cores)
{
    cpu_bits allowed = {0}, cores = {0}, firsts = {0};
    const size_t size = sizeof(cpu_bits);
    uint64_t speeds[MAX_CPUS], fastest = 0;
    const int quota = cpu_quota();
    if (quota < capacity) capacity = quota;
    n_allowed(&allowed);
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!CPU_ISSET_S(cpu, size, allowed.sets)) continue;
        const int core = os_cpu_core(cpu);
        if (CPU_ISSET_S(core, size, cores.sets)) continue;
        CPU_SET_S(core, size, cores.sets);
        CPU_SET_S(cpu, size, firsts.sets);
        CPU_CLR_S(cpu, size, allowed.sets); /* only the others of each core stay there */
        speeds[cpu] = cpu_speed(cpu);
        if (speeds[cpu] > fastest) fastest = speeds[cpu];
    }
    int n = 0;
    for (int slow = 0; slow < 2; slow++)
        for (int cpu = 0; cpu < MAX_CPUS && n < capacity; cpu++)
            if (CPU_ISSET_S(cpu, size, firsts.sets) && is_fast(speeds[cpu], fastest) == !slow)
                cpus[n++] = cpu;
    *ret_n_cores = n;
    for (int cpu = 0; cpu < MAX_CPUS && n < capacity; cpu++)
        if (CPU_ISSET_S(cpu, size, allowed.sets)) cpus[n++] = cpu;
    return n;
}

int os_cpu_now(void)
{
    return sched_getcpu();
}

bool os_thread_confine(os_thread *thread, const int *cpus, int n)
{
    cpu_bits set = {0};
    for (int i = 0; i < n; i++) {
        if (cpus[i] < 0 || cpus[i] >= MAX_CPUS) return false;
        CPU_SET_S(cpus[i], sizeof set, set.sets);
    }
    return pthread_setaffinity_np(thread ? thread->thread : pthread_self(), sizeof set, set.sets) ==
           0;
}
#else
int os_cpus(int *cpus, int capacity, int *ret_n_cores)
{
    const long n_online = sysconf(_SC_NPROCESSORS_ONLN);
    int n = n_online > 0 && n_online < capacity ? (int)n_online : n_online > 0 ? capacity : 1;
    for (int i = 0; i < n; i++) cpus[i] = i;
    *ret_n_cores = n;
    return n;
}

int os_fast_cores(const int *cpus, int n)
{
    (void)cpus;
    return n;
}

bool os_cpu_time_limited(void)
{
    return false;
}

int os_cpu_core(int cpu)
{
    return cpu;
}

int os_cpu_now(void)
{
    return -1;
}

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
