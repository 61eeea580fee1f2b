/* SPDX-License-Identifier: MIT */
/* sobre devices: what this machine can compute on. */
#include <string.h>

#include "cmds.h"
#include "probe.h"
#include "sys.h"

typedef struct devices_args {
    common_args common;
    bool measures, here;
    int32_t seconds;
    const char *backend; /* NULL: all */
} devices_args;

#define AT(member) offsetof(devices_args, member)

static const option options[] = {
    {"measure", 0, OPTION_FLAG, AT(measures), NULL,
     "how fast each device is, kept for --device auto", 0, 0},
    {"backend", 0, OPTION_TEXT, AT(backend), "NAME", "ask this one only: cpu, opencl or cuda", 0,
     0},
    {"timeout", 0, OPTION_INT, AT(seconds), "SECONDS",
     "how long the drivers of a backend may take to answer; 20 if not given", 1, 3600},
    {"in-process", 0, OPTION_FLAG, AT(here), NULL,
     "load the drivers into this process, which a broken one can hang or end", 0, 0},
};

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static uint64_t number_of(const json_t *object, const char *key)
{
    const json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

/* The indented lines below a device. */
static void print_remark(out_style style, const char *label, const char *text)
{
    printf("%-10s %s%s%s ", "", out_style_on(stdout, style), label, out_style_off(stdout));
    out_line_text(stdout, text);
    putchar('\n');
}

static void print_measurement(const json_t *m)
{
    char text[160], bytes[HUMAN_SIZE];

    snprintf(text, sizeof text, "%s/s of weights, %.1f us a launch, %.1f GFLOP/s of products",
             human_bytes(number_of(m, "bytes_per_s"), bytes),
             (double)number_of(m, "ns_per_launch") * 1e-3,
             (double)number_of(m, "flop_per_s") * 1e-9);
    print_remark(STYLE_GOOD, "measured:", text);
}

static void print_device(const json_t *d)
{
    const char *name = text_of(d, "name"), *detail = text_of(d, "detail"),
               *kind = text_of(d, "kind"), *reason = text_of(d, "reason"),
               *failed = text_of(d, "measurement_error"), *option_name = text_of(d, "option");
    const json_t *measured = json_object_get(d, "measurement");
    const uint64_t memory = number_of(d, "memory_bytes"), available = number_of(d, "memory_free");
    char text[HUMAN_SIZE];

    printf("%s%-10s%s ", out_style_on(stdout, STYLE_BOLD), option_name ? option_name : "?",
           out_style_off(stdout));
    if (kind) { /* a device, not a backend without one */
        out_line_text(stdout, name ? name : "(no name)");
        if (number_of(d, "n_units") > 0)
            printf(", %d %s", (int)number_of(d, "n_units"),
                   strcmp(kind, "cpu") == 0 ? "cores" : "units");
        if (detail && detail[0]) {
            printf(", ");
            out_line_text(stdout, detail);
        }
        if (memory > 0) printf(", %s memory", human_bytes(memory, text));
        if (available > 0) printf(", %s free", human_bytes(available, text));
    } else {
        printf("no device");
    }
    putchar('\n');
    if (reason) print_remark(STYLE_WARN, "cannot be used:", reason);
    if (json_is_object(measured)) print_measurement(measured);
    if (failed) print_remark(STYLE_WARN, "cannot be measured:", failed);
}

static int print_devices(json_t *devices, bool as_json)
{
    json_t *object;
    size_t i;

    if (as_json) return out_json(devices, JSON_INDENT(2));
    json_array_foreach(devices, i, object) print_device(object);
    json_decref(devices);
    return out_finish();
}

static int list(app *a, const devices_args *args)
{
    json_t *devices = NULL;
    int code;

    if (args->backend && !app_is_backend(args->backend)) {
        complain("--backend wants cpu, opencl or cuda, not \"%s\"", args->backend);
        return CODE_USAGE;
    }
    if (args->here) {
        sys_limit_self((int)args->seconds + 5); /* should the parent not be there any more */
        code = probe_here(a, args->backend, args->measures, &devices);
    } else {
        code = probe_run(a, args->backend, (int)args->seconds, args->measures, &devices);
    }
    return code >= 0 ? code : print_devices(devices, args->common.json);
}

static int run(const command *self, int argc, char **argv)
{
    devices_args args = {.seconds = PROBE_SECONDS};
    app a = {0};
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if ((code = app_open(&a, &args.common)) < 0) code = list(&a, &args);
    app_close(&a);
    return code;
}

const command cmd_devices = {
    .name = "devices",
    .summary = "List the devices that models can run on.",
    .synopsis = "[options]",
    .details =
        "The first word of a line is what --device takes. A device that cannot be used says why; "
        "the CPU can always be used.\nDrivers are asked by a child process for each backend, since "
        "broken ones can hang or crash. What it finds is kept in the cache folder for the other "
        "commands, until drivers, plugins or the environment change; this command always asks "
        "anew.",
    .examples = "  sobre devices\n  sobre devices --measure\n  sobre devices --json\n",
    .takes = TAKES_JSON | TAKES_QUIET | TAKES_PLUGINS,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
