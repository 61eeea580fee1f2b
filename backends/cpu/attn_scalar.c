/* SPDX-License-Identifier: MIT */
/* Attention kernels: the scalar reference. */
#include "attn.h"

#include <math.h>

#include "dtype.h"

enum { PAGE = SOBRE_KV_PAGE };

static inline float item_load(const void *page, int64_t i, bool f16)
{
    return f16 ? f16_to_f32(((const uint16_t *)page)[i]) : ((const float *)page)[i];
}

static inline void item_store(void *page, int64_t i, bool f16, float x)
{
    if (f16) {
        ((uint16_t *)page)[i] = f32_to_f16(x);
    } else {
        ((float *)page)[i] = x;
    }
}

static void put_k(const float *k, int32_t n, int32_t head_dim, int32_t slot, void *page, bool f16)
{
    for (int32_t i = 0; i < n; i++)
        for (int32_t d = 0; d < head_dim; d++)
            item_store(page, d * PAGE + slot + i, f16, k[(int64_t)i * head_dim + d]);
}

static void put_v(const float *v, int64_t stride, int32_t n, int32_t head_dim_v, int32_t slot,
                  void *page, bool f16)
{
    int64_t n_dims = (head_dim_v + ATTN_PAD - 1) / ATTN_PAD * ATTN_PAD;
    for (int32_t i = 0; i < n; i++)
        for (int32_t d = 0; d < n_dims; d++)
            item_store(page, (slot + i) * n_dims + d, f16, d < head_dim_v ? v[i * stride + d] : 0);
}

static void scores(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s, bool f16)
{
    for (int32_t r = 0; r < n_rows; r++, q += head_dim, s += PAGE) {
        for (int32_t i = begin; i < end; i++) s[i] = 0.0f;
        for (int32_t d = 0; d < head_dim; d++)
            for (int32_t i = begin; i < end; i++) s[i] += q[d] * item_load(k, d * PAGE + i, f16);
    }
}

static void values(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o, bool f16)
{
    for (int32_t r = 0; r < n_rows; r++, p += PAGE, o += n_dims)
        for (int32_t i = begin; i < end; i++)
            for (int32_t d = 0; d < n_dims; d++)
                o[d] += p[i] * item_load(v, (int64_t)i * n_dims + d, f16);
}

static float soften(const attn_view *view, float *s, float *max)
{
    float most = *max, total = 0.0f;
    for (int32_t i = view->begin; i < view->end; i++) {
        s[i] *= view->scale;
        if (view->softcap > 0.0f) s[i] = view->softcap * tanhf(s[i] / view->softcap);
        if (view->slope > 0.0f) s[i] -= view->slope * fabsf(view->distance + (float)i);
        if (s[i] > most) most = s[i];
    }
    for (int32_t i = 0; i < PAGE; i++) {
        s[i] = i >= view->begin && i < view->end ? expf(s[i] - most) : 0.0f;
        total += s[i];
    }
    *max = most;
    return total;
}

static void merge(float *o, float a, const float *x, float b, int32_t n_dims)
{
    for (int32_t d = 0; d < n_dims; d++) o[d] = o[d] * a + x[d] * b;
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

const attn_kernels attn_kernels_scalar[ATTN_N_TYPES] = {
    {put_k_f32, put_v_f32, scores_f32, values_f32, soften, merge},
    {put_k_f16, put_v_f16, scores_f16, values_f16, soften, merge},
};
