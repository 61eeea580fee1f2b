/* SPDX-License-Identifier: MIT */
#include "probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"
#include "registry.h"
#include "sys.h"

/* --- In this process. */

static json_t *text_or_null(const char *text)
{
    return text ? json_text(text, strlen(text)) : json_null();
}

static const char *kind_name(sobre_device_kind kind)
{
    return kind == SOBRE_DEVICE_CPU ? "cpu" : "gpu";
}

/* One that can be used, or says why not. */
static json_t *device_json(int32_t device, const char *named, const sobre_device_info *info)
{
    return json_pack("{s:i,s:s,s:s,s:s,s:b,s:i,s:I,s:I,s:o,s:o,s:o}", "device", (int)device,
                     "option", named, "kind", kind_name(info->kind), "backend", info->backend,
                     "usable", info->reason == NULL, "n_units", (int)info->n_units, "memory_bytes",
                     (json_int_t)info->memory_bytes, "memory_free", (json_int_t)info->memory_free,
                     "name", text_or_null(info->name), "detail", text_or_null(info->detail),
                     "reason", text_or_null(info->reason));
}

/* A backend without devices. */
static json_t *backend_json(const char *backend, const char *reason)
{
    return json_pack("{s:n,s:s,s:n,s:s,s:b,s:n,s:n,s:o}", "device", "option", backend, "kind",
                     "backend", backend, "usable", false, "name", "detail", "reason",
                     text_or_null(reason));
}

const char probe_no_driver[] =
    "no driver is installed, or none of them has a device; `sobre doctor` says what to do";

const char *probe_reason(const app *a, const char *backend)
{
    const char *reason = sobre_error(a->context);
    const size_t n = strlen(backend);

    return strncmp(reason, backend, n) == 0 && strncmp(reason + n, ": ", 2) == 0 ? reason + n + 2
                                                                                 : reason;
}

static void add_backend(app *a, const char *backend, json_t *devices)
{
    int32_t n = 0;
    const sobre_status status = sobre_device_count(a->context, backend, &n);

    if (status < 0 || n == 0)
        json_array_append_new(devices, backend_json(backend, status < 0 ? probe_reason(a, backend)
                                                                        : probe_no_driver));
    for (int32_t i = 0; i < n && status >= 0; i++) {
        const sobre_device_info *info;
        int32_t device;
        char named[40];

        if (sobre_device_get(a->context, backend, i, &device, &info) < 0) continue;
        snprintf(named, sizeof named, i > 0 ? "%s:%d" : "%s", backend, (int)i);
        json_array_append_new(devices, device_json(device, named, info));
    }
}

static void measure(app *a, json_t *object)
{
    sobre_measurement m = SOBRE_INIT(measurement);
    const int32_t device = (int32_t)json_integer_value(json_object_get(object, "device"));

    if (sobre_device_measure(a->context, device, &m) >= 0)
        json_object_set_new(object, "measurement",
                            json_pack("{s:I,s:I,s:I}", "bytes_per_s", (json_int_t)m.bytes_per_s,
                                      "ns_per_launch", (json_int_t)m.ns_per_launch, "flop_per_s",
                                      (json_int_t)m.flop_per_s));
    else
        json_object_set_new(object, "measurement_error", text_or_null(sobre_error(a->context)));
}

static bool text_is(const json_t *object, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value && strcmp(value, text) == 0;
}

/* The CPU and GPUs first, since what comes late may be too late. */
static void measure_all(app *a, json_t *devices)
{
    for (int round = 0; round < 2; round++) {
        json_t *object;
        size_t i;
        json_array_foreach(devices, i, object)
        {
            const bool first = text_is(object, "kind", "gpu") || text_is(object, "backend", "cpu");
            if (first == (round == 0) && json_is_true(json_object_get(object, "usable")))
                measure(a, object);
        }
    }
}

int probe_here(app *a, bool measures, json_t **ret_devices)
{
    json_t *devices = json_array();
    const char *backend;

    if (!devices) return out_of_memory();
    for (int32_t i = 0; (backend = sobre_backend_name(i)); i++) add_backend(a, backend, devices);
    if (measures) measure_all(a, devices);
    *ret_devices = devices;
    return -1;
}

/* --- In a child. */

static void collect(void *user, const char *data, size_t size)
{
    enum { MAX_OUTPUT = 1 << 20 };
    text_buffer *b = user;
    if (b->size + size <= MAX_OUTPUT) text_add(b, data, size);
}

/* Where drivers must not be loaded only the CPU can be listed. */
static int without_drivers(app *a, const char *fault, probe *ret)
{
    json_t *devices = json_array();
    const char *backend;

    ret->fault = malloc(strlen(fault) + 1);
    if (!devices || !ret->fault) {
        json_decref(devices);
        return out_of_memory();
    }
    strcpy(ret->fault, fault);
    for (int32_t i = 0; (backend = sobre_backend_name(i)); i++)
        if (strcmp(backend, "cpu") == 0)
            add_backend(a, backend, devices);
        else
            json_array_append_new(devices, backend_json(backend, fault));
    ret->devices = devices;
    return -1;
}

/* What the child's end means: its devices, or a fault. */
static int judge(app *a, sys_end end, int code, int seconds, bool measures,
                 const text_buffer *output, probe *ret)
{
    static const char advice[] = "update or remove the broken one, whose file is in "
                                 "/etc/OpenCL/vendors, or name another folder in OCL_ICD_VENDORS";
    char fault[320];
    json_t *devices = NULL;

    if (end == SYS_END_EXIT && code == CODE_OK && !output->failed)
        devices = json_loadb(output->data ? output->data : "", output->size, 0, NULL);
    if (json_is_array(devices)) {
        ret->devices = devices;
        return -1;
    }
    json_decref(devices);
    switch (end) {
    case SYS_END_INTERRUPT: return CODE_INTERRUPTED;
    case SYS_END_TIMEOUT:
        if (measures)
            snprintf(fault, sizeof fault, "it takes longer than %d s; --timeout gives it more",
                     seconds);
        else
            snprintf(fault, sizeof fault, "its drivers did not answer within %d s; %s", seconds,
                     advice);
        break;
    case SYS_END_CRASH:
        snprintf(fault, sizeof fault, "its drivers crash (%s); %s", sys_crash_text(code), advice);
        break;
    case SYS_END_NOT_STARTED:
        snprintf(fault, sizeof fault, "its drivers could not be tried in a child process: %s",
                 strerror(errno));
        break;
    case SYS_END_EXIT:
        snprintf(fault, sizeof fault, "its drivers end the process (exit code %d); %s", code,
                 advice);
        break;
    }
    return without_drivers(a, fault, ret);
}

static int run_child(app *a, int seconds, bool measures, probe *ret)
{
    const char *args[16] = {"devices", "--in-process", "--json", "--timeout"};
    char limit[16];
    text_buffer output = {0};
    size_t n = 4;
    int code = 0;

    snprintf(limit, sizeof limit, "%d", seconds);
    args[n++] = limit;
    if (measures) args[n++] = "--measure";
    if (a->args->plugins) {
        args[n++] = "--plugins";
        args[n++] = a->args->plugins;
    }
    const sys_end end =
        sys_run_self(args, seconds * 1000, interrupt_pending, collect, &output, &code);
    code = judge(a, end, code, seconds, measures, &output, ret);
    text_free(&output);
    return code;
}

bool probe_has_gpu(const probe *p)
{
    json_t *object;
    size_t i;

    json_array_foreach(p->devices, i, object)
    {
        if (text_is(object, "kind", "gpu") && json_is_true(json_object_get(object, "usable")))
            return true;
    }
    return false;
}

/* --- What is kept. */

enum { FORMAT = 1 };

static char *kept_path(const char *name)
{
    text_buffer path = {0};
    char *folder = cache_folder(NULL);

    if (!folder) return NULL;
    text_add(&path, folder, strlen(folder));
    text_add(&path, "/", 1);
    text_add(&path, name, strlen(name));
    free(folder);
    if (path.failed) text_free(&path);
    return path.data;
}

typedef struct path_list {
    char **items;
    size_t n;
    bool failed;
} path_list;

static void add_path(void *user, const char *path)
{
    path_list *list = user;
    char **items = realloc(list->items, (list->n + 1) * sizeof *items);
    char *copy = malloc(strlen(path) + 1);

    if (items) list->items = items;
    if (!items || !copy) {
        free(copy);
        list->failed = true;
        return;
    }
    list->items[list->n++] = strcpy(copy, path);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A file and how it looks from outside; one that is only named, as a library can be, counts too. */
static void add_stamp(json_t *files, const char *path)
{
    uint64_t size = 0;
    int64_t changed = 0;

    sys_file_stamp(path, &size, &changed);
    json_array_append_new(files, json_pack("[o,I,I]", json_text(path, strlen(path)),
                                           (json_int_t)size, (json_int_t)changed));
}

/* All that a probe depends on; NULL if there is nothing to probe, or no memory. */
static json_t *probe_key(const app *a)
{
    static const char *const variables[] = {"OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "OPENCL_LAYERS",
                                            "LD_LIBRARY_PATH", "LD_PRELOAD"};
    enum { PATH_SIZE = 4096 };
    path_list drivers = {0};
    json_t *plugins = json_array(), *files = json_array(), *environment = json_object(), *key;
    char path[PATH_SIZE], release[128];
    const char *backend;

    for (int32_t i = 0; (backend = sobre_backend_name(i)); i++)
        if (plugin_find(a->args->plugins, backend, path, sizeof path)) add_stamp(plugins, path);
    sys_list_drivers(add_path, &drivers);
    if (drivers.n > 0) qsort(drivers.items, drivers.n, sizeof *drivers.items, by_text);
    for (size_t i = 0; i < drivers.n; i++) {
        add_stamp(files, drivers.items[i]);
        free(drivers.items[i]);
    }
    free(drivers.items);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        json_object_set_new(environment, variables[i], text_or_null(getenv(variables[i])));
    sys_release(release, sizeof release);
    const bool needed = json_array_size(plugins) > 0 && json_array_size(files) > 0;
    key = json_pack("{s:i,s:s,s:s,s:o,s:o,s:o}", "format", FORMAT, "version", sobre_version(),
                    "system", release, "plugins", plugins, "drivers", files, "environment",
                    environment);
    if (needed && !drivers.failed) return key;
    json_decref(key);
    return NULL;
}

/* What was kept under this key; all zero if there is nothing that can be read. */
static void read_kept(const json_t *key, probe *ret)
{
    static const char again[] = "; `sobre devices` tries again";
    char *path = kept_path("devices.json");
    FILE *file = path ? sys_open(path, "rb") : NULL;
    json_t *root = file ? json_loadf(file, 0, NULL) : NULL;
    json_t *devices = json_object_get(root, "devices");
    const char *fault = json_string_value(json_object_get(root, "fault"));
    char *copy = fault ? malloc(strlen(fault) + sizeof again) : NULL;

    if (json_equal(json_object_get(root, "key"), key) && json_is_array(devices) &&
        !fault == !copy) {
        if (copy) strcat(strcpy(copy, fault), again);
        *ret = (probe){json_incref(devices), copy, json_is_true(json_object_get(root, "measured"))};
    } else {
        free(copy);
    }
    json_decref(root);
    if (file) fclose(file);
    free(path);
}

/* A folder that cannot be written only means that the next start asks again. */
static void write_kept(const json_t *key, const probe *p)
{
    char *path = kept_path("devices.json");
    json_t *root = json_pack("{s:O,s:o,s:b,s:O}", "key", key, "fault", text_or_null(p->fault),
                             "measured", (int)p->measured, "devices", p->devices);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;

    if (path && text) os_file_replace(path, text, strlen(text));
    free(text);
    json_decref(root);
    free(path);
}

/* Adds how fast the devices are, or why that cannot be told. Apart from listing them, so that those
 * that cannot be measured in time can still be used. */
static int measure_in_child(app *a, int seconds, probe *p)
{
    probe measured = {0};
    const int code = run_child(a, seconds, true, &measured);
    json_t *object;
    size_t i;

    if (code >= 0) return code;
    p->measured = true;
    if (!measured.fault) {
        json_decref(p->devices);
        p->devices = json_incref(measured.devices);
    } else {
        json_array_foreach(p->devices, i, object)
        {
            if (json_is_true(json_object_get(object, "usable")) &&
                !text_is(object, "backend", "cpu"))
                json_object_set_new(object, "measurement_error", text_or_null(measured.fault));
        }
    }
    probe_free(&measured);
    return -1;
}

int probe_run(app *a, int seconds, bool measures, probe *ret_probe)
{
    probe p = {0}, old = {0};
    json_t *key = probe_key(a);
    int code = run_child(a, seconds, false, &p);

    if (code < 0 && key) {
        read_kept(key, &old);
        p.measured = old.measured;
        probe_free(&old);
    }
    if (code < 0 && measures && !p.fault) code = measure_in_child(a, seconds, &p);
    if (code < 0 && key) write_kept(key, &p);
    json_decref(key);
    if (code < 0)
        *ret_probe = p;
    else
        probe_free(&p);
    return code;
}

int probe_get(app *a, bool keeps, probe *ret_probe)
{
    static const char notice[] = "looking for devices, once";
    const bool says = !a->args->quiet && sys_is_terminal(stderr);
    probe p = {0};
    json_t *key = probe_key(a);
    int code = -1;

    if (!key) {
        *ret_probe = p;
        return -1;
    }
    read_kept(key, &p);
    const bool lists = !p.devices, measures = keeps && !p.measured && (lists || probe_has_gpu(&p));
    if (says && (lists || measures)) fprintf(stderr, "%s", notice);
    if (lists) code = run_child(a, PROBE_SECONDS, false, &p);
    if (code < 0 && measures && probe_has_gpu(&p)) code = measure_in_child(a, PROBE_SECONDS, &p);
    if (code < 0 && keeps && (lists || measures)) write_kept(key, &p);
    if (says && (lists || measures)) fprintf(stderr, "\r%*s\r", (int)sizeof notice, "");
    json_decref(key);
    if (code < 0)
        *ret_probe = p;
    else
        probe_free(&p);
    return code;
}

void probe_free(probe *p)
{
    json_decref(p->devices);
    free(p->fault);
    *p = (probe){0};
}
