/* SPDX-License-Identifier: MIT */
/* What attention does to q and k before it looks at the cache, and the cache's growth by k and v:
 * for runs in which a sequence brings many columns. Others leave it to attn_decode.cl.
 *
 *   KV_F16  the cache is f16, else f32 (default 1) */
#ifndef KV_F16
#define KV_F16 1
#endif

#include "portable.h"
#include "attn.h"
#include "attn_head.h"

/*
 * A group takes one head of one column: of q, whose heads come first if q_at is not -1, then of k,
 * then of v, if k_at is not -1. q, q_out [T, n_head * head_dim]; k, v [T, n_head_kv * head_dim].
 * For freqs and factors see attn_head.h. page_size in octets.
 */
KERNEL(ATTN_APPEND_GROUP)
attn_append(GLOBAL const int *RESTRICT run, GLOBAL const float *RESTRICT q, int q_at,
            GLOBAL const float *RESTRICT k, int k_at, GLOBAL const float *RESTRICT v, int v_at,
            GLOBAL const int *RESTRICT pos, int pos_at, GLOBAL const float *RESTRICT freqs,
            int freqs_at, GLOBAL const float *RESTRICT factors, int factors_at,
            GLOBAL const float *RESTRICT q_norm, int q_norm_at, GLOBAL const float *RESTRICT k_norm,
            int k_norm_at, GLOBAL float *RESTRICT q_out, int q_out_at, GLOBAL KV_T *RESTRICT kv,
            int kv_at, int page_size, int n_head, int n_head_kv, int head_dim, int norm, float eps,
            int rope_kind, int n_dims)
{
    LOCAL_ARRAY float4 squares[ATTN_APPEND_GROUP / 4];
    int lane = LOCAL_ID;
    int col = GROUP_X;
    int n_q = q_at < 0 ? 0 : n_head;
    int is_q = GROUP_Y < n_q;
    int is_v = GROUP_Y >= n_q + n_head_kv;
    int head = is_q ? GROUP_Y : is_v ? GROUP_Y - n_q - n_head_kv : GROUP_Y - n_q;
    GLOBAL const float *x = is_q ? q : is_v ? v : k;
    uint row = (uint)(col * (is_q ? n_head : n_head_kv) + head) * (uint)head_dim;
    uint from = (uint)(is_q ? q_at : is_v ? v_at : k_at) + row;

    uint slot = 0; /* octet of the column's position, for dims 0 to 7 */
    uint step = 0; /* to the next 8 dims */
    if (!is_q) {
        uint octets = (uint)head_dim / 8u;
        GLOBAL const int *seq = run + run[RUN_SEQ_AT] + run[run[RUN_COL_AT] + col] * RUN_SEQ_SIZE;
        uint at = (uint)(seq[RUN_SEQ_POS] + col - seq[RUN_SEQ_COL]);
        uint id = (uint)run[run[RUN_PAGE_AT] + seq[RUN_SEQ_PAGES] + (int)(at / RUN_PAGE)];
        uint page = (uint)kv_at + id * (uint)page_size;
        uint in_page = at % RUN_PAGE;
        slot = is_v ? kv_v_octet(page, (uint)head, octets, (uint)n_head_kv) + in_page * octets
                    : kv_k_octet(page, (uint)head, octets) + in_page;
        step = is_v ? 1u : (uint)RUN_PAGE;
    }

    float sum = 0.0f;
    for (int d = lane; d < head_dim; d += ATTN_APPEND_GROUP) {
        float e = x[from + (uint)d];
        sum = FMA(e, e, sum);
    }
    ((LOCAL float *)squares)[lane] = sum;
    BARRIER();
    sum = 0.0f;
    for (int i = 0; i < ATTN_APPEND_GROUP / 4; i++) {
        float4 e = squares[i];
        sum += (e.x + e.y) + (e.z + e.w);
    }

    /* v goes in as it is. */
    float scale = norm && !is_v ? RSQRT(sum / (float)head_dim + eps) : 1.0f;
    GLOBAL const float *w = is_q ? q_norm : k_norm;
    int w_at = is_v ? -1 : is_q ? q_norm_at : k_norm_at;
    int turns = is_v ? ATTN_ROPE_NONE : rope_kind;
    int at = turns == ATTN_ROPE_NONE ? 0 : pos[pos_at + col];
    for (int d = lane; d < head_dim; d += ATTN_APPEND_GROUP) {
        float y = head_dim_ready(x, from, d, scale, w, w_at, turns, n_dims, at, freqs, freqs_at,
                                 factors, factors_at);
        if (is_q)
            q_out[(uint)q_out_at + row + (uint)d] = y;
        else
            kv_store(y, kv, slot + (uint)d / 8u * step, (uint)d % 8u);
    }
}
