/* SPDX-License-Identifier: MIT */
#include "app.h"

#include <stdlib.h>
#include <string.h>

#include "os.h"
#include "out.h"
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

/* "auto", "cpu", "opencl", "opencl:1": a backend and which of its devices. */
static int find_device(app *a, const char *name)
{
    const size_t size = strcspn(name, ":");
    char backend[32] = "";
    int64_t index = 0;
    int32_t n = 0;

    if (strcmp(name, "auto") == 0) return -1;
    if (size == 0 || size >= sizeof backend ||
        (name[size] && !parse_int(name + size + 1, 0, 1000, &index))) {
        complain("--device wants auto, or a backend such as cpu or opencl:1, not \"%s\"", name);
        return CODE_USAGE;
    }
    memcpy(backend, name, size);
    const sobre_status status = sobre_device_count(a->context, backend, &n);
    if (status < 0 || index >= n) {
        if (status < 0 && status != SOBRE_UNAVAILABLE && status != SOBRE_INVALID_ARGUMENT)
            return app_fail(a, status);
        complain("there is no device \"%s\" here; `sobre devices` lists those there are", name);
        return CODE_DEVICE;
    }
    const sobre_status got =
        sobre_device_get(a->context, backend, (int32_t)index, &a->device, &a->device_info);
    return got < 0 ? app_fail(a, got) : -1;
}

int app_open(app *a, const common_args *args)
{
    char *cache = cache_folder(NULL);
    const sobre_context_options options = {
        .struct_size = sizeof options,
        .log = on_log,
        .log_user = (void *)args,
        .cache_dir = cache,
        .n_threads = args->n_threads,
        .cpu_isa = (sobre_cpu_isa)args->isa,
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

sobre_fit_options app_fit_options(const app *a)
{
    return (sobre_fit_options){
        .struct_size = sizeof(sobre_fit_options),
        .device = a->device,
        .n_ctx = a->args->n_ctx,
        .kv_type = a->args->exact ? SOBRE_KV_F32 : (sobre_kv_type)a->args->kv_type,
        .limit = a->args->limit,
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
    const sobre_status status = sobre_model_fit(a->model, fit, &placement);
    int32_t n = 0;

    if (status < 0) return app_fail(a, status);
    a->device = placement.device;
    /* The CPU is device 1; asking for it alone loads no driver. */
    const char *backend = a->device == 1 ? "cpu" : NULL;
    if (!a->device_info && sobre_device_count(a->context, backend, &n) >= 0)
        for (int32_t i = 0; i < n; i++) {
            const sobre_device_info *info;
            int32_t device;
            if (sobre_device_get(a->context, backend, i, &device, &info) >= 0 &&
                device == a->device)
                a->device_info = info;
        }
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
    const sobre_status status = sobre_model_load(
        a->model, fit, SOBRE(load_options, .progress = on_progress, .progress_user = &p));

    if (p.last_ns) fprintf(stderr, "\r%*s\r", (int)sizeof "loading 100 %", "");
    a->load_seconds = (double)(os_now_ns() - p.start_ns) * 1e-9;
    return status < 0 ? app_fail(a, status) : -1;
}

int app_open_session(app *a, const sobre_session_options *options)
{
    const sobre_status status = sobre_session_open(a->model, options, &a->session);

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
