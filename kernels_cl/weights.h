/* SPDX-License-Identifier: MIT */
/*
 * How weights lie in a GPU's memory. Shared by the kernels and by backends/gpu/weights.c.
 *
 * A weight [n_rows, n_cols] is one buffer of planes, each row-major over blocks of 32 columns; a
 * row has n_blocks = ceil(n_cols / 32) of them, and what is past n_cols is zero. The plane of
 * quants begins at 0; that of scales at a multiple of 256 bytes behind it, which kernels get as an
 * index of 16-bit units.
 *
 *   W_Q4_0  quants 16 bytes a block: element j < 16 in the low half of byte j, 16 + j in its high
 *           half, as in the file; scale f16 d; w = d * (q - 8)
 *   W_Q4_1  quants the same; scales f16 d, f16 m, in turn; w = d * q + m
 *   W_Q8_0  quants 32 signed bytes; scale f16 d; w = d * q
 *   W_F16   32 f16 a block, no scales
 *   W_F32   32 f32 a block, no scales
 */
#ifndef SOBRE_WEIGHTS_H
#define SOBRE_WEIGHTS_H

#define W_Q4_0    0
#define W_Q4_1    1
#define W_Q8_0    2
#define W_F16     3
#define W_F32     4
#define W_N_TYPES 5

#define W_BLOCK 32

#endif
