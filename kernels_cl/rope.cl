/* SPDX-License-Identifier: MIT */
/* Rotary positions of rows of heads. */
#include "portable.h"
#include "rope.h"
#include "rows.h"

/*
 * A work-item takes two elements of a head: a rotated pair, of which there are n_dims / 2, or what
 * follows and stays as it is. x, out [T, n_head * head_dim]; pos [T]; factors [n_dims / 2] or
 * missing. A pair is (2i, 2i + 1), or with `halves` (i, i + n_dims / 2).
 */
KERNEL(ROWS_GROUP)
rope(GLOBAL const int *RESTRICT run, int count, int n_head, int head_dim, int n_dims, int halves,
     GLOBAL const float *RESTRICT freqs, int freqs_at, GLOBAL const float *RESTRICT factors,
     int factors_at, GLOBAL const int *RESTRICT pos, int pos_at, GLOBAL const float *RESTRICT x,
     int x_at, GLOBAL float *RESTRICT out, int out_at)
{
    int per_head = (head_dim + 1) / 2;
    int i = GROUP_X * ROWS_GROUP + LOCAL_ID;
    int head = i / per_head; /* of all columns */
    int pair = i - head * per_head;
    int n_pairs = n_dims / 2;
    if (head < run[count] * n_head) {
        int from = x_at + head * head_dim;
        int to = out_at + head * head_dim;
        if (pair < n_pairs) {
            float2 r = rope_angle(pos[pos_at + head / n_head], freqs[freqs_at + 2 * pair],
                                  freqs[freqs_at + 2 * pair + 1],
                                  factors_at < 0 ? 1.0f : factors[factors_at + pair]);
            int first = halves ? pair : 2 * pair;
            int second = halves ? pair + n_pairs : first + 1;
            float a = x[from + first];
            float b = x[from + second];
            out[to + first] = a * r.x - b * r.y;
            out[to + second] = b * r.x + a * r.y;
        } else {
            out[to + 2 * pair] = x[from + 2 * pair];
            if (2 * pair + 1 < head_dim) out[to + 2 * pair + 1] = x[from + 2 * pair + 1];
        }
    }
}
