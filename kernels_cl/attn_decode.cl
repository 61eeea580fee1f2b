/* SPDX-License-Identifier: MIT */
/*
 * Attention of runs in which every sequence brings one column, from q and k as products gave them:
 * norm, RoPE and the cache's growth included. Positions are split over groups, and what the groups
 * found is merged by the product behind it (gemv.cl) or by attn_merge.cl. Split-KV after Dao et al.
 * 2023, "Flash-Decoding"; online softmax after Milakov and Gimelshein 2018, arXiv:1805.02867.
 *
 *   KV_F16  the cache is f16, else f32 (default 1)
 *   HD_MAX  the most that head_dim may be, a power of two (default 64)
 */
#ifndef KV_F16
#define KV_F16 1
#endif
#ifndef HD_MAX
#define HD_MAX 64
#endif

#define GROUPS_A_UNIT 4
#include "portable.h"
#include "attn.h"
#include "attn_head.h"

#define HEADS  ATTN_DECODE_HEADS
#define GROUP  ATTN_DECODE_GROUP
#define TILE   256             /* positions between two softmaxes */
#define LANES  (GROUP / HEADS) /* work-items that share a head's softmax */
#define STRIDE (TILE + LANES)  /* of a head's scores: two heads in different banks */
/* A work-item's place in that, computed again and again: Intel's cards have no registers left. */
#define SOFT_HEAD (LOCAL_ID / LANES)
#define SOFT_LANE (LOCAL_ID % LANES)

/*
 * A group takes up to HEADS of the n_head / n_head_kv query heads of a KV head (`n_chunks` groups
 * share a KV head), and one of n_splits runs of pages: GROUP_X is (KV head, chunk, split), GROUP_Y
 * the sequence. q, out [T, n_head * head_dim]; k, v [T, n_head_kv * head_dim], k_at -1: the cache
 * has the column already. For freqs and factors see attn_head.h.
 *
 * The column itself is the last position. Groups whose split has it take its k and v from where the
 * products left them, and the first chunk's brings them into the cache, where nobody reads them in
 * this run.
 *
 * With one split and scores_at -1 it writes the result, else what attn_parts.h says. page_size in
 * octets; slopes [n_head] or missing; see attn_score().
 */
KERNEL(GROUP)
attn_decode(GLOBAL const int *RESTRICT run, GLOBAL const float *RESTRICT q, int q_at,
            GLOBAL const float *RESTRICT k, int k_at, GLOBAL const float *RESTRICT v, int v_at,
            GLOBAL const int *RESTRICT pos, int pos_at, GLOBAL const float *RESTRICT freqs,
            int freqs_at, GLOBAL const float *RESTRICT factors, int factors_at,
            GLOBAL const float *RESTRICT q_norm, int q_norm_at, GLOBAL const float *RESTRICT k_norm,
            int k_norm_at, GLOBAL KV_T *RESTRICT kv, int kv_at, int page_size,
            GLOBAL const float *RESTRICT slopes, int slopes_at, GLOBAL float *RESTRICT out,
            int out_at, GLOBAL float *RESTRICT scores, int scores_at, int n_head, int n_head_kv,
            int head_dim, int norm, float eps, int rope_kind, int n_dims, int n_chunks,
            int n_splits, int window, float q_scale, float cap)
{
    /* [HEADS + 1][head_dim]: heads of q, then the k of the column itself. */
    LOCAL_ARRAY float4 q_shared[(HEADS + 1) * HD_MAX / 4];
    LOCAL_ARRAY float4 s_shared[HEADS * STRIDE / 4]; /* scores, then weights; at the end sums */
    LOCAL_ARRAY float part[GROUP];
    LOCAL_ARRAY float shrink[HEADS];
    LOCAL_ARRAY float own[HEADS]; /* scores of the column itself */
    LOCAL float *s = (LOCAL float *)s_shared;
    LOCAL float *ready = (LOCAL float *)q_shared;

    int lane = LOCAL_ID;
    int job = GROUP_X / n_splits;
    int split = GROUP_X - job * n_splits;
    int head_kv = job / n_chunks;
    int chunk = job - head_kv * n_chunks;
    int per_kv = n_head / n_head_kv;
    int per_chunk = (per_kv + n_chunks - 1) / n_chunks;
    int n = per_kv - chunk * per_chunk; /* query heads of this group */
    n = n < per_chunk ? n : per_chunk;
    int head = head_kv * per_kv + chunk * per_chunk;
    uint octets = (uint)head_dim / 8u;

    GLOBAL const int *seq = run + run[RUN_SEQ_AT] + GROUP_Y * RUN_SEQ_SIZE;
    GLOBAL const int *pages = run + run[RUN_PAGE_AT] + seq[RUN_SEQ_PAGES];
    int col = seq[RUN_SEQ_COL];
    int query = seq[RUN_SEQ_POS];
    int end = query + 1; /* of what is seen */
    int begin = window > 0 && end > window ? end - window : 0;
    int first_page = begin / RUN_PAGE;
    int n_pages = (end + RUN_PAGE - 1) / RUN_PAGE - first_page;
    int per_split = (n_pages + n_splits - 1) / n_splits;
    int from = (first_page + split * per_split) * RUN_PAGE; /* the split's positions */
    int to = from + per_split * RUN_PAGE;
    if (to > end) to = end;

    int row = (col * n_head + head) * n_splits + split; /* of the partial sums */
    int score = (col * n_head + head) * 2 * n_splits + split;
    if (from >= to) {
        if (lane < n) {
            scores[scores_at + score + lane * 2 * n_splits] = LOWEST;
            scores[scores_at + score + lane * 2 * n_splits + n_splits] = 0.0f;
        }
        for (int i = lane; i < n * head_dim; i += GROUP) {
            int h = i / head_dim;
            uint at = (uint)(row + h * n_splits) * (uint)head_dim + (uint)(i - h * head_dim);
            out[(uint)out_at + at] = 0.0f;
        }
        return;
    }

    /* LANES work-items share a query head while it is made ready, and in the softmax; in the sum
     * over V a work-item owns 4 dims, and n_teams of those share the positions; what is left of the
     * group counts for nothing. */
    int quads = head_dim / 4;
    int n_teams = GROUP / quads;

    /* The group's heads of q, then k's if the column itself is one of its positions. */
    int owns_last = k_at >= 0 && to == end;
    uint q_from = (uint)q_at + (uint)(col * n_head + head) * (uint)head_dim;
    uint kv_row = (uint)(col * n_head_kv + head_kv) * (uint)head_dim; /* of k and v */
    for (int r = SOFT_HEAD; r < n + owns_last; r += HEADS) {
        GLOBAL const float *x = r < n ? q : k;
        uint x_from = r < n ? q_from + (uint)(r * head_dim) : (uint)k_at + kv_row;
        float sum = 0.0f;
        for (int d = SOFT_LANE; d < head_dim; d += LANES) {
            float e = x[x_from + (uint)d];
            sum = FMA(e, e, sum);
        }
        s[r * LANES + SOFT_LANE] = sum;
    }
    BARRIER();
    uint at_page = (uint)kv_at + (uint)pages[query / RUN_PAGE] * (uint)page_size;
    uint k_slot = kv_k_octet(at_page, (uint)head_kv, octets) + (uint)(query % RUN_PAGE);
    uint v_slot = kv_v_octet(at_page, (uint)head_kv, octets, (uint)n_head_kv) +
                  (uint)(query % RUN_PAGE) * octets;
    int turns_at = rope_kind == ATTN_ROPE_NONE ? 0 : pos[pos_at + col];
    for (int r = SOFT_HEAD; r < n + owns_last; r += HEADS) {
        int is_k = r == n;
        GLOBAL const float *x = is_k ? k : q;
        GLOBAL const float *w = is_k ? k_norm : q_norm;
        uint x_from = is_k ? (uint)k_at + kv_row : q_from + (uint)(r * head_dim);
        float sum = 0.0f;
        for (int i = 0; i < LANES; i++) sum += s[r * LANES + i];
        float scale = norm ? RSQRT(sum / (float)head_dim + eps) : 1.0f;
        for (int d = SOFT_LANE; d < head_dim; d += LANES) {
            float y =
                head_dim_ready(x, x_from, d, scale, w, is_k ? k_norm_at : q_norm_at, rope_kind,
                               n_dims, turns_at, freqs, freqs_at, factors, factors_at);
            ready[r * head_dim + d] = is_k ? y : y * q_scale;
            if (is_k && chunk == 0) {
                uint octet = (uint)d / 8u, i = (uint)d % 8u;
                kv_store(y, kv, k_slot + octet * RUN_PAGE, i);
                kv_store(v[(uint)v_at + kv_row + (uint)d], kv, v_slot + octet, i);
            }
        }
    }
    BARRIER();

    /* The column itself comes first: its weight is 1, the largest so far. */
    float dot = 0.0f;
    int q_row = (SOFT_HEAD < n ? SOFT_HEAD : 0) * head_dim;
    int k_row = (owns_last ? n : 0) * head_dim;
    for (int d = SOFT_LANE; d < head_dim; d += LANES)
        dot = FMA(ready[q_row + d], ready[k_row + d], dot);
    part[lane] = dot;
    for (int i = lane; i < HEADS * STRIDE; i += GROUP) s[i] = 0.0f;
    BARRIER();
    dot = 0.0f;
    for (int i = 0; i < LANES; i++) dot += part[SOFT_HEAD * LANES + i];
    float most = owns_last ? attn_score(dot, cap, 0.0f, 0) : LOWEST;
    float total = owns_last && SOFT_LANE == 0 ? 1.0f : 0.0f; /* of this work-item's weights */
    if (SOFT_LANE == 0) own[SOFT_HEAD] = most;
    float acc[HEADS][4];
    UNROLL
    for (int h = 0; h < HEADS; h++) acc[h][0] = acc[h][1] = acc[h][2] = acc[h][3] = 0.0f;
    if (owns_last) to = query; /* what is left of them is in the cache */
    BARRIER();

    for (int tile = from; tile < to; tile += TILE) {
        /* Scores: each work-item takes two positions. Those past the end repeat the last one. */
        {
            int pos0 = tile + lane;
            int pos1 = pos0 + GROUP;
            uint at0 = (uint)(pos0 < to ? pos0 : to - 1);
            uint at1 = (uint)(pos1 < to ? pos1 : to - 1);
            uint page0 = (uint)kv_at + (uint)pages[at0 / RUN_PAGE] * (uint)page_size;
            uint page1 = (uint)kv_at + (uint)pages[at1 / RUN_PAGE] * (uint)page_size;
            uint k0 = kv_k_octet(page0, (uint)head_kv, octets) + at0 % RUN_PAGE;
            uint k1 = kv_k_octet(page1, (uint)head_kv, octets) + at1 % RUN_PAGE;
            float dot0[HEADS];
            float dot1[HEADS];
            UNROLL
            for (int h = 0; h < HEADS; h++) dot0[h] = dot1[h] = 0.0f;
            for (uint c = 0; c < octets; c++) {
                float4 a0 = kv_load4(kv, k0 + c * RUN_PAGE, 0u);
                float4 a1 = kv_load4(kv, k0 + c * RUN_PAGE, 1u);
                float4 b0 = kv_load4(kv, k1 + c * RUN_PAGE, 0u);
                float4 b1 = kv_load4(kv, k1 + c * RUN_PAGE, 1u);
                UNROLL
                for (int h = 0; h < HEADS; h++) {
                    if (h < n) {
                        float4 q0 = q_shared[h * quads + (int)c * 2];
                        float4 q1 = q_shared[h * quads + (int)c * 2 + 1];
                        dot0[h] = dot4(a1, q1, dot4(a0, q0, dot0[h]));
                        dot1[h] = dot4(b1, q1, dot4(b0, q0, dot1[h]));
                    }
                }
            }
            int seen0 = pos0 >= begin && pos0 < to;
            int seen1 = pos1 >= begin && pos1 < to;
            UNROLL
            for (int h = 0; h < HEADS; h++) {
                if (h < n) {
                    float slope = slopes_at < 0 ? 0.0f : slopes[slopes_at + head + h];
                    s[h * STRIDE + lane] =
                        seen0 ? attn_score(dot0[h], cap, slope, query - pos0) : LOWEST;
                    s[h * STRIDE + lane + GROUP] =
                        seen1 ? attn_score(dot1[h], cap, slope, query - pos1) : LOWEST;
                }
            }
        }
        BARRIER();

        /* Weights. */
        float high = LOWEST;
        for (int i = 0; i < TILE; i += LANES)
            high = FMAX(high, s[SOFT_HEAD * STRIDE + i + SOFT_LANE]);
        part[lane] = high;
        BARRIER();
        float before = most;
        for (int i = 0; i < LANES; i++) most = FMAX(most, part[SOFT_HEAD * LANES + i]);
        float less = EXP2(before - most);
        total *= less;
        for (int i = 0; i < TILE; i += LANES) {
            float score = s[SOFT_HEAD * STRIDE + i + SOFT_LANE];
            float weight = score > LOWEST ? EXP2(score - most) : 0.0f;
            s[SOFT_HEAD * STRIDE + i + SOFT_LANE] = weight;
            total += weight;
        }
        if (SOFT_LANE == 0) shrink[SOFT_HEAD] = less;
        BARRIER();

        /* The sum over V, four positions at a time; they share a page. */
        UNROLL
        for (int h = 0; h < HEADS; h++) {
            if (h < n) {
                float shrunk = shrink[h];
                UNROLL
                for (int d = 0; d < 4; d++) acc[h][d] *= shrunk;
            }
        }
        int team = lane / quads;
        int quad = lane - team * quads;
        int n_pos = to - tile < TILE ? to - tile : TILE;
        for (int step = 0; step < n_pos; step += n_teams * 4) {
            int mine = step + team * 4;
            int i = mine < n_pos ? mine : 0;
            int i_w = mine < n_pos ? mine : TILE; /* where weights are 0 */
            uint at = (uint)(tile + i);
            uint page = (uint)kv_at + (uint)pages[at / RUN_PAGE] * (uint)page_size;
            uint v = kv_v_octet(page, (uint)head_kv, octets, (uint)n_head_kv) +
                     at % RUN_PAGE * octets + (uint)quad / 2u;
            uint second = (uint)quad % 2u;
            /* Weights past the end are 0, but V there may be NaN: the last one stands in. */
            int rest = n_pos - 1 - i;
            float4 v0 = kv_load4(kv, v, second);
            float4 v1 = kv_load4(kv, v + (uint)(rest < 1 ? rest : 1) * octets, second);
            float4 v2 = kv_load4(kv, v + (uint)(rest < 2 ? rest : 2) * octets, second);
            float4 v3 = kv_load4(kv, v + (uint)(rest < 3 ? rest : 3) * octets, second);
            UNROLL
            for (int h = 0; h < HEADS; h++) {
                if (h < n) {
                    float4 w = s_shared[(h * STRIDE + i_w) / 4];
                    acc[h][0] =
                        FMA(w.w, v3.x, FMA(w.z, v2.x, FMA(w.y, v1.x, FMA(w.x, v0.x, acc[h][0]))));
                    acc[h][1] =
                        FMA(w.w, v3.y, FMA(w.z, v2.y, FMA(w.y, v1.y, FMA(w.x, v0.y, acc[h][1]))));
                    acc[h][2] =
                        FMA(w.w, v3.z, FMA(w.z, v2.z, FMA(w.y, v1.z, FMA(w.x, v0.z, acc[h][2]))));
                    acc[h][3] =
                        FMA(w.w, v3.w, FMA(w.z, v2.w, FMA(w.y, v1.w, FMA(w.x, v0.w, acc[h][3]))));
                }
            }
        }
        BARRIER();
    }

    /* Teams are added up, four heads at a time, as many as there is room for. */
    part[lane] = total;
    if (SOFT_HEAD < n && SOFT_LANE == 0) shrink[SOFT_HEAD] = most;
    UNROLL
    for (int h = 0; h < HEADS; h += 4) {
        if (h < n) {
            BARRIER();
            UNROLL
            for (int i = 0; i < 4; i++) {
                float4 x;
                x.x = acc[h + i][0];
                x.y = acc[h + i][1];
                x.z = acc[h + i][2];
                x.w = acc[h + i][3];
                s_shared[i * GROUP + lane] = x;
            }
            BARRIER();
            int n_heads = n - h < 4 ? n - h : 4;
            for (int first = 0; first < n_heads * head_dim; first += GROUP) {
                int owns = first + lane < n_heads * head_dim;
                int i = owns ? first + lane : 0;
                int g = i / head_dim;
                int d = i - g * head_dim;
                float sum = 0.0f;
                for (int t = 0; t < n_teams; t++) sum += s[g * GROUP * 4 + t * head_dim + d];
                g += h;
                if (own[g] > LOWEST)
                    sum = FMA(EXP2(own[g] - shrink[g]), v[(uint)v_at + kv_row + (uint)d], sum);
                float weights = 0.0f;
                for (int t = 0; t < LANES; t++) weights += part[g * LANES + t];
                float x = scores_at >= 0 ? sum : weights > 0.0f ? sum / weights : 0.0f;
                uint at = (uint)(row + g * n_splits) * (uint)head_dim + (uint)d;
                if (owns) out[(uint)out_at + at] = x;
                if (owns && d == 0 && scores_at >= 0) {
                    scores[scores_at + score + g * 2 * n_splits] = shrink[g];
                    scores[scores_at + score + g * 2 * n_splits + n_splits] = weights;
                }
            }
        }
    }
}
