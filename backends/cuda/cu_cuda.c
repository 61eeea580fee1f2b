/* SPDX-License-Identifier: MIT */
/* The plugin's table: what CUDA does itself, and what all GPUs share. */
#include "cu.h"

static const sobre_backend backend = {
    .struct_size = sizeof backend,
    .name = "cuda",
    .device_count = cu_device_count,
    .device_info = cu_device_info,
    .device_open = cu_device_open,
    .device_close = cu_device_close,
    .mem_info = cu_memory_info,
    .fence = cu_fence,
    .poll = cu_fence_poll,
    .wait = cu_fence_wait,
    GPU_BACKEND_SLOTS,
};

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);

const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    return gpu_backend_for(host, &backend);
}
