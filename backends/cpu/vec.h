/* SPDX-License-Identifier: MIT */
/* Everything elementwise or along one row, in f32. Each element's arithmetic is the same wherever
 * it stands in the array, so work may be split anywhere and gives the same bits. `ret` may be an
 * input. */
#ifndef SOBRE_CPU_VEC_H
#define SOBRE_CPU_VEC_H

#include <sobre/graph.h>

typedef struct vec_kernels {
    /* RMSNorm or LayerNorm of one row; w and b [n] or NULL. */
    void (*norm)(sobre_norm_params norm, const float *x, const float *w, const float *b, int64_t n,
                 float *ret);
    /* Rotates the first n_dims of each head of one column; table as rope_table() made it. */
    void (*rope)(sobre_rope_kind kind, int32_t n_dims, const float *table, const float *x,
                 int32_t n_head, int32_t head_dim, float *ret);
    void (*add)(const float *a, const float *b, int64_t n, float *ret);
    void (*mul)(const float *a, const float *b, int64_t n, float *ret);
    void (*scale)(const float *x, float factor, int64_t n, float *ret);
    void (*softcap)(const float *x, float cap, int64_t n, float *ret);
    void (*act)(sobre_act act, const float *x, int64_t n, float *ret);
    void (*glu)(sobre_act act, const float *gate, const float *up, int64_t n, float *ret);
    int32_t (*argmax)(const float *x, int64_t n); /* the first of the largest */
} vec_kernels;

/* NULL if this build lacks the instruction set. */
const vec_kernels *vec_kernels_get(sobre_cpu_isa isa);

extern const vec_kernels vec_kernels_scalar;
#if defined(__x86_64__)
extern const vec_kernels vec_kernels_avx2, vec_kernels_avx512;
#elif defined(__aarch64__)
extern const vec_kernels vec_kernels_neon;
#endif

/* Rotation is ret[i] = x[i] * cos[i] + x[partner of i] * sin[i], the minus sign being in sin. */
enum { ROPE_TABLE_ROWS = 2 }; /* cos [n_dims], sin [n_dims] */

/* Fills the table of one position. `frequency` [n_dims / 2] from rope_frequencies(); `factors`
 * [n_dims / 2] or NULL. */
void rope_table(sobre_rope_kind kind, int32_t n_dims, const double *frequency, const float *factors,
                int32_t pos, float *ret_table);
void rope_frequencies(const sobre_rope_params *rope, double *ret_frequency);

#endif
