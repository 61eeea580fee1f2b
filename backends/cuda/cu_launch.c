/* SPDX-License-Identifier: MIT */
/* Kernels with their arguments, launches, and tickets for what was launched. */
#include "cu.h"

enum { MAX_GRID_Y = 65535 };

typedef union cu_value {
    CUdeviceptr pointer;
    int32_t i;
    float f;
} cu_value;

struct gpu_kernel {
    CUfunction function;
    const char *entry; /* its name; static */
    uint32_t group;    /* threads */
    cu_value *values;  /* behind params */
    void *params[];    /* into values */
};

sobre_status cu_fences_open(cu_dev *dev)
{
    CUresult error = CUDA_SUCCESS;

    GPU_TRY(gpu_sync_open(&dev->fences.sync, dev->base.host));
    for (int i = 0; i < GPU_N_TICKETS && error == CUDA_SUCCESS; i++)
        error = cu_event_make(dev, &dev->fences.markers[i]);
    return error == CUDA_SUCCESS ? SOBRE_OK : cu_fail(dev, error, "cuEventCreate");
}

void cu_fences_close(cu_dev *dev)
{
    for (int i = 0; i < GPU_N_TICKETS; i++)
        if (dev->fences.markers[i]) dev->api.cuEventDestroy(dev->fences.markers[i]);
    gpu_sync_close(&dev->fences.sync);
}

static cu_value value_of(const gpu_arg *arg)
{
    switch (arg->kind) {
    case GPU_ARG_INT: return (cu_value){.i = arg->u.i};
    case GPU_ARG_FLOAT: return (cu_value){.f = arg->u.f};
    default: return (cu_value){.pointer = arg->u.mem ? arg->u.mem->at : 0};
    }
}

sobre_status cu_kernel_make(sobre_device *device, const gpu_variant *variant, const gpu_arg *args,
                            int32_t n_args, gpu_kernel **ret_kernel)
{
    const sobre_host *host = device->host;
    const size_t n = (size_t)n_args;
    CUfunction function;
    gpu_kernel *kernel;

    GPU_TRY(cu_function_get(cu_dev_of(device), variant, args, n_args, &function));
    kernel = host->alloc(host->context, sizeof *kernel + n * (sizeof(void *) + sizeof(cu_value)),
                         _Alignof(gpu_kernel));
    if (!kernel) return SOBRE_OUT_OF_MEMORY;
    kernel->function = function;
    kernel->entry = variant->entry;
    kernel->group = (uint32_t)variant->group;
    kernel->values = (cu_value *)(kernel->params + n);
    for (size_t i = 0; i < n; i++) {
        kernel->values[i] = value_of(&args[i]);
        kernel->params[i] = &kernel->values[i];
    }
    *ret_kernel = kernel;
    return SOBRE_OK;
}

void cu_kernel_free(sobre_device *device, gpu_kernel *kernel)
{
    if (kernel) device->host->free(device->host->context, kernel);
}

sobre_status cu_launch(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                       uint32_t n_groups_y)
{
    cu_dev *dev = cu_dev_of(device);
    const sobre_host *host = device->host;
    CUresult error;

    if (n_groups_x > INT32_MAX || n_groups_y > MAX_GRID_Y)
        return host->fail(host->context, SOBRE_UNSUPPORTED,
                          "%s would need %u x %u groups, and CUDA has at most %d x %d; use a "
                          "smaller batch",
                          kernel->entry, (unsigned)n_groups_x, (unsigned)n_groups_y, INT32_MAX,
                          MAX_GRID_Y);
    GPU_TRY(cu_enter(dev));
    error = dev->api.cuLaunchKernel(kernel->function, n_groups_x, n_groups_y, 1, kernel->group, 1,
                                    1, 0, dev->stream, kernel->params, NULL);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) return SOBRE_OK;
    return cu_fail(dev, error, "cuLaunchKernel(%s, %u x %u groups of %u)", kernel->entry,
                   (unsigned)n_groups_x, (unsigned)n_groups_y, (unsigned)kernel->group);
}

sobre_status cu_fence(sobre_device *device, uint64_t *ret_ticket)
{
    cu_dev *dev = cu_dev_of(device);
    cu_fences *f = &dev->fences;
    uint64_t ticket;
    CUresult error;

    GPU_TRY(cu_enter(dev));
    /* Under the mutex, so that tickets are in the stream's order. */
    os_mutex_lock(&f->sync.mutex);
    ticket = f->last + 1;
    error = dev->api.cuEventRecord(f->markers[ticket % GPU_N_TICKETS], dev->stream);
    if (error == CUDA_SUCCESS) f->last = ticket;
    os_mutex_unlock(&f->sync.mutex);
    cu_leave(dev);
    if (error != CUDA_SUCCESS) return cu_fail(dev, error, "cuEventRecord");
    *ret_ticket = ticket;
    return SOBRE_OK;
}

/* The marker of a ticket, or of a later one; NULL: there was no such ticket. It may be recorded
 * anew at any time, which is then a later one. */
static CUevent marker_of(cu_dev *dev, uint64_t ticket)
{
    cu_fences *f = &dev->fences;
    int32_t slot;

    os_mutex_lock(&f->sync.mutex);
    slot = gpu_ticket_slot(f->last, ticket);
    os_mutex_unlock(&f->sync.mutex);
    return slot >= 0 ? f->markers[slot] : NULL;
}

/* OK, AGAIN, or the failure of what ran on the device. */
static sobre_status look(sobre_device *device, uint64_t ticket,
                         CUresult (*ask)(const cu_dev *dev, CUevent event, const char **ret_call))
{
    cu_dev *dev = cu_dev_of(device);
    const CUevent marker = marker_of(dev, ticket);
    const char *call;
    CUresult state;

    if (!marker) return SOBRE_OK;
    GPU_TRY(cu_enter(dev));
    state = ask(dev, marker, &call);
    cu_leave(dev);
    if (state == CUDA_ERROR_NOT_READY) return SOBRE_AGAIN;
    return state == CUDA_SUCCESS ? SOBRE_OK : cu_fail(dev, state, "%s(work so far)", call);
}

sobre_status cu_fence_poll(sobre_device *device, uint64_t ticket)
{
    return look(device, ticket, cu_event_query);
}

sobre_status cu_fence_wait(sobre_device *device, uint64_t ticket)
{
    return look(device, ticket, cu_event_wait);
}
