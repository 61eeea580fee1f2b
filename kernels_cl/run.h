/* SPDX-License-Identifier: MIT */
/* The run table: what changes from one run of a program to the next, as 32-bit integers in the
 * device's memory. Written by backends/gpu/exec.c in one piece, read by kernels. It is packed, so
 * its head says where each part begins. */
#ifndef SOBRE_RUN_H
#define SOBRE_RUN_H

/* The head. */
#define RUN_N_COLS    0 /* columns (tokens) */
#define RUN_N_ROWS    1 /* rows whose logits are wanted */
#define RUN_N_SEQS    2
#define RUN_N_TILES   3
#define RUN_SEQ_AT    4 /* index of the first sequence */
#define RUN_COL_AT    5 /* of the columns */
#define RUN_TILE_AT   6 /* of the tiles */
#define RUN_PAGE_AT   7 /* of the page ids */
#define RUN_HEAD_SIZE 8

/* A sequence. */
#define RUN_SEQ_COL    0 /* its first column */
#define RUN_SEQ_N_COLS 1 /* how many it has */
#define RUN_SEQ_POS    2 /* position of the first one: what the cache held before */
#define RUN_SEQ_PAGES  3 /* index of its first page id, from the begin of all page ids */
#define RUN_SEQ_SIZE   4

/* A column: its sequence, one integer. Its position is pos + (column - col) of that sequence. */

/* A tile of attention: up to RUN_TILE_COLS columns of one sequence. */
#define RUN_TILE_SEQ   0
#define RUN_TILE_FIRST 1 /* its first column, counted within the sequence */
#define RUN_TILE_SIZE  2
#define RUN_TILE_COLS  16

#define RUN_PAGE 64 /* positions a page of the cache */

#endif
