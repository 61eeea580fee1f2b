/* SPDX-License-Identifier: MIT */
/* Failures, descriptions and tickets of drivers: see driver.h. */
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>

static const char *advice_for(sobre_status status)
{
    switch (status) {
    case SOBRE_DEVICE_OUT_OF_MEMORY:
        return "give the device fewer layers or a shorter context, or close what else uses it";
    case SOBRE_OUT_OF_MEMORY: return "close other programs";
    case SOBRE_DEVICE_LOST: return "load the model on another device";
    default: return "use another device, or another version of the driver";
    }
}

static void write_problem(gpu_problem *problem, const gpu_error *error, const char *call,
                          va_list args)
{
    char what[256];

    vsnprintf(what, sizeof what, call, args);
    problem->status = error->status;
    snprintf(problem->text, sizeof problem->text, "%s failed on %s: %s (%d); %s", what,
             error->device, error->name, error->code, advice_for(error->status));
}

sobre_status gpu_problem_set(gpu_problem *problem, gpu_error error, const char *call, ...)
{
    va_list args;

    va_start(args, call);
    write_problem(problem, &error, call, args);
    va_end(args);
    return problem->status;
}

sobre_status gpu_report(const sobre_device *device, gpu_error error, const char *call, ...)
{
    gpu_problem problem;
    va_list args;

    va_start(args, call);
    write_problem(&problem, &error, call, args);
    va_end(args);
    return gpu_problem_report(device, &problem);
}

sobre_status gpu_problem_report(const sobre_device *device, const gpu_problem *problem)
{
    const sobre_host *host = device->host;

    return host->fail(host->context, problem->status, "%s", problem->text);
}

sobre_status gpu_check_index(const sobre_host *host, const char *api, int32_t index, int32_t n)
{
    if (index >= 0 && index < n) return SOBRE_OK;
    return host->fail(host->context, SOBRE_UNAVAILABLE,
                      "%s device %d is gone: there are %d now; open a new context", api, (int)index,
                      (int)n);
}

sobre_status gpu_check_usable(const sobre_host *host, const char *api, int32_t index,
                              const char *name, const char *reason)
{
    if (!reason[0]) return SOBRE_OK;
    return host->fail(host->context, SOBRE_UNAVAILABLE, "%s device %d (%s) cannot be used: %s", api,
                      (int)index, name, reason);
}

sobre_status gpu_describe(const sobre_host *host, const sobre_device_info *info, const char *name,
                          const char *detail, const char *reason, sobre_device_info *ret_info)
{
    sobre_device_info told = *info;

    told.name = host->text(host->context, name);
    told.detail = host->text(host->context, detail);
    told.reason = reason[0] ? host->text(host->context, reason) : NULL;
    if (!told.name || !told.detail || (reason[0] && !told.reason))
        return host->fail(host->context, SOBRE_OUT_OF_MEMORY, "no memory for the texts about %s",
                          name);
    *ret_info = told;
    return SOBRE_OK;
}

const sobre_backend *gpu_backend_for(const sobre_host *host, const sobre_backend *backend)
{
    if (host->struct_size >= sizeof(sobre_host)) return backend;
    host->fail(host->context, SOBRE_UNAVAILABLE,
               "the plugin for %s is newer than the library; install those of one version",
               backend->name);
    return NULL;
}

sobre_status gpu_sync_open(gpu_sync *sync, const sobre_host *host)
{
    if (os_mutex_init(&sync->mutex)) {
        sync->ready = os_cond_init(&sync->cond);
        if (sync->ready) return SOBRE_OK;
        os_mutex_destroy(&sync->mutex);
    }
    return host->fail(host->context, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
}

void gpu_sync_close(gpu_sync *sync)
{
    if (!sync->ready) return;
    os_cond_destroy(&sync->cond);
    os_mutex_destroy(&sync->mutex);
    sync->ready = false;
}

int32_t gpu_ticket_slot(uint64_t last, uint64_t ticket)
{
    if (ticket == 0 || ticket > last) return -1;
    if (last - ticket >= GPU_N_TICKETS) ticket = last - GPU_N_TICKETS + 1;
    return (int32_t)(ticket % GPU_N_TICKETS);
}
