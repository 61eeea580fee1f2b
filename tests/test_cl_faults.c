/* SPDX-License-Identifier: MIT */
/* Every OpenCL call between opening a context and the second token is made to fail in turn, by the
 * layer of tests/icd/. The call that needed it returns a status whose message names the OpenCL
 * call, nothing leaks on either side, the CPU takes over when asked, and other sessions live on. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <CL/cl.h>

#include "device_host.h"
#include "icd/fault_layer.h"
#include "os.h"

enum { N_TOKENS = 2 };

/* The nth call fails, from 1; 0: none. With for_good all after it do, too. */
typedef struct fault {
    long long n;
    bool for_good;
    int error;
} fault;

static fault_control *faults;
static const char *plugins;
static const char *cache_dir;
static void *model_bytes;
static size_t model_size;

/* The cache of programs */
enum { MAX_PROGRAMS = 40, PATH_SIZE = 1024 };
typedef char program_paths[MAX_PROGRAMS][PATH_SIZE];

static int list_programs(program_paths paths)
{
    char folder[PATH_SIZE / 2];
    int n = 0;

    snprintf(folder, sizeof folder, "%s/opencl", cache_dir);
    DIR *dir = opendir(folder);
    if (!dir) return 0;
    for (struct dirent *e; n < MAX_PROGRAMS && (e = readdir(dir));)
        if (e->d_name[0] != '.') snprintf(paths[n++], PATH_SIZE, "%s/%s", folder, e->d_name);
    closedir(dir);
    return n;
}

static int setup(void **state)
{
    const char *layer = getenv("OPENCL_LAYERS"), *folder = getenv("SOBRE_TEST_CACHE");
    union {
        void *symbol;
        fault_control_fn get;
    } control;

    plugins = getenv("SOBRE_TEST_PLUGINS");
    if (!layer || !plugins || !folder) return 0;
    void *library = os_library_open(layer); /* the loader opens the same one later */
    control.symbol = library ? os_library_symbol(library, "fault_layer_control") : NULL;
    assert_non_null(control.symbol);
    faults = control.get();
    cache_dir = folder;
    static program_paths old;
    for (int n = list_programs(old); n > 0; n--) remove(old[n - 1]);
    gguf_make *g = gguf_make_llama(&(llama_make){.dtype = SOBRE_Q4_0, .n_layer = 1});
    model_bytes = gguf_make_bytes(g, &model_size);
    gguf_make_free(g);
    return 0;
}

static int teardown(void **state)
{
    free(model_bytes);
    return 0;
}

static void need_layer(void)
{
    if (faults) return;
    print_message("SKIP: OPENCL_LAYERS, SOBRE_TEST_PLUGINS and SOBRE_TEST_CACHE are not set\n");
    skip();
}

static void arm(fault f)
{
    for (int i = 0; faults->calls[i].name; i++) atomic_store(&faults->calls[i].failed, false);
    atomic_store(&faults->n_calls, 0);
    atomic_store(&faults->error, f.error);
    atomic_store(&faults->for_good, f.for_good);
    atomic_store(&faults->fail_at, f.n);
}

static void disarm(void)
{
    arm((fault){0});
}

/* A call that was made to fail; with `text`, one that it names. NULL: none. */
static const char *failed_call(const char *text)
{
    for (int i = 0; faults->calls[i].name; i++)
        if (atomic_load(&faults->calls[i].failed) && (!text || strstr(text, faults->calls[i].name)))
            return faults->calls[i].name;
    return NULL;
}

static void assert_nothing_lives(const test_memory *memory, long long n)
{
    static const char *const names[] = {"contexts", "queues",  "buffers",
                                        "programs", "kernels", "events"};
    for (int i = 0; i < FAULT_N_OBJECTS; i++)
        if (atomic_load(&faults->n_live[i]))
            test_fail("call %lld (%s): %lld %s leaked", n, failed_call(NULL),
                      (long long)atomic_load(&faults->n_live[i]), names[i]);
    if (atomic_load(&memory->n_live))
        test_fail("call %lld (%s): %lld blocks leaked", n, failed_call(NULL),
                  (long long)atomic_load(&memory->n_live));
}

static void host_open(host *h)
{
    host_open_with(h,
                   SOBRE(context_options, .plugin_dir = plugins, .cache_dir = cache_dir,
                         .n_threads = 2, .blas = SOBRE_BLAS_NEVER),
                   model_bytes, model_size);
}

static void host_close(host *h, long long n)
{
    sobre_model_close(h->model);
    sobre_context_close(h->ctx);
    assert_nothing_lives(&h->memory, n);
}

static sobre_status start(host *h, sobre_session **session)
{
    return host_start(h, SOBRE(session_options, .exact = 1), session);
}

static sobre_status go_on(sobre_session *session, int32_t *tokens, int32_t *n_tokens)
{
    return host_go_on(session, N_TOKENS, tokens, n_tokens);
}

static void reference(int32_t tokens[N_TOKENS])
{
    host h;
    sobre_session *session = NULL;
    int32_t n = 0;

    host_open(&h);
    assert_ok(h.ctx, host_load(&h, "cpu"));
    assert_ok(h.ctx, start(&h, &session));
    assert_int_equal(go_on(session, tokens, &n), SOBRE_OK);
    sobre_session_close(session);
    host_close(&h, 0);
}

static void check_status(const host *h, sobre_status status, long long n)
{
    const char *error = sobre_error(h->ctx);

    if (status != SOBRE_DEVICE && status != SOBRE_DEVICE_LOST && status != SOBRE_UNAVAILABLE &&
        status != SOBRE_OUT_OF_MEMORY && status != SOBRE_DEVICE_OUT_OF_MEMORY)
        test_fail("call %lld, %s: %s", n, failed_call(NULL), sobre_status_name(status));
    if (!failed_call(error))
        test_fail("call %lld: \"%s\" does not name it (%s)", n, error, failed_call(NULL));
}

/* One life of a program with a fault. It may do without that call; else it says so, and the CPU
 * goes on from where the device stopped. */
static bool one_life(fault f, const int32_t expected[N_TOKENS])
{
    host h;
    sobre_session *session = NULL;
    int32_t tokens[N_TOKENS], n_tokens = 0;

    host_open(&h);
    arm(f);
    sobre_status status = host_load(&h, "opencl");
    const bool loaded = status >= 0;
    if (status >= 0) status = start(&h, &session);
    if (status >= 0) status = go_on(session, tokens, &n_tokens);
    const bool failed = status < 0;
    if (failed) {
        check_status(&h, status, f.n);
        if (loaded) assert_ok(h.ctx, sobre_model_unload(h.model));
        assert_ok(h.ctx, host_load(&h, "cpu"));
        if (!session) assert_ok(h.ctx, start(&h, &session));
        assert_ok(h.ctx, go_on(session, tokens, &n_tokens));
    }
    assert_memory_equal(tokens, expected, sizeof tokens);
    sobre_session_close(session);
    host_close(&h, f.n);
    return failed;
}

static void every_call(const fault *kind, long long step)
{
    static program_paths paths;
    int32_t expected[N_TOKENS];
    long long n_lives = 0, n_failed = 0;
    fault f = *kind;

    need_layer();
    reference(expected);
    assert_false(one_life((fault){0}, expected)); /* compiles, so that later lives need not */
    assert_false(one_life((fault){0}, expected));
    const long long n_calls = atomic_load(&faults->n_calls);
    const int n_programs = list_programs(paths);
    for (f.n = 1; f.n <= n_calls; f.n += step, n_lives++) {
        n_failed += one_life(f, expected);
        assert_int_equal(list_programs(paths), n_programs); /* no fault of theirs */
    }
    print_message("%lld calls to the second token, %lld of %lld lives with a failure\n", n_calls,
                  n_failed, n_lives);
    /* It can do without the queries of capabilities, and with a program that it must compile. */
    assert_true(n_calls > 300 && n_failed > n_lives * 9 / 10);
}

static void every_call_once(void **state)
{
    every_call(&(fault){.error = CL_OUT_OF_RESOURCES}, 1);
}

/* As when the device is lost. These lives differ little from one n to the next. */
static void every_call_for_good(void **state)
{
    every_call(&(fault){.for_good = true, .error = CL_DEVICE_NOT_AVAILABLE}, 5);
}

/* --- Programs that must be compiled */

/* Calls whose names are not in the list, which ends in NULL, always work; NULL: none is spared. */
static void spare_all_but(const char *const *names)
{
    for (int i = 0; faults->calls[i].name; i++) {
        bool spared = names != NULL;
        for (const char *const *name = names; name && *name; name++)
            if (strcmp(faults->calls[i].name, *name) == 0) spared = false;
        atomic_store(&faults->calls[i].spared, spared);
    }
}

/* A program that is not in the cache, another one in each life. If its first build fails, a thread
 * tried it ahead of need; it is built again when it is needed. */
static void every_call_that_compiles(void **state)
{
    static const char *const once[] = {"clCreateProgramWithSource", "clGetProgramInfo", NULL};
    static const char *const for_good[] = {"clCreateProgramWithSource", "clBuildProgram",
                                           "clGetProgramBuildInfo", NULL};
    static const struct {
        const char *const *names;
        fault fault;
    } kinds[] = {
        {once, {.error = CL_OUT_OF_HOST_MEMORY}},
        {for_good, {.for_good = true, .error = CL_BUILD_PROGRAM_FAILURE}},
    };
    static program_paths paths;
    int32_t expected[N_TOKENS];
    long long n_lives = 0, n_failed = 0;

    need_layer();
    reference(expected);
    assert_false(one_life((fault){0}, expected));
    const int n_programs = list_programs(paths);
    assert_in_range(n_programs, 5, MAX_PROGRAMS - 1);
    for (int i = 0; i < n_programs; i++) {
        fault f = kinds[i % 2].fault;
        spare_all_but(kinds[i % 2].names);
        do {
            remove(paths[i]); /* the life before may not have written it */
            f.n++;
            n_lives++;
            n_failed += one_life(f, expected);
        } while (failed_call(NULL));
    }
    spare_all_but(NULL);
    print_message("%d programs, %lld of %lld lives with a failure\n", n_programs, n_failed,
                  n_lives);
    assert_true(n_failed >= n_programs);
}

/* One session's failure leaves another of the same device as it was, and that of the CPU too. */
static void other_sessions_live_on(void **state)
{
    int32_t expected[N_TOKENS];
    long long n = 1;

    need_layer();
    reference(expected);
    for (bool more = true; more; n += 7) {
        host h, cpu;
        sobre_session *a = NULL, *b = NULL, *c = NULL;
        int32_t of_a[N_TOKENS], of_b[N_TOKENS], of_c[N_TOKENS], n_a = 0, n_b = 0, n_c = 0;
        const sobre_event *event;

        disarm();
        host_open(&h);
        host_open(&cpu);
        assert_ok(h.ctx, host_load(&h, "opencl"));
        assert_ok(cpu.ctx, host_load(&cpu, "cpu"));
        assert_ok(h.ctx, start(&h, &a));
        assert_ok(h.ctx, start(&h, &b));
        assert_ok(cpu.ctx, start(&cpu, &c));
        assert_ok(h.ctx, sobre_session_next(b, -1, &event));
        of_b[n_b++] = event->token;
        assert_ok(cpu.ctx, sobre_session_next(c, -1, &event));
        of_c[n_c++] = event->token;

        arm((fault){.n = n, .error = CL_OUT_OF_RESOURCES});
        sobre_status status = go_on(a, of_a, &n_a);
        more = status < 0;
        if (more) check_status(&h, status, n);
        disarm();
        assert_ok(h.ctx, go_on(b, of_b, &n_b));
        assert_ok(cpu.ctx, go_on(c, of_c, &n_c));
        assert_ok(h.ctx, go_on(a, of_a, &n_a)); /* and itself, once it works again */
        assert_memory_equal(of_a, expected, sizeof expected);
        assert_memory_equal(of_b, expected, sizeof expected);
        assert_memory_equal(of_c, expected, sizeof expected);
        sobre_session_close(a);
        sobre_session_close(b);
        sobre_session_close(c);
        sobre_model_close(cpu.model);
        sobre_context_close(cpu.ctx);
        assert_int_equal(atomic_load(&cpu.memory.n_live), 0);
        host_close(&h, n);
    }
    assert_true(n > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_once),
        cmocka_unit_test(every_call_for_good),
        cmocka_unit_test(every_call_that_compiles),
        cmocka_unit_test(other_sessions_live_on),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
