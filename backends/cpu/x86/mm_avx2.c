/* SPDX-License-Identifier: MIT */
/* Products with AVX2, FMA and F16C: 16 rows by 4 tokens at a time. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx2.h"

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
static inline MM_INLINED __m256 add_group(const mm_kind_info *kind, const mm_act_block *x,
                                          const int half, __m256i dot, __m256 d, __m256 m,
                                          __m256 acc)
{
    __m256 value, sum = _mm256_setzero_ps(), dx = _mm256_set1_ps(x->d);
    if (kind->group == MM_BLOCK) {
        if (kind->bias) {
            const int32_t *offset = kind->bias == 8 ? &x->offset_8 : &x->offset_128;
            dot = _mm256_add_epi32(dot, broadcast4(offset));
        }
        value = _mm256_cvtepi32_ps(dot);
        if (kind->has_min) sum = _mm256_set1_ps(x->scaled_sum);
    } else {
        /* Exact: all are integers below 2^24. */
        sum = _mm256_set1_ps(x->half_sum[half]);
        value = _mm256_fnmadd_ps(_mm256_set1_ps((float)kind->bias), sum, _mm256_cvtepi32_ps(dot));
        sum = _mm256_mul_ps(dx, sum);
    }
    acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), value, acc);
    return kind->has_min ? _mm256_fmadd_ps(m, sum, acc) : acc;
}

static inline __m256 load_scales(const mm_kind_info *kind, const uint8_t *from, int lane)
{
    return kind->scale_size == 2 ? vf_load_f16((const uint16_t *)from + lane)
                                 : vf_load((const float *)from + lane);
}

/* A block of 4 bits: 8 products of 2 * 15 * 127 fit 16 bits, so widening waits for the end. */
static inline MM_INLINED void block_q4(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                       const int block, const mm_act_block *x, int64_t x_stride,
                                       __m256 (*acc)[2])
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const uint8_t *words = unit + kind->w_at + block * 4 * 4 * MM_PANEL;
    const uint8_t *scales = unit + block * MM_PANEL * 2;
    __m256i dot[4][2];
    MM_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        __m256i word[2], w[2];
        for (int v = 0; v < 2; v++) word[v] = vi_load(words + i * 64 + v * 32);
        MM_UNROLL(2)
        for (int high = 0; high < 2; high++) {
            for (int v = 0; v < 2; v++) {
                w[v] = high ? _mm256_srli_epi16(word[v], 4) : word[v];
                w[v] = _mm256_and_si256(w[v], low);
            }
            MM_UNROLL(4)
            for (int t = 0; t < n; t++) {
                const __m256i xi = broadcast4(x[t * x_stride].q + 16 * high + 4 * i);
                MM_UNROLL(2)
                for (int v = 0; v < 2; v++) {
                    const __m256i two = _mm256_maddubs_epi16(w[v], xi);
                    dot[t][v] = i || high ? _mm256_add_epi16(dot[t][v], two) : two;
                    PIN(dot[t][v]);
                }
            }
        }
    }
    MM_UNROLL(2)
    for (int v = 0; v < 2; v++) {
        const __m256 d = load_scales(kind, scales, 8 * v);
        const __m256 m = kind->has_min ? load_scales(kind, scales + kind->m_at, 8 * v) : d;
        MM_UNROLL(4)
        for (int t = 0; t < n; t++) {
            acc[t][v] = add_group(kind, &x[t * x_stride], 0, _mm256_madd_epi16(dot[t][v], ones), d,
                                  m, acc[t][v]);
        }
    }
}

/* A block of 8 bits: as two sets of 4 bits, w = 16 high + low, so that 16 bits hold a whole group
 * here too. */
static inline MM_INLINED void block_q8(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                       const int block, const mm_act_block *x, int64_t x_stride,
                                       __m256 (*acc)[2])
{
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1),
                  sixteens = _mm256_set1_epi16(16);
    const uint8_t *words = unit + kind->w_at + block * 8 * 4 * MM_PANEL;
    const int n_groups = MM_BLOCK / kind->group, n_words = kind->group / 4;
    MM_UNROLL(2)
    for (int g = 0; g < n_groups; g++) {
        const uint8_t *scales = unit + (block * n_groups + g) * MM_PANEL * kind->scale_size;
        MM_UNROLL(2)
        for (int v = 0; v < 2; v++) {
            __m256i low[4], high[4];
            MM_UNROLL(8)
            for (int i = 0; i < n_words; i++) {
                const __m256i word = vi_load(words + (g * n_words + i) * 64 + v * 32);
                const __m256i w_low = _mm256_and_si256(word, mask);
                const __m256i w_high = _mm256_and_si256(_mm256_srli_epi16(word, 4), mask);
                MM_UNROLL(4)
                for (int t = 0; t < n; t++) {
                    const __m256i xi = broadcast4(x[t * x_stride].q + 4 * (g * n_words + i));
                    const __m256i a = _mm256_maddubs_epi16(w_low, xi);
                    const __m256i b = _mm256_maddubs_epi16(w_high, xi);
                    low[t] = i ? _mm256_add_epi16(low[t], a) : a;
                    high[t] = i ? _mm256_add_epi16(high[t], b) : b;
                    PIN(low[t]);
                    PIN(high[t]);
                }
            }
            const __m256 d = load_scales(kind, scales, 8 * v);
            const __m256 m = kind->has_min ? load_scales(kind, scales + kind->m_at, 8 * v) : d;
            MM_UNROLL(4)
            for (int t = 0; t < n; t++) {
                const __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(low[t], ones),
                                                     _mm256_madd_epi16(high[t], sixteens));
                acc[t][v] = add_group(kind, &x[t * x_stride], g, dot, d, m, acc[t][v]);
            }
        }
    }
}

static inline MM_INLINED void q8_tile(const mm_kind kind_id, const int n, const uint8_t *panel,
                                      int64_t n_units, const mm_act_block *x, int64_t x_stride,
                                      float *ret)
{
    const mm_kind_info *kind = &mm_kinds[kind_id];
    __m256 acc[4][2];
    for (int t = 0; t < n; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (int64_t u = 0; u < n_units; u++, panel += kind->unit_size) {
        MM_UNROLL(2)
        for (int block = 0; block < 2; block++, x++) {
            if (kind->bits == 4) {
                block_q4(kind, n, panel, block, x, x_stride, acc);
            } else {
                block_q8(kind, n, panel, block, x, x_stride, acc);
            }
        }
    }
    for (int t = 0; t < n; t++) {
        for (int v = 0; v < 2; v++) vf_store(ret + t * MM_PANEL + 8 * v, acc[t][v]);
    }
}

static inline int32_t vi_largest(vi a)
{
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1));
    return _mm_cvtsi128_si32(b);
}

static inline __m256i pack_bytes(const vi *q)
{
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

#include "mm_vf.h"
