/* SPDX-License-Identifier: MIT */
/*
 * The CUDA driver from inside.
 *
 * A device has its primary context, which the host program may use too, and one stream of its own,
 * which all sessions share. The driver API may be called from any thread; a context is current for
 * a thread only between cu_enter() and cu_leave(), so that the host program finds its own as it
 * was.
 */
#ifndef SOBRE_CU_H
#define SOBRE_CU_H

#include "cu_api.h"
#include "driver.h"

typedef struct cu_dev cu_dev;

/* Pinned memory through which the host's data go (cu_memory.c). */
enum { CU_N_STAGES = 16, CU_STAGE_SIZE = 256 << 10 };
typedef struct cu_staging {
    gpu_sync writing, reading; /* each guards its part */
    char *data;                /* [CU_N_STAGES + 1][CU_STAGE_SIZE]; the last one is for reading */
    CUevent done[CU_N_STAGES]; /* of the last copy out of each stage */
    uint32_t next;
    CUevent read; /* of the copy into the last stage */
} cu_staging;

/* Tickets (cu_launch.c). */
typedef struct cu_fences {
    gpu_sync sync;
    CUevent markers[GPU_N_TICKETS];
    uint64_t last; /* ticket; 0: none yet */
} cu_fences;

struct cu_dev {
    sobre_device base; /* at the beginning: a sobre_device is one of these */
    cu_api api;
    CUdevice id;
    CUcontext context;
    CUstream stream;
    char name[128];
    uint64_t memory; /* bytes */
    cu_staging staging;
    cu_fences fences;
    gpu_programs programs;
};

static inline cu_dev *cu_dev_of(sobre_device *device)
{
    return (cu_dev *)device;
}

struct gpu_mem {
    CUdeviceptr at;
};

/* cu_device.c */
gpu_error cu_error_of(const cu_dev *dev, CUresult error);
/* What follows the error is the call, as a printf format with arguments. */
#define cu_problem_set(problem, dev, error, ...) \
    gpu_problem_set(problem, cu_error_of(dev, error), __VA_ARGS__)
#define cu_fail(dev, error, ...) gpu_report(&(dev)->base, cu_error_of(dev, error), __VA_ARGS__)
/* Makes the device's context current for this thread, and what was there before again. */
sobre_status cu_enter(const cu_dev *dev);
void cu_leave(const cu_dev *dev);
/* Both say which call it was that returned the result. */
CUresult cu_event_query(const cu_dev *dev, CUevent event, const char **ret_call);
/* Spins briefly, since most waits are short, then sleeps. */
CUresult cu_event_wait(const cu_dev *dev, CUevent event, const char **ret_call);
CUresult cu_event_make(const cu_dev *dev, CUevent *ret_event);
/* Slots of sobre_backend. */
sobre_status cu_device_count(const sobre_host *host, int32_t *ret_n);
sobre_status cu_device_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info);
sobre_status cu_device_open(const sobre_host *host, int32_t index, sobre_device **ret_device);
void cu_device_close(sobre_device *device);
void cu_memory_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free);

/* cu_memory.c: the context is current in open and close */
sobre_status cu_staging_open(cu_dev *dev);
void cu_staging_close(cu_dev *dev);
sobre_status cu_memory_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                             gpu_mem **ret_mem, void **ret_host);
void cu_memory_free(sobre_device *device, gpu_mem *mem);
sobre_status cu_memory_write(sobre_device *device, gpu_mem *mem, uint64_t offset, const void *data,
                             uint64_t size);
sobre_status cu_memory_read(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                            uint64_t size);
sobre_status cu_memory_copy(sobre_device *device, gpu_mem *to, uint64_t to_offset, gpu_mem *from,
                            uint64_t from_offset, uint64_t size);

/* cu_module.c */
extern const gpu_compiler cu_compiler;
void cu_kernel_prepare(sobre_device *device, const gpu_variant *variant);
/* The function of a variant, checked against the arguments that it will get. */
sobre_status cu_function_get(cu_dev *dev, const gpu_variant *variant, const gpu_arg *args,
                             int32_t n_args, CUfunction *ret_function);

/* cu_launch.c: the context is current in open and close */
sobre_status cu_fences_open(cu_dev *dev);
void cu_fences_close(cu_dev *dev);
sobre_status cu_kernel_make(sobre_device *device, const gpu_variant *variant, const gpu_arg *args,
                            int32_t n_args, gpu_kernel **ret_kernel);
void cu_kernel_free(sobre_device *device, gpu_kernel *kernel);
sobre_status cu_launch(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                       uint32_t n_groups_y);
sobre_status cu_fence(sobre_device *device, uint64_t *ret_ticket);
sobre_status cu_fence_poll(sobre_device *device, uint64_t ticket);
sobre_status cu_fence_wait(sobre_device *device, uint64_t ticket);

#endif
