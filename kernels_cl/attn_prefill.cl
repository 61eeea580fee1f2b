/* SPDX-License-Identifier: MIT */
/*
 * Attention of runs with several columns a sequence: no score leaves the group. After Dao et al.
 * 2022, "FlashAttention", arXiv:2205.14135.
 *
 * What a work-item keeps stands in registers. Some compilers unroll no loop around another, and put
 * an array that is indexed in one that is left into memory; so each array has float4 elements and a
 * loop of its own.
 *
 *   KV_F16  the cache is f16, else f32 (default 1)
 *   HD_MAX  the most that head_dim may be: 64, 128 or 256 (default 64)
 */
#ifndef KV_F16
#define KV_F16 1
#endif
#ifndef HD_MAX
#define HD_MAX 64
#endif

#define GROUPS_A_UNIT 3
#include "portable.h"
#include "attn.h"

/* A group has ROWS rows, which are query heads times columns. A work-item owns 4 of them, with 4 of
 * a tile's KEYS positions while there are scores, and with 8 dims of the result. In the softmax it
 * has a share of one row. */
#define GROUP      ATTN_PREFILL_GROUP
#define ROWS       (ATTN_PREFILL_Q / HD_MAX) /* 64, 32 or 16 */
#define TEAMS      (ROWS / 4)
#define LANES      (GROUP / TEAMS)  /* work-items that share their rows */
#define KEYS       (LANES * 4)      /* 32, 64 or 128 */
#define SOFT_LANES (GROUP / ROWS)   /* work-items that share a row's softmax: 2, 4 or 8 */
#define Q_QUADS    (HD_MAX / 4 + 1) /* of a row of Q, with one for the sake of banks */
#define P_QUADS    (KEYS / 4 + 1)   /* of a row of scores or weights */
#define P_STRIDE   (P_QUADS * 4)

FN float4 scale4(float x, float4 a)
{
    a.x *= x;
    a.y *= x;
    a.z *= x;
    a.w *= x;
    return a;
}

/* x * a + y */
FN float4 fma4(float x, float4 a, float4 y)
{
    y.x = FMA(x, a.x, y.x);
    y.y = FMA(x, a.y, y.y);
    y.z = FMA(x, a.z, y.z);
    y.w = FMA(x, a.w, y.w);
    return y;
}

/*
 * GROUP_X is the first of n_tiles tiles of a sequence (a group that begins elsewhere has nothing to
 * do), GROUP_Y (KV head, chunk): n_chunks groups share the query heads of a KV head. Row r belongs
 * to column r % (16 * n_tiles) and head r / (16 * n_tiles). q, out [T, n_head * head_dim];
 * page_size in octets; slopes [n_head] or missing; see attn_score().
 */
KERNEL(GROUP)
attn_prefill(GLOBAL const int *RESTRICT run, GLOBAL const float *RESTRICT q, int q_at,
             GLOBAL const KV_T *RESTRICT kv, int kv_at, int page_size,
             GLOBAL const float *RESTRICT slopes, int slopes_at, GLOBAL float *RESTRICT out,
             int out_at, int n_head, int n_head_kv, int head_dim, int n_chunks, int n_tiles,
             int causal, int window, float q_scale, float cap)
{
    LOCAL_ARRAY float4 q_shared[ROWS * Q_QUADS];
    LOCAL_ARRAY float4 p_shared[ROWS * P_QUADS];
    LOCAL_ARRAY float part[GROUP];
    LOCAL_ARRAY float shrink[ROWS];
    LOCAL float *p = (LOCAL float *)p_shared;

    int lane = LOCAL_ID % LANES;
    int team = LOCAL_ID / LANES;
    int head_kv = GROUP_Y / n_chunks;
    int chunk = GROUP_Y - head_kv * n_chunks;
    int per_kv = n_head / n_head_kv;
    int n_cols = RUN_TILE_COLS * n_tiles; /* of a group */
    int heads = ROWS / n_cols;
    int n_heads = per_kv - chunk * heads; /* of this group */
    n_heads = n_heads < heads ? n_heads : heads;
    int head = head_kv * per_kv + chunk * heads;
    uint octets = (uint)head_dim / 8u;
    int owns = lane < (int)octets; /* part of the result; others repeat the first one's work */
    int lane_v = owns ? lane : 0;

    GLOBAL const int *tile = run + run[RUN_TILE_AT] + GROUP_X * RUN_TILE_SIZE;
    GLOBAL const int *seq = run + run[RUN_SEQ_AT] + tile[RUN_TILE_SEQ] * RUN_SEQ_SIZE;
    GLOBAL const int *pages = run + run[RUN_PAGE_AT] + seq[RUN_SEQ_PAGES];
    int first = tile[RUN_TILE_FIRST];
    if (first % n_cols != 0) return;
    int n_queries = seq[RUN_SEQ_N_COLS] - first;
    n_queries = n_queries < n_cols ? n_queries : n_cols;
    int query = seq[RUN_SEQ_POS] + first; /* position of the first column */
    int col = seq[RUN_SEQ_COL] + first;
    int end = causal ? query + n_queries : seq[RUN_SEQ_POS] + seq[RUN_SEQ_N_COLS];
    int begin = window > 0 && query + 1 > window ? query + 1 - window : 0;

    /* Q; rows without a column or a head are 0. */
    for (int i = LOCAL_ID; i < ROWS * head_dim; i += GROUP) {
        int r = i / head_dim;
        int d = i - r * head_dim;
        int h = r / n_cols;
        int c = r - h * n_cols;
        float x = 0.0f;
        if (c < n_queries && h < n_heads)
            x = q[(uint)q_at + (uint)((col + c) * n_head + head + h) * (uint)head_dim + (uint)d];
        ((LOCAL float *)q_shared)[r * Q_QUADS * 4 + d] = x * q_scale;
    }

    /* The softmax of a work-item has one row, which sees positions [since, until). A row without a
     * column or a head sees none; any slope does for it, so that reading it takes no branch. */
    int soft_row = LOCAL_ID / SOFT_LANES;
    int soft_lane = LOCAL_ID % SOFT_LANES;
    int soft_head = soft_row / n_cols;
    int soft_col = soft_row - soft_head * n_cols;
    int soft_query = query + soft_col;
    int there = soft_col < n_queries && soft_head < n_heads;
    int since = window > 0 ? soft_query + 1 - window : 0;
    int until = !there ? 0 : causal ? soft_query + 1 : end;
    float slope = slopes_at < 0 ? 0.0f : slopes[slopes_at + head + (there ? soft_head : 0)];
    float most = LOWEST;
    float total = 0.0f; /* of this work-item's weights */

    /* The sums over V. Row i is team + i * TEAMS, here and in the scores. */
    float4 acc_lo[4]; /* of the first 4 dims */
    float4 acc_hi[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        acc_lo[i].x = acc_lo[i].y = acc_lo[i].z = acc_lo[i].w = 0.0f;
        acc_hi[i] = acc_lo[i];
    }
    BARRIER();

    for (int key = begin / KEYS * KEYS; key < end; key += KEYS) {
        /* Scores. Position j of a work-item is lane + j * LANES; those past the end repeat the last
         * one. */
        float4 s[4]; /* element j of s[i]: row i, position j */
        uint k[4];
        UNROLL
        for (int j = 0; j < 4; j++) {
            int pos = key + lane + j * LANES;
            uint at = (uint)(pos < end ? pos : end - 1);
            uint page = (uint)kv_at + (uint)pages[at / RUN_PAGE] * (uint)page_size;
            k[j] = kv_k_octet(page, (uint)head_kv, octets) + at % RUN_PAGE;
            s[j].x = s[j].y = s[j].z = s[j].w = 0.0f;
        }
        for (uint c = 0; c < octets * 2; c++) {
            uint o = c / 2 * RUN_PAGE;
            float4 x0 = kv_load4(kv, k[0] + o, c % 2);
            float4 x1 = kv_load4(kv, k[1] + o, c % 2);
            float4 x2 = kv_load4(kv, k[2] + o, c % 2);
            float4 x3 = kv_load4(kv, k[3] + o, c % 2);
            UNROLL
            for (int i = 0; i < 4; i++) {
                float4 y = q_shared[(team + i * TEAMS) * Q_QUADS + (int)c];
                s[i].x = dot4(x0, y, s[i].x);
                s[i].y = dot4(x1, y, s[i].y);
                s[i].z = dot4(x2, y, s[i].z);
                s[i].w = dot4(x3, y, s[i].w);
            }
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            int at = (team + i * TEAMS) * P_STRIDE + lane;
            p[at] = s[i].x;
            p[at + LANES] = s[i].y;
            p[at + LANES * 2] = s[i].z;
            p[at + LANES * 3] = s[i].w;
        }
        BARRIER();

        /* Weights. */
        float high = LOWEST;
        for (int i = soft_lane; i < KEYS; i += SOFT_LANES) {
            int pos = key + i;
            float score = attn_score(p[soft_row * P_STRIDE + i], cap, slope, soft_query - pos);
            if (pos < since || pos >= until) score = LOWEST;
            p[soft_row * P_STRIDE + i] = score;
            high = FMAX(high, score);
        }
        part[LOCAL_ID] = high;
        BARRIER();
        float before = most;
        for (int i = 0; i < SOFT_LANES; i++) most = FMAX(most, part[soft_row * SOFT_LANES + i]);
        float less = EXP2(before - most);
        total *= less;
        for (int i = soft_lane; i < KEYS; i += SOFT_LANES) {
            float score = p[soft_row * P_STRIDE + i];
            float weight = score > LOWEST ? EXP2(score - most) : 0.0f;
            p[soft_row * P_STRIDE + i] = weight;
            total += weight;
        }
        if (soft_lane == 0) shrink[soft_row] = less;
        BARRIER();

        /* The sum over V, four positions at a time; they share a page. */
        UNROLL
        for (int i = 0; i < 4; i++) {
            float shrunk = shrink[team + i * TEAMS];
            acc_lo[i] = scale4(shrunk, acc_lo[i]);
            acc_hi[i] = scale4(shrunk, acc_hi[i]);
        }
        int n_keys = end - key < KEYS ? end - key : KEYS;
        for (int j = 0; j < n_keys; j += 4) {
            uint at = (uint)(key + j);
            uint page = (uint)kv_at + (uint)pages[at / RUN_PAGE] * (uint)page_size;
            uint v = kv_v_octet(page, (uint)head_kv, octets, (uint)n_head_kv) +
                     at % RUN_PAGE * octets + (uint)lane_v;
            /* Weights past the end are 0, but V there may be NaN: the last one stands in. */
            int last = n_keys - 1 - j;
            uint o1 = v + (uint)(last < 1 ? last : 1) * octets;
            uint o2 = v + (uint)(last < 2 ? last : 2) * octets;
            uint o3 = v + (uint)(last < 3 ? last : 3) * octets;
            float4 lo0 = kv_load4(kv, v, 0u);
            float4 hi0 = kv_load4(kv, v, 1u);
            float4 lo1 = kv_load4(kv, o1, 0u);
            float4 hi1 = kv_load4(kv, o1, 1u);
            float4 lo2 = kv_load4(kv, o2, 0u);
            float4 hi2 = kv_load4(kv, o2, 1u);
            float4 lo3 = kv_load4(kv, o3, 0u);
            float4 hi3 = kv_load4(kv, o3, 1u);
            UNROLL
            for (int i = 0; i < 4; i++) {
                float4 w = p_shared[(team + i * TEAMS) * P_QUADS + j / 4];
                acc_lo[i] =
                    fma4(w.w, lo3, fma4(w.z, lo2, fma4(w.y, lo1, fma4(w.x, lo0, acc_lo[i]))));
                acc_hi[i] =
                    fma4(w.w, hi3, fma4(w.z, hi2, fma4(w.y, hi1, fma4(w.x, hi0, acc_hi[i]))));
            }
        }
        BARRIER();
    }

    part[LOCAL_ID] = total;
    BARRIER();
    UNROLL
    for (int i = 0; i < 4; i++) {
        int r = team + i * TEAMS;
        int h = r / n_cols;
        int c = r - h * n_cols;
        float weights = 0.0f;
        for (int t = 0; t < SOFT_LANES; t++) weights += part[r * SOFT_LANES + t];
        float scale = weights > 0.0f ? 1.0f / weights : 0.0f;
        if (owns && c < n_queries && h < n_heads) {
            uint to = ((uint)out_at + (uint)((col + c) * n_head + head + h) * (uint)head_dim) / 4u +
                      (uint)lane * 2u;
            ((GLOBAL float4 *)out)[to] = scale4(scale, acc_lo[i]);
            ((GLOBAL float4 *)out)[to + 1] = scale4(scale, acc_hi[i]);
        }
    }
}
