/* SPDX-License-Identifier: MIT */
/*
 * What GPU backends share, on a driver that keeps memory on the host and writes down what it is
 * asked: run tables, numbers of groups, conditions, cancellation, failures. Products and attention
 * are played by functions of this file that launch with every count and condition.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_gpu.h"
#include "run.h"

enum {
    N_COLS = 320,
    N_ROWS = 4,
    N_SEQS = 4,
    N_PAGES = 8,
    WIDTH = 48,
    HEAD_DIM = 16,
    WORK_SIZE = 1000,
};

/* --- Nodes that this file builds. */

static void add_test(gpu_builder *b, const sobre_node *node, const char *entry, gpu_extent x,
                     gpu_extent y, uint32_t when)
{
    gpu_variant variant = gpu_variant_of("test.cl", entry, 64, "WTYPE=%d", 1);
    gpu_args args = {.n = 0};
    gpu_arg_run(&args, b);
    gpu_arg_value(&args, b, node->in[0]);
    gpu_arg_value(&args, b, -1);
    gpu_arg_work(&args, b, gpu_work(b, WORK_SIZE), sizeof(float));
    gpu_add(b, node, &variant, &args, x, y, when);
}

bool gpu_mm_supports(const sobre_device *device, const sobre_value *values, const sobre_node *node)
{
    return true;
}

bool gpu_mm_takes_rows(const gpu_builder *b, const sobre_node *node)
{
    return false;
}

/* By condition. */
void gpu_mm_build(gpu_builder *b, const sobre_node *node)
{
    gpu_count count = gpu_count_of(b, node->in[0]);
    const gpu_extent one = {GPU_ONE, 1, 1}, rows = {count, WIDTH, 32};
    const sobre_span *x = &b->program->spans[node->in[0]];
    gpu_gemm gemm = {.n = WIDTH, .k = WIDTH, .a = x->buffer ? x->buffer->mem : NULL};
    add_test(b, node, "mm_decode", rows, one, GPU_WHEN_DECODE);
    add_test(b, node, "mm_prefill", rows, one, GPU_WHEN_PREFILL | GPU_WHEN_NO_BLAS);
    add_test(b, node, "mm_widen", one, one, GPU_WHEN_BLAS);
    gpu_add_gemm(b, node, &gemm, count, GPU_WHEN_PREFILL | GPU_WHEN_BLAS);
}

bool gpu_attn_supports(const sobre_device *device, const sobre_value *values,
                       const sobre_node *node)
{
    return true;
}

/* By count. */
void gpu_attn_build(gpu_builder *b, const sobre_node *node)
{
    const gpu_extent one = {GPU_ONE, 1, 1};
    add_test(b, node, "attn_tiles", (gpu_extent){GPU_TILES, 1, 1}, (gpu_extent){GPU_ONE, 3, 1}, 0);
    add_test(b, node, "attn_seqs", one, (gpu_extent){GPU_SEQS, 5, 2}, 0);
}

/* --- A program: embedding replaced by its output; two layers; rows gathered; a product. */

enum {
    V_X,    /* f32 [T, WIDTH] */
    V_POS,  /* i32 [T] */
    V_ROWS, /* i32 [R] */
    V_A,    /* f32 [T, WIDTH] */
    V_W,    /* a vector [WIDTH] */
    V_Y,    /* f32 [R, WIDTH] */
    V_Z,    /* f32 [R, WIDTH] */
    N_VALUES,
};
enum { N_NODES = 8 };

typedef struct test_program {
    sobre_value values[N_VALUES];
    sobre_span spans[N_VALUES];
    sobre_node nodes[N_NODES];
    sobre_program program;
    sobre_buffer *arena;
} test_program;

static void set_value(test_program *t, int32_t v, sobre_value_kind kind, sobre_dtype dtype,
                      int64_t rows, int64_t width)
{
    sobre_value *value = &t->values[v];
    *value = (sobre_value){.kind = kind, .dtype = dtype, .rank = width ? 2 : 1, .tensor = -1};
    value->dims[0] = rows;
    value->dims[1] = width;
    snprintf(value->name, sizeof value->name, "value%d", (int)v);
}

static sobre_node *add_node(test_program *t, sobre_op op, int32_t layer, int32_t in0, int32_t in1,
                            int32_t out)
{
    sobre_node *node = &t->nodes[t->program.n_nodes++];
    *node = (sobre_node){.op = op, .layer = layer, .n_in = SOBRE_MAX_IN, .n_out = 1};
    for (int i = 0; i < SOBRE_MAX_IN; i++) node->in[i] = -1;
    node->in[0] = in0;
    node->in[1] = in1;
    node->out[0] = out;
    return node;
}

static void program_make(test_program *t)
{
    const sobre_rope_node_params rope = {
        {SOBRE_ROPE_HALVES, HEAD_DIM, 10000.0f, 0.5f}, WIDTH / HEAD_DIM, HEAD_DIM};
    memset(t, 0, sizeof *t);
    set_value(t, V_X, SOBRE_VALUE_TEMP, SOBRE_F32, SOBRE_DIM_T, WIDTH);
    set_value(t, V_POS, SOBRE_VALUE_INPUT, SOBRE_I32, SOBRE_DIM_T, 0);
    set_value(t, V_ROWS, SOBRE_VALUE_INPUT, SOBRE_I32, SOBRE_DIM_R, 0);
    set_value(t, V_A, SOBRE_VALUE_TEMP, SOBRE_F32, SOBRE_DIM_T, WIDTH);
    set_value(t, V_W, SOBRE_VALUE_WEIGHT, SOBRE_F32, WIDTH, 0);
    set_value(t, V_Y, SOBRE_VALUE_TEMP, SOBRE_F32, SOBRE_DIM_R, WIDTH);
    set_value(t, V_Z, SOBRE_VALUE_OUTPUT, SOBRE_F32, SOBRE_DIM_R, WIDTH);
    for (int32_t layer = 0; layer < 2; layer++) {
        add_node(t, SOBRE_OP_ROPE, layer, V_X, V_POS, V_A)->p.rope = rope;
        add_node(t, SOBRE_OP_ATTENTION, layer, V_A, -1, V_X);
        add_node(t, SOBRE_OP_ADD, layer, V_X, V_W, V_A);
    }
    add_node(t, SOBRE_OP_GATHER, -1, V_A, V_ROWS, V_Y);
    add_node(t, SOBRE_OP_MATMUL, -1, V_Y, -1, V_Z);
    t->program.struct_size = sizeof t->program;
    t->program.values = t->values;
    t->program.n_values = N_VALUES;
    t->program.nodes = t->nodes;
    t->program.spans = t->spans;
    t->program.n_cols = N_COLS;
    t->program.n_rows = N_ROWS;
    t->program.n_seq = N_SEQS;
    t->program.n_pages = N_PAGES;
}

/* Gives the values memory. */
static void program_place(fake *f, test_program *t)
{
    enum { VALUE_SIZE = N_COLS * WIDTH * 4 };
    assert_ok(f->ctx,
              gpu_buffer_alloc(&f->device, N_VALUES * VALUE_SIZE, SOBRE_BUFFER_ARENA, &t->arena));
    for (int32_t v = 0; v < N_VALUES; v++)
        t->spans[v] = (sobre_span){t->arena, (uint64_t)v * VALUE_SIZE, VALUE_SIZE};
}

static sobre_exec *exec_make(fake *f, test_program *t)
{
    sobre_exec *exec = NULL;
    program_make(t);
    program_place(f, t);
    assert_ok(f->ctx, gpu_compile(&f->device, &t->program, &exec));
    return exec;
}

static void exec_close(fake *f, test_program *t, sobre_exec *exec)
{
    gpu_exec_free(exec);
    gpu_buffer_free(t->arena);
    fake_close(f);
}

/* A run of sequences with so many columns each. */
typedef struct test_run {
    sobre_run run;
    sobre_run_seq seqs[N_SEQS];
    int32_t pages[N_SEQS][N_PAGES];
    int32_t n_asked, cancel_at; /* cancelled() */
} test_run;

static int is_cancelled(const void *user)
{
    test_run *r = (test_run *)(uintptr_t)user;
    return ++r->n_asked == r->cancel_at;
}

static void run_make(test_run *r, int32_t n_seqs, const int32_t *n_cols, const int32_t *pos,
                     int32_t n_rows)
{
    memset(r, 0, sizeof *r);
    r->run = (sobre_run){.struct_size = sizeof r->run,
                         .n_rows = n_rows,
                         .n_seqs = n_seqs,
                         .seqs = r->seqs,
                         .cancelled = is_cancelled,
                         .cancelled_user = r};
    for (int32_t s = 0; s < n_seqs; s++) {
        r->seqs[s] = (sobre_run_seq){r->run.n_cols, n_cols[s], pos[s], r->pages[s]};
        for (int32_t i = 0; i < N_PAGES; i++) r->pages[s][i] = 100 * s + 7 * i;
        r->run.n_cols += n_cols[s];
    }
}

static void assert_log(const fake *f, const launched *expected, int32_t n)
{
    for (int32_t i = 0; i < n && i < f->n_log; i++) {
        assert_string_equal(f->log[i].entry, expected[i].entry);
        assert_int_equal(f->log[i].x, expected[i].x);
        assert_int_equal(f->log[i].y, expected[i].y);
    }
    assert_int_equal(f->n_log, n);
}

/* --- Tests */

static void table_of_a_ragged_run(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, &t);
    run_make(&r, 3, (const int32_t[]){1, 20, 3}, (const int32_t[]){64, 0, 62}, 2);
    assert_ok(f.ctx, gpu_run(exec, &r.run));

    const int32_t seq_at = RUN_HEAD_SIZE, col_at = seq_at + 3 * RUN_SEQ_SIZE;
    const int32_t tile_at = col_at + 24, page_at = tile_at + 4 * RUN_TILE_SIZE;
    const int32_t *table = (const int32_t *)(const void *)f.written->data;
    assert_int_equal(f.written_size, (uint64_t)(page_at + 2 + 1 + 2) * 4);
    assert_int_equal(table[RUN_N_COLS], 24);
    assert_int_equal(table[RUN_N_ROWS], 2);
    assert_int_equal(table[RUN_N_SEQS], 3);
    assert_int_equal(table[RUN_N_TILES], 4);
    assert_int_equal(table[RUN_SEQ_AT], seq_at);
    assert_int_equal(table[RUN_COL_AT], col_at);
    assert_int_equal(table[RUN_TILE_AT], tile_at);
    assert_int_equal(table[RUN_PAGE_AT], page_at);
    const int32_t seqs[3][RUN_SEQ_SIZE] = {{0, 1, 64, 0}, {1, 20, 0, 2}, {21, 3, 62, 3}};
    const int32_t tiles[4][RUN_TILE_SIZE] = {{0, 0}, {1, 0}, {1, 16}, {2, 0}};
    const int32_t pages[] = {0, 7, 100, 200, 207};
    assert_memory_equal(table + seq_at, seqs, sizeof seqs);
    assert_memory_equal(table + tile_at, tiles, sizeof tiles);
    assert_memory_equal(table + page_at, pages, sizeof pages);
    for (int32_t i = 0; i < 24; i++)
        assert_int_equal(table[col_at + i], i < 1 ? 0 : i < 21 ? 1 : 2);
    exec_close(&f, &t, exec);
}

static void groups_follow_the_run(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, &t);
    run_make(&r, 3, (const int32_t[]){1, 20, 3}, (const int32_t[]){64, 0, 62}, 2);
    assert_ok(f.ctx, gpu_run(exec, &r.run));
    /* 24 columns: 24 * 24 pairs to turn, 24 * 48 elements; 2 rows. */
    const launched expected[] = {
        {"rope", 3, 1},       {"attn_tiles", 4, 3}, {"attn_seqs", 1, 8}, {"row_map", 5, 1},
        {"rope", 3, 1},       {"attn_tiles", 4, 3}, {"attn_seqs", 1, 8}, {"row_map", 5, 1},
        {"row_gather", 1, 1}, {"mm_prefill", 3, 1},
    };
    assert_log(&f, expected, 10);
    exec_close(&f, &t, exec);
}

static void conditions_hold(void **state)
{
    static const struct {
        const char *product; /* the one launch of the product */
        bool has_blas;
        int32_t n_seqs, n_cols[2];
    } cases[] = {
        {"mm_decode", true, 2, {1, 1}},
        {"mm_prefill", true, 2, {1, 2}},
        {"mm_prefill", true, 1, {GPU_BLAS_COLS - 1}},
        {"gemm", true, 1, {GPU_BLAS_COLS}},
        {"gemm", true, 2, {GPU_BLAS_COLS - 1, 1}},
        {"mm_prefill", false, 1, {GPU_BLAS_COLS}},
    };
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, &t);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f.n_log = 0;
        f.has_blas = cases[i].has_blas;
        run_make(&r, cases[i].n_seqs, cases[i].n_cols, (const int32_t[]){5, 9}, 2);
        assert_ok(f.ctx, gpu_run(exec, &r.run));
        assert_string_equal(f.log[f.n_log - 1].entry, cases[i].product);
        assert_int_equal(f.n_log, strcmp(cases[i].product, "gemm") == 0 ? 11 : 10);
    }
    /* A decoding run, launched in full. */
    assert_int_equal(gpu_n_launches(exec), 10);
    exec_close(&f, &t, exec);
}

static void a_product_by_the_library(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    f.has_blas = true;
    sobre_exec *exec = exec_make(&f, &t);
    run_make(&r, 1, (const int32_t[]){300}, (const int32_t[]){0}, 3);
    assert_ok(f.ctx, gpu_run(exec, &r.run));
    assert_int_equal(f.gemm.m, 3);
    assert_int_equal(f.gemm.n, WIDTH);
    assert_ptr_equal(f.gemm.a, t.arena->mem);
    exec_close(&f, &t, exec);
}

static void a_driver_without_blas(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    f.device.driver = &fake_driver_without_blas;
    sobre_exec *exec = exec_make(&f, &t);
    run_make(&r, 1, (const int32_t[]){300}, (const int32_t[]){0}, 1);
    assert_ok(f.ctx, gpu_run(exec, &r.run));
    assert_string_equal(f.log[f.n_log - 1].entry, "mm_prefill");
    exec_close(&f, &t, exec);
}

static void no_rows_no_launches(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    f.has_blas = true;
    sobre_exec *exec = exec_make(&f, &t);
    const int32_t n_cols[] = {1, 300};
    for (int i = 0; i < 2; i++) {
        f.n_log = 0;
        run_make(&r, 1, &n_cols[i], (const int32_t[]){0}, 0);
        assert_ok(f.ctx, gpu_run(exec, &r.run));
        assert_int_equal(f.n_log, 8);
        assert_string_equal(f.log[7].entry, "row_map");
    }
    exec_close(&f, &t, exec);
}

static void cancelled_runs_stop_at_a_layer(void **state)
{
    /* Asked before anything, at layer 1, and behind the layers. */
    static const int32_t n_launched[] = {0, 4, 8};
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, &t);
    for (int32_t at = 1; at <= 3; at++) {
        long long n_calls = f.n_calls;
        f.n_log = 0;
        run_make(&r, 1, (const int32_t[]){2}, (const int32_t[]){0}, 1);
        r.cancel_at = at;
        assert_int_equal(gpu_run(exec, &r.run), SOBRE_CANCELLED);
        assert_non_null(strstr(sobre_error(f.ctx), "the tokens so far stay"));
        assert_int_equal(f.n_log, n_launched[at - 1]);
        if (at == 1) assert_int_equal(f.n_calls, n_calls);
    }
    exec_close(&f, &t, exec);
}

static void runs_that_do_not_fit(void **state)
{
    fake f;
    test_program t;
    test_run r;
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, &t);
    long long n_calls = f.n_calls;
    run_make(&r, 1, (const int32_t[]){N_COLS}, (const int32_t[]){1 << 20}, 1);
    assert_int_equal(gpu_run(exec, &r.run), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(f.n_calls, n_calls);
    /* The largest one does. */
    run_make(&r, N_SEQS, (const int32_t[]){77, 81, 81, 81},
             (const int32_t[]){N_PAGES * 64 - 77, N_PAGES * 64 - 81, N_PAGES * 64 - 81,
                               N_PAGES * 64 - 81},
             N_ROWS);
    assert_ok(f.ctx, gpu_run(exec, &r.run));
    exec_close(&f, &t, exec);
}

static void sizes_are_what_is_allocated(void **state)
{
    fake f;
    test_program t;
    sobre_exec *exec = NULL;
    uint64_t size = 0;
    fake_open(&f);
    program_make(&t);
    /* Before there is memory. */
    assert_ok(f.ctx, gpu_workspace_size(&f.device, &t.program, &size));
    program_place(&f, &t);
    uint64_t before = f.live_size;
    assert_ok(f.ctx, gpu_compile(&f.device, &t.program, &exec));
    assert_int_equal(f.live_size - before, size);
    /* Attention takes scratch memory twice; it is free again for the next node. */
    assert_true(size >= 2 * WORK_SIZE && size < 3 * WORK_SIZE + N_COLS * 12 + 1024);
    exec_close(&f, &t, exec);
}

static void variants_are_prepared_once(void **state)
{
    fake f;
    test_program t;
    fake_open(&f);
    program_make(&t);
    gpu_prepare(&f.device, &t.program);
    /* rope, attn_tiles, attn_seqs, row_map, row_gather, mm_decode, mm_prefill, mm_widen */
    assert_int_equal(f.n_prepared, 8);
    assert_int_equal(f.n_calls, 0);
    fake_close(&f);
}

/* The frequencies of RoPE, as kernels get them. */
static void constants_are_stored_once(void **state)
{
    fake f;
    fake_open(&f);
    const sobre_program program = {0};
    gpu_builder b = {.device = &f.device, .program = &program, .mode = GPU_MEASURE};
    const sobre_rope_params rope = {SOBRE_ROPE_PAIRS, 64, 500000.0f, 0.25f};
    const sobre_rope_params other = {SOBRE_ROPE_PAIRS, 64, 10000.0f, 1.0f};
    uint64_t first = gpu_rope_const(&b, &rope), second = gpu_rope_const(&b, &other);
    assert_int_not_equal(first, second);
    assert_int_equal(first % f.device.caps.alignment, 0);
    assert_int_equal(second % f.device.caps.alignment, 0);
    assert_int_equal(gpu_rope_const(&b, &rope), first);
    assert_int_equal(gpu_rope_const(&b, &other), second);
    uint64_t used = b.consts_used;
    for (int i = 0; i < 40; i++) { /* enough to make it grow */
        char data[500];
        memset(data, i + 1, sizeof data);
        uint64_t at = gpu_const(&b, data, sizeof data);
        assert_memory_equal(b.consts + at, data, sizeof data);
    }
    assert_true(b.consts_used > used);
    const float *table = (const float *)(const void *)(b.consts + first);
    for (int i = 0; i < 32; i++) {
        double turns = 0.25 * pow(500000.0, -2.0 * i / 64) / 6.283185307179586;
        assert_true(fabs((double)table[2 * i] + table[2 * i + 1] - turns) <= 1e-14 * turns);
    }
    context_host(f.ctx)->free(f.ctx, b.consts);
    fake_close(&f);
}

static void offsets_that_no_kernel_can_have(void **state)
{
    fake f;
    test_program t;
    sobre_exec *exec = NULL;
    fake_open(&f);
    program_make(&t);
    program_place(&f, &t);
    t.spans[V_A].offset = (uint64_t)4 << 31;
    long long n_calls = f.n_calls;
    assert_int_equal(gpu_compile(&f.device, &t.program, &exec), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(sobre_error(f.ctx), "8589934592"));
    assert_non_null(strstr(sobre_error(f.ctx), "use a smaller batch"));
    assert_null(exec);
    assert_int_equal(f.n_calls, n_calls);
    /* The begin has an index, the end has none. */
    t.spans[V_A].offset = ((uint64_t)4 << 31) - 256;
    assert_int_equal(gpu_compile(&f.device, &t.program, &exec), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(sobre_error(f.ctx), "use a smaller batch"));
    assert_null(exec);
    /* Too many elements for an index. */
    t.spans[V_A].offset = 0;
    t.program.n_cols = INT32_MAX / WIDTH;
    assert_int_equal(gpu_compile(&f.device, &t.program, &exec), SOBRE_UNSUPPORTED);
    assert_null(exec);
    gpu_buffer_free(t.arena);
    fake_close(&f);
}

static void buffers(void **state)
{
    fake f;
    sobre_buffer *a = NULL, *b = NULL;
    char text[6] = "";
    fake_open(&f);
    assert_int_equal(gpu_buffer_alloc(&f.device, (1 << 20) + 1, SOBRE_BUFFER_ARENA, &a),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_non_null(strstr(sobre_error(f.ctx), "1048577"));
    assert_non_null(strstr(sobre_error(f.ctx), "1048576"));
    assert_null(a);
    assert_ok(f.ctx, gpu_buffer_alloc(&f.device, 64, SOBRE_BUFFER_ARENA, &a));
    assert_ok(f.ctx, gpu_buffer_alloc(&f.device, 64, SOBRE_BUFFER_KV, &b));
    assert_ok(f.ctx, gpu_write(a, 8, "sober", 6));
    assert_ok(f.ctx, gpu_copy(b, 16, a, 8, 6));
    assert_ok(f.ctx, gpu_read(b, 16, text, 6));
    assert_string_equal(text, "sober");
    assert_null(gpu_host_pointer(a));
    assert_int_equal(gpu_alignment(&f.device), 128);
    assert_int_equal(gpu_max_buffer(&f.device), 1 << 20);
    gpu_buffer_free(a);
    gpu_buffer_free(b);
    gpu_buffer_free(NULL);
    fake_close(&f);
}

static void values_of_a_fixed_size_are_refused(void **state)
{
    fake f;
    test_program t;
    fake_open(&f);
    program_make(&t);
    for (int32_t i = 0; i < t.program.n_nodes; i++)
        assert_true(gpu_supports(&f.device, t.values, &t.nodes[i]));
    t.values[V_X].dims[0] = 5;
    assert_false(gpu_supports(&f.device, t.values, &t.nodes[0]));
    fake_close(&f);
}

/* Compiles and runs; the first failure. */
static sobre_status once(fake *f, test_program *t)
{
    sobre_exec *exec = NULL;
    test_run r;
    sobre_status status = gpu_compile(&f->device, &t->program, &exec);
    if (status < 0) {
        assert_null(exec);
        return status;
    }
    run_make(&r, 2, (const int32_t[]){1, 20}, (const int32_t[]){64, 0}, 2);
    status = gpu_run(exec, &r.run);
    if (status < 0) { /* the next one is fine */
        f->n_log = 0;
        assert_ok(f->ctx, gpu_run(exec, &r.run));
    }
    f->n_log = 0;
    gpu_exec_free(exec);
    return status;
}

static void each_call_fails_once(void **state)
{
    fake f;
    test_program t;
    fake_open(&f);
    program_make(&t);
    program_place(&f, &t);
    int32_t n_live = f.n_live;
    sobre_status status = SOBRE_DEVICE;
    int32_t n_failures = 0;
    while (status < 0) {
        f.n_calls = 0;
        f.fail_at = n_failures + 1;
        status = once(&f, &t);
        assert_int_equal(f.n_live, n_live);
        if (status < 0) {
            n_failures++;
            assert_int_equal(status, SOBRE_DEVICE);
            assert_non_null(strstr(sobre_error(f.ctx), "fake: "));
        }
    }
    /* 3 buffers and their constants, 12 kernels; the table and 10 launches. */
    assert_int_equal(n_failures, 4 + 12 + 11);
    gpu_buffer_free(t.arena);
    fake_close(&f);
}

static void each_allocation_fails_once(void **state)
{
    fake f;
    test_program t;
    fake_open(&f);
    program_make(&t);
    program_place(&f, &t);
    int32_t n_live = f.n_live, n_failures = 0;
    sobre_status status = SOBRE_OUT_OF_MEMORY;
    while (status < 0) {
        f.memory.fail_at = f.memory.n_calls + n_failures + 1;
        status = once(&f, &t);
        assert_int_equal(f.n_live, n_live);
        if (status < 0) {
            n_failures++;
            assert_int_equal(status, SOBRE_OUT_OF_MEMORY);
        }
    }
    assert_true(n_failures > 5);
    f.memory.fail_at = 0;
    gpu_buffer_free(t.arena);
    fake_close(&f);
}

/* The model may have been unloaded before. */
static void freeing_looks_at_no_program(void **state)
{
    fake f;
    test_program *t = malloc(sizeof *t);
    assert_non_null(t);
    fake_open(&f);
    sobre_exec *exec = exec_make(&f, t);
    gpu_buffer_free(t->arena);
    memset(t, 0xff, sizeof *t);
    free(t);
    gpu_exec_free(exec);
    gpu_exec_free(NULL);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_of_a_ragged_run),
        cmocka_unit_test(groups_follow_the_run),
        cmocka_unit_test(conditions_hold),
        cmocka_unit_test(a_product_by_the_library),
        cmocka_unit_test(a_driver_without_blas),
        cmocka_unit_test(no_rows_no_launches),
        cmocka_unit_test(cancelled_runs_stop_at_a_layer),
        cmocka_unit_test(runs_that_do_not_fit),
        cmocka_unit_test(sizes_are_what_is_allocated),
        cmocka_unit_test(variants_are_prepared_once),
        cmocka_unit_test(constants_are_stored_once),
        cmocka_unit_test(offsets_that_no_kernel_can_have),
        cmocka_unit_test(buffers),
        cmocka_unit_test(values_of_a_fixed_size_are_refused),
        cmocka_unit_test(each_call_fails_once),
        cmocka_unit_test(each_allocation_fails_once),
        cmocka_unit_test(freeing_looks_at_no_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
