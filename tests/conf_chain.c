/* SPDX-License-Identifier: MIT */
/* Conformance of nodes that a device may do in fewer launches than there are nodes, since one hands
 * to the next what it has not finished: attention and the product behind it, rows that are gathered
 * and the product of them. And of the same nodes where something else reads what stands between. */
#include "conf_attn.h"

#include "conf.h"

/* --- Attention, then a product of as many rows, plus a residual */

typedef struct chain_case {
    attn_case attn;
    int32_t chunk, tail, from; /* as in attn_cut; the first column of sequences that is compared */
    bool is_read_twice;
} chain_case;

#define HEADS(heads, heads_kv, dim)                                                     \
    .n_head = (heads), .n_head_kv = (heads_kv), .head_dim = (dim), .head_dim_v = (dim), \
    .scale = 0.2f, .causal = 1, .rope = {SOBRE_ROPE_HALVES, (dim), 10000.0f, 1.0f}
static const chain_case chain_cases[] = {
    {{.name = "tiny, one column",
      .is_tiny = true,
      .p = {HEADS(4, 2, 32)},
      .n_seqs = 1,
      .lengths = {4}},
     .chunk = 1},
    {{.name = "tiny, two sequences",
      .is_tiny = true,
      .p = {HEADS(2, 1, 32)},
      .n_seqs = 2,
      .lengths = {67, 3},
      .kv_type = SOBRE_KV_F16},
     .chunk = 4,
     .tail = 2},
    {{.name = "grouped heads, f16",
      .p = {HEADS(9, 3, 64)},
      .n_seqs = 2,
      .lengths = {300, 70},
      .kv_type = SOBRE_KV_F16},
     .chunk = 4,
     .tail = 3},
    {{.name = "one column, groups of 16", .p = {HEADS(16, 1, 40)}, .n_seqs = 1, .lengths = {70}},
     .chunk = 1},
    {{.name = "eight sequences",
      .p = {HEADS(4, 4, 128)},
      .n_seqs = 8,
      .lengths = {80, 1, 2, 65, 9, 64, 63, 20}},
     .chunk = 1},
    {{.name = "many columns", .p = {HEADS(4, 2, 32)}, .n_seqs = 2, .lengths = {90, 65}}, .tail = 3},
    {{.name = "a window", .p = {HEADS(3, 1, 32), .window = 300}, .n_seqs = 1, .lengths = {450}},
     .chunk = 8,
     .tail = 3},
    {{.name = "read twice", .p = {HEADS(4, 2, 64)}, .n_seqs = 2, .lengths = {130, 66}},
     .chunk = 4,
     .tail = 3,
     .is_read_twice = true},
    {{.name = "a sequence that grows long", .p = {HEADS(2, 1, 32)}, .n_seqs = 1, .lengths = {4100}},
     .chunk = 8,
     .tail = 8,
     .from = 4080},
};

/* out = W x + residual, and what rounding may make of it where x may be wrong by `error`. */
static void product(const float *w, int32_t n, const double *x, const float *residual, double error,
                    double *ret, double *ret_tolerance)
{
    for (int32_t i = 0; i < n; i++) {
        double sum = 0, size = 0;
        for (int32_t j = 0; j < n; j++) {
            sum += (double)w[i * n + j] * x[j];
            size += fabs(w[i * n + j]);
        }
        ret[i] = sum + residual[i];
        ret_tolerance[i] = size * error + 1e-5;
    }
}

typedef struct chain {
    sobre_node attention, mm;
    float *w, *residual; /* [n, n]; [n_cols, n], each row the same */
    int32_t n, copy;     /* copy: of the attention's result, -1: none */
} chain;

static chain chain_build(rig *r, const chain_case *a, attn_data *d, int32_t n_cols)
{
    chain t = {.n = a->attn.p.n_head * a->attn.p.head_dim, .copy = -1};
    t.w = rig_alloc((uint64_t)t.n * (uint64_t)t.n * 4);
    t.residual = rig_alloc((uint64_t)n_cols * (uint64_t)t.n * 4);
    rig_fill(t.w, (int64_t)t.n * t.n, 11);
    rig_fill(t.residual, t.n, 12);
    for (int32_t i = 1; i < n_cols; i++)
        memcpy(t.residual + (int64_t)i * t.n, t.residual, (size_t)t.n * 4);
    t.attention = attn_build(r, &a->attn, d);
    t.mm = rig_node(SOBRE_OP_MATMUL);
    t.mm.p.matmul.n_weights = 1;
    t.mm.in[SOBRE_MATMUL_X] = t.attention.out[0];
    t.mm.in[SOBRE_MATMUL_W0] = rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_MATMUL, t.n, t.n, t.w);
    t.mm.in[SOBRE_MATMUL_RESIDUAL] = rig_input(r, SOBRE_DIM_T, t.n);
    t.mm.out[0] = rig_input(r, SOBRE_DIM_T, t.n);
    rig_add(r, &t.mm);
    if (a->is_read_twice) {
        sobre_node scale = rig_node(SOBRE_OP_SCALE);
        scale.p.factor = 1;
        scale.in[SOBRE_UNARY_X] = t.attention.out[0];
        t.copy = scale.out[0] = rig_input(r, SOBRE_DIM_T, t.n);
        rig_add(r, &scale);
    }
    return t;
}

/* Of the columns that are compared, one after the other. */
static void chain_compare(conf *c, const chain_case *a, const attn_data *d, const chain *t,
                          bool multiplied, const float *out)
{
    int64_t n_all = (int64_t)d->n_cols * t->n;
    double *x = rig_alloc((uint64_t)n_all * 8), *y = rig_alloc((uint64_t)t->n * 8);
    double *tolerance = rig_alloc((uint64_t)t->n * 8), most = 0;
    double relative = a->attn.kv_type == SOBRE_KV_F16 ? 1e-3 : 5e-6;
    for (int32_t s = 0, first = 0; s < a->attn.n_seqs; first += a->attn.lengths[s], s++)
        attn_reference(&a->attn, d, first, a->attn.lengths[s], a->from, x);
    for (int64_t i = 0; i < n_all; i++) most = fmax(most, fabs(x[i]));
    for (int32_t s = 0, first = 0; s < a->attn.n_seqs; first += a->attn.lengths[s], s++)
        for (int32_t i = first + a->from; i < first + a->attn.lengths[s]; i++) {
            const double *expected = x + (int64_t)i * t->n;
            for (int32_t k = 0; k < t->n; k++) tolerance[k] = relative * most;
            if (multiplied) {
                product(t->w, t->n, expected, t->residual, relative * most, y, tolerance);
                expected = y;
            }
            conf_compare(c, out + (int64_t)i * t->n, t->n, expected, tolerance);
        }
    free(x);
    free(y);
    free(tolerance);
}

static void chain_check(conf *c, const chain_case *a)
{
    attn_cut cut = {0, a->attn.n_seqs, a->chunk, a->tail};
    int32_t n_cols = attn_cols(&a->attn, &cut);
    if (!conf_begin(c, a->attn.is_tiny ? CONF_TINY : CONF_USUAL, n_cols, 0,
                    "attention and product, %s", a->attn.name))
        return;
    attn_data d = attn_data_make(&a->attn);
    chain t = chain_build(&c->rig, a, &d, n_cols);
    if (conf_compile(c)) {
        float *out = rig_alloc((uint64_t)d.n_cols * (uint64_t)t.n * 4);
        attn_last last;
        sobre_node node = t.attention;
        rig_write(&c->rig, t.mm.in[SOBRE_MATMUL_RESIDUAL], t.residual,
                  (uint64_t)n_cols * (uint64_t)t.n * 4);
        node.out[0] = t.mm.out[0]; /* where the result is */
        attn_eval(&c->rig, &a->attn, &d, &node, &cut, out, &last);
        chain_compare(c, a, &d, &t, true, out);
        if (t.copy >= 0) {
            node.out[0] = t.copy;
            attn_eval(&c->rig, &a->attn, &d, &node, &cut, out, &last);
            chain_compare(c, a, &d, &t, false, out);
        }
        conf_ran(c, last.n_cols, 0, last.seqs, last.n_seqs);
        free(out);
    }
    conf_end(c);
    attn_data_free(&d);
    free(t.w);
    free(t.residual);
}

static void attention_chains(conf *c)
{
    for (size_t i = 0; i < sizeof chain_cases / sizeof *chain_cases; i++)
        chain_check(c, &chain_cases[i]);
}

/* --- Rows that are gathered, then norm and product */

static void gather_check(conf *c, conf_size size, int32_t n_cols, int32_t n_rows, int32_t n)
{
    enum { N_OUT = 37 };
    rig *r = &c->rig;
    if (!conf_begin(c, size, n_cols, n_rows, "gather and product [%d of %d, %d]", (int)n_rows,
                    (int)n_cols, (int)n))
        return;
    const sobre_norm_params norm = {SOBRE_NORM_RMS, 1e-5f};
    float *x = rig_alloc((uint64_t)(n_cols * n) * 4), *w = rig_alloc((uint64_t)(N_OUT * n) * 4);
    float *norm_w = rig_alloc((uint64_t)n * 4);
    double *normed = rig_alloc((uint64_t)n * 8), *sizes = rig_alloc((uint64_t)n * 8);
    double *expected = rig_alloc((uint64_t)(n_rows * N_OUT) * 8);
    double *tolerance = rig_alloc((uint64_t)(n_rows * N_OUT) * 8);
    int32_t *rows = rig_alloc((uint64_t)n_rows * 4);
    sobre_node gather = rig_node(SOBRE_OP_GATHER), mm = rig_node(SOBRE_OP_MATMUL);
    rig_fill(x, n_cols * n, 21);
    rig_fill(w, N_OUT * n, 22);
    rig_fill(norm_w, n, 23);
    gather.in[SOBRE_GATHER_X] = rig_input(r, SOBRE_DIM_T, n);
    gather.in[SOBRE_GATHER_ROWS] = rig_ints(r, SOBRE_DIM_R);
    gather.out[0] = rig_input(r, SOBRE_DIM_R, n);
    rig_add(r, &gather);
    mm.p.matmul = (sobre_matmul_params){.n_weights = 1, .norm = norm};
    mm.in[SOBRE_MATMUL_X] = gather.out[0];
    mm.in[SOBRE_MATMUL_NORM_W] = rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, n, norm_w);
    mm.in[SOBRE_MATMUL_W0] = rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_MATMUL, N_OUT, n, w);
    mm.out[0] = rig_input(r, SOBRE_DIM_R, N_OUT);
    rig_add(r, &mm);
    for (int32_t k = 0; k < n_rows; k++) {
        rows[k] = k == n_rows - 1 ? n_cols - 1 : k * (n_cols - 1) / n_rows;
        conf_norm(norm, x + rows[k] * n, norm_w, NULL, n, normed, sizes);
        for (int32_t i = 0; i < N_OUT; i++) {
            double sum = 0, magnitude = 0;
            for (int32_t j = 0; j < n; j++) {
                sum += (double)w[i * n + j] * normed[j];
                magnitude += fabs((double)w[i * n + j] * normed[j]);
            }
            expected[k * N_OUT + i] = sum;
            tolerance[k * N_OUT + i] = magnitude * (n + 32) * CONF_EPS;
        }
    }
    if (conf_compile(c)) {
        rig_write(r, gather.in[SOBRE_GATHER_X], x, (uint64_t)(n_cols * n) * 4);
        rig_write(r, gather.in[SOBRE_GATHER_ROWS], rows, (uint64_t)n_rows * 4);
        conf_run(c, n_cols, n_rows, NULL, 0);
        conf_expect(c, mm.out[0], n_rows * N_OUT, expected, tolerance);
    }
    conf_end(c);
    free(x);
    free(w);
    free(norm_w);
    free(normed);
    free(sizes);
    free(expected);
    free(tolerance);
    free(rows);
}

static void gather_chains(conf *c)
{
    gather_check(c, CONF_TINY, 3, 1, 64);
    gather_check(c, CONF_TINY, 5, 3, 32);
    gather_check(c, CONF_USUAL, 1, 1, 576);
    gather_check(c, CONF_USUAL, 33, 1, 2304);
    gather_check(c, CONF_USUAL, 40, 8, 100);
    gather_check(c, CONF_USUAL, 40, 33, 96);
}

const conf_family conf_chain_families[] = {
    {"attention and product", attention_chains},
    {"gather and product", gather_chains},
    {NULL, NULL},
};
