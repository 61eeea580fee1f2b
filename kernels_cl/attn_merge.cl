/* SPDX-License-Identifier: MIT */
/* Puts together what the splits of attn_decode found, where they are too many for gemv.cl to do so
 * while it stages its x, or something else than that takes the result. */
#include "portable.h"
#include "attn.h"
#include "attn_parts.h"

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
