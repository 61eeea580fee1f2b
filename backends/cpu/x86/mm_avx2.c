/* SPDX-License-Identifier: MIT */
/* Products with AVX2, FMA and F16C: 16 rows by 4 tokens at a time. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx2.h"

#include "mm_avx2.h"

#define MM_ISA           SOBRE_CPU_AVX2
#define MM_ISA_KERNELS   mm_kernels_avx2
#define MM_TILE          4
#define MM_TILE_SIZES(X) X(1) X(2) X(3) X(4)

/* Keeps the compiler from gathering products in registers that it does not have. */
#define PIN(v) __asm__("" : "+x"(v))

static inline __m256i broadcast4(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return _mm256_set1_epi32(v);
}

/* acc += d_w d_x dot, then m_w d_x sum: 8 rows of a group. */
static inline MM_INLINED __m256 add_group(const mm_kind_info *kind, const bool biased,
                                          const mm_act_block *x, const int half, __m256i dot,
                                          __m256 d, __m256 m, __m256 acc)
{
    const __m256 dx = _mm256_set1_ps(x->d);
    __m256 value, sum;
    if (kind->group == MM_BLOCK) {
        const int32_t *offset = kind->bias == 8 ? &x->offset_8 : &x->offset_128;
        if (biased) dot = _mm256_add_epi32(dot, broadcast4(offset));
        value = _mm256_cvtepi32_ps(dot);
        sum = _mm256_set1_ps(x->scaled_sum);
    } else {
        value = _mm256_cvtepi32_ps(dot);
        sum = _mm256_set1_ps((float)x->half[half]);
        /* Exact: all are integers below 2^24. */
        if (biased) value = _mm256_fnmadd_ps(_mm256_set1_ps((float)kind->bias), sum, value);
        sum = _mm256_mul_ps(dx, sum);
    }
    acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), value, acc);
    return kind->has_min ? _mm256_fmadd_ps(m, sum, acc) : acc;
}

static inline __m256 scales_at(const mm_kind_info *kind, const uint8_t *from, int lane)
{
    return vf_load_f16((const uint16_t *)from + lane);
}

/* Columns 4 * step .. 4 * step + 3 of 8 rows of a block. */
static inline MM_INLINED __m256i columns(const mm_kind_info *kind, const uint8_t *words, int step,
                                         int lane)
{
    if (kind->low == 8) return vi_load(words + (step * MM_PANEL + lane) * 4);
    __m256i word = vi_load(words + (step % 4 * MM_PANEL + lane) * 4);
    if (step >= 4) word = _mm256_srli_epi16(word, 4);
    return _mm256_and_si256(word, _mm256_set1_epi8(15));
}

/*
 * One group of 32 or 16 columns. Products of bytes come in pairs as 16-bit sums that saturate, so
 * what is stored decides:
 * - small values: as many pairs as surely fit are added in 16 bits before they are widened;
 * - bytes of all sizes: the weights' signs go over to the activations, and each pair is widened.
 */
static inline MM_INLINED void group_dots(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                         const int group, const mm_act_block *x, int64_t x_stride,
                                         __m256 (*acc)[2])
{
    enum { PAIR = 2 * 127 };
    const int n_steps = kind->group / 4, fits = INT16_MAX / (PAIR * kind->largest);
    const int fold = fits < n_steps ? fits : n_steps;
    const int n_v = fold == n_steps || fold == 0 ? 2 : 1; /* row halves that registers hold */
    const int block = group * kind->group / MM_BLOCK, first = group * kind->group % MM_BLOCK / 4;
    const uint8_t *words = unit + kind->low_at + block * MM_BLOCK * MM_PANEL * kind->low / 8;
    const uint8_t *scales = unit + group * MM_PANEL * 2;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)-128);
    MM_UNROLL(2)
    for (int v0 = 0; v0 < 2; v0 += n_v) {
        __m256i dot[MM_TILE][2], narrow[MM_TILE][2];
        MM_UNROLL(8)
        for (int s = 0; s < n_steps; s++) {
            __m256i w[2], sign[2];
            MM_UNROLL(2)
            for (int v = 0; v < n_v; v++) {
                w[v] = columns(kind, words, first + s, 8 * (v0 + v));
                if (fold > 0) continue;
                sign[v] = _mm256_xor_si256(w[v], flip);
                w[v] = _mm256_abs_epi8(sign[v]);
            }
            MM_UNROLL(4)
            for (int t = 0; t < n; t++) {
                const __m256i xt = broadcast4(x[t * x_stride + block].q + 4 * (first + s));
                MM_UNROLL(2)
                for (int v = 0; v < n_v; v++) {
                    __m256i sum;
                    if (fold > 0) {
                        sum = _mm256_maddubs_epi16(w[v], xt);
                        if (s % fold > 0) sum = _mm256_add_epi16(sum, narrow[t][v]);
                        PIN(sum);
                        narrow[t][v] = sum;
                        if (s % fold < fold - 1) continue;
                    } else {
                        sum = _mm256_maddubs_epi16(w[v], _mm256_sign_epi8(xt, sign[v]));
                    }
                    sum = _mm256_madd_epi16(sum, ones);
                    dot[t][v] = s < fold || s == 0 ? sum : _mm256_add_epi32(dot[t][v], sum);
                    PIN(dot[t][v]);
                }
            }
        }
        MM_UNROLL(2)
        for (int v = 0; v < n_v; v++) {
            const __m256 d = scales_at(kind, scales, 8 * (v0 + v));
            const __m256 m = kind->has_min ? scales_at(kind, scales + kind->m_at, 8 * (v0 + v)) : d;
            MM_UNROLL(4)
            for (int t = 0; t < n; t++) {
                acc[t][v0 + v] =
                    add_group(kind, kind->bias > 0 && fold > 0, &x[t * x_stride + block], first / 4,
                              dot[t][v], d, m, acc[t][v0 + v]);
            }
        }
    }
}

#include "mm_vf.h"
