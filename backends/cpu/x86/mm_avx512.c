/* SPDX-License-Identifier: MIT */
/* Products with AVX-512 and VNNI: 16 rows by 8 tokens at a time. Tests compile this file a second
 * time on top of SIMDe (SOBRE_SIMDE, see avx512_intrin.h), to run it on any x86 processor. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx512.h"

#define MM_ISA           SOBRE_CPU_AVX512
#define MM_ISA_TOKENS    MM_MAX_TOKENS
#define MM_TILE          8
#define MM_TILE_SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define MM_ISA_KERNELS   mm_kernels_avx512

static inline vi vnni_broadcast(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return vi_set1(v);
}

/* Compilers do not let the instruction repeat the 4 bytes from memory by itself. */
static inline vi vnni_dpbusd(vi sum, vi w, const int8_t *x)
{
#ifdef SOBRE_SIMDE
    return _mm512_dpbusd_epi32(sum, w, vnni_broadcast(x));
#else
    const struct {
        int8_t x[4];
    } *from = (const void *)x;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*from));
    return sum;
#endif
}
static inline vi vnni_madd16(vi a, vi b)
{
    return _mm512_madd_epi16(a, b);
}
static inline vi vnni_mul16(vi a, vi b)
{
    return _mm512_mullo_epi16(a, b);
}
static inline vi vnni_sub16(vi a, vi b)
{
    return _mm512_sub_epi16(a, b);
}
static inline vi vnni_merge(vi a, vi mask, vi b)
{
    return _mm512_ternarylogic_epi32(a, mask, b, 0xea);
}
static inline vi vnni_table(const uint8_t *from)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)from));
}
static inline vi vnni_lookup(vi table, vi index)
{
    return _mm512_shuffle_epi8(table, index);
}
static inline vi vnni_load_i8(const uint8_t *from)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
}

#include "mm_vnni.h"

static inline int32_t vi_largest(vi a)
{
    __m256i b = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1));
    return _mm_cvtsi128_si32(c);
}

static inline void store_block(const vi *q, int8_t *to, int32_t *ret_halves)
{
    const __m256i bytes =
        _mm256_set_m128i(_mm512_cvtsepi32_epi8(q[1]), _mm512_cvtsepi32_epi8(q[0]));
    /* Sums of 8 bytes each, made unsigned. */
    const __m256i flip = _mm256_set1_epi8((char)-128);
    int64_t sums[4];
    _mm256_storeu_si256((__m256i *)to, bytes);
    _mm256_storeu_si256((__m256i *)sums,
                        _mm256_sad_epu8(_mm256_xor_si256(bytes, flip), _mm256_setzero_si256()));
    ret_halves[0] = (int32_t)(sums[0] + sums[1]) - 16 * 128;
    ret_halves[1] = (int32_t)(sums[2] + sums[3]) - 16 * 128;
}

#include "mm_vf.h"
