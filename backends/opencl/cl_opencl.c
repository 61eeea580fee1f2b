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
    .alignment = gpu_alignment,
    .max_buffer = gpu_max_buffer,
    .buffer_alloc = gpu_buffer_alloc,
    .buffer_free = gpu_buffer_free,
    .write = gpu_write,
    .read = gpu_read,
    .copy = gpu_copy,
    .host_pointer = gpu_host_pointer,
    .supports = gpu_supports,
    .weight_size = gpu_weight_size,
    .weight_pack = gpu_weight_pack,
    .kv_page_size = gpu_kv_page_size,
    .workspace_size = gpu_workspace_size,
    .prepare = gpu_prepare,
    .compile = gpu_compile,
    .exec_free = gpu_exec_free,
    .run = gpu_run,
    .fence = cl_fence,
    .poll = cl_fence_poll,
    .wait = cl_fence_wait,
    .n_launches = gpu_n_launches,
};

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);

const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    if (host->struct_size >= sizeof(sobre_host)) return &backend;
    host->fail(host->context, SOBRE_UNAVAILABLE,
               "the plugin for OpenCL is newer than the library; install those of one version");
    return NULL;
}
