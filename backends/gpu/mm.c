/* SPDX-License-Identifier: MIT */
/*
 * Products: which kernels a matmul node becomes, and in how many groups.
 *
 * Up to GEMV_COLS columns take gemv.cl, norm and all, in one launch for each run of weights of one
 * type; it also picks rows and puts together what attention left in parts. More take mm.cl behind a
 * launch of the norm; from GPU_BLAS_COLS on, weights of floats may also go through the driver's
 * library, which is decided run by run. Where local memory is flat, any number of columns takes
 * mm_flat.cl in place of both.
 */
#include "gemv.h"
#include "gpu.h"
#include "run.h"

enum {
    GEMV_COLS = 8,
    GEMV_FIRST_LANES = 8, /* of 16 bytes each: a line of most caches */
    GEMV_MOST_A_UNIT = 8, /* more do not run at once */
    DENSE_GROUP = 256,
};
static const uint64_t widened_most = UINT64_C(256) << 20; /* bytes of f16 weights as f32 */

_Static_assert(NORM_RMS == SOBRE_NORM_RMS && NORM_LAYER == SOBRE_NORM_LAYER, "kernels' numbers");

/* One weight of a node with what belongs to it. */
typedef struct factor {
    int32_t weight, bias, out; /* values; -1: missing */
    int32_t n_rows;
    gpu_layout layout;
} factor;

typedef struct product {
    const sobre_node *node;
    int32_t x, rows, residual;     /* values; rows: of x that are its columns, -1: all are */
    int32_t n_in, n_weights, most; /* columns */
    gpu_count count;
    bool is_glu;
    factor factors[SOBRE_MAX_OUT];
} product;

static bool layout_of(const sobre_value *value, gpu_layout *ret_layout)
{
    sobre_weight weight = gpu_weight_of(value, SOBRE_WEIGHT_MATMUL);
    return gpu_layout_of(&weight, ret_layout);
}

bool gpu_mm_supports(const sobre_device *device, const sobre_value *values, const sobre_node *node)
{
    const sobre_matmul_params *p = &node->p.matmul;
    gpu_layout first = {0};
    for (int32_t i = 0; i < p->n_weights; i++) {
        gpu_layout layout;
        if (!layout_of(&values[gpu_in(node, SOBRE_MATMUL_W0 + 2 * i)], &layout)) return false;
        if (i == 0) first = layout;
        /* A work-item computes gate and up in one loop. */
        if (p->glu != SOBRE_ACT_NONE && layout.type != first.type) return false;
    }
    return p->norm.kind <= SOBRE_NORM_LAYER && p->glu <= SOBRE_ACT_RELU;
}

static product product_of(gpu_builder *b, const sobre_node *node)
{
    const sobre_value *values = b->program->values;
    const sobre_matmul_params *p = &node->p.matmul;
    int32_t x = gpu_in(node, SOBRE_MATMUL_X);
    product m = {
        .node = node,
        .x = x,
        .rows = -1,
        .residual = gpu_in(node, SOBRE_MATMUL_RESIDUAL),
        .n_in = (int32_t)values[x].dims[1],
        .n_weights = p->n_weights,
        .most = gpu_most(b, x),
        .count = gpu_count_of(b, x),
        .is_glu = p->glu != SOBRE_ACT_NONE,
    };
    int32_t widest = m.n_in;
    for (int32_t i = 0; i < m.n_weights; i++) {
        factor *f = &m.factors[i];
        f->weight = gpu_in(node, SOBRE_MATMUL_W0 + 2 * i);
        f->bias = gpu_in(node, SOBRE_MATMUL_B0 + 2 * i);
        f->out = i < node->n_out ? node->out[i] : -1;
        f->n_rows = (int32_t)values[f->weight].dims[0];
        (void)layout_of(&values[f->weight], &f->layout); /* supports() has seen it */
        if (f->n_rows > widest) widest = f->n_rows;
    }
    if ((int64_t)m.most * widest > INT32_MAX)
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "%d rows of %d elements are more than a kernel can address; use a smaller batch",
                 (int)m.most, (int)widest);
    return m;
}

static int32_t divide_up(int32_t n, int32_t by)
{
    return (n + by - 1) / by;
}

/* Weights from `first` on that go into one launch: of one type, and few enough. */
static int32_t launch_weights(const product *m, int32_t first)
{
    int32_t n = 1;
    while (first + n < m->n_weights && n < MM_SEGMENTS &&
           m->factors[first + n].layout.type == m->factors[first].layout.type)
        n++;
    return n;
}

/* The arguments that gemv and mm end with; what is missing has no rows. */
static void arg_segments(gpu_args *args, gpu_builder *b, const factor *f, int32_t n)
{
    for (int32_t i = 0; i < MM_SEGMENTS; i++) {
        gpu_arg_weight(args, b, f[i < n ? i : 0].weight);
        gpu_arg_int(args, i < n ? f[i].n_rows : 0);
        gpu_arg_value(args, b, i < n ? f[i].bias : -1);
        gpu_arg_value(args, b, i < n ? f[i].out : -1);
    }
}

/* --- gemv */

/* How many lanes share two rows, and how many groups the rows of each weight get.
 *
 * Few lanes make few groups, with much work for what each of them stages: good for tall weights.
 * More lanes make more groups, so that short ones fill the device too; but never more lanes than
 * there are units in a tile of a row. */
static int32_t gemv_grid(const gpu_builder *b, const product *m, const factor *f, int32_t n,
                         int32_t n_cols, int32_t *ret_groups)
{
    const int32_t n_units = (int32_t)b->device->caps.n_units, rows = m->is_glu ? 1 : 2;
    const int32_t unit = GEMV_UNIT(f->layout.type), tile = GEMV_TILE(n_cols);
    int32_t staged = (int32_t)f->layout.n_blocks * W_BLOCK, lanes = GEMV_FIRST_LANES, total;
    if (staged > tile) staged = tile;
    while (lanes > staged / unit) lanes /= 2;
    for (;; lanes *= 2) {
        total = 0;
        for (int32_t i = 0; i < n; i++)
            total += ret_groups[i] = divide_up(f[i].n_rows, GEMV_GROUP / lanes * rows);
        if (total >= n_units * GEMV_GROUPS_A_UNIT || lanes * 2 > staged / unit ||
            lanes == GEMV_GROUP)
            break;
    }
    /* As many chunks of rows for every group. */
    int32_t rounds = divide_up(total, n_units * GEMV_MOST_A_UNIT);
    for (int32_t i = 0; i < n; i++) ret_groups[i] = divide_up(ret_groups[i], rounds);
    return lanes;
}

/* Does this node, as a product behind the one that makes its x, go to gemv? */
static bool takes_gemv(const gpu_builder *b, const sobre_node *node)
{
    return gpu_most(b, node->in[SOBRE_MATMUL_X]) <= GEMV_COLS && !b->device->caps.flat_memory;
}

static const sobre_node *gemv_behind(const gpu_builder *b, const sobre_node *node)
{
    const sobre_node *next = gpu_sole_reader(b, node);
    bool good = next && next->op == SOBRE_OP_MATMUL && next->in[SOBRE_MATMUL_X] == node->out[0] &&
                takes_gemv(b, next);
    return good ? next : NULL;
}

bool gpu_mm_takes_parts(const gpu_builder *b, const sobre_node *node)
{
    const sobre_node *next = gemv_behind(b, node);
    return next && next->p.matmul.norm.kind == SOBRE_NORM_NONE;
}

static bool overlap(const sobre_span *a, const sobre_span *b)
{
    return a->buffer == b->buffer && a->offset < b->offset + b->size &&
           b->offset < a->offset + a->size;
}

bool gpu_mm_takes_rows(const gpu_builder *b, const sobre_node *node)
{
    const sobre_node *next = gemv_behind(b, node);
    const sobre_span *spans = b->program->spans;
    /* What is picked from need not live any longer than the gather. */
    for (int32_t i = 0; next && i < next->n_out; i++)
        if (overlap(&spans[node->in[SOBRE_GATHER_X]], &spans[next->out[i]])) next = NULL;
    return next != NULL;
}

/* x, and how columns are found there. */
static void arg_gemv_x(gpu_args *args, gpu_builder *b, const product *m, const gpu_parts *parts)
{
    if (parts)
        gpu_arg_work(args, b, parts->sums_at, sizeof(float));
    else
        gpu_arg_value(args, b, m->x);
    gpu_arg_value(args, b, m->rows);
    if (parts)
        gpu_arg_work(args, b, parts->scores_at, sizeof(float));
    else
        gpu_arg_value(args, b, -1);
    gpu_arg_int(args, parts ? parts->n_splits : 0);
    gpu_arg_int(args, parts ? parts->head_dim : 0);
}

/* With parts: of runs that leave x in them. */
static void build_gemv(gpu_builder *b, const product *m, const gpu_parts *parts, uint32_t when)
{
    const sobre_norm_params *norm = &m->node->p.matmul.norm;
    const int32_t n_cols = m->most == 1 ? 1 : m->most <= 4 ? 4 : GEMV_COLS;
    for (int32_t first = 0, n; first < m->n_weights; first += n) {
        const factor *f = &m->factors[first];
        n = launch_weights(m, first);
        int32_t groups[MM_SEGMENTS] = {0};
        int32_t lanes = gemv_grid(b, m, f, m->is_glu ? 1 : n, n_cols, groups);
        gpu_args args = {.n = 0};
        gpu_arg_run(&args, b);
        gpu_arg_int(&args, gpu_run_index(m->count));
        arg_gemv_x(&args, b, m, parts);
        gpu_arg_value(&args, b, gpu_in(m->node, SOBRE_MATMUL_NORM_W));
        gpu_arg_value(&args, b, gpu_in(m->node, SOBRE_MATMUL_NORM_B));
        gpu_arg_value(&args, b, m->residual);
        gpu_arg_int(&args, m->n_in);
        gpu_arg_int(&args, norm->kind);
        gpu_arg_float(&args, norm->eps);
        gpu_arg_int(&args, m->node->p.matmul.glu);
        gpu_arg_int(&args, lanes);
        gpu_arg_int(&args, groups[0]);
        gpu_arg_int(&args, groups[1]);
        arg_segments(&args, b, f, n);
        gpu_variant variant = gpu_variant_of("gemv.cl", "gemv", GEMV_GROUP, "WTYPE=%d NC=%d",
                                             (int)f->layout.type, (int)n_cols);
        gpu_add(b, m->node, &variant, &args,
                (gpu_extent){GPU_ONE, groups[0] + groups[1] + groups[2], 1},
                (gpu_extent){m->count, 1, n_cols}, when);
    }
}

static void build_gemvs(gpu_builder *b, product *m)
{
    const sobre_node *before = m->node > b->program->nodes ? m->node - 1 : NULL;
    const gpu_parts parts = b->parts;
    if (before && before->op == SOBRE_OP_GATHER && before->out[0] == m->x &&
        gpu_mm_takes_rows(b, before)) {
        m->x = before->in[SOBRE_GATHER_X];
        m->rows = before->in[SOBRE_GATHER_ROWS];
    }
    if (parts.value < 0 || parts.value != m->x) {
        build_gemv(b, m, NULL, 0);
        return;
    }
    build_gemv(b, m, &parts, parts.when);
    if (parts.otherwise) build_gemv(b, m, NULL, parts.otherwise);
}

/* --- mm */

/* x, or where norm(x) has been put. */
static void arg_x(gpu_args *args, gpu_builder *b, const product *m, uint64_t normed_at)
{
    if (m->node->p.matmul.norm.kind == SOBRE_NORM_NONE)
        gpu_arg_value(args, b, m->x);
    else
        gpu_arg_work(args, b, normed_at, sizeof(float));
}

static void build_mm(gpu_builder *b, const product *m, uint64_t normed_at, uint32_t when)
{
    const bool flat = b->device->caps.flat_memory;
    const int32_t n_cols = !flat ? MM_TILE : m->most == 1 ? 1 : MM_FLAT_COLS;
    const int32_t n_rows = flat ? MM_FLAT_GROUP : m->is_glu ? MM_TILE / 2 : MM_TILE;
    for (int32_t first = 0, n; first < m->n_weights; first += n) {
        const factor *f = &m->factors[first];
        int32_t n_groups = 0;
        n = launch_weights(m, first);
        for (int32_t i = 0; i < (m->is_glu ? 1 : n); i++)
            n_groups += divide_up(f[i].n_rows, n_rows);
        gpu_args args = {.n = 0};
        gpu_arg_run(&args, b);
        gpu_arg_int(&args, gpu_run_index(m->count));
        arg_x(&args, b, m, normed_at);
        gpu_arg_value(&args, b, m->residual);
        gpu_arg_int(&args, m->n_in);
        gpu_arg_int(&args, m->node->p.matmul.glu);
        arg_segments(&args, b, f, n);
        gpu_variant variant =
            flat ? gpu_variant_of("mm_flat.cl", "mm_flat", MM_FLAT_GROUP, "WTYPE=%d NC=%d",
                                  (int)f->layout.type, (int)n_cols)
                 : gpu_variant_of("mm.cl", "mm", MM_GROUP, "WTYPE=%d", (int)f->layout.type);
        gpu_add(b, m->node, &variant, &args, (gpu_extent){GPU_ONE, n_groups, 1},
                (gpu_extent){m->count, 1, n_cols}, when);
    }
}

/* --- The driver's library */

/* Bytes of a weight as f32. */
static uint64_t widened_size(const factor *f)
{
    return (uint64_t)f->n_rows * (uint64_t)f->layout.n_blocks * W_BLOCK * sizeof(float);
}

static bool has_blas(const gpu_builder *b, const product *m)
{
    const sobre_device *d = b->device;
    bool fits =
        d->driver->blas_gemm && d->host->blas != SOBRE_BLAS_NEVER && m->most >= GPU_BLAS_COLS;
    for (int32_t i = 0; i < m->n_weights; i++) {
        int32_t type = m->factors[i].layout.type;
        fits = fits &&
               (type == W_F32 || (type == W_F16 && widened_size(&m->factors[i]) <= widened_most));
    }
    return fits;
}

/* Memory as a product has it: with its offset in f32. */
static void place(const gpu_args *arg, uint64_t unit, gpu_mem **ret_mem, uint64_t *ret_at)
{
    *ret_mem = arg->a[0].u.mem;
    *ret_at = (uint64_t)arg->a[1].u.i * unit / sizeof(float);
}

/* Of all of a node's products, one after another. */
typedef struct scratch {
    uint64_t normed_at, widened_at, up_at, blas_at;
} scratch;

/* Everything but A, B and C's places, which are not known while workspace is measured. */
static gpu_gemm gemm_of(const product *m, const factor *f)
{
    return (gpu_gemm){.m = m->most,
                      .n = f->n_rows,
                      .k = m->n_in,
                      .lda = m->n_in,
                      .ldb = (int32_t)f->layout.n_blocks * W_BLOCK,
                      .ldc = f->n_rows};
}

static void take_scratch(gpu_builder *b, const product *m, scratch *s)
{
    uint64_t widened = 0, blas = 0;
    for (int32_t i = 0; i < m->n_weights; i++) {
        gpu_gemm gemm = gemm_of(m, &m->factors[i]);
        uint64_t size = 0;
        /* Matrices that begin where their memory does may need less, so suppose they do not. */
        gemm.a_at = gemm.b_at = gemm.c_at = 1;
        sobre_status status = b->device->driver->blas_work_size(b->device, &gemm, &size);
        if (status < 0 && b->status >= 0) b->status = status;
        if (size > blas) blas = size;
        size = m->factors[i].layout.type == W_F16 ? widened_size(&m->factors[i]) : 0;
        if (size > widened) widened = size;
    }
    if (widened > 0) s->widened_at = gpu_work(b, widened);
    if (m->is_glu)
        s->up_at = gpu_work(b, (uint64_t)m->most * (uint64_t)m->factors[1].n_rows * sizeof(float));
    s->blas_at = gpu_work(b, blas > 0 ? blas : sizeof(float));
}

static void add_gemm(gpu_builder *b, const product *m, const factor *f, const scratch *s,
                     bool is_up)
{
    enum { QUANTS_UNIT = 16 };
    gpu_gemm gemm = gemm_of(m, f);
    gpu_args a = {.n = 0}, w = {.n = 0}, c = {.n = 0}, work = {.n = 0};
    gpu_arg_weight(&w, b, f->weight);
    place(&w, QUANTS_UNIT, &gemm.b, &gemm.b_at);
    if (f->layout.type == W_F16) {
        int32_t n = (int32_t)(widened_size(f) / sizeof(float) / 4);
        gpu_args args = {.n = 2, .a = {w.a[0], w.a[1]}}, to = {.n = 0};
        gpu_arg_work(&args, b, s->widened_at, sizeof(float));
        gpu_arg_int(&args, n);
        gpu_variant variant = gpu_variant_of("dense.cl", "dense_widen", DENSE_GROUP, "");
        gpu_add(b, m->node, &variant, &args, (gpu_extent){GPU_ONE, divide_up(n, DENSE_GROUP), 1},
                (gpu_extent){GPU_ONE, 1, 1}, GPU_WHEN_BLAS);
        gpu_arg_work(&to, b, s->widened_at, sizeof(float));
        place(&to, sizeof(float), &gemm.b, &gemm.b_at);
    }
    arg_x(&a, b, m, s->normed_at);
    if (is_up)
        gpu_arg_work(&c, b, s->up_at, sizeof(float));
    else
        gpu_arg_value(&c, b, f->out);
    gpu_arg_work(&work, b, s->blas_at, sizeof(float));
    place(&a, sizeof(float), &gemm.a, &gemm.a_at);
    place(&c, sizeof(float), &gemm.c, &gemm.c_at);
    place(&work, sizeof(float), &gemm.work, &gemm.work_at);
    gpu_add_gemm(b, m->node, &gemm, m->count, GPU_WHEN_BLAS);
}

/* Biases, GLU and residual of a weight's output. */
static void add_finish(gpu_builder *b, const product *m, const factor *f, const scratch *s)
{
    if (!m->is_glu && f->bias < 0 && m->residual < 0) return;
    gpu_args args = {.n = 0};
    gpu_arg_value(&args, b, f->out);
    if (m->is_glu)
        gpu_arg_work(&args, b, s->up_at, sizeof(float));
    else
        gpu_arg_value(&args, b, -1);
    gpu_arg_value(&args, b, f->bias);
    gpu_arg_value(&args, b, m->is_glu ? m->factors[1].bias : -1);
    gpu_arg_value(&args, b, m->residual);
    gpu_arg_int(&args, f->n_rows);
    gpu_arg_int(&args, m->node->p.matmul.glu);
    gpu_variant variant = gpu_variant_of("dense.cl", "dense_finish", DENSE_GROUP, "");
    gpu_add(b, m->node, &variant, &args,
            (gpu_extent){GPU_ONE, divide_up(f->n_rows, DENSE_GROUP), 1},
            (gpu_extent){m->count, 1, 1}, GPU_WHEN_BLAS);
}

static void build_blas(gpu_builder *b, const product *m, uint64_t normed_at)
{
    scratch s = {.normed_at = normed_at};
    take_scratch(b, m, &s);
    for (int32_t i = 0; i < m->n_weights; i++)
        add_gemm(b, m, &m->factors[i], &s, m->is_glu && i == 1);
    for (int32_t i = 0; i < (m->is_glu ? 1 : m->n_weights); i++)
        add_finish(b, m, &m->factors[i], &s);
}

void gpu_mm_build(gpu_builder *b, const sobre_node *node)
{
    product m = product_of(b, node);
    const sobre_norm_params *norm = &node->p.matmul.norm;
    uint64_t normed_at = 0;
    if (b->status < 0) return;
    if (takes_gemv(b, node)) {
        build_gemvs(b, &m);
        return;
    }
    if (norm->kind != SOBRE_NORM_NONE) {
        normed_at = gpu_work(b, (uint64_t)m.most * (uint64_t)m.n_in * sizeof(float));
        gpu_norm_build(b, node, m.x, gpu_in(node, SOBRE_MATMUL_NORM_W),
                       gpu_in(node, SOBRE_MATMUL_NORM_B), norm, m.n_in, normed_at);
    }
    bool blas = has_blas(b, &m);
    if (blas) build_blas(b, &m, normed_at);
    build_mm(b, &m, normed_at, blas ? GPU_WHEN_NO_BLAS : 0);
}
