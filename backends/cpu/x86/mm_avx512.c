/* SPDX-License-Identifier: MIT */
/* Products with AVX-512 and VNNI: 16 rows by 8 tokens at a time. Tests compile this file a second
 * time on top of SIMDe (SOBRE_SIMDE, see avx512_intrin.h), to run it on any x86 processor. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx512.h"

#define MM_ISA           SOBRE_CPU_AVX512
#define MM_TILE          8
#define MM_TILE_SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define MM_ISA_KERNELS   mm_kernels_avx512

static inline __m512i broadcast4(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return _mm512_set1_epi32(v);
}

static inline __m512 scales_at(const mm_kind_info *kind, const uint8_t *from)
{
    return vf_load_f16((const uint16_t *)from);
}

/* One group of 32 or 16 columns. The dot starts from what undoes the bias where there is such an
 * integer, so that it costs nothing. */
static inline MM_INLINED void group_dots(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                         const int group, const mm_act_block *x, int64_t x_stride,
                                         __m512 (*acc)[1])
{
    const __m512i mask = _mm512_set1_epi8(15);
    const int n_words = kind->group * kind->low / 32, half = group % 2;
    const int block = group * kind->group / MM_BLOCK, first = group * kind->group % MM_BLOCK;
    const bool offset = kind->bias != 0 && kind->group == MM_BLOCK;
    const uint8_t *words = unit + kind->low_at + group * n_words * 4 * MM_PANEL;
    const uint8_t *scales = unit + group * MM_PANEL * 2;
    __m512i dot[MM_TILE];
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        const mm_act_block *xt = &x[t * x_stride + block];
        dot[t] = !offset           ? _mm512_setzero_si512()
                 : kind->bias == 8 ? broadcast4(&xt->offset_8)
                                   : broadcast4(&xt->offset_128);
    }
    MM_UNROLL(8)
    for (int i = 0; i < n_words; i++) {
        const __m512i word = vi_load(words + i * 4 * MM_PANEL);
        if (kind->low == 8) {
            MM_UNROLL(8)
            for (int t = 0; t < n; t++) {
                const __m512i xi = broadcast4(x[t * x_stride + block].q + first + 4 * i);
                dot[t] = _mm512_dpbusd_epi32(dot[t], word, xi);
            }
            continue;
        }
        const __m512i low = _mm512_and_si512(word, mask);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(word, 4), mask);
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const int8_t *q = x[t * x_stride + block].q + 4 * i;
            dot[t] = _mm512_dpbusd_epi32(dot[t], low, broadcast4(q));
            dot[t] = _mm512_dpbusd_epi32(dot[t], high, broadcast4(q + 16));
        }
    }
    const __m512 d = scales_at(kind, scales);
    const __m512 m = kind->has_min ? scales_at(kind, scales + kind->m_at) : d;
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        const mm_act_block *xt = &x[t * x_stride + block];
        const __m512 dx = _mm512_set1_ps(xt->d);
        __m512 value = _mm512_cvtepi32_ps(dot[t]), sum = _mm512_set1_ps(xt->scaled_sum);
        if (kind->group != MM_BLOCK) {
            sum = _mm512_set1_ps((float)xt->half[half]);
            /* Exact: all are integers below 2^24. */
            value = _mm512_fnmadd_ps(_mm512_set1_ps((float)kind->bias), sum, value);
            sum = _mm512_mul_ps(dx, sum);
        }
        acc[t][0] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), value, acc[t][0]);
        if (kind->has_min) acc[t][0] = _mm512_fmadd_ps(m, sum, acc[t][0]);
    }
}

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
