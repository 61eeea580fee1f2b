/* SPDX-License-Identifier: MIT */
/* Attention kernels for AVX-512. */
#include "vmath_avx512.h"

#define ATTN_KERNELS attn_kernels_avx512
#include "attn_vf.h"
