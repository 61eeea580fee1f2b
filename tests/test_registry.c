/* SPDX-License-Identifier: MIT */
/* Backends from plugins: found, refused with a reason, and never in the way of the CPU. The
 * plugins are built from tests/plugins/ as TEST_PLUGINS/libplugin_<name>.so; each gets a folder in
 * which it goes by the name that is looked for. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "context.h"
#include "registry.h"
#include "support.h"

static void link_plugin(const char *name)
{
    char target[1024], path[1024];

    snprintf(path, sizeof path, TEST_PLUGINS "/%s", name);
    assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
    snprintf(path, sizeof path, TEST_PLUGINS "/%s/libsobre-opencl.so", name);
    snprintf(target, sizeof target, TEST_PLUGINS "/libplugin_%s.so", name);
    assert_true(symlink(target, path) == 0 || errno == EEXIST);
}

static int setup(void **state)
{
    static const char *const names[] = {"no_entry", "refuses", "old", "two_devices", "text"};
    FILE *text = fopen(TEST_PLUGINS "/libplugin_text.so", "w");

    assert_non_null(text);
    fputs("not a library\n", text);
    fclose(text);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) link_plugin(names[i]);
    return 0;
}

static sobre_context *open_with(const char *folder)
{
    sobre_context *ctx;
    char path[1024];

    snprintf(path, sizeof path, TEST_PLUGINS "/%s", folder);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .plugin_dir = path), &ctx),
                     SOBRE_OK);
    return ctx;
}

/* All devices are the CPU's; by name the backend is UNAVAILABLE, and says why. */
static void check_refused(const char *folder, const char *reason)
{
    sobre_context *ctx = open_with(folder);
    int32_t n_all = -1, n_cpu = -1, n = -1;

    for (int i = 0; i < 2; i++) { /* the same once more */
        assert_ok(ctx, sobre_device_count(ctx, NULL, &n_all));
        assert_ok(ctx, sobre_device_count(ctx, "cpu", &n_cpu));
        assert_int_equal(n_all, n_cpu);
        assert_int_equal(sobre_device_count(ctx, "opencl", &n), SOBRE_UNAVAILABLE);
        assert_int_equal(n, -1);
        if (!strstr(sobre_error(ctx), reason))
            test_fail("%s: \"%s\" does not say \"%s\"", folder, sobre_error(ctx), reason);
    }
    sobre_context_close(ctx);
}

static void refused_plugins_say_why(void **state)
{
    check_refused("nothing_here", "is not in " TEST_PLUGINS "/nothing_here");
    check_refused("no_entry", "is no plugin of Sobre");
    check_refused("refuses", "the driver is on holiday");
    check_refused("old", "is of an older version");
    check_refused("text", "cannot be loaded");
}

static void devices_of_a_plugin_are_listed(void **state)
{
    sobre_context *ctx = open_with("two_devices");
    const sobre_device_info *info;
    const device_entry *entry;
    int32_t n = 0, number = 0;

    assert_ok(ctx, sobre_device_count(ctx, "opencl", &n));
    assert_int_equal(n, 2);
    assert_ok(ctx, sobre_device_get(ctx, "opencl", 1, &number, &info));
    assert_true(number > 1);
    assert_string_equal(info->backend, "opencl");
    assert_string_equal(info->name, "card 1");
    assert_int_equal(device_use(ctx, number, &entry), SOBRE_UNAVAILABLE);
    assert_non_null(strstr(sobre_error(ctx), "it has no chip"));
    assert_int_equal(sobre_device_get(ctx, "opencl", 2, &number, &info), SOBRE_UNAVAILABLE);
    sobre_context_close(ctx);
}

static void the_cpu_alone_loads_no_plugin(void **state)
{
    sobre_context *ctx = open_with("refuses");
    int32_t n = 0;

    assert_ok(ctx, sobre_device_count(ctx, "cpu", &n));
    assert_int_equal(n, 1);
    assert_string_equal(sobre_error(ctx), ""); /* the plugin would have left its message */
    sobre_context_close(ctx);
}

static void a_backend_can_be_left_alone(void **state)
{
    sobre_context *ctx = open_with("two_devices");
    int32_t n = 0;

    assert_null(registry_device_info(ctx, 1)); /* nobody has asked for it yet */
    assert_ok(ctx, registry_shun(ctx, "opencl", "its driver hangs"));
    assert_int_equal(sobre_device_count(ctx, "opencl", &n), SOBRE_UNAVAILABLE);
    assert_non_null(strstr(sobre_error(ctx), "its driver hangs"));
    assert_ok(ctx, sobre_device_count(ctx, NULL, &n));
    assert_string_equal(registry_device_info(ctx, 1)->backend, "cpu");
    sobre_context_close(ctx);
    ctx = open_with("two_devices");
    assert_ok(ctx, sobre_device_count(ctx, "opencl", &n));
    assert_string_equal(registry_device_info(ctx, n + 1)->backend, "opencl");
    assert_null(registry_device_info(ctx, n + 2));
    assert_int_equal(registry_shun(ctx, "opencl", "too late"), SOBRE_INTERNAL);
    sobre_context_close(ctx);
}

static void backends_have_names(void **state)
{
    sobre_context *ctx = open_with("nothing_here");
    int32_t n;

    assert_string_equal(sobre_backend_name(0), "cpu");
    assert_string_equal(sobre_backend_name(1), "opencl");
    assert_string_equal(sobre_backend_name(2), "cuda");
    for (n = 0; sobre_backend_name(n); n++) assert_string_not_equal(sobre_backend_name(n), "null");
    assert_null(sobre_backend_name(-1));
    assert_int_equal(sobre_device_count(ctx, "abacus", &n), SOBRE_INVALID_ARGUMENT);
    assert_non_null(strstr(sobre_error(ctx), "abacus"));
    sobre_context_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_plugins_say_why),
        cmocka_unit_test(devices_of_a_plugin_are_listed),
        cmocka_unit_test(the_cpu_alone_loads_no_plugin),
        cmocka_unit_test(a_backend_can_be_left_alone),
        cmocka_unit_test(backends_have_names),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
