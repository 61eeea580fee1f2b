/* SPDX-License-Identifier: MIT */
/* The table of backends, and the devices that a context has found. */
#include "registry.h"

#include <string.h>

#include "cpu/cpu.h"
#include "null/null.h"

typedef const sobre_backend *(*backend_fn)(const sobre_host *host);

/* The CPU first, so that it is device 1. */
static const struct {
    const char *name;
    backend_fn get;
} backends[] = {
    {"cpu", cpu_backend},
    {"null", null_backend},
};

enum { N_BACKENDS = sizeof backends / sizeof *backends, MAX_DEVICES = 64 };

struct registry {
    sobre_context *ctx;
    os_mutex mutex;
    bool asked[N_BACKENDS];
    device_entry entries[MAX_DEVICES]; /* number - 1 is the index; entries never move */
    int32_t n_entries;
};

sobre_status registry_open(sobre_context *ctx, registry **ret_registry)
{
    registry *r = mem_alloc(ctx, 1, sizeof *r);

    if (!r) return SOBRE_OUT_OF_MEMORY;
    r->ctx = ctx;
    if (!os_mutex_init(&r->mutex)) {
        mem_free(ctx, r);
        return fail(ctx, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
    }
    *ret_registry = r;
    return SOBRE_OK;
}

void registry_close(registry *r)
{
    if (!r) return;
    for (int32_t i = 0; i < r->n_entries; i++)
        if (r->entries[i].device) r->entries[i].backend->device_close(r->entries[i].device);
    os_mutex_destroy(&r->mutex);
    mem_free(r->ctx, r);
}

static sobre_status ask_backend(registry *r, int32_t b)
{
    const sobre_host *host = context_host(r->ctx);
    const sobre_backend *backend = backends[b].get(host);
    int32_t n = 0, first = r->n_entries;

    if (!backend) return SOBRE_OK; /* it logged why */
    TRY(backend->device_count(host, &n));
    for (int32_t i = 0; i < n && r->n_entries < MAX_DEVICES; i++) {
        device_entry *e = &r->entries[r->n_entries];
        sobre_device_info info = SOBRE_INIT(device_info);
        sobre_status status = backend->device_info(host, i, &info);

        if (status < 0) {
            r->n_entries = first;
            return status;
        }
        info.backend = backend->name;
        *e = (device_entry){.backend = backend, .index = i, .info = info};
        r->n_entries++;
    }
    r->asked[b] = true;
    return SOBRE_OK;
}

/* Asks the backends that `backend` (NULL: all) means; the mutex is held. */
static sobre_status ask(registry *r, const char *backend)
{
    bool known = false;

    for (int32_t b = 0; b < N_BACKENDS; b++) {
        if (backend && strcmp(backend, backends[b].name)) continue;
        known = true;
        if (!r->asked[0]) TRY(ask_backend(r, 0)); /* so that the CPU is number 1 */
        if (!r->asked[b]) TRY(ask_backend(r, b));
    }
    if (!known)
        return fail(r->ctx, SOBRE_INVALID_ARGUMENT,
                    "no backend is called \"%s\"; this build has cpu", backend);
    return SOBRE_OK;
}

static bool entry_matches(const device_entry *e, const char *backend)
{
    return !backend || !strcmp(e->backend->name, backend);
}

sobre_status sobre_device_count(sobre_context *context, const char *backend, int32_t *ret_n)
{
    registry *r;
    sobre_status status;
    int32_t n = 0;

    if (!context || !ret_n) return SOBRE_INVALID_ARGUMENT;
    r = context_registry(context);
    os_mutex_lock(&r->mutex);
    status = ask(r, backend);
    for (int32_t i = 0; i < r->n_entries; i++) n += entry_matches(&r->entries[i], backend);
    os_mutex_unlock(&r->mutex);
    if (status < 0) return status;
    *ret_n = n;
    return SOBRE_OK;
}

sobre_status sobre_device_get(sobre_context *context, const char *backend, int32_t index,
                              int32_t *ret_device, const sobre_device_info **ret_info)
{
    registry *r;
    sobre_status status;
    int32_t found = -1;

    if (!context) return SOBRE_INVALID_ARGUMENT;
    r = context_registry(context);
    os_mutex_lock(&r->mutex);
    status = ask(r, backend);
    for (int32_t i = 0, k = 0; i < r->n_entries && found < 0; i++)
        if (entry_matches(&r->entries[i], backend) && k++ == index) found = i;
    os_mutex_unlock(&r->mutex);
    if (status < 0) return status;
    if (found < 0)
        return fail(context, SOBRE_UNAVAILABLE, "there is no device %s%s%d", backend ? backend : "",
                    backend ? ":" : "", (int)index);
    if (ret_device) *ret_device = found + 1;
    if (ret_info) *ret_info = &r->entries[found].info;
    return SOBRE_OK;
}

sobre_status device_use(sobre_context *ctx, int32_t number, const device_entry **ret_entry)
{
    registry *r = context_registry(ctx);
    sobre_status status = SOBRE_OK;
    device_entry *e = NULL;

    os_mutex_lock(&r->mutex);
    if (number == 1)
        status = ask(r, "cpu"); /* the usual case asks no other driver */
    else if (number > r->n_entries)
        status = ask(r, NULL);
    if (status >= 0 && (number < 1 || number > r->n_entries))
        status =
            fail(ctx, SOBRE_INVALID_ARGUMENT, "there is no device number %d; there are %d, from 1",
                 (int)number, (int)r->n_entries);
    if (status >= 0) {
        e = &r->entries[number - 1];
        if (e->info.reason)
            status = fail(ctx, SOBRE_UNAVAILABLE, "device %d (%s) cannot be used: %s", (int)number,
                          e->info.name, e->info.reason);
        else if (!e->device)
            status = e->backend->device_open(context_host(ctx), e->index, &e->device);
    }
    os_mutex_unlock(&r->mutex);
    if (status < 0) return status;
    *ret_entry = e;
    return SOBRE_OK;
}
