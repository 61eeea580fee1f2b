/* SPDX-License-Identifier: MIT */
/* Puts together what the splits of attn_decode found, where they are too many for gemv.cl to do so
 * while it stages its x, or something else than that takes the result. */
#include "portable.h"
#include "attn.h"
#include "attn_parts.h"

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

/* A work-item takes four dims of one column (GROUP_Y). sums and scores: see attn_parts.h; out
 * [n_cols, n_head * head_dim]. */
KERNEL(ATTN_MERGE_GROUP)
attn_merge(GLOBAL const float *RESTRICT sums, int sums_at, GLOBAL const float *RESTRICT scores,
           int scores_at, GLOBAL float *RESTRICT out, int out_at, int n_head, int head_dim,
           int n_splits)
{
    int i = (GROUP_X * ATTN_MERGE_GROUP + LOCAL_ID) * 4;
    if (i < n_head * head_dim) {
        int head = i / head_dim;
        uint row = (uint)(GROUP_Y * n_head + head) * (uint)n_splits;
        float4 x = attn_merged(sums + sums_at + row * (uint)head_dim + (uint)(i - head * head_dim),
                               scores + scores_at + row * 2u, n_splits, head_dim);
        ((GLOBAL float4 *)(out + out_at + (uint)(GROUP_Y * n_head) * (uint)head_dim))[i / 4] = x;
    }
}
