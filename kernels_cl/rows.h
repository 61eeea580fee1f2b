/* SPDX-License-Identifier: MIT */
/* What backends/gpu/rows.c tells the kernels of embed.cl, rows.cl and rope.cl. */
#ifndef SOBRE_ROWS_H
#define SOBRE_ROWS_H

#define ROWS_GROUP 256 /* work-items a group of all of them */

/* What row_map() makes of its inputs, element by element. */
#define MAP_ADD     0 /* x + y */
#define MAP_MUL     1 /* x * y */
#define MAP_SCALE   2 /* x * factor */
#define MAP_SOFTCAP 3 /* factor * tanh(x / factor) */
#define MAP_ACT     4 /* act(x) */
#define MAP_GLU     5 /* act(x) * y */

#endif
