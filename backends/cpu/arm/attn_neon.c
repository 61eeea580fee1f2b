/* SPDX-License-Identifier: MIT */
/* Attention kernels for NEON. */
#include "vmath_neon.h"

#define ATTN_KERNELS attn_kernels_neon
#include "attn_vf.h"
