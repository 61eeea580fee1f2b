/* SPDX-License-Identifier: MIT */
/* Attention kernels: the scalar reference. */
#include "attn.h"

#include <math.h>

#include "dtype.h"

enum { PAGE = SOBRE_KV_PAGE };

/* Number `dim` of position `pos`, which is item i. */
static inline float item_load(const void *items, int64_t i, int32_t dim, int32_t pos,
                              int32_t n_dims, sobre_kv_type type)
{
    switch (type) {
    case SOBRE_KV_F16: return f16_to_f32(((const uint16_t *)items)[i]);
    case SOBRE_KV_BF16: return bf16_to_f32(((const uint16_t *)items)[i]);
    case SOBRE_KV_Q8_0: {
        uint16_t scale = attn_scales(items, n_dims)[dim / ATTN_GROUP * PAGE + pos];
        return (float)((const int8_t *)items)[i] * f16_to_f32(scale);
    }
    default: return ((const float *)items)[i];
    }
}

static inline void item_store(void *items, int64_t i, float x, float inverse, sobre_kv_type type)
{
    switch (type) {
    case SOBRE_KV_F16: ((uint16_t *)items)[i] = f32_to_f16(x); break;
    case SOBRE_KV_BF16: ((uint16_t *)items)[i] = f32_to_bf16(x); break;
    case SOBRE_KV_Q8_0: {
        float q = x * inverse;
        ((int8_t *)items)[i] = (int8_t)rintf(q > -127.0f ? q < 127.0f ? q : 127.0f : -127.0f);
        break;
    }
    default: ((float *)items)[i] = x; break;
    }
}

/* Puts x [n] as position `pos`, zeros being behind it up to n_dims; items are `stride` apart. */
static void put(const float *x, int32_t n, int32_t n_dims, int32_t pos, uint8_t *items,
                int64_t first, int64_t stride, sobre_kv_type type)
{
    for (int32_t d = 0; d < n_dims; d += ATTN_GROUP) {
        int32_t end = n_dims - d < ATTN_GROUP ? n_dims : d + ATTN_GROUP;
        float inverse = 0.0f;
        if (type == SOBRE_KV_Q8_0) {
            float most = 0.0f, taint = 0.0f;
            for (int32_t i = d; i < end && i < n; i++) {
                if (fabsf(x[i]) > most) most = fabsf(x[i]);
                taint += x[i] * 0.0f;
            }
            uint16_t scale = f32_to_f16(attn_scale(most, taint));
            attn_scales(items, n_dims)[d / ATTN_GROUP * PAGE + pos] = scale;
            inverse = attn_scale_inverse(f16_to_f32(scale));
        }
        for (int32_t i = d; i < end; i++)
            item_store(items, first + i * stride, i < n ? x[i] : 0.0f, inverse, type);
    }
}

static void put_k(const float *k, int32_t n, int32_t head_dim, int32_t slot, void *page,
                  sobre_kv_type type)
{
    for (int32_t i = 0; i < n; i++)
        put(k + (int64_t)i * head_dim, head_dim, head_dim, slot + i, page, slot + i, PAGE, type);
}

static void put_v(const float *v, int64_t stride, int32_t n, int32_t head_dim_v, int32_t slot,
                  void *page, sobre_kv_type type)
{
    int32_t n_dims = attn_padded(head_dim_v);
    for (int32_t i = 0; i < n; i++)
        put(v + i * stride, head_dim_v, n_dims, slot + i, page, (int64_t)(slot + i) * n_dims, 1,
            type);
}

static void unpack_k(const void *k, int32_t head_dim, int32_t begin, int32_t end, float *ret,
                     sobre_kv_type type)
{
    for (int32_t d = 0; d < head_dim; d++)
        for (int32_t i = begin; i < end; i++)
            ret[d * PAGE + i] = item_load(k, d * PAGE + i, d, i, head_dim, type);
}

static void unpack_v(const void *v, int32_t n_dims, int32_t begin, int32_t end, float *ret,
                     sobre_kv_type type)
{
    for (int32_t i = begin; i < end; i++)
        for (int32_t d = 0; d < n_dims; d++)
            ret[i * n_dims + d] = item_load(v, (int64_t)i * n_dims + d, d, i, n_dims, type);
}

static void scores(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s, sobre_kv_type type)
{
    for (int32_t r = 0; r < n_rows; r++, q += head_dim, s += PAGE) {
        for (int32_t i = begin; i < end; i++) s[i] = 0.0f;
        for (int32_t d = 0; d < head_dim; d++)
            for (int32_t i = begin; i < end; i++)
                s[i] += q[d] * item_load(k, d * PAGE + i, d, i, head_dim, type);
    }
}

static void values(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o, sobre_kv_type type)
{
    for (int32_t r = 0; r < n_rows; r++, p += PAGE, o += n_dims)
        for (int32_t i = begin; i < end; i++)
            for (int32_t d = 0; d < n_dims; d++)
                o[d] += p[i] * item_load(v, (int64_t)i * n_dims + d, d, i, n_dims, type);
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

ATTN_KERNELS_OF(F32)
ATTN_KERNELS_OF(F16)
ATTN_KERNELS_OF(BF16)
ATTN_KERNELS_OF(Q8_0)

const attn_kernels attn_kernels_scalar[ATTN_N_TYPES] = ATTN_KERNELS_TABLE;
