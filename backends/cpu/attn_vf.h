/* SPDX-License-Identifier: MIT */
/* The attention kernels in the vocabulary of vmath_*.h. The including file defines ATTN_KERNELS,
 * the table's name. Every score and every sum is one chain of fused multiply-adds, whatever the
 * tile, and sums over a page run in 16 lanes: all instruction sets give the same bits. */
#include <math.h>
#include <string.h>

#include "attn.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    PAGE = SOBRE_KV_PAGE,
    SUM_LANES = 16,
    SUMS = VF_N == 8 ? 12 : 24, /* vectors that sums may take: AVX2 has 16 registers, others 32 */
};

/* --- Cached numbers. `type` is a constant wherever these are inlined. */

typedef union group_items {
    float f32[ATTN_GROUP];
    uint16_t half[ATTN_GROUP];
    int8_t i8[ATTN_GROUP];
} group_items;

/* Without its scale. */
INLINE vf item_load(const void *items, int64_t i, sobre_kv_type type)
{
    switch (type) {
    case SOBRE_KV_F16: return vf_load_f16((const uint16_t *)items + i);
    case SOBRE_KV_BF16: return vf_load_bf16((const uint16_t *)items + i);
    case SOBRE_KV_Q8_0: return vf_load_i8((const int8_t *)items + i);
    default: return vf_load((const float *)items + i);
    }
}

/* Rounded to the nearest, ties to even; NaN stays NaN. */
INLINE void store_bf16(uint16_t *to, vf x)
{
    vi bits = vi_bits_of(x), odd = vi_and(vi_srl(bits, 16), vi_set1(1));
    vf rounded = vf_of_bits(vi_add(bits, vi_add(odd, vi_set1(0x7fff))));
    x = vf_if_lt(vf_abs(x), vf_set1(INFINITY), rounded, vf_add(x, x));
    vi_store_u16(to, vi_srl(vi_bits_of(x), 16));
}

INLINE vf group_load(const float *from, int32_t n, int v)
{
    int32_t left = n - v * VF_N;
    return vf_load_n(from + v * VF_N, left >= VF_N ? VF_N : left > 0 ? left : 0);
}

/* See attn_scale(). */
INLINE uint16_t quantise(const float *from, int32_t n, int8_t *ret)
{
    enum { N_VF = ATTN_GROUP / VF_N };
    vf x[N_VF], most = vf_zero(), taint = vf_zero();
    float lanes[2][VF_N], back[VF_N];
    uint16_t scale[VF_N];
    for (int v = 0; v < N_VF; v++) {
        x[v] = group_load(from, n, v);
        most = vf_max(vf_abs(x[v]), most);
        taint = vf_fma(x[v], vf_zero(), taint);
    }
    vf_store(lanes[0], most);
    vf_store(lanes[1], taint);
    for (int i = 1; i < VF_N; i++) {
        if (lanes[0][i] > lanes[0][0]) lanes[0][0] = lanes[0][i];
        lanes[1][0] += lanes[1][i];
    }
    vf_store_f16(scale, vf_set1(attn_scale(lanes[0][0], lanes[1][0])));
    vf_store(back, vf_load_f16(scale));
    vf inverse = vf_set1(attn_scale_inverse(back[0]));
    for (int v = 0; v < N_VF; v++) {
        vf q = vf_max(vf_min(vf_mul(x[v], inverse), vf_set1(127.0f)), vf_set1(-127.0f));
        vi_store_i8(ret + v * VF_N, vi_from_vf(q));
    }
    return scale[0];
}

/* n <= ATTN_GROUP numbers, and zeros behind them, as items; returns the scale of q8_0. */
INLINE uint16_t group_encode(const float *from, int32_t n, group_items *ret, sobre_kv_type type)
{
    if (type == SOBRE_KV_Q8_0) return quantise(from, n, ret->i8);
    for (int v = 0; v < ATTN_GROUP / VF_N; v++) {
        vf x = group_load(from, n, v);
        if (type == SOBRE_KV_F16) {
            vf_store_f16(ret->half + v * VF_N, x);
        } else if (type == SOBRE_KV_BF16) {
            store_bf16(ret->half + v * VF_N, x);
        } else {
            vf_store(ret->f32 + v * VF_N, x);
        }
    }
    return 0;
}

INLINE void put_k(const float *k, int32_t n, int32_t head_dim, int32_t slot, void *page,
                  sobre_kv_type type)
{
    for (int32_t d = 0; d < head_dim; d += ATTN_GROUP) {
        int32_t n_dims = head_dim - d < ATTN_GROUP ? head_dim - d : ATTN_GROUP;
        for (int32_t i = 0; i < n; i++) {
            group_items x;
            uint16_t scale = group_encode(k + (int64_t)i * head_dim + d, n_dims, &x, type);
            int64_t to = (int64_t)d * PAGE + slot + i;
            for (int32_t j = 0; j < n_dims; j++, to += PAGE) {
                switch (attn_item_size(type)) {
                case 4: ((float *)page)[to] = x.f32[j]; break;
                case 2: ((uint16_t *)page)[to] = x.half[j]; break;
                default: ((int8_t *)page)[to] = x.i8[j]; break;
                }
            }
            if (type == SOBRE_KV_Q8_0)
                attn_scales(page, head_dim)[d / ATTN_GROUP * PAGE + slot + i] = scale;
        }
    }
}

INLINE void put_v(const float *v, int64_t stride, int32_t n, int32_t head_dim_v, int32_t slot,
                  void *page, sobre_kv_type type)
{
    const int32_t n_dims = attn_padded(head_dim_v);
    const size_t item = (size_t)attn_item_size(type);
    for (int32_t i = 0; i < n; i++) {
        uint8_t *row = (uint8_t *)page + (size_t)(slot + i) * (size_t)n_dims * item;
        for (int32_t d = 0; d < n_dims; d += ATTN_GROUP) {
            group_items x;
            int32_t left = head_dim_v - d, width = n_dims - d;
            uint16_t scale =
                group_encode(v + i * stride + d, left < ATTN_GROUP ? left : ATTN_GROUP, &x, type);
            memcpy(row + (size_t)d * item, &x,
                   item * (size_t)(width < ATTN_GROUP ? width : ATTN_GROUP));
            if (type == SOBRE_KV_Q8_0)
                attn_scales(page, n_dims)[d / ATTN_GROUP * PAGE + slot + i] = scale;
        }
    }
}

/* Dims that share a scale. */
INLINE int32_t group_size(int32_t n_dims, sobre_kv_type type)
{
    return type == SOBRE_KV_Q8_0 ? ATTN_GROUP : n_dims;
}

/* The page's scales of the group that holds dim d. */
INLINE void scales_load(const void *items, int32_t n_dims, int32_t d, float ret[PAGE],
                        sobre_kv_type type)
{
    if (type != SOBRE_KV_Q8_0) return;
    const uint16_t *from = attn_scales(items, n_dims) + d / ATTN_GROUP * PAGE;
    for (int i = 0; i < PAGE; i += VF_N) vf_store(ret + i, vf_load_f16(from + i));
}

INLINE void unpack_k(const void *k, int32_t head_dim, int32_t begin, int32_t end, float *ret,
                     sobre_kv_type type)
{
    const int32_t group = group_size(head_dim, type);
    begin = begin / VF_N * VF_N;
    for (int32_t first = 0; first < head_dim; first += group) {
        int32_t last = head_dim - first < group ? head_dim : first + group;
        float scale[PAGE];
        scales_load(k, head_dim, first, scale, type);
        for (int32_t d = first; d < last; d++) {
            for (int32_t i = begin; i < end; i += VF_N) {
                vf x = item_load(k, (int64_t)d * PAGE + i, type);
                if (type == SOBRE_KV_Q8_0) x = vf_mul(x, vf_load(scale + i));
                vf_store(ret + (int64_t)d * PAGE + i, x);
            }
        }
    }
}

INLINE void unpack_v(const void *v, int32_t n_dims, int32_t begin, int32_t end, float *ret,
                     sobre_kv_type type)
{
    const int32_t group = group_size(n_dims, type);
    for (int32_t first = 0; first < n_dims; first += group) {
        int32_t last = n_dims - first < group ? n_dims : first + group;
        float scale[PAGE];
        scales_load(v, n_dims, first, scale, type);
        for (int32_t i = begin; i < end; i++) {
            for (int32_t d = first; d < last; d += VF_N) {
                vf x = item_load(v, (int64_t)i * n_dims + d, type);
                if (type == SOBRE_KV_Q8_0) x = vf_mul(x, vf_set1(scale[i]));
                vf_store(ret + (int64_t)i * n_dims + d, x);
            }
        }
    }
}

/* --- Products. */

/* Vectors that a register tile is wide, a power of two. */
#define TILE_VF(n_rows, most) \
    ((n_rows)*8 <= SUMS && (most) >= 8 ? 8 : (n_rows)*4 <= SUMS && (most) >= 4 ? 4 : 2)

INLINE vf x_load(const void *items, int64_t i, const float *scale, bool scale_of_lane,
                 sobre_kv_type type)
{
    vf x = item_load(items, i, type);
    if (type == SOBRE_KV_Q8_0) x = vf_mul(x, scale_of_lane ? vf_load(scale) : vf_set1(*scale));
    return x;
}

/* Rows of the next register tile: as even as can be. */
static inline int32_t tile_rows(int32_t n_rows)
{
    int32_t n_tiles = (n_rows + ATTN_TILE - 1) / ATTN_TILE;
    return (n_rows + n_tiles - 1) / n_tiles;
}

/* acc [n_rows][n_vf] += a x, where row r's a is a[r * stride], and vector v of x begins at item
 * first + v * VF_N. Its scales are those of its lanes, or all the same. What there is less of is
 * held beside the sums, and the other comes one by one: more would not fit in the registers. */
INLINE void tile_add(vf acc[ATTN_TILE][8], int n_rows, int n_vf, const float *a, int64_t stride,
                     const void *items, int64_t first, const float *scale, bool scale_of_lane,
                     sobre_kv_type type)
{
    vf held[8];
    if (n_rows > n_vf) {
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++)
            held[v] = x_load(items, first + v * VF_N, scale + v * scale_of_lane * VF_N,
                             scale_of_lane, type);
#pragma GCC unroll 6
        for (int r = 0; r < n_rows; r++) {
            vf one = vf_set1(a[r * stride]);
            VF_PIN(one);
#pragma GCC unroll 8
            for (int v = 0; v < n_vf; v++) acc[r][v] = vf_fma(one, held[v], acc[r][v]);
        }
    } else {
#pragma GCC unroll 6
        for (int r = 0; r < n_rows; r++) held[r] = vf_set1(a[r * stride]);
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) {
            vf one = x_load(items, first + v * VF_N, scale + v * scale_of_lane * VF_N,
                            scale_of_lane, type);
            VF_PIN(one);
#pragma GCC unroll 6
            for (int r = 0; r < n_rows; r++) acc[r][v] = vf_fma(held[r], one, acc[r][v]);
        }
    }
}

/* n_vf vectors of positions for n_rows rows; both constants where it is called. */
INLINE void scores_tile(const float *q, int n_rows, const void *k, int32_t head_dim, int32_t first,
                        int n_vf, float *s, sobre_kv_type type)
{
    const int32_t group = group_size(head_dim, type);
    vf acc[ATTN_TILE][8];
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) acc[r][v] = vf_zero();
    for (int32_t begin = 0; begin < head_dim; begin += group) {
        int32_t end = head_dim - begin < group ? head_dim : begin + group;
        float scale[PAGE];
        scales_load(k, head_dim, begin, scale, type);
        for (int32_t d = begin; d < end; d++) {
            tile_add(acc, n_rows, n_vf, q + d, head_dim, k, (int64_t)d * PAGE + first,
                     scale + first, true, type);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vf; v++) vf_store(s + r * PAGE + first + v * VF_N, acc[r][v]);
}

INLINE void scores_rows(const float *q, int n_rows, const void *k, int32_t head_dim, int32_t begin,
                        int32_t end, float *s, sobre_kv_type type)
{
    const int n_vf = TILE_VF(n_rows, PAGE / VF_N), step = n_vf * VF_N;
    for (int32_t first = begin / step * step; first < end; first += step)
        scores_tile(q, n_rows, k, head_dim, first, n_vf, s, type);
}

INLINE void scores(const float *q, int32_t n_rows, const void *k, int32_t head_dim, int32_t begin,
                   int32_t end, float *s, sobre_kv_type type)
{
    while (n_rows > 0) {
        int32_t n = tile_rows(n_rows);
        switch (n) {
        case 1: scores_rows(q, 1, k, head_dim, begin, end, s, type); break;
        case 2: scores_rows(q, 2, k, head_dim, begin, end, s, type); break;
        case 3: scores_rows(q, 3, k, head_dim, begin, end, s, type); break;
        case 4: scores_rows(q, 4, k, head_dim, begin, end, s, type); break;
        case 5: scores_rows(q, 5, k, head_dim, begin, end, s, type); break;
        default: scores_rows(q, 6, k, head_dim, begin, end, s, type); break;
        }
        n_rows -= n;
        q += (int64_t)n * head_dim;
        s += n * PAGE;
    }
}

INLINE void values_tile(const float *p, int n_rows, const void *v, int32_t n_dims, int32_t begin,
                        int32_t end, int32_t first, int n_vf, float *o, sobre_kv_type type)
{
    vf acc[ATTN_TILE][8];
    float scale[PAGE];
    scales_load(v, n_dims, first, scale, type);
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vf; j++)
            acc[r][j] = vf_load(o + (int64_t)r * n_dims + first + j * VF_N);
    for (int32_t i = begin; i < end; i++) {
        tile_add(acc, n_rows, n_vf, p + i, PAGE, v, (int64_t)i * n_dims + first, scale + i, false,
                 type);
    }
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vf; j++)
            vf_store(o + (int64_t)r * n_dims + first + j * VF_N, acc[r][j]);
}

/* Tiles as wide as they may be, then narrower ones; none spans groups, and rows are padded to 16
 * dims. */
INLINE void values_rows(const float *p, int n_rows, const void *v, int32_t n_dims, int32_t begin,
                        int32_t end, float *o, sobre_kv_type type)
{
    const int most = type == SOBRE_KV_Q8_0 ? ATTN_GROUP / VF_N : 8, wide = TILE_VF(n_rows, most);
    int32_t first = 0;
    if (wide >= 8)
        for (; first + 8 * VF_N <= n_dims; first += 8 * VF_N)
            values_tile(p, n_rows, v, n_dims, begin, end, first, 8, o, type);
    if (wide >= 4)
        for (; first + 4 * VF_N <= n_dims; first += 4 * VF_N)
            values_tile(p, n_rows, v, n_dims, begin, end, first, 4, o, type);
    for (; first + 2 * VF_N <= n_dims; first += 2 * VF_N)
        values_tile(p, n_rows, v, n_dims, begin, end, first, 2, o, type);
    for (; first < n_dims; first += VF_N)
        values_tile(p, n_rows, v, n_dims, begin, end, first, 1, o, type);
}

INLINE void values(const float *p, int32_t n_rows, const void *v, int32_t n_dims, int32_t begin,
                   int32_t end, float *o, sobre_kv_type type)
{
    while (n_rows > 0) {
        int32_t n = tile_rows(n_rows);
        switch (n) {
        case 1: values_rows(p, 1, v, n_dims, begin, end, o, type); break;
        case 2: values_rows(p, 2, v, n_dims, begin, end, o, type); break;
        case 3: values_rows(p, 3, v, n_dims, begin, end, o, type); break;
        case 4: values_rows(p, 4, v, n_dims, begin, end, o, type); break;
        case 5: values_rows(p, 5, v, n_dims, begin, end, o, type); break;
        default: values_rows(p, 6, v, n_dims, begin, end, o, type); break;
        }
        n_rows -= n;
        p += n * PAGE;
        o += (int64_t)n * n_dims;
    }
}

/* --- Softmax. */

/* Only lanes that hold a seen position; those beside it weigh nothing. */
static float soften(const attn_view *view, float *s, float *max)
{
    const int32_t begin = view->begin / SUM_LANES * SUM_LANES;
    const int32_t end = (view->end + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
    vf distance = vf_zero(); /* of each lane from the query */
    if (view->slope > 0.0f) {
        float first[VF_N];
        for (int i = 0; i < VF_N; i++) first[i] = view->distance + (float)i;
        distance = vf_load(first);
    }
    for (int32_t i = begin; i < end; i += VF_N) {
        vf x = vf_mul(vf_load(s + i), vf_set1(view->scale));
        if (view->softcap > 0.0f)
            x = vf_mul(vf_set1(view->softcap), vf_tanh(vf_div(x, vf_set1(view->softcap))));
        if (view->slope > 0.0f)
            x = vf_fnma(vf_set1(view->slope), vf_abs(vf_add(distance, vf_set1((float)i))), x);
        vf_store(s + i, x);
    }
    for (int32_t i = begin; i < view->begin; i++) s[i] = -INFINITY;
    for (int32_t i = view->end; i < end; i++) s[i] = -INFINITY;

    vf most = vf_set1(*max);
    for (int32_t i = begin; i < end; i += VF_N) most = vf_max(vf_load(s + i), most);
    float lanes[SUM_LANES], top;
    vf_store(lanes, most);
    top = lanes[0];
    for (int i = 1; i < VF_N; i++) top = lanes[i] > top ? lanes[i] : top;
    *max = top;

    vf sum[SUM_LANES / VF_N];
    for (int i = 0; i < SUM_LANES / VF_N; i++) sum[i] = vf_zero();
    for (int32_t i = begin; i < end; i += SUM_LANES) {
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

ATTN_KERNELS_OF(F32)
ATTN_KERNELS_OF(F16)
ATTN_KERNELS_OF(BF16)
ATTN_KERNELS_OF(Q8_0)

const attn_kernels ATTN_KERNELS[ATTN_N_TYPES] = ATTN_KERNELS_TABLE;
