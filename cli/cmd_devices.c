/* SPDX-License-Identifier: MIT */
/* sobre devices: what this machine can compute on. */
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "out.h"

static const char *kind_name(sobre_device_kind kind)
{
    return kind == SOBRE_DEVICE_CPU ? "cpu" : "gpu";
}

static json_t *to_json(int32_t device, const char *option_name, const sobre_device_info *info)
{
    json_t *object =
        json_pack("{s:i,s:s,s:s,s:s,s:b,s:i,s:I,s:I}", "device", (int)device, "option", option_name,
                  "kind", kind_name(info->kind), "backend", info->backend, "usable",
                  info->reason == NULL, "n_units", (int)info->n_units, "memory_bytes",
                  (json_int_t)info->memory_bytes, "memory_free", (json_int_t)info->memory_free);
    const char *const texts[][2] = {
        {"name", info->name}, {"detail", info->detail}, {"reason", info->reason}};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        json_object_set_new(object, texts[i][0],
                            texts[i][1] ? json_text(texts[i][1], strlen(texts[i][1]))
                                        : json_null());
    return object;
}

static void print_device(const char *option_name, const sobre_device_info *info)
{
    char memory[HUMAN_SIZE], available[HUMAN_SIZE];

    printf("%s%-10s%s ", out_style_on(stdout, STYLE_BOLD), option_name, out_style_off(stdout));
    out_line_text(stdout, info->name ? info->name : "(no name)");
    if (info->n_units > 0)
        printf(", %d %s", (int)info->n_units, info->kind == SOBRE_DEVICE_CPU ? "cores" : "units");
    if (info->detail && info->detail[0]) {
        printf(", ");
        out_line_text(stdout, info->detail);
    }
    if (info->memory_bytes > 0) printf(", %s memory", human_bytes(info->memory_bytes, memory));
    if (info->memory_free > 0) printf(", %s free", human_bytes(info->memory_free, available));
    putchar('\n');
    if (info->reason) {
        printf("%-10s %scannot be used:%s ", "", out_style_on(stdout, STYLE_WARN),
               out_style_off(stdout));
        out_line_text(stdout, info->reason);
        putchar('\n');
    }
}

/* Prints or collects every device; the numbers count each backend's devices, as --device does. */
static int list(app *a, const common_args *args)
{
    json_t *array = args->json ? json_array() : NULL;
    const char *backend = "";
    int32_t n = 0, index = 0;
    sobre_status status = sobre_device_count(a->context, NULL, &n);

    for (int32_t i = 0; i < n && status == SOBRE_OK; i++) {
        const sobre_device_info *info;
        int32_t device;
        char name[40];

        status = sobre_device_get(a->context, NULL, i, &device, &info);
        if (status < 0) break;
        index = strcmp(backend, info->backend) == 0 ? index + 1 : 0;
        backend = info->backend;
        if (info->kind == SOBRE_DEVICE_NULL) continue; /* it computes nothing; for tests */
        if (index > 0)
            snprintf(name, sizeof name, "%s:%d", backend, (int)index);
        else
            snprintf(name, sizeof name, "%s", backend);
        if (array)
            json_array_append_new(array, to_json(device, name, info));
        else
            print_device(name, info);
    }
    if (status < 0) {
        json_decref(array);
        return app_fail(a, status);
    }
    return array ? out_json(array, JSON_INDENT(2)) : out_finish();
}

static int run(const command *self, int argc, char **argv)
{
    common_args args = {0};
    app a = {0};
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if ((code = app_open(&a, &args)) < 0) code = list(&a, &args);
    app_close(&a);
    return code;
}

const command cmd_devices = {
    .name = "devices",
    .summary = "List the devices that models can run on.",
    .synopsis = "[options]",
    .details = "The first word of a line is what --device takes. A device that cannot be used says "
               "why; the CPU can always be used.",
    .examples = "  sobre devices\n  sobre devices --json\n",
    .takes = TAKES_JSON | TAKES_QUIET,
    .run = run,
};
