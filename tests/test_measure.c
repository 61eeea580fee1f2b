/* SPDX-License-Identifier: MIT */
/* Measuring devices, what is kept of it, and what device 0 becomes by it; going on elsewhere when a
 * device fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#include "context.h"
#include "measure.h"
#include "null/null.h"

static null_control control;
static char folder[64], kept[96];
static sobre_context *ctx;

static int setup(void **state)
{
    control = (null_control){0};
    snprintf(folder, sizeof folder, "test_measure_%llu.d", (unsigned long long)os_process_id());
    snprintf(kept, sizeof kept, "%s/measured.txt", folder);
    return sobre_context_open(SOBRE(context_options, .cache_dir = folder, .n_threads = 1), &ctx);
}

static int teardown(void **state)
{
    sobre_context_close(ctx);
    ctx = NULL;
    remove(kept);
    remove(folder);
    return 0;
}

static char *read_kept(void)
{
    static char text[1 << 16];
    FILE *file = fopen(kept, "rb");

    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void write_kept(const char *text)
{
    assert_true(os_file_replace(kept, text, strlen(text)));
}

/* A line for a device that is here. */
static void add_line(char *text, size_t size, const char *backend, uint64_t bytes_per_s)
{
    const sobre_device_info *info;
    size_t n = strlen(text);

    assert_ok(ctx, sobre_device_get(ctx, backend, 0, NULL, &info));
    snprintf(text + n, size - n, "%s\t%d\t%d\t%llu\t1000\t1000000\t%s\t%s\n", backend,
             (int)info->kind, !strcmp(backend, "cpu"), (unsigned long long)bytes_per_s, info->name,
             info->detail ? info->detail : "");
}

/* Which device 0 is for a tiny model. */
static int32_t device_chosen(const sobre_fit_options *fit)
{
    size_t size;
    gguf_make *g = gguf_make_llama(&(llama_make){.n_layer = 2});
    void *bytes = gguf_make_bytes(g, &size);
    sobre_placement p = SOBRE_INIT(placement);
    sobre_model *model = NULL;

    gguf_make_free(g);
    assert_ok(ctx, sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model));
    assert_ok(ctx, sobre_model_fit(model, fit, &p));
    sobre_model_close(model);
    free(bytes);
    return p.device;
}

static void test_measure(void **state)
{
    sobre_measurement m = SOBRE_INIT(measurement);
    char *first;

    assert_ok(ctx, sobre_device_measure(ctx, 1, &m));
    assert_true(m.bytes_per_s > 0 && m.flop_per_s > 0);
    assert_int_equal(m.struct_size, sizeof m);
    first = strdup(read_kept());
    assert_non_null(strstr(first, sobre_version()));
    assert_ok(ctx, sobre_device_measure(ctx, 1, &m));
    char *again = read_kept(); /* in the same place */
    assert_non_null(strstr(again, "\ncpu\t1\t1\t"));
    assert_null(strstr(strstr(again, "\ncpu\t") + 1, "\ncpu\t"));
    free(first);

    assert_int_equal(sobre_device_measure(ctx, 99, &m), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_device_measure(ctx, 1, NULL), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_device_measure(NULL, 1, &m), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_device_measure(ctx, 1, &(sobre_measurement){0}), SOBRE_INVALID_ARGUMENT);
}

static void test_measure_without_a_folder(void **state)
{
    sobre_context *other = NULL;
    sobre_measurement m = SOBRE_INIT(measurement);

    assert_ok(NULL, sobre_context_open(NULL, &other));
    assert_ok(other, sobre_device_measure(other, 1, &m));
    sobre_context_close(other);
}

/* Every call of the device fails once: the status comes back, and nothing stays open. */
static void test_measure_fails(void **state)
{
    sobre_measurement m = SOBRE_INIT(measurement);
    int32_t device = 0;

    context_null_control_set(ctx, &control);
    assert_ok(ctx, sobre_device_get(ctx, "null", 0, &device, NULL));
    assert_ok(ctx, sobre_device_measure(ctx, device, &m));
    int64_t n = control.n_calls;
    assert_ok(ctx, sobre_device_measure(ctx, device, &m));
    n = control.n_calls - n;
    assert_true(n > 100);
    control.fail_status = SOBRE_DEVICE_LOST;
    for (int64_t i = 1; i <= 100; i++) {
        control.fail_at = control.n_calls + i;
        assert_int_equal(sobre_device_measure(ctx, device, &m), SOBRE_DEVICE_LOST);
        assert_int_equal(control.n_buffers, 0);
        assert_int_equal(control.n_execs, 0);
    }
}

static void test_choice(void **state)
{
    static const struct {
        uint64_t cpu, null;
        int32_t want;
    } cases[] = {
        {1000000000, 2000000000, 2},
        {2000000000, 1000000000, 1},
        {1000000000, 0, 1}, /* not measured */
        {0, 1000000000, 1},
    };

    context_null_control_set(ctx, &control);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];

        snprintf(text, sizeof text, "sobre %s\n", sobre_version());
        if (cases[i].null) add_line(text, sizeof text, "null", cases[i].null);
        if (cases[i].cpu) add_line(text, sizeof text, "cpu", cases[i].cpu);
        write_kept(text);
        assert_int_equal(device_chosen(NULL), cases[i].want);
        assert_int_equal(device_chosen(SOBRE(fit_options, .device = 1)), 1);
        assert_int_equal(device_chosen(SOBRE(fit_options, .device = 2)), 2);
    }
}

/* The faster device is passed over where it cannot be used, or has no room. */
static void test_choice_of_the_next(void **state)
{
    char text[1024];

    control.memory_size = 4096;
    context_null_control_set(ctx, &control);
    snprintf(text, sizeof text, "sobre %s\n", sobre_version());
    add_line(text, sizeof text, "null", 2000000000);
    add_line(text, sizeof text, "cpu", 1000000000);
    write_kept(text);
    assert_int_equal(device_chosen(NULL), 1);
    teardown(state);

    setup(state);
    control.reason = "broken";
    context_null_control_set(ctx, &control);
    write_kept(text);
    assert_int_equal(device_chosen(NULL), 1);
}

/* A device is not passed over because the CPU has too little memory for the whole model. */
static void test_choice_without_room_on_the_cpu(void **state)
{
    char text[1024];
    size_t size;
    gguf_make *g = gguf_make_llama(&(llama_make){.n_layer = 2});
    void *bytes = gguf_make_bytes(g, &size);
    sobre_placement on_cpu = SOBRE_INIT(placement), on_device = SOBRE_INIT(placement),
                    got = SOBRE_INIT(placement);
    sobre_model *model = NULL;

    gguf_make_free(g);
    context_null_control_set(ctx, &control);
    snprintf(text, sizeof text, "sobre %s\n", sobre_version());
    add_line(text, sizeof text, "null", 2000000000);
    add_line(text, sizeof text, "cpu", 1000000000);
    write_kept(text);
    assert_ok(ctx, sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model));
    assert_ok(ctx, sobre_model_fit(model, SOBRE(fit_options, .device = 1), &on_cpu));
    assert_ok(ctx,
              sobre_model_fit(model, SOBRE(fit_options, .device = 2, .n_layer = 1), &on_device));
    assert_true(on_device.total_bytes < on_cpu.total_bytes);
    assert_ok(ctx,
              sobre_model_fit(model, SOBRE(fit_options, .limit = on_device.total_bytes), &got));
    assert_int_equal(got.device, 2);
    assert_int_equal(got.n_layer, 1);
    /* Where neither has room, it is the CPU that is told of. */
    assert_int_equal(sobre_model_fit(model, SOBRE(fit_options, .limit = 1000), &got),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_null(strstr(sobre_error(ctx), "null device"));
    sobre_model_close(model);
    free(bytes);
}

/* Drivers stay unloaded unless a device of theirs was faster. */
static void test_choice_asks_no_driver(void **state)
{
    char text[1024];

    snprintf(text, sizeof text, "sobre %s\n", sobre_version());
    context_null_control_set(ctx, &control);
    add_line(text, sizeof text, "null", 1000000000);
    add_line(text, sizeof text, "cpu", 2000000000);
    teardown(state);
    setup(state);
    context_null_control_set(ctx, &control);
    write_kept(text);
    assert_int_equal(device_chosen(NULL), 1);
    assert_int_equal(control.n_calls, 0);
}

static void test_damaged_files(void **state)
{
    static const char *const files[] = {
        "",
        "\n\n\n",
        "sobre\n",
        "sobre 9.9.9\n",
        "\t\t\t\t\t\t\t\n",
        "cpu\t1\t1\t5\t5\t5\tname\n",               /* a field is missing */
        "cpu\t1\t1\t5\t5\t5\tname\tdetail\tmore\n", /* one too many */
        "cpu\t1\t1\t0\t5\t5\tname\tdetail\n",       /* would divide by zero */
        "cpu\t1\t1\t-5\t5\t5\tname\tdetail\n",
        "cpu\t1\t1\t99999999999999999999\t5\t5\tname\tdetail\n",
        "null\t3\t0\t1e9\t5\t5\tname\tdetail\n",
        "no end of line",
    };
    char text[1024];
    sobre_measurement m = SOBRE_INIT(measurement);

    context_null_control_set(ctx, &control);
    for (size_t i = 0; i < 2 * (sizeof files / sizeof *files); i++) {
        /* Without and with a first line of this version. */
        snprintf(text, sizeof text, "sobre %s\n%s", sobre_version(), files[i / 2]);
        write_kept(i % 2 ? text : files[i / 2]);
        assert_int_equal(device_chosen(NULL), 1);
    }
    /* Whole lines count beside damaged ones, and a new measurement replaces them all. */
    snprintf(text, sizeof text, "sobre %s\nrubbish\n\x01\xff\t\n", sobre_version());
    add_line(text, sizeof text, "null", 2000000000);
    add_line(text, sizeof text, "cpu", 1000000000);
    write_kept(text);
    assert_int_equal(device_chosen(NULL), 2);
    assert_ok(ctx, sobre_device_measure(ctx, 1, &m));
    assert_null(strstr(read_kept(), "rubbish"));
    assert_non_null(strstr(read_kept(), "null\t"));
}

static void test_memory_runs_out(void **state)
{
    test_memory memory = {.for_good = 1};
    sobre_allocator allocator = test_allocator(&memory);
    sobre_measurement m = SOBRE_INIT(measurement);
    sobre_context *other = NULL;
    sobre_status status = SOBRE_OUT_OF_MEMORY;

    assert_ok(NULL, sobre_context_open(SOBRE(context_options, .cache_dir = folder, .n_threads = 1,
                                             .allocator = &allocator),
                                       &other));
    context_null_control_set(other, &control);
    int32_t device = 0;
    assert_ok(other, sobre_device_get(other, "null", 0, &device, NULL));
    for (long long n = 1; status != SOBRE_OK; n++) {
        memory.fail_at = n;
        atomic_store(&memory.n_calls, 0);
        status = sobre_device_measure(other, device, &m);
        assert_true(status == SOBRE_OK || status == SOBRE_OUT_OF_MEMORY);
    }
    sobre_context_close(other);
    assert_int_equal(atomic_load(&memory.n_live), 0);
}

/* --- A device that fails while text is written: unload, load on the CPU, go on. */

static void next_token(sobre_session *s, sobre_model *model, bool *fell, int32_t *ret_token)
{
    const sobre_event *event;
    sobre_status status = sobre_session_next(s, -1, &event);

    if (status == SOBRE_DEVICE_LOST && !*fell) {
        *fell = true;
        assert_ok(ctx, sobre_model_unload(model));
        assert_ok(ctx,
                  sobre_model_load(model, SOBRE(fit_options, .device = 1, .n_ctx = 128), NULL));
        status = sobre_session_next(s, -1, &event);
    }
    assert_ok(ctx, status);
    *ret_token = event->token;
}

static void test_going_on_elsewhere(void **state)
{
    enum { N = 6 };
    size_t size;
    gguf_make *g = gguf_make_llama(NULL);
    void *bytes = gguf_make_bytes(g, &size);
    sobre_model *model = NULL;
    int32_t device = 0, n_fell = 0;
    bool fell = true;

    gguf_make_free(g);
    context_null_control_set(ctx, &control);
    assert_ok(ctx, sobre_device_get(ctx, "null", 0, &device, NULL));
    assert_ok(ctx, sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model));
    control.fail_status = SOBRE_DEVICE_LOST;
    for (int64_t fail_at = 1; fell; fail_at++) {
        sobre_session *s = NULL;
        int32_t tokens[N];

        fell = false;
        control.fail_at = 0;
        assert_ok(
            ctx, sobre_model_load(model, SOBRE(fit_options, .device = device, .n_ctx = 128), NULL));
        assert_ok(ctx, sobre_session_open(model, NULL, &s));
        assert_ok(ctx, sobre_session_sampling(s, 0, SOBRE(sampling, .ignore_eos = 1)));
        assert_ok(ctx, sobre_session_prompt(s, 0, "hello", 5, 0));
        control.fail_at = control.n_calls + fail_at;
        for (int32_t i = 0; i < N; i++) next_token(s, model, &fell, &tokens[i]);
        n_fell += fell;
        /* No token is lost or told twice. */
        int32_t length = sobre_seq_length(s, 0);
        assert_memory_equal(tokens, sobre_seq_ids(s, 0) + length - N, sizeof tokens);
        sobre_session_close(s);
        assert_ok(ctx, sobre_model_unload(model));
        assert_int_equal(control.n_buffers, 0);
        assert_int_equal(control.n_execs, 0);
    }
    assert_true(n_fell > 2 * N);
    sobre_model_close(model);
    free(bytes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(measure),
        TEST(measure_without_a_folder),
        TEST(measure_fails),
        TEST(choice),
        TEST(choice_of_the_next),
        TEST(choice_asks_no_driver),
        TEST(choice_without_room_on_the_cpu),
        TEST(damaged_files),
        TEST(memory_runs_out),
        TEST(going_on_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
