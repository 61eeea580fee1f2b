/* SPDX-License-Identifier: MIT */
/* The vocabulary of x86/vmath_avx2.h in NEON, 4 lanes. */
#ifndef SOBRE_VMATH_NEON_H
#define SOBRE_VMATH_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

enum { VF_N = 4 };
typedef float32x4_t vf;
typedef int32x4_t vi;

#define VF_PIN(a) __asm__("" : "+w"(a))

static inline vf vf_zero(void)
{
    return vdupq_n_f32(0.0f);
}
static inline vf vf_set1(float a)
{
    return vdupq_n_f32(a);
}
static inline vf vf_load(const float *from)
{
    return vld1q_f32(from);
}
static inline void vf_store(float *to, vf a)
{
    vst1q_f32(to, a);
}

/* The first n lanes, n <= 4; loaded lanes beyond are 0. */
static inline vf vf_load_n(const float *from, int n)
{
    if (n == 4) return vld1q_f32(from);
    float32x2_t low = vdup_n_f32(0.0f), high = low;
    if (n >= 2) {
        low = vld1_f32(from);
        if (n == 3) high = vld1_lane_f32(from + 2, high, 0);
    } else if (n == 1) {
        low = vld1_lane_f32(from, low, 0);
    }
    return vcombine_f32(low, high);
}
static inline void vf_store_n(float *to, vf a, int n)
{
    if (n == 4) {
        vst1q_f32(to, a);
    } else if (n >= 2) {
        vst1_f32(to, vget_low_f32(a));
        if (n == 3) vst1q_lane_f32(to + 2, a, 2);
    } else if (n == 1) {
        vst1q_lane_f32(to, a, 0);
    }
}

static inline vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
static inline vf vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return vfmsq_f32(c, a, b);
}
/* Selected, since the instructions for this would choose the NaN. */
static inline vf vf_max(vf a, vf b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
static inline vf vf_abs(vf a)
{
    return vabsq_f32(a);
}
static inline vf vf_copysign(vf a, vf sign)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a);
}
static inline vf vf_round(vf a)
{
    return vrndnq_f32(a);
}
static inline vf vf_if_lt(vf a, vf b, vf yes, vf no)
{
    return vbslq_f32(vcltq_f32(a, b), yes, no);
}

static inline vi vi_set1(int32_t a)
{
    return vdupq_n_s32(a);
}
static inline vi vi_load(const void *from)
{
    return vreinterpretq_s32_u8(vld1q_u8(from));
}
static inline vi vi_add(vi a, vi b)
{
    return vaddq_s32(a, b);
}
static inline vi vi_sub(vi a, vi b)
{
    return vsubq_s32(a, b);
}
static inline vi vi_and(vi a, vi b)
{
    return vandq_s32(a, b);
}
static inline vi vi_max(vi a, vi b)
{
    return vmaxq_s32(a, b);
}
#define vi_sll(a, n) vshlq_n_s32(a, n)
#define vi_srl(a, n) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n))
#define vi_sra(a, n) vshrq_n_s32(a, n)
static inline vf vf_from_vi(vi a)
{
    return vcvtq_f32_s32(a);
}
static inline vi vi_from_vf(vf a)
{
    return vcvtnq_s32_f32(a);
}
static inline vf vf_of_bits(vi a)
{
    return vreinterpretq_f32_s32(a);
}
static inline vi vi_bits_of(vf a)
{
    return vreinterpretq_s32_f32(a);
}

static inline vf vf_load_f16(const uint16_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
static inline vf vf_load_bf16(const uint16_t *from)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}
static inline vf vf_load_i8(const int8_t *from)
{
    int32_t bytes;
    memcpy(&bytes, from, sizeof(bytes));
    int8x8_t b = vreinterpret_s8_s32(vdup_n_s32(bytes));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(b))));
}
static inline void vi_store_i8(int8_t *to, vi a)
{
    int16x4_t h = vmovn_s32(a);
    int8x8_t b = vmovn_s16(vcombine_s16(h, h));
    int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(b), 0);
    memcpy(to, &bytes, sizeof(bytes));
}
static inline void vi_store_u16(uint16_t *to, vi a)
{
    vst1_u16(to, vmovn_u32(vreinterpretq_u32_s32(a)));
}
static inline void vf_store_f16(uint16_t *to, vf a)
{
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}

#include "vmath.h"

#endif
