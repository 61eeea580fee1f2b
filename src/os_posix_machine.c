/* SPDX-License-Identifier: MIT */
/* Memory and CPUs of the machine, on Linux and other POSIX systems: see os.h. What Linux tells, and
 * its control groups limit, stands under __linux__ beside a portable fallback. */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#endif

/* --- Memory, and quotas of control groups */

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

/* --- CPUs */

#ifdef __linux__
typedef struct cpu_bits {
    cpu_set_t sets[OS_MAX_CPUS / CPU_SETSIZE];
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
        first >= OS_MAX_CPUS)
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
    uint64_t speeds[OS_MAX_CPUS], fastest = 0;
    const int quota = cpu_quota();
    if (quota < capacity) capacity = quota;
    n_allowed(&allowed);
    for (int cpu = 0; cpu < OS_MAX_CPUS; cpu++) {
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
        for (int cpu = 0; cpu < OS_MAX_CPUS && n < capacity; cpu++)
            if (CPU_ISSET_S(cpu, size, firsts.sets) && is_fast(speeds[cpu], fastest) == !slow)
                cpus[n++] = cpu;
    *ret_n_cores = n;
    for (int cpu = 0; cpu < OS_MAX_CPUS && n < capacity; cpu++)
        if (CPU_ISSET_S(cpu, size, allowed.sets)) cpus[n++] = cpu;
    return n;
}

int os_cpu_now(void)
{
    return sched_getcpu();
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
#endif
