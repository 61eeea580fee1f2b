/* SPDX-License-Identifier: MIT */
/*
 * Operations on rows of activations. Kernels with a work-item an element get the index of their
 * number of rows in the run table (`count`) and the elements of a row (`width`).
 */
#include "act.h"
#include "portable.h"
#include "rows.h"

/* out[i] = op(x[i], y[i]); y may be one row for all. */
KERNEL(ROWS_GROUP)
row_map(GLOBAL const int *RESTRICT run, int count, int width, int op, int act, float factor,
        GLOBAL const float *RESTRICT x, int x_at, GLOBAL const float *RESTRICT y, int y_at,
        int y_is_row, GLOBAL float *RESTRICT out, int out_at)
{
    int i = GROUP_X * ROWS_GROUP + LOCAL_ID;
    if (i < run[count] * width) {
        float a = x[x_at + i];
        float b = y_at < 0 ? 0.0f : y[y_at + (y_is_row ? i % width : i)];
        float r;
        if (op == MAP_ADD)
            r = a + b;
        else if (op == MAP_MUL)
            r = a * b;
        else if (op == MAP_SCALE)
            r = a * factor;
        else if (op == MAP_SOFTCAP)
            r = factor * TANH(a / factor);
        else if (op == MAP_ACT)
            r = activate(act, a);
        else
            r = activate(act, a) * b;
        out[out_at + i] = r;
    }
}

/* out[r] = x[rows[r]]. */
KERNEL(ROWS_GROUP)
row_gather(GLOBAL const int *RESTRICT run, int count, int width, GLOBAL const float *RESTRICT x,
           int x_at, GLOBAL const int *RESTRICT rows, int rows_at, GLOBAL float *RESTRICT out,
           int out_at)
{
    int i = GROUP_X * ROWS_GROUP + LOCAL_ID;
    if (i < run[count] * width) {
        int r = i / width;
        out[out_at + i] = x[x_at + rows[rows_at + r] * width + (i - r * width)];
    }
}

/* The sum over a group, for all of its work-items. */
FN float group_sum(float v, LOCAL float *sums)
{
    int id = LOCAL_ID;
    int n;
    sums[id] = v;
    BARRIER();
    for (n = ROWS_GROUP / 2; n > 0; n /= 2) {
        if (id < n) sums[id] += sums[id + n];
        BARRIER();
    }
    v = sums[0];
    BARRIER();
    return v;
}

/* RMSNorm, or with `centre` LayerNorm, of the n elements that a group has. */
KERNEL(ROWS_GROUP)
row_norm(int n, int centre, float eps, GLOBAL const float *RESTRICT x, int x_at,
         GLOBAL const float *RESTRICT w, int w_at, GLOBAL const float *RESTRICT bias, int bias_at,
         GLOBAL float *RESTRICT out, int out_at)
{
    LOCAL_ARRAY float sums[ROWS_GROUP];
    int from = x_at + GROUP_X * n;
    int to = out_at + GROUP_X * n;
    float mean = 0.0f;
    float squares = 0.0f;
    float inverse;
    int i;
    if (centre) {
        for (i = LOCAL_ID; i < n; i += ROWS_GROUP) mean += x[from + i];
        mean = group_sum(mean, sums) / (float)n;
    }
    for (i = LOCAL_ID; i < n; i += ROWS_GROUP) {
        float d = x[from + i] - mean;
        squares = FMA(d, d, squares);
    }
    inverse = RSQRT(group_sum(squares, sums) / (float)n + eps);
    for (i = LOCAL_ID; i < n; i += ROWS_GROUP) {
        float v = (x[from + i] - mean) * inverse;
        if (w_at >= 0) v *= w[w_at + i];
        if (bias_at >= 0) v += bias[bias_at + i];
        out[to + i] = v;
    }
}

/* The index of the largest of a group's n elements; the first one if there are several. */
KERNEL(ROWS_GROUP)
row_argmax(int n, GLOBAL const float *RESTRICT x, int x_at, GLOBAL int *RESTRICT out, int out_at)
{
    LOCAL_ARRAY float values[ROWS_GROUP];
    LOCAL_ARRAY int indices[ROWS_GROUP];
    int id = LOCAL_ID;
    int from = x_at + GROUP_X * n;
    float best = LOWEST;
    int at = 0;
    int i;
    for (i = id; i < n; i += ROWS_GROUP) {
        float v = x[from + i];
        if (v > best) {
            best = v;
            at = i;
        }
    }
    values[id] = best;
    indices[id] = at;
    BARRIER();
    for (i = ROWS_GROUP / 2; i > 0; i /= 2) {
        if (id < i) {
            float v = values[id + i];
            int k = indices[id + i];
            if (v > values[id] || (v == values[id] && k < indices[id])) {
                values[id] = v;
                indices[id] = k;
            }
        }
        BARRIER();
    }
    if (id == 0) out[out_at + GROUP_X] = indices[0];
}
