/* SPDX-License-Identifier: MIT */
/*
 * The OpenCL driver from inside. OpenCL 1.2 only; what a device has beyond that is detected.
 *
 * A device has one context and one in-order queue, which all sessions share: OpenCL's functions
 * may be called from any thread, and what the driver itself keeps has a mutex in each part below.
 */
#ifndef SOBRE_CL_H
#define SOBRE_CL_H

#include <stdatomic.h>

#include <CL/cl.h>

#include "cl_cache.h"
#include "driver.h"

typedef struct cl_dev cl_dev;

/* --- Failures (cl_error.c) */

const char *cl_error_name(cl_int error); /* "CL_OUT_OF_RESOURCES"; static */
gpu_error cl_error_of(const cl_dev *dev, cl_int error);
/* What follows the error is the call, as a printf format with arguments. */
#define cl_problem_set(problem, dev, error, ...) \
    gpu_problem_set(problem, cl_error_of(dev, error), __VA_ARGS__)
#define cl_fail(dev, error, ...) gpu_report(&(dev)->base, cl_error_of(dev, error), __VA_ARGS__)

/* --- Parts of a device. All-zero ones can be closed. */

/* Copies of small writes until the device has taken them (cl_memory.c). */
enum { CL_N_STAGES = 16, CL_STAGE_SIZE = 16 << 10 };
typedef struct cl_staging {
    gpu_sync sync;
    char *data;                 /* [CL_N_STAGES][CL_STAGE_SIZE] */
    cl_event done[CL_N_STAGES]; /* NULL: free */
    uint32_t next;
} cl_staging;

/* Tickets (cl_launch.c). */
typedef struct cl_fences {
    gpu_sync sync;
    cl_event markers[GPU_N_TICKETS];
    uint64_t last;           /* ticket; 0: none yet */
    atomic_uint n_unflushed; /* launches */
} cl_fences;

/* Is CLBlast right and fast on this device (cl_blas.c)? */
enum { CL_BLAS_UNKNOWN, CL_BLAS_TESTING, CL_BLAS_USE, CL_BLAS_SHUN };
typedef struct cl_blas {
    gpu_sync sync;
    os_thread *thread;
    atomic_int verdict;
    atomic_bool touched; /* CLBlast keeps something of this device */
    atomic_bool closing;
} cl_blas;

struct cl_dev {
    sobre_device base; /* at the beginning: a sobre_device is one of these */
    cl_platform_id platform;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;
    char name[128];
    cl_hash identity; /* of device, driver, platform and this library */
    uint64_t memory;  /* bytes */
    bool is_gpu, unified, tells_free;
    cl_staging staging;
    cl_fences fences;
    gpu_programs programs;
    cl_blas blas;
};

static inline cl_dev *cl_dev_of(sobre_device *device)
{
    return (cl_dev *)device;
}

struct gpu_mem {
    cl_mem handle;
    uint64_t size; /* bytes */
};

/* cl_device.c: slots of sobre_backend */
sobre_status cl_device_count(const sobre_host *host, int32_t *ret_n);
sobre_status cl_device_describe(const sobre_host *host, int32_t index, sobre_device_info *ret_info);
sobre_status cl_device_open(const sobre_host *host, int32_t index, sobre_device **ret_device);
void cl_device_close(sobre_device *device);
void cl_memory_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free);

/* cl_memory.c */
sobre_status cl_staging_open(cl_dev *dev);
void cl_staging_close(cl_dev *dev);
sobre_status cl_memory_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                             gpu_mem **ret_mem, void **ret_host);
void cl_memory_free(sobre_device *device, gpu_mem *mem);
sobre_status cl_memory_write(sobre_device *device, gpu_mem *mem, uint64_t offset, const void *data,
                             uint64_t size);
sobre_status cl_memory_read(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                            uint64_t size);
sobre_status cl_memory_copy(sobre_device *device, gpu_mem *to, uint64_t to_offset, gpu_mem *from,
                            uint64_t from_offset, uint64_t size);

/* cl_program.c */
extern const gpu_compiler cl_compiler;
/* The compiled program, which stays the device's; waits for it. */
sobre_status cl_program_get(cl_dev *dev, const gpu_variant *variant, cl_program *ret_program,
                            gpu_problem *problem);
void cl_kernel_prepare(sobre_device *device, const gpu_variant *variant);

/* cl_launch.c */
sobre_status cl_fences_open(cl_dev *dev);
void cl_fences_close(cl_dev *dev);
sobre_status cl_kernel_make(sobre_device *device, const gpu_variant *variant, const gpu_arg *args,
                            int32_t n_args, gpu_kernel **ret_kernel);
void cl_kernel_free(sobre_device *device, gpu_kernel *kernel);
sobre_status cl_launch(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                       uint32_t n_groups_y);
sobre_status cl_fence(sobre_device *device, uint64_t *ret_ticket);
sobre_status cl_fence_poll(sobre_device *device, uint64_t ticket);
sobre_status cl_fence_wait(sobre_device *device, uint64_t ticket);

/* cl_blas.c */
sobre_status cl_blas_open(cl_dev *dev);
void cl_blas_close(cl_dev *dev);
bool cl_blas_use(sobre_device *device);
sobre_status cl_blas_work_size(sobre_device *device, const gpu_gemm *gemm, uint64_t *ret_size);
sobre_status cl_blas_gemm(sobre_device *device, const gpu_gemm *gemm);

#endif
