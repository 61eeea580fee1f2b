/* SPDX-License-Identifier: MIT */
/* The table of operations: shape checks, flops and bytes. A new operation is a line in SOBRE_OPS
 * and its functions here. */
#include "ops.h"

#include <math.h>
#include <stdio.h>

#include "dtype.h"

/* One node under examination. The first thing that is wrong is reported; the rest is skipped. */
typedef struct check {
    sobre_context *ctx;
    const sobre_value *values;
    const sobre_node *node;
    sobre_status status;
} check;

const char *value_shape(const sobre_value *value, char *text, size_t size)
{
    char dims[SOBRE_MAX_RANK][24];
    for (int32_t i = 0; i < SOBRE_MAX_RANK; i++) {
        int64_t d = i < value->rank ? value->dims[i] : 0;
        if (i >= value->rank)
            dims[i][0] = 0;
        else if (d < 0)
            snprintf(dims[i], sizeof dims[i], "%s%s", i ? ", " : "", d == SOBRE_DIM_T ? "T" : "R");
        else
            snprintf(dims[i], sizeof dims[i], "%s%lld", i ? ", " : "", (long long)d);
    }
    snprintf(text, size, "[%s%s%s%s]", dims[0], dims[1], dims[2], dims[3]);
    return text;
}

/* Where a node stands: "matmul in layer 3". */
static const char *node_text(const sobre_node *node, char *text, size_t size)
{
    const char *name = op_get(node->op)->name;
    if (node->layer < 0)
        snprintf(text, size, "%s", name);
    else
        snprintf(text, size, "%s in layer %d", name, (int)node->layer);
    return text;
}

static bool param(check *c, bool good, const char *what)
{
    char at[48];
    if (c->status < 0) return false;
    if (!good)
        c->status = fail(c->ctx, SOBRE_INVALID_ARGUMENT, "graph: %s: %s",
                         node_text(c->node, at, sizeof at), what);
    return good;
}

/* The value in a slot; NULL if the slot is empty. */
static const sobre_value *optional(check *c, int32_t slot)
{
    int32_t v = slot < c->node->n_in ? c->node->in[slot] : -1;
    return v < 0 ? NULL : &c->values[v];
}

static const sobre_value *required(check *c, int32_t slot)
{
    const sobre_value *v = optional(c, slot);
    char at[48];
    if (c->status >= 0 && !v)
        c->status = fail(c->ctx, SOBRE_INVALID_ARGUMENT, "graph: %s: input '%s' is missing",
                         node_text(c->node, at, sizeof at), op_get(c->node->op)->in_names[slot]);
    return c->status < 0 ? NULL : v;
}

/* Reports the value in a slot unless it is `good`; `what` says what it should be. */
static bool expect(check *c, int32_t slot, bool good, const char *what, int64_t n)
{
    if (c->status < 0 || good) return good;
    const sobre_value *v = optional(c, slot);
    char at[48], is[96], must[96];
    snprintf(must, sizeof must, what, (long long)n);
    c->status = fail(c->ctx, SOBRE_INVALID_ARGUMENT, "graph: %s: %s '%s' is %s %s, must be %s",
                     node_text(c->node, at, sizeof at), op_get(c->node->op)->in_names[slot],
                     v->name, dtype_get(v->dtype)->name, value_shape(v, is, sizeof is), must);
    return false;
}

/* Rows of f32 that are computed or given: [T, C]. NULL if it is anything else. */
static const sobre_value *activation(check *c, int32_t slot)
{
    const sobre_value *v = required(c, slot);
    if (!v || !expect(c, slot,
                      v->kind != SOBRE_VALUE_WEIGHT && v->dtype == SOBRE_F32 && v->rank == 2 &&
                          v->dims[1] > 0,
                      "an f32 activation [rows, C]", 0))
        return NULL;
    return v;
}

/* A required activation with rows of n elements, as many as `like` has. */
static void activation_like(check *c, int32_t slot, const sobre_value *like, int64_t n)
{
    const sobre_value *v = activation(c, slot);
    if (!v || !like) return;
    expect(c, slot, v->dims[1] == n, "rows of %lld", n);
    expect(c, slot, v->dims[0] == like->dims[0], "as many rows as the first input", 0);
}

/* An optional vector of weights. */
static void vector(check *c, int32_t slot, int64_t n)
{
    const sobre_value *v = optional(c, slot);
    if (c->status >= 0 && v)
        expect(c, slot,
               v->kind == SOBRE_VALUE_WEIGHT && v->rank == 1 && v->dims[0] == n &&
                   dtype_get(v->dtype)->is_float,
               "a weight of floats [%lld]", n);
}

/* A required matrix of weights; n_in 0: any. */
static const sobre_value *matrix(check *c, int32_t slot, int64_t n_in)
{
    const sobre_value *v = required(c, slot);
    if (!v ||
        !expect(c, slot,
                v->kind == SOBRE_VALUE_WEIGHT && v->rank == 2 && (n_in == 0 || v->dims[1] == n_in),
                n_in ? "a weight [n, %lld]" : "a weight [n, C]", n_in))
        return NULL;
    return v;
}

/* i32, one for each row of `like`; NULL: any number. */
static const sobre_value *indices(check *c, int32_t slot, const sobre_value *like)
{
    const sobre_value *v = required(c, slot);
    if (!v || !expect(c, slot,
                      v->kind != SOBRE_VALUE_WEIGHT && v->dtype == SOBRE_I32 && v->rank == 1 &&
                          (!like || v->dims[0] == like->dims[0]),
                      "i32, one a row", 0))
        return NULL;
    return v;
}

static bool norm_ok(const sobre_norm_params *p)
{
    return (p->kind == SOBRE_NORM_RMS || p->kind == SOBRE_NORM_LAYER) && p->eps >= 0 &&
           isfinite(p->eps);
}

static bool act_ok(sobre_act act)
{
    return act >= SOBRE_ACT_SILU && act <= SOBRE_ACT_RELU;
}

static void rope_check(check *c, const sobre_rope_params *p, int32_t head_dim, int32_t factors)
{
    param(c, p->kind == SOBRE_ROPE_PAIRS || p->kind == SOBRE_ROPE_HALVES, "unknown kind of RoPE");
    param(c, p->n_dims > 0 && p->n_dims % 2 == 0 && p->n_dims <= head_dim,
          "RoPE's n_dims must be even, above 0 and at most head_dim");
    param(c, p->base > 0 && isfinite(p->base) && p->scale > 0 && isfinite(p->scale),
          "RoPE's base and scale must be positive numbers");
    vector(c, factors, p->n_dims / 2);
}

static void output(sobre_value *ret, int32_t *ret_n, sobre_dtype dtype, int32_t rank,
                   int64_t n_rows, int64_t n_cols)
{
    sobre_value *v = &ret[(*ret_n)++];
    *v = (sobre_value){.kind = SOBRE_VALUE_TEMP, .dtype = dtype, .rank = rank, .tensor = -1};
    v->dims[0] = n_rows;
    if (rank > 1) v->dims[1] = n_cols;
}

/* Outputs are written only if all is well. */
static sobre_status shape_run(void (*shape)(check *c, sobre_value *ret, int32_t *ret_n),
                              sobre_context *ctx, const sobre_value *values, const sobre_node *node,
                              sobre_value *ret, int32_t *ret_n)
{
    check c = {ctx, values, node, SOBRE_OK};
    sobre_value out[SOBRE_MAX_OUT];
    int32_t n_out = 0, n_slots = 0;
    while (op_get(node->op)->in_names[n_slots]) n_slots++;
    for (int32_t i = n_slots; i < node->n_in; i++) param(&c, node->in[i] < 0, "too many inputs");
    shape(&c, out, &n_out);
    if (c.status < 0) return c.status;
    for (int32_t i = 0; i < n_out; i++) ret[i] = out[i];
    *ret_n = n_out;
    return SOBRE_OK;
}

/* --- Shapes */

/* Defines shape_<id> as the table wants it, around the body that follows. */
#define SHAPE(id)                                                                            \
    static void check_##id(check *c, sobre_value *ret, int32_t *ret_n);                      \
    static sobre_status shape_##id(sobre_context *ctx, const sobre_value *values,            \
                                   const sobre_node *node, sobre_value *ret, int32_t *ret_n) \
    {                                                                                        \
        return shape_run(check_##id, ctx, values, node, ret, ret_n);                         \
    }                                                                                        \
    static void check_##id(check *c, sobre_value *ret, int32_t *ret_n)

SHAPE(EMBED)
{
    const sobre_value *ids = indices(c, SOBRE_EMBED_IDS, NULL);
    const sobre_value *table = matrix(c, SOBRE_EMBED_TABLE, 0);
    if (param(c, isfinite(c->node->p.factor), "the factor must be finite"))
        output(ret, ret_n, SOBRE_F32, 2, ids->dims[0], table->dims[1]);
}

SHAPE(GATHER)
{
    const sobre_value *x = activation(c, SOBRE_GATHER_X);
    const sobre_value *rows = indices(c, SOBRE_GATHER_ROWS, NULL);
    if (c->status >= 0) output(ret, ret_n, SOBRE_F32, 2, rows->dims[0], x->dims[1]);
}

SHAPE(NORM)
{
    const sobre_value *x = activation(c, SOBRE_NORM_X);
    if (!x) return;
    /* A weight shorter than the row normalises each group of its length, as per-head norms do. */
    const sobre_value *w = optional(c, SOBRE_NORM_W);
    int64_t n = w && w->rank == 1 && w->dims[0] > 0 && x->dims[1] % w->dims[0] == 0 ? w->dims[0]
                                                                                    : x->dims[1];
    param(c, norm_ok(&c->node->p.norm), "unknown kind of norm, or eps below 0");
    vector(c, SOBRE_NORM_W, n);
    vector(c, SOBRE_NORM_B, n);
    if (c->status >= 0) output(ret, ret_n, SOBRE_F32, 2, x->dims[0], x->dims[1]);
}

SHAPE(MATMUL)
{
    const sobre_matmul_params *p = &c->node->p.matmul;
    const sobre_value *x = activation(c, SOBRE_MATMUL_X);
    if (!x ||
        !param(c, p->n_weights >= 1 && p->n_weights <= SOBRE_MAX_OUT, "n_weights must be 1 to 4"))
        return;
    if (p->norm.kind != SOBRE_NORM_NONE)
        param(c, norm_ok(&p->norm), "unknown kind of norm, or eps below 0");
    else
        param(c, !optional(c, SOBRE_MATMUL_NORM_W) && !optional(c, SOBRE_MATMUL_NORM_B),
              "a norm's weight without a norm");
    vector(c, SOBRE_MATMUL_NORM_W, x->dims[1]);
    vector(c, SOBRE_MATMUL_NORM_B, x->dims[1]);
    bool glu = p->glu != SOBRE_ACT_NONE;
    param(c, !glu || (act_ok(p->glu) && p->n_weights == 2),
          "glu needs a known activation and exactly two weights");
    int64_t n_first = 0;
    for (int32_t i = 0; i < p->n_weights && c->status >= 0; i++) {
        const sobre_value *w = matrix(c, SOBRE_MATMUL_W0 + 2 * i, x->dims[1]);
        if (!w) return;
        vector(c, SOBRE_MATMUL_B0 + 2 * i, w->dims[0]);
        if (i == 0) n_first = w->dims[0];
        if (glu && i)
            expect(c, SOBRE_MATMUL_W0 + 2 * i, w->dims[0] == n_first, "as tall as w0: %lld rows",
                   n_first);
        else
            output(ret, ret_n, SOBRE_F32, 2, x->dims[0], w->dims[0]);
    }
    for (int32_t i = p->n_weights; i < SOBRE_MAX_OUT; i++)
        param(c, !optional(c, SOBRE_MATMUL_W0 + 2 * i) && !optional(c, SOBRE_MATMUL_B0 + 2 * i),
              "more weights are given than n_weights says");
    if (optional(c, SOBRE_MATMUL_RESIDUAL)) {
        param(c, *ret_n == 1, "a residual needs exactly one output");
        activation_like(c, SOBRE_MATMUL_RESIDUAL, x, n_first);
    }
}

SHAPE(ROPE)
{
    const sobre_rope_node_params *p = &c->node->p.rope;
    const sobre_value *x = activation(c, SOBRE_ROPE_X);
    if (!x || !param(c, p->n_head > 0 && p->head_dim > 0, "n_head and head_dim must be above 0"))
        return;
    expect(c, SOBRE_ROPE_X, x->dims[1] == (int64_t)p->n_head * p->head_dim,
           "rows of n_head * head_dim = %lld", (int64_t)p->n_head * p->head_dim);
    indices(c, SOBRE_ROPE_POS, x);
    rope_check(c, &p->rope, p->head_dim, SOBRE_ROPE_FACTORS);
    if (c->status >= 0) output(ret, ret_n, SOBRE_F32, 2, x->dims[0], x->dims[1]);
}

SHAPE(ATTENTION)
{
    const sobre_attention_params *p = &c->node->p.attention;
    const sobre_value *q = activation(c, SOBRE_ATTN_Q);
    if (!q || !param(c, p->n_head > 0 && p->n_head_kv > 0 && p->head_dim > 0 && p->head_dim_v > 0,
                     "n_head, n_head_kv, head_dim and head_dim_v must be above 0"))
        return;
    param(c, p->n_head % p->n_head_kv == 0, "n_head must be a multiple of n_head_kv");
    param(c, isfinite(p->scale) && p->scale != 0, "the scale must be finite and not 0");
    param(c,
          p->softcap >= 0 && isfinite(p->softcap) && p->max_alibi_bias >= 0 &&
              isfinite(p->max_alibi_bias),
          "softcap and max_alibi_bias must be finite and at least 0");
    param(c, p->window >= 0, "the window must be at least 0");
    expect(c, SOBRE_ATTN_Q, q->dims[1] == (int64_t)p->n_head * p->head_dim,
           "rows of n_head * head_dim = %lld", (int64_t)p->n_head * p->head_dim);
    bool has_k = optional(c, SOBRE_ATTN_K), has_v = optional(c, SOBRE_ATTN_V);
    param(c, has_k == has_v, "k and v come together");
    param(c, has_k || !p->append, "there is no k and v to append");
    param(c, p->kv >= 0 || (has_k && !p->append), "which cache to use is missing");
    if (has_k && has_v) {
        activation_like(c, SOBRE_ATTN_K, q, (int64_t)p->n_head_kv * p->head_dim);
        activation_like(c, SOBRE_ATTN_V, q, (int64_t)p->n_head_kv * p->head_dim_v);
    }
    if (optional(c, SOBRE_ATTN_POS) || p->rope.kind != SOBRE_ROPE_NONE)
        indices(c, SOBRE_ATTN_POS, q);
    if (p->rope.kind != SOBRE_ROPE_NONE)
        rope_check(c, &p->rope, p->head_dim, SOBRE_ATTN_FACTORS);
    else
        param(c, !optional(c, SOBRE_ATTN_FACTORS), "RoPE factors without RoPE");
    if (p->qk_norm.kind != SOBRE_NORM_NONE)
        param(c, norm_ok(&p->qk_norm), "unknown kind of norm, or eps below 0");
    else
        param(c, !optional(c, SOBRE_ATTN_Q_NORM) && !optional(c, SOBRE_ATTN_K_NORM),
              "a norm's weight without a norm");
    vector(c, SOBRE_ATTN_Q_NORM, p->head_dim);
    vector(c, SOBRE_ATTN_K_NORM, p->head_dim);
    vector(c, SOBRE_ATTN_SINKS, p->n_head);
    const sobre_value *bias = optional(c, SOBRE_ATTN_BIAS);
    if (c->status >= 0 && bias)
        expect(c, SOBRE_ATTN_BIAS, bias->rank >= 2 && bias->dims[0] == p->n_head,
               "[n_head = %lld, ...]", p->n_head);
    if (c->status >= 0)
        output(ret, ret_n, SOBRE_F32, 2, q->dims[0], (int64_t)p->n_head * p->head_dim_v);
}

SHAPE(GLU)
{
    const sobre_value *gate = activation(c, SOBRE_GLU_GATE);
    if (!gate) return;
    activation_like(c, SOBRE_GLU_UP, gate, gate->dims[1]);
    if (param(c, act_ok(c->node->p.act), "unknown activation"))
        output(ret, ret_n, SOBRE_F32, 2, gate->dims[0], gate->dims[1]);
}

SHAPE(ACTIVATION)
{
    const sobre_value *x = activation(c, SOBRE_UNARY_X);
    if (param(c, act_ok(c->node->p.act), "unknown activation"))
        output(ret, ret_n, SOBRE_F32, 2, x->dims[0], x->dims[1]);
}

static void binary_shape(check *c, sobre_value *ret, int32_t *ret_n)
{
    const sobre_value *a = activation(c, SOBRE_BINARY_A), *b = required(c, SOBRE_BINARY_B);
    if (!a || !b) return;
    if (b->kind == SOBRE_VALUE_WEIGHT)
        vector(c, SOBRE_BINARY_B, a->dims[1]);
    else
        activation_like(c, SOBRE_BINARY_B, a, a->dims[1]);
    if (c->status >= 0) output(ret, ret_n, SOBRE_F32, 2, a->dims[0], a->dims[1]);
}

SHAPE(ADD)
{
    binary_shape(c, ret, ret_n);
}

SHAPE(MUL)
{
    binary_shape(c, ret, ret_n);
}

SHAPE(SCALE)
{
    const sobre_value *x = activation(c, SOBRE_UNARY_X);
    if (param(c, isfinite(c->node->p.factor), "the factor must be finite"))
        output(ret, ret_n, SOBRE_F32, 2, x->dims[0], x->dims[1]);
}

SHAPE(SOFTCAP)
{
    const sobre_value *x = activation(c, SOBRE_UNARY_X);
    if (param(c, isfinite(c->node->p.factor) && c->node->p.factor > 0, "the cap must be above 0"))
        output(ret, ret_n, SOBRE_F32, 2, x->dims[0], x->dims[1]);
}

SHAPE(ARGMAX)
{
    const sobre_value *x = activation(c, SOBRE_UNARY_X);
    if (x) output(ret, ret_n, SOBRE_I32, 1, x->dims[0], 0);
}

SHAPE(SAMPLE)
{
    const sobre_value *x = activation(c, SOBRE_SAMPLE_LOGITS);
    const sobre_value *p = required(c, SOBRE_SAMPLE_PARAMS);
    if (x && p &&
        expect(c, SOBRE_SAMPLE_PARAMS,
               p->kind != SOBRE_VALUE_WEIGHT && p->dtype == SOBRE_I32 && p->rank == 2 &&
                   p->dims[0] == x->dims[0] && p->dims[1] == SOBRE_SAMPLE_PARAMS_SIZE,
               "i32, rows of %lld, as many as logits has", SOBRE_SAMPLE_PARAMS_SIZE))
        output(ret, ret_n, SOBRE_I32, 2, x->dims[0], SOBRE_SAMPLE_RESULT_SIZE);
}

/* --- Flops */

int64_t value_elements(const sobre_value *value, int64_t cols, int64_t rows)
{
    int64_t n = 1;
    for (int32_t i = 0; i < value->rank; i++) {
        int64_t d = value->dims[i];
        n *= d == SOBRE_DIM_T ? cols : d == SOBRE_DIM_R ? rows : d;
    }
    return n;
}

/* Operations for each element of the first output. */
enum {
    FLOPS_COPY = 0,
    FLOPS_ONE = 1,
    FLOPS_NORM = 4,
    FLOPS_ROPE = 3,
    FLOPS_CURVE = 8, /* exp, tanh, erf: as a handful of multiply-adds */
    FLOPS_GLU = FLOPS_CURVE + 1,
};

static double element_flops(const sobre_value *values, const sobre_node *node, int64_t cols,
                            int64_t rows, double each)
{
    return each * (double)value_elements(&values[node->out[0]], cols, rows);
}

#define FLOPS(id)                                                                             \
    static double flops_##id(const sobre_value *values, const sobre_node *node, int64_t cols, \
                             int64_t rows, int64_t kv_len)

#define ELEMENT_FLOPS(id, each)                                 \
    FLOPS(id)                                                   \
    {                                                           \
        return element_flops(values, node, cols, rows, (each)); \
    }

ELEMENT_FLOPS(EMBED, FLOPS_ONE)
ELEMENT_FLOPS(GATHER, FLOPS_COPY)
ELEMENT_FLOPS(NORM, FLOPS_NORM)
ELEMENT_FLOPS(ROPE, FLOPS_ROPE)
ELEMENT_FLOPS(GLU, FLOPS_GLU)
ELEMENT_FLOPS(ACTIVATION, FLOPS_CURVE)
ELEMENT_FLOPS(ADD, FLOPS_ONE)
ELEMENT_FLOPS(MUL, FLOPS_ONE)
ELEMENT_FLOPS(SCALE, FLOPS_ONE)
ELEMENT_FLOPS(SOFTCAP, FLOPS_CURVE)

FLOPS(ARGMAX)
{
    return (double)value_elements(&values[node->in[SOBRE_UNARY_X]], cols, rows);
}

FLOPS(SAMPLE)
{
    return FLOPS_CURVE * (double)value_elements(&values[node->in[SOBRE_SAMPLE_LOGITS]], cols, rows);
}

FLOPS(MATMUL)
{
    const sobre_matmul_params *p = &node->p.matmul;
    double n_x = (double)value_elements(&values[node->in[SOBRE_MATMUL_X]], cols, rows), flops = 0;
    for (int32_t i = 0; i < p->n_weights; i++)
        flops += 2 * n_x * (double)values[node->in[SOBRE_MATMUL_W0 + 2 * i]].dims[0];
    if (p->norm.kind != SOBRE_NORM_NONE) flops += FLOPS_NORM * n_x;
    if (p->glu != SOBRE_ACT_NONE) flops += element_flops(values, node, cols, rows, FLOPS_GLU);
    if (node->in[SOBRE_MATMUL_RESIDUAL] >= 0)
        flops += element_flops(values, node, cols, rows, FLOPS_ONE);
    return flops;
}

FLOPS(ATTENTION)
{
    const sobre_attention_params *p = &node->p.attention;
    int64_t seen = p->window > 0 && p->window < kv_len ? p->window : kv_len;
    double each = 2.0 * (p->head_dim + p->head_dim_v) + FLOPS_CURVE;
    double flops = each * (double)seen * (double)cols * p->n_head;
    double n_qk = (double)cols * (p->n_head + p->n_head_kv) * p->head_dim;
    if (p->rope.kind != SOBRE_ROPE_NONE) flops += FLOPS_ROPE * n_qk;
    if (p->qk_norm.kind != SOBRE_NORM_NONE) flops += FLOPS_NORM * n_qk;
    return flops;
}

/* --- The table */

static const char *const in_EMBED[] = {"ids", "table", NULL};
static const char *const in_GATHER[] = {"x", "rows", NULL};
static const char *const in_NORM[] = {"x", "w", "b", NULL};
static const char *const in_MATMUL[] = {"x",  "norm_w", "norm_b", "residual", "w0", "b0", "w1",
                                        "b1", "w2",     "b2",     "w3",       "b3", NULL};
static const char *const in_ROPE[] = {"x", "pos", "factors", NULL};
static const char *const in_ATTENTION[] = {"q",      "k",      "v",    "pos",   "factors",
                                           "q_norm", "k_norm", "bias", "sinks", NULL};
static const char *const in_GLU[] = {"gate", "up", NULL};
static const char *const in_ACTIVATION[] = {"x", NULL};
static const char *const in_ADD[] = {"a", "b", NULL};
static const char *const in_MUL[] = {"a", "b", NULL};
static const char *const in_SCALE[] = {"x", NULL};
static const char *const in_SOFTCAP[] = {"x", NULL};
static const char *const in_ARGMAX[] = {"x", NULL};
static const char *const in_SAMPLE[] = {"logits", "params", NULL};

const op_info *op_get(sobre_op op)
{
    static const op_info ops[SOBRE_N_OPS] = {
#define X(id, name, n_out) [SOBRE_OP_##id] = {name, n_out, in_##id, shape_##id, flops_##id},
        SOBRE_OPS(X)
#undef X
    };
    return &ops[op];
}

const char *sobre_op_name(sobre_op op)
{
    return (unsigned)op < SOBRE_N_OPS ? op_get(op)->name : "?";
}

/* --- Bytes */

static uint64_t value_bytes(const sobre_value *v, int64_t cols, int64_t rows)
{
    const dtype_info *type = dtype_get(v->dtype);
    return (uint64_t)(value_elements(v, cols, rows) / type->block) * (uint64_t)type->size;
}

uint64_t op_bytes(const sobre_value *values, const sobre_node *node, int64_t cols, int64_t rows,
                  int64_t kv_len)
{
    uint64_t bytes = 0;
    for (int32_t i = 0; i < node->n_out; i++)
        bytes += value_bytes(&values[node->out[i]], cols, rows);
    for (int32_t i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0) continue;
        const sobre_value *v = &values[node->in[i]];
        uint64_t size = value_bytes(v, cols, rows);
        /* Of a table or a gathered activation only the picked rows are read. */
        if (node->op == SOBRE_OP_EMBED && i == SOBRE_EMBED_TABLE)
            size = size / (uint64_t)v->dims[0] * (uint64_t)cols;
        if (node->op == SOBRE_OP_GATHER && i == SOBRE_GATHER_X)
            size = value_bytes(&values[node->out[0]], cols, rows);
        bytes += size;
    }
    if (node->op == SOBRE_OP_ATTENTION) {
        const sobre_attention_params *p = &node->p.attention;
        int64_t seen = p->window > 0 && p->window < kv_len ? p->window : kv_len;
        const uint64_t f16_size = 2; /* the cache's default type */
        bytes += (uint64_t)seen * (uint64_t)p->n_head_kv * (uint64_t)(p->head_dim + p->head_dim_v) *
                 f16_size;
    }
    return bytes;
}
