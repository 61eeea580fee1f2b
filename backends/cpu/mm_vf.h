/* SPDX-License-Identifier: MIT */
/*
 * The parts of products that vector instruction sets share, in the vocabulary of vmath_*.h:
 * decoding, the f32 product, preparing activations, finishing tiles, and the table. The including
 * file defines
 *     MM_ISA, MM_ISA_KERNELS      the instruction set and the name of its table
 *     MM_TILE, MM_TILE_SIZES(X)   tokens in a tile, and sizes that there are kernels for: X(1) ...
 *     vi_largest(vi)              the largest lane
 *     store_block(q, to, halves)  32 integers within -128 .. 127 as bytes, and the sums of 16 each
 * and either what mm_vf_q8.h asks for, or
 *     MM_ISA_TOKENS               tokens in an int8 product
 *     q8_*, q8_stream_*           int8 products of all kinds
 * It may define, so that weights need not be decoded in plain C,
 *     MM_COLUMNS(kind, unit, block, step, lane)
 *                                 bytes of columns 4 step ... of a block, as products have them
 */

enum { ROW_VECTORS = MM_PANEL / VF_N, BLOCK_VECTORS = MM_BLOCK / VF_N };

/* --- Decoding */

static void decode_f16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    const uint16_t *from = (const uint16_t *)panel + col * MM_PANEL;
    for (int32_t i = 0; i < n_cols * MM_PANEL; i += VF_N) {
        vf_store(ret + i, vf_load_f16(from + i));
    }
}

static void decode_bf16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    const uint16_t *from = (const uint16_t *)panel + col * MM_PANEL;
    for (int32_t i = 0; i < n_cols * MM_PANEL; i += VF_N) {
        vf_store(ret + i, vf_load_bf16(from + i));
    }
}

#ifdef MM_COLUMNS

/* Signed bytes, or nibbles of them, as floats. */
static inline vf load_codes(const uint8_t *from, int shift, int mask)
{
    float codes[VF_N];
    for (int i = 0; i < VF_N; i++) codes[i] = (float)((int8_t)from[i] >> shift & mask);
    return vf_load(codes);
}

/* A group's d and m with their codes: VF_N rows. */
static inline MM_INLINED void load_scales(const mm_kind_info *kind, const uint8_t *unit, int group,
                                          int lane, vf *ret_d, vf *ret_m)
{
    const uint16_t *d = (const uint16_t *)unit + (kind->codes ? 0 : group) * MM_PANEL + lane;
    const uint8_t *codes = unit + kind->codes_at + group * MM_PANEL + lane;
    const uint8_t *minima = unit + kind->minima_at + group * MM_PANEL + lane;
    *ret_d = kind->wide_scale ? vf_load_bf16(d) : vf_load_f16(d);
    *ret_m = kind->has_min ? vf_load_f16(d + kind->m_at / 2) : vf_zero();
    if (kind->codes == MM_CODES_MIN_HALF) {
        *ret_d = vf_mul(*ret_d, load_codes(codes, 0, 15));
        *ret_m = vf_mul(*ret_m, load_codes(codes, 4, 15));
    } else if (kind->codes) {
        *ret_d = vf_mul(*ret_d, load_codes(codes, 0, -1));
        if (kind->has_min) *ret_m = vf_mul(*ret_m, load_codes(minima, 0, 255));
    }
}

/* A lane of 32 bits is a row, so each of its bytes is a column. */
static inline MM_INLINED void decode_quant(const mm_kind_info *kind, const uint8_t *panel,
                                           int64_t col, float *ret)
{
    const uint8_t *unit = panel + col / kind->unit * kind->unit_size;
    const int first = (int)(col % kind->unit) / MM_BLOCK;
    const vi mask = vi_set1(255), bias = vi_set1(kind->bias);
    for (int block = first; block < first + MM_UNIT / MM_BLOCK; block++) {
        for (int lane = 0; lane < MM_PANEL; lane += VF_N) {
            vf d, m;
            MM_UNROLL(8)
            for (int s = 0; s < MM_STEPS; s++) {
                const int at = block * MM_BLOCK + 4 * s;
                float *to = ret + (at - first * MM_BLOCK) * MM_PANEL + lane;
                if (at % kind->group == 0) load_scales(kind, unit, at / kind->group, lane, &d, &m);
                vi bytes = MM_COLUMNS(kind, unit, block, s, lane);
                for (int j = 0; j < 4; j++, to += MM_PANEL) {
                    const vf y = vf_mul(d, vf_from_vi(vi_sub(vi_and(bytes, mask), bias)));
                    vf_store(to, kind->has_min ? vf_add(y, m) : y);
                    bytes = vi_srl(bytes, 8);
                }
            }
        }
    }
}

#define X(id, name)                                                                          \
    static void decode_##name(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret) \
    {                                                                                        \
        decode_quant(&mm_kinds[MM_KIND_##id], panel, col, ret);                              \
    }
MM_QUANT_KINDS(X)
#undef X

#endif

/* --- Products */

/* The most of n tokens that there is a tile for. */
static inline int32_t largest_tile(int32_t n)
{
    int32_t size = 1;
#define X(i) \
    if (n >= (i)) size = i;
    MM_TILE_SIZES(X)
#undef X
    return size;
}

#ifndef MM_ISA_TOKENS /* it has int8 products of its own */
#define MM_ISA_TOKENS MM_TILE
#include "mm_vf_q8.h"
#endif

/* acc [n_tokens][16] += w times x for n tokens of one panel. */
static inline MM_INLINED void f32_tile(const int n, const float *w, int32_t k, const float *x,
                                       int64_t x_stride, float *acc)
{
    vf sum[MM_TILE][ROW_VECTORS];
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        MM_UNROLL(4)
        for (int v = 0; v < ROW_VECTORS; v++) sum[t][v] = vf_load(acc + t * MM_PANEL + v * VF_N);
    }
    for (int32_t i = 0; i < k; i++, w += MM_PANEL) {
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const vf xt = vf_set1(x[t * x_stride + i]);
            MM_UNROLL(4)
            for (int v = 0; v < ROW_VECTORS; v++) {
                sum[t][v] = vf_fma(vf_load(w + v * VF_N), xt, sum[t][v]);
            }
        }
    }
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        MM_UNROLL(4)
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(acc + t * MM_PANEL + v * VF_N, sum[t][v]);
    }
}

static void f32_tokens(const float *w, int32_t k, const float *x, int64_t x_stride,
                       int32_t n_tokens, float *acc)
{
    for (int32_t n; n_tokens > 0; n_tokens -= n, x += n * x_stride, acc += n * MM_PANEL) {
        n = largest_tile(n_tokens);
        switch (n) {
#define X(n) \
    case n: f32_tile(n, w, k, x, x_stride, acc); break;
            MM_TILE_SIZES(X)
#undef X
        }
    }
}

static inline MM_INLINED vf load_weights(const mm_kind kind, const uint8_t *panel, int64_t at)
{
    switch (kind) {
    case MM_KIND_F16: return vf_load_f16((const uint16_t *)panel + at);
    case MM_KIND_BF16: return vf_load_bf16((const uint16_t *)panel + at);
    default: return vf_load((const float *)panel + at);
    }
}

/* The same for one token and several panels: enough chains to hide the latency of each. */
static inline MM_INLINED void f32_panels(const mm_kind kind, const uint8_t *const *panels,
                                         int64_t k, const float *x, float *acc, int64_t acc_stride)
{
    vf sum[MM_STREAM_PANELS][ROW_VECTORS];
    MM_UNROLL(4)
    for (int p = 0; p < MM_STREAM_PANELS; p++) {
        MM_UNROLL(4)
        for (int v = 0; v < ROW_VECTORS; v++) sum[p][v] = vf_load(acc + p * acc_stride + v * VF_N);
    }
    for (int64_t i = 0; i < k; i++) {
        const vf xi = vf_set1(x[i]);
        MM_UNROLL(4)
        for (int p = 0; p < MM_STREAM_PANELS; p++) {
            MM_UNROLL(4)
            for (int v = 0; v < ROW_VECTORS; v++) {
                vf w = load_weights(kind, panels[p], i * MM_PANEL + v * VF_N);
                sum[p][v] = vf_fma(w, xi, sum[p][v]);
            }
        }
    }
    MM_UNROLL(4)
    for (int p = 0; p < MM_STREAM_PANELS; p++) {
        MM_UNROLL(4)
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(acc + p * acc_stride + v * VF_N, sum[p][v]);
    }
}

#define STREAM(NAME, KIND)                                                                 \
    static void f32_stream_##NAME(const uint8_t *const *panels, int64_t k, const float *x, \
                                  float *acc, int64_t acc_stride)                          \
    {                                                                                      \
        f32_panels(KIND, panels, k, x, acc, acc_stride);                                   \
    }
STREAM(f16, MM_KIND_F16)
STREAM(bf16, MM_KIND_BF16)
STREAM(f32, MM_KIND_F32)
#undef STREAM

/* --- Preparing activations */

/* Sums in the order of every instruction set: 16 lanes, then halved. */
static float fold(const vf *lanes)
{
    float sum[MM_PANEL];
    for (int v = 0; v < ROW_VECTORS; v++) vf_store(sum + v * VF_N, lanes[v]);
    for (int n = MM_PANEL / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) sum[i] += sum[i + n];
    }
    return sum[0];
}

/* Lanes of a vector that starts `left` elements before the end. */
static inline int lanes_left(int64_t left)
{
    return left <= 0 ? 0 : left < VF_N ? (int)left : VF_N;
}

typedef struct norm {
    sobre_norm_kind kind;
    vf mean, scale;
} norm;

static norm norm_of(const sobre_norm_params *params, const float *x, int64_t k)
{
    norm n = {params->kind, vf_zero(), vf_set1(1.0f)};
    vf sum[ROW_VECTORS];
    if (n.kind == SOBRE_NORM_NONE) return n;
    if (n.kind == SOBRE_NORM_LAYER) {
        for (int v = 0; v < ROW_VECTORS; v++) sum[v] = vf_zero();
        for (int64_t i = 0; i < k; i += MM_PANEL) {
            for (int v = 0; v < ROW_VECTORS; v++) {
                int64_t at = i + v * VF_N;
                if (at < k) sum[v] = vf_add(sum[v], vf_load_n(x + at, lanes_left(k - at)));
            }
        }
        n.mean = vf_set1(fold(sum) / (float)k);
    }
    for (int v = 0; v < ROW_VECTORS; v++) sum[v] = vf_zero();
    for (int64_t i = 0; i < k; i += MM_PANEL) {
        for (int v = 0; v < ROW_VECTORS; v++) {
            int64_t at = i + v * VF_N;
            if (at >= k) continue;
            vf c = vf_sub(at + VF_N <= k ? vf_load(x + at) : vf_load_n(x + at, lanes_left(k - at)),
                          n.mean);
            if (at + VF_N > k) {
                float kept[VF_N];
                vf_store(kept, c);
                c = vf_load_n(kept, lanes_left(k - at));
            }
            sum[v] = vf_fma(c, c, sum[v]);
        }
    }
    n.scale = vf_set1(1.0f / sqrtf(fold(sum) / (float)k + params->eps));
    return n;
}

/* A vector of a normalised row; zeros beyond its end. */
static inline vf normalised(const mm_prologue *prologue, const norm *n, const float *x, int64_t at,
                            int64_t k)
{
    const float *weight = prologue->weight, *bias = prologue->bias;
    const int left = lanes_left(k - at);
    if (left == 0) return vf_zero();
    vf y = left == VF_N ? vf_load(x + at) : vf_load_n(x + at, left);
    if (n->kind == SOBRE_NORM_NONE) return y;
    y = vf_mul(vf_sub(y, n->mean), n->scale);
    if (left == VF_N) {
        if (weight) y = vf_mul(y, vf_load(weight + at));
        if (bias) y = vf_add(y, vf_load(bias + at));
        return y;
    }
    if (weight) y = vf_mul(y, vf_load_n(weight + at, left));
    if (bias) y = vf_add(y, vf_load_n(bias + at, left));
    float kept[VF_N];
    vf_store(kept, y);
    return vf_load_n(kept, left);
}

static void prepare_f32(const mm_prologue *prologue, const float *x, int64_t k, float *ret)
{
    norm n = norm_of(&prologue->norm, x, k);
    for (int64_t at = 0; at < mm_act_floats(k); at += VF_N) {
        vf_store(ret + at, normalised(prologue, &n, x, at, k));
    }
}

static inline void quantise(const vf *y, mm_act_block *ret)
{
    /* Compared as integers, so that NaN wins and spoils d. */
    const vi magnitude = vi_set1(0x7fffffff);
    vi most = vi_and(vi_bits_of(y[0]), magnitude);
    for (int v = 1; v < BLOCK_VECTORS; v++) {
        most = vi_max(most, vi_and(vi_bits_of(y[v]), magnitude));
    }
    const int32_t bits = vi_largest(most);
    float largest;
    memcpy(&largest, &bits, sizeof(largest));
    memset(ret, 0, sizeof(*ret));
    if (largest < MM_ACT_TINY) return;
    ret->d = largest / 127.0f;
    if (!isfinite(largest)) return;

    const vf inverse = vf_set1(127.0f / largest);
    vi q[BLOCK_VECTORS];
    for (int v = 0; v < BLOCK_VECTORS; v++) q[v] = vi_from_vf(vf_mul(y[v], inverse));
    int32_t halves[2];
    store_block(q, ret->q, halves);
    mm_act_sums(ret, halves[0], halves[1]);
}

static void normalised_block(const mm_prologue *prologue, const norm *n, const float *x, int64_t k,
                             int64_t b, vf *ret)
{
    for (int v = 0; v < BLOCK_VECTORS; v++) {
        ret[v] = normalised(prologue, n, x, b * MM_BLOCK + v * VF_N, k);
    }
}

static void prepare_q8(const mm_prologue *prologue, const float *x, int64_t k, mm_act_block *ret,
                       mm_act_block *rest)
{
    vf y[BLOCK_VECTORS];
    norm n = norm_of(&prologue->norm, x, k);
    const int64_t n_blocks = mm_act_main(k);
    mm_act_fine *fine = (mm_act_fine *)&ret[n_blocks];
    for (int64_t b = 0; b < n_blocks; b++) {
        normalised_block(prologue, &n, x, k, b, y);
        quantise(y, &ret[b]);
    }
    mm_act_choose(ret, n_blocks, fine);
    memset(rest, 0, (size_t)n_blocks * sizeof(*rest));
    for (int32_t f = 0; f < fine->n; f++) {
        const int32_t b = fine->block[f];
        const vf step = vf_set1(-ret[b].d);
        normalised_block(prologue, &n, x, k, b, y);
        for (int v = 0; v < BLOCK_VECTORS; v++) {
            int32_t q[VF_N];
            for (int i = 0; i < VF_N; i++) q[i] = ret[b].q[v * VF_N + i];
            y[v] = vf_fma(step, vf_from_vi(vi_load((const uint8_t *)q)), y[v]);
        }
        quantise(y, &rest[b]);
    }
}

/* --- Finishing tiles */

static inline vf activate(sobre_act act, vf x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return vf_silu(x);
    case SOBRE_ACT_GELU_TANH: return vf_gelu_tanh(x);
    case SOBRE_ACT_GELU_ERF: return vf_gelu_erf(x);
    case SOBRE_ACT_RELU: return vf_max(vf_zero(), x); /* keeps NaN */
    default: return x;
    }
}

static inline vf load_lanes(const float *from, int n)
{
    return n == VF_N ? vf_load(from) : vf_load_n(from, n);
}

/* One vector of rows of token t; `n` of its lanes exist. */
static inline void finish_rows(const mm_finish *f, const float *a, const float *b, int32_t t,
                               int row, int n)
{
    const int64_t at = t * f->out_stride + row;
    vf y = vf_load(a + t * MM_PANEL + row);
    if (f->bias[0]) y = vf_add(y, load_lanes(f->bias[0] + row, n));
    if (f->glu != SOBRE_ACT_NONE) {
        vf up = vf_load(b + t * MM_PANEL + row);
        if (f->bias[1]) up = vf_add(up, load_lanes(f->bias[1] + row, n));
        y = vf_mul(activate(f->glu, y), up);
    }
    if (f->residual) y = vf_add(y, load_lanes(f->residual + at, n));
    if (n == VF_N) {
        vf_store(f->out + at, y);
    } else {
        vf_store_n(f->out + at, y, n);
    }
}

/* Token by token: rows of outputs are far apart, so a line that is left half written is gone when
 * its second half comes. */
static void finish(const mm_finish *f, const float *a, const float *b)
{
    for (int32_t t = 0; t < f->n_tokens; t++) {
        for (int row = 0; row < f->n_rows; row += VF_N) {
            finish_rows(f, a, b, t, row, lanes_left(f->n_rows - row));
        }
    }
}

const mm_kernels MM_ISA_KERNELS = {
    .isa = MM_ISA,
    .tile = MM_TILE,
    .n_tokens = MM_ISA_TOKENS,
#define X(kind, name) [MM_KIND_##kind] = q8_##name,
    .q8 = {MM_QUANT_KINDS(X)},
#undef X
#define X(kind, name) [MM_KIND_##kind] = q8_stream_##name,
    .q8_stream = {MM_QUANT_KINDS(X)},
#undef X
    .decode = {[MM_KIND_F16] = decode_f16,
               [MM_KIND_BF16] = decode_bf16,
#ifdef MM_COLUMNS
#define X(kind, name) [MM_KIND_##kind] = decode_##name,
               MM_QUANT_KINDS(X)
#undef X
#endif
    },
    .f32_tokens = f32_tokens,
    .f32_stream = {[MM_KIND_F16] = f32_stream_f16,
                   [MM_KIND_BF16] = f32_stream_bf16,
                   [MM_KIND_F32] = f32_stream_f32},
    .prepare_q8 = prepare_q8,
    .prepare_f32 = prepare_f32,
    .finish = finish,
};
