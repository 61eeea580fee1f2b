/* SPDX-License-Identifier: MIT */
/*
 * What attn_decode leaves where positions are split: for each column, head and split a sum over V
 * that is not divided yet, sums [n_cols, n_head, n_splits, head_dim], and for each column and head
 * the largest scores of the splits, then the sums of their weights, scores [n_cols, n_head, 2,
 * n_splits]. A split without positions has the weight 0 and zeros. n_splits is a multiple of
 * ATTN_SPLITS, so that four are put together at a time. backends/gpu/attn.c includes this file for
 * the sizes.
 */
#ifndef SOBRE_ATTN_PARTS_H
#define SOBRE_ATTN_PARTS_H

#define ATTN_SPLITS 4

#if defined(KERNEL)

/* Four dims of a head's result, of which the first split's begin at sums. */
FN float4 attn_merged(GLOBAL const float *sums, GLOBAL const float *scores, int n_splits,
                      int head_dim)
{
    GLOBAL const float4 *sum_of = (GLOBAL const float4 *)sums;
    GLOBAL const float4 *score_of = (GLOBAL const float4 *)scores;
    int quads = head_dim / 4;
    float most = LOWEST;
    float total = 0.0f;
    float4 sum;
    sum.x = sum.y = sum.z = sum.w = 0.0f;
    NO_UNROLL
    for (int i = 0; i < n_splits / ATTN_SPLITS; i++) {
        float4 high = score_of[i];
        float4 weights = score_of[i + n_splits / ATTN_SPLITS];
        float4 a = sum_of[(i * ATTN_SPLITS) * quads];
        float4 b = sum_of[(i * ATTN_SPLITS + 1) * quads];
        float4 c = sum_of[(i * ATTN_SPLITS + 2) * quads];
        float4 d = sum_of[(i * ATTN_SPLITS + 3) * quads];
        float before = most;
        most = FMAX(most, FMAX(FMAX(high.x, high.y), FMAX(high.z, high.w)));
        float less = EXP2(before - most);
        high.x = EXP2(high.x - most);
        high.y = EXP2(high.y - most);
        high.z = EXP2(high.z - most);
        high.w = EXP2(high.w - most);
        total = FMA(weights.x, high.x, FMA(weights.y, high.y, total * less));
        total = FMA(weights.z, high.z, FMA(weights.w, high.w, total));
        sum.x = FMA(a.x, high.x, FMA(b.x, high.y, sum.x * less));
        sum.x = FMA(c.x, high.z, FMA(d.x, high.w, sum.x));
        sum.y = FMA(a.y, high.x, FMA(b.y, high.y, sum.y * less));
        sum.y = FMA(c.y, high.z, FMA(d.y, high.w, sum.y));
        sum.z = FMA(a.z, high.x, FMA(b.z, high.y, sum.z * less));
        sum.z = FMA(c.z, high.z, FMA(d.z, high.w, sum.z));
        sum.w = FMA(a.w, high.x, FMA(b.w, high.y, sum.w * less));
        sum.w = FMA(c.w, high.z, FMA(d.w, high.w, sum.w));
    }
    float scale = total > 0.0f ? 1.0f / total : 0.0f;
    sum.x *= scale;
    sum.y *= scale;
    sum.z *= scale;
    sum.w *= scale;
    return sum;
}

#endif

#endif
