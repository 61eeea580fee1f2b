/* SPDX-License-Identifier: MIT */
/* The table of backends, those in plugins included, and the devices that a context has found. */
#include "registry.h"

#include <stdio.h>
#include <string.h>

#include "cpu/cpu.h"
#include "null/null.h"

/* The CPU first, so that it is device 1. */
static const struct {
    const char *name;
    sobre_backend_entry_fn get; /* NULL: a plugin has it */
} backends[] = {
    {"cpu", cpu_backend},
    {"null", null_backend},
    {"opencl", NULL},
    {"cuda", NULL},
};

enum {
    N_BACKENDS = sizeof backends / sizeof *backends,
    MAX_DEVICES = 64,
    REASON_SIZE = 512,
    PATH_SIZE = 4096
};

struct registry {
    sobre_context *ctx;
    os_mutex mutex;
    bool asked[N_BACKENDS];
    char reason[N_BACKENDS][REASON_SIZE]; /* why there is nothing to ask; "": there is */
    device_entry entries[MAX_DEVICES];    /* number - 1 is the index; entries never move */
    int32_t n_entries;
};

const char *sobre_backend_name(int32_t index)
{
    for (int32_t b = 0; b < N_BACKENDS; b++)
        if (strcmp(backends[b].name, "null") && index-- == 0) return backends[b].name;
    return NULL;
}

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

/* --- Plugins. One that was loaded stays until the process ends: drivers keep threads, which would
 * lose their code under their feet. */

#ifdef _WIN32
#define PLUGIN_SUFFIX ".dll"
#else
#define PLUGIN_SUFFIX ".so"
#endif

/* Notes why a backend has no devices. */
static void set_reason(registry *r, int32_t b, const char *format, ...) SOBRE_PRINTF(3, 4);
static void set_reason(registry *r, int32_t b, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(r->reason[b], REASON_SIZE, format, args);
    va_end(args);
}

static const sobre_backend *load_plugin(registry *r, int32_t b, const char *path)
{
    union {
        void *symbol;
        sobre_backend_entry_fn get;
    } entry;
    void *library = os_library_open(path);
    const sobre_backend *backend;
    char error[256];

    if (!library) {
        set_reason(r, b, "its plugin cannot be loaded: %s", os_error_text(error, sizeof error));
        return NULL;
    }
    entry.symbol = os_library_symbol(library, "sobre_backend_entry");
    if (!entry.symbol) {
        set_reason(r, b, "%s is no plugin of Sobre", path);
        os_library_close(library);
        return NULL;
    }
    backend = entry.get(context_host(r->ctx));
    if (!backend) {
        set_reason(r, b, "%s", sobre_error(r->ctx));
    } else if (backend->struct_size < sizeof(sobre_backend)) {
        set_reason(r, b, "%s is of an older version; install the one of %s", path, sobre_version());
        backend = NULL;
    }
    return backend;
}

static bool exists(const char *path)
{
    os_file file;

    if (!os_file_open(path, &file)) return false;
    os_file_close(file);
    return true;
}

/* Where plugins are looked for: in the folder that the caller gave; else beside the program or
 * library, or where they are installed. */
typedef struct plugin_folders {
    const char *items[2];
    char own[PATH_SIZE / 2];
} plugin_folders;

static void list_folders(const char *given, plugin_folders *ret)
{
    *ret = (plugin_folders){.items = {given, NULL}};
    if (given) return;
    if (os_own_folder(ret->own, sizeof ret->own)) ret->items[0] = ret->own;
    ret->items[1] = SOBRE_PLUGIN_DIR;
}

static bool find_in(const plugin_folders *folders, const char *backend, char *ret_path, size_t size)
{
    for (size_t i = 0; i < sizeof folders->items / sizeof *folders->items; i++)
        if (folders->items[i] &&
            snprintf(ret_path, size, "%s/libsobre-%s" PLUGIN_SUFFIX, folders->items[i], backend) <
                (int)size &&
            exists(ret_path))
            return true;
    return false;
}

bool plugin_find(const char *folder, const char *backend, char *ret_path, size_t size)
{
    plugin_folders folders;

    list_folders(folder, &folders);
    return find_in(&folders, backend, ret_path, size);
}

static const sobre_backend *find_plugin(registry *r, int32_t b)
{
    plugin_folders folders;
    char path[PATH_SIZE];
    const char *const *f = folders.items;

    list_folders(context_plugin_dir(r->ctx), &folders);
    if (find_in(&folders, backends[b].name, path, sizeof path)) return load_plugin(r, b, path);
    set_reason(r, b,
               "its plugin, libsobre-%s" PLUGIN_SUFFIX ", is not in %.160s%s%.160s; install it, or "
               "say where it is",
               backends[b].name, f[0] ? f[0] : "", f[0] && f[1] ? " or " : "", f[1] ? f[1] : "");
    return NULL;
}

/* --- Asking. */

/* Adds the devices of a backend; a failure adds none. */
static sobre_status list_devices(registry *r, const sobre_backend *backend)
{
    const sobre_host *host = context_host(r->ctx);
    int32_t n = 0, first = r->n_entries;

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
    return SOBRE_OK;
}

/* Being out of memory passes; any other failure of a plugin is kept as the reason why it has no
 * devices. */
static sobre_status ask_backend(registry *r, int32_t b)
{
    const bool plugin = !backends[b].get;
    const sobre_backend *backend =
        plugin ? find_plugin(r, b) : backends[b].get(context_host(r->ctx));
    sobre_status status;

    if (backend) {
        status = list_devices(r, backend);
        if (status < 0 && (!plugin || status == SOBRE_OUT_OF_MEMORY)) return status;
        r->reason[b][0] = 0;
        if (status < 0) set_reason(r, b, "%s", sobre_error(r->ctx));
    }
    r->asked[b] = true;
    return SOBRE_OK;
}

sobre_status registry_shun(sobre_context *ctx, const char *backend, const char *reason)
{
    registry *r = context_registry(ctx);
    sobre_status status = SOBRE_OK;

    os_mutex_lock(&r->mutex);
    for (int32_t b = 0; b < N_BACKENDS && status >= 0; b++) {
        if (strcmp(backend, backends[b].name)) continue;
        if (r->asked[b] && !r->reason[b][0])
            status = fail(ctx, SOBRE_INTERNAL, "%s was asked for its devices already", backend);
        else
            set_reason(r, b, "%s", reason);
        r->asked[b] = true;
    }
    os_mutex_unlock(&r->mutex);
    return status;
}

/* Asks the backends that `backend` (NULL: all) means; the mutex is held. */
static sobre_status ask(registry *r, const char *backend)
{
    for (int32_t b = 0; b < N_BACKENDS; b++) {
        if (backend && strcmp(backend, backends[b].name)) continue;
        if (!r->asked[0]) TRY(ask_backend(r, 0)); /* so that the CPU is number 1 */
        if (!r->asked[b]) TRY(ask_backend(r, b));
        if (!backend) continue;
        if (!r->reason[b][0]) return SOBRE_OK;
        return fail(r->ctx, SOBRE_UNAVAILABLE, "%s: %s", backend, r->reason[b]);
    }
    if (backend)
        return fail(r->ctx, SOBRE_INVALID_ARGUMENT,
                    "no backend is called \"%s\"; this version knows cpu, opencl and cuda",
                    backend);
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

const sobre_device_info *registry_device_info(sobre_context *ctx, int32_t number)
{
    registry *r = context_registry(ctx);
    const sobre_device_info *info = NULL;

    os_mutex_lock(&r->mutex);
    if (number >= 1 && number <= r->n_entries) info = &r->entries[number - 1].info;
    os_mutex_unlock(&r->mutex);
    return info;
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
