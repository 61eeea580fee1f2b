/* SPDX-License-Identifier: MIT */
/*
 * Products of weights with 1 to NC columns, which are bound by the weights' way from memory:
 *
 *   out_i [n, n_rows_i] = W_i norm(x) + b_i (+ residual)        up to three weights of one type
 *   out_0 [n, n_rows_0] = act(W_0 norm(x) + b_0) * (W_1 norm(x) + b_1) (+ residual)
 *
 * A group stages norm(x) in local memory, a tile at a time, laid out so that lanes that take
 * neighbouring units of a row read neighbouring float4. `lanes` work-items share two rows: two of
 * one weight, or the gate's and the up projection's of one number. Each strides over the rows'
 * units, so that a load of all lanes is contiguous; quants become floats in registers, and their
 * scale is applied once a block: d * (q . x) - 8 d * sum(x). A group goes on to other rows for as
 * long as there are more of them than groups; if x fits a tile it is staged only once.
 *
 * RMSNorm is deferred, since W(s * x * w) = s * W(x * w): the squares are gathered while x is
 * staged. A LayerNorm, or a norm with a bias, goes over x beforehand. Instead of a norm, x may come
 * in the parts that attn_decode left of it, which are put together while it is staged.
 */
#define GROUPS_A_UNIT GEMV_GROUPS_A_UNIT
#include "portable.h"
#include "run.h"
#include "weights.h"
#include "act.h"
#include "attn_parts.h"
#include "gemv.h"

#ifndef WTYPE
#define WTYPE W_Q4_0
#endif
#ifndef NC /* columns: 1, 4 or 8 */
#define NC 1
#endif
#ifndef WG
#define WG GEMV_GROUP
#endif

#define UNIT  GEMV_UNIT(WTYPE)
#define TILE  GEMV_TILE(NC)
#define PARTS (UNIT / 4) /* float4 a unit */
/* x in local memory, as float4: [NC][PARTS][units, and one to spread the parts over banks] */
#define PART_STRIDE (TILE / UNIT + 1)
#define COL_STRIDE  (PARTS * PART_STRIDE)
#define HAS_SUMS    (WTYPE == W_Q4_0 || WTYPE == W_Q4_1)
#define N_SUMS      (TILE / W_BLOCK)

/* red [n_values][WG]: sums each value over aligned runs of `width` work-items, a power of two, into
 * the first of them. Begins and ends with a barrier. */
FN void sum_runs(LOCAL float *red, int n_values, int width)
{
    int lane = LOCAL_ID & (width - 1);
    BARRIER();
    for (int s = width >> 1; s > 0; s >>= 1) {
        if (lane < s) {
            for (int v = 0; v < n_values; v++) red[v * WG + LOCAL_ID] += red[v * WG + LOCAL_ID + s];
        }
        BARRIER();
    }
}

FN float dot4(float4 w, float4 x, float sum)
{
    return FMA(w.x, x.x, FMA(w.y, x.y, FMA(w.z, x.z, FMA(w.w, x.w, sum))));
}

/* Four elements of both rows times each column's. */
FN void add_part(float4 wa, float4 wb, LOCAL const float4 *x, float *sum_a, float *sum_b)
{
    UNROLL
    for (int c = 0; c < NC; c++) {
        float4 v = x[c * COL_STRIDE];
        sum_a[c] = dot4(wa, v, sum_a[c]);
        sum_b[c] = dot4(wb, v, sum_b[c]);
    }
}

#if WTYPE == W_Q4_0 || WTYPE == W_Q4_1

FN float4 bytes_of(uint v)
{
    float4 f;
    f.x = (float)(v & 255u);
    f.y = (float)(v >> 8 & 255u);
    f.z = (float)(v >> 16 & 255u);
    f.w = (float)(v >> 24);
    return f;
}

/* A word holds elements 4i to 4i + 3, and 16 more than those in the upper halves. */
FN void add_word(uint a, uint b, LOCAL const float4 *x, float *sum_a, float *sum_b)
{
    add_part(bytes_of(a & 0x0f0f0f0fu), bytes_of(b & 0x0f0f0f0fu), x, sum_a, sum_b);
    add_part(bytes_of(a >> 4 & 0x0f0f0f0fu), bytes_of(b >> 4 & 0x0f0f0f0fu), x + 4 * PART_STRIDE,
             sum_a, sum_b);
}

#elif WTYPE == W_Q8_0

FN float4 bytes_of(uint v)
{
    float4 f;
    f.x = (float)((int)(v << 24) >> 24);
    f.y = (float)((int)(v << 16) >> 24);
    f.z = (float)((int)(v << 8) >> 24);
    f.w = (float)((int)v >> 24);
    return f;
}

FN void add_word(uint a, uint b, LOCAL const float4 *x, float *sum_a, float *sum_b)
{
    add_part(bytes_of(a), bytes_of(b), x, sum_a, sum_b);
}

#endif

#if WTYPE == W_Q4_0 || WTYPE == W_Q4_1 || WTYPE == W_Q8_0

/* sum += the block's scale times what its quants gave, and its offset times the sum of x. */
FN void add_scaled(GLOBAL const ushort *scales, int block, const float *dots,
                   LOCAL const float *x_sums, float *sum)
{
#if WTYPE == W_Q4_1
    float d = load_half(scales, (uint)block * 2u), m = load_half(scales, (uint)block * 2u + 1u);
#else
    float d = load_half(scales, (uint)block);
#endif
    UNROLL
    for (int c = 0; c < NC; c++) {
#if WTYPE == W_Q4_0
        sum[c] = FMA(d, FMA(-8.0f, x_sums[c * N_SUMS], dots[c]), sum[c]);
#elif WTYPE == W_Q4_1
        sum[c] = FMA(d, dots[c], FMA(m, x_sums[c * N_SUMS], sum[c]));
#else
        sum[c] = FMA(d, dots[c], sum[c]);
#endif
    }
}

#endif

/* Adds unit a of one row and unit b of another, times x, to each column's sums. */
FN void add_unit(GLOBAL const uint4 *quants_a, GLOBAL const ushort *scales_a, int a,
                 GLOBAL const uint4 *quants_b, GLOBAL const ushort *scales_b, int b,
                 LOCAL const float4 *x, LOCAL const float *x_sums, float *sum_a, float *sum_b)
{
#if WTYPE == W_F32
    add_part(((GLOBAL const float4 *)quants_a)[a], ((GLOBAL const float4 *)quants_b)[b], x, sum_a,
             sum_b);
#elif WTYPE == W_F16
    GLOBAL const ushort *halves_a = (GLOBAL const ushort *)quants_a;
    GLOBAL const ushort *halves_b = (GLOBAL const ushort *)quants_b;
    UNROLL
    for (int i = 0; i < PARTS; i++)
        add_part(load_half4(halves_a, (uint)a * 2u + (uint)i),
                 load_half4(halves_b, (uint)b * 2u + (uint)i), x + i * PART_STRIDE, sum_a, sum_b);
#else
    uint4 qa = quants_a[a], qb = quants_b[b];
    float dots_a[NC], dots_b[NC];
    UNROLL
    for (int c = 0; c < NC; c++) dots_a[c] = dots_b[c] = 0.0f;
    add_word(qa.x, qb.x, x, dots_a, dots_b);
    add_word(qa.y, qb.y, x + PART_STRIDE, dots_a, dots_b);
    add_word(qa.z, qb.z, x + 2 * PART_STRIDE, dots_a, dots_b);
    add_word(qa.w, qb.w, x + 3 * PART_STRIDE, dots_a, dots_b);
    add_scaled(scales_a, a / (W_BLOCK / UNIT), dots_a, x_sums, sum_a);
    add_scaled(scales_b, b / (W_BLOCK / UNIT), dots_b, x_sums, sum_b);
#endif
}

/* What the sums of a head's splits are multiplied with to be added up to its result. */
FN void merge_weights(GLOBAL const float *scores, int n_splits, LOCAL float *weights)
{
    float most = LOWEST;
    float total = 0.0f;
    for (int i = 0; i < n_splits; i++) most = FMAX(most, scores[i]);
    NO_UNROLL
    for (int i = 0; i < n_splits; i++) {
        float e = EXP2(scores[i] - most);
        weights[i] = e;
        total = FMA(e, scores[n_splits + i], total);
    }
    float scale = total > 0.0f ? 1.0f / total : 0.0f;
    for (int i = 0; i < n_splits; i++) weights[i] *= scale;
}

/* Four dims of a head, of which the first split's begin at sums. */
FN float4 merged_quad(GLOBAL const float4 *sums, int n_splits, int head_dim,
                      LOCAL const float *weights)
{
    int quads = head_dim / 4;
    float4 x;
    x.x = x.y = x.z = x.w = 0.0f;
    NO_UNROLL
    for (int i = 0; i < n_splits; i += ATTN_SPLITS) {
        float4 a = sums[i * quads], b = sums[(i + 1) * quads];
        float4 c = sums[(i + 2) * quads], d = sums[(i + 3) * quads];
        float wa = weights[i], wb = weights[i + 1], wc = weights[i + 2], wd = weights[i + 3];
        x.x = FMA(a.x, wa, FMA(b.x, wb, FMA(c.x, wc, FMA(d.x, wd, x.x))));
        x.y = FMA(a.y, wa, FMA(b.y, wb, FMA(c.y, wc, FMA(d.y, wd, x.y))));
        x.z = FMA(a.z, wa, FMA(b.z, wb, FMA(c.z, wc, FMA(d.z, wd, x.z))));
        x.w = FMA(a.w, wa, FMA(b.w, wb, FMA(c.w, wc, FMA(d.w, wd, x.w))));
    }
    return x;
}

/* Stages elements [at, at + n) of x that is in parts. `weights` [NC][2 * WG]. Begins behind a
 * barrier, and has one. */
FN void stage_parts(GLOBAL const float *sums, GLOBAL const float *scores, int n_splits,
                    int head_dim, int n_in, int col, int n_cols, int at, int n,
                    LOCAL float *weights, LOCAL float4 *tile)
{
    int n_head = n_in / head_dim, first = at / head_dim;
    int end = at + n < n_in ? at + n : n_in; /* of what is there */
    int n_heads = (end + head_dim - 1) / head_dim - first;
    int n_there = n_cols < NC ? n_cols : NC;
    for (int i = LOCAL_ID; i < n_there * n_heads; i += WG) {
        int c = i / n_heads, head = i - c * n_heads;
        uint row = (uint)((col + c) * n_head + first + head);
        merge_weights(scores + row * (uint)(2 * n_splits), n_splits,
                      weights + c * 2 * WG + head * n_splits);
    }
    BARRIER();
    NO_UNROLL
    for (int c = 0; c < NC; c++) {
        NO_UNROLL
        for (int i = LOCAL_ID * 4; i < n; i += WG * 4) {
            int k = at + i, head = k / head_dim;
            uint row = (uint)((col + c) * n_head + head) * (uint)n_splits;
            float4 x;
            x.x = x.y = x.z = x.w = 0.0f;
            if (k < n_in && c < n_there)
                x = merged_quad((GLOBAL const float4 *)(sums + row * (uint)head_dim +
                                                        (uint)(k - head * head_dim)),
                                n_splits, head_dim,
                                weights + c * 2 * WG + (head - first) * n_splits);
            tile[c * COL_STRIDE + i % UNIT / 4 * PART_STRIDE + i / UNIT] = x;
        }
    }
}

/* x and residual: [n_cols of the run, n_in] and like out_0; an offset of -1: there is none. With
 * `rows` [n_cols] column c is row rows[c] of x. n_splits > 0: x and `scores` are what attn_parts.h
 * says. */
KERNEL(WG)
gemv(GLOBAL const int *RESTRICT run, int run_index, GLOBAL const float *RESTRICT x, int x_at,
     GLOBAL const int *RESTRICT rows, int rows_at, GLOBAL const float *RESTRICT scores,
     int scores_at, int n_splits, int head_dim, GLOBAL const float *RESTRICT norm_w, int norm_w_at,
     GLOBAL const float *RESTRICT norm_b, int norm_b_at, GLOBAL const float *RESTRICT residual,
     int residual_at, int n_in, int norm, float eps, int act, int lanes, int groups0, int groups1,
     GLOBAL const uint4 *RESTRICT w0, int w0_at, int scales0_at, int n_rows0,
     GLOBAL const float *RESTRICT b0, int b0_at, GLOBAL float *out0, int out0_at,
     GLOBAL const uint4 *RESTRICT w1, int w1_at, int scales1_at, int n_rows1,
     GLOBAL const float *RESTRICT b1, int b1_at, GLOBAL float *out1, int out1_at,
     GLOBAL const uint4 *RESTRICT w2, int w2_at, int scales2_at, int n_rows2,
     GLOBAL const float *RESTRICT b2, int b2_at, GLOBAL float *out2, int out2_at)
{
    LOCAL_ARRAY float4 tile[NC * COL_STRIDE];
    LOCAL_ARRAY float sums[NC * N_SUMS]; /* of x, by blocks */
    LOCAL_ARRAY float red[2 * NC * WG];
    LOCAL_ARRAY float mean[NC], scale[NC]; /* of x, as it is staged */
    LOCAL_ARRAY float deferred[NC];        /* scale of the products */
    LOCAL_ARRAY int from[NC];              /* where columns of x begin */

    int col = GROUP_Y * NC, n_cols = run[run_index] - col; /* may be less or more than NC */
    int n_padded = (n_in + W_BLOCK - 1) / W_BLOCK * W_BLOCK;
    int row_units = n_padded / UNIT;
    int glu = act != ACT_NONE;
    int rows_of_lanes = glu ? 1 : 2, rows_of_chunk = WG / lanes * rows_of_lanes;
    int lane = LOCAL_ID & (lanes - 1), first = LOCAL_ID - lane;

    /* The group's weight, the first of its chunks of rows, and how many groups share them. */
    int segment = GROUP_X < groups0 ? 0 : GROUP_X < groups0 + groups1 ? 1 : 2;
    int begin = segment == 0 ? 0 : segment == 1 ? groups0 : groups0 + groups1;
    int n_groups = segment == 0 ? groups0 : segment == 1 ? groups1 : N_GROUPS_X - begin;
    int n_rows = segment == 0 ? n_rows0 : segment == 1 ? n_rows1 : n_rows2;
    GLOBAL const uint4 *wa = segment == 0 ? w0 : segment == 1 ? w1 : w2;
    GLOBAL const uint4 *wb = glu ? w1 : wa;
    int wa_at = segment == 0 ? w0_at : segment == 1 ? w1_at : w2_at;
    int scales_a = segment == 0 ? scales0_at : segment == 1 ? scales1_at : scales2_at;
    GLOBAL const float *bias = segment == 0 ? b0 : segment == 1 ? b1 : b2;
    int bias_at = segment == 0 ? b0_at : segment == 1 ? b1_at : b2_at;
    GLOBAL float *out = segment == 0 ? out0 : segment == 1 ? out1 : out2;
    int out_at = segment == 0 ? out0_at : segment == 1 ? out1_at : out2_at;
    GLOBAL const ushort *halves_a = (GLOBAL const ushort *)wa + scales_a;
    GLOBAL const ushort *halves_b = (GLOBAL const ushort *)wb + (glu ? scales1_at : scales_a);
    wa += wa_at;
    wb += glu ? w1_at : wa_at;

    int defers = norm == NORM_RMS && norm_b_at < 0;
    x += x_at;
    scores += scores_at;
    if (LOCAL_ID < NC) {
        int last = n_cols < NC ? n_cols - 1 : NC - 1, c = col + (LOCAL_ID < last ? LOCAL_ID : last);
        from[LOCAL_ID] = (rows_at >= 0 ? rows[rows_at + c] : c) * n_in;
        mean[LOCAL_ID] = 0.0f;
        scale[LOCAL_ID] = 1.0f;
        deferred[LOCAL_ID] = 1.0f;
    }
    /* First the mean of a LayerNorm, then for both kinds of norm the squares of what is left. No
     * `if` stands around the loop: with one, PoCL 3.1 gives wrong sums. */
    int first_pass = norm == NORM_NONE || defers ? 2 : norm == NORM_LAYER ? 0 : 1;
    for (int pass = first_pass; pass < 2; pass++) {
        BARRIER();
        for (int c = 0; c < NC; c++) {
            float sum = 0.0f;
            if (c < n_cols) {
                for (int k = LOCAL_ID; k < n_in; k += WG) {
                    float v = x[from[c] + k] - mean[c];
                    sum += pass == 0 ? v : v * v;
                }
            }
            red[c * WG + LOCAL_ID] = sum;
        }
        sum_runs(red, NC, WG);
        if (LOCAL_ID < NC) {
            float value = red[LOCAL_ID * WG] / (float)n_in;
            mean[LOCAL_ID] = pass == 0 ? value : mean[LOCAL_ID];
            scale[LOCAL_ID] = pass == 0 ? 1.0f : RSQRT(value + eps);
        }
    }

    int n_chunks = (n_rows + rows_of_chunk - 1) / rows_of_chunk;
    for (int chunk = GROUP_X - begin; chunk < n_chunks; chunk += n_groups) {
        int is_first = chunk == GROUP_X - begin;
        int row = chunk * rows_of_chunk + LOCAL_ID / lanes * rows_of_lanes;
        int row_b = glu || row + 1 >= n_rows ? row : row + 1;
        float sum_a[NC], sum_b[NC];
        UNROLL
        for (int c = 0; c < NC; c++) {
            sum_a[c] = 0.0f;
            sum_b[c] = 0.0f;
        }
        for (int at = 0; at < n_padded; at += TILE) {
            int n = n_padded - at < TILE ? n_padded - at : TILE;
            if (is_first || n_padded > TILE) {
                BARRIER();
                LOCAL float *staged = (LOCAL float *)tile;
                uint n_plain = n_splits > 0 ? 0u : (uint)n;
                float squares[NC];
                UNROLL
                for (int c = 0; c < NC; c++) squares[c] = 0.0f;
                if (n_splits > 0)
                    stage_parts(x, scores, n_splits, head_dim, n_in, col, n_cols, at, n, red, tile);
                for (uint i = (uint)LOCAL_ID; i < n_plain; i += WG) {
                    uint part = i % UNIT / 4u, to = (part * PART_STRIDE + i / UNIT) * 4u + i % 4u;
                    int k = at + (int)i;
                    float w = norm_w_at >= 0 && k < n_in ? norm_w[norm_w_at + k] : 1.0f;
                    float b = norm_b_at >= 0 && k < n_in ? norm_b[norm_b_at + k] : 0.0f;
                    UNROLL
                    for (int c = 0; c < NC; c++) {
                        float v = 0.0f;
                        if (k < n_in && c < n_cols) {
                            v = x[from[c] + k] - mean[c];
                            squares[c] = FMA(v, v, squares[c]);
                            v = FMA(v * scale[c], w, b);
                        }
                        staged[to + c * COL_STRIDE * 4] = v;
                    }
                }
                if (is_first && defers) {
                    UNROLL
                    for (int c = 0; c < NC; c++)
                        red[c * WG + LOCAL_ID] =
                            at == 0 ? squares[c] : red[c * WG + LOCAL_ID] + squares[c];
                }
                BARRIER();
#if HAS_SUMS
                for (uint i = (uint)LOCAL_ID; i < NC * N_SUMS; i += WG) {
                    uint c = i / N_SUMS, block = i % N_SUMS;
                    float sum = 0.0f;
                    for (int part = 0; part < PARTS && block < (uint)n / W_BLOCK; part++) {
                        float4 v = tile[c * COL_STRIDE + part * PART_STRIDE + block];
                        sum += v.x + v.y + (v.z + v.w);
                    }
                    sums[i] = sum;
                }
                BARRIER();
#endif
            }
            int unit_a = row * row_units + at / UNIT, unit_b = row_b * row_units + at / UNIT;
            for (int u = row < n_rows ? lane : n; u < n / UNIT; u += lanes)
                add_unit(wa, halves_a, unit_a + u, wb, halves_b, unit_b + u, tile + u,
                         sums + (HAS_SUMS ? u : 0), sum_a, sum_b);
        }

        if (is_first && defers) {
            sum_runs(red, NC, WG);
            if (LOCAL_ID < NC) deferred[LOCAL_ID] = RSQRT(red[LOCAL_ID * WG] / (float)n_in + eps);
        }
        BARRIER();
        UNROLL
        for (int c = 0; c < NC; c++) {
            red[c * WG + LOCAL_ID] = sum_a[c];
            red[(NC + c) * WG + LOCAL_ID] = sum_b[c];
        }
        sum_runs(red, 2 * NC, lanes);

        for (int v = lane; v < NC * rows_of_lanes; v += lanes) {
            int c = (int)((uint)v % NC), r = row + (int)((uint)v / NC);
            if (c >= n_cols || r >= n_rows) continue;
            float y = red[v * WG + first] * deferred[c];
            if (bias_at >= 0) y += bias[bias_at + r];
            if (glu) {
                float up = red[(NC + c) * WG + first] * deferred[c];
                if (b1_at >= 0) up += b1[b1_at + r];
                y = activate(act, y) * up;
            }
            int i = (col + c) * n_rows + r;
            if (residual_at >= 0) y += residual[residual_at + i];
            out[out_at + i] = y;
        }
    }
}
