/* SPDX-License-Identifier: MIT */
/* Products in plain C: the reference that the instruction sets are compared with. Lanes are rows,
 * so compilers make vectors of the inner loops. */
#include <math.h>
#include <string.h>

#include "dtype.h"
#include "mm_kernels.h"

enum { SCALAR_TILE = 4 };

static void load_scales(const mm_kind_info *kind, const uint8_t *from, float *ret)
{
    for (int r = 0; r < MM_PANEL; r++) {
        if (kind->scale_size == 2) {
            uint16_t h;
            memcpy(&h, from + 2 * r, sizeof(h));
            ret[r] = f16_to_f32(h);
        } else {
            memcpy(&ret[r], from + 4 * r, sizeof(float));
        }
    }
}

/* Group `group` of a unit as integers, [group size][16], bias taken off. */
static void load_group(const mm_kind_info *kind, const uint8_t *unit, int group, int8_t *ret)
{
    for (int i = 0; i < kind->group; i++) {
        int col = group * kind->group + i, block = col / MM_BLOCK, in_block = col % MM_BLOCK;
        const uint8_t *words = unit + kind->w_at;
        if (kind->bits == 4) {
            words += (block * 4 + in_block % 16 / 4) * MM_PANEL * 4;
        } else {
            words += col / 4 * MM_PANEL * 4;
        }
        const int shift = kind->bits == 4 && in_block >= 16 ? 4 : 0;
        const int mask = kind->bits == 4 ? 15 : 255;
        for (int r = 0; r < MM_PANEL; r++) {
            ret[i * MM_PANEL + r] = (int8_t)((words[r * 4 + col % 4] >> shift & mask) - kind->bias);
        }
    }
}

/* acc += a block of 32 columns. */
static void q8_block(const mm_kind_info *kind, const uint8_t *unit, int block,
                     const mm_act_block *x, float *acc)
{
    float d[MM_PANEL], m[MM_PANEL];
    int8_t q[MM_BLOCK * MM_PANEL];
    const int group = kind->group, n_groups = MM_BLOCK / group;
    for (int g = block * n_groups; g < (block + 1) * n_groups; g++) {
        const int at = g * group % MM_BLOCK;
        int32_t dot[MM_PANEL] = {0};
        load_scales(kind, unit + g * MM_PANEL * kind->scale_size, d);
        load_group(kind, unit, g, q);
        for (int i = 0; i < group; i++) {
            for (int r = 0; r < MM_PANEL; r++) dot[r] += q[i * MM_PANEL + r] * x->q[at + i];
        }
        for (int r = 0; r < MM_PANEL; r++) acc[r] = fmaf(d[r] * x->d, (float)dot[r], acc[r]);
        if (!kind->has_min) continue;
        const float sum = group == MM_BLOCK ? x->scaled_sum : x->d * x->half_sum[at / 16];
        load_scales(kind, unit + kind->m_at + g * MM_PANEL * kind->scale_size, m);
        for (int r = 0; r < MM_PANEL; r++) acc[r] = fmaf(m[r], sum, acc[r]);
    }
}

static void q8_token(const mm_kind_info *kind, const uint8_t *panel, int64_t n_units,
                     const mm_act_block *x, const mm_act_block *rest, const mm_fine_tile *fine,
                     float *acc)
{
    for (int64_t b = 0; b < 2 * n_units; b++) {
        q8_block(kind, panel + b / 2 * kind->unit_size, (int)(b % 2), &x[b], acc);
    }
    for (int32_t i = 0; i < fine->n; i++) {
        const int32_t b = fine->block[i];
        q8_block(kind, panel + b / 2 * kind->unit_size, b % 2, &rest[b], acc);
    }
}

static void decode_quant(const mm_kind_info *kind, const uint8_t *unit, int32_t n_cols, float *ret)
{
    float d[MM_PANEL], m[MM_PANEL] = {0};
    int8_t q[MM_BLOCK * MM_PANEL];
    for (int32_t g = 0; g * kind->group < n_cols; g++) {
        load_scales(kind, unit + g * MM_PANEL * kind->scale_size, d);
        if (kind->has_min) {
            load_scales(kind, unit + kind->m_at + g * MM_PANEL * kind->scale_size, m);
        }
        load_group(kind, unit, g, q);
        for (int i = 0; i < kind->group && g * kind->group + i < n_cols; i++) {
            for (int r = 0; r < MM_PANEL; r++) {
                float y = d[r] * (float)q[i * MM_PANEL + r];
                ret[(g * kind->group + i) * MM_PANEL + r] = kind->has_min ? y + m[r] : y;
            }
        }
    }
}

#define QUANT_KERNELS(NAME, KIND)                                                                  \
    static void q8_##NAME(const uint8_t *panel, int64_t n_units, const mm_act_block *x,            \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,            \
                          float *ret)                                                              \
    {                                                                                              \
        memset(ret, 0, (size_t)n_tokens *MM_PANEL * sizeof(float));                                \
        for (int32_t t = 0; t < n_tokens; t++) {                                                   \
            q8_token(&mm_kinds[KIND], panel, n_units, x + t * x_stride, fine->rest + t * x_stride, \
                     fine, ret + t * MM_PANEL);                                                    \
        }                                                                                          \
    }                                                                                              \
    static void decode_##NAME(const uint8_t *unit, int32_t n_cols, float *ret)                     \
    {                                                                                              \
        decode_quant(&mm_kinds[KIND], unit, n_cols, ret);                                          \
    }
QUANT_KERNELS(q4, MM_KIND_Q4)
QUANT_KERNELS(q4_min, MM_KIND_Q4_MIN)
QUANT_KERNELS(q8, MM_KIND_Q8)
QUANT_KERNELS(w32, MM_KIND_W32)
QUANT_KERNELS(w32_min, MM_KIND_W32_MIN)
QUANT_KERNELS(w16, MM_KIND_W16)
QUANT_KERNELS(w16_min, MM_KIND_W16_MIN)

static void decode_f16(const uint8_t *unit, int32_t n_cols, float *ret)
{
    for (int32_t i = 0; i < n_cols * MM_PANEL; i++) {
        uint16_t h;
        memcpy(&h, unit + 2 * i, sizeof(h));
        ret[i] = f16_to_f32(h);
    }
}

static void decode_bf16(const uint8_t *unit, int32_t n_cols, float *ret)
{
    for (int32_t i = 0; i < n_cols * MM_PANEL; i++) {
        uint16_t h;
        memcpy(&h, unit + 2 * i, sizeof(h));
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
    .q8 =
        {
            [MM_KIND_Q4] = q8_q4,
            [MM_KIND_Q4_MIN] = q8_q4_min,
            [MM_KIND_Q8] = q8_q8,
            [MM_KIND_W32] = q8_w32,
            [MM_KIND_W32_MIN] = q8_w32_min,
            [MM_KIND_W16] = q8_w16,
            [MM_KIND_W16_MIN] = q8_w16_min,
        },
    .decode =
        {
            [MM_KIND_Q4] = decode_q4,
            [MM_KIND_Q4_MIN] = decode_q4_min,
            [MM_KIND_Q8] = decode_q8,
            [MM_KIND_W32] = decode_w32,
            [MM_KIND_W32_MIN] = decode_w32_min,
            [MM_KIND_W16] = decode_w16,
            [MM_KIND_W16_MIN] = decode_w16_min,
            [MM_KIND_F16] = decode_f16,
            [MM_KIND_BF16] = decode_bf16,
        },
    .f32_tokens = f32_tokens,
    .f32_stream = {[MM_KIND_F32] = f32_stream},
    .prepare_q8 = prepare_q8,
    .prepare_f32 = prepare_f32,
    .finish = finish,
};
