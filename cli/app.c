/* SPDX-License-Identifier: MIT */
#include "app.h"

#include <stdlib.h>
#include <string.h>

#include "os.h"
#include "out.h"
#include "probe.h"
#include "registry.h"
#include "sys.h"

int app_exit_code(sobre_status status)
{
    switch (status) {
    case SOBRE_OK:
    case SOBRE_DONE: return CODE_OK;
    case SOBRE_INVALID_ARGUMENT: return CODE_USAGE;
    case SOBRE_IO:
    case SOBRE_BAD_FORMAT:
    case SOBRE_UNSUPPORTED: return CODE_MODEL;
    case SOBRE_UNAVAILABLE:
    case SOBRE_DEVICE:
    case SOBRE_DEVICE_LOST: return CODE_DEVICE;
    case SOBRE_OUT_OF_MEMORY:
    case SOBRE_DEVICE_OUT_OF_MEMORY: return CODE_MEMORY;
    case SOBRE_CONTEXT_FULL: return CODE_FULL;
    case SOBRE_CANCELLED: return CODE_INTERRUPTED;
    default: return CODE_FAILED;
    }
}

int app_fail(const app *a, sobre_status status)
{
    const char *text = sobre_error(a->context);
    if (status != SOBRE_CANCELLED) complain("%s", text[0] ? text : sobre_status_name(status));
    return app_exit_code(status);
}

static void on_log(void *user, sobre_log_level level, const char *text)
{
    const common_args *args = user;

    /* Errors come back as a status, too, and are printed there. */
    if (level == SOBRE_LOG_WARNING && !args->quiet) warn("%s", text);
    if (level > SOBRE_LOG_WARNING && args->verbose) fprintf(stderr, "sobre: %s\n", text);
}

/* --- Devices */

enum { CPU = 1 }; /* a device's number */

/* A device by name that cannot be used. */
static int unusable(app *a, const char *name, const char *reason)
{
    if (a->args->falls_back) {
        warn("--device %s cannot be used: %s; the CPU takes its place", name, reason);
        a->device = CPU;
        return -1;
    }
    complain("--device %s cannot be used: %s; `sobre devices` lists what can, --fallback takes the "
             "CPU instead",
             name, reason);
    return CODE_DEVICE;
}

bool app_is_backend(const char *name)
{
    const char *known;
    for (int32_t i = 0; (known = sobre_backend_name(i)); i++)
        if (strcmp(known, name) == 0) return true;
    return false;
}

/* Loads the drivers of a backend once a child has done so without harm; the CPU has none. */
static int open_backend(app *a, const char *backend, const char *name, int64_t index)
{
    json_t *devices = NULL;
    int32_t n = 0;

    if (strcmp(backend, "cpu") != 0) {
        const int code = probe_get(a, backend, true, &devices);
        json_decref(devices);
        if (code >= 0) return code;
    }
    const sobre_status status = sobre_device_count(a->context, backend, &n);
    if (status < 0 && status != SOBRE_UNAVAILABLE) return app_fail(a, status);
    if (status < 0) return unusable(a, name, probe_reason(a, backend));
    if (index >= n)
        return unusable(a, name, n > 0 ? "there is no such device here" : probe_no_driver);
    const sobre_status got =
        sobre_device_get(a->context, backend, (int32_t)index, &a->device, &a->device_info);
    if (got < 0) return app_fail(a, got);
    if (!a->device_info->reason) return -1;
    a->device = 0;
    return unusable(a, name, a->device_info->reason);
}

/* "auto", "cpu", "opencl", "opencl:1": a backend and which of its devices. */
static int find_device(app *a, const char *name)
{
    const size_t size = strcspn(name, ":");
    char backend[32] = "";
    int64_t index = 0;

    if (strcmp(name, "auto") == 0) return -1;
    if (size == 0 || size >= sizeof backend ||
        (name[size] && !parse_int(name + size + 1, 0, 1000, &index))) {
        complain("--device wants auto, or a backend such as cpu or opencl:1, not \"%s\"", name);
        return CODE_USAGE;
    }
    memcpy(backend, name, size);
    if (!app_is_backend(backend)) {
        complain("there is no device \"%s\"; `sobre devices` lists those there are", name);
        return CODE_DEVICE;
    }
    return open_backend(a, backend, name, index);
}

static bool is_auto(const app *a)
{
    return !a->args->device || strcmp(a->args->device, "auto") == 0;
}

/* Lets the library choose where there is a GPU; else no driver needs to be loaded. */
static int32_t choose_device(app *a)
{
    json_t *devices = NULL;
    const bool free_choice = probe_get(a, NULL, true, &devices) < 0 && probe_has_gpu(devices);

    json_decref(devices);
    return free_choice ? 0 : CPU;
}

/* The number's device, without a question to other backends. */
static void read_device_info(app *a)
{
    int32_t n;

    sobre_device_count(a->context, "cpu", &n); /* the CPU may not have been asked for yet */
    a->device_info = registry_device_info(a->context, a->device);
}

/* What another device may make up for. */
static bool is_device_failure(sobre_status status)
{
    return status == SOBRE_UNAVAILABLE || status == SOBRE_DEVICE || status == SOBRE_DEVICE_LOST ||
           status == SOBRE_DEVICE_OUT_OF_MEMORY;
}

bool app_fall_back(app *a, sobre_status *status)
{
    if (a->device <= CPU || !is_device_failure(*status) || !(a->args->falls_back || is_auto(a)))
        return false;
    warn("%s: %s; the CPU goes on", a->device_info ? a->device_info->name : "the device",
         sobre_error(a->context));
    a->device = a->fit.device = CPU;
    a->fit.n_layer = 0;
    a->fit.limit = 0; /* it was the device's */
    read_device_info(a);
    if (!a->loaded) return true;
    a->loaded = false;
    *status = sobre_model_unload(a->model);
    if (*status >= 0) *status = sobre_model_load(a->model, &a->fit, NULL);
    a->loaded = *status >= 0;
    return a->loaded;
}

/* --- Opening */

int app_open(app *a, const common_args *args)
{
    char *cache = cache_folder(NULL);
    const sobre_context_options options = {
        .struct_size = sizeof options,
        .log = on_log,
        .log_user = (void *)args,
        .cache_dir = cache,
        .plugin_dir = args->plugins,
        .n_threads = args->n_threads,
        .cpu_isa = (sobre_cpu_isa)args->isa,
        .blas = (sobre_blas)args->blas,
    };

    a->args = args;
    const sobre_status status = sobre_context_open(&options, &a->context);
    free(cache);
    if (status < 0) return app_fail(a, status);
    return args->device ? find_device(a, args->device) : -1;
}

int app_open_source(app *a, const sobre_source *source, const char *name)
{
    const sobre_status status = sobre_model_open(a->context, source, &a->model);

    if (status < 0) return app_fail(a, status);
    if (!a->path) {
        a->path = malloc(strlen(name) + 1);
        if (!a->path) return out_of_memory();
        strcpy(a->path, name);
    }
    a->info = sobre_model_info_get(a->model);
    return -1;
}

int app_open_model(app *a, const char *name)
{
    const int code = model_resolve(name, &a->path);
    return code >= 0 ? code : app_open_source(a, SOBRE(source, .path = a->path), a->path);
}

sobre_fit_options app_fit_options(app *a)
{
    if (a->device == 0) a->device = choose_device(a);
    return (sobre_fit_options){
        .struct_size = sizeof(sobre_fit_options),
        .device = a->device,
        .n_ctx = a->args->n_ctx,
        .kv_type = a->args->exact ? SOBRE_KV_F32 : (sobre_kv_type)a->args->kv_type,
        .limit = a->args->limit,
        .n_layer = a->device == CPU ? 0 : a->args->n_layer,
    };
}

sobre_session_options app_session_options(const app *a)
{
    return (sobre_session_options){
        .struct_size = sizeof(sobre_session_options),
        .exact = a->args->exact,
    };
}

int app_fit(app *a, const sobre_fit_options *fit, sobre_placement *ret_placement)
{
    sobre_placement placement = SOBRE_INIT(placement);
    sobre_status status;

    a->fit = *fit;
    do {
        status = sobre_model_fit(a->model, &a->fit, &placement);
    } while (status < 0 && app_fall_back(a, &status));
    if (status < 0) return app_fail(a, status);
    a->device = a->fit.device = placement.device;
    read_device_info(a);
    *ret_placement = placement;
    return -1;
}

typedef struct progress {
    uint64_t start_ns, last_ns;
    bool shows;
} progress;

static int32_t on_progress(void *user, double done)
{
    enum { DELAY_NS = 300 * 1000000, STEP_NS = 50 * 1000000 };
    progress *p = user;
    const uint64_t now = os_now_ns();

    /* A short load passes without a word. */
    if (p->shows && now - p->start_ns >= DELAY_NS && now - p->last_ns >= STEP_NS) {
        fprintf(stderr, "\rloading %3.0f %%", done * 100);
        fflush(stderr);
        p->last_ns = now;
    }
    return interrupt_pending();
}

int app_load(app *a, const sobre_fit_options *fit)
{
    progress p = {.start_ns = os_now_ns(), .shows = !a->args->quiet && sys_is_terminal(stderr)};
    sobre_placement placement;
    sobre_status status;

    a->fit = *fit;
    if (a->device != CPU) { /* which one it is must be known if it fails */
        const int code = app_fit(a, fit, &placement);
        if (code >= 0) return code;
    } else if (!a->device_info) {
        read_device_info(a);
    }
    do {
        status = sobre_model_load(
            a->model, &a->fit, SOBRE(load_options, .progress = on_progress, .progress_user = &p));
        if (p.last_ns) fprintf(stderr, "\r%*s\r", (int)sizeof "loading 100 %", "");
    } while (status < 0 && app_fall_back(a, &status));
    a->load_seconds = (double)(os_now_ns() - p.start_ns) * 1e-9;
    a->loaded = status >= 0;
    return status < 0 ? app_fail(a, status) : -1;
}

int app_open_session(app *a, const sobre_session_options *options)
{
    sobre_status status;

    do {
        status = sobre_session_open(a->model, options, &a->session);
    } while (status < 0 && app_fall_back(a, &status));
    if (status < 0) return app_fail(a, status);
    a->shifts = options->full == SOBRE_FULL_SHIFT;
    interrupt_watch(a->session);
    /* One that came just before. */
    return interrupt_pending() ? CODE_INTERRUPTED : -1;
}

void app_close(app *a)
{
    interrupt_watch(NULL);
    sobre_session_close(a->session);
    sobre_model_close(a->model);
    sobre_context_close(a->context);
    free(a->path);
    *a = (app){0};
}

int app_tokenize(app *a, const char *text, size_t size, uint32_t flags, int32_t **ret_ids,
                 size_t *ret_n)
{
    /* Seldom more than one token a byte, and a few that the model adds. */
    size_t capacity = size + 16, n = 0;
    int32_t *ids = NULL;
    sobre_status status;

    do {
        free(ids);
        ids = malloc(capacity * sizeof *ids);
        if (!ids) return out_of_memory();
        status = sobre_tokenize(a->model, text, size, flags, ids, capacity, &n);
        capacity = n;
    } while (status == SOBRE_BUFFER_TOO_SMALL);
    if (status < 0) {
        free(ids);
        return app_fail(a, status);
    }
    *ret_ids = ids;
    *ret_n = n;
    return -1;
}
