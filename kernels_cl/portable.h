/* SPDX-License-Identifier: MIT */
/*
 * One kernel text for every GPU: OpenCL C 1.2 to 3.0, and CUDA C through nvcc.
 *
 * Rules that keep it so: scalars, and uint2, uint4, float2 and float4 with .xyzw only; f16 is
 * stored as ushort and goes through load_half() and store_half(); local arrays stand at the top of
 * a kernel; every pointer that a function takes is tagged with its address space; no 3-vectors, no
 * 64-bit integers, no tables at program scope, no code that counts on the width of a warp; barriers
 * only where all work-items of a group come by. Indices are int or uint. Macros that tune have a
 * default in the file that reads them. A file's entries compile together, once for each set of
 * defines, so a file holds what one model uses together.
 */
#ifndef SOBRE_PORTABLE_H
#define SOBRE_PORTABLE_H

#if defined(__CUDACC__)

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
/* How many groups should share a compute unit, if a file says so. Without it nvcc may spill
 * registers to have more of them there. */
#if defined(GROUPS_A_UNIT)
#define KERNEL(group_size) extern "C" __global__ void __launch_bounds__(group_size, GROUPS_A_UNIT)
#else
#define KERNEL(group_size) extern "C" __global__ void __launch_bounds__(group_size)
#endif
#define GLOBAL
#define LOCAL
#define LOCAL_ARRAY __shared__
#define RESTRICT    __restrict__
#define FN          static __device__ __forceinline__
#define LOCAL_ID    ((int)threadIdx.x)
#define GROUP_X     ((int)blockIdx.x)
#define GROUP_Y     ((int)blockIdx.y)
#define N_GROUPS_X  ((int)gridDim.x)
#define BARRIER()   __syncthreads()
#define UNROLL      _Pragma("unroll")
#define NO_UNROLL   _Pragma("unroll 1")
FN float load_half(const ushort *p, uint i)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(p[i]));
    return f;
}
/* Elements 4i to 4i + 3; p + 4i lies at a multiple of 8 bytes. */
FN float4 load_half4(const ushort *p, uint i)
{
    uint2 v = ((const uint2 *)p)[i];
    float4 f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f.x) : "h"((ushort)(v.x & 0xffffu)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(f.y) : "h"((ushort)(v.x >> 16)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(f.z) : "h"((ushort)(v.y & 0xffffu)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(f.w) : "h"((ushort)(v.y >> 16)));
    return f;
}
FN void store_half(float v, ushort *p, uint i)
{
    ushort h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    p[i] = h;
}
FN float int_as_float(int i)
{
    return __int_as_float(i);
}
FN int float_as_int(float f)
{
    return __float_as_int(f);
}
#define FMA      fmaf
#define EXP      expf
#define EXP2     exp2f
#define LOG      logf
#define TANH     tanhf
#define ERF      erff
#define SQRT     sqrtf
#define RSQRT(x) (1.0f / sqrtf(x))
#define SIN      sinf
#define COS      cosf
#define POW      powf
#define RINT     rintf
#define FMAX     fmaxf
#define FMIN     fminf
#define FABS     fabsf

#else

#define KERNEL(group_size) __kernel __attribute__((reqd_work_group_size(group_size, 1, 1))) void
#define GLOBAL             __global
#define LOCAL              __local
#define LOCAL_ARRAY        __local
#define RESTRICT           restrict
#define FN                 static inline
#define LOCAL_ID           ((int)get_local_id(0))
#define GROUP_X            ((int)get_group_id(0))
#define GROUP_Y            ((int)get_group_id(1))
#define N_GROUPS_X         ((int)get_num_groups(0))
#define BARRIER()          barrier(CLK_LOCAL_MEM_FENCE)
#define UNROLL
#define NO_UNROLL
FN float load_half(__global const ushort *p, uint i)
{
    return vload_half(i, (__global const half *)p);
}
FN float4 load_half4(__global const ushort *p, uint i)
{
    return vload_half4(i, (__global const half *)p);
}
FN void store_half(float v, __global ushort *p, uint i)
{
    vstore_half_rte(v, i, (__global half *)p);
}
FN float int_as_float(int i)
{
    return as_float(i);
}
FN int float_as_int(float f)
{
    return as_int(f);
}
#define FMA      fma
#define EXP      exp
#define EXP2     exp2
#define LOG      log
#define TANH     tanh
#define ERF      erf
#define SQRT     sqrt
#define RSQRT(x) (1.0f / sqrt(x))
#define SIN      sin
#define COS      cos
#define POW      pow
#define RINT     rint
#define FMAX     fmax
#define FMIN     fmin
#define FABS     fabs

#endif

/* A finite stand-in for -infinity, which needs no care in differences. */
#define LOWEST (-3e38f)

#endif
