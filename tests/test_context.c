/* SPDX-License-Identifier: MIT */
/* Contexts: options, memory limits, errors by thread, log, devices. */
#include "support.h"

#include <stdio.h>
#include <string.h>

#include "context.h"

static void options_are_checked(void **state)
{
    sobre_context *ctx = (sobre_context *)state;
    sobre_allocator half = {NULL, NULL, NULL};

    assert_int_equal(sobre_context_open(NULL, NULL), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_context_open(&(sobre_context_options){0}, &ctx), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = -1), &ctx),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = 257), &ctx),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .cpu_isa = 77), &ctx),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &half), &ctx),
                     SOBRE_INVALID_ARGUMENT);
    assert_ptr_equal(ctx, state); /* outputs are untouched on failure */
    assert_true(strlen(sobre_error(NULL)) > 10);
    sobre_context_close(NULL);
}

/* An options struct of an older program is shorter; of a newer one longer. */
static void other_versions(void **state)
{
    struct {
        sobre_context_options known;
        int32_t later;
    } newer = {SOBRE_INIT(context_options), 0};
    sobre_context *ctx;
    sobre_source s = SOBRE_INIT(source);
    sobre_model *model;

    (void)state;
    newer.known.struct_size = sizeof newer;
    assert_int_equal(sobre_context_open(&newer.known, &ctx), SOBRE_OK);
    sobre_context_close(ctx);
    newer.later = 1; /* asks for something that this version cannot know */
    assert_int_equal(sobre_context_open(&newer.known, &ctx), SOBRE_UNSUPPORTED);
    assert_int_equal(
        sobre_context_open(
            &(sobre_context_options){.struct_size = offsetof(sobre_context_options, log)}, &ctx),
        SOBRE_OK);
    s.struct_size = 0;
    assert_int_equal(sobre_model_open(ctx, &s, &model), SOBRE_INVALID_ARGUMENT);
    assert_non_null(strstr(sobre_error(ctx), "struct_size"));
    sobre_context_close(ctx);
}

static void memory_is_counted_and_limited(void **state)
{
    sobre_context *ctx;
    sobre_usage before = SOBRE_INIT(usage), usage = SOBRE_INIT(usage);
    void *p, *pages;

    (void)state;
    assert_int_equal(sobre_context_open(SOBRE(context_options, .host_limit = 1 << 20), &ctx),
                     SOBRE_OK);
    assert_ok(ctx, sobre_context_usage(ctx, &before));
    p = mem_alloc(ctx, 1000, 100);
    assert_non_null(p);
    for (int i = 0; i < 100000; i++) assert_int_equal(((char *)p)[i], 0);
    p = mem_grow(ctx, p, 1000, 2000, 100);
    assert_non_null(p);
    pages = mem_pages_alloc(ctx, 1 << 18, false);
    assert_non_null(pages);
    assert_ok(ctx, sobre_context_usage(ctx, &usage));
    assert_in_range(usage.host_bytes - before.host_bytes, 200000 + (1 << 18), 201000 + (1 << 18));
    assert_null(mem_alloc(ctx, 1, 1 << 20));
    assert_non_null(strstr(sobre_error(ctx), "limit of 1048576"));
    assert_null(mem_pages_alloc(ctx, 1 << 20, false));
    assert_null(mem_alloc(ctx, SIZE_MAX / 2, 4)); /* overflows */
    assert_null(mem_alloc(ctx, 1, SIZE_MAX - 8));
    mem_pages_free(ctx, pages, 1 << 18);
    mem_free(ctx, p);
    p = mem_alloc_aligned(ctx, 100, 4096);
    assert_int_equal((uintptr_t)p % 4096, 0);
    mem_free(ctx, p);
    mem_free(ctx, NULL);
    assert_ok(ctx, sobre_context_usage(ctx, &usage));
    assert_int_equal(usage.host_bytes, before.host_bytes);
    assert_true(usage.host_peak_bytes >= 300000);
    sobre_context_close(ctx);
}

static void fail_in_thread(void *arg)
{
    sobre_context *ctx = arg;

    fail(ctx, SOBRE_IO, "from another thread");
}

static void errors_belong_to_threads(void **state)
{
    sobre_context *ctx;
    os_thread *thread;

    (void)state;
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    assert_string_equal(sobre_error(ctx), "");
    assert_int_equal(fail(ctx, SOBRE_IO, "number %d", 7), SOBRE_IO);
    for (int i = 0; i < 10; i++) {
        thread = os_thread_start(fail_in_thread, ctx);
        assert_non_null(thread);
        os_thread_join(thread);
    }
    assert_string_equal(sobre_error(ctx), "number 7");
    fail(ctx, SOBRE_IO, "again: %s", sobre_error(ctx)); /* may quote itself */
    assert_string_equal(sobre_error(ctx), "again: number 7");
    sobre_context_close(ctx);
}

static void write_log(void *user, sobre_log_level level, const char *message)
{
    snprintf(user, 64, "%d %s", (int)level, message);
}

static void log_goes_to_the_caller(void **state)
{
    char text[64] = "";
    sobre_context *ctx;

    (void)state;
    assert_int_equal(
        sobre_context_open(SOBRE(context_options, .log = write_log, .log_user = text), &ctx),
        SOBRE_OK);
    fail(ctx, SOBRE_IO, "broken");
    assert_string_equal(text, "0 broken");
    sobre_context_close(ctx);
}

static void devices(void **state)
{
    sobre_context *ctx;
    int32_t n = 0, device = 0;
    const sobre_device_info *info;

    (void)state;
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = 2), &ctx), SOBRE_OK);
    assert_ok(ctx, sobre_device_count(ctx, "cpu", &n));
    assert_int_equal(n, 1);
    assert_ok(ctx, sobre_device_get(ctx, "cpu", 0, &device, &info));
    assert_int_equal(device, 1);
    assert_int_equal(info->kind, SOBRE_DEVICE_CPU);
    assert_null(info->reason);
    assert_true(strlen(info->name) > 0);
    assert_ok(ctx, sobre_device_count(ctx, NULL, &n));
    assert_true(n >= 1);
    assert_int_equal(sobre_device_get(ctx, "cpu", 1, NULL, NULL), SOBRE_UNAVAILABLE);
    assert_int_equal(sobre_device_count(ctx, "abacus", &n), SOBRE_INVALID_ARGUMENT);
    assert_non_null(strstr(sobre_error(ctx), "abacus"));
    sobre_context_close(ctx);
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(sobre_status_name(SOBRE_OK), "OK");
    assert_string_equal(sobre_status_name(SOBRE_NOT_FINITE), "NOT_FINITE");
    assert_string_equal(sobre_status_name(-999), "UNKNOWN");
    char version[32];

    snprintf(version, sizeof version, "%d.%d.%d", SOBRE_VERSION_MAJOR, SOBRE_VERSION_MINOR,
             SOBRE_VERSION_PATCH);
    assert_string_equal(sobre_version(), version);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(other_versions),
        cmocka_unit_test(memory_is_counted_and_limited),
        cmocka_unit_test(errors_belong_to_threads),
        cmocka_unit_test(log_goes_to_the_caller),
        cmocka_unit_test(devices),
        cmocka_unit_test(names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
