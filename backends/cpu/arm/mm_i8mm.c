/* SPDX-License-Identifier: MIT */
/* Products with the int8 matrix products: 16 rows by 4 tokens at a time. An instruction multiplies
 * two tokens of 8 columns with two rows; a token without a neighbour takes dot products. */
#include <math.h>
#include <string.h>

#define MM_ISA           SOBRE_CPU_I8MM
#define MM_ISA_KERNELS   mm_kernels_i8mm
#define MM_TILE          4
#define MM_TILE_SIZES(X) X(1) X(2) X(4)

#include "mm_neon.h"

/* Until dots_end() a pair of tokens has rows 0 and 1 in its first vector, rows 2 and 3 in its
 * second: those of the first token, then those of the second. */
static inline MM_INLINED void dots_begin(const int n, const int32_t *start, vi *dot)
{
    MM_UNROLL(4)
    for (int t = 0; t + 1 < n; t += 2) {
        dot[t] = vcombine_s32(vdup_n_s32(start[t]), vdup_n_s32(start[t + 1]));
        dot[t + 1] = dot[t];
    }
    if (n % 2) dot[n - 1] = vi_set1(start[n - 1]);
}

static inline MM_INLINED int8x16_t rows_of(int8x16_t a, int8x16_t b, const bool last)
{
    const vi x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    return vreinterpretq_s8_s32(last ? vzip2q_s32(x, y) : vzip1q_s32(x, y));
}

static inline MM_INLINED int8x16_t tokens_of(int8x16_t a, int8x16_t b, const bool last)
{
    const int64x2_t x = vreinterpretq_s64_s8(a), y = vreinterpretq_s64_s8(b);
    return vreinterpretq_s8_s64(last ? vtrn2q_s64(x, y) : vtrn1q_s64(x, y));
}

static inline MM_INLINED void dots_add(const int n, const int8x16_t *w, const mm_act_block *x,
                                       int64_t x_stride, const int half, vi *dot)
{
    MM_UNROLL(4)
    for (int t = 0; t + 1 < n; t += 2) {
        const int8x16_t a = vld1q_s8(x[t * x_stride].q + 16 * half);
        const int8x16_t b = vld1q_s8(x[(t + 1) * x_stride].q + 16 * half);
        MM_UNROLL(2)
        for (int i = 0; i < 2; i++) {
            const int8x16_t tokens = tokens_of(a, b, i);
            dot[t] = vmmlaq_s32(dot[t], tokens, rows_of(w[2 * i], w[2 * i + 1], false));
            dot[t + 1] = vmmlaq_s32(dot[t + 1], tokens, rows_of(w[2 * i], w[2 * i + 1], true));
        }
    }
    if (n % 2) {
        dot[n - 1] = dot_half(dot[n - 1], w, vld1q_s8(x[(n - 1) * x_stride].q + 16 * half));
    }
}

static inline MM_INLINED void dots_end(const int n, vi *dot)
{
    MM_UNROLL(4)
    for (int t = 0; t + 1 < n; t += 2) {
        const int64x2_t a = vreinterpretq_s64_s32(dot[t]), b = vreinterpretq_s64_s32(dot[t + 1]);
        dot[t] = vreinterpretq_s32_s64(vtrn1q_s64(a, b));
        dot[t + 1] = vreinterpretq_s32_s64(vtrn2q_s64(a, b));
    }
}

#include "mm_vf.h"
