/* SPDX-License-Identifier: MIT */
/* Quantised blocks: the scalar reference, and the one form that all of them share.
 *
 * Every quantised block type is small integers with a scale, and sometimes a minimum, per group of
 * 16 or 32: w = d * q + m, computed in f32 without contraction, is bit-exact to the format's
 * definition. In super blocks d and m are made of a scale each for the whole block and a small
 * integer, the code, per group. Packers and the reference both start from here, so a new type is
 * one function. */
#ifndef SOBRE_QUANT_H
#define SOBRE_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "dtype.h"

typedef struct quant_form {
    int32_t group; /* elements that share d and m: 16 or 32 */
    bool has_min;  /* m is used; else it is left alone */
    int32_t q_min, q_max;
    /* What the parts below mean: */
    int32_t bias;         /* q = u - bias */
    const int8_t *levels; /* [16]: then q = levels[u] */
    bool has_codes;       /* d times the group's code; m times its minimum */
    bool wide_scale;      /* d is bfloat16, not f16 */
} quant_form;

enum { QUANT_MAX_BLOCK = 256, QUANT_MAX_GROUPS = 16 };

/* One block, apart. */
typedef struct quant_parts {
    uint8_t u[QUANT_MAX_BLOCK];
    uint16_t d, m; /* m has the sign that it is added with */
    int8_t codes[QUANT_MAX_GROUPS];
    uint8_t minima[QUANT_MAX_GROUPS];
} quant_parts;

/* NULL if dtype is not quantised. */
const quant_form *quant_form_get(sobre_dtype dtype);
/* Takes one block apart; what its type lacks is left alone. */
void quant_split(sobre_dtype dtype, const void *block, quant_parts *ret);
/* Unpacks n elements (a multiple of the block) of one row: q [n], d and m [n / group]. */
void quant_unpack(sobre_dtype dtype, const void *blocks, int64_t n, int8_t *q, float *d, float *m);
/* Decodes n elements of any type to f32. */
void dtype_decode(sobre_dtype dtype, const void *data, int64_t n, float *ret);
/* Encodes n f32 to F32, F16, BF16, Q8_0, Q4_0 or Q4_1 (for tests and made models); false for other
 * types. */
bool dtype_encode(sobre_dtype dtype, const float *data, int64_t n, void *ret);

#endif
