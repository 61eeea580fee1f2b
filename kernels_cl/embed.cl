/* SPDX-License-Identifier: MIT */
/* Rows of a table of weights by id. WTYPE says how they lie in memory (weights.h). */
#include "portable.h"
#include "rows.h"
#include "weights.h"

/* Element `col` of a row that begins at `block`. */
#if WTYPE == W_Q4_0 || WTYPE == W_Q4_1
FN float element(GLOBAL const uint *w, uint quants, uint scales, uint block, uint col)
{
    GLOBAL const ushort *s = (GLOBAL const ushort *)w + scales;
    uint b = block + col / W_BLOCK;
    uint j = col % W_BLOCK;
    uint word = w[quants + b * 4 + (j % 16) / 4] >> (8 * (j % 4) + (j < 16 ? 0 : 4));
    float q = (float)(int)(word & 15);
#if WTYPE == W_Q4_0
    return load_half(s, b) * (q - 8.0f);
#else
    return load_half(s, 2 * b) * q + load_half(s, 2 * b + 1);
#endif
}
#elif WTYPE == W_Q8_0
FN float element(GLOBAL const uint *w, uint quants, uint scales, uint block, uint col)
{
    GLOBAL const ushort *s = (GLOBAL const ushort *)w + scales;
    uint b = block + col / W_BLOCK;
    uint j = col % W_BLOCK;
    uint word = w[quants + b * 8 + j / 4] << (24 - 8 * (j % 4));
    return load_half(s, b) * (float)((int)word >> 24);
}
#elif WTYPE == W_F16
FN float element(GLOBAL const uint *w, uint quants, uint scales, uint block, uint col)
{
    return load_half((GLOBAL const ushort *)(w + quants), block * W_BLOCK + col);
}
#else
FN float element(GLOBAL const uint *w, uint quants, uint scales, uint block, uint col)
{
    return int_as_float((int)w[quants + block * W_BLOCK + col]);
}
#endif

/* out[t] = table[ids[t]] * factor, a work-item an element. `count`: index in the run table of the
 * number of rows. w_at: of quants, in units of 16 bytes; scales_at: in units of 2. */
KERNEL(ROWS_GROUP)
embed(GLOBAL const int *RESTRICT run, int count, int width, int n_blocks, float factor,
      GLOBAL const int *RESTRICT ids, int ids_at, GLOBAL const uint *RESTRICT w, int w_at,
      int scales_at, GLOBAL float *RESTRICT out, int out_at)
{
    int i = GROUP_X * ROWS_GROUP + LOCAL_ID;
    if (i < run[count] * width) {
        int t = i / width;
        uint block = (uint)ids[ids_at + t] * (uint)n_blocks;
        out[out_at + i] =
            element(w, (uint)w_at * 4u, (uint)scales_at, block, (uint)(i - t * width)) * factor;
    }
}
