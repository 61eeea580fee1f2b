/* SPDX-License-Identifier: MIT */
/* Sizes that gemv.cl, mm.cl and mm_flat.cl share with backends/gpu/mm.c. */
#ifndef SOBRE_GEMV_H
#define SOBRE_GEMV_H

#include "weights.h"

/* Kinds of norm, as in sobre_norm_kind. */
#define NORM_NONE  0
#define NORM_RMS   1
#define NORM_LAYER 2

/* A launch's weights: each brings its own rows, bias and output. */
#define MM_SEGMENTS 3

/* --- gemv: a lane takes a unit of a row at a time, which is one load of 16 bytes. */
#define GEMV_GROUP         128
#define GEMV_GROUPS_A_UNIT 4 /* wanted on a compute unit at once: 16 wavefronts of 32 */
#define GEMV_UNIT(type)    ((type) <= W_Q4_1 ? 32 : (type) == W_Q8_0 ? 16 : (type) == W_F16 ? 8 : 4)
/* Elements of x that are staged at once, times columns: 8 or 16 KiB. Few, so that many groups
 * share a compute unit; enough that every lane has work. */
#define GEMV_TILE(n_cols) ((n_cols) == 1 ? 2048 : (n_cols) == 4 ? 1024 : 512)

/* --- mm: a tile of outputs, rows of weights times columns. */
#define MM_GROUP 256
#define MM_TILE  64

/* --- mm_flat: a work-item makes a row's outputs, one or as many as here. */
#define MM_FLAT_GROUP 64
#define MM_FLAT_COLS  8

#endif
