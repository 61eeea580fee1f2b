/* SPDX-License-Identifier: MIT */
#include "probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"
#include "registry.h"
#include "sys.h"

enum { PATH_SIZE = 4096 };

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

static const probe_advice advices[] = {
    {"cpu", .broken = "build Sobre for this processor"},
    {"opencl",
     .broken = "update or remove the broken one, whose file is in /etc/OpenCL/vendors, or name "
               "another folder in OCL_ICD_VENDORS",
     .absent = "For a GPU install its vendor's OpenCL driver; pocl-opencl-icd is one for the CPU.",
     .useless = "Is the user in the groups render and video, and RUSTICL_ENABLE set for Mesa's "
                "rusticl? The libraries that the files in /etc/OpenCL/vendors, or "
                "OCL_ICD_VENDORS, name may be missing: install the driver anew.",
     .unbuilt = "Build it: meson finds OpenCL's headers and CLBlast, then `ninja` makes it."},
    {"cuda", .broken = "install NVIDIA's driver anew; `nvidia-smi` shows if it works at all",
     .absent = "For an NVIDIA card install NVIDIA's driver, which brings libcuda; no more of CUDA "
               "is needed.",
     .useless = "`nvidia-smi` shows if NVIDIA's driver works at all.",
     .unbuilt = "Build it: meson finds nvcc, of the CUDA toolkit, then `ninja` makes it."},
};

const probe_advice *probe_advice_on(const char *backend)
{
    size_t i = sizeof advices / sizeof *advices - 1;
    while (i > 0 && strcmp(advices[i].backend, backend) != 0) i--;
    return &advices[i];
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

static bool is_meant(const char *only, const char *backend)
{
    return !only || strcmp(only, backend) == 0;
}

int probe_here(app *a, const char *only, bool measures, json_t **ret_devices)
{
    json_t *devices = json_array();
    const char *backend;

    if (!devices) return out_of_memory();
    for (int32_t i = 0; (backend = sobre_backend_name(i)); i++)
        if (is_meant(only, backend)) add_backend(a, backend, devices);
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

enum { FAULT_SIZE = 320 };

/* What the child's end means: its devices, or NULL and a fault. */
static int judge(const char *backend, sys_end end, int code, int seconds, bool measures,
                 const text_buffer *output, json_t **ret_devices, char ret_fault[FAULT_SIZE])
{
    const char *advice = probe_advice_on(backend)->broken;
    json_t *devices = NULL;

    if (end == SYS_END_EXIT && code == CODE_OK && !output->failed)
        devices = json_loadb(output->data ? output->data : "", output->size, 0, NULL);
    if (json_is_array(devices)) {
        *ret_devices = devices;
        return -1;
    }
    json_decref(devices);
    switch (end) {
    case SYS_END_INTERRUPT: return CODE_INTERRUPTED;
    case SYS_END_TIMEOUT:
        if (measures)
            snprintf(ret_fault, FAULT_SIZE, "it takes longer than %d s; --timeout gives it more",
                     seconds);
        else
            snprintf(ret_fault, FAULT_SIZE, "its drivers did not answer within %d s; %s", seconds,
                     advice);
        break;
    case SYS_END_CRASH:
        snprintf(ret_fault, FAULT_SIZE, "its drivers crash (%s); %s", sys_crash_text(code), advice);
        break;
    case SYS_END_NOT_STARTED:
        snprintf(ret_fault, FAULT_SIZE, "its drivers could not be tried in a child process: %s",
                 strerror(errno));
        break;
    case SYS_END_EXIT:
        snprintf(ret_fault, FAULT_SIZE, "its drivers end the process (exit code %d); %s", code,
                 advice);
        break;
    }
    *ret_devices = NULL;
    return -1;
}

static int run_child(app *a, const char *backend, int seconds, bool measures, json_t **ret_devices,
                     char ret_fault[FAULT_SIZE])
{
    const char *args[16] = {"devices", "--in-process", "--json", "--backend", backend, "--timeout"};
    char limit[16];
    text_buffer output = {0};
    size_t n = 6;
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
    code = judge(backend, end, code, seconds, measures, &output, ret_devices, ret_fault);
    text_free(&output);
    return code;
}

/* --- Records: what is known of a backend, as it is kept.
 *   devices    as `sobre devices --json` prints them
 *   fault      why its drivers must not be loaded; null: they may
 *   measured   or tried in vain
 *   key        all that this depends on */

static bool is_usable(const json_t *device)
{
    return json_is_true(json_object_get(device, "usable"));
}

bool probe_has_gpu(const json_t *devices)
{
    json_t *device;
    size_t i;

    json_array_foreach(devices, i, device)
    {
        if (text_is(device, "kind", "gpu") && is_usable(device)) return true;
    }
    return false;
}

/* NULL: out of memory. Takes `devices`. */
static json_t *make_record(json_t *devices, const char *fault)
{
    return json_pack("{s:o,s:o,s:b}", "devices", devices, "fault", text_or_null(fault), "measured",
                     0);
}

static int ask_child(app *a, const char *backend, int seconds, json_t **ret_record)
{
    json_t *devices = NULL;
    char fault[FAULT_SIZE];
    const int code = run_child(a, backend, seconds, false, &devices, fault);

    if (code >= 0) return code;
    *ret_record = devices ? make_record(devices, NULL)
                          : make_record(json_pack("[o]", backend_json(backend, fault)), fault);
    return *ret_record ? -1 : out_of_memory();
}

/* The CPU, and what is not installed, need no child. */
static int ask(app *a, const char *backend, int seconds, json_t **ret_record)
{
    char path[PATH_SIZE];
    json_t *devices;
    int code;

    if (strcmp(backend, "cpu") != 0 && plugin_find(a->args->plugins, backend, path, sizeof path))
        return ask_child(a, backend, seconds, ret_record);
    code = probe_here(a, backend, false, &devices);
    if (code >= 0) return code;
    *ret_record = make_record(devices, NULL);
    return *ret_record ? -1 : out_of_memory();
}

/* Adds how fast the devices are, or why that cannot be told. Apart from listing them, so that those
 * that cannot be measured in time can still be used. */
static int measure_record(app *a, const char *backend, int seconds, json_t *record)
{
    json_t *devices = NULL, *device;
    char fault[FAULT_SIZE];
    const int code = run_child(a, backend, seconds, true, &devices, fault);
    size_t i;

    if (code >= 0) return code;
    json_object_set_new(record, "measured", json_true());
    if (devices) {
        json_object_set_new(record, "devices", devices);
        return -1;
    }
    json_array_foreach(json_object_get(record, "devices"), i, device)
    {
        if (is_usable(device))
            json_object_set_new(device, "measurement_error", text_or_null(fault));
    }
    return -1;
}

/* --- What is kept: an object with a record a backend. */

enum { FORMAT = 2 };

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

/* All that a backend's record depends on; NULL if there is no plugin or no driver, and so nothing
 * to ask a child about. */
static json_t *key_of(const app *a, const char *backend)
{
    static const char *const variables[] = {
        "OCL_ICD_VENDORS",   "OCL_ICD_FILENAMES",    "OPENCL_LAYERS",      "RUSTICL_ENABLE",
        "POCL_DEVICES",      "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH",      "LD_PRELOAD"};
    path_list drivers = {0};
    json_t *plugin = json_array(), *files = json_array(), *environment = json_object(), *key;
    char path[PATH_SIZE], release[128];

    if (plugin_find(a->args->plugins, backend, path, sizeof path)) add_stamp(plugin, path);
    sys_list_drivers(backend, add_path, &drivers);
    if (drivers.n > 0) qsort(drivers.items, drivers.n, sizeof *drivers.items, by_text);
    for (size_t i = 0; i < drivers.n; i++) {
        add_stamp(files, drivers.items[i]);
        free(drivers.items[i]);
    }
    free(drivers.items);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        json_object_set_new(environment, variables[i], text_or_null(getenv(variables[i])));
    sys_release(release, sizeof release);
    const bool needed = json_array_size(plugin) > 0 && json_array_size(files) > 0;
    key = json_pack("{s:i,s:s,s:s,s:o,s:o,s:o}", "format", FORMAT, "version", sobre_version(),
                    "system", release, "plugin", plugin, "drivers", files, "environment",
                    environment);
    if (needed && !drivers.failed) return key;
    json_decref(key);
    return NULL;
}

/* An empty object if there is nothing that can be read; NULL: out of memory. */
static json_t *read_kept(void)
{
    char *path = kept_path("devices.json");
    FILE *file = path ? sys_open(path, "rb") : NULL;
    json_t *kept = file ? json_loadf(file, 0, NULL) : NULL, *root = json_object();
    const char *backend;

    for (int32_t i = 0; (backend = sobre_backend_name(i)); i++)
        if (json_is_object(json_object_get(kept, backend)))
            json_object_set(root, backend, json_object_get(kept, backend));
    json_decref(kept);
    if (file) fclose(file);
    free(path);
    return root;
}

/* The record that was kept under this key; NULL: none. It stays root's. */
static json_t *kept_record(const json_t *root, const char *backend, const json_t *key)
{
    json_t *record = json_object_get(root, backend);
    const json_t *fault = json_object_get(record, "fault");

    return key && json_equal(json_object_get(record, "key"), key) &&
                   json_is_array(json_object_get(record, "devices")) &&
                   (json_is_null(fault) || json_is_string(fault))
               ? record
               : NULL;
}

/* A folder that cannot be written only means that the next start asks again. */
static void write_kept(const json_t *root)
{
    char *path = kept_path("devices.json");
    char *text = json_dumps(root, JSON_INDENT(1));

    if (path && text) os_file_replace(path, text, strlen(text));
    free(text);
    free(path);
}

/* --- Asking. */

/* One backend anew; its devices go behind the others, its record into root. */
static int run_one(app *a, const char *backend, int seconds, bool measures, json_t *root,
                   json_t *devices)
{
    json_t *key = key_of(a, backend), *record = NULL;
    int code = ask(a, backend, seconds, &record);

    if (code < 0) {
        const json_t *old = kept_record(root, backend, key);
        if (json_is_true(json_object_get(old, "measured")))
            json_object_set_new(record, "measured", json_true());
        if (measures && json_is_null(json_object_get(record, "fault")))
            code = measure_record(a, backend, seconds, record);
    }
    if (code < 0) {
        json_array_extend(devices, json_object_get(record, "devices"));
        json_object_set(record, "key", key);
        if (key) json_object_set(root, backend, record);
    }
    json_decref(record);
    json_decref(key);
    return code;
}

/* Each child counts from 1; this is how one that asks all would. */
static void number_devices(json_t *devices)
{
    json_t *device;
    size_t i;
    json_int_t n = 0;

    json_array_foreach(devices, i, device)
    {
        if (json_is_integer(json_object_get(device, "device")))
            json_object_set_new(device, "device", json_integer(++n));
    }
}

int probe_run(app *a, const char *only, int seconds, bool measures, json_t **ret_devices)
{
    json_t *root = read_kept(), *devices = json_array();
    const char *backend;
    int code = root && devices ? -1 : out_of_memory();

    for (int32_t i = 0; code < 0 && (backend = sobre_backend_name(i)); i++)
        if (is_meant(only, backend)) code = run_one(a, backend, seconds, measures, root, devices);
    if (code < 0) {
        write_kept(root);
        number_devices(devices);
        *ret_devices = json_incref(devices);
    }
    json_decref(devices);
    json_decref(root);
    return code;
}

typedef struct getter {
    app *app;
    json_t *root, *devices;
    bool keeps, changed; /* changed: root */
    bool measured_cpu, told;
} getter;

static const char notice[] = "looking for devices, once";

/* Once, where somebody looks on. */
static void tell(getter *g)
{
    if (g->told || g->app->args->quiet || !sys_is_terminal(stderr)) return;
    fprintf(stderr, "%s", notice);
    g->told = true;
}

/* GPUs are compared with the CPU. */
static int measure_one(getter *g, const char *backend, json_t *record)
{
    json_t *devices = NULL;
    char fault[FAULT_SIZE];
    int code = -1;

    tell(g);
    if (!g->measured_cpu) code = run_child(g->app, "cpu", PROBE_SECONDS, true, &devices, fault);
    json_decref(devices);
    if (code >= 0) return code;
    g->measured_cpu = g->changed = true;
    return measure_record(g->app, backend, PROBE_SECONDS, record);
}

/* Sees to it that drivers with a fault are not loaded. */
static int shun(getter *g, const char *backend, const json_t *record, bool kept)
{
    const char *fault = json_string_value(json_object_get(record, "fault"));
    char reason[FAULT_SIZE + 64];

    if (!fault) return -1;
    snprintf(reason, sizeof reason, "%s%s", fault, kept ? "; `sobre devices` tries again" : "");
    const sobre_status status = registry_shun(g->app->context, backend, reason);
    return status < 0 ? app_fail(g->app, status) : -1;
}

/* One backend, if there is a plugin and a driver for it. */
static int get_one(getter *g, const char *backend)
{
    json_t *key = key_of(g->app, backend);
    json_t *record = json_incref(kept_record(g->root, backend, key));
    const bool kept = record != NULL;
    int code = -1;

    if (!key) return -1;
    if (!kept) {
        tell(g);
        code = ask_child(g->app, backend, PROBE_SECONDS, &record);
        if (code < 0) {
            json_object_set(record, "key", key);
            json_object_set(g->root, backend, record);
            g->changed = true;
        }
    }
    if (code < 0) code = shun(g, backend, record, kept);
    if (code < 0 && g->keeps && !json_is_true(json_object_get(record, "measured")) &&
        probe_has_gpu(json_object_get(record, "devices")))
        code = measure_one(g, backend, record);
    if (code < 0) json_array_extend(g->devices, json_object_get(record, "devices"));
    json_decref(record);
    json_decref(key);
    return code;
}

int probe_get(app *a, const char *only, bool keeps, json_t **ret_devices)
{
    getter g = {.app = a, .root = read_kept(), .devices = json_array(), .keeps = keeps};
    const char *backend;
    int code = g.root && g.devices ? -1 : out_of_memory();

    for (int32_t i = 0; code < 0 && (backend = sobre_backend_name(i)); i++)
        if (strcmp(backend, "cpu") != 0 && is_meant(only, backend)) code = get_one(&g, backend);
    if (code < 0 && keeps && g.changed) write_kept(g.root);
    if (g.told) fprintf(stderr, "\r%*s\r", (int)sizeof notice, "");
    if (code < 0) *ret_devices = json_incref(g.devices);
    json_decref(g.devices);
    json_decref(g.root);
    return code;
}
