/* SPDX-License-Identifier: MIT */
/* A small vocabulary of vectors of floats (vf) and 32-bit integers (vi): AVX2 with FMA and F16C,
 * 8 lanes. vmath_avx512.h speaks the same with 16 lanes, arm/vmath_neon.h with 4; vmath.h adds the
 * functions. Include one of them in a file that is compiled for its instruction set. */
#ifndef SOBRE_VMATH_AVX2_H
#define SOBRE_VMATH_AVX2_H

#include <immintrin.h>
#include <stdint.h>

enum { VF_N = 8 };
typedef __m256 vf;
typedef __m256i vi;

/* Computed here, in a register, and not moved. */
#define VF_PIN(a) __asm__("" : "+x"(a))

static inline vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
static inline vf vf_set1(float a)
{
    return _mm256_set1_ps(a);
}
static inline vf vf_load(const float *from)
{
    return _mm256_loadu_ps(from);
}
static inline void vf_store(float *to, vf a)
{
    _mm256_storeu_ps(to, a);
}

/* The first n lanes, n <= 8; loaded lanes beyond are 0. */
static inline __m256i vf_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load_n(const float *from, int n)
{
    return _mm256_maskload_ps(from, vf_lanes(n));
}
static inline void vf_store_n(float *to, vf a, int n)
{
    _mm256_maskstore_ps(to, vf_lanes(n), a);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
static inline vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
/* a * b + c and c - a * b, rounded once. */
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* b where one of them is NaN. */
static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
static inline vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vf vf_copysign(vf a, vf sign)
{
    __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, sign));
}
/* To the nearest integer, ties to even. */
static inline vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b ? yes : no, lane by lane. */
static inline vf vf_if_lt(vf a, vf b, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline vi vi_set1(int32_t a)
{
    return _mm256_set1_epi32(a);
}
static inline vi vi_load(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}
static inline vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
static inline vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
static inline vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
static inline vi vi_max(vi a, vi b)
{
    return _mm256_max_epi32(a, b);
}
#define vi_sll(a, n) _mm256_slli_epi32(a, n)
#define vi_srl(a, n) _mm256_srli_epi32(a, n)
#define vi_sra(a, n) _mm256_srai_epi32(a, n)
static inline vf vf_from_vi(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
static inline vi vi_from_vf(vf a)
{
    return _mm256_cvtps_epi32(a);
} /* ties to even */
static inline vf vf_of_bits(vi a)
{
    return _mm256_castsi256_ps(a);
}
static inline vi vi_bits_of(vf a)
{
    return _mm256_castps_si256(a);
}

static inline vf vf_load_f16(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
static inline vf vf_load_bf16(const uint16_t *from)
{
    __m128i h = _mm_loadu_si128((const __m128i *)from);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline vf vf_load_i8(const int8_t *from)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}
/* Lanes from -128 to 127. */
static inline void vi_store_i8(int8_t *to, vi a)
{
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(h, h));
}
/* Lanes from 0 to 65535. */
static inline void vi_store_u16(uint16_t *to, vi a)
{
    __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storeu_si128((__m128i *)to, h);
}
/* Rounded to the nearest, ties to even. */
static inline void vf_store_f16(uint16_t *to, vf a)
{
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

#include "vmath.h"

#endif
