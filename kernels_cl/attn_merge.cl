/* SPDX-License-Identifier: MIT */
/* Puts together what the splits of attn_decode found. */
#include "portable.h"
#define KV_F16 1
#include "attn.h"

/* A group takes one head (GROUP_X) of one sequence (GROUP_Y). acc [n_seq, n_head, n_splits,
 * head_dim], ml [n_seq, n_head, n_splits, 2]: see attn_decode.cl; out [T, n_head * head_dim]. */
KERNEL(ATTN_MERGE_GROUP)
attn_merge(GLOBAL const int *RESTRICT run, GLOBAL const float *RESTRICT acc, int acc_at,
           GLOBAL const float *RESTRICT ml, int ml_at, GLOBAL float *RESTRICT out, int out_at,
           int n_head, int head_dim, int n_splits)
{
    int row = (GROUP_Y * n_head + GROUP_X) * n_splits;
    int col = run[run[RUN_SEQ_AT] + GROUP_Y * RUN_SEQ_SIZE + RUN_SEQ_COL];
    float most = LOWEST;
    for (int i = 0; i < n_splits; i++) most = FMAX(most, ml[ml_at + (row + i) * 2]);
    for (int first = 0; first < head_dim; first += ATTN_MERGE_GROUP) {
        int owns = first + LOCAL_ID < head_dim;
        int d = owns ? first + LOCAL_ID : 0;
        float sum = 0.0f;
        float total = 0.0f;
        for (int i = 0; i < n_splits; i++) {
            float weights = ml[ml_at + (row + i) * 2 + 1];
            if (weights > 0.0f) {
                float scale = EXP2(ml[ml_at + (row + i) * 2] - most);
                total = FMA(weights, scale, total);
                sum =
                    FMA(acc[(uint)acc_at + (uint)(row + i) * (uint)head_dim + (uint)d], scale, sum);
            }
        }
        if (owns)
            out[(uint)out_at + (uint)(col * n_head + GROUP_X) * (uint)head_dim + (uint)d] =
                total > 0.0f ? sum / total : 0.0f;
    }
}
