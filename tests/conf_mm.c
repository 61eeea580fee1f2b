/* SPDX-License-Identifier: MIT */
/* Conformance of products: every type of weight, one weight to four, with what stands before and
 * behind them. */
#include "conf.h"

#include "mm.h"

enum { MAX_WEIGHTS = 4 };

/* What a case multiplies. Rows, columns of the weights, tokens; at most `most` tokens a run. */
typedef struct mm_shape {
    conf_size size;
    int32_t n_cols;
    int64_t n_rows, k;
} mm_shape;

typedef struct mm_case {
    const char *name;
    mm_shape shape;
    conf_kind kind;
    int32_t n_weights;
    sobre_dtype dtypes[MAX_WEIGHTS];
    int64_t more_rows; /* of each further weight */
    bool bias, residual, exact;
    sobre_norm_kind norm;
    bool norm_bias;
    sobre_act glu;
} mm_case;

/* A product's inputs and its outcome in double precision. */
typedef struct mm_data {
    uint8_t *file[MAX_WEIGHTS];
    float *w[MAX_WEIGHTS], *w_size[MAX_WEIGHTS]; /* decoded; magnitudes of what is summed */
    float *bias[MAX_WEIGHTS], *x, *norm_w, *norm_b, *residual;
    double *out[MAX_WEIGHTS], *tolerance[MAX_WEIGHTS];
    int64_t n_rows[MAX_WEIGHTS];
} mm_data;

/* Decodes a weight. A kernel may sum q * x and the groups' offsets apart, so that what is rounded
 * is as large as these: with the blocks' integers taken from zero, and their minima. */
static void decode(const conf *c, sobre_dtype dtype, const uint8_t *row, int64_t k, float *w,
                   float *size)
{
    const quant_form *form = quant_form_get(dtype);
    conf_decode(c, dtype, row, k, w);
    for (int64_t i = 0; i < k; i++) size[i] = fabsf(w[i]);
    if (!form) return;
    int8_t *q = rig_alloc((uint64_t)k);
    float *d = rig_alloc((uint64_t)k), *m = rig_alloc((uint64_t)k);
    memset(m, 0, (size_t)k);
    quant_unpack(dtype, row, k, q, d, m);
    for (int64_t i = 0; i < k; i++) {
        float offset = form->q_min >= -32 ? (float)-form->q_min : 0.0f;
        size[i] = fabsf(d[i / form->group]) * (fabsf((float)q[i]) + offset) +
                  (form->has_min ? fabsf(m[i / form->group]) : 0.0f);
    }
    free(q);
    free(d);
    free(m);
}

static mm_data data_make(const conf *of, const mm_case *c)
{
    const mm_shape *s = &c->shape;
    mm_data d = {.x = NULL};
    int64_t n_x = s->n_cols * s->k;
    d.x = rig_alloc((uint64_t)n_x * 4);
    d.norm_w = rig_alloc((uint64_t)s->k * 4);
    d.norm_b = rig_alloc((uint64_t)s->k * 4);
    conf_fill(c->kind, 1e15, d.x, n_x, 30);
    rig_fill(d.norm_w, s->k, 31);
    rig_fill(d.norm_b, s->k, 32);
    for (int32_t i = 0; i < c->n_weights; i++) {
        int64_t n = d.n_rows[i] = s->n_rows + (c->glu == SOBRE_ACT_NONE ? i * c->more_rows : 0);
        uint64_t row_size = rig_row_size(c->dtypes[i], s->k);
        d.file[i] = rig_weights(c->dtypes[i], n, s->k, 10 + (uint32_t)i);
        d.w[i] = rig_alloc((uint64_t)(n * s->k) * 4);
        d.w_size[i] = rig_alloc((uint64_t)(n * s->k) * 4);
        d.bias[i] = rig_alloc((uint64_t)n * 4);
        d.out[i] = rig_alloc((uint64_t)(n * s->n_cols) * 8);
        d.tolerance[i] = rig_alloc((uint64_t)(n * s->n_cols) * 8);
        for (int64_t row = 0; row < n; row++)
            decode(of, c->dtypes[i], d.file[i] + row_size * (uint64_t)row, s->k,
                   d.w[i] + row * s->k, d.w_size[i] + row * s->k);
        rig_fill(d.bias[i], n, 20 + (uint32_t)i);
    }
    d.residual = rig_alloc((uint64_t)(s->n_rows * s->n_cols) * 4);
    conf_fill(c->kind, 1e15, d.residual, s->n_rows * s->n_cols, 33);
    return d;
}

static void data_free(mm_data *d)
{
    for (int i = 0; i < MAX_WEIGHTS; i++) {
        free(d->file[i]);
        free(d->w[i]);
        free(d->w_size[i]);
        free(d->bias[i]);
        free(d->out[i]);
        free(d->tolerance[i]);
    }
    free(d->x);
    free(d->norm_w);
    free(d->norm_b);
    free(d->residual);
}

/* How far each element of a row may be off as it enters a product with this type of weight: int8
 * has 127 steps for the largest of a block of 32, on a CPU that is not told to be exact. */
static void act_error(const mm_case *c, bool is_int8, const double *y, const double *y_size,
                      double *ret)
{
    int64_t k = c->shape.k;
    double rounding = c->norm == SOBRE_NORM_NONE ? 0 : (8 + sqrt((double)k)) * CONF_EPS;
    for (int64_t b = 0; b < k; b += 32) {
        double largest = 0;
        for (int64_t i = b; i < b + 32 && i < k; i++) largest = fmax(largest, fabs(y[i]));
        for (int64_t i = b; i < b + 32 && i < k; i++)
            ret[i] = rounding * y_size[i] + (is_int8 ? 0.51 * largest / 127 : 0) + CONF_TINIEST;
    }
}

static void reference(const mm_case *c, mm_data *d, bool int8)
{
    const mm_shape *s = &c->shape;
    int64_t k = s->k;
    double *y = rig_alloc((uint64_t)k * 8), *y_size = rig_alloc((uint64_t)k * 8);
    double *error = rig_alloc((uint64_t)k * 8);
    for (int32_t t = 0; t < s->n_cols; t++) {
        const float *x = d->x + t * k;
        if (c->norm != SOBRE_NORM_NONE)
            conf_norm((sobre_norm_params){c->norm, 1e-5f}, x, d->norm_w,
                      c->norm_bias ? d->norm_b : NULL, k, y, y_size);
        for (int64_t i = 0; i < k && c->norm == SOBRE_NORM_NONE; i++)
            y[i] = y_size[i] = (double)x[i];
        for (int32_t w = 0; w < c->n_weights; w++) {
            act_error(c, int8 && quant_form_get(c->dtypes[w]), y, y_size, error);
            for (int64_t o = 0; o < d->n_rows[w]; o++) {
                const float *row = d->w[w] + o * k, *size = d->w_size[w] + o * k;
                double sum = 0, magnitude = 0, off = 0;
                for (int64_t i = 0; i < k; i++) {
                    sum += (double)row[i] * y[i];
                    magnitude += (double)size[i] * fabs(y[i]);
                    off += (double)size[i] * error[i];
                }
                if (c->bias) {
                    sum += (double)d->bias[w][o];
                    magnitude += fabs((double)d->bias[w][o]);
                }
                d->out[w][t * d->n_rows[w] + o] = sum;
                d->tolerance[w][t * d->n_rows[w] + o] =
                    (double)(k + 8) * CONF_EPS * magnitude + off + (double)k * CONF_TINIEST;
            }
        }
    }
    free(y);
    free(y_size);
    free(error);
    int64_t n_out = s->n_cols * s->n_rows;
    for (int64_t i = 0; i < n_out && c->glu != SOBRE_ACT_NONE; i++) {
        double gate = d->out[0][i], up = d->out[1][i], off = d->tolerance[0][i];
        d->out[0][i] = conf_act(c->glu, gate) * up;
        d->tolerance[0][i] = 1.2 * off * (fabs(up) + d->tolerance[1][i]) +
                             fabs(gate) * d->tolerance[1][i] + 16 * CONF_EPS * fabs(gate * up);
    }
    for (int64_t i = 0; i < n_out && c->residual; i++) {
        d->tolerance[0][i] +=
            CONF_EPS * (fabs(d->out[0][i]) + fabs((double)d->residual[i])) + CONF_TINIEST;
        d->out[0][i] += (double)d->residual[i];
    }
}

/* Is the case among those to run? Asked before the work of a reference. */
static bool is_wanted(const conf *c, const mm_case *m, char name[CONF_NAME_SIZE])
{
    const mm_shape *s = &m->shape;
    char types[64] = "";
    for (int32_t i = 0; i < m->n_weights; i++)
        if (i == 0 || m->dtypes[i] != m->dtypes[0])
            snprintf(types + strlen(types), sizeof types - strlen(types), "%s%s", i ? "+" : "",
                     dtype_get(m->dtypes[i])->name);
    snprintf(name, CONF_NAME_SIZE, "%s %s%s, %s [%d, %d] x %d", m->name, types,
             m->exact ? " exact" : "", conf_kind_name(m->kind), (int)s->n_rows, (int)s->k,
             (int)s->n_cols);
    return conf_wants(c, s->size, name);
}

/* Builds and runs the case on the device that `c` is for; `out` (may be NULL) gets the first
 * output. */
static void run_case(conf *c, const mm_case *m, const char *name, const mm_data *d, float *out)
{
    const mm_shape *s = &m->shape;
    rig *r = &c->rig;
    if (!conf_begin(c, s->size, s->n_cols, 1, "%s", name)) return;
    r->exact = m->exact;
    sobre_node node = rig_node(SOBRE_OP_MATMUL);
    node.p.matmul = (sobre_matmul_params){m->n_weights, {m->norm, 1e-5f}, m->glu};
    if (m->norm == SOBRE_NORM_NONE) node.p.matmul.norm.eps = 0;
    node.n_out = m->glu == SOBRE_ACT_NONE ? m->n_weights : 1;
    node.in[SOBRE_MATMUL_X] = rig_input(r, SOBRE_DIM_T, s->k);
    if (m->norm != SOBRE_NORM_NONE)
        node.in[SOBRE_MATMUL_NORM_W] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, s->k, d->norm_w);
    if (m->norm_bias)
        node.in[SOBRE_MATMUL_NORM_B] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, s->k, d->norm_b);
    for (int32_t i = 0; i < m->n_weights; i++) {
        node.in[SOBRE_MATMUL_W0 + 2 * i] =
            rig_weight_file(r, m->dtypes[i], SOBRE_WEIGHT_MATMUL, d->n_rows[i], s->k, d->file[i]);
        if (m->bias)
            node.in[SOBRE_MATMUL_B0 + 2 * i] =
                rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, d->n_rows[i], d->bias[i]);
        if (i < node.n_out) node.out[i] = rig_input(r, SOBRE_DIM_T, d->n_rows[i]);
    }
    if (m->residual) node.in[SOBRE_MATMUL_RESIDUAL] = rig_input(r, SOBRE_DIM_T, s->n_rows);
    rig_add(r, &node);
    if (conf_compile(c)) {
        rig_write(r, node.in[SOBRE_MATMUL_X], d->x, (uint64_t)(s->n_cols * s->k) * 4);
        if (m->residual)
            rig_write(r, node.in[SOBRE_MATMUL_RESIDUAL], d->residual,
                      (uint64_t)(s->n_cols * s->n_rows) * 4);
        conf_run(c, s->n_cols, 1, NULL, 0);
        for (int32_t i = 0; i < node.n_out; i++)
            conf_expect(c, node.out[i], s->n_cols * d->n_rows[i], d->out[i], d->tolerance[i]);
        if (out) rig_read(r, node.out[0], out, (uint64_t)(s->n_cols * s->n_rows) * 4);
    }
    conf_end(c);
}

static void mm_check(conf *c, const mm_case *m)
{
    char name[CONF_NAME_SIZE];
    if (!is_wanted(c, m, name)) return;
    mm_data d = data_make(c, m);
    reference(m, &d, !strcmp(c->device->backend, "cpu") && !m->exact);
    run_case(c, m, name, &d, NULL);
    data_free(&d);
}

/* --- Types */

/* Is it one of those that others are widened to on a GPU? A simulator is too slow for more. */
static bool is_plain(sobre_dtype dtype)
{
    return dtype == SOBRE_F32 || dtype == SOBRE_F16 || dtype == SOBRE_Q4_0 || dtype == SOBRE_Q4_1 ||
           dtype == SOBRE_Q8_0;
}

/* For types of single elements, blocks of 32 and blocks of 256: K and so on. Columns on both sides
 * of each tile's edge. */
static void types_family(conf *c)
{
    static const struct {
        conf_size size;
        int32_t n_cols;
        int64_t n_rows;
        int64_t k[3];
    } shapes[] = {
        {CONF_TINY, 1, 5, {33, 64, 256}},         {CONF_TINY, 3, 5, {7, 96, 256}},
        {CONF_TINY, 9, 17, {40, 32, 256}},        {CONF_USUAL, 1, 1, {1, 32, 256}},
        {CONF_USUAL, 1, 100, {333, 288, 512}},    {CONF_USUAL, 3, 17, {577, 576, 768}},
        {CONF_USUAL, 8, 128, {256, 256, 256}},    {CONF_USUAL, 9, 100, {333, 288, 512}},
        {CONF_USUAL, 40, 70, {129, 160, 256}},    {CONF_USUAL, 300, 65, {77, 96, 256}},
        {CONF_LARGE, 1, 1536, {576, 576, 512}},   {CONF_LARGE, 1, 8192, {2048, 2048, 2048}},
        {CONF_LARGE, 8, 1536, {576, 576, 512}},   {CONF_LARGE, 128, 1536, {576, 576, 512}},
        {CONF_LARGE, 512, 1536, {576, 576, 512}},
    };
    for (int32_t i = 0; i < RIG_N_DTYPES; i++) {
        int32_t block = dtype_get(rig_dtypes[i])->block;
        if (c->size == CONF_TINY && !is_plain(rig_dtypes[i])) continue;
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (int exact = 0; exact < 2; exact++) {
                if (exact && (!quant_form_get(rig_dtypes[i]) || c->size == CONF_TINY)) continue;
                mm_case m = {.name = "matmul",
                             .shape = {shapes[s].size, shapes[s].n_cols, shapes[s].n_rows,
                                       shapes[s].k[block == 1    ? 0
                                                   : block == 32 ? 1
                                                                 : 2]},
                             .n_weights = 1,
                             .dtypes = {rig_dtypes[i]},
                             .exact = exact};
                mm_check(c, &m);
            }
    }
}

/* --- What stands around products */

static void around_family(conf *c)
{
    static const sobre_dtype mixes[][MAX_WEIGHTS] = {
        {SOBRE_Q8_0, SOBRE_F16, SOBRE_Q4_1, SOBRE_F32},
        {SOBRE_Q4_0, SOBRE_Q4_0, SOBRE_Q4_0, SOBRE_Q4_0},
        {SOBRE_Q4_1, SOBRE_Q4_1, SOBRE_Q8_0, SOBRE_BF16},
    };
    static const mm_case kinds[] = {
        {.name = "matmul bias", .n_weights = 1, .bias = true},
        {.name = "matmul residual", .n_weights = 1, .residual = true},
        {.name = "matmul bias residual", .n_weights = 1, .bias = true, .residual = true},
        {.name = "matmul rms", .n_weights = 1, .norm = SOBRE_NORM_RMS},
        {.name = "matmul layer", .n_weights = 1, .norm = SOBRE_NORM_LAYER, .norm_bias = true},
        {.name = "matmul rms bias, 3 weights",
         .n_weights = 3,
         .norm = SOBRE_NORM_RMS,
         .bias = true,
         .more_rows = 13},
        {.name = "matmul, 2 weights", .n_weights = 2, .more_rows = 13},
        {.name = "matmul layer, 4 weights", .n_weights = 4, .norm = SOBRE_NORM_LAYER},
        {.name = "matmul rms glu silu",
         .n_weights = 2,
         .norm = SOBRE_NORM_RMS,
         .glu = SOBRE_ACT_SILU},
        {.name = "matmul rms glu silu bias residual",
         .n_weights = 2,
         .norm = SOBRE_NORM_RMS,
         .glu = SOBRE_ACT_SILU,
         .bias = true,
         .residual = true},
        {.name = "matmul glu gelu_tanh", .n_weights = 2, .glu = SOBRE_ACT_GELU_TANH},
        {.name = "matmul glu gelu_erf", .n_weights = 2, .glu = SOBRE_ACT_GELU_ERF},
        {.name = "matmul glu relu", .n_weights = 2, .glu = SOBRE_ACT_RELU, .residual = true},
    };
    static const mm_shape shapes[] = {{CONF_TINY, 1, 19, 96},
                                      {CONF_TINY, 9, 19, 96},
                                      {CONF_USUAL, 3, 100, 288},
                                      {CONF_USUAL, 40, 40, 96}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (size_t x = 0; x < sizeof mixes / sizeof mixes[0]; x++)
                for (int exact = 0; exact < 2; exact++) {
                    mm_case m = kinds[k];
                    if (c->size == CONF_TINY && (exact || x != k % 3)) continue; /* in turns */
                    m.shape = shapes[s];
                    m.exact = exact;
                    memcpy(m.dtypes, mixes[x], sizeof m.dtypes);
                    mm_check(c, &m);
                }
}

/* --- Values */

static void values_family(conf *c)
{
    static const sobre_dtype dtypes[] = {SOBRE_F32, SOBRE_F16, SOBRE_Q4_0, SOBRE_Q4_1, SOBRE_Q8_0};
    static const int32_t n_cols[] = {1, 9};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        for (int kind = CONF_DENORMAL; kind <= CONF_HUGE; kind++)
            for (int n = 0; n < 2; n++) {
                mm_case m = {.name = "matmul",
                             .shape = {CONF_USUAL, n_cols[n], 40, 96},
                             .kind = kind,
                             .n_weights = 1,
                             .dtypes = {dtypes[i]},
                             .residual = true,
                             .exact = true};
                mm_check(c, &m);
            }
}

/* --- A weight that is a table and a matrix */

static void tied_family(conf *c)
{
    static const sobre_dtype dtypes[] = {SOBRE_Q4_1, SOBRE_Q8_0, SOBRE_Q6_K, SOBRE_F16};
    enum { N = 40, K = 256, T = 3 };
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        rig *r = &c->rig;
        static const int32_t ids[T] = {39, 0, 17};
        mm_case m = {.shape = {CONF_TINY, T, N, K}, .n_weights = 1, .dtypes = {dtypes[i]}};
        if (!conf_begin(c, CONF_TINY, T, 1, "tied embedding %s", dtype_get(dtypes[i])->name))
            continue;
        r->exact = true;
        mm_data d = data_make(c, &m);
        sobre_node embed = rig_node(SOBRE_OP_EMBED), product = rig_node(SOBRE_OP_MATMUL);
        embed.p.factor = 1.0f;
        embed.in[SOBRE_EMBED_IDS] = rig_ints(r, SOBRE_DIM_T);
        embed.in[SOBRE_EMBED_TABLE] = rig_weight_file(
            r, dtypes[i], SOBRE_WEIGHT_MATMUL | SOBRE_WEIGHT_TABLE, N, K, d.file[0]);
        embed.out[0] = rig_input(r, SOBRE_DIM_T, K);
        product.p.matmul.n_weights = 1;
        product.in[SOBRE_MATMUL_X] = embed.out[0];
        product.in[SOBRE_MATMUL_W0] = embed.in[SOBRE_EMBED_TABLE];
        product.out[0] = rig_input(r, SOBRE_DIM_T, N);
        rig_add(r, &embed);
        rig_add(r, &product);
        if (conf_compile(c)) {
            for (int t = 0; t < T; t++) memcpy(d.x + t * K, d.w[0] + ids[t] * K, K * sizeof *d.x);
            reference(&m, &d, false);
            rig_write(r, embed.in[SOBRE_EMBED_IDS], ids, sizeof ids);
            conf_run(c, T, 1, NULL, 0);
            conf_expect_exact(c, embed.out[0], T * K, d.x);
            conf_expect(c, product.out[0], T * N, d.out[0], d.tolerance[0]);
        }
        conf_end(c);
        data_free(&d);
    }
}

/* --- A library's products, beside our own */

static void blas_family(conf *c)
{
    static const mm_case cases[] = {
        {.name = "matmul by BLAS",
         .shape = {CONF_USUAL, 256, 65, 96},
         .n_weights = 1,
         .dtypes = {SOBRE_F32}},
        {.name = "matmul by BLAS",
         .shape = {CONF_USUAL, 300, 100, 333},
         .n_weights = 1,
         .dtypes = {SOBRE_F16},
         .residual = true},
        {.name = "matmul by BLAS, rms glu",
         .shape = {CONF_USUAL, 257, 64, 96},
         .n_weights = 2,
         .dtypes = {SOBRE_F16, SOBRE_F16},
         .norm = SOBRE_NORM_RMS,
         .glu = SOBRE_ACT_SILU},
        {.name = "matmul by BLAS",
         .shape = {CONF_LARGE, 512, 1536, 576},
         .n_weights = 1,
         .dtypes = {SOBRE_F16}},
    };
    rig_device *own = c->device;
    if (!c->blas) return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const mm_case *m = &cases[i];
        char name[CONF_NAME_SIZE];
        if (!is_wanted(c, m, name)) continue;
        int64_t n = m->shape.n_cols * m->shape.n_rows;
        mm_data d = data_make(c, m);
        float *ours = rig_alloc((uint64_t)n * 4), *theirs = rig_alloc((uint64_t)n * 4);
        reference(m, &d, false);
        run_case(c, m, name, &d, ours);
        c->device = c->blas;
        run_case(c, m, name, &d, theirs);
        c->device = own;
        for (int64_t k = 0; k < n; k++) /* each is within one tolerance of the truth */
            assert_true(fabs((double)ours[k] - (double)theirs[k]) <= 2 * d.tolerance[0][k]);
        free(ours);
        free(theirs);
        data_free(&d);
    }
}

const conf_family conf_mm_families[] = {
    {"products of every type", types_family},
    {"products with norms, biases, activations", around_family},
    {"products of small and large values", values_family},
    {"tied embeddings", tied_family},
    {"products by a library", blas_family},
    {NULL, NULL},
};
