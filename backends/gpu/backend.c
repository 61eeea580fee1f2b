/* SPDX-License-Identifier: MIT */
/* Buffers, and which nodes a GPU can run. */
#include "gpu.h"

uint64_t gpu_alignment(sobre_device *device)
{
    return device->caps.alignment;
}

uint64_t gpu_max_buffer(sobre_device *device)
{
    return device->caps.max_buffer;
}

sobre_status gpu_buffer_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                              sobre_buffer **ret_buffer)
{
    const sobre_host *host = device->host;
    if (size > device->caps.max_buffer)
        return host->fail(host->context, SOBRE_DEVICE_OUT_OF_MEMORY,
                          "a buffer of %llu bytes is wanted, but this device allows at most %llu; "
                          "use a smaller context or batch, or another device",
                          (unsigned long long)size, (unsigned long long)device->caps.max_buffer);
    sobre_buffer *b = host->alloc(host->context, sizeof *b, _Alignof(sobre_buffer));
    if (!b) return SOBRE_OUT_OF_MEMORY;
    b->device = device;
    b->size = size;
    sobre_status status = device->driver->mem_alloc(device, size, use, &b->mem, &b->host);
    if (status < 0) {
        host->free(host->context, b);
        return status;
    }
    *ret_buffer = b;
    return SOBRE_OK;
}

void gpu_buffer_free(sobre_buffer *buffer)
{
    if (!buffer) return;
    const sobre_host *host = buffer->device->host;
    buffer->device->driver->mem_free(buffer->device, buffer->mem);
    host->free(host->context, buffer);
}

sobre_status gpu_write(sobre_buffer *buffer, uint64_t offset, const void *data, uint64_t size)
{
    sobre_device *d = buffer->device;
    return d->driver->mem_write(d, buffer->mem, offset, data, size);
}

sobre_status gpu_read(sobre_buffer *buffer, uint64_t offset, void *ret_data, uint64_t size)
{
    sobre_device *d = buffer->device;
    return d->driver->mem_read(d, buffer->mem, offset, ret_data, size);
}

sobre_status gpu_copy(sobre_buffer *to, uint64_t to_offset, sobre_buffer *from,
                      uint64_t from_offset, uint64_t size)
{
    sobre_device *d = to->device;
    return d->driver->mem_copy(d, to->mem, to_offset, from->mem, from_offset, size);
}

void *gpu_host_pointer(sobre_buffer *buffer)
{
    return buffer->host;
}

/* Activations and indices have as many rows as the run has columns or wanted rows: launches follow
 * no other count. */
static bool has_run_rows(const sobre_value *values, const sobre_node *node)
{
    for (int32_t i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0) continue;
        const sobre_value *v = &values[node->in[i]];
        if (v->kind != SOBRE_VALUE_WEIGHT && v->dims[0] != SOBRE_DIM_T && v->dims[0] != SOBRE_DIM_R)
            return false;
    }
    return true;
}

int gpu_supports(sobre_device *device, const sobre_value *values, const sobre_node *node)
{
    if (!has_run_rows(values, node)) return 0;
    switch (node->op) {
    case SOBRE_OP_MATMUL: return gpu_mm_supports(device, values, node);
    case SOBRE_OP_ATTENTION: return gpu_attn_supports(device, values, node);
    case SOBRE_OP_SAMPLE: return gpu_sample_supports(device, values, node);
    default: return gpu_rows_supports(device, values, node);
    }
}
