/* SPDX-License-Identifier: MIT */
/*
 * AVX-512 intrinsics: the compiler's, or, where SOBRE_SIMDE is defined, SIMDe's portable ones, so
 * that tests run the AVX-512 kernels on every x86 processor. The few intrinsics that SIMDe lacks
 * or has wrong are made here from AVX2 halves.
 */
#ifndef SOBRE_AVX512_INTRIN_H
#define SOBRE_AVX512_INTRIN_H

#ifndef SOBRE_SIMDE
#include <immintrin.h>
#else
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <string.h>

static inline __m512 simde_shim_cvtepi32_ps(__m512i a)
{
    simde__m512i_private a_ = simde__m512i_to_private(a);
    simde__m512_private r_;
    for (int i = 0; i < 2; i++) r_.m256[i] = _mm256_cvtepi32_ps(a_.m256i[i]);
    return simde__m512_from_private(r_);
}

static inline __m512i simde_shim_cvtps_epi32(__m512 a)
{
    simde__m512_private a_ = simde__m512_to_private(a);
    simde__m512i_private r_;
    for (int i = 0; i < 2; i++) r_.m256i[i] = _mm256_cvtps_epi32(a_.m256[i]);
    return simde__m512i_from_private(r_);
}

static inline __m512i simde_shim_madd_epi16(__m512i a, __m512i b)
{
    simde__m512i_private a_ = simde__m512i_to_private(a), b_ = simde__m512i_to_private(b), r_;
    for (int i = 0; i < 2; i++) r_.m256i[i] = _mm256_madd_epi16(a_.m256i[i], b_.m256i[i]);
    return simde__m512i_from_private(r_);
}

static inline __m512i simde_shim_sub_epi16(__m512i a, __m512i b)
{
    simde__m512i_private a_ = simde__m512i_to_private(a), b_ = simde__m512i_to_private(b), r_;
    for (int i = 0; i < 2; i++) r_.m256i[i] = _mm256_sub_epi16(a_.m256i[i], b_.m256i[i]);
    return simde__m512i_from_private(r_);
}

static inline __m512i simde_shim_cvtepi8_epi32(__m128i a)
{
    simde__m512i_private r_;
    r_.m256i[0] = _mm256_cvtepi8_epi32(a);
    r_.m256i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
    return simde__m512i_from_private(r_);
}

static inline __m512i simde_shim_cvtepu16_epi32(__m256i a)
{
    simde__m512i_private r_;
    r_.m256i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    r_.m256i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
    return simde__m512i_from_private(r_);
}

static inline __m128i simde_shim_cvtepi32_epi8(__m512i a)
{
    simde__m512i_private a_ = simde__m512i_to_private(a);
    int8_t r[16];
    for (int i = 0; i < 16; i++) r[i] = (int8_t)a_.i32[i];
    return _mm_loadu_si128((const __m128i *)r);
}

static inline __m256i simde_shim_cvtepi32_epi16(__m512i a)
{
    simde__m512i_private a_ = simde__m512i_to_private(a);
    int16_t r[16];
    for (int i = 0; i < 16; i++) r[i] = (int16_t)a_.i32[i];
    return _mm256_loadu_si256((const __m256i *)r);
}

static inline __m512 simde_shim_cvtph_ps(__m256i a)
{
    simde__m512_private r_;
    r_.m256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
    r_.m256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
    return simde__m512_from_private(r_);
}

static inline __m256i simde_shim_cvtps_ph(__m512 a, int rounding)
{
    simde__m512_private a_ = simde__m512_to_private(a);
    return _mm256_set_m128i(_mm256_cvtps_ph(a_.m256[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(a_.m256[0], _MM_FROUND_TO_NEAREST_INT));
}

static inline __m512i simde_shim_srai_epi32(__m512i a, int n)
{
    simde__m512i_private a_ = simde__m512i_to_private(a);
    simde__m512i_private r_;
    for (int i = 0; i < 2; i++) r_.m256i[i] = _mm256_srai_epi32(a_.m256i[i], n);
    return simde__m512i_from_private(r_);
}

static inline __m512 simde_shim_maskz_loadu_ps(unsigned mask, const float *from)
{
    simde__m512_private r_;
    for (int i = 0; i < 16; i++) r_.f32[i] = mask >> i & 1 ? from[i] : 0.0f;
    return simde__m512_from_private(r_);
}

static inline void simde_shim_mask_storeu_ps(float *to, unsigned mask, __m512 a)
{
    simde__m512_private a_ = simde__m512_to_private(a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) to[i] = a_.f32[i];
}

#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#undef _mm512_madd_epi16
#undef _mm512_sub_epi16
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_srai_epi32
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#define _mm512_cvtepi32_ps             simde_shim_cvtepi32_ps
#define _mm512_cvtps_epi32             simde_shim_cvtps_epi32
#define _mm512_madd_epi16              simde_shim_madd_epi16
#define _mm512_sub_epi16               simde_shim_sub_epi16
#define _mm512_cvtepi32_epi16          simde_shim_cvtepi32_epi16
#define _mm512_cvtepi32_epi8           simde_shim_cvtepi32_epi8
#define _mm512_cvtepi8_epi32           simde_shim_cvtepi8_epi32
#define _mm512_cvtepu16_epi32          simde_shim_cvtepu16_epi32
#define _mm512_cvtph_ps                simde_shim_cvtph_ps
#define _mm512_cvtps_ph                simde_shim_cvtps_ph
#define _mm512_srai_epi32              simde_shim_srai_epi32
#define _mm512_maskz_loadu_ps(k, p)    simde_shim_maskz_loadu_ps((unsigned)(k), p)
#define _mm512_mask_storeu_ps(p, k, a) simde_shim_mask_storeu_ps(p, (unsigned)(k), a)
#endif

#endif
