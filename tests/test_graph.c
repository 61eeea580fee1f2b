/* SPDX-License-Identifier: MIT */
/* Building graphs, lowering and fusing them. */
#include <math.h>

#include "fake_device.h"

static int open_context(void **state)
{
    sobre_context *ctx;
    if (sobre_context_open(NULL, &ctx) < 0) return -1;
    *state = ctx;
    return 0;
}

static int close_context(void **state)
{
    sobre_context_close(*state);
    return 0;
}

static int32_t count_op(const sobre_graph *g, sobre_op op)
{
    int32_t n = 0;
    for (int32_t i = 0; i < g->n_nodes; i++) n += g->nodes[i].op == op;
    return n;
}

static void fuse(sobre_graph *g, const fakes *f)
{
    assert_int_equal(graph_lower(g, &f->set), SOBRE_OK);
    assert_int_equal(graph_fuse(g, &f->set), SOBRE_OK);
    assert_valid(g->ctx, g);
}

/* --- Builder */

static void test_builder(void **state)
{
    sobre_graph *g = test_llama(*state, 2, TIED);
    int32_t n = 0;
    assert_valid(*state, g);
    sobre_graph_nodes(g, &n);
    assert_int_equal(n, 2 * 15 + 4);
    /* One value for a weight that is asked for twice, one for each input. */
    int32_t n_named = 0, n_inputs = 0;
    const sobre_value *values = sobre_graph_values(g, &n);
    for (int32_t i = 0; i < n; i++) {
        n_named += !strcmp(values[i].name, "token_embd");
        n_inputs += values[i].kind == SOBRE_VALUE_INPUT;
    }
    assert_int_equal(n_named, 1);
    assert_int_equal(n_inputs, 3);
    assert_string_equal(sobre_op_name(SOBRE_OP_MATMUL), "matmul");
    assert_string_equal(sobre_op_name(SOBRE_N_OPS), "?");
    assert_int_equal(g->nodes[1].layer, 0);
    assert_int_equal(g->nodes[g->n_nodes - 1].layer, -1);
    sobre_graph_close(g);
    sobre_graph_close(NULL);
}

static void test_clone(void **state)
{
    sobre_graph *g = test_llama(*state, 1, 0), *copy = NULL;
    assert_int_equal(graph_clone(g, &copy), SOBRE_OK);
    int32_t n_nodes = g->n_nodes, n_values = g->n_values;
    assert_int_equal(copy->n_nodes, n_nodes);
    sobre_graph_close(g);
    assert_valid(*state, copy);
    assert_true(test_weight(copy, "new", -1, 3, 0) == n_values);
    sobre_graph_close(copy);
}

/* The first failure stays, with its message, and everything after it passes it on. */
static void test_sticky(void **state)
{
    sobre_graph *g = NULL;
    assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
    int32_t ids = sobre_graph_input(g, SOBRE_INPUT_IDS, 0);
    int32_t x = NODE(g, EMBED, .p.factor = 1, ids, test_weight(g, "table", -1, N_VOCAB, N_EMBD));
    sobre_graph_layer(g, 7);
    assert_int_equal(test_matmul(g, x, "ffn_up", 7, 8, N_EMBD + 1), -1);
    assert_int_equal(test_norm(g, x, "norm", -1, N_EMBD), -1);
    assert_int_equal(sobre_graph_input(g, SOBRE_INPUT_POS, 0), -1);
    sobre_graph_output(g, x, "x");
    fail(*state, SOBRE_IO, "something else");
    assert_int_equal(sobre_graph_check(g), SOBRE_INVALID_ARGUMENT);
    assert_non_null(strstr(sobre_error(*state), "matmul in layer 7"));
    assert_non_null(strstr(sobre_error(*state), "'blk.7.ffn_up' is F32 [8, 17]"));
    assert_non_null(strstr(sobre_error(*state), "[n, 16]"));
    sobre_graph *copy = NULL;
    assert_int_equal(graph_clone(g, &copy), SOBRE_INVALID_ARGUMENT);
    assert_null(copy);
    sobre_graph_close(g);
}

/* Nodes that are wrong, each in a fresh graph with x [T, 16], ids, pos [T] and a weight [16]. */
typedef struct bad_case {
    sobre_node node;
    const char *message;
} bad_case;

enum { IDS, POS, TABLE, X, VEC, MAT };

static void test_bad_nodes(void **state)
{
    const sobre_norm_params rms = {SOBRE_NORM_RMS, 1e-5f};
    const sobre_rope_params rope = {SOBRE_ROPE_PAIRS, 4, 10000, 1};
    const sobre_attention_params attn = {
        .n_head = 4, .n_head_kv = 4, .head_dim = 4, .head_dim_v = 4, .scale = 1, .append = 1};
    sobre_attention_params uneven = attn, no_scale = attn, roped = attn;
    sobre_rope_params odd = rope, no_base = rope;
    uneven.n_head_kv = 3;
    no_scale.scale = NAN;
    roped.rope = rope;
    odd.n_dims = 3;
    no_base.base = 0;
    const bad_case cases[] = {
        {{.op = SOBRE_N_OPS}, "known op"},
        {{.op = SOBRE_OP_NORM, .n_in = 99}, "0 to 16 inputs"},
        {{.op = SOBRE_OP_NORM, .n_in = 1, .in = {99}}, "value 99"},
        {{.op = SOBRE_OP_NORM, .n_in = 1, .in = {-5}}, "value -5"},
        {{.op = SOBRE_OP_NORM, .n_in = 0, .p.norm = rms}, "'x' is missing"},
        {{.op = SOBRE_OP_NORM, .n_in = 2, .in = {X, VEC}}, "kind of norm"},
        {{.op = SOBRE_OP_NORM, .n_in = 2, .in = {X, MAT}, .p.norm = rms},
         "a weight of floats [16]"},
        {{.op = SOBRE_OP_NORM, .n_in = 4, .in = {X, VEC, VEC, VEC}, .p.norm = rms}, "too many"},
        {{.op = SOBRE_OP_NORM, .n_in = 1, .in = {IDS}, .p.norm = rms}, "an f32 activation"},
        {{.op = SOBRE_OP_EMBED, .n_in = 2, .in = {X, TABLE}, .p.factor = 1}, "i32"},
        {{.op = SOBRE_OP_EMBED, .n_in = 2, .in = {IDS, X}, .p.factor = 1}, "a weight"},
        {{.op = SOBRE_OP_EMBED, .n_in = 2, .in = {IDS, TABLE}, .p.factor = INFINITY}, "factor"},
        {{.op = SOBRE_OP_GATHER, .n_in = 1, .in = {X}}, "'rows' is missing"},
        {{.op = SOBRE_OP_MATMUL, .n_in = 5, .in = {X, -1, -1, -1, MAT}}, "n_weights"},
        {{.op = SOBRE_OP_MATMUL, .n_in = 5, .in = {X, VEC, -1, -1, MAT}, .p.matmul.n_weights = 1},
         "without a norm"},
        {{.op = SOBRE_OP_MATMUL, .n_in = 5, .in = {X, -1, -1, X, VEC}, .p.matmul.n_weights = 1},
         "a weight [n, 16]"},
        {{.op = SOBRE_OP_MATMUL,
          .n_in = 7,
          .in = {X, -1, -1, X, MAT, -1, MAT},
          .p.matmul.n_weights = 2},
         "exactly one output"},
        {{.op = SOBRE_OP_MATMUL,
          .n_in = 7,
          .in = {X, -1, -1, -1, MAT, -1, MAT},
          .p.matmul.n_weights = 1},
         "more weights"},
        {{.op = SOBRE_OP_MATMUL,
          .n_in = 5,
          .in = {X, -1, -1, -1, MAT},
          .p.matmul = {1, {SOBRE_NORM_NONE, 0}, SOBRE_ACT_SILU}},
         "exactly two weights"},
        {{.op = SOBRE_OP_MATMUL,
          .n_in = 7,
          .in = {X, -1, -1, -1, MAT, -1, TABLE},
          .p.matmul = {2, {SOBRE_NORM_NONE, 0}, SOBRE_ACT_SILU}},
         "as tall as w0"},
        {{.op = SOBRE_OP_ROPE, .n_in = 2, .in = {X, POS}, .p.rope = {rope, 3, 4}}, "n_head"},
        {{.op = SOBRE_OP_ROPE, .n_in = 2, .in = {X, POS}, .p.rope = {odd, 4, 4}}, "even"},
        {{.op = SOBRE_OP_ROPE, .n_in = 2, .in = {X, POS}, .p.rope = {no_base, 4, 4}}, "base"},
        {{.op = SOBRE_OP_ROPE, .n_in = 1, .in = {X}, .p.rope = {rope, 4, 4}}, "'pos' is missing"},
        {{.op = SOBRE_OP_ROPE, .n_in = 3, .in = {X, POS, VEC}, .p.rope = {rope, 4, 4}}, "[2]"},
        {{.op = SOBRE_OP_ATTENTION, .n_in = 3, .in = {X, X, X}, .p.attention = uneven}, "multiple"},
        {{.op = SOBRE_OP_ATTENTION, .n_in = 3, .in = {X, X, X}, .p.attention = no_scale}, "scale"},
        {{.op = SOBRE_OP_ATTENTION, .n_in = 2, .in = {X, X}, .p.attention = attn}, "together"},
        {{.op = SOBRE_OP_ATTENTION, .n_in = 1, .in = {X}, .p.attention = attn}, "to append"},
        {{.op = SOBRE_OP_ATTENTION, .n_in = 3, .in = {X, X, X}, .p.attention = roped}, "'pos'"},
        {{.op = SOBRE_OP_GLU, .n_in = 2, .in = {X, X}}, "activation"},
        {{.op = SOBRE_OP_GLU, .n_in = 1, .in = {X}, .p.act = SOBRE_ACT_SILU}, "'up' is missing"},
        {{.op = SOBRE_OP_ACTIVATION, .n_in = 1, .in = {X}, .p.act = 99}, "activation"},
        {{.op = SOBRE_OP_ADD, .n_in = 2, .in = {VEC, X}}, "an f32 activation"},
        {{.op = SOBRE_OP_MUL, .n_in = 2, .in = {X, MAT}}, "floats [16]"},
        {{.op = SOBRE_OP_SCALE, .n_in = 1, .in = {X}, .p.factor = NAN}, "finite"},
        {{.op = SOBRE_OP_SOFTCAP, .n_in = 1, .in = {X}, .p.factor = 0}, "above 0"},
        {{.op = SOBRE_OP_ARGMAX, .n_in = 1, .in = {POS}}, "an f32 activation"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sobre_graph *g = NULL;
        assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
        sobre_graph_input(g, SOBRE_INPUT_IDS, 0);
        sobre_graph_input(g, SOBRE_INPUT_POS, 0);
        test_weight(g, "table", -1, N_VOCAB, N_EMBD);
        NODE(g, EMBED, .p.factor = 1, IDS, TABLE);
        test_weight(g, "vector", -1, N_EMBD, 0);
        test_weight(g, "matrix", -1, N_EMBD, N_EMBD);
        assert_int_equal(sobre_graph_check(g), SOBRE_OK);
        assert_int_equal(sobre_graph_node(g, &cases[i].node, NULL), -1);
        assert_int_equal(sobre_graph_check(g), SOBRE_INVALID_ARGUMENT);
        if (!strstr(sobre_error(*state), cases[i].message))
            fail_msg("case %d: \"%s\" lacks \"%s\"", (int)i, sobre_error(*state), cases[i].message);
        sobre_graph_close(g);
    }
}

static void test_bad_values(void **state)
{
    const struct {
        sobre_dtype dtype;
        int32_t rank;
        int64_t dims[4];
        const char *message;
    } cases[] = {
        {SOBRE_F32, 0, {1}, "1 to 4 dims"},
        {SOBRE_F32, 5, {1, 1, 1, 1}, "1 to 4 dims"},
        {SOBRE_F32, 2, {4, 0}, "not above 0"},
        {SOBRE_F32, 2, {SOBRE_DIM_T, 4}, "not above 0"},
        {(sobre_dtype)4, 1, {32}, "unknown type"},
        {SOBRE_Q4_0, 2, {4, 33}, "whole number of blocks"},
        {SOBRE_F32, 3, {INT64_MAX / 4, 4, 4}, "larger than"},
        {SOBRE_F32, 2, {INT64_MAX / 64, 4}, "larger than"},
        {SOBRE_F16, 2, {4, 8}, "another type or shape"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sobre_graph *g = NULL;
        assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
        test_weight(g, "w", -1, 4, 8);
        assert_int_equal(
            sobre_graph_weight(g, "w", cases[i].dtype, cases[i].rank, cases[i].dims, -1), -1);
        assert_int_equal(sobre_graph_check(g), SOBRE_INVALID_ARGUMENT);
        if (!strstr(sobre_error(*state), cases[i].message))
            fail_msg("case %d: \"%s\" lacks \"%s\"", (int)i, sobre_error(*state), cases[i].message);
        sobre_graph_close(g);
    }
    sobre_graph *g = NULL;
    assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
    assert_int_equal(sobre_graph_input(g, SOBRE_INPUT_EMBD, 0), -1);
    sobre_graph_close(g);
    assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
    sobre_graph_output(g, sobre_graph_input(g, SOBRE_INPUT_IDS, 0), "ids");
    assert_int_equal(sobre_graph_check(g), SOBRE_INVALID_ARGUMENT);
    sobre_graph_close(g);
}

/* Flops and bytes of one product and one attention, by hand. */
static void test_counts(void **state)
{
    sobre_graph *g = test_llama(*state, 1, 0);
    const sobre_node *q = &g->nodes[2], *attention = &g->nodes[7];
    assert_int_equal(q->op, SOBRE_OP_MATMUL);
    assert_int_equal(attention->op, SOBRE_OP_ATTENTION);
    assert_true(op_get(q->op)->flops(g->values, q, 3, 1, 0) == 2.0 * 3 * N_EMBD * N_EMBD);
    assert_int_equal(op_bytes(g->values, q, 3, 1, 0), 4 * (3 * 16 + 16 * 16 + 3 * 16));
    double f10 = op_get(SOBRE_OP_ATTENTION)->flops(g->values, attention, 1, 1, 10);
    double f20 = op_get(SOBRE_OP_ATTENTION)->flops(g->values, attention, 1, 1, 20);
    assert_true(f20 == 2 * f10 && f10 >= 2.0 * 10 * N_HEAD * 2 * HEAD_DIM);
    for (int32_t i = 0; i < g->n_nodes; i++) {
        assert_true(op_get(g->nodes[i].op)->flops(g->values, &g->nodes[i], 5, 1, 9) >= 0);
        assert_true(op_bytes(g->values, &g->nodes[i], 5, 1, 9) > 0);
    }
    /* A table is read by rows. */
    assert_int_equal(op_bytes(g->values, &g->nodes[0], 2, 1, 0), 2 * 4 + 2 * 16 * 4 + 2 * 16 * 4);
    sobre_graph_close(g);
}

/* --- Fusion */

static void assert_llama_layer(const sobre_graph *g, const sobre_node *n, int32_t layer)
{
    const sobre_op ops[] = {SOBRE_OP_MATMUL, SOBRE_OP_ATTENTION, SOBRE_OP_MATMUL, SOBRE_OP_MATMUL,
                            SOBRE_OP_MATMUL};
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(n[i].op, ops[i]);
        assert_int_equal(n[i].layer, layer);
    }
    assert_int_equal(n[0].p.matmul.norm.kind, SOBRE_NORM_RMS);
    assert_int_equal(n[0].p.matmul.n_weights, 3);
    const char *const names[] = {"attn_q", "attn_k", "attn_v"};
    for (int32_t i = 0; i < 3; i++) {
        assert_non_null(strstr(g->values[n[0].in[SOBRE_MATMUL_W0 + 2 * i]].name, names[i]));
        assert_int_equal(n[1].in[SOBRE_ATTN_Q + i], n[0].out[i]);
    }
    assert_int_equal(n[1].p.attention.rope.kind, SOBRE_ROPE_HALVES);
    assert_int_equal(n[2].in[SOBRE_MATMUL_X], n[1].out[0]);
    assert_int_equal(n[2].in[SOBRE_MATMUL_RESIDUAL], n[0].in[SOBRE_MATMUL_X]);
    assert_int_equal(n[3].p.matmul.norm.kind, SOBRE_NORM_RMS);
    assert_int_equal(n[3].p.matmul.glu, SOBRE_ACT_SILU);
    assert_int_equal(n[3].in[SOBRE_MATMUL_X], n[2].out[0]);
    assert_non_null(strstr(g->values[n[3].in[SOBRE_MATMUL_W0]].name, "ffn_gate"));
    assert_int_equal(n[4].in[SOBRE_MATMUL_X], n[3].out[0]);
    assert_int_equal(n[4].in[SOBRE_MATMUL_RESIDUAL], n[2].out[0]);
}

static void test_fuse_llama(void **state)
{
    for (unsigned with = 0; with < 4; with++) {
        sobre_graph *g = test_llama(*state, 3, with);
        fakes f;
        fakes_init(&f, *state, 1);
        fuse(g, &f);
        assert_int_equal(g->n_nodes, 3 * 5 + 3);
        assert_int_equal(g->nodes[0].op, SOBRE_OP_EMBED);
        for (int32_t i = 0; i < 3; i++) {
            const sobre_node *layer = &g->nodes[1 + 5 * i];
            assert_llama_layer(g, layer, i);
            assert_int_equal(layer[0].in[SOBRE_MATMUL_B0] >= 0, (with & WITH_BIAS) != 0);
            assert_int_equal(layer[0].in[SOBRE_MATMUL_B0 + 4] >= 0, (with & WITH_BIAS) != 0);
            assert_int_equal(layer[1].in[SOBRE_ATTN_Q_NORM] >= 0, (with & WITH_QK_NORM) != 0);
            assert_int_equal(layer[1].in[SOBRE_ATTN_K_NORM] >= 0, (with & WITH_QK_NORM) != 0);
        }
        assert_int_equal(g->nodes[16].op, SOBRE_OP_GATHER);
        assert_int_equal(g->nodes[17].p.matmul.norm.kind, SOBRE_NORM_RMS);
        assert_string_equal(g->values[g->nodes[17].out[0]].name, "logits");
        assert_int_equal(g->values[g->nodes[17].out[0]].kind, SOBRE_VALUE_OUTPUT);
        sobre_graph_close(g);
    }
}

/* What a device does not support stays apart. */
static void test_fuse_refused(void **state)
{
    const struct {
        unsigned lacks;
        int32_t n_nodes; /* a layer with biases and norms of q and k */
    } cases[] = {
        {LACKS_FUSION, 20},  {LACKS_NORM, 7},
        {LACKS_GLU, 6},                       /* gate and up are siblings */
        {LACKS_RESIDUAL, 7},                  /* two adds */
        {LACKS_BIAS, 8},                      /* three adds */
        {LACKS_SIBLINGS, 7}, {LACKS_ROPE, 7}, /* and the norms stay in front of the ropes */
        {LACKS_QK_NORM, 7},  {LACKS_GLU | LACKS_SIBLINGS, 9},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sobre_graph *g = test_llama(*state, 1, WITH_BIAS | WITH_QK_NORM);
        fakes f;
        fakes_init(&f, *state, 1);
        f.devices[0].lacks = cases[i].lacks;
        fuse(g, &f);
        int32_t around = cases[i].lacks & LACKS_NORM ? 4 : 3;
        int32_t extra = cases[i].lacks == LACKS_ROPE ? 2 : 0;
        if (g->n_nodes != cases[i].n_nodes + around + extra)
            fail_msg("case %d: %d nodes", (int)i, (int)g->n_nodes);
        sobre_graph_close(g);
    }
}

/* Fusion never takes a node away from a device that comes first, but may bring one there. */
static void test_fuse_devices(void **state)
{
    fakes f;
    fakes_init(&f, *state, 2);
    f.devices[0].lacks = LACKS_FUSION;
    sobre_graph *g = test_llama(*state, 2, 0);
    fuse(g, &f);
    assert_int_equal(g->n_nodes, 2 * 15 + 4);
    sobre_graph_close(g);

    /* RoPE alone runs on the second device only, but as a prologue on the first. */
    fakes_init(&f, *state, 2);
    f.devices[0].missing_ops = 1u << SOBRE_OP_ROPE;
    g = test_llama(*state, 2, 0);
    fuse(g, &f);
    assert_int_equal(count_op(g, SOBRE_OP_ROPE), 0);
    assert_int_equal(g->n_nodes, 2 * 5 + 3);
    sobre_graph_close(g);
}

/* A value that is read elsewhere, or is an output, cannot vanish in a fusion. */
static void test_fuse_keeps(void **state)
{
    fakes f;
    fakes_init(&f, *state, 1);
    sobre_graph *g = NULL;
    assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
    int32_t ids = sobre_graph_input(g, SOBRE_INPUT_IDS, 0);
    int32_t x = NODE(g, EMBED, .p.factor = 1, ids, test_weight(g, "table", -1, N_VOCAB, N_EMBD));
    int32_t h = test_norm(g, x, "norm", -1, N_EMBD);
    int32_t a = test_matmul(g, h, "a", -1, N_EMBD, N_EMBD);
    int32_t y = add_node(g, (sobre_node){.op = SOBRE_OP_ADD}, (int32_t[]){a, x, -2});
    int32_t z = add_node(g, (sobre_node){.op = SOBRE_OP_ADD}, (int32_t[]){y, h, -2});
    sobre_graph_output(g, a, "a");
    sobre_graph_output(g, z, "z");
    fuse(g, &f);
    assert_int_equal(g->n_nodes, 5); /* h is read by an add too, a is an output */
    sobre_graph_close(g);
}

/* A residual that is made after the product: the product waits for it. */
static void test_fuse_residual_order(void **state)
{
    fakes f;
    fakes_init(&f, *state, 1);
    sobre_graph *g = NULL;
    assert_int_equal(sobre_graph_open(*state, &g), SOBRE_OK);
    int32_t ids = sobre_graph_input(g, SOBRE_INPUT_IDS, 0);
    int32_t x = NODE(g, EMBED, .p.factor = 1, ids, test_weight(g, "table", -1, N_VOCAB, N_EMBD));
    int32_t a = test_matmul(g, x, "a", -1, N_EMBD, N_EMBD);
    int32_t b = NODE(g, SCALE, .p.factor = 2, x);
    sobre_graph_output(g, add_node(g, (sobre_node){.op = SOBRE_OP_ADD}, (int32_t[]){a, b, -2}),
                       "y");
    fuse(g, &f);
    assert_int_equal(g->n_nodes, 3);
    assert_int_equal(g->nodes[2].op, SOBRE_OP_MATMUL);
    assert_int_equal(g->nodes[2].in[SOBRE_MATMUL_RESIDUAL], b);
    sobre_graph_close(g);
}

/* --- Lowering */

static void test_lower(void **state)
{
    fakes f;
    for (unsigned with = 0; with < 4; with++) {
        /* Fused as far as it goes, then lowered for a device that can nothing of it. */
        sobre_graph *g = test_llama(*state, 2, with);
        int32_t n_nodes = g->n_nodes;
        fakes_init(&f, *state, 1);
        fuse(g, &f);
        f.devices[0].lacks = LACKS_FUSION;
        assert_int_equal(graph_lower(g, &f.set), SOBRE_OK);
        assert_valid(*state, g);
        assert_int_equal(g->n_nodes, n_nodes);
        for (int32_t i = 0; i < g->n_nodes; i++)
            assert_true(devices_pick(&f.set, g->values, &g->nodes[i]) == 0);
        /* And back. */
        f.devices[0].lacks = 0;
        assert_int_equal(graph_fuse(g, &f.set), SOBRE_OK);
        assert_valid(*state, g);
        assert_int_equal(g->n_nodes, 2 * 5 + 3);
        sobre_graph_close(g);
    }
}

static void test_lower_ops(void **state)
{
    fakes f;
    fakes_init(&f, *state, 1);
    f.devices[0].lacks = LACKS_FUSION;
    f.devices[0].missing_ops = 1u << SOBRE_OP_GLU;
    sobre_graph *g = test_llama(*state, 1, 0);
    assert_int_equal(graph_lower(g, &f.set), SOBRE_OK);
    assert_valid(*state, g);
    assert_int_equal(count_op(g, SOBRE_OP_ACTIVATION), 1);
    assert_int_equal(count_op(g, SOBRE_OP_MUL), 1);
    sobre_graph_close(g);
}

static void test_lower_unsupported(void **state)
{
    fakes f;
    fakes_init(&f, *state, 2);
    f.devices[0].missing_ops = f.devices[1].missing_ops = 1u << SOBRE_OP_MATMUL;
    sobre_graph *g = test_llama(*state, 1, 0);
    assert_int_equal(graph_lower(g, &f.set), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(sobre_error(*state), "matmul in layer 0"));
    assert_non_null(strstr(sobre_error(*state), "'blk.0.attn_q', F32"));
    assert_non_null(strstr(sobre_error(*state), "fake, fake"));
    sobre_graph_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builder),
        cmocka_unit_test(test_clone),
        cmocka_unit_test(test_sticky),
        cmocka_unit_test(test_bad_nodes),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_fuse_llama),
        cmocka_unit_test(test_fuse_refused),
        cmocka_unit_test(test_fuse_devices),
        cmocka_unit_test(test_fuse_keeps),
        cmocka_unit_test(test_fuse_residual_order),
        cmocka_unit_test(test_lower),
        cmocka_unit_test(test_lower_ops),
        cmocka_unit_test(test_lower_unsupported),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
