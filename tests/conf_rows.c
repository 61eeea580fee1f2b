/* SPDX-License-Identifier: MIT */
/* Conformance of everything but products and attention: elementwise operations, norms, RoPE, rows
 * by index. */
#include "conf.h"

#define COUNT(table) (int32_t)(sizeof(table) / sizeof((table)[0]))

static double *doubles(int64_t n)
{
    return rig_alloc((uint64_t)n * sizeof(double));
}

static float *floats(int64_t n)
{
    return rig_alloc((uint64_t)n * sizeof(float));
}

/* --- Elementwise */

double conf_act(sobre_act act, double x)
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

typedef struct elementwise_op {
    const char *name;
    sobre_op op;
    sobre_act act;
    float factor;
    bool binary;
} elementwise_op;

static const elementwise_op elementwise_ops[] = {
    {"glu silu", SOBRE_OP_GLU, SOBRE_ACT_SILU, 0, true},
    {"glu gelu_tanh", SOBRE_OP_GLU, SOBRE_ACT_GELU_TANH, 0, true},
    {"glu gelu_erf", SOBRE_OP_GLU, SOBRE_ACT_GELU_ERF, 0, true},
    {"glu relu", SOBRE_OP_GLU, SOBRE_ACT_RELU, 0, true},
    {"activation silu", SOBRE_OP_ACTIVATION, SOBRE_ACT_SILU, 0, false},
    {"activation gelu_tanh", SOBRE_OP_ACTIVATION, SOBRE_ACT_GELU_TANH, 0, false},
    {"activation gelu_erf", SOBRE_OP_ACTIVATION, SOBRE_ACT_GELU_ERF, 0, false},
    {"activation relu", SOBRE_OP_ACTIVATION, SOBRE_ACT_RELU, 0, false},
    {"add", SOBRE_OP_ADD, SOBRE_ACT_NONE, 0, true},
    {"mul", SOBRE_OP_MUL, SOBRE_ACT_NONE, 0, true},
    {"scale", SOBRE_OP_SCALE, SOBRE_ACT_NONE, 0.37f, false},
    {"softcap", SOBRE_OP_SOFTCAP, SOBRE_ACT_NONE, 3.0f, false},
};

static const struct elementwise_shape {
    conf_size size;
    int32_t n_cols;
    int64_t n;
    conf_kind kind;
} elementwise_shapes[] = {
    {CONF_TINY, 1, 1, CONF_NORMAL},     {CONF_TINY, 3, 300, CONF_NORMAL},
    {CONF_USUAL, 5, 77, CONF_NORMAL},   {CONF_USUAL, 5, 77, CONF_DENORMAL},
    {CONF_USUAL, 5, 77, CONF_HUGE},     {CONF_USUAL, 8, 256, CONF_NORMAL},
    {CONF_USUAL, 5, 6000, CONF_NORMAL}, {CONF_USUAL, 300, 8, CONF_NORMAL},
    {CONF_LARGE, 1, 1536, CONF_NORMAL}, {CONF_LARGE, 512, 1536, CONF_NORMAL},
};

/* ret_size: what its rounding is relative to. */
static double elementwise(const elementwise_op *o, double x, double y, double *ret_size)
{
    switch (o->op) {
    case SOBRE_OP_GLU: *ret_size = fabs(x * y); return conf_act(o->act, x) * y;
    case SOBRE_OP_ACTIVATION: *ret_size = fabs(x); return conf_act(o->act, x);
    case SOBRE_OP_ADD: *ret_size = fabs(x) + fabs(y); return x + y;
    case SOBRE_OP_MUL: *ret_size = fabs(x * y); return x * y;
    case SOBRE_OP_SCALE: *ret_size = fabs(x); return x * (double)o->factor;
    default:
        *ret_size = fmin(fabs(x), (double)o->factor);
        return (double)o->factor * tanh(x / (double)o->factor);
    }
}

/* `broadcast`: the second operand is a weight [n]. */
static void elementwise_case(conf *c, const elementwise_op *o, const struct elementwise_shape *s,
                             bool broadcast)
{
    rig *r = &c->rig;
    int64_t n = s->n, n_all = s->n_cols * n;
    if (!conf_begin(c, s->size, s->n_cols, 1, "%s%s, %s [%d, %d]", o->name,
                    broadcast ? " by a vector" : "", conf_kind_name(s->kind), (int)s->n_cols,
                    (int)n))
        return;
    float *a = floats(n_all), *b = floats(n_all);
    double *reference = doubles(n_all), *tolerance = doubles(n_all);
    conf_fill(s->kind, 3e4, a, n_all, 1);
    conf_fill(s->kind, 3e4, b, n_all, 2);
    sobre_node node = rig_node(o->op);
    node.in[0] = rig_input(r, SOBRE_DIM_T, n);
    if (broadcast)
        node.in[1] = rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, n, b);
    else if (o->binary)
        node.in[1] = rig_input(r, SOBRE_DIM_T, n);
    node.out[0] = rig_input(r, SOBRE_DIM_T, n);
    if (o->act != SOBRE_ACT_NONE)
        node.p.act = o->act;
    else
        node.p.factor = o->factor;
    rig_add(r, &node);
    if (conf_compile(c)) {
        for (int64_t i = 0; i < n_all && s->kind == CONF_NORMAL; i++) a[i] *= 8;
        for (int64_t i = 0; i < n_all; i++) {
            reference[i] =
                elementwise(o, (double)a[i], (double)b[broadcast ? i % n : i], &tolerance[i]);
            tolerance[i] = 16 * CONF_EPS * tolerance[i] + CONF_TINIEST;
        }
        rig_write(r, node.in[0], a, (uint64_t)n_all * 4);
        if (o->binary && !broadcast) rig_write(r, node.in[1], b, (uint64_t)n_all * 4);
        conf_run(c, s->n_cols, 1, NULL, 0);
        conf_expect(c, node.out[0], n_all, reference, tolerance);
    }
    conf_end(c);
    free(a);
    free(b);
    free(reference);
    free(tolerance);
}

static void elementwise_family(conf *c)
{
    for (int32_t o = 0; o < COUNT(elementwise_ops); o++)
        for (int32_t s = 0; s < COUNT(elementwise_shapes); s++) {
            sobre_op op = elementwise_ops[o].op;
            elementwise_case(c, &elementwise_ops[o], &elementwise_shapes[s], false);
            if (op == SOBRE_OP_ADD || op == SOBRE_OP_MUL)
                elementwise_case(c, &elementwise_ops[o], &elementwise_shapes[s], true);
        }
}

/* --- Norms */

void conf_norm(sobre_norm_params p, const float *x, const float *w, const float *b, int64_t n,
               double *ret, double *ret_size)
{
    double mean = 0, squares = 0, mean_size = 0;
    if (p.kind == SOBRE_NORM_LAYER)
        for (int64_t i = 0; i < n; i++) {
            mean += (double)x[i] / (double)n;
            mean_size += fabs((double)x[i]) / (double)n;
        }
    for (int64_t i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1 / sqrt(squares / (double)n + (double)p.eps);
    for (int64_t i = 0; i < n; i++) {
        double factor = scale * (w ? (double)w[i] : 1), add = b ? (double)b[i] : 0;
        ret[i] = ((double)x[i] - mean) * factor + add;
        ret_size[i] = (fabs((double)x[i]) + mean_size) * fabs(factor) + fabs(add);
    }
}

static const struct norm_case {
    conf_size size;
    int32_t n_cols;
    int64_t n, group; /* the norm's weight is [group] */
    sobre_dtype weight, bias;
    conf_kind kind;
    bool with_weight, with_bias;
} norm_cases[] = {
    {CONF_TINY, 1, 77, 77, SOBRE_F16, SOBRE_F32, CONF_NORMAL, true, true},
    {CONF_TINY, 2, 300, 300, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_TINY, 2, 96, 24, SOBRE_F32, SOBRE_F16, CONF_NORMAL, true, true},
    {CONF_USUAL, 3, 1, 1, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, true},
    {CONF_USUAL, 5, 6000, 6000, SOBRE_F16, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_USUAL, 5, 96, 96, SOBRE_F32, SOBRE_F32, CONF_NORMAL, false, false},
    {CONF_USUAL, 5, 96, 96, SOBRE_BF16, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_USUAL, 40, 256, 64, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_USUAL, 300, 64, 64, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_USUAL, 5, 576, 576, SOBRE_F32, SOBRE_F32, CONF_DENORMAL, true, false},
    {CONF_USUAL, 5, 576, 576, SOBRE_F32, SOBRE_F32, CONF_HUGE, true, false},
    {CONF_LARGE, 1, 576, 576, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, false},
    {CONF_LARGE, 512, 2048, 2048, SOBRE_F32, SOBRE_F32, CONF_NORMAL, true, false},
};

static void norm_case(conf *c, const struct norm_case *k, sobre_norm_kind kind)
{
    rig *r = &c->rig;
    int64_t n = k->n, n_all = k->n_cols * n;
    if (!conf_begin(c, k->size, k->n_cols, 1, "norm %s%s%s, %s [%d, %d] by %d",
                    kind == SOBRE_NORM_RMS ? "rms" : "layer",
                    k->with_weight ? dtype_get(k->weight)->name : "", k->with_bias ? " bias" : "",
                    conf_kind_name(k->kind), (int)k->n_cols, (int)n, (int)k->group))
        return;
    float *x = floats(n_all), *w = floats(k->group), *b = floats(k->group);
    double *reference = doubles(n_all), *tolerance = doubles(n_all);
    rig_fill(w, k->group, 3);
    rig_fill(b, k->group, 4);
    conf_fill(k->kind, 1e15, x, n_all, 5);
    for (int64_t i = 0; i < n_all && k->kind == CONF_NORMAL; i++) x[i] += 0.25f;
    sobre_node node = rig_node(SOBRE_OP_NORM);
    node.p.norm = (sobre_norm_params){kind, 1e-5f};
    node.in[SOBRE_NORM_X] = rig_input(r, SOBRE_DIM_T, n);
    if (k->with_weight)
        node.in[SOBRE_NORM_W] = rig_weight(r, k->weight, SOBRE_WEIGHT_VECTOR, 0, k->group, w);
    if (k->with_bias)
        node.in[SOBRE_NORM_B] = rig_weight(r, k->bias, SOBRE_WEIGHT_VECTOR, 0, k->group, b);
    node.out[0] = rig_input(r, SOBRE_DIM_T, n);
    rig_add(r, &node);
    if (conf_compile(c)) {
        for (int64_t i = 0; i < n_all; i += k->group)
            conf_norm(node.p.norm, x + i, k->with_weight ? w : NULL, k->with_bias ? b : NULL,
                      k->group, reference + i, tolerance + i);
        for (int64_t i = 0; i < n_all; i++)
            tolerance[i] =
                (8 + sqrt((double)k->group)) * CONF_EPS * tolerance[i] + 400 * CONF_TINIEST;
        rig_write(r, node.in[SOBRE_NORM_X], x, (uint64_t)n_all * 4);
        conf_run(c, k->n_cols, 1, NULL, 0);
        conf_expect(c, node.out[0], n_all, reference, tolerance);
    }
    conf_end(c);
    free(x);
    free(w);
    free(b);
    free(reference);
    free(tolerance);
}

static void norm_family(conf *c)
{
    for (int kind = SOBRE_NORM_RMS; kind <= SOBRE_NORM_LAYER; kind++)
        for (int32_t i = 0; i < COUNT(norm_cases); i++) norm_case(c, &norm_cases[i], kind);
}

/* --- RoPE */

static const struct rope_case {
    conf_size size;
    int32_t n_cols, head_dim, n_dims;
    bool with_factors;
} rope_cases[] = {
    {CONF_TINY, 1, 8, 8, false},      {CONF_TINY, 3, 20, 10, true},
    {CONF_USUAL, 5, 64, 64, true},    {CONF_USUAL, 5, 80, 32, false},
    {CONF_USUAL, 5, 6, 6, true},      {CONF_USUAL, 5, 64, 64, false},
    {CONF_USUAL, 5, 128, 128, true},  {CONF_USUAL, 300, 64, 64, false},
    {CONF_LARGE, 512, 64, 64, false},
};

static void rope_case(conf *c, const struct rope_case *k, sobre_rope_kind kind)
{
    enum { N_HEAD = 3 };
    static const int32_t first_positions[] = {0, 1, 17, 4095, 100000};
    rig *r = &c->rig;
    int32_t n = N_HEAD * k->head_dim, n_all = k->n_cols * n;
    if (!conf_begin(c, k->size, k->n_cols, 1, "rope %s%s [%d, 3 * %d], %d turned",
                    kind == SOBRE_ROPE_PAIRS ? "pairs" : "halves",
                    k->with_factors ? " factors" : "", (int)k->n_cols, (int)k->head_dim,
                    (int)k->n_dims))
        return;
    float *x = floats(n_all), factors[64];
    double *reference = doubles(n_all), *tolerance = doubles(n_all);
    int32_t *positions = rig_alloc((uint64_t)k->n_cols * 4);
    for (int i = 0; i < 64; i++) factors[i] = 1.0f + 0.125f * (float)i;
    for (int32_t t = 0; t < k->n_cols; t++) positions[t] = t < 5 ? first_positions[t] : 37 * t;
    rig_fill(x, n_all, 6);
    sobre_node node = rig_node(SOBRE_OP_ROPE);
    node.p.rope = (sobre_rope_node_params){{kind, k->n_dims, 10000.0f, 0.5f}, N_HEAD, k->head_dim};
    node.in[SOBRE_ROPE_X] = rig_input(r, SOBRE_DIM_T, n);
    node.in[SOBRE_ROPE_POS] = rig_ints(r, SOBRE_DIM_T);
    if (k->with_factors)
        node.in[SOBRE_ROPE_FACTORS] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, k->n_dims / 2, factors);
    node.out[0] = rig_input(r, SOBRE_DIM_T, n);
    rig_add(r, &node);
    if (conf_compile(c)) {
        for (int32_t i = 0; i < n_all; i++) {
            reference[i] = (double)x[i];
            tolerance[i] = 1e-6;
        }
        for (int32_t h = 0; h < k->n_cols * N_HEAD; h++)
            for (int32_t p = 0; p < k->n_dims / 2; p++) {
                double angle = 0.5 * positions[h / N_HEAD] * pow(10000.0, -2.0 * p / k->n_dims);
                if (k->with_factors) angle /= (double)factors[p];
                int32_t a = h * k->head_dim + (kind == SOBRE_ROPE_PAIRS ? 2 * p : p);
                int32_t b = kind == SOBRE_ROPE_PAIRS ? a + 1 : a + k->n_dims / 2;
                reference[a] = (double)x[a] * cos(angle) - (double)x[b] * sin(angle);
                reference[b] = (double)x[b] * cos(angle) + (double)x[a] * sin(angle);
            }
        rig_write(r, node.in[SOBRE_ROPE_X], x, (uint64_t)n_all * 4);
        rig_write(r, node.in[SOBRE_ROPE_POS], positions, (uint64_t)k->n_cols * 4);
        conf_run(c, k->n_cols, 1, NULL, 0);
        conf_expect(c, node.out[0], n_all, reference, tolerance);
    }
    conf_end(c);
    free(x);
    free(positions);
    free(reference);
    free(tolerance);
}

static void rope_family(conf *c)
{
    for (int kind = SOBRE_ROPE_PAIRS; kind <= SOBRE_ROPE_HALVES; kind++)
        for (int32_t i = 0; i < COUNT(rope_cases); i++) rope_case(c, &rope_cases[i], kind);
}

/* --- Rows by index */

/* Ids come once, twice, and from both ends of the table. */
static void embed_case(conf *c, conf_size size, sobre_dtype dtype, int32_t n_cols, int32_t width)
{
    enum { N_VOCAB = 37 };
    rig *r = &c->rig;
    if (!conf_begin(c, size, n_cols, 1, "embed %s [%d, %d]", dtype_get(dtype)->name, (int)n_cols,
                    (int)width))
        return;
    uint8_t *file = rig_weights(dtype, N_VOCAB, width, 7);
    float *reference = floats(n_cols * width);
    int32_t *ids = rig_alloc((uint64_t)n_cols * 4);
    for (int32_t t = 0; t < n_cols; t++)
        ids[t] = t == 1 ? 0 : t == 2 ? N_VOCAB - 1 : t * 11 % N_VOCAB;
    sobre_node node = rig_node(SOBRE_OP_EMBED);
    node.p.factor = 2.0f;
    node.in[SOBRE_EMBED_IDS] = rig_ints(r, SOBRE_DIM_T);
    node.in[SOBRE_EMBED_TABLE] =
        rig_weight_file(r, dtype, SOBRE_WEIGHT_TABLE, N_VOCAB, width, file);
    node.out[0] = rig_input(r, SOBRE_DIM_T, width);
    rig_add(r, &node);
    if (conf_compile(c)) {
        for (int32_t t = 0; t < n_cols; t++)
            conf_decode(c, dtype, file + rig_row_size(dtype, width) * (uint64_t)ids[t], width,
                        reference + t * width);
        for (int32_t i = 0; i < n_cols * width; i++) reference[i] *= 2.0f;
        rig_write(r, node.in[SOBRE_EMBED_IDS], ids, (uint64_t)n_cols * 4);
        conf_run(c, n_cols, 1, NULL, 0);
        conf_expect_exact(c, node.out[0], n_cols * width, reference);
    }
    conf_end(c);
    free(file);
    free(ids);
    free(reference);
}

static void embed_family(conf *c)
{
    for (int32_t i = 0; i < RIG_N_DTYPES; i++) {
        sobre_dtype dtype = rig_dtypes[i];
        int32_t block = dtype_get(dtype)->block;
        embed_case(c, CONF_TINY, dtype, 3, block > 1 ? block : 7);
        embed_case(c, CONF_USUAL, dtype, 40, block > 1 ? 768 : 333);
    }
}

/* Some rows, the last one among them; with none wanted nothing is written. */
static void gather_case(conf *c, conf_size size, int32_t n_cols, int32_t n_rows, int32_t width)
{
    rig *r = &c->rig;
    if (!conf_begin(c, size, n_cols, n_rows, "gather [%d of %d, %d]", (int)n_rows, (int)n_cols,
                    (int)width))
        return;
    float *x = floats(n_cols * width), *reference = floats(n_rows * width), *out;
    int32_t *rows = rig_alloc((uint64_t)n_rows * 4);
    sobre_node node = rig_node(SOBRE_OP_GATHER);
    node.in[SOBRE_GATHER_X] = rig_input(r, SOBRE_DIM_T, width);
    node.in[SOBRE_GATHER_ROWS] = rig_ints(r, SOBRE_DIM_R);
    node.out[0] = rig_input(r, SOBRE_DIM_R, width);
    rig_add(r, &node);
    rig_fill(x, n_cols * width, 8);
    for (int32_t k = 0; k < n_rows; k++) {
        rows[k] = n_cols - n_rows + k;
        memcpy(reference + k * width, x + rows[k] * width, (size_t)width * sizeof *x);
    }
    if (conf_compile(c)) {
        rig_write(r, node.in[SOBRE_GATHER_X], x, (uint64_t)(n_cols * width) * 4);
        rig_write(r, node.in[SOBRE_GATHER_ROWS], rows, (uint64_t)n_rows * 4);
        out = floats(n_rows * width);
        memset(out, 0xff, (size_t)(n_rows * width) * 4);
        rig_write(r, node.out[0], out, (uint64_t)(n_rows * width) * 4);
        conf_run(c, n_cols, 0, NULL, 0);
        rig_read(r, node.out[0], out, (uint64_t)(n_rows * width) * 4);
        for (int32_t i = 0; i < n_rows * width; i++) assert_true(isnan(out[i]));
        free(out);
        conf_run(c, n_cols, n_rows, NULL, 0);
        conf_expect_exact(c, node.out[0], n_rows * width, reference);
    }
    conf_end(c);
    free(x);
    free(rows);
    free(reference);
}

static void gather_family(conf *c)
{
    gather_case(c, CONF_TINY, 1, 1, 5);
    gather_case(c, CONF_TINY, 4, 2, 300);
    gather_case(c, CONF_USUAL, 40, 40, 576);
    gather_case(c, CONF_USUAL, 9, 1, 6000);
    gather_case(c, CONF_LARGE, 512, 1, 2048);
}

/* The first of the largest; the largest stands in all places in turn. */
static void argmax_case(conf *c, conf_size size, int32_t n_rows, int32_t width, bool ties)
{
    rig *r = &c->rig;
    if (!conf_begin(c, size, n_rows, n_rows, "argmax%s [%d, %d]", ties ? ", ties" : "", (int)n_rows,
                    (int)width))
        return;
    float *x = floats(n_rows * width);
    int32_t *best = rig_alloc((uint64_t)n_rows * 4);
    rig_fill(x, n_rows * width, 9);
    for (int32_t k = 0; k < n_rows; k++) {
        best[k] = (int32_t)((int64_t)k * (width - 1) / (n_rows > 1 ? n_rows - 1 : 1));
        x[k * width + best[k]] = 2;
        for (int32_t i = best[k]; i < width && ties; i += 7) x[k * width + i] = 2;
        if (k % 2) /* all below zero */
            for (int32_t i = 0; i < width; i++) x[k * width + i] -= 5;
    }
    sobre_node node = rig_node(SOBRE_OP_ARGMAX);
    node.in[SOBRE_UNARY_X] = rig_input(r, SOBRE_DIM_R, width);
    node.out[0] = rig_ints(r, SOBRE_DIM_R);
    rig_add(r, &node);
    if (conf_compile(c)) {
        rig_write(r, node.in[SOBRE_UNARY_X], x, (uint64_t)(n_rows * width) * 4);
        conf_run(c, n_rows, n_rows, NULL, 0);
        conf_expect_ints(c, node.out[0], n_rows, best);
    }
    conf_end(c);
    free(x);
    free(best);
}

static void argmax_family(conf *c)
{
    for (int ties = 0; ties < 2; ties++) {
        argmax_case(c, CONF_TINY, 1, 1, ties);
        argmax_case(c, CONF_TINY, 3, 300, ties);
        argmax_case(c, CONF_USUAL, 9, 77, ties);
        argmax_case(c, CONF_USUAL, 40, 5000, ties);
        argmax_case(c, CONF_USUAL, 2, 49152, ties);
    }
    argmax_case(c, CONF_LARGE, 1, 151936, false);
}

const conf_family conf_rows_families[] = {
    {"elementwise", elementwise_family},
    {"norm", norm_family},
    {"rope", rope_family},
    {"embed", embed_family},
    {"gather", gather_family},
    {"argmax", argmax_family},
    {NULL, NULL},
};
