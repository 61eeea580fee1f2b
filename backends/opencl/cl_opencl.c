/* SPDX-License-Identifier: MIT */
/* The plugin's table: what OpenCL does itself, and what all GPUs share. */
#include "cl.h"

static const sobre_backend backend = {
    .struct_size = sizeof backend,
    .name = "opencl",
    .device_count = cl_device_count,
    .device_info = cl_device_describe,
    .device_open = cl_device_open,
    .device_close = cl_device_close,
    .mem_info = cl_memory_info,
    .fence = cl_fence,
    .poll = cl_fence_poll,
    .wait = cl_fence_wait,
    GPU_BACKEND_SLOTS,
};

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);

const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    return gpu_backend_for(host, &backend);
}
