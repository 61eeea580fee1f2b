/* SPDX-License-Identifier: MIT */
/* Embedding, norms, rotary positions and operations by element. */
#include "rows.h"

#include <limits.h>
#include <math.h>

#include "gpu.h"

static const gpu_extent one_group = {GPU_ONE, 1, 1};

bool gpu_rows_supports(const sobre_device *device, const sobre_value *values,
                       const sobre_node *node)
{
    switch (node->op) {
    case SOBRE_OP_EMBED: {
        const sobre_value *table = &values[node->in[SOBRE_EMBED_TABLE]];
        sobre_weight weight = gpu_weight_of(table, SOBRE_WEIGHT_TABLE);
        gpu_layout layout;
        return gpu_layout_of(&weight, &layout);
    }
    case SOBRE_OP_GATHER:
    case SOBRE_OP_NORM:
    case SOBRE_OP_ROPE:
    case SOBRE_OP_GLU:
    case SOBRE_OP_ACTIVATION:
    case SOBRE_OP_ADD:
    case SOBRE_OP_MUL:
    case SOBRE_OP_SCALE:
    case SOBRE_OP_SOFTCAP:
    case SOBRE_OP_ARGMAX: return true;
    default: return false;
    }
}

/* Elements of a row of a value; what kernels index with an int must not be larger than that. */
static int32_t row_width(gpu_builder *b, int32_t value)
{
    int64_t width = b->program->values[value].dims[1], most = gpu_most(b, value);
    if (width * (most > 0 ? most : 1) <= INT32_MAX - ROWS_GROUP) return (int32_t)width;
    gpu_fail(b, SOBRE_UNSUPPORTED,
             "%lld rows of %lld elements are too many for this device; use a smaller batch",
             (long long)most, (long long)width);
    return 1;
}

/* Groups for as many work-items as `per_row` times the rows of a value. */
static gpu_extent items_of(const gpu_builder *b, int32_t value, int32_t per_row)
{
    return (gpu_extent){gpu_count_of(b, value), per_row, ROWS_GROUP};
}

/* A kernel that counts rows of `value` by the run table. */
static void arg_rows(gpu_args *args, const gpu_builder *b, int32_t value)
{
    gpu_arg_run(args, b);
    gpu_arg_int(args, gpu_run_index(gpu_count_of(b, value)));
}

static void build_embed(gpu_builder *b, const sobre_node *node)
{
    int32_t table = node->in[SOBRE_EMBED_TABLE], out = node->out[0];
    int32_t width = row_width(b, out);
    sobre_weight weight = gpu_weight_of(&b->program->values[table], SOBRE_WEIGHT_TABLE);
    gpu_layout layout = {0};
    (void)gpu_layout_of(&weight, &layout); /* supports() has seen it */
    gpu_variant variant =
        gpu_variant_of("embed.cl", "embed", ROWS_GROUP, "WTYPE=%d", (int)layout.type);
    gpu_args args = {.n = 0};
    arg_rows(&args, b, out);
    gpu_arg_int(&args, width);
    gpu_arg_int(&args, (int32_t)layout.n_blocks);
    gpu_arg_float(&args, node->p.factor);
    gpu_arg_value(&args, b, node->in[SOBRE_EMBED_IDS]);
    gpu_arg_weight(&args, b, table);
    gpu_arg_value(&args, b, out);
    gpu_add(b, node, &variant, &args, items_of(b, out, width), one_group, 0);
}

static void build_gather(gpu_builder *b, const sobre_node *node)
{
    int32_t x = node->in[SOBRE_GATHER_X], out = node->out[0];
    int32_t width = row_width(b, out);
    gpu_variant variant = gpu_variant_of("rows.cl", "row_gather", ROWS_GROUP, "");
    gpu_args args = {.n = 0};
    (void)row_width(b, x);
    if (gpu_mm_takes_rows(b, node)) return;
    arg_rows(&args, b, out);
    gpu_arg_int(&args, width);
    gpu_arg_value(&args, b, x);
    gpu_arg_value(&args, b, node->in[SOBRE_GATHER_ROWS]);
    gpu_arg_value(&args, b, out);
    gpu_add(b, node, &variant, &args, items_of(b, out, width), one_group, 0);
}

/* Where a norm writes to. */
typedef struct norm_to {
    int32_t value; /* -1: workspace */
    uint64_t work_at;
} norm_to;

/* Normalises `group` elements at a time. */
static void add_norm(gpu_builder *b, const sobre_node *node, int32_t x, int32_t w, int32_t bias,
                     const sobre_norm_params *p, int64_t group, norm_to to)
{
    int32_t width = row_width(b, x);
    int32_t n = group < width ? (int32_t)group : width;
    gpu_variant variant = gpu_variant_of("rows.cl", "row_norm", ROWS_GROUP, "");
    gpu_args args = {.n = 0};
    gpu_arg_int(&args, n);
    gpu_arg_int(&args, p->kind == SOBRE_NORM_LAYER);
    gpu_arg_float(&args, p->eps);
    gpu_arg_value(&args, b, x);
    gpu_arg_value(&args, b, w);
    gpu_arg_value(&args, b, bias);
    if (to.value >= 0)
        gpu_arg_value(&args, b, to.value);
    else
        gpu_arg_work(&args, b, to.work_at, sizeof(float));
    gpu_add(b, node, &variant, &args, (gpu_extent){gpu_count_of(b, x), width / n, 1}, one_group, 0);
}

void gpu_norm_build(gpu_builder *b, const sobre_node *node, int32_t x, int32_t w, int32_t bias,
                    const sobre_norm_params *p, int64_t width, uint64_t work_at)
{
    add_norm(b, node, x, w, bias, p, width, (norm_to){-1, work_at});
}

static void build_norm(gpu_builder *b, const sobre_node *node)
{
    int32_t x = node->in[SOBRE_NORM_X], w = gpu_in(node, SOBRE_NORM_W);
    const sobre_value *values = b->program->values;
    int64_t group = w < 0 ? values[x].dims[1] : values[w].dims[0];
    add_norm(b, node, x, w, gpu_in(node, SOBRE_NORM_B), &node->p.norm, group,
             (norm_to){.value = node->out[0]});
}

static void build_map(gpu_builder *b, const sobre_node *node)
{
    static const int32_t ops[SOBRE_N_OPS] = {
        [SOBRE_OP_ADD] = MAP_ADD,        [SOBRE_OP_MUL] = MAP_MUL,
        [SOBRE_OP_SCALE] = MAP_SCALE,    [SOBRE_OP_SOFTCAP] = MAP_SOFTCAP,
        [SOBRE_OP_ACTIVATION] = MAP_ACT, [SOBRE_OP_GLU] = MAP_GLU,
    };
    bool has_act = node->op == SOBRE_OP_ACTIVATION || node->op == SOBRE_OP_GLU;
    bool has_factor = node->op == SOBRE_OP_SCALE || node->op == SOBRE_OP_SOFTCAP;
    int32_t y = has_factor ? -1 : gpu_in(node, SOBRE_BINARY_B), out = node->out[0];
    int32_t width = row_width(b, out);
    gpu_variant variant = gpu_variant_of("rows.cl", "row_map", ROWS_GROUP, "");
    gpu_args args = {.n = 0};
    arg_rows(&args, b, out);
    gpu_arg_int(&args, width);
    gpu_arg_int(&args, ops[node->op]);
    gpu_arg_int(&args, has_act ? (int32_t)node->p.act : SOBRE_ACT_NONE);
    gpu_arg_float(&args, has_factor ? node->p.factor : 1.0f);
    gpu_arg_value(&args, b, node->in[SOBRE_BINARY_A]);
    gpu_arg_value(&args, b, y);
    gpu_arg_int(&args, y >= 0 && b->program->values[y].rank == 1);
    gpu_arg_value(&args, b, out);
    gpu_add(b, node, &variant, &args, items_of(b, out, width), one_group, 0);
}

uint64_t gpu_rope_const(gpu_builder *b, const sobre_rope_params *rope)
{
    const double turn = 6.283185307179586;
    const sobre_host *host = b->device->host;
    int32_t n_pairs = rope->n_dims / 2;
    size_t size = (size_t)n_pairs * 2 * sizeof(float);
    float *table = host->alloc(host->context, size, _Alignof(float));
    if (!table) {
        if (b->status >= 0) b->status = SOBRE_OUT_OF_MEMORY;
        return 0;
    }
    for (int32_t i = 0; i < n_pairs; i++) {
        double turns = rope->scale * pow(rope->base, -2.0 * i / rope->n_dims) / turn;
        table[2 * i] = (float)turns;
        table[2 * i + 1] = (float)(turns - table[2 * i]);
    }
    uint64_t at = gpu_const(b, table, size);
    host->free(host->context, table);
    return at;
}

static void build_rope(gpu_builder *b, const sobre_node *node)
{
    const sobre_rope_node_params *p = &node->p.rope;
    int32_t x = node->in[SOBRE_ROPE_X], per_head = p->head_dim / 2 + p->head_dim % 2;
    gpu_variant variant = gpu_variant_of("rope.cl", "rope", ROWS_GROUP, "");
    gpu_args args = {.n = 0};
    (void)row_width(b, x);
    arg_rows(&args, b, x);
    gpu_arg_int(&args, p->n_head);
    gpu_arg_int(&args, p->head_dim);
    gpu_arg_int(&args, p->rope.n_dims);
    gpu_arg_int(&args, p->rope.kind == SOBRE_ROPE_HALVES);
    gpu_arg_const(&args, b, gpu_rope_const(b, &p->rope), sizeof(float));
    gpu_arg_value(&args, b, gpu_in(node, SOBRE_ROPE_FACTORS));
    gpu_arg_value(&args, b, node->in[SOBRE_ROPE_POS]);
    gpu_arg_value(&args, b, x);
    gpu_arg_value(&args, b, node->out[0]);
    gpu_add(b, node, &variant, &args, items_of(b, x, p->n_head * per_head), one_group, 0);
}

static void build_argmax(gpu_builder *b, const sobre_node *node)
{
    int32_t x = node->in[SOBRE_UNARY_X];
    gpu_variant variant = gpu_variant_of("rows.cl", "row_argmax", ROWS_GROUP, "");
    gpu_args args = {.n = 0};
    gpu_arg_int(&args, row_width(b, x));
    gpu_arg_value(&args, b, x);
    gpu_arg_value(&args, b, node->out[0]);
    gpu_add(b, node, &variant, &args, (gpu_extent){gpu_count_of(b, x), 1, 1}, one_group, 0);
}

void gpu_rows_build(gpu_builder *b, const sobre_node *node)
{
    switch (node->op) {
    case SOBRE_OP_EMBED: build_embed(b, node); break;
    case SOBRE_OP_GATHER: build_gather(b, node); break;
    case SOBRE_OP_NORM: build_norm(b, node); break;
    case SOBRE_OP_ROPE: build_rope(b, node); break;
    case SOBRE_OP_ARGMAX: build_argmax(b, node); break;
    default: build_map(b, node);
    }
}
