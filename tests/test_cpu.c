/* SPDX-License-Identifier: MIT */
/* Every operation on the CPU through the backend's table, on every instruction set, against the
 * definition in double precision. Attention has a test of its own. */
#include "cpu_rig.h"

enum { T = 5, R = 2, N = 77, N_BIG = 6000 };

/* --- Elementwise */

static double activate(sobre_act act, double x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return x / (1 + exp(-x));
    case SOBRE_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case SOBRE_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case SOBRE_ACT_RELU: return x > 0 ? x : 0;
    case SOBRE_ACT_NONE: break;
    }
    return x;
}

typedef struct unary_case {
    sobre_op op;
    sobre_act act;
    float factor;
} unary_case;

static double elementwise(const unary_case *c, double x, double y)
{
    switch (c->op) {
    case SOBRE_OP_GLU: return activate(c->act, x) * y;
    case SOBRE_OP_ACTIVATION: return activate(c->act, x);
    case SOBRE_OP_ADD: return x + y;
    case SOBRE_OP_MUL: return x * y;
    case SOBRE_OP_SCALE: return x * c->factor;
    case SOBRE_OP_SOFTCAP: return c->factor * tanh(x / c->factor);
    default: return 0;
    }
}

/* `broadcast`: the second operand is a weight [n]. */
static void check_elementwise(sobre_cpu_isa isa, const unary_case *c, int64_t n, bool broadcast)
{
    rig r;
    rig_open(&r, isa, 3, T, R);
    int32_t x = rig_input(&r, SOBRE_DIM_T, n), y = -1;
    static float weight[N_BIG];
    static double reference[T * N_BIG];
    rig_fill(weight, n, 9);
    if (broadcast)
        y = rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, n, weight);
    else
        y = rig_input(&r, SOBRE_DIM_T, n);
    int32_t out = rig_input(&r, SOBRE_DIM_T, n);
    sobre_node node = rig_node(c->op);
    bool binary = c->op == SOBRE_OP_GLU || c->op == SOBRE_OP_ADD || c->op == SOBRE_OP_MUL;
    node.in[0] = x;
    if (binary) node.in[1] = y;
    node.out[0] = out;
    if (c->act != SOBRE_ACT_NONE)
        node.p.act = c->act;
    else
        node.p.factor = c->factor;
    rig_add(&r, &node);
    rig_compile(&r);

    float *a = rig_data(&r, x), *b = rig_data(&r, y);
    rig_fill(a, T * n, 1);
    for (int64_t i = 0; i < T * n; i++) a[i] *= 8;
    if (!broadcast) rig_fill(b, T * n, 2);
    for (int64_t i = 0; i < T * n; i++)
        reference[i] = elementwise(c, a[i], broadcast ? weight[i % n] : b[i]);
    rig_run(&r, T, R, NULL, 0);
    rig_close_to(rig_data(&r, out), reference, T * n, 3e-6);
    rig_close(&r);
}

static void elementwise_operations(void **state)
{
    static const unary_case cases[] = {
        {SOBRE_OP_GLU, SOBRE_ACT_SILU, 0},
        {SOBRE_OP_GLU, SOBRE_ACT_GELU_TANH, 0},
        {SOBRE_OP_GLU, SOBRE_ACT_GELU_ERF, 0},
        {SOBRE_OP_GLU, SOBRE_ACT_RELU, 0},
        {SOBRE_OP_ACTIVATION, SOBRE_ACT_SILU, 0},
        {SOBRE_OP_ACTIVATION, SOBRE_ACT_GELU_TANH, 0},
        {SOBRE_OP_ACTIVATION, SOBRE_ACT_GELU_ERF, 0},
        {SOBRE_OP_ACTIVATION, SOBRE_ACT_RELU, 0},
        {SOBRE_OP_ADD, SOBRE_ACT_NONE, 0},
        {SOBRE_OP_MUL, SOBRE_ACT_NONE, 0},
        {SOBRE_OP_SCALE, SOBRE_ACT_NONE, 0.37f},
        {SOBRE_OP_SOFTCAP, SOBRE_ACT_NONE, 3.0f},
    };
    static const int64_t widths[] = {1, N, N_BIG};
    sobre_cpu_isa isa = rig_isa(state);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
            check_elementwise(isa, &cases[c], widths[w], false);
            if (cases[c].op == SOBRE_OP_ADD || cases[c].op == SOBRE_OP_MUL)
                check_elementwise(isa, &cases[c], widths[w], true);
        }
}

/* --- By row */

static void reference_norm(sobre_norm_params p, const float *x, const float *w, const float *b,
                           int64_t n, double *ret)
{
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n && p.kind == SOBRE_NORM_LAYER; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    for (int64_t i = 0; i < n; i++)
        ret[i] =
            (x[i] - mean) / sqrt(squares / (double)n + p.eps) * (w ? w[i] : 1) + (b ? b[i] : 0);
}

/* The norm's weight is [group]. */
static void check_norm(sobre_cpu_isa isa, sobre_norm_kind kind, int64_t n, int64_t group,
                       bool weight, bool bias)
{
    rig r;
    rig_open(&r, isa, 2, T, R);
    static float w[N_BIG], b[N_BIG];
    static double reference[T * N_BIG];
    rig_fill(w, group, 3);
    rig_fill(b, group, 4);
    sobre_node node = rig_node(SOBRE_OP_NORM);
    node.p.norm = (sobre_norm_params){kind, 1e-5f};
    node.in[SOBRE_NORM_X] = rig_input(&r, SOBRE_DIM_T, n);
    if (weight) node.in[SOBRE_NORM_W] = rig_weight(&r, SOBRE_F16, SOBRE_WEIGHT_VECTOR, 0, group, w);
    if (bias) node.in[SOBRE_NORM_B] = rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, group, b);
    node.out[0] = rig_input(&r, SOBRE_DIM_T, n);
    rig_add(&r, &node);
    rig_compile(&r);
    float *x = rig_data(&r, node.in[SOBRE_NORM_X]);
    rig_fill(x, T * n, 5);
    for (int64_t i = 0; i < T * n; i++) x[i] += 0.25f;
    for (int64_t i = 0; i < T * n; i += group)
        reference_norm(node.p.norm, x + i, weight ? w : NULL, bias ? b : NULL, group,
                       reference + i);
    rig_run(&r, T, R, NULL, 0);
    rig_close_to(rig_data(&r, node.out[0]), reference, T * n, 3e-6);
    rig_close(&r);
}

static void norms(void **state)
{
    sobre_cpu_isa isa = rig_isa(state);
    for (int kind = SOBRE_NORM_RMS; kind <= SOBRE_NORM_LAYER; kind++) {
        check_norm(isa, kind, N, N, true, true);
        check_norm(isa, kind, N_BIG, N_BIG, true, false);
        check_norm(isa, kind, 96, 96, false, false);
        check_norm(isa, kind, 96, 24, true, true);
    }
}

static void check_rope(sobre_cpu_isa isa, sobre_rope_kind kind, int32_t head_dim, int32_t n_dims,
                       bool with_factors)
{
    enum { N_HEAD = 3 };
    rig r;
    rig_open(&r, isa, 2, T, R);
    float factors[64];
    for (int i = 0; i < 64; i++) factors[i] = 1.0f + 0.125f * (float)i;
    sobre_node node = rig_node(SOBRE_OP_ROPE);
    node.p.rope = (sobre_rope_node_params){{kind, n_dims, 10000.0f, 0.5f}, N_HEAD, head_dim};
    node.in[SOBRE_ROPE_X] = rig_input(&r, SOBRE_DIM_T, N_HEAD * head_dim);
    node.in[SOBRE_ROPE_POS] = rig_ints(&r, SOBRE_DIM_T);
    if (with_factors)
        node.in[SOBRE_ROPE_FACTORS] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, n_dims / 2, factors);
    node.out[0] = rig_input(&r, SOBRE_DIM_T, N_HEAD * head_dim);
    rig_add(&r, &node);
    rig_compile(&r);
    static const int32_t positions[T] = {0, 1, 17, 4095, 100000};
    float *x = rig_data(&r, node.in[SOBRE_ROPE_X]);
    double reference[T * N_HEAD * 128];
    memcpy(rig_data(&r, node.in[SOBRE_ROPE_POS]), positions, sizeof positions);
    rig_fill(x, T * N_HEAD * head_dim, 6);
    for (int32_t i = 0; i < T * N_HEAD * head_dim; i++) reference[i] = x[i];
    for (int32_t h = 0; h < T * N_HEAD; h++)
        for (int32_t p = 0; p < n_dims / 2; p++) {
            double angle = 0.5 * positions[h / N_HEAD] * pow(10000.0, -2.0 * p / n_dims);
            if (with_factors) angle /= factors[p];
            int32_t a = h * head_dim + (kind == SOBRE_ROPE_PAIRS ? 2 * p : p);
            int32_t b = kind == SOBRE_ROPE_PAIRS ? a + 1 : a + n_dims / 2;
            reference[a] = x[a] * cos(angle) - x[b] * sin(angle);
            reference[b] = x[b] * cos(angle) + x[a] * sin(angle);
        }
    rig_run(&r, T, R, NULL, 0);
    rig_close_to(rig_data(&r, node.out[0]), reference, T * N_HEAD * head_dim, 1e-6);
    rig_close(&r);
}

static void ropes(void **state)
{
    static const int32_t dims[][2] = {{8, 8}, {64, 64}, {80, 32}, {6, 6}, {20, 10}, {128, 128}};
    sobre_cpu_isa isa = rig_isa(state);
    for (int kind = SOBRE_ROPE_PAIRS; kind <= SOBRE_ROPE_HALVES; kind++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            check_rope(isa, kind, dims[d][0], dims[d][1], d % 2 != 0);
}

/* embed -> gather -> argmax, and what is skipped when no rows are wanted. */
static void rows_by_index(void **state)
{
    static const sobre_dtype types[] = {SOBRE_F32, SOBRE_Q8_0, SOBRE_Q4_1};
    enum { N_VOCAB = 21, WIDTH = 96 };
    sobre_cpu_isa isa = rig_isa(state);
    for (size_t d = 0; d < sizeof types / sizeof types[0]; d++) {
        rig r;
        rig_open(&r, isa, 2, T, R);
        static float table[N_VOCAB * WIDTH];
        rig_fill(table, N_VOCAB * WIDTH, 7);
        sobre_node embed = rig_node(SOBRE_OP_EMBED), gather = rig_node(SOBRE_OP_GATHER),
                   argmax = rig_node(SOBRE_OP_ARGMAX);
        embed.p.factor = 2.0f;
        embed.in[SOBRE_EMBED_IDS] = rig_ints(&r, SOBRE_DIM_T);
        embed.in[SOBRE_EMBED_TABLE] =
            rig_weight(&r, types[d], SOBRE_WEIGHT_TABLE, N_VOCAB, WIDTH, table);
        embed.out[0] = rig_input(&r, SOBRE_DIM_T, WIDTH);
        gather.in[SOBRE_GATHER_X] = embed.out[0];
        gather.in[SOBRE_GATHER_ROWS] = rig_ints(&r, SOBRE_DIM_R);
        gather.out[0] = rig_input(&r, SOBRE_DIM_R, WIDTH);
        argmax.in[SOBRE_UNARY_X] = gather.out[0];
        argmax.out[0] = rig_ints(&r, SOBRE_DIM_R);
        rig_add(&r, &embed);
        rig_add(&r, &gather);
        rig_add(&r, &argmax);
        rig_compile(&r);
        static const int32_t ids[T] = {3, 0, 20, 20, 11}, rows[R] = {1, 4};
        memcpy(rig_data(&r, embed.in[SOBRE_EMBED_IDS]), ids, sizeof ids);
        memcpy(rig_data(&r, gather.in[SOBRE_GATHER_ROWS]), rows, sizeof rows);

        int32_t *best = rig_data(&r, argmax.out[0]);
        best[0] = -7;
        rig_run(&r, T, 0, NULL, 0);
        assert_int_equal(best[0], -7);
        rig_run(&r, T, R, NULL, 0);
        const float *embedded = rig_data(&r, embed.out[0]), *wanted = rig_data(&r, gather.out[0]);
        for (int32_t t = 0; t < T; t++)
            for (int32_t c = 0; c < WIDTH; c++)
                assert_true(embedded[t * WIDTH + c] == 2.0f * table[ids[t] * WIDTH + c]);
        for (int32_t k = 0; k < R; k++) {
            const float *row = wanted + k * WIDTH;
            assert_memory_equal(row, embedded + rows[k] * WIDTH, WIDTH * sizeof(float));
            for (int32_t c = 0; c < WIDTH; c++) {
                assert_true(row[c] <= row[best[k]]);
                if (c < best[k]) assert_true(row[c] < row[best[k]]);
            }
        }
        rig_close(&r);
    }
}

/* --- Products: how the step list puts together prologue, weights of several types, and epilogue.
 */

static void check_matmul(sobre_cpu_isa isa, bool exact, bool glu, int32_t n_cols)
{
    enum { K = 96, ROWS = 40, MAX_COLS = 40 };
    rig r;
    rig_open(&r, isa, 3, MAX_COLS, R);
    r.exact = exact;
    static float w[2][ROWS * K], bias[2][ROWS], norm_w[K];
    static double reference[2][MAX_COLS * ROWS];
    sobre_node node = rig_node(SOBRE_OP_MATMUL);
    node.p.matmul =
        (sobre_matmul_params){2, {SOBRE_NORM_RMS, 1e-5f}, glu ? SOBRE_ACT_SILU : SOBRE_ACT_NONE};
    node.n_out = glu ? 1 : 2;
    rig_fill(norm_w, K, 8);
    node.in[SOBRE_MATMUL_X] = rig_input(&r, SOBRE_DIM_T, K);
    node.in[SOBRE_MATMUL_NORM_W] = rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, K, norm_w);
    static const sobre_dtype types[2] = {SOBRE_Q8_0, SOBRE_F16}; /* two kinds of activations */
    for (int i = 0; i < 2; i++) {
        rig_fill(w[i], ROWS * K, 10 + (uint32_t)i);
        rig_fill(bias[i], ROWS, 20 + (uint32_t)i);
        node.in[SOBRE_MATMUL_W0 + 2 * i] =
            rig_weight(&r, types[i], SOBRE_WEIGHT_MATMUL, ROWS, K, w[i]);
        node.in[SOBRE_MATMUL_B0 + 2 * i] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, ROWS, bias[i]);
        if (i < node.n_out) node.out[i] = rig_input(&r, SOBRE_DIM_T, ROWS);
    }
    if (glu) node.in[SOBRE_MATMUL_RESIDUAL] = rig_input(&r, SOBRE_DIM_T, ROWS);
    rig_add(&r, &node);
    rig_compile(&r);
    float *x = rig_data(&r, node.in[SOBRE_MATMUL_X]), *residual = NULL;
    rig_fill(x, n_cols * K, 30);
    if (glu) {
        residual = rig_data(&r, node.in[SOBRE_MATMUL_RESIDUAL]);
        rig_fill(residual, n_cols * ROWS, 31);
    }
    for (int32_t t = 0; t < n_cols; t++) {
        double y[K];
        reference_norm(node.p.matmul.norm, x + t * K, norm_w, NULL, K, y);
        for (int32_t o = 0; o < ROWS; o++) {
            double sum[2] = {bias[0][o], bias[1][o]};
            for (int i = 0; i < 2; i++)
                for (int32_t k = 0; k < K; k++) sum[i] += w[i][o * K + k] * y[k];
            reference[0][t * ROWS + o] =
                glu ? activate(SOBRE_ACT_SILU, sum[0]) * sum[1] + residual[t * ROWS + o] : sum[0];
            reference[1][t * ROWS + o] = sum[1];
        }
    }
    rig_run(&r, n_cols, R, NULL, 0);
    for (int i = 0; i < node.n_out; i++)
        rig_close_to(rig_data(&r, node.out[i]), reference[i], n_cols * ROWS, exact ? 3e-6 : 1e-2);
    rig_close(&r);
}

static void products(void **state)
{
    static const int32_t n_cols[] = {1, 3, 40};
    sobre_cpu_isa isa = rig_isa(state);
    for (int flags = 0; flags < 4; flags++)
        for (size_t c = 0; c < sizeof n_cols / sizeof n_cols[0]; c++)
            check_matmul(isa, flags & 1, flags & 2, n_cols[c]);
}

/* --- The table's other slots */

typedef struct countdown {
    int left;
    int n_asked;
} countdown;

static int cancel_after(const void *user)
{
    countdown *c = (countdown *)(uintptr_t)user;
    c->n_asked++;
    return c->left-- <= 0;
}

/* Asked before the first step and at each new layer; later layers are then not run. */
static void runs_can_be_cancelled(void **state)
{
    enum { N_LAYERS = 6 };
    static const int32_t widths[] = {8, 4000};
    for (int after = 0; after <= N_LAYERS; after++) {
        int32_t width = widths[after % 2];
        rig r;
        rig_open(&r, SOBRE_CPU_SCALAR, 3, T, R);
        int32_t x = rig_input(&r, SOBRE_DIM_T, width), out[N_LAYERS];
        rig_fill(rig_data(&r, x), T * width, 1);
        for (int i = 0; i < N_LAYERS; i++) {
            sobre_node node = rig_node(SOBRE_OP_SCALE);
            node.layer = i;
            node.p.factor = 1.5f;
            node.in[0] = i > 0 ? out[i - 1] : x;
            node.out[0] = out[i] = rig_input(&r, SOBRE_DIM_T, width);
            rig_add(&r, &node);
        }
        rig_compile(&r);
        countdown c = {after, 0};
        sobre_run run = {.struct_size = sizeof run,
                         .n_cols = T,
                         .n_rows = R,
                         .cancelled = cancel_after,
                         .cancelled_user = &c};
        sobre_status status = r.b->run(r.exec, &run);
        assert_int_equal(status, after < N_LAYERS ? SOBRE_CANCELLED : SOBRE_OK);
        for (int i = 0; i < N_LAYERS; i++)
            assert_int_equal(isfinite(*(float *)rig_data(&r, out[i])) != 0, i < after);
        assert_int_equal(c.n_asked, after < N_LAYERS ? after + 1 : N_LAYERS);
        rig_run(&r, T, R, NULL, 0); /* and the next run works */
        assert_true(isfinite(*(float *)rig_data(&r, out[N_LAYERS - 1])));
        rig_close(&r);
    }
}

static void buffers(void **state)
{
    rig r;
    rig_open(&r, SOBRE_CPU_BEST, 1, T, R);
    sobre_device *d = r.entry->device;
    assert_int_equal(r.b->alignment(d), 64);
    sobre_buffer *b = NULL, *imported = NULL;
    assert_ok(r.ctx, r.b->buffer_alloc(d, 1000, SOBRE_BUFFER_KV, &b));
    char text[] = "a few bytes", back[sizeof text];
    assert_ok(r.ctx, r.b->write(b, 64, text, sizeof text));
    assert_ok(r.ctx, r.b->copy(b, 256, b, 64, sizeof text));
    assert_ok(r.ctx, r.b->read(b, 256, back, sizeof back));
    assert_string_equal(back, text);
    uint8_t *host = r.b->host_pointer(b);
    assert_int_equal((uintptr_t)host % 64, 0);
    assert_ok(r.ctx, r.b->buffer_import(d, 0, host, 500, &imported));
    assert_ptr_equal(r.b->host_pointer(imported), host);
    r.b->buffer_free(imported);
    assert_int_equal(r.b->buffer_import(d, 0, host + 1, 9, &imported), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(r.b->buffer_import(d, 5, host, 9, &imported), SOBRE_INVALID_ARGUMENT);
    r.b->buffer_free(b);
    r.b->buffer_free(NULL);
    r.b->exec_free(NULL);
    uint64_t total = 0, left = 0;
    r.b->mem_info(d, &total, &left);
    assert_true(left <= total);
    rig_close(&r);
}

static void device_is_described(void **state)
{
    sobre_context *ctx;
    const sobre_device_info *info;
    int32_t n = 0, number = 0;
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = 2), &ctx), SOBRE_OK);
    assert_int_equal(sobre_device_count(ctx, "cpu", &n), SOBRE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(sobre_device_get(ctx, "cpu", 0, &number, &info), SOBRE_OK);
    assert_int_equal(number, 1);
    assert_int_equal(info->kind, SOBRE_DEVICE_CPU);
    assert_true(strlen(info->name) > 0 && info->n_units >= 1);
    assert_non_null(strstr(info->detail, "2 threads"));
    assert_null(info->reason);
    sobre_context_close(ctx);
}

static void bad_weights_are_refused(void **state)
{
    rig r;
    rig_open(&r, SOBRE_CPU_BEST, 1, T, R);
    float x[3] = {1.0f, INFINITY, 2.0f};
    sobre_weight w = {"blk.0.attn_norm.weight", SOBRE_F32, SOBRE_WEIGHT_VECTOR, 1, 3};
    sobre_span span = {r.arena, 0, sizeof x};
    assert_int_equal(r.b->weight_pack(r.entry->device, &w, &span, 0, 1, x), SOBRE_BAD_FORMAT);
    assert_non_null(strstr(sobre_error(r.ctx), "blk.0.attn_norm.weight"));
    sobre_kv_desc desc = {(sobre_kv_type)9, 1, 64, 64};
    uint64_t size = 0;
    assert_int_equal(r.b->kv_page_size(r.entry->device, &desc, &size), SOBRE_UNSUPPORTED);
    rig_close(&r);
}

static void unsupported_nodes_are_declined(void **state)
{
    rig r;
    rig_open(&r, SOBRE_CPU_BEST, 1, T, R);
    sobre_node node = rig_node(SOBRE_OP_ATTENTION);
    node.p.attention = (sobre_attention_params){.n_head = 1, .n_head_kv = 1, .append = 1, .kv = 0};
    assert_true(r.b->supports(r.entry->device, r.values, &node));
    node.in[SOBRE_ATTN_BIAS] = rig_input(&r, SOBRE_DIM_T, 4);
    assert_false(r.b->supports(r.entry->device, r.values, &node));
    node = rig_node(SOBRE_OP_EMBED);
    node.in[SOBRE_EMBED_TABLE] = rig_input(&r, SOBRE_DIM_T, 4);
    assert_false(r.b->supports(r.entry->device, r.values, &node));
    node = rig_node(SOBRE_N_OPS);
    assert_false(r.b->supports(r.entry->device, r.values, &node));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TESTS(elementwise_operations),
        RIG_TESTS(norms),
        RIG_TESTS(ropes),
        RIG_TESTS(rows_by_index),
        RIG_TESTS(products),
        cmocka_unit_test(runs_can_be_cancelled),
        cmocka_unit_test(buffers),
        cmocka_unit_test(device_is_described),
        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(unsupported_nodes_are_declined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
