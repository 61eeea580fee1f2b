/* SPDX-License-Identifier: MIT */
/* The vocabulary of vmath_avx2.h in AVX-512, 16 lanes. */
#ifndef SOBRE_VMATH_AVX512_H
#define SOBRE_VMATH_AVX512_H

#include "avx512_intrin.h"
#include <stdint.h>

enum { VF_N = 16 };
typedef __m512 vf;
typedef __m512i vi;

#ifdef SOBRE_SIMDE
#define VF_PIN(a) (void)(a)
#else
#define VF_PIN(a) __asm__("" : "+v"(a))
#endif

static inline vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vf vf_set1(float a)
{
    return _mm512_set1_ps(a);
}
static inline vf vf_load(const float *from)
{
    return _mm512_loadu_ps(from);
}
static inline void vf_store(float *to, vf a)
{
    _mm512_storeu_ps(to, a);
}

/* The first n lanes, n <= 16; loaded lanes beyond are 0. */
static inline vf vf_load_n(const float *from, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
}
static inline void vf_store_n(float *to, vf a, int n)
{
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), a);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
static inline vf vf_abs(vf a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
static inline vf vf_copysign(vf a, vf sign)
{
    __m512 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign));
}
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_if_lt(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

static inline vi vi_set1(int32_t a)
{
    return _mm512_set1_epi32(a);
}
static inline vi vi_load(const void *from)
{
    return _mm512_loadu_si512(from);
}
static inline vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
static inline vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
static inline vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
static inline vi vi_max(vi a, vi b)
{
    return _mm512_max_epi32(a, b);
}
#define vi_sll(a, n) _mm512_slli_epi32(a, n)
#define vi_srl(a, n) _mm512_srli_epi32(a, n)
#define vi_sra(a, n) _mm512_srai_epi32(a, n)
static inline vf vf_from_vi(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
static inline vi vi_from_vf(vf a)
{
    return _mm512_cvtps_epi32(a);
}
static inline vf vf_of_bits(vi a)
{
    return _mm512_castsi512_ps(a);
}
static inline vi vi_bits_of(vf a)
{
    return _mm512_castps_si512(a);
}

static inline vf vf_load_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
static inline vf vf_load_bf16(const uint16_t *from)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline vf vf_load_i8(const int8_t *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}
static inline void vi_store_i8(int8_t *to, vi a)
{
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(a));
}
static inline void vi_store_u16(uint16_t *to, vi a)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(a));
}
static inline void vf_store_f16(uint16_t *to, vf a)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

#include "vmath.h"

#endif
