/* SPDX-License-Identifier: MIT */
/*
 * Attention of runs with several columns a sequence: no score leaves the group. After Dao et al.
 * 2022, "FlashAttention", arXiv:2205.14135.
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

#include "portable.h"
#include "attn.h"

/* A group has ROWS rows, which are query heads times columns. A work-item owns 4 of them, 4 of a
 * tile's KEYS positions while there are scores, and 8 dims of the result. */
#define GROUP   ATTN_PREFILL_GROUP
#define ROWS    (ATTN_PREFILL_Q / HD_MAX) /* 64, 32 or 16 */
#define TEAMS   (ROWS / 4)
#define LANES   (GROUP / TEAMS)  /* work-items that share their rows */
#define KEYS    (LANES * 4)      /* 32, 64 or 128 */
#define Q_QUADS (HD_MAX / 4 + 1) /* of a row of Q, with one for the sake of banks */
#define P_QUADS (KEYS / 4 + 1)   /* of a row of weights */

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
    LOCAL_ARRAY float4 part[ROWS * LANES / 4];
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

    /* Row i of a work-item is team + i * TEAMS. It sees positions [since, until). */
    int row_query[4];
    int since[4];
    int until[4];
    float slope[4];
    float most[4];
    float total[4]; /* of this work-item's weights */
    float acc[4][8];
    UNROLL
    for (int i = 0; i < 4; i++) {
        int r = team + i * TEAMS;
        int h = r / n_cols;
        int c = r - h * n_cols;
        int there = c < n_queries && h < n_heads;
        row_query[i] = query + c;
        since[i] = window > 0 ? query + c + 1 - window : 0;
        until[i] = !there ? 0 : causal ? query + c + 1 : end;
        slope[i] = slopes_at < 0 || !there ? 0.0f : slopes[slopes_at + head + h];
        most[i] = LOWEST;
        total[i] = 0.0f;
        UNROLL
        for (int d = 0; d < 8; d++) acc[i][d] = 0.0f;
    }
    BARRIER();

    for (int key = begin / KEYS * KEYS; key < end; key += KEYS) {
        /* Scores. Position j of a work-item is lane + j * LANES; those past the end repeat the last
         * one. */
        float s[4][4];
        uint k[4];
        UNROLL
        for (int j = 0; j < 4; j++) {
            int pos = key + lane + j * LANES;
            uint at = (uint)(pos < end ? pos : end - 1);
            uint page = (uint)kv_at + (uint)pages[at / RUN_PAGE] * (uint)page_size;
            k[j] = kv_k_octet(page, (uint)head_kv, octets) + at % RUN_PAGE;
            s[0][j] = s[1][j] = s[2][j] = s[3][j] = 0.0f;
        }
        for (uint c = 0; c < octets; c++) {
            UNROLL
            for (uint second = 0; second < 2; second++) {
                float4 x[4];
                UNROLL
                for (int j = 0; j < 4; j++) x[j] = kv_load4(kv, k[j] + c * RUN_PAGE, second);
                UNROLL
                for (int i = 0; i < 4; i++) {
                    float4 y = q_shared[(team + i * TEAMS) * Q_QUADS + (int)(c * 2 + second)];
                    UNROLL
                    for (int j = 0; j < 4; j++) s[i][j] = dot4(x[j], y, s[i][j]);
                }
            }
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            float high = LOWEST;
            UNROLL
            for (int j = 0; j < 4; j++) {
                int pos = key + lane + j * LANES;
                s[i][j] = attn_score(s[i][j], cap, slope[i], row_query[i] - pos);
                if (pos < since[i] || pos >= until[i]) s[i][j] = LOWEST;
                high = FMAX(high, s[i][j]);
            }
            ((LOCAL float *)part)[(team + i * TEAMS) * LANES + lane] = high;
        }
        BARRIER();

        /* Weights. */
        UNROLL
        for (int i = 0; i < 4; i++) {
            float before = most[i];
            for (int t = 0; t < LANES / 4; t++) {
                float4 x = part[(team + i * TEAMS) * (LANES / 4) + t];
                most[i] = FMAX(most[i], FMAX(FMAX(x.x, x.y), FMAX(x.z, x.w)));
            }
            float less = EXP2(before - most[i]);
            total[i] *= less;
            UNROLL
            for (int d = 0; d < 8; d++) acc[i][d] *= less;
            UNROLL
            for (int j = 0; j < 4; j++) {
                float weight = s[i][j] > LOWEST ? EXP2(s[i][j] - most[i]) : 0.0f;
                total[i] += weight;
                p[(team + i * TEAMS) * P_QUADS * 4 + lane + j * LANES] = weight;
            }
        }
        BARRIER();

        /* The sum over V, four positions at a time; they share a page. The next tile's weights are
         * written behind its first barrier, so none is needed here. */
        int n_keys = end - key < KEYS ? end - key : KEYS;
        for (int j = 0; j < n_keys; j += 4) {
            uint at = (uint)(key + j);
            uint page = (uint)kv_at + (uint)pages[at / RUN_PAGE] * (uint)page_size;
            uint v = kv_v_octet(page, (uint)head_kv, octets, (uint)n_head_kv) +
                     at % RUN_PAGE * octets + (uint)lane_v;
            float4 w[4];
            UNROLL
            for (int i = 0; i < 4; i++) w[i] = p_shared[(team + i * TEAMS) * P_QUADS + j / 4];
            UNROLL
            for (int t = 0; t < 4; t++) {
                /* Weights past the end are 0, but V there may be NaN. */
                int past = n_keys - 1 - j < t;
                uint o = v + (uint)(past ? n_keys - 1 - j : t) * octets;
                float4 v0 = kv_load4(kv, o, 0u);
                float4 v1 = kv_load4(kv, o, 1u);
                UNROLL
                for (int i = 0; i < 4; i++) {
                    float x = t == 0 ? w[i].x : t == 1 ? w[i].y : t == 2 ? w[i].z : w[i].w;
                    acc[i][0] = FMA(x, v0.x, acc[i][0]);
                    acc[i][1] = FMA(x, v0.y, acc[i][1]);
                    acc[i][2] = FMA(x, v0.z, acc[i][2]);
                    acc[i][3] = FMA(x, v0.w, acc[i][3]);
                    acc[i][4] = FMA(x, v1.x, acc[i][4]);
                    acc[i][5] = FMA(x, v1.y, acc[i][5]);
                    acc[i][6] = FMA(x, v1.z, acc[i][6]);
                    acc[i][7] = FMA(x, v1.w, acc[i][7]);
                }
            }
        }
    }

    UNROLL
    for (int i = 0; i < 4; i++) ((LOCAL float *)part)[(team + i * TEAMS) * LANES + lane] = total[i];
    BARRIER();
    UNROLL
    for (int i = 0; i < 4; i++) {
        int r = team + i * TEAMS;
        int h = r / n_cols;
        int c = r - h * n_cols;
        float weights = 0.0f;
        for (int t = 0; t < LANES / 4; t++) {
            float4 x = part[r * (LANES / 4) + t];
            weights += (x.x + x.y) + (x.z + x.w);
        }
        float scale = weights > 0.0f ? 1.0f / weights : 0.0f;
        if (until[i] > 0 && owns) {
            uint to = (uint)out_at + (uint)((col + c) * n_head + head + h) * (uint)head_dim +
                      (uint)lane * 8u;
            UNROLL
            for (int d = 0; d < 8; d++) out[to + (uint)d] = acc[i][d] * scale;
        }
    }
}
