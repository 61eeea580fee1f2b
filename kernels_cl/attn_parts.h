/* SPDX-License-Identifier: MIT */
/*
 * What attn_decode leaves where positions are split: for each column, head and split a sum over V
 * that is not divided yet, sums [n_cols, n_head, n_splits, head_dim], and for each column and head
 * the largest scores of the splits, then the sums of their weights, scores [n_cols, n_head, 2,
 * n_splits]. A split without positions has the weight 0 and zeros. n_splits is a multiple of
 * ATTN_SPLITS, so that as many are loaded at a time. backends/gpu/attn.c includes this file for
 * the sizes.
 */
#ifndef SOBRE_ATTN_PARTS_H
#define SOBRE_ATTN_PARTS_H

#define ATTN_SPLITS 4

/* The most that gemv.cl puts together: it keeps a weight for each head and split of a tile of x. */
#define ATTN_MERGED_SPLITS(head_dim) ((head_dim) < 64 ? 4 : 8)

#endif
