/* SPDX-License-Identifier: MIT */
/* sobre doctor: is this machine ready, and what to do if not. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmds.h"
#include "os.h"
#include "probe.h"
#include "registry.h"
#include "sys.h"

typedef enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL } verdict;

static const struct {
    const char *name;
    out_style style;
} verdicts[] = {{"ok", STYLE_GOOD}, {"warn", STYLE_WARN}, {"fail", STYLE_BAD}};

/* One check's outcome; `advice` NULL where there is nothing to do. */
typedef struct finding {
    const char *check;
    verdict verdict;
    char text[320];
    const char *advice;
} finding;

typedef struct doctor {
    app app;
    json_t *array; /* NULL: printed as text */
    bool failed;
} doctor;

static void report(doctor *d, const finding *f)
{
    const char *name = verdicts[f->verdict].name;

    d->failed |= f->verdict == VERDICT_FAIL;
    if (d->array) {
        json_t *object = json_pack("{s:s,s:s,s:o}", "check", f->check, "verdict", name, "text",
                                   json_text(f->text, strlen(f->text)));
        json_object_set_new(object, "advice", f->advice ? json_string(f->advice) : json_null());
        json_array_append_new(d->array, object);
        return;
    }
    printf("%s%-4s%s  %-10s ", out_style_on(stdout, verdicts[f->verdict].style), name,
           out_style_off(stdout), f->check);
    out_line_text(stdout, f->text);
    putchar('\n');
    if (f->advice) printf("%17s%s\n", "", f->advice);
}

static void check_processor(doctor *d)
{
    finding f = {.check = "processor"};
    const sobre_device_info *info = NULL;
    int32_t device;
    const sobre_status status = sobre_device_get(d->app.context, "cpu", 0, &device, &info);

    if (status < 0 || info->reason) {
        f.verdict = VERDICT_FAIL;
        snprintf(f.text, sizeof f.text, "%s",
                 status < 0 ? sobre_error(d->app.context) : info->reason);
        f.advice = "Without the CPU nothing runs; build Sobre for this processor.";
    } else {
        const char *detail = info->detail ? info->detail : "";
        snprintf(f.text, sizeof f.text, "%s, %s", info->name ? info->name : "unknown", detail);
        if (strstr(detail, "scalar")) {
            f.verdict = VERDICT_WARN;
            f.advice = "No fast instruction set is used: text will be slow.";
        }
    }
    report(d, &f);
}

static void check_threads(doctor *d)
{
    enum { MAX_CPUS = 1024 };
    finding f = {.check = "threads"};
    static int cpus[MAX_CPUS];
    int n_cores = 0;
    const int n = os_cpus(cpus, MAX_CPUS, &n_cores);

    snprintf(f.text, sizeof f.text, "%d logical processor%s on %d core%s may be used", n,
             n == 1 ? "" : "s", n_cores, n_cores == 1 ? "" : "s");
    if (n_cores < 2) {
        f.verdict = VERDICT_WARN;
        f.advice = "One core makes prompts slow; give this process more if there are more.";
    }
    report(d, &f);
}

static void check_memory(doctor *d)
{
    finding f = {.check = "memory"};
    uint64_t total = 0, available = 0;
    char text[2][HUMAN_SIZE];

    os_memory_info(&total, &available);
    snprintf(f.text, sizeof f.text, "%s in all, %s free", human_bytes(total, text[0]),
             human_bytes(available, text[1]));
    if (total == 0) {
        snprintf(f.text, sizeof f.text, "the system does not tell");
    } else if (available < (uint64_t)512 << 20) {
        f.verdict = VERDICT_WARN;
        f.advice = "Small models need some 200 MB, one of 1 B parameters about 1 GB; close other "
                   "programs.";
    }
    report(d, &f);
}

static void check_huge_pages(doctor *d)
{
    finding f = {.check = "huge pages"};
    char state[32];

    sys_huge_pages(state, sizeof state);
    snprintf(f.text, sizeof f.text, "%s", state[0] ? state : "not known on this system");
    if (strcmp(state, "never") == 0) {
        f.verdict = VERDICT_WARN;
        f.advice = "A few per cent faster: echo madvise > "
                   "/sys/kernel/mm/transparent_hugepage/enabled (as root).";
    }
    report(d, &f);
}

static void check_cache(doctor *d)
{
    finding f = {.check = "cache"};
    char *folder = cache_folder(NULL);

    if (!folder) {
        f.verdict = VERDICT_WARN;
        snprintf(f.text, sizeof f.text, "no cache folder is known");
        f.advice = "Set HOME or XDG_CACHE_HOME, so that models can be found by name.";
    } else if (sys_can_write_folder(folder)) {
        snprintf(f.text, sizeof f.text, "%s can be written", folder);
    } else {
        f.verdict = VERDICT_WARN;
        snprintf(f.text, sizeof f.text, "%s cannot be written: %s", folder, strerror(errno));
        f.advice = "Make it writable, or set XDG_CACHE_HOME to a folder that is.";
    }
    free(folder);
    report(d, &f);
}

static void count_driver(void *user, const char *path)
{
    (void)path;
    ++*(int *)user;
}

/* The file of a backend, and whether there are drivers for it. */
static void check_plugin(doctor *d, const char *backend)
{
    const probe_advice *advice = probe_advice_on(backend);
    finding f = {.check = "plugin"};
    int n_drivers = 0;
    char path[sizeof f.text - 40];

    sys_list_drivers(backend, count_driver, &n_drivers);
    if (!plugin_find(d->app.args->plugins, backend, path, sizeof path)) {
        snprintf(f.text, sizeof f.text, "%s: not installed, and %s", backend,
                 n_drivers > 0 ? "there are drivers for it" : "there is no driver for it either");
        f.verdict = n_drivers > 0 ? VERDICT_WARN : VERDICT_OK;
        if (n_drivers > 0) f.advice = advice->unbuilt;
    } else {
        snprintf(f.text, sizeof f.text, "%s: %s%s", backend, path,
                 n_drivers > 0 ? "" : ", but there is no driver");
        if (n_drivers == 0) f.advice = advice->absent;
    }
    report(d, &f);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void check_devices(doctor *d)
{
    json_t *devices = NULL;
    const char *backend;
    const json_t *object;
    size_t i;

    for (int32_t b = 0; (backend = sobre_backend_name(b)); b++)
        if (strcmp(backend, "cpu") != 0) check_plugin(d, backend);
    if (probe_get(&d->app, NULL, false, &devices) >= 0) return;
    json_array_foreach(devices, i, object)
    {
        finding f = {.check = "device"};
        const char *reason = text_of(object, "reason");

        const bool empty = strcmp(reason, probe_no_driver) == 0;
        if (empty) reason = "none of its drivers can be loaded and has a device";
        const char *name = text_of(object, "name");
        snprintf(f.text, sizeof f.text, "%s: %s%s%s%s", text_of(object, "option"), name,
                 name[0] && reason[0] ? " " : "", reason[0] ? "cannot be used: " : "", reason);
        if (reason[0]) {
            f.verdict = VERDICT_WARN;
            f.advice = empty ? probe_advice_on(text_of(object, "backend"))->useless
                             : "It is left alone, and other devices do the work.";
        }
        report(d, &f);
    }
    json_decref(devices);
}

/* Opens the header of every model in the cache. */
static void check_models(doctor *d)
{
    model_list list = {0};
    char *folder = cache_folder("models");

    if (!folder || !model_list_get("", &list) || list.n == 0) {
        finding f = {.check = "models", .verdict = VERDICT_WARN};
        snprintf(f.text, sizeof f.text, "there is no model in %s", folder ? folder : "the cache");
        f.advice = "Put a GGUF file there, or give its path to the other subcommands.";
        report(d, &f);
    }
    for (size_t i = 0; i < list.n; i++) {
        finding f = {.check = "model"};
        sobre_model *model = NULL;
        text_buffer path = {0};
        char size[HUMAN_SIZE];

        text_add(&path, folder, strlen(folder));
        text_add(&path, "/", 1);
        text_add(&path, list.items[i].name, strlen(list.items[i].name));
        if (!path.failed &&
            sobre_model_open(d->app.context, SOBRE(source, .path = path.data), &model) >= 0) {
            const sobre_model_info *info = sobre_model_info_get(model);
            snprintf(f.text, sizeof f.text, "%s, %s %s, %s", list.items[i].name, info->architecture,
                     info->quantization, human_bytes(list.items[i].size, size));
        } else {
            f.verdict = VERDICT_FAIL;
            snprintf(f.text, sizeof f.text, "%s", sobre_error(d->app.context));
            f.advice = "Fetch it again, or remove it.";
        }
        sobre_model_close(model);
        text_free(&path);
        report(d, &f);
    }
    model_list_free(&list);
    free(folder);
}

static int run(const command *self, int argc, char **argv)
{
    static void (*const checks[])(doctor *) = {check_processor,  check_threads, check_memory,
                                               check_huge_pages, check_cache,   check_devices,
                                               check_models};
    common_args args = {0};
    doctor d = {0};
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if ((code = app_open(&d.app, &args)) < 0) {
        if (args.json) d.array = json_array();
        for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) checks[i](&d);
        code = d.array ? out_json(d.array, JSON_INDENT(2)) : out_finish();
        if (code == CODE_OK && d.failed) code = CODE_FAILED;
    }
    app_close(&d.app);
    return code;
}

const command cmd_doctor = {
    .name = "doctor",
    .summary = "Check this machine, its devices and the cached models.",
    .synopsis = "[options]",
    .details = "Each line is ok, warn or fail, with what to do. It ends with 1 if anything failed.",
    .examples = "  sobre doctor\n  sobre doctor --json\n",
    .takes = TAKES_JSON | TAKES_QUIET | TAKES_PLUGINS,
    .run = run,
};
