/* SPDX-License-Identifier: MIT */
/* Elementwise kernels for AVX2. */
#include "vmath_avx2.h"

static inline vf vf_swap_pairs(vf a)
{
    return _mm256_permute_ps(a, 0xB1);
}

#define VEC_KERNELS vec_kernels_avx2
#include "vec_vf.h"
