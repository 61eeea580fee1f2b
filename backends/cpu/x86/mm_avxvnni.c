/* SPDX-License-Identifier: MIT */
/* Products with AVX2 and AVX-VNNI: 16 rows by 4 tokens at a time. Tests compile this file a second
 * time with SIMDe's dot products (SOBRE_SIMDE), to run it on any processor with AVX2. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx2.h"

#include "mm_avx2.h"

#ifdef SOBRE_SIMDE
#include <simde/x86/avx512/dpbusd.h>
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#endif

#define MM_ISA           SOBRE_CPU_AVXVNNI
#define MM_ISA_KERNELS   mm_kernels_avxvnni
#define MM_ISA_TOKENS    MM_MAX_TOKENS
#define MM_TILE          4
#define MM_TILE_SIZES(X) X(1) X(2) X(3) X(4)

static inline vi vnni_broadcast(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return vi_set1(v);
}
static inline vi vnni_dpbusd(vi sum, vi w, const int8_t *x)
{
    return _mm256_dpbusd_avx_epi32(sum, w, vnni_broadcast(x));
}
static inline vi vnni_madd16(vi a, vi b)
{
    return _mm256_madd_epi16(a, b);
}
static inline vi vnni_mul16(vi a, vi b)
{
    return _mm256_mullo_epi16(a, b);
}
static inline vi vnni_sub16(vi a, vi b)
{
    return _mm256_sub_epi16(a, b);
}
static inline vi vnni_merge(vi a, vi mask, vi b)
{
    return _mm256_or_si256(_mm256_and_si256(a, mask), b);
}
static inline vi vnni_table(const uint8_t *from)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from));
}
static inline vi vnni_lookup(vi table, vi index)
{
    return _mm256_shuffle_epi8(table, index);
}
static inline vi vnni_load_i8(const uint8_t *from)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

#include "mm_vnni.h"

#include "mm_vf.h"
