/* SPDX-License-Identifier: MIT */
/*
 * Products of weights with many columns, bound by arithmetic: what gemv.cl computes, but for the
 * norm, which a launch before this one has done.
 *
 * A group makes a tile of MM_TILE rows by MM_TILE columns. Block by block of the rows, it puts
 * weights, as floats, and x into local memory, element by element of the sum, so that a work-item
 * reads four rows and four columns as two float4 and keeps 4 x 4 sums. With a GLU rows of the gate
 * and of the up projection take turns in the tile, and a work-item has both of a pair.
 */
#include "portable.h"
#include "run.h"
#include "weights.h"
#include "act.h"
#include "gemv.h"

#ifndef WTYPE
#define WTYPE W_Q4_0
#endif
#ifndef WG
#define WG MM_GROUP
#endif

/* Four work-items stage a row's block, each every fourth element of it. With 8 floats to spare a
 * line, the four write to different banks, and so do the rows beside them. */
#define STAGERS 4
#define SHARE   (W_BLOCK / STAGERS)
#define STRIDE  (MM_TILE + 8)

/* Elements s, s + 4, ... of a block of a row. */
FN void load_share(GLOBAL const uint4 *w, GLOBAL const ushort *scales, int block, int s, float *ret)
{
#if WTYPE == W_F32
    GLOBAL const float *from = (GLOBAL const float *)(w + block * 8);
    UNROLL
    for (int i = 0; i < SHARE; i++) ret[i] = from[i * STAGERS + s];
#elif WTYPE == W_F16
    GLOBAL const ushort *from = (GLOBAL const ushort *)(w + block * 4);
    UNROLL
    for (int i = 0; i < SHARE; i++) ret[i] = load_half(from, (uint)(i * STAGERS + s));
#elif WTYPE == W_Q8_0
    uint4 low = w[block * 2], high = w[block * 2 + 1];
    float d = load_half(scales, (uint)block);
    int shift = 24 - 8 * s;
    ret[0] = d * (float)((int)(low.x << shift) >> 24);
    ret[1] = d * (float)((int)(low.y << shift) >> 24);
    ret[2] = d * (float)((int)(low.z << shift) >> 24);
    ret[3] = d * (float)((int)(low.w << shift) >> 24);
    ret[4] = d * (float)((int)(high.x << shift) >> 24);
    ret[5] = d * (float)((int)(high.y << shift) >> 24);
    ret[6] = d * (float)((int)(high.z << shift) >> 24);
    ret[7] = d * (float)((int)(high.w << shift) >> 24);
#else
    uint4 q = w[block];
#if WTYPE == W_Q4_1
    float d = load_half(scales, (uint)block * 2u), m = load_half(scales, (uint)block * 2u + 1u);
#else
    float d = load_half(scales, (uint)block), m = -8.0f * d;
#endif
    int low = 8 * s, high = low + 4;
    ret[0] = FMA(d, (float)(q.x >> low & 15u), m);
    ret[1] = FMA(d, (float)(q.y >> low & 15u), m);
    ret[2] = FMA(d, (float)(q.z >> low & 15u), m);
    ret[3] = FMA(d, (float)(q.w >> low & 15u), m);
    ret[4] = FMA(d, (float)(q.x >> high & 15u), m);
    ret[5] = FMA(d, (float)(q.y >> high & 15u), m);
    ret[6] = FMA(d, (float)(q.z >> high & 15u), m);
    ret[7] = FMA(d, (float)(q.w >> high & 15u), m);
#endif
}

/* Four rows' sums of one column. */
FN float4 add_product(float4 w, float x, float4 sum)
{
    sum.x = FMA(w.x, x, sum.x);
    sum.y = FMA(w.y, x, sum.y);
    sum.z = FMA(w.z, x, sum.z);
    sum.w = FMA(w.w, x, sum.w);
    return sum;
}

/* Writes output `row` of one column; `at` is where the column's row 0 lies. */
FN void finish(float y, int row, int at, GLOBAL const float *residual, int residual_at,
               GLOBAL float *out)
{
    if (residual_at >= 0) y += residual[residual_at + at + row];
    out[at + row] = y;
}

/* x and residual: [n_cols of the run, n_in] and like out_0; an offset of -1: there is none.
 * Groups: x: tiles of the rows of each weight, in turn; y: tiles of columns. */
KERNEL(WG)
mm(GLOBAL const int *RESTRICT run, int run_index, GLOBAL const float *RESTRICT x, int x_at,
   GLOBAL const float *RESTRICT residual, int residual_at, int n_in, int act,
   GLOBAL const uint4 *RESTRICT w0, int w0_at, int scales0_at, int n_rows0,
   GLOBAL const float *RESTRICT b0, int b0_at, GLOBAL float *out0, int out0_at,
   GLOBAL const uint4 *RESTRICT w1, int w1_at, int scales1_at, int n_rows1,
   GLOBAL const float *RESTRICT b1, int b1_at, GLOBAL float *out1, int out1_at,
   GLOBAL const uint4 *RESTRICT w2, int w2_at, int scales2_at, int n_rows2,
   GLOBAL const float *RESTRICT b2, int b2_at, GLOBAL float *out2, int out2_at)
{
    LOCAL_ARRAY float4 w_tile[W_BLOCK * STRIDE / 4]; /* [W_BLOCK][STRIDE] */
    LOCAL_ARRAY float4 x_tile[W_BLOCK * STRIDE / 4];

    int glu = act != ACT_NONE, n_cols = run[run_index];
    int n_blocks = (n_in + W_BLOCK - 1) / W_BLOCK;
    int tiles0 = (n_rows0 + MM_TILE - 1) / MM_TILE, tiles1 = (n_rows1 + MM_TILE - 1) / MM_TILE;
    int segment = glu || GROUP_X < tiles0 ? 0 : GROUP_X < tiles0 + tiles1 ? 1 : 2;
    int begin = segment == 0 ? 0 : segment == 1 ? tiles0 : tiles0 + tiles1;
    int n_rows = segment == 0 ? n_rows0 : segment == 1 ? n_rows1 : n_rows2;
    int first_row = (GROUP_X - begin) * (glu ? MM_TILE / 2 : MM_TILE);
    int first_col = GROUP_Y * MM_TILE;

    /* What this work-item stages. Rows and columns past the end repeat the last one. */
    int line = (int)((uint)LOCAL_ID / STAGERS), s = (int)((uint)LOCAL_ID % STAGERS);
    int row = first_row + (glu ? line / 2 : line), col = first_col + line;
    int use_up = glu && line % 2 == 1;
    GLOBAL const uint4 *w = use_up || segment == 1 ? w1 : segment == 0 ? w0 : w2;
    int w_at = use_up || segment == 1 ? w1_at : segment == 0 ? w0_at : w2_at;
    int scales_at = use_up || segment == 1 ? scales1_at : segment == 0 ? scales0_at : scales2_at;
    GLOBAL const ushort *scales = (GLOBAL const ushort *)w + scales_at;
    int first_block = (row < n_rows ? row : n_rows - 1) * n_blocks;
    w += w_at;
    x += x_at + (col < n_cols ? col : n_cols - 1) * n_in;

    /* What it computes. */
    int my_rows = (int)((uint)LOCAL_ID % (MM_TILE / 4)),
        my_cols = (int)((uint)LOCAL_ID / (MM_TILE / 4));
    float4 sum[4];
    UNROLL
    for (int c = 0; c < 4; c++) sum[c].x = sum[c].y = sum[c].z = sum[c].w = 0.0f;

    for (int block = 0; block < n_blocks; block++) {
        float w_share[SHARE], x_share[SHARE];
        load_share(w, scales, first_block + block, s, w_share);
        UNROLL
        for (int i = 0; i < SHARE; i++) {
            int k = block * W_BLOCK + i * STAGERS + s;
            x_share[i] = k < n_in ? x[k] : 0.0f;
        }
        BARRIER();
        UNROLL
        for (int i = 0; i < SHARE; i++) {
            int at = (i * STAGERS + s) * STRIDE + line;
            ((LOCAL float *)w_tile)[at] = w_share[i];
            ((LOCAL float *)x_tile)[at] = x_share[i];
        }
        BARRIER();
        for (int k = 0; k < W_BLOCK; k++) {
            float4 wk = w_tile[k * (STRIDE / 4) + my_rows];
            float4 xk = x_tile[k * (STRIDE / 4) + my_cols];
            sum[0] = add_product(wk, xk.x, sum[0]);
            sum[1] = add_product(wk, xk.y, sum[1]);
            sum[2] = add_product(wk, xk.z, sum[2]);
            sum[3] = add_product(wk, xk.w, sum[3]);
        }
    }

    GLOBAL float *out = (segment == 0   ? out0
                         : segment == 1 ? out1
                                        : out2) +
                        (segment == 0   ? out0_at
                         : segment == 1 ? out1_at
                                        : out2_at);
    GLOBAL const float *bias = segment == 0 ? b0 : segment == 1 ? b1 : b2;
    int bias_at = segment == 0 ? b0_at : segment == 1 ? b1_at : b2_at;
    UNROLL
    for (int c = 0; c < 4; c++) {
        float v[4];
        int at = (first_col + my_cols * 4 + c) * n_rows;
        if (first_col + my_cols * 4 + c >= n_cols) continue;
        v[0] = sum[c].x;
        v[1] = sum[c].y;
        v[2] = sum[c].z;
        v[3] = sum[c].w;
        if (glu) {
            UNROLL
            for (int i = 0; i < 2; i++) {
                int r = first_row + my_rows * 2 + i;
                if (r >= n_rows) continue;
                float gate = v[2 * i] + (b0_at >= 0 ? b0[b0_at + r] : 0.0f);
                float up = v[2 * i + 1] + (b1_at >= 0 ? b1[b1_at + r] : 0.0f);
                finish(activate(act, gate) * up, r, at, residual, residual_at, out);
            }
        } else {
            UNROLL
            for (int i = 0; i < 4; i++) {
                int r = first_row + my_rows * 4 + i;
                if (r >= n_rows) continue;
                finish(v[i] + (bias_at >= 0 ? bias[bias_at + r] : 0.0f), r, at, residual,
                       residual_at, out);
            }
        }
    }
}
