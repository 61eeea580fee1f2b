/* SPDX-License-Identifier: MIT */
/* Attention kernels for AVX2. */
#include "vmath_avx2.h"

#define ATTN_KERNELS attn_kernels_avx2
#include "attn_vf.h"
