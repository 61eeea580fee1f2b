/* SPDX-License-Identifier: MIT */
/* The operating system on Windows 8 and later: see os.h. */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0602
#endif
#define WIN32_LEAN_AND_MEAN
#include "os.h"

#include <windows.h>

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"

/* Failures are kept in the thread's last error. */
const char *os_error_text(char *buffer, size_t size)
{
    const DWORD error = GetLastError();
    wchar_t wide[256];
    DWORD n;
    if (size == 0) return "";
    if (error == ERROR_HANDLE_EOF) {
        snprintf(buffer, size, "the file ends too early");
        return buffer;
    }
    if (error == ERROR_BAD_FILE_TYPE) {
        snprintf(buffer, size, "not a regular file");
        return buffer;
    }
    n = FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, error, 0,
                       wide, sizeof wide / sizeof *wide, NULL);
    while (n > 0 && (wide[n - 1] <= L' ' || wide[n - 1] == L'.')) n--; /* ". CR LF" */
    if (n > 0) {
        char text[4 * sizeof wide / sizeof *wide];
        const int length =
            WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, text, sizeof text, NULL, NULL);
        snprintf(buffer, size, "%.*s", length, text);
    } else {
        snprintf(buffer, size, "Windows error %lu", (unsigned long)error);
    }
    return buffer;
}

/* UTF-8 to UTF-16, to be freed with os_aligned_free(). */
static wchar_t *to_wide(const char *text)
{
    const int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    wchar_t *wide = n > 0 ? os_aligned_alloc((size_t)n * sizeof *wide, sizeof *wide) : NULL;
    if (wide) MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, n);
    return wide;
}

/* --- Files */

bool os_file_open(const char *path, os_file *ret_file)
{
    /* Nobody may write or truncate the file meanwhile; removing and renaming is fine. */
    const DWORD share = FILE_SHARE_READ | FILE_SHARE_DELETE;
    wchar_t *wide = to_wide(path);
    HANDLE handle;
    DWORD error;
    if (!wide) return false;
    /* Overlapped, so that threads read at offsets of their own without a shared position. */
    handle = CreateFileW(wide, GENERIC_READ, share, NULL, OPEN_EXISTING,
                         FILE_ATTRIBUTE_NORMAL | FILE_FLAG_OVERLAPPED, NULL);
    error = GetLastError();
    os_aligned_free(wide);
    if (handle != INVALID_HANDLE_VALUE && GetFileType(handle) != FILE_TYPE_DISK) {
        CloseHandle(handle);
        handle = INVALID_HANDLE_VALUE;
        error = ERROR_BAD_FILE_TYPE;
    }
    SetLastError(error);
    if (handle == INVALID_HANDLE_VALUE) return false;
    ret_file->handle = (intptr_t)handle;
    return true;
}

void os_file_close(os_file file)
{
    CloseHandle((HANDLE)file.handle);
}

bool os_file_size(os_file file, uint64_t *ret_size)
{
    LARGE_INTEGER size;
    if (!GetFileSizeEx((HANDLE)file.handle, &size)) return false;
    *ret_size = (uint64_t)size.QuadPart;
    return true;
}

bool os_file_read_at(os_file file, uint64_t offset, void *buffer, size_t size)
{
    char *to = buffer;
    bool ok = true;
    DWORD error = 0;
    HANDLE done = size > 0 ? CreateEventW(NULL, TRUE, FALSE, NULL) : NULL;
    if (size > 0 && !done) return false;
    while (ok && size > 0) {
        const DWORD want = size < (1u << 30) ? (DWORD)size : 1u << 30;
        OVERLAPPED at = {.hEvent = done};
        DWORD n = 0;
        at.Offset = (DWORD)offset;
        at.OffsetHigh = (DWORD)(offset >> 32);
        ok = (ReadFile((HANDLE)file.handle, to, want, NULL, &at) ||
              GetLastError() == ERROR_IO_PENDING) &&
             GetOverlappedResult((HANDLE)file.handle, &at, &n, TRUE);
        if (!ok) error = GetLastError();
        if (ok && n == 0) {
            ok = false;
            error = ERROR_HANDLE_EOF;
        }
        to += n;
        offset += n;
        size -= n;
    }
    if (done) CloseHandle(done);
    if (!ok) SetLastError(error);
    return ok;
}

bool os_file_map(os_file file, uint64_t size, const void **ret_data)
{
    size_t length;
    const void *data = NULL;
    HANDLE mapping;
    DWORD error;
    if (!checked_size(size, &length) || length == 0) {
        SetLastError(ERROR_FILE_INVALID);
        return false;
    }
    mapping = CreateFileMappingW((HANDLE)file.handle, NULL, PAGE_READONLY, (DWORD)(size >> 32),
                                 (DWORD)size, NULL);
    if (!mapping) return false;
    data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, length);
    error = GetLastError();
    CloseHandle(mapping); /* the view keeps it */
    SetLastError(error);
    if (!data) return false;
    *ret_data = data;
    return true;
}

void os_file_unmap(const void *data, uint64_t size)
{
    if (data) UnmapViewOfFile(data);
}

void os_file_will_need(os_file file, uint64_t offset, uint64_t size)
{
    /* Windows reads ahead by itself, and takes advice only on mapped ranges. */
}

/* Makes the folders that `path` stands in; path is changed on the way, and whole again after. */
static bool make_folders(wchar_t *path)
{
    for (wchar_t *c = path; *c; c++) {
        if ((*c != L'/' && *c != L'\\') || c == path || c[-1] == L':') continue;
        const wchar_t slash = *c;
        *c = 0;
        const bool made = CreateDirectoryW(path, NULL) || GetLastError() == ERROR_ALREADY_EXISTS;
        *c = slash;
        if (!made) return false;
    }
    return true;
}

static HANDLE create_file(const wchar_t *path)
{
    return CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL, NULL);
}

/* The user's cache folder is the user's alone already, and files inherit that. */
bool os_file_replace(const char *path, const void *data, size_t size)
{
    const size_t length = strlen(path) + 2 * 16 + 3;
    char *part = size <= UINT32_MAX ? os_aligned_alloc(length, 1) : NULL;
    wchar_t *wide = to_wide(path), *wide_part = NULL;
    DWORD n = 0, error;
    bool written = false;
    if (part) {
        snprintf(part, length, "%s.%llx-%llx", path, (unsigned long long)os_process_id(),
                 (unsigned long long)os_thread_id());
        wide_part = to_wide(part);
    }
    if (wide && wide_part) {
        HANDLE file = create_file(wide_part);
        if (file == INVALID_HANDLE_VALUE && GetLastError() == ERROR_PATH_NOT_FOUND &&
            make_folders(wide_part))
            file = create_file(wide_part);
        if (file != INVALID_HANDLE_VALUE) {
            written = WriteFile(file, data, (DWORD)size, &n, NULL) && n == size;
            written = CloseHandle(file) && written;
            written = written && MoveFileExW(wide_part, wide, MOVEFILE_REPLACE_EXISTING);
            error = GetLastError();
            if (!written) DeleteFileW(wide_part);
            SetLastError(error);
        }
    }
    error = GetLastError();
    os_aligned_free(wide);
    os_aligned_free(wide_part);
    os_aligned_free(part);
    SetLastError(error);
    return written;
}

bool os_file_remove(const char *path)
{
    wchar_t *wide = to_wide(path);
    const bool ok = wide && DeleteFileW(wide);
    const DWORD error = GetLastError();
    os_aligned_free(wide);
    SetLastError(error);
    return ok;
}

/* --- Memory */

/* Large pages need a privilege that programs seldom have, so `huge` changes nothing. Committed
 * pages get memory when they are touched, as elsewhere. */
void *os_pages_alloc(size_t size, bool huge)
{
    return VirtualAlloc(NULL, size ? size : 1, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void os_pages_free(void *pages, size_t size)
{
    if (pages) VirtualFree(pages, 0, MEM_RELEASE);
}

void *os_aligned_alloc(size_t size, size_t align)
{
    void *ptr = _aligned_malloc(size ? size : 1, align < sizeof(void *) ? sizeof(void *) : align);
    if (!ptr) SetLastError(ERROR_NOT_ENOUGH_MEMORY);
    return ptr;
}

void os_aligned_free(void *ptr)
{
    _aligned_free(ptr);
}

void os_memory_info(uint64_t *ret_total, uint64_t *ret_free)
{
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION job;
    uint64_t total = 0, available = 0;
    if (GlobalMemoryStatusEx(&status)) {
        total = status.ullTotalPhys;
        available = status.ullAvailPhys;
    }
    if (QueryInformationJobObject(NULL, JobObjectExtendedLimitInformation, &job, sizeof job,
                                  NULL)) { /* containers are jobs */
        const DWORD flags = job.BasicLimitInformation.LimitFlags;
        if ((flags & JOB_OBJECT_LIMIT_JOB_MEMORY) && job.JobMemoryLimit < total)
            total = job.JobMemoryLimit;
        if ((flags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) && job.ProcessMemoryLimit < total)
            total = job.ProcessMemoryLimit;
    }
    *ret_total = total;
    *ret_free = available < total ? available : total;
}

/* --- Time */

uint64_t os_now_ns(void)
{
    LARGE_INTEGER frequency, now;
    uint64_t seconds, rest;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&now);
    seconds = (uint64_t)(now.QuadPart / frequency.QuadPart);
    rest = (uint64_t)(now.QuadPart % frequency.QuadPart);
    return seconds * 1000000000u + rest * 1000000000u / (uint64_t)frequency.QuadPart;
}

/* --- Threads */

struct os_thread {
    HANDLE handle;
    void (*run)(void *arg);
    void *arg;
};

static DWORD WINAPI thread_main(void *arg)
{
    const os_thread *thread = arg;
    thread->run(thread->arg);
    return 0;
}

os_thread *os_thread_start(void (*run)(void *arg), void *arg)
{
    os_thread *thread = os_aligned_alloc(sizeof *thread, sizeof(void *));
    if (!thread) return NULL;
    thread->run = run;
    thread->arg = arg;
    thread->handle = CreateThread(NULL, 0, thread_main, thread, 0, NULL);
    if (thread->handle) return thread;
    os_aligned_free(thread);
    return NULL;
}

void os_thread_join(os_thread *thread)
{
    if (!thread) return;
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
    os_aligned_free(thread);
}

uint64_t os_thread_id(void)
{
    return GetCurrentThreadId();
}

uint64_t os_process_id(void)
{
    return GetCurrentProcessId();
}

_Static_assert(sizeof(SRWLOCK) <= sizeof(os_mutex), "os_mutex is too small");
_Static_assert(sizeof(CONDITION_VARIABLE) <= sizeof(os_cond), "os_cond is too small");

bool os_mutex_init(os_mutex *mutex)
{
    InitializeSRWLock((SRWLOCK *)mutex);
    return true;
}

void os_mutex_destroy(os_mutex *mutex)
{
}

void os_mutex_lock(os_mutex *mutex)
{
    AcquireSRWLockExclusive((SRWLOCK *)mutex);
}

void os_mutex_unlock(os_mutex *mutex)
{
    ReleaseSRWLockExclusive((SRWLOCK *)mutex);
}

bool os_cond_init(os_cond *cond)
{
    InitializeConditionVariable((CONDITION_VARIABLE *)cond);
    return true;
}

void os_cond_destroy(os_cond *cond)
{
}

void os_cond_wait(os_cond *cond, os_mutex *mutex)
{
    SleepConditionVariableSRW((CONDITION_VARIABLE *)cond, (SRWLOCK *)mutex, INFINITE, 0);
}

void os_cond_broadcast(os_cond *cond)
{
    WakeAllConditionVariable((CONDITION_VARIABLE *)cond);
}

/* Both are in the import library "synchronization". */
void os_word_wait(atomic_uint *word, unsigned expected)
{
    WaitOnAddress((volatile void *)word, &expected, sizeof expected, INFINITE);
}

void os_word_wake_all(atomic_uint *word)
{
    WakeByAddressAll((void *)word);
}

/* CPU ids are bits of the process's affinity mask: the CPUs of one processor group. */
enum { N_CPU_BITS = 8 * sizeof(DWORD_PTR) };

typedef struct cpu_core {
    DWORD_PTR mask; /* of its CPUs that this process may run on */
    int speed;      /* the system's efficiency class: higher is faster */
} cpu_core;

/* The cores of this process's group, the fastest first. Returns how many. */
static int list_cores(cpu_core *ret_cores)
{
    DWORD_PTR allowed = 1, system_mask;
    GROUP_AFFINITY own = {0};
    DWORD size = 0;
    char *info = NULL;
    int n = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &allowed, &system_mask) || !allowed)
        allowed = 1;
    GetThreadGroupAffinity(GetCurrentThread(), &own);
    GetLogicalProcessorInformationEx(RelationProcessorCore, NULL, &size); /* says how much */
    if (size > 0) info = os_aligned_alloc(size, sizeof(void *));
    if (info &&
        GetLogicalProcessorInformationEx(RelationProcessorCore,
                                         (SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *)info, &size)) {
        for (DWORD at = 0; at < size && n < N_CPU_BITS;) {
            const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *e = (const void *)(info + at);
            const GROUP_AFFINITY *group = &e->Processor.GroupMask[0];
            /* The byte behind Flags is EfficiencyClass, which older headers reserve. */
            const cpu_core core = {group->Mask & allowed, ((const BYTE *)&e->Processor)[1]};
            at += e->Size;
            if (group->Group != own.Group || !core.mask) continue;
            int i = n++;
            for (; i > 0 && ret_cores[i - 1].speed < core.speed; i--)
                ret_cores[i] = ret_cores[i - 1];
            ret_cores[i] = core;
        }
    }
    os_aligned_free(info);
    for (int cpu = 0; n == 0 && cpu < N_CPU_BITS; cpu++) /* not told: each its own */
        if (allowed >> cpu & 1) ret_cores[n++] = (cpu_core){(DWORD_PTR)1 << cpu, 0};
    return n;
}

static int lowest_cpu(DWORD_PTR mask)
{
    int cpu = 0;
    while (!(mask >> cpu & 1)) cpu++;
    return cpu;
}

int os_cpus(int *cpus, int capacity, int *ret_n_cores)
{
    cpu_core cores[N_CPU_BITS];
    const int n_cores = list_cores(cores);
    int n = 0;
    for (int i = 0; i < n_cores && n < capacity; i++) cpus[n++] = lowest_cpu(cores[i].mask);
    *ret_n_cores = n;
    for (int i = 0; i < n_cores; i++) {
        DWORD_PTR rest = cores[i].mask & (cores[i].mask - 1);
        for (; rest && n < capacity; rest &= rest - 1) cpus[n++] = lowest_cpu(rest);
    }
    return n;
}

int os_fast_cores(const int *cpus, int n)
{
    cpu_core cores[N_CPU_BITS];
    const int n_cores = list_cores(cores);
    int n_fast = 0;
    (void)cpus; /* in the same order */
    while (n_fast < n && n_fast < n_cores && cores[n_fast].speed == cores[0].speed) n_fast++;
    return n_fast;
}

bool os_cpu_time_limited(void)
{
    return false;
}

int os_cpu_core(int cpu)
{
    cpu_core cores[N_CPU_BITS];
    const int n_cores = list_cores(cores);
    for (int i = 0; i < n_cores; i++)
        if (cpu >= 0 && cpu < N_CPU_BITS && cores[i].mask >> cpu & 1)
            return lowest_cpu(cores[i].mask);
    return cpu;
}

int os_cpu_now(void)
{
    return (int)GetCurrentProcessorNumber();
}

bool os_thread_confine(os_thread *thread, const int *cpus, int n)
{
    DWORD_PTR mask = 0;
    for (int i = 0; i < n; i++) {
        if (cpus[i] < 0 || cpus[i] >= N_CPU_BITS) return false;
        mask |= (DWORD_PTR)1 << cpus[i];
    }
    return SetThreadAffinityMask(thread ? thread->handle : GetCurrentThread(), mask) != 0;
}

/* --- Events */

bool os_event_init(os_event *event)
{
    HANDLE handle = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (!handle) return false;
    event->handle[0] = event->handle[1] = (intptr_t)handle;
    return true;
}

void os_event_destroy(os_event *event)
{
    CloseHandle((HANDLE)event->handle[0]);
}

void os_event_raise(os_event *event)
{
    SetEvent((HANDLE)event->handle[0]);
}

void os_event_clear(os_event *event)
{
    ResetEvent((HANDLE)event->handle[0]);
}

bool os_event_wait(os_event *event, int timeout_ms)
{
    const DWORD timeout = timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms;
    return WaitForSingleObject((HANDLE)event->handle[0], timeout) == WAIT_OBJECT_0;
}

int os_event_fd(const os_event *event)
{
    return -1;
}

/* --- Libraries */

bool os_own_folder(char *ret_path, size_t size)
{
    const DWORD flags =
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    HMODULE self;
    wchar_t wide[MAX_PATH], *slash;

    if (!GetModuleHandleExW(flags, (const wchar_t *)(uintptr_t)os_own_folder, &self)) return false;
    const DWORD n = GetModuleFileNameW(self, wide, MAX_PATH);
    if (n == 0 || n >= MAX_PATH || !(slash = wcsrchr(wide, L'\\'))) return false;
    *slash = 0;
    return WideCharToMultiByte(CP_UTF8, 0, wide, -1, ret_path, (int)size, NULL, NULL) > 0;
}

void *os_library_open(const char *path)
{
    wchar_t *wide = to_wide(path);
    HMODULE library = wide ? LoadLibraryW(wide) : NULL;
    const DWORD error = GetLastError();
    os_aligned_free(wide);
    SetLastError(error);
    return (void *)library;
}

void *os_library_symbol(void *library, const char *name)
{
    return (void *)(uintptr_t)GetProcAddress((HMODULE)library, name);
}

void os_library_close(void *library)
{
    if (library) FreeLibrary((HMODULE)library);
}
