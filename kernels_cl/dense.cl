/* SPDX-License-Identifier: MIT */
/* What stands around a library's products of floats: f16 weights become f32 before, biases, the
 * GLU and the residual come after. */
#include "portable.h"
#include "act.h"

#ifndef WG
#define WG 256
#endif

/* n times four f16 as f32; a work-item takes four. */
KERNEL(WG)
dense_widen(GLOBAL const uint4 *RESTRICT w, int w_at, GLOBAL float *RESTRICT out, int out_at, int n)
{
    GLOBAL const ushort *from = (GLOBAL const ushort *)(w + w_at);
    GLOBAL float4 *to = (GLOBAL float4 *)(out + out_at);
    int i = GROUP_X * WG + LOCAL_ID;
    if (i < n) to[i] = load_half4(from, (uint)i);
}

/* y [n_cols of the run, n_rows], in place: act(y + b0) * (up + b1), or y + b0 where there is no
 * `act`; + residual. up and residual are like y; an offset of -1: there is none.
 * Groups: x: rows by WG; y: columns. */
KERNEL(WG)
dense_finish(GLOBAL float *y, int y_at, GLOBAL const float *RESTRICT up, int up_at,
             GLOBAL const float *RESTRICT b0, int b0_at, GLOBAL const float *RESTRICT b1, int b1_at,
             GLOBAL const float *RESTRICT residual, int residual_at, int n_rows, int act)
{
    int row = GROUP_X * WG + LOCAL_ID;
    if (row < n_rows) {
        int i = GROUP_Y * n_rows + row;
        float v = y[y_at + i];
        if (b0_at >= 0) v += b0[b0_at + row];
        if (act != ACT_NONE) {
            float u = up[up_at + i];
            if (b1_at >= 0) u += b1[b1_at + row];
            v = activate(act, v) * u;
        }
        if (residual_at >= 0) v += residual[residual_at + i];
        y[y_at + i] = v;
    }
}
