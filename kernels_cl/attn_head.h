/* SPDX-License-Identifier: MIT */
/* What attention does to a head of q or k before it looks at the cache: a norm, then RoPE. */
#ifndef SOBRE_ATTN_HEAD_H
#define SOBRE_ATTN_HEAD_H

#include "portable.h"
#include "rope.h"

/* How heads are turned; the numbers are those of sobre_rope_kind. */
#define ATTN_ROPE_NONE   0
#define ATTN_ROPE_PAIRS  1
#define ATTN_ROPE_HALVES 2

/* The dim that is rotated together with dim d < n_dims. */
FN int rope_partner(int kind, int d, int n_dims)
{
    int n_pairs = n_dims / 2;
    if (kind == ATTN_ROPE_PAIRS) return d ^ 1;
    return d < n_pairs ? d + n_pairs : d - n_pairs;
}

/* Dim d of the head at x after norm and RoPE; `scale` is that of the norm, w_at -1: no weight.
 * freqs [n_dims / 2, 2] and factors [n_dims / 2] or missing: see rope.h. */
FN float head_dim_ready(GLOBAL const float *x, uint x_at, int d, float scale, GLOBAL const float *w,
                        int w_at, int rope_kind, int n_dims, int pos, GLOBAL const float *freqs,
                        int freqs_at, GLOBAL const float *factors, int factors_at)
{
    float a = x[x_at + (uint)d] * scale;
    if (w_at >= 0) a *= w[w_at + d];
    if (rope_kind == ATTN_ROPE_NONE || d >= n_dims) return a;
    int e = rope_partner(rope_kind, d, n_dims);
    int first = d < e ? d : e;
    int pair = rope_kind == ATTN_ROPE_PAIRS ? first / 2 : first;
    float b = x[x_at + (uint)e] * scale;
    if (w_at >= 0) b *= w[w_at + e];
    float2 r = rope_angle(pos, freqs[freqs_at + 2 * pair], freqs[freqs_at + 2 * pair + 1],
                          factors_at < 0 ? 1.0f : factors[factors_at + pair]);
    return d < e ? a * r.x - b * r.y : a * r.x + b * r.y;
}

#endif
