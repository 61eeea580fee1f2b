/* SPDX-License-Identifier: MIT */
/* Elementwise kernels for NEON. */
#include "vmath_neon.h"

static inline vf vf_swap_pairs(vf a)
{
    return vrev64q_f32(a);
}

#define VEC_KERNELS vec_kernels_neon
#include "vec_vf.h"
