/* SPDX-License-Identifier: MIT */
/* Everything that comes from the operating system; os_posix*.c and os_win32.c implement it. Nothing
 * here reports errors to a context: functions return false or a value that says so, and
 * os_error_text() names the cause. */
#ifndef SOBRE_OS_H
#define SOBRE_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- Files */
typedef struct os_file {
    intptr_t handle;
} os_file;

bool os_file_open(const char *path,
                  os_file *ret_file); /* for reading; path is UTF-8; only regular files */
void os_file_close(os_file file);
bool os_file_size(os_file file, uint64_t *ret_size);
/* Reads exactly `size` bytes; false also at the end of the file (then os_error_text() says so). Any
 * thread. */
bool os_file_read_at(os_file file, uint64_t offset, void *buffer, size_t size);
bool os_file_map(os_file file, uint64_t size, const void **ret_data);
void os_file_unmap(const void *data, uint64_t size);
/* Tells the system that a range will be read soon. */
void os_file_will_need(os_file file, uint64_t offset, uint64_t size);
/* Writes a whole small file that its owner alone may read, over an old one. Others see the old or
 * the new one, never a part. Makes the folder if it is missing. */
bool os_file_replace(const char *path, const void *data, size_t size);
bool os_file_remove(const char *path);
/* The last failure of an os_ call on this thread, as text in `buffer`. */
const char *os_error_text(char *buffer, size_t size);

/* --- Memory */
/* Zeroed pages straight from the system, committed as they are touched. `huge`: ask for huge pages.
 */
void *os_pages_alloc(size_t size, bool huge);
void os_pages_free(void *pages, size_t size);
void *os_aligned_alloc(size_t size, size_t align); /* not zeroed */
void os_aligned_free(void *ptr);
void os_memory_info(uint64_t *ret_total,
                    uint64_t *ret_free); /* of the machine, cgroup limits respected; 0: unknown */

/* --- Time */
uint64_t os_now_ns(void); /* monotonic */

/* --- Threads */
typedef struct os_thread
    os_thread; /* opaque, made by os_thread_start with the given storage functions */
typedef struct os_mutex {
    void *impl[8];
} os_mutex;
typedef struct os_cond {
    void *impl[8];
} os_cond;

/* Storage for thread objects is inside: os_thread_start uses os_aligned_alloc. NULL if no thread
 * can be had. */
os_thread *os_thread_start(void (*run)(void *arg), void *arg);
void os_thread_join(os_thread *thread);
uint64_t os_thread_id(void); /* of the calling thread; never 0 */
uint64_t os_process_id(void);
bool os_mutex_init(os_mutex *mutex);
void os_mutex_destroy(os_mutex *mutex);
void os_mutex_lock(os_mutex *mutex);
void os_mutex_unlock(os_mutex *mutex);
bool os_cond_init(os_cond *cond);
void os_cond_destroy(os_cond *cond);
void os_cond_wait(os_cond *cond, os_mutex *mutex);
void os_cond_broadcast(os_cond *cond);
/* Sleeps while *word == expected, until woken (or for no reason); like a futex. */
void os_word_wait(atomic_uint *word, unsigned expected);
void os_word_wake_all(atomic_uint *word);

enum { OS_MAX_CPUS = 8192 }; /* ids of CPUs are below */

/* Fills cpus[] with ids of logical CPUs this process may run on: one of each physical core first,
 * the fastest kind of cores before others, then the CPUs that share a core with one of those. A
 * quota of CPU time shortens the list. *ret_n_cores gets how many of them are distinct cores.
 * Returns how many were written. */
int os_cpus(int *cpus, int capacity, int *ret_n_cores);
/* How many of those cores, the first n, are of the fastest kind; n where kinds are not told. */
int os_fast_cores(const int *cpus, int n);
/* Does a quota leave this process less time than its CPUs have? */
bool os_cpu_time_limited(void);
/* A number that CPUs of one core share. */
int os_cpu_core(int cpu);
/* The CPU that the calling thread runs on; -1: unknown. */
int os_cpu_now(void);
/* Has a thread (NULL: the calling one) run on these CPUs only; false if not possible (no harm). */
bool os_thread_confine(os_thread *thread, const int *cpus, int n);

/* --- Events: a flag that other threads and signal handlers can raise, and that poll() can wait for
 */
typedef struct os_event {
    intptr_t handle[2];
} os_event;

bool os_event_init(os_event *event);
void os_event_destroy(os_event *event);
void os_event_raise(os_event *event); /* async-signal-safe */
void os_event_clear(os_event *event);
bool os_event_wait(os_event *event,
                   int timeout_ms);     /* below 0: for ever; true if raised; does not clear */
int os_event_fd(const os_event *event); /* -1 where there is none */

/* --- Libraries */
/* The folder of the program or library that holds this code; false if the system does not tell or
 * the path is longer than `size`. */
bool os_own_folder(char *ret_path, size_t size);
void *os_library_open(const char *path); /* local symbols, bound now; NULL if it cannot be loaded */
void *os_library_symbol(void *library, const char *name);
void os_library_close(void *library);

#endif
