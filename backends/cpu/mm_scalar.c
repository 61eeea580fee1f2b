/* SPDX-License-Identifier: MIT */
/* Products in plain C: the reference that the instruction sets are compared with. Lanes are rows,
 * so compilers make vectors of the inner loops. */
#include <math.h>
#include <string.h>

#include "dtype.h"
#include "mm_kernels.h"

enum { SCALAR_TILE = 4 };

static void load_scales(bool wide, const uint8_t *from, float *ret)
{
    for (int r = 0; r < MM_PANEL; r++) {
        uint16_t h;
        memcpy(&h, from + 2 * r, sizeof(h));
        ret[r] = wide ? bf16_to_f32(h) : f16_to_f32(h);
    }
}

/* d and m of group `group` of a unit, without their codes. */
static void load_group(const mm_kind_info *kind, const uint8_t *unit, int group, float *ret_d,
                       float *ret_m)
{
    const uint8_t *scales = unit + (kind->codes ? 0 : group) * MM_PANEL * 2;
    load_scales(kind->wide_scale, scales, ret_d);
    if (kind->has_min) load_scales(false, scales + kind->m_at, ret_m);
}

/* The codes of a group; 1 where the kind has none. */
static void load_codes(const mm_kind_info *kind, const uint8_t *unit, int group, int32_t *ret_codes,
                       int32_t *ret_minima)
{
    const uint8_t *codes = unit + kind->codes_at + group * MM_PANEL;
    const uint8_t *minima = unit + kind->minima_at + group * MM_PANEL;
    for (int r = 0; r < MM_PANEL; r++) {
        ret_codes[r] = ret_minima[r] = 1;
        if (kind->codes == MM_CODES_MIN_HALF) {
            ret_codes[r] = codes[r] & 15;
            ret_minima[r] = codes[r] >> 4;
        } else if (kind->codes) {
            ret_codes[r] = (int8_t)codes[r];
            if (kind->has_min) ret_minima[r] = minima[r];
        }
    }
}

/* Block `block` of a unit as integers, [32][16]. */
static void load_block(const mm_kind_info *kind, const uint8_t *unit, int block, int16_t *ret)
{
    const uint8_t *low = unit + kind->low_at + block * kind->low * MM_PANEL * 4;
    const uint8_t *high = unit + kind->high_at + block * kind->high * MM_PANEL * 4;
    for (int i = 0; i < MM_BLOCK; i++, ret += MM_PANEL) {
        const int step = i / 4, bits = kind->low, more = kind->high;
        const uint8_t *word = low + step % bits * MM_PANEL * 4 + i % 4;
        for (int r = 0; r < MM_PANEL; r++) {
            ret[r] = (int16_t)(word[r * 4] >> step / bits * bits & ((1 << bits) - 1));
        }
        if (more > 0) {
            word = high + step % more * MM_PANEL * 4 + i % 4;
            for (int r = 0; r < MM_PANEL; r++) {
                ret[r] |=
                    (int16_t)((word[r * 4] >> step / more * more & ((1 << more) - 1)) << bits);
            }
        }
        for (int r = 0; r < MM_PANEL; r++) {
            ret[r] = (int16_t)((kind->levels ? kind->levels[ret[r]] : ret[r]) - kind->bias);
        }
    }
}

/* acc += block `block` of a unit. */
static void q8_block(const mm_kind_info *kind, const uint8_t *unit, int block,
                     const mm_act_block *x, float *acc)
{
    float d[MM_PANEL], m[MM_PANEL];
    int16_t q[MM_BLOCK * MM_PANEL];
    int32_t value[MM_PANEL] = {0}, minimum[MM_PANEL] = {0}; /* c and c' of mm_kernels.h */
    const int group = kind->group, n_groups = MM_BLOCK / group;
    load_block(kind, unit, block, q);
    for (int g = 0; g < n_groups; g++) {
        const int32_t sum = n_groups == 1 ? x->half[0] + x->half[1] : x->half[g];
        int32_t dot[MM_PANEL] = {0}, codes[MM_PANEL], minima[MM_PANEL];
        for (int i = g * group; i < (g + 1) * group; i++) {
            for (int r = 0; r < MM_PANEL; r++) dot[r] += q[i * MM_PANEL + r] * x->q[i];
        }
        load_codes(kind, unit, block * n_groups + g, codes, minima);
        for (int r = 0; r < MM_PANEL; r++) value[r] += codes[r] * dot[r];
        for (int r = 0; r < MM_PANEL; r++) minimum[r] += minima[r] * sum;
    }
    load_group(kind, unit, block * n_groups, d, m);
    for (int r = 0; r < MM_PANEL; r++) acc[r] = fmaf(d[r] * x->d, (float)value[r], acc[r]);
    if (!kind->has_min) return;
    for (int r = 0; r < MM_PANEL; r++) {
        acc[r] = kind->codes ? fmaf(m[r] * x->d, (float)minimum[r], acc[r])
                             : fmaf(m[r], x->scaled_sum, acc[r]);
    }
}

static void q8_panel(const mm_kind_info *kind, const uint8_t *panel, int64_t n_units,
                     const mm_act_block *x, int64_t x_stride, int32_t n_tokens,
                     const mm_fine_tile *fine, float *ret)
{
    const int n_blocks = kind->unit / MM_BLOCK;
    memset(ret, 0, (size_t)n_tokens * MM_PANEL * sizeof(float));
    for (int32_t t = 0; t < n_tokens; t++, ret += MM_PANEL) {
        const mm_act_block *xt = x + t * x_stride, *rest = fine->rest + t * x_stride;
        for (int64_t b = 0; b < n_units * n_blocks; b++) {
            const uint8_t *unit = panel + b / n_blocks * kind->unit_size;
            q8_block(kind, unit, (int)(b % n_blocks), &xt[b], ret);
        }
        for (int32_t i = 0; i < fine->n; i++) {
            const int32_t b = fine->block[i];
            const uint8_t *unit = panel + b / n_blocks * kind->unit_size;
            q8_block(kind, unit, b % n_blocks, &rest[b], ret);
        }
    }
}

static void decode_quant(const mm_kind_info *kind, const uint8_t *panel, int64_t col,
                         int32_t n_cols, float *ret)
{
    const uint8_t *unit = panel + col / kind->unit * kind->unit_size;
    float d[MM_PANEL], m[MM_PANEL] = {0};
    int16_t q[MM_BLOCK * MM_PANEL];
    int32_t codes[MM_PANEL], minima[MM_PANEL];
    for (int32_t i = 0; i < n_cols; i++, ret += MM_PANEL) {
        const int at = (int)(col % kind->unit) + i, group = at / kind->group;
        if (at % MM_BLOCK == 0) load_block(kind, unit, at / MM_BLOCK, q);
        if (at % kind->group == 0) {
            load_group(kind, unit, group, d, m);
            load_codes(kind, unit, group, codes, minima);
            for (int r = 0; kind->codes && r < MM_PANEL; r++) {
                d[r] *= (float)codes[r];
                m[r] *= (float)minima[r];
            }
        }
        for (int r = 0; r < MM_PANEL; r++) {
            const float y = d[r] * (float)q[at % MM_BLOCK * MM_PANEL + r];
            ret[r] = kind->has_min ? y + m[r] : y;
        }
    }
}

#define X(kind, name)                                                                          \
    static void q8_##name(const uint8_t *panel, int64_t n_units, const mm_act_block *x,        \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,        \
                          float *ret)                                                          \
    {                                                                                          \
        q8_panel(&mm_kinds[MM_KIND_##kind], panel, n_units, x, x_stride, n_tokens, fine, ret); \
    }                                                                                          \
    static void decode_##name(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)   \
    {                                                                                          \
        decode_quant(&mm_kinds[MM_KIND_##kind], panel, col, n_cols, ret);                      \
    }
MM_QUANT_KINDS(X)
#undef X

static void decode_f16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    for (int32_t i = 0; i < n_cols * MM_PANEL; i++) {
        uint16_t h;
        memcpy(&h, panel + (col * MM_PANEL + i) * 2, sizeof(h));
        ret[i] = f16_to_f32(h);
    }
}

static void decode_bf16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    for (int32_t i = 0; i < n_cols * MM_PANEL; i++) {
        uint16_t h;
        memcpy(&h, panel + (col * MM_PANEL + i) * 2, sizeof(h));
        ret[i] = bf16_to_f32(h);
    }
}

static void f32_tokens(const float *w, int32_t k, const float *x, int64_t x_stride,
                       int32_t n_tokens, float *acc)
{
    for (int32_t t = 0; t < n_tokens; t++) {
        float *sums = acc + t * MM_PANEL;
        for (int32_t i = 0; i < k; i++) {
            const float xi = x[t * x_stride + i];
            for (int r = 0; r < MM_PANEL; r++) sums[r] += w[i * MM_PANEL + r] * xi;
        }
    }
}

static void f32_stream(const uint8_t *const *panels, int64_t k, const float *x, float *acc,
                       int64_t acc_stride)
{
    for (int p = 0; p < MM_STREAM_PANELS; p++) {
        f32_tokens((const float *)panels[p], (int32_t)k, x, 0, 1, acc + p * acc_stride);
    }
}

/* Sums in the order of every instruction set: 16 lanes, then halved. */
static float fold(float *lanes)
{
    for (int n = MM_PANEL / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
    }
    return lanes[0];
}

typedef struct norm {
    float mean, scale;
} norm;

static norm norm_of(const sobre_norm_params *params, const float *x, int64_t k)
{
    norm n = {0.0f, 1.0f};
    if (params->kind == SOBRE_NORM_NONE) return n;
    if (params->kind == SOBRE_NORM_LAYER) {
        float lanes[MM_PANEL] = {0};
        for (int64_t i = 0; i < k; i++) lanes[i % MM_PANEL] += x[i];
        n.mean = fold(lanes) / (float)k;
    }
    float lanes[MM_PANEL] = {0};
    for (int64_t i = 0; i < k; i++) {
        float c = x[i] - n.mean;
        lanes[i % MM_PANEL] = fmaf(c, c, lanes[i % MM_PANEL]);
    }
    n.scale = 1.0f / sqrtf(fold(lanes) / (float)k + params->eps);
    return n;
}

/* Columns [begin, end) of a normalised row. */
static void normalise(const mm_prologue *prologue, const norm *n, const float *x, int64_t begin,
                      int64_t end, float *ret)
{
    for (int64_t i = begin; i < end; i++, ret++) {
        if (prologue->norm.kind == SOBRE_NORM_NONE) {
            *ret = x[i];
            continue;
        }
        *ret = (x[i] - n->mean) * n->scale;
        if (prologue->weight) *ret *= prologue->weight[i];
        if (prologue->bias) *ret += prologue->bias[i];
    }
}

/* Block b of a normalised row, zeros beyond its end. */
static void normalise_block(const mm_prologue *prologue, const norm *n, const float *x, int64_t k,
                            int64_t b, float *ret)
{
    int64_t begin = b * MM_BLOCK, end = begin + MM_BLOCK < k ? begin + MM_BLOCK : k;
    memset(ret, 0, MM_BLOCK * sizeof(*ret));
    normalise(prologue, n, x, begin, end, ret);
}

static void prepare_f32(const mm_prologue *prologue, const float *x, int64_t k, float *ret)
{
    norm n = norm_of(&prologue->norm, x, k);
    normalise(prologue, &n, x, 0, k, ret);
    memset(ret + k, 0, (size_t)(mm_act_floats(k) - k) * sizeof(float));
}

static void quantise(const float *y, mm_act_block *ret)
{
    /* Compared as integers, so that NaN wins and spoils d. */
    uint32_t bits, most = 0;
    for (int i = 0; i < MM_BLOCK; i++) {
        memcpy(&bits, &y[i], sizeof(bits));
        bits &= 0x7fffffffu;
        if (bits > most) most = bits;
    }
    float largest;
    memcpy(&largest, &most, sizeof(largest));
    memset(ret, 0, sizeof(*ret));
    if (largest < MM_ACT_TINY) return;
    ret->d = largest / 127.0f;
    if (!isfinite(largest)) return;
    const float inverse = 127.0f / largest;
    int sum[2] = {0, 0};
    for (int i = 0; i < MM_BLOCK; i++) {
        ret->q[i] = (int8_t)lrintf(y[i] * inverse);
        sum[i / 16] += ret->q[i];
    }
    mm_act_sums(ret, sum[0], sum[1]);
}

static void prepare_q8(const mm_prologue *prologue, const float *x, int64_t k, mm_act_block *ret,
                       mm_act_block *rest)
{
    float y[MM_BLOCK];
    norm n = norm_of(&prologue->norm, x, k);
    const int64_t n_blocks = mm_act_main(k);
    mm_act_fine *fine = (mm_act_fine *)&ret[n_blocks];
    for (int64_t b = 0; b < n_blocks; b++) {
        normalise_block(prologue, &n, x, k, b, y);
        quantise(y, &ret[b]);
    }
    mm_act_choose(ret, n_blocks, fine);
    memset(rest, 0, (size_t)n_blocks * sizeof(*rest));
    for (int32_t f = 0; f < fine->n; f++) {
        const int32_t b = fine->block[f];
        normalise_block(prologue, &n, x, k, b, y);
        for (int i = 0; i < MM_BLOCK; i++) y[i] = fmaf(-ret[b].d, (float)ret[b].q[i], y[i]);
        quantise(y, &rest[b]);
    }
}

static float activate(sobre_act act, float x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return x / (1.0f + expf(-x));
    case SOBRE_ACT_GELU_TANH:
        return x / (1.0f + expf(-1.5957691216f * x * (1.0f + 0.044715f * x * x)));
    case SOBRE_ACT_GELU_ERF: return 0.5f * x * erfcf(-0.70710678119f * x);
    case SOBRE_ACT_RELU: return x > 0.0f ? x : 0.0f * x; /* keeps NaN */
    default: return x;
    }
}

static void finish(const mm_finish *f, const float *a, const float *b)
{
    for (int32_t t = 0; t < f->n_tokens; t++, a += MM_PANEL, b += MM_PANEL) {
        for (int32_t r = 0; r < f->n_rows; r++) {
            const int64_t at = t * f->out_stride + r;
            float y = f->bias[0] ? a[r] + f->bias[0][r] : a[r];
            if (f->glu != SOBRE_ACT_NONE) {
                y = activate(f->glu, y) * (f->bias[1] ? b[r] + f->bias[1][r] : b[r]);
            }
            f->out[at] = f->residual ? y + f->residual[at] : y;
        }
    }
}

const mm_kernels mm_kernels_scalar = {
    .isa = SOBRE_CPU_SCALAR,
    .tile = SCALAR_TILE,
    .n_tokens = SCALAR_TILE,
#define X(kind, name) [MM_KIND_##kind] = q8_##name,
    .q8 = {MM_QUANT_KINDS(X)},
#undef X
#define X(kind, name) [MM_KIND_##kind] = decode_##name,
    .decode = {MM_QUANT_KINDS(X) X(F16, f16) X(BF16, bf16)},
#undef X
    .f32_tokens = f32_tokens,
    .f32_stream = {[MM_KIND_F32] = f32_stream},
    .prepare_q8 = prepare_q8,
    .prepare_f32 = prepare_f32,
    .finish = finish,
};
