/* SPDX-License-Identifier: MIT */
/*
 * Attention as launches, by what the run brings. One column a sequence: attn_decode.cl, which also
 * does what q and k need before, and the cache's growth. If positions are split, what comes of that
 * is merged by the product behind, or for long sequences, or where that product cannot, by
 * attn_merge.cl. More columns: attn_append.cl, then attn_prefill.cl. How the cache lies in memory
 * is told in kernels_cl/attn.h.
 */
#include "attn.h"

#include <limits.h>
#include <math.h>

#include "attn_parts.h"
#include "checked.h"
#include "gpu.h"
#include "run.h"

enum {
    MIN_HEAD_DIM = 32,
    MAX_HEAD_DIM = 256,
    OCTET = 8,           /* numbers that the cache is counted in */
    DIRECT_PAGES = 4,    /* up to so many pages are not split */
    PAGES_PER_SPLIT = 2, /* at least, in a full context */
    MAX_SPLITS = 64,
    MAX_PARTS = 8,       /* splits that a product merges: each of its groups does it once more */
    GROUPS_PER_UNIT = 4, /* of attn_decode, that make a compute unit busy */
};

static const double log2_e = 1.4426950408889634;

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t ceil_div(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static bool has_head_dim(int32_t n)
{
    return n >= MIN_HEAD_DIM && n <= MAX_HEAD_DIM && n % OCTET == 0;
}

bool gpu_attn_supports(const sobre_device *device, const sobre_value *values,
                       const sobre_node *node)
{
    const sobre_attention_params *p = &node->p.attention;
    bool brings_k = gpu_in(node, SOBRE_ATTN_K) >= 0;
    return p->kv >= 0 && has_head_dim(p->head_dim) && p->head_dim_v == p->head_dim &&
           brings_k == (p->append != 0) && p->qk_norm.kind != SOBRE_NORM_LAYER &&
           gpu_in(node, SOBRE_ATTN_BIAS) < 0 && gpu_in(node, SOBRE_ATTN_SINKS) < 0 &&
           values[node->in[SOBRE_ATTN_Q]].dims[0] == SOBRE_DIM_T;
}

/* --- The cache */

static uint32_t item_size(sobre_kv_type type)
{
    return type == SOBRE_KV_F32 ? 4 : 2;
}

sobre_status gpu_kv_page_size(sobre_device *device, const sobre_kv_desc *desc, uint64_t *ret_size)
{
    const sobre_host *host = device->host;
    if (desc->type != SOBRE_KV_F32 && desc->type != SOBRE_KV_F16)
        return host->fail(host->context, SOBRE_UNSUPPORTED,
                          "KV cache: kv_type %d is none of f32 and f16, which this device has; use "
                          "one of them, or the CPU",
                          (int)desc->type);
    uint64_t octet_size = (uint64_t)OCTET * item_size(desc->type), size;
    uint64_t align = device->caps.alignment > octet_size ? device->caps.alignment : octet_size;
    if (!has_head_dim(desc->head_dim) || desc->head_dim_v != desc->head_dim || desc->n_head_kv < 1)
        return host->fail(host->context, SOBRE_UNSUPPORTED,
                          "KV cache: heads of %d numbers for K and %d for V, but this device takes "
                          "equal multiples of 8 from 32 to 256; run such layers on the CPU",
                          (int)desc->head_dim, (int)desc->head_dim_v);
    if (!checked_mul((uint64_t)RUN_PAGE * 2 * (uint64_t)desc->head_dim,
                     (uint64_t)desc->n_head_kv * item_size(desc->type), &size) ||
        !checked_round_up(size, align, &size))
        return host->fail(host->context, SOBRE_UNSUPPORTED,
                          "KV cache: a page of %d heads is larger than 2^64 bytes",
                          (int)desc->n_head_kv);
    *ret_size = size;
    return SOBRE_OK;
}

/* --- Launches */

typedef struct attn_build {
    const sobre_node *node;
    const sobre_attention_params *p;
    const sobre_kv_slot *slot; /* NULL: only sizes are asked */
    sobre_kv_type type;
    int32_t hd_max;
    bool prepares_q;    /* q is normed or rotated before use; in runs of many columns it is */
    uint64_t q_work;    /* then here, f32 [T, n_head * head_dim] */
    uint64_t slopes_at; /* constant, f32 [n_head]; only with ALiBi */
    float q_scale, cap; /* see attn_score() in kernels_cl/attn.h */
} attn_build;

/* Bytes of n f32, all of which a kernel can address. */
static uint64_t floats_size(gpu_builder *b, int64_t n_rows, int64_t n_head, int64_t width)
{
    uint64_t n = (uint64_t)width;
    if (!checked_mul(n, (uint64_t)n_rows, &n) || !checked_mul(n, (uint64_t)n_head, &n) ||
        n > INT32_MAX) {
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "%lld rows of %lld heads of %lld numbers are too many for this device; use a "
                 "smaller batch",
                 (long long)n_rows, (long long)n_head, (long long)width);
        return 0;
    }
    return n * sizeof(float);
}

/* Slopes of ALiBi (Press et al. 2022, arXiv:2108.12409), in units of log2(e). Where n_head is no
 * power of two: those of the next one down, then every other one of the next one up. */
static uint64_t slopes_const(gpu_builder *b, const sobre_attention_params *p)
{
    const sobre_host *host = b->device->host;
    size_t size = (size_t)p->n_head * sizeof(float);
    float *slopes = host->alloc(host->context, size, _Alignof(float));
    int32_t n = 1;
    if (!slopes) {
        if (b->status >= 0) b->status = SOBRE_OUT_OF_MEMORY;
        return 0;
    }
    while (n <= p->n_head / 2) n *= 2;
    for (int32_t h = 0; h < p->n_head; h++) {
        double step = h < n ? h + 1 : 0.5 * (2 * (h - n) + 1);
        slopes[h] = (float)(log2_e * exp2(-(double)p->max_alibi_bias * step / n));
    }
    uint64_t at = gpu_const(b, slopes, size);
    host->free(host->context, slopes);
    return at;
}

/* Octets are counted in 32 bits. */
static void check_cache(gpu_builder *b, const sobre_kv_slot *slot)
{
    uint64_t octet_size = (uint64_t)OCTET * item_size(slot->desc.type);
    if (slot->buffer && slot->buffer->size / octet_size > INT32_MAX)
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "a KV cache of %llu bytes is more than the %llu that kernels can address; use a "
                 "smaller n_ctx or n_seq, or f16",
                 (unsigned long long)slot->buffer->size,
                 (unsigned long long)(octet_size * INT32_MAX));
}

static attn_build begin_build(gpu_builder *b, const sobre_node *node)
{
    const sobre_attention_params *p = &node->p.attention;
    attn_build a = {.node = node, .p = p, .type = SOBRE_KV_F16};
    if (b->program->kv_slots && p->kv < b->program->n_kv_slots) {
        a.slot = &b->program->kv_slots[p->kv];
        a.type = a.slot->desc.type;
        check_cache(b, a.slot);
    }
    a.hd_max = p->head_dim <= 64 ? 64 : p->head_dim <= 128 ? 128 : 256;
    a.prepares_q = p->rope.kind != SOBRE_ROPE_NONE || p->qk_norm.kind != SOBRE_NORM_NONE;
    uint64_t q_size = floats_size(b, b->program->n_cols, p->n_head, p->head_dim);
    if (a.prepares_q && b->program->n_cols > 1) a.q_work = gpu_work(b, q_size);
    if (p->max_alibi_bias > 0.0f) a.slopes_at = slopes_const(b, p);
    if (p->softcap > 0.0f) {
        a.q_scale = p->scale / p->softcap;
        a.cap = (float)(p->softcap * log2_e);
    } else {
        a.q_scale = (float)(p->scale * log2_e);
    }
    return a;
}

/* The cache, and the octets of a page. */
static void arg_cache(gpu_args *args, gpu_builder *b, const attn_build *a)
{
    uint32_t octet_size = OCTET * item_size(a->type);
    sobre_span span = {.buffer = NULL};
    if (a->slot) {
        span.buffer = a->slot->buffer;
        span.offset = a->slot->offset;
    }
    gpu_arg_span(args, b, &span, octet_size);
    gpu_arg_int(args, a->slot ? (int32_t)(a->slot->page_size / octet_size) : 0);
}

/* What becomes of q and k before they are used. */
static void arg_preparation(gpu_args *args, gpu_builder *b, const attn_build *a)
{
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_K));
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_V));
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_POS));
    if (a->p->rope.kind != SOBRE_ROPE_NONE)
        gpu_arg_const(args, b, gpu_rope_const(b, &a->p->rope), sizeof(float));
    else
        gpu_arg_value(args, b, -1);
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_FACTORS));
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_Q_NORM));
    gpu_arg_value(args, b, gpu_in(a->node, SOBRE_ATTN_K_NORM));
}

/* Of heads, and what becomes of them. */
static void arg_heads(gpu_args *args, const sobre_attention_params *p)
{
    gpu_arg_int(args, p->n_head);
    gpu_arg_int(args, p->n_head_kv);
    gpu_arg_int(args, p->head_dim);
    gpu_arg_int(args, p->qk_norm.kind == SOBRE_NORM_RMS);
    gpu_arg_float(args, p->qk_norm.eps);
    gpu_arg_int(args, (int32_t)p->rope.kind);
    gpu_arg_int(args, p->rope.n_dims);
}

static void arg_slopes(gpu_args *args, gpu_builder *b, const attn_build *a)
{
    if (a->p->max_alibi_bias > 0.0f)
        gpu_arg_const(args, b, a->slopes_at, sizeof(float));
    else
        gpu_arg_value(args, b, -1);
}

static void build_append(gpu_builder *b, const attn_build *a)
{
    const sobre_attention_params *p = a->p;
    const sobre_node *node = a->node;
    gpu_variant variant = gpu_variant_of("attn_append.cl", "attn_append", ATTN_APPEND_GROUP,
                                         "KV_F16=%d", a->type != SOBRE_KV_F32);
    int32_t n_heads = (a->prepares_q ? p->n_head : 0) + (p->append ? 2 * p->n_head_kv : 0);
    gpu_args args = {.n = 0};
    if (n_heads == 0) return;
    gpu_arg_run(&args, b);
    gpu_arg_value(&args, b, a->prepares_q ? node->in[SOBRE_ATTN_Q] : -1);
    arg_preparation(&args, b, a);
    if (a->prepares_q)
        gpu_arg_work(&args, b, a->q_work, sizeof(float));
    else
        gpu_arg_value(&args, b, -1);
    arg_cache(&args, b, a);
    arg_heads(&args, p);
    gpu_add(b, node, &variant, &args, (gpu_extent){GPU_COLS, 1, 1},
            (gpu_extent){GPU_ONE, n_heads, 1}, GPU_WHEN_PREFILL);
}

/* The most pages that a column can see. */
static int32_t most_pages(const gpu_builder *b, const attn_build *a)
{
    int32_t n_pages = b->program->n_pages > 0 ? b->program->n_pages : INT32_MAX;
    return a->p->window > 0 ? min_i32(n_pages, a->p->window / RUN_PAGE + 2) : n_pages;
}

/* Groups of a KV head, each with some of its query heads. */
static int32_t decode_chunks(const attn_build *a)
{
    return ceil_div(a->p->n_head / a->p->n_head_kv, ATTN_DECODE_HEADS);
}

/* Runs of pages that a sequence's positions are split into, if it may have n_pages: a multiple of
 * ATTN_SPLITS that makes the device busy. */
static int32_t count_splits(const gpu_builder *b, const attn_build *a, int32_t n_pages,
                            int32_t most)
{
    int64_t busy = (int64_t)GROUPS_PER_UNIT * b->device->caps.n_units;
    int64_t n_groups = (int64_t)a->p->n_head_kv * decode_chunks(a);
    int64_t want = busy / (n_groups * max_i32(b->program->n_seq, 1));
    most = min_i32(most, n_pages / PAGES_PER_SPLIT);
    if (want > most) want = most;
    return max_i32(ceil_div((int32_t)want, ATTN_SPLITS), 1) * ATTN_SPLITS;
}

/* Memory for what splits leave; `take` is gpu_work() or gpu_work_kept(). */
static gpu_parts parts_of(gpu_builder *b, const attn_build *a, int32_t n_splits,
                          uint64_t (*take)(gpu_builder *b, uint64_t size))
{
    const sobre_attention_params *p = a->p;
    int64_t n_rows = (int64_t)b->program->n_seq * n_splits;
    gpu_parts parts = {.value = a->node->out[0], .n_splits = n_splits, .head_dim = p->head_dim};
    parts.sums_at = take(b, floats_size(b, n_rows, p->n_head, p->head_dim));
    parts.scores_at = take(b, floats_size(b, n_rows, p->n_head, 2));
    return parts;
}

/* parts NULL: positions are not split. */
static void build_decode(gpu_builder *b, const attn_build *a, const gpu_parts *parts, uint32_t when)
{
    const sobre_attention_params *p = a->p;
    gpu_variant variant =
        gpu_variant_of("attn_decode.cl", "attn_decode", ATTN_DECODE_GROUP, "KV_F16=%d HD_MAX=%d",
                       a->type != SOBRE_KV_F32, (int)a->hd_max);
    int32_t n_chunks = decode_chunks(a), n_splits = parts ? parts->n_splits : 1;
    gpu_args args = {.n = 0};
    gpu_arg_run(&args, b);
    gpu_arg_value(&args, b, a->node->in[SOBRE_ATTN_Q]);
    arg_preparation(&args, b, a);
    arg_cache(&args, b, a);
    arg_slopes(&args, b, a);
    if (parts) {
        gpu_arg_work(&args, b, parts->sums_at, sizeof(float));
        gpu_arg_work(&args, b, parts->scores_at, sizeof(float));
    } else {
        gpu_arg_value(&args, b, a->node->out[0]);
        gpu_arg_value(&args, b, -1);
    }
    arg_heads(&args, p);
    gpu_arg_int(&args, n_chunks);
    gpu_arg_int(&args, n_splits);
    gpu_arg_int(&args, p->window);
    gpu_arg_float(&args, a->q_scale);
    gpu_arg_float(&args, a->cap);
    gpu_add(b, a->node, &variant, &args,
            (gpu_extent){GPU_ONE, p->n_head_kv * n_chunks * n_splits, 1},
            (gpu_extent){GPU_SEQS, 1, 1}, when);
}

static void build_merge(gpu_builder *b, const attn_build *a, const gpu_parts *parts, uint32_t when)
{
    gpu_variant variant = gpu_variant_of("attn_merge.cl", "attn_merge", ATTN_MERGE_GROUP, "");
    int32_t n_quads = a->p->n_head * a->p->head_dim / 4;
    gpu_args args = {.n = 0};
    gpu_arg_work(&args, b, parts->sums_at, sizeof(float));
    gpu_arg_work(&args, b, parts->scores_at, sizeof(float));
    gpu_arg_value(&args, b, a->node->out[0]);
    gpu_arg_int(&args, a->p->n_head);
    gpu_arg_int(&args, a->p->head_dim);
    gpu_arg_int(&args, parts->n_splits);
    gpu_add(b, a->node, &variant, &args, (gpu_extent){GPU_ONE, n_quads, ATTN_MERGE_GROUP},
            (gpu_extent){GPU_COLS, 1, 1}, when);
}

/* Runs of one column a sequence. Short sequences leave the merge to the product behind, if that
 * can; long ones have more splits, and a launch to merge them. Which kernels are needed depends
 * only on how long a sequence may be, so that prepare() knows. */
static void build_decodes(gpu_builder *b, const attn_build *a)
{
    int32_t n_pages = most_pages(b, a);
    bool is_short = n_pages <= GPU_SHORT_PAGES, brings_more = b->program->n_cols > 1;
    uint32_t long_when = GPU_WHEN_DECODE;
    if (n_pages <= DIRECT_PAGES) {
        build_decode(b, a, NULL, GPU_WHEN_DECODE);
        return;
    }
    if (gpu_mm_takes_parts(b, a->node)) {
        int32_t n_splits = count_splits(b, a, min_i32(n_pages, GPU_SHORT_PAGES),
                                        ATTN_MERGED_SPLITS(a->p->head_dim));
        b->parts = parts_of(b, a, n_splits, gpu_work_kept);
        b->parts.when = is_short ? GPU_WHEN_DECODE : GPU_WHEN_SHORT;
        b->parts.otherwise = !is_short ? GPU_WHEN_NOT_SHORT : brings_more ? GPU_WHEN_PREFILL : 0;
        build_decode(b, a, &b->parts, b->parts.when);
        if (is_short) return;
        long_when |= GPU_WHEN_NOT_SHORT;
    }
    gpu_parts parts = parts_of(b, a, count_splits(b, a, n_pages, MAX_SPLITS), gpu_work);
    build_decode(b, a, &parts, long_when);
    build_merge(b, a, &parts, long_when);
}

static void build_prefill(gpu_builder *b, const attn_build *a)
{
    const sobre_attention_params *p = a->p;
    gpu_variant variant =
        gpu_variant_of("attn_prefill.cl", "attn_prefill", ATTN_PREFILL_GROUP, "KV_F16=%d HD_MAX=%d",
                       a->type != SOBRE_KV_F32, (int)a->hd_max);
    /* A group's rows are heads times columns: few heads leave room for several tiles of columns. */
    int32_t room = ATTN_PREFILL_Q / a->hd_max / RUN_TILE_COLS;
    int32_t per_kv = p->n_head / p->n_head_kv, n_tiles = 1;
    while (n_tiles * 2 * per_kv <= room) n_tiles *= 2;
    int32_t n_chunks = ceil_div(per_kv, room / n_tiles);
    gpu_args args = {.n = 0};
    gpu_arg_run(&args, b);
    if (a->prepares_q)
        gpu_arg_work(&args, b, a->q_work, sizeof(float));
    else
        gpu_arg_value(&args, b, a->node->in[SOBRE_ATTN_Q]);
    arg_cache(&args, b, a);
    arg_slopes(&args, b, a);
    gpu_arg_value(&args, b, a->node->out[0]);
    gpu_arg_int(&args, p->n_head);
    gpu_arg_int(&args, p->n_head_kv);
    gpu_arg_int(&args, p->head_dim);
    gpu_arg_int(&args, n_chunks);
    gpu_arg_int(&args, n_tiles);
    gpu_arg_int(&args, p->causal);
    gpu_arg_int(&args, p->window);
    gpu_arg_float(&args, a->q_scale);
    gpu_arg_float(&args, a->cap);
    gpu_add(b, a->node, &variant, &args, (gpu_extent){GPU_TILES, 1, 1},
            (gpu_extent){GPU_ONE, p->n_head_kv * n_chunks, 1}, GPU_WHEN_PREFILL);
}

void gpu_attn_build(gpu_builder *b, const sobre_node *node)
{
    attn_build a = begin_build(b, node);
    build_decodes(b, &a);
    if (b->program->n_cols == 1) return;
    build_append(b, &a);
    build_prefill(b, &a);
}
