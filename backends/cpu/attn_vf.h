/* SPDX-License-Identifier: MIT */
/* The attention kernels in the vocabulary of vmath_*.h. The including file defines ATTN_KERNELS,
 * the table's name, and ATTN_VECTORS, how many vectors wide a register tile of four rows is. Every
 * score and every sum is one chain of fused multiply-adds, whatever the tile, and sums over a page
 * run in 16 lanes: all instruction sets give the same bits. */
#include <math.h>

#include "attn.h"

enum { PAGE = SOBRE_KV_PAGE, SUM_LANES = 16 };

static inline vf item_load(const void *page, int64_t i, bool f16)
{
    return f16 ? vf_load_f16((const uint16_t *)page + i) : vf_load((const float *)page + i);
}

/* --- Appending. */

static inline void put_k(const float *k, int32_t n, int32_t head_dim, int32_t slot, void *page,
                         bool f16)
{
    for (int32_t d = 0; d < head_dim; d += VF_N) {
        int32_t n_dims = head_dim - d < VF_N ? head_dim - d : VF_N;
        for (int32_t i = 0; i < n; i++) {
            const float *from = k + (int64_t)i * head_dim + d;
            if (f16) {
                float x[VF_N] = {0};
                uint16_t h[VF_N];
                for (int32_t j = 0; j < n_dims; j++) x[j] = from[j];
                vf_store_f16(h, vf_load(x));
                uint16_t *to = (uint16_t *)page + d * PAGE + slot + i;
                for (int32_t j = 0; j < n_dims; j++) to[j * PAGE] = h[j];
            } else {
                float *to = (float *)page + d * PAGE + slot + i;
                for (int32_t j = 0; j < n_dims; j++) to[j * PAGE] = from[j];
            }
        }
    }
}

static inline void put_v(const float *v, int64_t stride, int32_t n, int32_t head_dim_v,
                         int32_t slot, void *page, bool f16)
{
    int64_t row = (head_dim_v + ATTN_PAD - 1) / ATTN_PAD * ATTN_PAD;
    for (int32_t i = 0; i < n; i++) {
        for (int32_t d = 0; d < row; d += VF_N) {
            float x[VF_N] = {0};
            for (int32_t j = 0; j < VF_N && d + j < head_dim_v; j++) x[j] = v[i * stride + d + j];
            if (f16) {
                vf_store_f16((uint16_t *)page + (slot + i) * row + d, vf_load(x));
            } else {
                vf_store((float *)page + (slot + i) * row + d, vf_load(x));
            }
        }
    }
}

/* --- Products. */

#define INLINE static inline __attribute__((always_inline))

/* n_vf vectors of positions for n_rows rows; both constants where it is called. */
INLINE void scores_tile(const float *q, int n_rows, const void *k, int32_t head_dim, int32_t first,
                        int n_vf, float *s, bool f16)
{
    vf acc[4][PAGE / VF_N];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) acc[r][v] = vf_zero();
    for (int32_t d = 0; d < head_dim; d++) {
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) {
            vf x = item_load(k, d * PAGE + first + v * VF_N, f16);
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++)
                acc[r][v] = vf_fma(vf_set1(q[(int64_t)r * head_dim + d]), x, acc[r][v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) vf_store(s + r * PAGE + first + v * VF_N, acc[r][v]);
}

INLINE void scores_rows(const float *q, int n_rows, const void *k, int32_t head_dim, int32_t begin,
                        int32_t end, int n_vf, float *s, bool f16)
{
    int32_t step = n_vf * VF_N;
    for (int32_t first = begin / step * step; first < end; first += step)
        scores_tile(q, n_rows, k, head_dim, first, n_vf, s, f16);
}

INLINE void scores(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s, bool f16)
{
    for (; n_rows > 0; n_rows -= 4, q += 4 * (int64_t)head_dim, s += 4 * PAGE) {
        switch (n_rows) {
        case 1: scores_rows(q, 1, k, head_dim, begin, end, 2 * ATTN_VECTORS, s, f16); break;
        case 2: scores_rows(q, 2, k, head_dim, begin, end, 2 * ATTN_VECTORS, s, f16); break;
        case 3: scores_rows(q, 3, k, head_dim, begin, end, ATTN_VECTORS, s, f16); break;
        default: scores_rows(q, 4, k, head_dim, begin, end, ATTN_VECTORS, s, f16); break;
        }
    }
}

INLINE void values_tile(const float *p, int n_rows, const void *v, int32_t n_dims, int32_t begin,
                        int32_t end, int32_t first, int n_vf, float *o, bool f16)
{
    vf acc[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < n_vf; j++)
            acc[r][j] = vf_load(o + (int64_t)r * n_dims + first + j * VF_N);
    for (int32_t i = begin; i < end; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n_vf; j++) {
            vf x = item_load(v, (int64_t)i * n_dims + first + j * VF_N, f16);
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++)
                acc[r][j] = vf_fma(vf_set1(p[r * PAGE + i]), x, acc[r][j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < n_vf; j++)
            vf_store(o + (int64_t)r * n_dims + first + j * VF_N, acc[r][j]);
}

/* Two vectors of AVX2, or two of AVX-512, while they fit; rows are padded to 16 dims. */
INLINE void values_rows(const float *p, int n_rows, const void *v, int32_t n_dims, int32_t begin,
                        int32_t end, float *o, bool f16)
{
    int32_t first = 0;
    for (; first + 4 * VF_N <= n_dims && n_rows <= 2; first += 4 * VF_N)
        values_tile(p, n_rows, v, n_dims, begin, end, first, 4, o, f16);
    for (; first + 2 * VF_N <= n_dims; first += 2 * VF_N)
        values_tile(p, n_rows, v, n_dims, begin, end, first, 2, o, f16);
    for (; first < n_dims; first += VF_N)
        values_tile(p, n_rows, v, n_dims, begin, end, first, 1, o, f16);
}

INLINE void values(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o, bool f16)
{
    for (; n_rows > 0; n_rows -= 4, p += 4 * PAGE, o += 4 * (int64_t)n_dims) {
        switch (n_rows) {
        case 1: values_rows(p, 1, v, n_dims, begin, end, o, f16); break;
        case 2: values_rows(p, 2, v, n_dims, begin, end, o, f16); break;
        case 3: values_rows(p, 3, v, n_dims, begin, end, o, f16); break;
        default: values_rows(p, 4, v, n_dims, begin, end, o, f16); break;
        }
    }
}

/* --- Softmax. */

static float soften(const attn_view *view, float *s, float *max)
{
    vf distance = vf_zero(); /* of each lane from the query */
    if (view->slope > 0.0f) {
        float first[VF_N];
        for (int i = 0; i < VF_N; i++) first[i] = view->distance + (float)i;
        distance = vf_load(first);
    }
    for (int32_t i = 0; i < PAGE; i += VF_N) {
        vf x = vf_mul(vf_load(s + i), vf_set1(view->scale));
        if (view->softcap > 0.0f)
            x = vf_mul(vf_set1(view->softcap), vf_tanh(vf_div(x, vf_set1(view->softcap))));
        if (view->slope > 0.0f)
            x = vf_fnma(vf_set1(view->slope), vf_abs(vf_add(distance, vf_set1((float)i))), x);
        vf_store(s + i, x);
    }
    for (int32_t i = 0; i < view->begin; i++) s[i] = -INFINITY;
    for (int32_t i = view->end; i < PAGE; i++) s[i] = -INFINITY;

    vf most = vf_set1(*max);
    for (int32_t i = 0; i < PAGE; i += VF_N) most = vf_max(vf_load(s + i), most);
    float lanes[SUM_LANES], top;
    vf_store(lanes, most);
    top = lanes[0];
    for (int i = 1; i < VF_N; i++) top = lanes[i] > top ? lanes[i] : top;
    *max = top;

    vf sum[SUM_LANES / VF_N];
    for (int i = 0; i < SUM_LANES / VF_N; i++) sum[i] = vf_zero();
    for (int32_t i = 0; i < PAGE; i += SUM_LANES) {
        for (int v = 0; v < SUM_LANES / VF_N; v++) {
            vf p = vf_exp(vf_sub(vf_load(s + i + v * VF_N), vf_set1(top)));
            sum[v] = vf_add(sum[v], p);
            vf_store(s + i + v * VF_N, p);
        }
    }
    for (int i = 0; i < SUM_LANES / VF_N; i++) vf_store(lanes + i * VF_N, sum[i]);
    for (int n = SUM_LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
    return lanes[0];
}

static void merge(float *o, float a, const float *x, float b, int32_t n_dims)
{
    for (int32_t d = 0; d < n_dims; d += VF_N)
        vf_store(o + d, vf_fma(vf_load(x + d), vf_set1(b), vf_mul(vf_load(o + d), vf_set1(a))));
}

#define KERNELS_OF(type, f16)                                                                  \
    static void put_k_##type(const float *k, int32_t n, int32_t head_dim, int32_t slot,        \
                             void *page)                                                       \
    {                                                                                          \
        put_k(k, n, head_dim, slot, page, f16);                                                \
    }                                                                                          \
    static void put_v_##type(const float *v, int64_t stride, int32_t n, int32_t head_dim_v,    \
                             int32_t slot, void *page)                                         \
    {                                                                                          \
        put_v(v, stride, n, head_dim_v, slot, page, f16);                                      \
    }                                                                                          \
    static void scores_##type(const float *q, int32_t n_rows, const void *k, int32_t head_dim, \
                              int32_t begin, int32_t end, float *s)                            \
    {                                                                                          \
        scores(q, n_rows, k, head_dim, begin, end, s, f16);                                    \
    }                                                                                          \
    static void values_##type(const float *p, int32_t n_rows, const void *v, int32_t n_dims,   \
                              int32_t begin, int32_t end, float *o)                            \
    {                                                                                          \
        values(p, n_rows, v, n_dims, begin, end, o, f16);                                      \
    }
KERNELS_OF(f32, false)
KERNELS_OF(f16, true)

const attn_kernels ATTN_KERNELS[ATTN_N_TYPES] = {
    {put_k_f32, put_v_f32, scores_f32, values_f32, soften, merge},
    {put_k_f16, put_v_f16, scores_f16, values_f16, soften, merge},
};
