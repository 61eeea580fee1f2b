/* SPDX-License-Identifier: MIT */
/* Elementwise kernels for AVX-512. */
#include "vmath_avx512.h"

static inline vf vf_swap_pairs(vf a)
{
    return _mm512_shuffle_ps(a, a, 0xB1);
}

#define VEC_KERNELS vec_kernels_avx512
#include "vec_vf.h"
