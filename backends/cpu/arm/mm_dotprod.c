/* SPDX-License-Identifier: MIT */
/* Products with NEON's dot products: 16 rows by 4 tokens at a time. */
#include <math.h>
#include <string.h>

#define MM_ISA           SOBRE_CPU_DOTPROD
#define MM_ISA_KERNELS   mm_kernels_dotprod
#define MM_TILE          4
#define MM_TILE_SIZES(X) X(1) X(2) X(4)

#include "mm_neon.h"

static inline MM_INLINED void dots_begin(const int n, const int32_t *start, vi *dot)
{
    MM_UNROLL(4)
    for (int t = 0; t < n; t++) dot[t] = vi_set1(start[t]);
}

static inline MM_INLINED void dots_add(const int n, const int8x16_t *w, const mm_act_block *x,
                                       int64_t x_stride, const int half, vi *dot)
{
    MM_UNROLL(4)
    for (int t = 0; t < n; t++)
        dot[t] = dot_half(dot[t], w, vld1q_s8(x[t * x_stride].q + 16 * half));
}

static inline MM_INLINED void dots_end(const int n, vi *dot)
{
}

#include "mm_vf.h"
