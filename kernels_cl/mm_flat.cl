/* SPDX-License-Identifier: MIT */
/*
 * Products on devices whose local memory is no faster than the rest: processors with an OpenCL
 * runtime. What mm.cl computes, with the same arguments, but a work-item has a row (or the gate's
 * and the up projection's) and NC columns to itself: there is nothing to share and nothing to wait
 * for, so a runtime that puts neighbouring work-items into the lanes of a vector keeps the sums in
 * registers and reads x as the same number for all of them.
 */
#define GROUPS_A_UNIT 4
#include "portable.h"
#include "run.h"
#include "weights.h"
#include "act.h"
#include "gemv.h"

#ifndef WTYPE
#define WTYPE W_Q4_0
#endif
#ifndef NC /* columns: 1 or MM_FLAT_COLS */
#define NC MM_FLAT_COLS
#endif
#ifndef WG
#define WG MM_FLAT_GROUP
#endif

#if WTYPE == W_Q4_0 || WTYPE == W_Q4_1
#define SCALES_PER_BLOCK ((uint)(WTYPE == W_Q4_1 ? 2 : 1))
#endif

/* The 32 weights of a block. */
FN void load_block(GLOBAL const uint4 *w, GLOBAL const ushort *scales, int block, float *ret)
{
#if WTYPE == W_F32
    GLOBAL const float *from = (GLOBAL const float *)(w + block * 8);
    UNROLL
    for (int i = 0; i < W_BLOCK; i++) ret[i] = from[i];
#elif WTYPE == W_F16
    GLOBAL const ushort *from = (GLOBAL const ushort *)(w + block * 4);
    UNROLL
    for (int i = 0; i < W_BLOCK; i++) ret[i] = load_half(from, (uint)i);
#elif WTYPE == W_Q8_0
    uint4 low = w[block * 2], high = w[block * 2 + 1];
    float d = load_half(scales, (uint)block);
    UNROLL
    for (int i = 0; i < 4; i++) {
        int shift = 24 - 8 * i;
        ret[i] = d * (float)((int)(low.x << shift) >> 24);
        ret[i + 4] = d * (float)((int)(low.y << shift) >> 24);
        ret[i + 8] = d * (float)((int)(low.z << shift) >> 24);
        ret[i + 12] = d * (float)((int)(low.w << shift) >> 24);
        ret[i + 16] = d * (float)((int)(high.x << shift) >> 24);
        ret[i + 20] = d * (float)((int)(high.y << shift) >> 24);
        ret[i + 24] = d * (float)((int)(high.z << shift) >> 24);
        ret[i + 28] = d * (float)((int)(high.w << shift) >> 24);
    }
#else
    uint4 q = w[block];
    float d = load_half(scales, (uint)block * SCALES_PER_BLOCK);
#if WTYPE == W_Q4_1
    float m = load_half(scales, (uint)block * 2u + 1u);
#else
    float m = -8.0f * d;
#endif
    UNROLL
    for (int i = 0; i < 4; i++) {
        int low = 8 * i, high = low + 4;
        ret[i] = FMA(d, (float)(q.x >> low & 15u), m);
        ret[i + 4] = FMA(d, (float)(q.y >> low & 15u), m);
        ret[i + 8] = FMA(d, (float)(q.z >> low & 15u), m);
        ret[i + 12] = FMA(d, (float)(q.w >> low & 15u), m);
        ret[i + 16] = FMA(d, (float)(q.x >> high & 15u), m);
        ret[i + 20] = FMA(d, (float)(q.y >> high & 15u), m);
        ret[i + 24] = FMA(d, (float)(q.z >> high & 15u), m);
        ret[i + 28] = FMA(d, (float)(q.w >> high & 15u), m);
    }
#endif
}

/* Adds a row times NC columns to `sum`. Not a function, since then runtimes would keep the sums in
 * memory. Past x's end the weights are zero. */
#define ADD_PRODUCTS(sum, quants, scales)                                             \
    for (int block = 0; block < n_blocks; block++) {                                  \
        float v[W_BLOCK];                                                             \
        load_block(quants, scales, first_block + block, v);                           \
        UNROLL                                                                        \
        for (int k = 0; k < W_BLOCK; k++) {                                           \
            int at = block * W_BLOCK + k < n_in ? block * W_BLOCK + k : n_in - 1;     \
            UNROLL                                                                    \
            for (int c = 0; c < NC; c++) sum[c] = FMA(v[k], x[cols[c] + at], sum[c]); \
        }                                                                             \
    }

/* x and residual: [n_cols of the run, n_in] and like out_0; an offset of -1: there is none.
 * Groups: x: WG rows of each weight, in turn; y: NC columns. */
KERNEL(WG)
mm_flat(GLOBAL const int *RESTRICT run, int run_index, GLOBAL const float *RESTRICT x, int x_at,
        GLOBAL const float *RESTRICT residual, int residual_at, int n_in, int act,
        GLOBAL const uint4 *RESTRICT w0, int w0_at, int scales0_at, int n_rows0,
        GLOBAL const float *RESTRICT b0, int b0_at, GLOBAL float *out0, int out0_at,
        GLOBAL const uint4 *RESTRICT w1, int w1_at, int scales1_at, int n_rows1,
        GLOBAL const float *RESTRICT b1, int b1_at, GLOBAL float *out1, int out1_at,
        GLOBAL const uint4 *RESTRICT w2, int w2_at, int scales2_at, int n_rows2,
        GLOBAL const float *RESTRICT b2, int b2_at, GLOBAL float *out2, int out2_at)
{
    int glu = act != ACT_NONE, n_cols = run[run_index], first_col = GROUP_Y * NC;
    int n_blocks = (n_in + W_BLOCK - 1) / W_BLOCK;
    int groups0 = (n_rows0 + WG - 1) / WG, groups1 = (n_rows1 + WG - 1) / WG;
    int segment = glu ? 1 /* up */ : GROUP_X < groups0 ? 0 : GROUP_X < groups0 + groups1 ? 1 : 2;
    int begin = glu || segment == 0 ? 0 : segment == 1 ? groups0 : groups0 + groups1;
    int n_rows = segment == 0 ? n_rows0 : segment == 1 ? n_rows1 : n_rows2;
    GLOBAL const uint4 *w = segment == 0 ? w0 : segment == 1 ? w1 : w2;
    int w_at = segment == 0 ? w0_at : segment == 1 ? w1_at : w2_at;
    int scales_at = segment == 0 ? scales0_at : segment == 1 ? scales1_at : scales2_at;
    GLOBAL const float *bias = segment == 0 ? b0 : segment == 1 ? b1 : b2;
    int bias_at = segment == 0 ? b0_at : segment == 1 ? b1_at : b2_at;
    GLOBAL float *out = glu || segment == 0 ? out0 : segment == 1 ? out1 : out2;
    int out_at = glu || segment == 0 ? out0_at : segment == 1 ? out1_at : out2_at;

    int cols[NC];
    UNROLL
    for (int c = 0; c < NC; c++) /* columns past the end repeat the last one */
        cols[c] = x_at + (first_col + c < n_cols ? first_col + c : n_cols - 1) * n_in;

    int row = (GROUP_X - begin) * WG + LOCAL_ID;
    int first_block = (row < n_rows ? row : n_rows - 1) * n_blocks;
    float sum[NC], gate[NC];
    UNROLL
    for (int c = 0; c < NC; c++) sum[c] = gate[c] = 0.0f;
    ADD_PRODUCTS(sum, w + w_at, (GLOBAL const ushort *)w + scales_at);
    if (glu) ADD_PRODUCTS(gate, w0 + w0_at, (GLOBAL const ushort *)w0 + scales0_at);
    if (row < n_rows) {
        UNROLL
        for (int c = 0; c < NC; c++) {
            int at = (first_col + c) * n_rows + row;
            float y = sum[c];
            if (first_col + c >= n_cols) continue;
            if (bias_at >= 0) y += bias[bias_at + row];
            if (glu) y *= activate(act, gate[c] + (b0_at >= 0 ? b0[b0_at + row] : 0.0f));
            if (residual_at >= 0) y += residual[residual_at + at];
            out[out_at + at] = y;
        }
    }
}
