/* SPDX-License-Identifier: MIT */
/* CUDA C, as far as kernels_cl/portable.h goes, for a C compiler: kernels as nvcc sees them, but
 * run by a processor (run_kernel.h). */
#ifndef CUDA_C_H
#define CUDA_C_H

#include <math.h>
#include <string.h>

#include "run_kernel.h"

#define __CUDACC__
#define __global__ static
#define __device__
#define __forceinline__ inline
#define __restrict__ restrict
#define __shared__ static /* groups run one after the other */
#define __launch_bounds__(...)

typedef struct uint2 {
    unsigned x, y;
} __attribute__((aligned(8))) uint2;
typedef struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16))) uint4;
typedef struct float2 {
    float x, y;
} __attribute__((aligned(8))) float2;
typedef struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16))) float4;

static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}

static inline int __float_as_int(float f)
{
    int i;
    memcpy(&i, &f, sizeof i);
    return i;
}

/* The instructions cvt.f32.f16 and cvt.rn.f16.f32 */
static inline float cvt_f32_f16(unsigned short bits)
{
    _Float16 h;
    memcpy(&h, &bits, sizeof h);
    return (float)h;
}

static inline unsigned short cvt_rn_f16_f32(float f)
{
    const _Float16 h = (_Float16)f;
    unsigned short bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}

#endif
