/* SPDX-License-Identifier: MIT */
/*
 * The CUDA backend without a GPU: test_cuda [absent|nvcc ARCHS]
 *
 * The plugin finds the libcuda.so.1 of tests/cuda/, which computes nothing but checks every
 * argument: what the host does is tested here, what kernels compute is not. With `nvcc` the plugin
 * is the one that users get, built for ARCHS (75,86); with `absent` there is no driver at all.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cu_api.h"
#include "cuda/fake_cuda.h"
#include "device_host.h"
#include "os.h"
#include "registry.h"

enum { N_TOKENS = 4 };

static const char *plugins;
static fake_control *fake;
static fake_cuda_control_fn new_fake;
static cu_api driver; /* the fake one, for what a host program does with it itself */
static void *model_bytes;
static size_t model_size;

static const char *archs = "86"; /* that the kernels are built for; cards are of the first */
static int card;                 /* 86: what the driver plays next */

static void play(void)
{
    fake = new_fake();
    fake->major = card / 10;
    fake->minor = card % 10;
}

static int setup(void **state)
{
    void *library = os_library_open("libcuda.so.1");
    union {
        void *symbol;
        fake_cuda_control_fn get;
    } control = {.symbol = library ? os_library_symbol(library, "fake_cuda_control") : NULL};
    char reason[256];

    card = atoi(archs);
    plugins = getenv("SOBRE_TEST_PLUGINS");
    assert_non_null(plugins);
    new_fake = control.get;
    if (new_fake) assert_true(cu_api_open(&driver, reason, sizeof reason));
    /* Heads of 32, which the device takes. */
    gguf_make *g = gguf_make_llama(&(llama_make){.dtype = SOBRE_Q4_0, .n_head = 2, .n_head_kv = 1});
    model_bytes = gguf_make_bytes(g, &model_size);
    gguf_make_free(g);
    return 0;
}

static int teardown(void **state)
{
    free(model_bytes);
    return 0;
}

/* --- A program that uses the library */

static void host_open(host *h)
{
    host_open_with(h, SOBRE(context_options, .plugin_dir = plugins, .n_threads = 2), model_bytes,
                   model_size);
}

/* The first call that was made to fail, or the one of them that `text` names; "": there is none. */
static const char *failed_call(const char *text)
{
    for (int i = 0; i < fake->n_failed; i++)
        if (!text || strstr(text, fake->failed[i])) return fake->failed[i];
    return "";
}

/* Nothing is left, on either side, and nothing was done that a real driver would not bear. */
static void host_close(host *h)
{
    static const char *const names[] = {"contexts", "streams", "events",
                                        "modules",  "buffers", "pinned buffers"};

    sobre_model_close(h->model);
    sobre_context_close(h->ctx);
    assert_int_equal(atomic_load(&h->memory.n_live), 0);
    if (fake->misuse[0]) test_fail("after %s failed: %s", failed_call(NULL), fake->misuse);
    assert_int_equal(fake->depth(), 0);
    /* Without a context nothing can be given back. */
    if (atomic_load(&fake->n_without_context)) return;
    for (int i = 0; i < FAKE_N_OBJECTS; i++)
        if (atomic_load(&fake->n_live[i]))
            test_fail("after %s failed: %lld %s leaked", failed_call(NULL),
                      (long long)atomic_load(&fake->n_live[i]), names[i]);
}

static sobre_status start(host *h, sobre_session **session)
{
    return host_start(h, NULL, session);
}

static sobre_status go_on(sobre_session *session, int32_t *n_tokens)
{
    return host_go_on(session, N_TOKENS, NULL, n_tokens);
}

static void assert_says(const host *h, const char *part)
{
    if (!strstr(sobre_error(h->ctx), part))
        test_fail("\"%s\" is not in: %s", part, sobre_error(h->ctx));
}

/* --- Drivers and devices */

static void assert_none(const char *reason)
{
    sobre_context *ctx;
    int32_t n = -1;

    assert_int_equal(sobre_context_open(SOBRE(context_options, .plugin_dir = plugins), &ctx),
                     SOBRE_OK);
    assert_int_equal(sobre_device_count(ctx, "cuda", &n), SOBRE_UNAVAILABLE);
    if (!strstr(sobre_error(ctx), reason))
        test_fail("\"%s\" is not in: %s", reason, sobre_error(ctx));
    assert_int_equal(n, -1);
    assert_ok(ctx, sobre_device_count(ctx, "cpu", &n));
    assert_int_equal(n, 1);
    sobre_context_close(ctx);
}

static void no_driver_is_no_harm(void **state)
{
    if (new_fake || os_library_open("libcuda.so.1")) {
        print_message("SKIP: there is a libcuda.so.1 here\n");
        skip();
    }
    assert_none("libcuda.so.1, which comes with NVIDIA's driver, cannot be loaded");
}

static void drivers_that_do_not_serve(void **state)
{
    play();
    fake->driver_version = 11080;
    assert_none("NVIDIA's driver is one for CUDA 11.8, and this plugin was built for CUDA 1");
    play();
    fake->n_devices = 0;
    assert_none("finds no card");
    fake->init_error = CUDA_ERROR_NO_DEVICE;
    assert_none("finds no card");
    fake->init_error = CUDA_ERROR_DEVICE_UNAVAILABLE;
    assert_none("cuInit failed: an error that the driver has no name for (46)");
}

static void devices_are_described(void **state)
{
    const sobre_device_info *info;
    host h;
    int32_t n = 0, device;

    play();
    host_open(&h);
    assert_ok(h.ctx, sobre_device_count(h.ctx, "cuda", &n));
    assert_int_equal(n, 2);
    assert_ok(h.ctx, sobre_device_get(h.ctx, "cuda", 1, &device, &info));
    assert_string_equal(info->backend, "cuda");
    assert_string_equal(info->name, "Fake card 1");
    assert_string_equal(info->detail, "compute capability 8.6, driver for CUDA 13.0, PCI "
                                      "0000:02:00.0, 48 KiB of shared memory");
    assert_int_equal(info->kind, SOBRE_DEVICE_GPU);
    assert_int_equal(info->n_units, 28);
    assert_true(info->memory_bytes == fake->memory);
    assert_null(info->reason);
    host_close(&h);
}

static void assert_unusable(const char *reason)
{
    const sobre_device_info *info;
    host h;
    int32_t device;

    host_open(&h);
    assert_ok(h.ctx, sobre_device_get(h.ctx, "cuda", 0, &device, &info));
    assert_non_null(info->reason);
    if (!strstr(info->reason, reason)) test_fail("\"%s\" is not in: %s", reason, info->reason);
    assert_int_equal(host_load(&h, "cuda"), SOBRE_UNAVAILABLE);
    assert_says(&h, reason);
    host_close(&h);
}

static void devices_that_do_not_serve(void **state)
{
    play();
    fake->major = 6;
    fake->minor = 1;
    assert_unusable("it is of compute capability 6.1, and the kernels are built for ");
    play();
    fake->compute_mode = CU_COMPUTEMODE_PROHIBITED;
    assert_unusable("its compute mode forbids all use");
    play();
    atomic_store(&fake->fail_at, 7); /* the first query after twice opening the driver */
    assert_unusable("failed: CUDA_ERROR_LAUNCH_FAILED (719)");
}

/* --- The device by itself */

static const device_entry *use_device(host *h)
{
    const device_entry *entry;
    int32_t number;

    assert_ok(h->ctx, sobre_device_get(h->ctx, "cuda", 0, &number, NULL));
    assert_ok(h->ctx, device_use(h->ctx, number, &entry));
    return entry;
}

/* More than all stages hold, in odd pieces from memory that changes at once. */
static void data_arrive(void **state)
{
    enum { SIZE = 11000003, PIECE = 700001, AT = 256 };
    uint8_t *expected = malloc(SIZE), *got = malloc(SIZE), *piece = malloc(PIECE);
    sobre_buffer *a, *b;
    host h;

    play();
    host_open(&h);
    const device_entry *e = use_device(&h);
    assert_ok(h.ctx, e->backend->buffer_alloc(e->device, AT + SIZE, SOBRE_BUFFER_WEIGHTS, &a));
    assert_ok(h.ctx, e->backend->buffer_alloc(e->device, SIZE, SOBRE_BUFFER_ARENA, &b));
    for (int i = 0; i < SIZE; i++) expected[i] = (uint8_t)(i * 7 + i / 251);
    for (int at = 0; at < SIZE; at += PIECE) {
        const int n = SIZE - at < PIECE ? SIZE - at : PIECE;
        memcpy(piece, expected + at, (size_t)n);
        assert_ok(h.ctx, e->backend->write(a, (uint64_t)(AT + at), piece, (uint64_t)n));
        memset(piece, 0xcd, (size_t)n);
    }
    assert_ok(h.ctx, e->backend->copy(b, 0, a, AT, SIZE));
    assert_ok(h.ctx, e->backend->read(b, 0, got, SIZE));
    assert_memory_equal(got, expected, SIZE);
    memset(got, 0, SIZE);
    assert_ok(h.ctx, e->backend->read(a, AT + 5, got, 1));
    assert_int_equal(got[0], expected[5]);
    e->backend->buffer_free(a);
    e->backend->buffer_free(b);
    host_close(&h);
    free(expected);
    free(got);
    free(piece);
}

static void tickets_come_in_order(void **state)
{
    enum { N = 200 }; /* more than are kept */
    uint64_t tickets[N + 1] = {0};
    sobre_buffer *a, *b;
    sobre_status status;
    host h;

    play();
    host_open(&h);
    const device_entry *e = use_device(&h);
    assert_ok(h.ctx, e->backend->buffer_alloc(e->device, 64, SOBRE_BUFFER_ARENA, &a));
    assert_ok(h.ctx, e->backend->buffer_alloc(e->device, 64, SOBRE_BUFFER_ARENA, &b));
    for (int i = 1; i <= N; i++) {
        assert_ok(h.ctx, e->backend->copy(b, 0, a, 0, 64));
        assert_ok(h.ctx, e->backend->fence(e->device, &tickets[i]));
        assert_true(tickets[i] > tickets[i - 1]);
    }
    assert_int_equal(e->backend->poll(e->device, tickets[N]), SOBRE_AGAIN);
    assert_int_equal(e->backend->wait(e->device, tickets[1]), SOBRE_OK);
    do {
        status = e->backend->poll(e->device, tickets[N]);
    } while (status == SOBRE_AGAIN);
    assert_int_equal(status, SOBRE_OK);
    assert_int_equal(e->backend->wait(e->device, tickets[N] + 1), SOBRE_OK); /* nobody has it */
    e->backend->buffer_free(a);
    e->backend->buffer_free(b);
    host_close(&h);
}

/* --- Models */

static int32_t n_launched(const char *entry)
{
    int32_t n = 0;
    for (long long i = 0; i < atomic_load(&fake->n_launches); i++)
        n += !strcmp(fake->launched[i], entry);
    return n;
}

/* A prompt and tokens: which kernels run, and how often. */
static void a_model_runs(void **state)
{
    const sobre_model_info *info;
    sobre_session *session = NULL;
    host h;
    int32_t n = 0;

    play();
    host_open(&h);
    info = sobre_model_info_get(h.model);
    assert_ok(h.ctx, host_load(&h, "cuda"));
    assert_true(atomic_load(&fake->n_copies_in) > 0);
    assert_int_equal(atomic_load(&fake->n_launches), 0);
    assert_ok(h.ctx, start(&h, &session));
    assert_ok(h.ctx, go_on(session, &n));
    /* The prompt once, then each token but the last one. */
    assert_int_equal(n_launched("embed"), N_TOKENS);
    assert_int_equal(n_launched("attn_prefill"), info->n_layer);
    assert_int_equal(n_launched("attn_append"), info->n_layer); /* tokens append as they attend */
    assert_int_equal(n_launched("attn_decode"), (N_TOKENS - 1) * info->n_layer);
    assert_int_equal(n_launched("sample_pick"), N_TOKENS);
    assert_string_equal(fake->launched[0], "embed");
    assert_int_equal(atomic_load(&fake->n_copies_out), N_TOKENS); /* one small read each */
    assert_int_equal(atomic_load(&fake->n_live[FAKE_CONTEXT]), 1);
    assert_int_equal(fake->depth(), 0);
    sobre_session_close(session);
    host_close(&h);
}

/* Cards of each architecture, and those that only PTX is for. */
static void all_cards_find_their_code(void **state)
{
    const int oldest = atoi(archs);

    for (const char *at = archs; at; at = strchr(at, ',')) {
        at += *at == ',';
        for (card = atoi(at); card <= atoi(at) + 10; card += 10) a_model_runs(state);
    }
    card = oldest;
}

/* Unloaded and loaded again, here and on the CPU, a session goes on; two live side by side. */
static void sessions_move(void **state)
{
    sobre_session *a = NULL, *b = NULL;
    host h;
    int32_t n_a = 0, n_b = 0;

    play();
    host_open(&h);
    assert_ok(h.ctx, host_load(&h, "cuda"));
    assert_ok(h.ctx, start(&h, &a));
    assert_ok(h.ctx, start(&h, &b));
    n_a = n_b = N_TOKENS - 1;
    assert_ok(h.ctx, go_on(a, &n_a));
    assert_ok(h.ctx, sobre_model_unload(h.model));
    assert_ok(h.ctx, host_load(&h, "cuda"));
    assert_ok(h.ctx, go_on(b, &n_b));
    n_a = N_TOKENS - 2;
    assert_ok(h.ctx, go_on(a, &n_a));
    assert_ok(h.ctx, sobre_model_unload(h.model));
    assert_ok(h.ctx, host_load(&h, "cpu"));
    n_a = n_b = 0;
    assert_ok(h.ctx, go_on(a, &n_a));
    assert_ok(h.ctx, go_on(b, &n_b));
    sobre_session_close(a);
    sobre_session_close(b);
    host_close(&h);
}

/* The host program's own context is the current one after each call, as before. */
static void the_host_keeps_its_context(void **state)
{
    sobre_session *session = NULL;
    CUcontext own, current;
    host h;
    int32_t n = 0;

    play();
    assert_int_equal(driver.cuDevicePrimaryCtxRetain(&own, 1), CUDA_SUCCESS);
    assert_int_equal(driver.cuCtxPushCurrent(own), CUDA_SUCCESS);
    host_open(&h);
    assert_ok(h.ctx, host_load(&h, "cuda"));
    assert_int_equal(fake->depth(), 1);
    assert_ok(h.ctx, start(&h, &session));
    assert_ok(h.ctx, go_on(session, &n));
    assert_int_equal(fake->depth(), 1);
    sobre_session_close(session);
    assert_int_equal(driver.cuCtxPopCurrent(&current), CUDA_SUCCESS);
    assert_ptr_equal(current, own);
    driver.cuDevicePrimaryCtxRelease(1);
    host_close(&h);
}

typedef struct speaker {
    host *h;
    sobre_status status;
} speaker;

static void speak(void *arg)
{
    speaker *s = arg;
    sobre_session *session = NULL;
    int32_t n = 0;

    s->status = start(s->h, &session);
    if (s->status >= 0) s->status = go_on(session, &n);
    if (fake->depth() != 0) s->status = SOBRE_INTERNAL;
    sobre_session_close(session);
}

static void threads_share_a_device(void **state)
{
    enum { N_THREADS = 4 };
    speaker speakers[N_THREADS];
    os_thread *threads[N_THREADS];
    host h;

    play();
    host_open(&h);
    assert_ok(h.ctx, host_load(&h, "cuda"));
    for (int i = 0; i < N_THREADS; i++) {
        speakers[i] = (speaker){&h, SOBRE_OK};
        threads[i] = os_thread_start(speak, &speakers[i]);
        assert_non_null(threads[i]);
    }
    for (int i = 0; i < N_THREADS; i++) os_thread_join(threads[i]);
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(speakers[i].status, SOBRE_OK);
    host_close(&h);
}

static void memory_runs_out(void **state)
{
    host h;

    play();
    fake->memory = 4096;
    host_open(&h);
    assert_int_equal(host_load(&h, "cuda"), SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_ok(h.ctx, host_load(&h, "cpu"));
    host_close(&h);
    play();
    host_open(&h);
    int32_t n;
    assert_ok(h.ctx, sobre_device_count(h.ctx, "cuda", &n));
    atomic_store(&fake->error, CUDA_ERROR_OUT_OF_MEMORY);
    atomic_store(&fake->fail_at, atomic_load(&fake->n_calls) + 20);
    atomic_store(&fake->for_good, 1);
    assert_int_equal(host_load(&h, "cuda"), SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_says(&h, "CUDA_ERROR_OUT_OF_MEMORY (2)");
    host_close(&h);
}

/* --- Every call fails in turn */

enum { CUDA_ERROR_NOT_FOUND = 500 };

/* The nth call fails, from 1; 0: none. With for_good all after it do, too. */
typedef struct fault {
    long long n;
    CUresult error;
    bool for_good;
} fault;

static void arm(fault f)
{
    fake->n_failed = 0;
    atomic_store(&fake->n_calls, 0);
    atomic_store(&fake->error, f.error);
    atomic_store(&fake->for_good, f.for_good);
    atomic_store(&fake->fail_at, f.n);
}

static void check_status(const host *h, sobre_status status, const fault *f)
{
    static const struct {
        CUresult error;
        sobre_status status;
        const char *name;
    } kinds[] = {
        {CUDA_ERROR_NOT_FOUND, SOBRE_DEVICE, "CUDA_ERROR_NOT_FOUND (500)"},
        {CUDA_ERROR_OUT_OF_MEMORY, SOBRE_DEVICE_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY (2)"},
        {CUDA_ERROR_ILLEGAL_ADDRESS, SOBRE_DEVICE_LOST, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"},
    };
    int k = 0;

    while (kinds[k].error != f->error) k++;
    /* A device that cannot even be described is unavailable. */
    if (status != kinds[k].status && status != SOBRE_UNAVAILABLE)
        test_fail("call %lld, %s: %s", f->n, failed_call(NULL), sobre_status_name(status));
    assert_says(h, kinds[k].name);
    if (!failed_call(sobre_error(h->ctx))[0])
        test_fail("call %lld, %s, is not named: %s", f->n, failed_call(NULL), sobre_error(h->ctx));
}

/* One life of a program with a fault. It may do without that call; else it says so, and the CPU
 * goes on from where the device stopped. */
static bool one_life(fault f)
{
    sobre_session *session = NULL;
    int32_t n_tokens = 0;
    host h;

    play();
    arm(f);
    host_open(&h);
    sobre_status status = host_load(&h, "cuda");
    const bool loaded = status >= 0;
    if (status >= 0) status = start(&h, &session);
    if (status >= 0) status = go_on(session, &n_tokens);
    const bool failed = status < 0;
    if (failed) {
        check_status(&h, status, &f);
        if (loaded) assert_ok(h.ctx, sobre_model_unload(h.model));
        assert_ok(h.ctx, host_load(&h, "cpu"));
        if (!session) assert_ok(h.ctx, start(&h, &session));
        assert_ok(h.ctx, go_on(session, &n_tokens));
    }
    sobre_session_close(session);
    host_close(&h);
    return failed;
}

static void every_call(fault f, long long step)
{
    long long n_calls, n_lives = 0, n_failed = 0;

    assert_false(one_life((fault){0}));
    n_calls = atomic_load(&fake->n_calls);
    for (f.n = 1; f.n <= n_calls; f.n += step, n_lives++) n_failed += one_life(f);
    print_message("%lld calls to the end, %lld of %lld lives with a failure\n", n_calls, n_failed,
                  n_lives);
    /* It can do without those that give something back. */
    assert_true(n_calls > 1000 && n_failed > n_lives / 2);
}

static void every_call_once(void **state)
{
    every_call((fault){.error = CUDA_ERROR_NOT_FOUND}, 1);
}

static void every_call_without_memory(void **state)
{
    every_call((fault){.error = CUDA_ERROR_OUT_OF_MEMORY}, 3);
}

/* As after a kernel went wrong. */
static void every_call_for_good(void **state)
{
    every_call((fault){.error = CUDA_ERROR_ILLEGAL_ADDRESS, .for_good = true}, 3);
}

/* One session's failure leaves another of the same device as it was, and that of the CPU too. */
static void other_sessions_live_on(void **state)
{
    fault f = {.n = 1, .error = CUDA_ERROR_NOT_FOUND};

    for (bool more = true; more; f.n += 3) {
        sobre_session *a = NULL, *b = NULL, *c = NULL;
        int32_t n_a = 0, n_b = N_TOKENS - 1, n_c = N_TOKENS - 1;
        host h, cpu;

        play();
        host_open(&h);
        host_open(&cpu);
        assert_ok(h.ctx, host_load(&h, "cuda"));
        assert_ok(cpu.ctx, host_load(&cpu, "cpu"));
        assert_ok(h.ctx, start(&h, &a));
        assert_ok(h.ctx, start(&h, &b));
        assert_ok(cpu.ctx, start(&cpu, &c));
        assert_ok(h.ctx, go_on(b, &n_b));
        assert_ok(cpu.ctx, go_on(c, &n_c));

        arm(f);
        sobre_status status = go_on(a, &n_a);
        more = fake->n_failed > 0;
        if (status < 0) check_status(&h, status, &f);
        arm((fault){0});
        n_b = n_c = 0;
        assert_ok(h.ctx, go_on(b, &n_b));
        assert_ok(cpu.ctx, go_on(c, &n_c));
        assert_ok(h.ctx, go_on(a, &n_a)); /* and itself, once it works again */
        sobre_session_close(a);
        sobre_session_close(b);
        sobre_session_close(c);
        sobre_model_close(cpu.model);
        sobre_context_close(cpu.ctx);
        assert_int_equal(atomic_load(&cpu.memory.n_live), 0);
        host_close(&h);
    }
    assert_true(f.n > 100);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest without[] = {cmocka_unit_test(no_driver_is_no_harm)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drivers_that_do_not_serve),
        cmocka_unit_test(devices_are_described),
        cmocka_unit_test(devices_that_do_not_serve),
        cmocka_unit_test(data_arrive),
        cmocka_unit_test(tickets_come_in_order),
        cmocka_unit_test(a_model_runs),
        cmocka_unit_test(sessions_move),
        cmocka_unit_test(the_host_keeps_its_context),
        cmocka_unit_test(threads_share_a_device),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(every_call_once),
        cmocka_unit_test(every_call_without_memory),
        cmocka_unit_test(every_call_for_good),
        cmocka_unit_test(other_sessions_live_on),
    };
    const struct CMUnitTest as_built[] = {
        cmocka_unit_test(a_model_runs),
        cmocka_unit_test(sessions_move),
        cmocka_unit_test(all_cards_find_their_code),
    };

    if (argc > 2) archs = argv[2];
    if (argc > 1 && !strcmp(argv[1], "absent"))
        return cmocka_run_group_tests(without, setup, teardown);
    if (argc > 1 && !strcmp(argv[1], "nvcc"))
        return cmocka_run_group_tests(as_built, setup, teardown);
    return cmocka_run_group_tests(tests, setup, teardown);
}
