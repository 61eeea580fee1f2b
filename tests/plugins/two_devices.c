/* SPDX-License-Identifier: MIT */
/* A plugin with two devices, neither of which can be used. */
#include <stdio.h>

#include <sobre/backend.h>

static sobre_status device_count(const sobre_host *host, int32_t *ret_n)
{
    *ret_n = 2;
    return SOBRE_OK;
}

static sobre_status device_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    char name[32];

    snprintf(name, sizeof name, "card %d", (int)index);
    ret_info->kind = SOBRE_DEVICE_GPU;
    ret_info->name = host->text(host->context, name);
    ret_info->detail = "of cardboard";
    ret_info->reason = "it has no chip";
    return ret_info->name ? SOBRE_OK : SOBRE_OUT_OF_MEMORY;
}

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);
const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    static const sobre_backend backend = {.struct_size = sizeof backend,
                                          .name = "opencl",
                                          .device_count = device_count,
                                          .device_info = device_info};
    return &backend;
}
