/* SPDX-License-Identifier: MIT */
/*
 * Attention on the CPU: one fused pass over the pages of the cache.
 *
 * A page holds, for each KV head, K as [head_dim][64 positions] and V as [64 positions][head_dim_v,
 * padded to 16]: in the scores a lane is a position, in the sum over V a lane is a dim, so neither
 * product adds across lanes. Numbers are f32, f16, bf16, or q8_0: bytes, and behind all of them f16
 * scales [groups of 32 dims][64 positions], so that a number, a byte times its scale, is exact in
 * f32 as the others are. Tiles of many rows unpack a page's head to f32 once. Softmax runs online
 * (Milakov and Gimelshein 2018, arXiv:1805.02867) over the pages of a block, and blocks of
 * ATTN_BLOCK_PAGES are merged in ascending order. Pages and blocks stand at absolute positions, and
 * a row's arithmetic does not look at its neighbours: the bits of a query do not depend on how the
 * prompt was cut, on what else is in the batch, or on threads. Cache memory past a sequence's end
 * is never used, whatever it holds.
 */
#ifndef SOBRE_CPU_ATTN_H
#define SOBRE_CPU_ATTN_H

#include "pool.h"
#include "vec.h"

enum {
    ATTN_ROWS = 24,       /* queries times heads that share a reading of a page */
    ATTN_TILE = 6,        /* rows of a register tile */
    ATTN_BLOCK_PAGES = 4, /* a block of the online softmax */
    ATTN_PAD = 16,        /* dims of a row of V, and of a sum, are padded to this */
    ATTN_GROUP = 32,      /* dims that share a scale */
};

static inline int32_t attn_padded(int32_t n)
{
    return (n + ATTN_PAD - 1) / ATTN_PAD * ATTN_PAD;
}

/* Bytes of a cached number, 0 if there is no such type. */
static inline int32_t attn_item_size(sobre_kv_type type)
{
    switch (type) {
    case SOBRE_KV_F32: return 4;
    case SOBRE_KV_F16:
    case SOBRE_KV_BF16: return 2;
    case SOBRE_KV_Q8_0: return 1;
    case SOBRE_KV_DEFAULT: break;
    }
    return 0;
}

/* The scales of q8_0 [groups][64], behind n_dims numbers of each position. */
static inline uint16_t *attn_scales(const void *items, int32_t n_dims)
{
    return (uint16_t *)((uintptr_t)items + (uintptr_t)n_dims * SOBRE_KV_PAGE);
}

/* The scale of a group, before it is rounded to f16, from the largest magnitude; `taint`, the sum
 * of all numbers times 0, makes it NaN if one of them is not finite. */
static inline float attn_scale(float most, float taint)
{
    float scale = most / 127.0f;
    return (scale < 65504.0f ? scale : 65504.0f) + taint;
}

static inline float attn_scale_inverse(float scale)
{
    return scale > 0.0f ? 1.0f / scale : 0.0f;
}

/* What one row (a query's head) sees of one page. */
typedef struct attn_view {
    float scale, softcap; /* softcap 0: none */
    float slope;          /* of ALiBi, which takes slope * |distance| off; 0: none */
    float distance;       /* of the page's first position from the query's position */
    int32_t begin, end;   /* positions in the page */
} attn_view;

typedef struct attn_kernels {
    /* Puts k [n][head_dim] at positions [slot, slot + n) of a page's K. */
    void (*put_k)(const float *k, int32_t n, int32_t head_dim, int32_t slot, void *page);
    /* Puts v, n rows of head_dim_v that are `stride` apart, into a page's V. */
    void (*put_v)(const float *v, int64_t stride, int32_t n, int32_t head_dim_v, int32_t slot,
                  void *page);
    /* Positions [begin, end) of a page's K or V as f32, laid out as a page of f32 is. */
    void (*unpack_k)(const void *k, int32_t head_dim, int32_t begin, int32_t end, float *ret);
    void (*unpack_v)(const void *v, int32_t n_dims, int32_t begin, int32_t end, float *ret);
    /* s [n_rows][64] = q [n_rows][head_dim] . K, at least for positions [begin, end). */
    void (*scores)(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s);
    /* o [n_rows][n_dims] += p [n_rows][64] . V over positions [begin, end); n_dims is padded. */
    void (*values)(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o);
    /* Scores of a page to weights: in [begin, end) s becomes e^(score - *max), after *max grew to
     * the largest so far. Returns the sum of the weights. */
    float (*soften)(const attn_view *view, float *s, float *max);
    /* o = o * a + x * b */
    void (*merge)(float *o, float a, const float *x, float b, int32_t n_dims);
} attn_kernels;

/* NULL if this build lacks the instruction set, or there is no such type. */
const attn_kernels *attn_kernels_get(sobre_cpu_isa isa, sobre_kv_type type);

enum { ATTN_N_TYPES = 4 }; /* SOBRE_KV_F32 is the first */
extern const attn_kernels attn_kernels_scalar[ATTN_N_TYPES];
#if defined(__x86_64__)
extern const attn_kernels attn_kernels_avx2[ATTN_N_TYPES], attn_kernels_avx512[ATTN_N_TYPES];
#elif defined(__aarch64__)
extern const attn_kernels attn_kernels_neon[ATTN_N_TYPES];
#endif

/* The functions of a table for one type, from those that take the type last; and the table. */
#define ATTN_KERNELS_OF(type)                                                                  \
    static void put_k_##type(const float *k, int32_t n, int32_t head_dim, int32_t slot,        \
                             void *page)                                                       \
    {                                                                                          \
        put_k(k, n, head_dim, slot, page, SOBRE_KV_##type);                                    \
    }                                                                                          \
    static void put_v_##type(const float *v, int64_t stride, int32_t n, int32_t head_dim_v,    \
                             int32_t slot, void *page)                                         \
    {                                                                                          \
        put_v(v, stride, n, head_dim_v, slot, page, SOBRE_KV_##type);                          \
    }                                                                                          \
    static void unpack_k_##type(const void *k, int32_t head_dim, int32_t begin, int32_t end,   \
                                float *ret)                                                    \
    {                                                                                          \
        unpack_k(k, head_dim, begin, end, ret, SOBRE_KV_##type);                               \
    }                                                                                          \
    static void unpack_v_##type(const void *v, int32_t n_dims, int32_t begin, int32_t end,     \
                                float *ret)                                                    \
    {                                                                                          \
        unpack_v(v, n_dims, begin, end, ret, SOBRE_KV_##type);                                 \
    }                                                                                          \
    static void scores_##type(const float *q, int32_t n_rows, const void *k, int32_t head_dim, \
                              int32_t begin, int32_t end, float *s)                            \
    {                                                                                          \
        scores(q, n_rows, k, head_dim, begin, end, s, SOBRE_KV_##type);                        \
    }                                                                                          \
    static void values_##type(const float *p, int32_t n_rows, const void *v, int32_t n_dims,   \
                              int32_t begin, int32_t end, float *o)                            \
    {                                                                                          \
        values(p, n_rows, v, n_dims, begin, end, o, SOBRE_KV_##type);                          \
    }

#define ATTN_KERNELS_ENTRY(type)                                                         \
    [SOBRE_KV_##type - SOBRE_KV_F32] = {put_k_##type,    put_v_##type,  unpack_k_##type, \
                                        unpack_v_##type, scores_##type, values_##type,   \
                                        soften,          merge}
#define ATTN_KERNELS_TABLE                                                          \
    {                                                                               \
        ATTN_KERNELS_ENTRY(F32), ATTN_KERNELS_ENTRY(F16), ATTN_KERNELS_ENTRY(BF16), \
            ATTN_KERNELS_ENTRY(Q8_0)                                                \
    }

/* Bytes of a page, a multiple of 64; false for a type that there is no layout for, and on
 * overflow. */
bool attn_page_size(const sobre_kv_desc *desc, uint64_t *ret_size);

typedef struct attn_job {
    const attn_kernels *kernels, *wide; /* of the cache's type, and of f32 */
    const vec_kernels *vec;
    sobre_attention_params p;
    uint8_t *pages; /* of this layer's cache: page i at i * page_size */
    uint64_t page_size;
    sobre_kv_type type;
    const float *q, *k, *v;
    const float *rope; /* [T][2 * n_dims] tables by column, or NULL */
    const float *q_norm, *k_norm, *sinks;
    float *out;
    uint8_t *scratch; /* attn_scratch_size() */
    atomic_int next;  /* task counter: set to 0 before every run */
} attn_job;

uint64_t attn_scratch_size(const sobre_attention_params *p, int32_t n_threads);

/* Thread `thread`'s part of appending k and v; the caller puts a barrier behind. */
void attn_append(const attn_job *job, const sobre_run *run, int32_t thread, int32_t n_threads);
/* Thread `thread`'s part of attending; the caller puts a barrier behind. All threads must call it:
 * it may meet barriers. */
void attn_run(attn_job *job, const sobre_run *run, pool *threads, int32_t thread,
              int32_t n_threads);

#endif
