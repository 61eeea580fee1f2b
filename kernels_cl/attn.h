/* SPDX-License-Identifier: MIT */
/*
 * The paged KV cache as kernels see it, and what the attention kernels share. backends/gpu/attn.c
 * includes this file for the sizes.
 *
 * A page holds 64 positions of every KV head: K as [n_head_kv][head_dim / 8][64][8], then V as
 * [n_head_kv][64][head_dim], f16 or f32 (KV_F16). In the scores a lane is a position, in the sum
 * over V a lane is a few dims, so both read whole lines. head_dim is a multiple of 8, hence all
 * indices count octets: 8 numbers, 16 bytes of f16 or 32 of f32.
 *
 * What a page holds past the end of its sequence may be anything, NaN included: it is never used.
 */
#ifndef SOBRE_ATTN_H
#define SOBRE_ATTN_H

#include "run.h"

/* Query heads of one KV head that a group of attn_decode takes together. */
#define ATTN_DECODE_HEADS 8
#define ATTN_DECODE_GROUP 128

/* A group of attn_prefill takes this many numbers of Q, that is 64, 32 or 16 rows of up to 64, 128
 * or 256 dims. A row is a query's head. */
#define ATTN_PREFILL_Q     4096
#define ATTN_PREFILL_GROUP 128

#define ATTN_APPEND_GROUP 64
#define ATTN_MERGE_GROUP  64

#if defined(KV_F16)

#include "portable.h"

#if KV_F16
#define KV_T ushort
#else
#define KV_T float
#endif

/* Octet of the first position; `head_octets` is head_dim / 8. The next position's K is one further,
 * the next 8 dims RUN_PAGE; the next position's V is head_octets further, the next 8 dims one. */
FN uint kv_k_octet(uint page, uint head, uint head_octets)
{
    return page + head * head_octets * RUN_PAGE;
}

FN uint kv_v_octet(uint page, uint head, uint head_octets, uint n_head_kv)
{
    return page + (n_head_kv + head) * head_octets * RUN_PAGE;
}

/* Four numbers of an octet: its first ones, or with `second` its last ones. */
FN float4 kv_load4(GLOBAL const KV_T *kv, uint octet, uint second)
{
#if KV_F16
    return load_half4((GLOBAL const ushort *)((GLOBAL const uint4 *)kv + octet), second);
#else
    return ((GLOBAL const float4 *)kv)[octet * 2 + second];
#endif
}

FN void kv_store(float x, GLOBAL KV_T *kv, uint octet, uint i)
{
#if KV_F16
    store_half(x, (GLOBAL ushort *)((GLOBAL uint4 *)kv + octet), i);
#else
    ((GLOBAL float *)((GLOBAL float4 *)kv + octet * 2))[i] = x;
#endif
}

/* a.b + c */
FN float dot4(float4 a, float4 b, float c)
{
    return FMA(a.w, b.w, FMA(a.z, b.z, FMA(a.y, b.y, FMA(a.x, b.x, c))));
}

/* A score, in units of log2(e), from q.k that was scaled so, or by 1 / softcap. `cap` is softcap *
 * log2(e) or 0, `slope` that of ALiBi or 0, `distance` what it is multiplied with. */
FN float attn_score(float dot, float cap, float slope, int distance)
{
    float s = cap > 0.0f ? cap * TANH(dot) : dot;
    return FMA(-slope, FABS((float)distance), s);
}

#endif

#endif
