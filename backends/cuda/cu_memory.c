/* SPDX-License-Identifier: MIT */
/*
 * Device memory. All that the host writes goes through a ring of pinned stages, so that its data
 * are free to change at once and nobody waits for the device, unless there is more than the ring
 * holds. All that it reads comes through one stage more.
 */
#include <string.h>

#include "cu.h"

static char *stage(const cu_dev *dev, uint32_t i)
{
    return dev->staging.data + (size_t)i * CU_STAGE_SIZE;
}

sobre_status cu_staging_open(cu_dev *dev)
{
    cu_staging *s = &dev->staging;
    const size_t size = (size_t)(CU_N_STAGES + 1) * CU_STAGE_SIZE;
    void *data = NULL;
    CUresult error;

    GPU_TRY(gpu_sync_open(&s->writing, dev->base.host));
    GPU_TRY(gpu_sync_open(&s->reading, dev->base.host));
    error = dev->api.cuMemHostAlloc(&data, size, 0);
    if (error != CUDA_SUCCESS) return cu_fail(dev, error, "cuMemHostAlloc(%zu bytes)", size);
    s->data = data;
    for (int i = 0; i < CU_N_STAGES && error == CUDA_SUCCESS; i++)
        error = cu_event_make(dev, &s->done[i]);
    if (error == CUDA_SUCCESS) error = cu_event_make(dev, &s->read);
    return error == CUDA_SUCCESS ? SOBRE_OK : cu_fail(dev, error, "cuEventCreate");
}

void cu_staging_close(cu_dev *dev)
{
    cu_staging *s = &dev->staging;

    for (int i = 0; i < CU_N_STAGES; i++)
        if (s->done[i]) dev->api.cuEventDestroy(s->done[i]);
    if (s->read) dev->api.cuEventDestroy(s->read);
    if (s->data) dev->api.cuMemFreeHost(s->data);
    gpu_sync_close(&s->reading);
    gpu_sync_close(&s->writing);
}

sobre_status cu_memory_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                             gpu_mem **ret_mem, void **ret_host)
{
    cu_dev *dev = cu_dev_of(device);
    const sobre_host *host = device->host;
    gpu_mem *mem = host->alloc(host->context, sizeof *mem, sizeof(void *));
    sobre_status status;
    CUresult error;

    if (!mem) return SOBRE_OUT_OF_MEMORY;
    status = cu_enter(dev);
    if (status >= 0) {
        error = dev->api.cuMemAlloc(&mem->at, size > 0 ? (size_t)size : 1);
        cu_leave(dev);
        if (error != CUDA_SUCCESS)
            status = cu_fail(dev, error, "cuMemAlloc(%llu bytes)", (unsigned long long)size);
    }
    if (status < 0) {
        host->free(host->context, mem);
        return status;
    }
    *ret_mem = mem;
    *ret_host = NULL;
    return SOBRE_OK;
}

void cu_memory_free(sobre_device *device, gpu_mem *mem)
{
    cu_dev *dev = cu_dev_of(device);

    if (!mem) return;
    if (dev->api.cuCtxPushCurrent(dev->context) == CUDA_SUCCESS) {
        dev->api.cuStreamSynchronize(dev->stream); /* what was launched may use it */
        dev->api.cuMemFree(mem->at);
        cu_leave(dev);
    }
    device->host->free(device->host->context, mem);
}

/* The context is current, the mutex held. */
static CUresult write_piece(cu_dev *dev, CUdeviceptr to, const char *data, size_t size,
                            const char **ret_call)
{
    cu_staging *s = &dev->staging;
    const uint32_t i = s->next;
    CUresult error = cu_event_wait(dev, s->done[i], ret_call);

    if (error != CUDA_SUCCESS) return error;
    s->next = (i + 1) % CU_N_STAGES;
    memcpy(stage(dev, i), data, size);
    *ret_call = "cuMemcpyHtoDAsync";
    error = dev->api.cuMemcpyHtoDAsync(to, stage(dev, i), size, dev->stream);
    if (error != CUDA_SUCCESS) return error;
    *ret_call = "cuEventRecord";
    error = dev->api.cuEventRecord(s->done[i], dev->stream);
    /* Without a mark nobody would know when the stage is free. */
    if (error != CUDA_SUCCESS) dev->api.cuStreamSynchronize(dev->stream);
    return error;
}

/* The context is current, the mutex held. */
static CUresult read_piece(cu_dev *dev, CUdeviceptr from, char *ret_data, size_t size,
                           const char **ret_call)
{
    cu_staging *s = &dev->staging;
    char *data = stage(dev, CU_N_STAGES);
    CUresult error = dev->api.cuMemcpyDtoHAsync(data, from, size, dev->stream);

    *ret_call = "cuMemcpyDtoHAsync";
    if (error != CUDA_SUCCESS) return error;
    *ret_call = "cuEventRecord";
    error = dev->api.cuEventRecord(s->read, dev->stream);
    if (error != CUDA_SUCCESS) {
        dev->api.cuStreamSynchronize(dev->stream); /* the next read uses the same stage */
        return error;
    }
    error = cu_event_wait(dev, s->read, ret_call);
    if (error == CUDA_SUCCESS) memcpy(ret_data, data, size);
    return error;
}

static size_t piece_of(uint64_t size)
{
    return size < CU_STAGE_SIZE ? (size_t)size : CU_STAGE_SIZE;
}

sobre_status cu_memory_write(sobre_device *device, gpu_mem *mem, uint64_t offset, const void *data,
                             uint64_t size)
{
    cu_dev *dev = cu_dev_of(device);
    const char *call = "", *from = data;
    CUresult error = CUDA_SUCCESS;
    size_t n;

    if (size == 0) return SOBRE_OK;
    GPU_TRY(cu_enter(dev));
    os_mutex_lock(&dev->staging.writing.mutex);
    for (uint64_t at = 0; at < size && error == CUDA_SUCCESS; at += n) {
        n = piece_of(size - at);
        error = write_piece(dev, mem->at + offset + at, from + at, n, &call);
    }
    os_mutex_unlock(&dev->staging.writing.mutex);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) return SOBRE_OK;
    return cu_fail(dev, error, "%s(%llu bytes to the device)", call, (unsigned long long)size);
}

sobre_status cu_memory_read(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                            uint64_t size)
{
    cu_dev *dev = cu_dev_of(device);
    const char *call = "";
    char *to = ret_data;
    CUresult error = CUDA_SUCCESS;
    size_t n;

    if (size == 0) return SOBRE_OK;
    GPU_TRY(cu_enter(dev));
    os_mutex_lock(&dev->staging.reading.mutex);
    for (uint64_t at = 0; at < size && error == CUDA_SUCCESS; at += n) {
        n = piece_of(size - at);
        error = read_piece(dev, mem->at + offset + at, to + at, n, &call);
    }
    os_mutex_unlock(&dev->staging.reading.mutex);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) return SOBRE_OK;
    return cu_fail(dev, error, "%s(%llu bytes from the device)", call, (unsigned long long)size);
}

sobre_status cu_memory_copy(sobre_device *device, gpu_mem *to, uint64_t to_offset, gpu_mem *from,
                            uint64_t from_offset, uint64_t size)
{
    cu_dev *dev = cu_dev_of(device);
    CUresult error;

    if (size == 0) return SOBRE_OK;
    GPU_TRY(cu_enter(dev));
    error = dev->api.cuMemcpyDtoDAsync(to->at + to_offset, from->at + from_offset, (size_t)size,
                                       dev->stream);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) return SOBRE_OK;
    return cu_fail(dev, error, "cuMemcpyDtoDAsync(%llu bytes)", (unsigned long long)size);
}
