/* SPDX-License-Identifier: MIT */
/*
 * What products with DOTPROD and with I8MM share. Both multiply signed bytes: weights lose their
 * bias before, or the dot starts from what undoes it where there is such an integer. The including
 * file defines MM_TILE before this one, and behind it the functions that are declared here.
 */
#include "mm_kernels.h"
#include "vmath_neon.h"

enum { MM_HALF_STEPS = MM_STEPS / 2 };

/* The dots of 4 rows and n tokens, each from an integer of its token's. */
static inline void dots_begin(int n, const int32_t *start, vi *dot);
/* Adds half `half` of a block: w[i] has columns 4i .. 4i + 3 of each row. */
static inline void dots_add(int n, const int8x16_t *w, const mm_act_block *x, int64_t x_stride,
                            int half, vi *dot);
/* Leaves dot[token] with a row in each lane. */
static inline void dots_end(int n, vi *dot);

/* One token's part of dots_add(). */
static inline MM_INLINED vi dot_half(vi dot, const int8x16_t *w, int8x16_t x)
{
    dot = vdotq_laneq_s32(dot, w[0], x, 0);
    dot = vdotq_laneq_s32(dot, w[1], x, 1);
    dot = vdotq_laneq_s32(dot, w[2], x, 2);
    return vdotq_laneq_s32(dot, w[3], x, 3);
}

/* Columns 4 * step .. 4 * step + 3 of a plane of `bits` bits, for 4 rows. */
static inline MM_INLINED uint8x16_t plane_at(const int bits, const uint8_t *plane, const int step)
{
    uint8x16_t word = vld1q_u8(plane + step % bits * MM_PANEL * 4);
    if (bits == 8) return word;
    const int shift = step / bits * bits;
    if (shift > 0) word = word >> shift;
    return shift + bits == 8 ? word : vandq_u8(word, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
}

/* Does the dot start from what undoes the bias? */
static inline MM_INLINED bool starts_biased(const mm_kind_info *kind)
{
    return (kind->bias == 8 || kind->bias == 16) && kind->group == MM_BLOCK && !kind->levels;
}

/* 16 columns of 4 rows. */
static inline MM_INLINED void load_half(const mm_kind_info *kind, const uint8_t *low,
                                        const uint8_t *high, const int half, int8x16_t *ret)
{
    const uint8x16_t bias = vdupq_n_u8((uint8_t)kind->bias);
    MM_UNROLL(4)
    for (int i = 0; i < MM_HALF_STEPS; i++) {
        const int step = half * MM_HALF_STEPS + i;
        uint8x16_t u = plane_at(kind->low, low, step);
        if (kind->high > 0) u = vorrq_u8(u, plane_at(kind->high, high, step) << kind->low);
        if (kind->levels)
            u = vqtbl1q_u8(vsubq_u8(vld1q_u8(kind->levels), bias), u);
        else if (kind->bias > 0 && !starts_biased(kind))
            u = vsubq_u8(u, bias);
        ret[i] = vreinterpretq_s8_u8(u);
    }
}

static inline MM_INLINED vf load_scales(const bool wide, const uint8_t *from)
{
    return wide ? vf_load_bf16((const uint16_t *)from) : vf_load_f16((const uint16_t *)from);
}

/* 4 bytes as integers. */
static inline MM_INLINED vi load_codes(const uint8_t *from)
{
    uint32_t bytes;
    memcpy(&bytes, from, sizeof(bytes));
    return vreinterpretq_s32_u32(
        vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes))))));
}

static inline MM_INLINED vi sign_extended(vi byte)
{
    return vi_sra(vi_sll(byte, 24), 24);
}

/* acc [n][v] += rows 4v .. 4v + 3 of a block times n tokens, whose blocks x are. */
static inline MM_INLINED void block_rows(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                         const int block, const int v, const mm_act_block *x,
                                         int64_t x_stride, vf (*acc)[MM_PANEL / VF_N])
{
    const int n_groups = MM_BLOCK / kind->group, lane = v * VF_N;
    const uint8_t *low = unit + kind->low_at + (block * kind->low * MM_PANEL + lane) * 4;
    const uint8_t *high = unit + kind->high_at + (block * kind->high * MM_PANEL + lane) * 4;
    const uint8_t *scales = unit + ((kind->codes ? 0 : block * n_groups) * MM_PANEL + lane) * 2;
    const uint8_t *codes = unit + kind->codes_at + block * n_groups * MM_PANEL + lane;
    const uint8_t *minima = unit + kind->minima_at + block * n_groups * MM_PANEL + lane;
    vi value[MM_TILE], minimum[2]; /* c of mm_kernels.h, and what c' is made of */
    int8x16_t w[MM_HALF_STEPS];
    int32_t start[MM_TILE] = {0};

    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        if (!starts_biased(kind)) break;
        start[t] = kind->bias == 8 ? x[t * x_stride].offset_8 : x[t * x_stride].offset_16;
    }
    MM_UNROLL(2)
    for (int g = 0; g < n_groups; g++) {
        const int n_halves = 2 / n_groups;
        vi dot[MM_TILE];
        dots_begin(n, start, dot);
        MM_UNROLL(2)
        for (int h = 0; h < n_halves; h++) {
            load_half(kind, low, high, g + h, w);
            dots_add(n, w, x, x_stride, g + h, dot);
        }
        dots_end(n, dot);
        vi code = kind->codes ? load_codes(codes + g * MM_PANEL) : vi_set1(1);
        if (kind->codes == MM_CODES_MIN_HALF) {
            minimum[g] = vi_srl(code, 4);
            code = vi_and(code, vi_set1(15));
        } else if (kind->codes) {
            code = sign_extended(code);
            if (kind->has_min) minimum[g] = load_codes(minima + g * MM_PANEL);
        }
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            if (!kind->codes)
                value[t] = dot[t];
            else
                value[t] = g == 0 ? vmulq_s32(code, dot[t]) : vmlaq_s32(value[t], code, dot[t]);
        }
    }

    const vf d = load_scales(kind->wide_scale, scales);
    const vf m = kind->has_min ? load_scales(false, scales + kind->m_at) : d;
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        const mm_act_block *xt = &x[t * x_stride];
        const vf dx = vf_set1(xt->d);
        acc[t][v] = vf_fma(vf_mul(d, dx), vf_from_vi(value[t]), acc[t][v]);
        if (!kind->has_min) continue;
        if (!kind->codes) {
            acc[t][v] = vf_fma(m, vf_set1(xt->scaled_sum), acc[t][v]);
            continue;
        }
        vi sum = vmulq_n_s32(minimum[0], n_groups == 1 ? xt->half[0] + xt->half[1] : xt->half[0]);
        if (n_groups == 2) sum = vmlaq_n_s32(sum, minimum[1], xt->half[1]);
        acc[t][v] = vf_fma(vf_mul(m, dx), vf_from_vi(sum), acc[t][v]);
    }
}

/* What mm_vf_q8.h asks for. */
static inline MM_INLINED void group_dots(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                         const int block, const mm_act_block *x, int64_t x_stride,
                                         vf (*acc)[MM_PANEL / VF_N])
{
    MM_UNROLL(4)
    for (int v = 0; v < MM_PANEL / VF_N; v++) {
        block_rows(kind, n, unit, block, v, x + block, x_stride, acc);
    }
}

static inline int32_t vi_largest(vi a)
{
    return vmaxvq_s32(a);
}

static inline void store_block(const vi *q, int8_t *to, int32_t *ret_halves)
{
    for (int h = 0; h < 2; h++, q += 4) {
        const int16x8_t a = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
        const int16x8_t b = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
        vst1q_s8(to + 16 * h, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
        ret_halves[h] = vaddvq_s16(vaddq_s16(a, b));
    }
}
