/* SPDX-License-Identifier: MIT */
/* A driver for what GPU backends share: memory is the host's, kernels do nothing, launches are
 * written down, each call can be made to fail. */
#ifndef FAKE_GPU_H
#define FAKE_GPU_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#include "context.h"
#include "gpu.h"

enum { FAKE_MAX_LOG = 64 };

struct gpu_mem {
    uint64_t size;
    uint8_t *data;
};

struct gpu_kernel {
    gpu_variant variant;
    gpu_args args;
};

typedef struct launched {
    char entry[32]; /* "gemm" for products of the library */
    uint32_t x, y;
} launched;

typedef struct fake {
    sobre_device device; /* first */
    sobre_context *ctx;
    test_memory memory;
    long long n_calls, fail_at; /* of the driver; from 1, 0: none */
    int32_t n_live;             /* memories and kernels */
    uint64_t live_size;
    bool has_blas;
    launched log[FAKE_MAX_LOG];
    int32_t n_log, n_prepared;
    const gpu_mem *written; /* by the last mem_write */
    uint64_t written_size;
    gpu_gemm gemm;
} fake;

static inline fake *fake_of(sobre_device *device)
{
    return (fake *)device;
}

static inline sobre_status fake_call(sobre_device *device, const char *name)
{
    fake *f = fake_of(device);
    if (++f->n_calls != f->fail_at) return SOBRE_OK;
    return device->host->fail(device->host->context, SOBRE_DEVICE, "fake: %s failed", name);
}

static inline sobre_status fake_mem_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                                          gpu_mem **ret_mem, void **ret_host)
{
    GPU_TRY(fake_call(device, "mem_alloc"));
    gpu_mem *m = malloc(sizeof *m);
    assert_non_null(m);
    *m = (gpu_mem){size, malloc((size_t)size)};
    assert_non_null(m->data);
    memset(m->data, 0xff, (size_t)size);
    fake_of(device)->n_live++;
    fake_of(device)->live_size += size;
    *ret_mem = m;
    *ret_host = NULL;
    return SOBRE_OK;
}

static inline void fake_mem_free(sobre_device *device, gpu_mem *mem)
{
    fake_of(device)->n_live--;
    fake_of(device)->live_size -= mem->size;
    free(mem->data);
    free(mem);
}

static inline sobre_status fake_mem_write(sobre_device *device, gpu_mem *mem, uint64_t offset,
                                          const void *data, uint64_t size)
{
    GPU_TRY(fake_call(device, "mem_write"));
    assert_true(offset <= mem->size && size <= mem->size - offset);
    memcpy(mem->data + offset, data, (size_t)size);
    fake_of(device)->written = mem;
    fake_of(device)->written_size = size;
    return SOBRE_OK;
}

static inline sobre_status fake_mem_read(sobre_device *device, gpu_mem *mem, uint64_t offset,
                                         void *ret_data, uint64_t size)
{
    GPU_TRY(fake_call(device, "mem_read"));
    memcpy(ret_data, mem->data + offset, (size_t)size);
    return SOBRE_OK;
}

static inline sobre_status fake_mem_copy(sobre_device *device, gpu_mem *to, uint64_t to_offset,
                                         gpu_mem *from, uint64_t from_offset, uint64_t size)
{
    GPU_TRY(fake_call(device, "mem_copy"));
    memcpy(to->data + to_offset, from->data + from_offset, (size_t)size);
    return SOBRE_OK;
}

static inline void fake_kernel_prepare(sobre_device *device, const gpu_variant *variant)
{
    fake_of(device)->n_prepared++;
}

static inline sobre_status fake_kernel_make(sobre_device *device, const gpu_variant *variant,
                                            const gpu_arg *args, int32_t n_args,
                                            gpu_kernel **ret_kernel)
{
    GPU_TRY(fake_call(device, "kernel_make"));
    gpu_kernel *k = malloc(sizeof *k);
    assert_non_null(k);
    k->variant = *variant;
    k->args.n = n_args;
    for (int32_t i = 0; i < n_args; i++) {
        k->args.a[i] = args[i];
        if (args[i].kind == GPU_ARG_MEM) assert_non_null(args[i].u.mem);
    }
    fake_of(device)->n_live++;
    *ret_kernel = k;
    return SOBRE_OK;
}

static inline void fake_kernel_free(sobre_device *device, gpu_kernel *kernel)
{
    fake_of(device)->n_live--;
    free(kernel);
}

static inline void log_launch(fake *f, const char *entry, uint32_t x, uint32_t y)
{
    assert_true(f->n_log < FAKE_MAX_LOG);
    launched *l = &f->log[f->n_log++];
    snprintf(l->entry, sizeof l->entry, "%s", entry);
    l->x = x;
    l->y = y;
}

static inline sobre_status fake_launch(sobre_device *device, gpu_kernel *kernel,
                                       uint32_t n_groups_x, uint32_t n_groups_y)
{
    GPU_TRY(fake_call(device, "launch"));
    assert_true(n_groups_x > 0 && n_groups_y > 0);
    log_launch(fake_of(device), kernel->variant.entry, n_groups_x, n_groups_y);
    return SOBRE_OK;
}

static inline bool fake_blas_use(sobre_device *device)
{
    return fake_of(device)->has_blas;
}

static inline sobre_status fake_blas_work_size(sobre_device *device, const gpu_gemm *gemm,
                                               uint64_t *ret_size)
{
    *ret_size = 0;
    return SOBRE_OK;
}

static inline sobre_status fake_blas_gemm(sobre_device *device, const gpu_gemm *gemm)
{
    GPU_TRY(fake_call(device, "blas_gemm"));
    fake_of(device)->gemm = *gemm;
    log_launch(fake_of(device), "gemm", (uint32_t)gemm->m, 1);
    return SOBRE_OK;
}

static const gpu_driver fake_driver = {
    .mem_alloc = fake_mem_alloc,
    .mem_free = fake_mem_free,
    .mem_write = fake_mem_write,
    .mem_read = fake_mem_read,
    .mem_copy = fake_mem_copy,
    .kernel_prepare = fake_kernel_prepare,
    .kernel_make = fake_kernel_make,
    .kernel_free = fake_kernel_free,
    .launch = fake_launch,
    .blas_use = fake_blas_use,
    .blas_work_size = fake_blas_work_size,
    .blas_gemm = fake_blas_gemm,
};

static const gpu_driver fake_driver_without_blas = {
    .mem_alloc = fake_mem_alloc,
    .mem_free = fake_mem_free,
    .mem_write = fake_mem_write,
    .kernel_prepare = fake_kernel_prepare,
    .kernel_make = fake_kernel_make,
    .kernel_free = fake_kernel_free,
    .launch = fake_launch,
};

static inline void fake_open(fake *f)
{
    *f = (fake){.device = {.driver = &fake_driver,
                           .caps = {.max_buffer = 1 << 20,
                                    .alignment = 128,
                                    .local_size = 32 << 10,
                                    .max_group = 256,
                                    .n_units = 2}}};
    sobre_allocator allocator = test_allocator(&f->memory);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator), &f->ctx),
                     SOBRE_OK);
    f->device.host = context_host(f->ctx);
}

static inline void fake_close(fake *f)
{
    assert_int_equal(f->n_live, 0);
    sobre_context_close(f->ctx);
    assert_int_equal(f->memory.n_live, 0);
}

#endif
