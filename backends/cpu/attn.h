/* SPDX-License-Identifier: MIT */
/*
 * Attention on the CPU: one fused pass over the pages of the cache.
 *
 * A page holds, for each KV head, K as [head_dim][64 positions] and V as [64 positions][head_dim_v,
 * padded to 16]: in the scores a lane is a position, in the sum over V a lane is a dim, so neither
 * product adds across lanes. Softmax runs online (Milakov and Gimelshein 2018, arXiv:1805.02867)
 * over the pages of a block, and blocks of ATTN_BLOCK_PAGES are merged in ascending order. Pages
 * and blocks stand at absolute positions, and a row's arithmetic does not look at its neighbours:
 * the bits of a query do not depend on how the prompt was cut, on what else is in the batch, or on
 * threads. Cache memory past a sequence's end is never used, whatever it holds.
 */
#ifndef SOBRE_CPU_ATTN_H
#define SOBRE_CPU_ATTN_H

#include "pool.h"
#include "vec.h"

enum {
    ATTN_ROWS = 16,       /* queries times heads that share a reading of a page */
    ATTN_BLOCK_PAGES = 4, /* a block of the online softmax */
    ATTN_PAD = 16,        /* dims of a row of V, and of a sum, are padded to this */
};

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
    /* s [n_rows][64] = q [n_rows][head_dim] . K, at least for positions [begin, end). */
    void (*scores)(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s);
    /* o [n_rows][n_dims] += p [n_rows][64] . V over positions [begin, end); n_dims is padded. */
    void (*values)(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o);
    /* Scores of a page to weights: s becomes e^(score - *max) and 0 outside [begin, end), after
     * *max grew to the largest so far. Returns the sum of the weights. */
    float (*soften)(const attn_view *view, float *s, float *max);
    /* o = o * a + x * b */
    void (*merge)(float *o, float a, const float *x, float b, int32_t n_dims);
} attn_kernels;

/* By SOBRE_KV_F32, SOBRE_KV_F16; NULL if this build lacks the instruction set. */
const attn_kernels *attn_kernels_get(sobre_cpu_isa isa, sobre_kv_type type);

enum { ATTN_N_TYPES = 2 };
extern const attn_kernels attn_kernels_scalar[ATTN_N_TYPES];
#if defined(__x86_64__)
extern const attn_kernels attn_kernels_avx2[ATTN_N_TYPES], attn_kernels_avx512[ATTN_N_TYPES];
#elif defined(__aarch64__)
extern const attn_kernels attn_kernels_neon[ATTN_N_TYPES];
#endif

/* Bytes of a page, a multiple of 64; false for a type that there is no layout for, and on
 * overflow. */
bool attn_page_size(const sobre_kv_desc *desc, uint64_t *ret_size);

typedef struct attn_job {
    const attn_kernels *kernels;
    const vec_kernels *vec;
    sobre_attention_params p;
    uint8_t *pages; /* of this layer's cache: page i at i * page_size */
    uint64_t page_size;
    int32_t item_size; /* bytes of a cached number */
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
