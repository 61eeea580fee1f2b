/* SPDX-License-Identifier: MIT */
/* Device memory. */
#include <string.h>

#include "cl.h"

sobre_status cl_staging_open(cl_dev *dev)
{
    const sobre_host *host = dev->base.host;
    cl_staging *s = &dev->staging;

    s->data = host->alloc(host->context, (size_t)CL_N_STAGES * CL_STAGE_SIZE, 64);
    if (!s->data) return SOBRE_OUT_OF_MEMORY;
    return gpu_sync_open(&s->sync, host);
}

void cl_staging_close(cl_dev *dev)
{
    const sobre_host *host = dev->base.host;
    cl_staging *s = &dev->staging;

    for (int i = 0; i < CL_N_STAGES; i++) {
        if (!s->done[i]) continue;
        clWaitForEvents(1, &s->done[i]); /* its data is read until then, whatever clFinish said */
        clReleaseEvent(s->done[i]);
    }
    if (s->data) host->free(host->context, s->data);
    gpu_sync_close(&s->sync);
}

sobre_status cl_memory_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                             gpu_mem **ret_mem, void **ret_host)
{
    cl_dev *dev = cl_dev_of(device);
    const sobre_host *host = device->host;
    cl_mem_flags flags = CL_MEM_READ_WRITE;
    cl_int error;
    gpu_mem *mem;

    if (size > device->caps.max_buffer)
        return host->fail(host->context, SOBRE_DEVICE_OUT_OF_MEMORY,
                          "a buffer of %llu bytes is asked for, but %s has none above %llu; give "
                          "it fewer layers or a shorter context",
                          (unsigned long long)size, dev->name,
                          (unsigned long long)device->caps.max_buffer);
    mem = host->alloc(host->context, sizeof *mem, sizeof(void *));
    if (!mem) return SOBRE_OUT_OF_MEMORY;
    if (dev->unified) flags |= CL_MEM_ALLOC_HOST_PTR; /* so that the driver need not copy */
    mem->size = size;
    mem->handle = clCreateBuffer(dev->context, flags, size > 0 ? (size_t)size : 1, NULL, &error);
    if (error != CL_SUCCESS) {
        host->free(host->context, mem);
        return cl_fail(dev, error, "clCreateBuffer(%llu bytes)", (unsigned long long)size);
    }
    *ret_mem = mem;
    *ret_host = NULL; /* OpenCL 1.2 promises coherence only while a buffer is mapped */
    return SOBRE_OK;
}

void cl_memory_free(sobre_device *device, gpu_mem *mem)
{
    if (!mem) return;
    clReleaseMemObject(mem->handle);
    device->host->free(device->host->context, mem);
}

/* Copies the data, so that nobody has to wait until the queue comes to it. */
static sobre_status write_small(cl_dev *dev, gpu_mem *mem, size_t offset, const void *data,
                                size_t size)
{
    cl_staging *s = &dev->staging;
    cl_int error = CL_SUCCESS;
    const char *call = "clWaitForEvents(an earlier write)";
    uint32_t i;

    os_mutex_lock(&s->sync.mutex);
    i = s->next;
    s->next = (i + 1) % CL_N_STAGES;
    if (s->done[i]) {
        error = clWaitForEvents(1, &s->done[i]);
        clReleaseEvent(s->done[i]);
        s->done[i] = NULL;
    }
    if (error == CL_SUCCESS) {
        char *copy = s->data + (size_t)i * CL_STAGE_SIZE;
        call = "clEnqueueWriteBuffer";
        memcpy(copy, data, size);
        error = clEnqueueWriteBuffer(dev->queue, mem->handle, CL_FALSE, offset, size, copy, 0, NULL,
                                     &s->done[i]);
        if (error != CL_SUCCESS) s->done[i] = NULL;
    }
    os_mutex_unlock(&s->sync.mutex);
    if (error == CL_SUCCESS) return SOBRE_OK;
    return cl_fail(dev, error, "%s", call);
}

sobre_status cl_memory_write(sobre_device *device, gpu_mem *mem, uint64_t offset, const void *data,
                             uint64_t size)
{
    cl_dev *dev = cl_dev_of(device);
    cl_int error;

    if (size == 0) return SOBRE_OK;
    if (size <= CL_STAGE_SIZE) return write_small(dev, mem, (size_t)offset, data, (size_t)size);
    error = clEnqueueWriteBuffer(dev->queue, mem->handle, CL_TRUE, (size_t)offset, (size_t)size,
                                 data, 0, NULL, NULL);
    if (error == CL_SUCCESS) return SOBRE_OK;
    return cl_fail(dev, error, "clEnqueueWriteBuffer(%llu bytes)", (unsigned long long)size);
}

sobre_status cl_memory_read(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                            uint64_t size)
{
    cl_dev *dev = cl_dev_of(device);
    cl_int error;

    if (size == 0) return SOBRE_OK;
    error = clEnqueueReadBuffer(dev->queue, mem->handle, CL_TRUE, (size_t)offset, (size_t)size,
                                ret_data, 0, NULL, NULL);
    if (error == CL_SUCCESS) return SOBRE_OK;
    return cl_fail(dev, error, "clEnqueueReadBuffer(%llu bytes)", (unsigned long long)size);
}

sobre_status cl_memory_copy(sobre_device *device, gpu_mem *to, uint64_t to_offset, gpu_mem *from,
                            uint64_t from_offset, uint64_t size)
{
    cl_dev *dev = cl_dev_of(device);
    cl_int error;

    if (size == 0) return SOBRE_OK;
    error = clEnqueueCopyBuffer(dev->queue, from->handle, to->handle, (size_t)from_offset,
                                (size_t)to_offset, (size_t)size, 0, NULL, NULL);
    if (error == CL_SUCCESS) return SOBRE_OK;
    return cl_fail(dev, error, "clEnqueueCopyBuffer(%llu bytes)", (unsigned long long)size);
}
