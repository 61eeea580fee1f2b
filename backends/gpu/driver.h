/* SPDX-License-Identifier: MIT */
/*
 * What drivers of GPUs do alike: failures as text, tickets for work that is done in order, programs
 * that are compiled once and in the background.
 */
#ifndef SOBRE_GPU_DRIVER_H
#define SOBRE_GPU_DRIVER_H

#include "gpu.h"
#include "os.h"

#if defined(__MINGW32__)
#define GPU_PRINTF(nth, args) __attribute__((format(gnu_printf, nth, args)))
#elif defined(__GNUC__)
#define GPU_PRINTF(nth, args) __attribute__((format(printf, nth, args)))
#else
#define GPU_PRINTF(nth, args)
#endif

/* --- Failures (driver.c) */

/* A failure as text, for threads that have nobody to report to. */
typedef struct gpu_problem {
    sobre_status status;
    char text[1000];
} gpu_problem;

/* What a call of a driver's API returned. */
typedef struct gpu_error {
    sobre_status status; /* what it means for the caller */
    const char *device;  /* its name */
    const char *name;    /* "CL_OUT_OF_RESOURCES" */
    int code;
} gpu_error;

/* "CALL failed on DEVICE: NAME (CODE); ADVICE", where `call` is a printf format:
 * "clCreateBuffer(%zu bytes)". Kept in `problem`, or reported; both return the status. */
sobre_status gpu_problem_set(gpu_problem *problem, gpu_error error, const char *call, ...)
    GPU_PRINTF(3, 4);
sobre_status gpu_report(const sobre_device *device, gpu_error error, const char *call, ...)
    GPU_PRINTF(3, 4);
/* Reports a problem that was kept; returns its status. */
sobre_status gpu_problem_report(const sobre_device *device, const gpu_problem *problem);

/* --- Devices (driver.c). `api` is "OpenCL" or "CUDA". */

/* What kernels take for granted. */
enum { GPU_MIN_LOCAL = 32 << 10, GPU_MIN_GROUP = 256 };

/* Fails if there is no device `index` among n. */
sobre_status gpu_check_index(const sobre_host *host, const char *api, int32_t index, int32_t n);
/* Fails if there is a reason not to use it. */
sobre_status gpu_check_usable(const sobre_host *host, const char *api, int32_t index,
                              const char *name, const char *reason);
/* Fills in the texts of what a device is, "" for no reason; on failure all of it stays as it was.
 */
sobre_status gpu_describe(const sobre_host *host, const sobre_device_info *info, const char *name,
                          const char *detail, const char *reason, sobre_device_info *ret_info);

/* --- A plugin's table: the slots that do not depend on the driver, and what its entry returns. */
#define GPU_BACKEND_SLOTS                                                                       \
    .alignment = gpu_alignment, .max_buffer = gpu_max_buffer, .buffer_alloc = gpu_buffer_alloc, \
    .buffer_free = gpu_buffer_free, .write = gpu_write, .read = gpu_read, .copy = gpu_copy,     \
    .host_pointer = gpu_host_pointer, .supports = gpu_supports, .weight_size = gpu_weight_size, \
    .weight_pack = gpu_weight_pack, .kv_page_size = gpu_kv_page_size,                           \
    .workspace_size = gpu_workspace_size, .prepare = gpu_prepare, .compile = gpu_compile,       \
    .exec_free = gpu_exec_free, .run = gpu_run, .n_launches = gpu_n_launches,                   \
    .count_launches = gpu_count_launches

/* NULL, after a report, if the library is too old for it. */
const sobre_backend *gpu_backend_for(const sobre_host *host, const sobre_backend *backend);

/* --- Mutex and condition. An all-zero one can be closed. */
typedef struct gpu_sync {
    os_mutex mutex;
    os_cond cond;
    bool ready;
} gpu_sync;

sobre_status gpu_sync_open(gpu_sync *sync, const sobre_host *host);
void gpu_sync_close(gpu_sync *sync);

/* --- Tickets: markers among work that is done in order. Ticket t has slot t % GPU_N_TICKETS until
 * a later one takes its place, which is then as good. */
enum { GPU_N_TICKETS = 64 };

/* Where the marker of `ticket` is, when `last` is the newest; -1: there was no such ticket. */
int32_t gpu_ticket_slot(uint64_t last, uint64_t ticket);

/* --- Compiled programs (programs.c). Each is compiled once a device: by threads in the background
 * after prepare, or by the first who needs it; all others wait for that. All entries of a file that
 * have the same group and defines are one program. */

typedef enum gpu_built {
    GPU_BUILT,
    GPU_BUILD_REFUSED, /* it will be again: remembered */
    GPU_BUILD_FAILED,  /* for a reason that may pass */
} gpu_built;

typedef struct gpu_compiler {
    /* From any thread, with no lock held; a problem where it is not built. */
    gpu_built (*build)(sobre_device *device, const gpu_variant *variant, void **ret_program,
                       gpu_problem *problem);
    void (*release)(sobre_device *device, void *program);
} gpu_compiler;

enum { GPU_MAX_COMPILERS = 3 };
typedef struct gpu_program_entry gpu_program_entry;
typedef struct gpu_programs {
    sobre_device *device;
    const gpu_compiler *compiler;
    gpu_sync sync;
    gpu_program_entry *first, *last;
    os_thread *threads[GPU_MAX_COMPILERS];
    int32_t n_threads, n_wanted; /* asked for by prepare, not begun */
    bool closing;
} gpu_programs;

sobre_status gpu_programs_open(gpu_programs *programs, sobre_device *device,
                               const gpu_compiler *compiler);
/* Waits for what is being built; what was asked for and not begun is dropped. */
void gpu_programs_close(gpu_programs *programs);
void gpu_programs_prepare(gpu_programs *programs, const gpu_variant *variant);
/* The compiled program, which stays the device's. A problem is not reported. */
sobre_status gpu_programs_get(gpu_programs *programs, const gpu_variant *variant,
                              void **ret_program, gpu_problem *problem);

#endif
