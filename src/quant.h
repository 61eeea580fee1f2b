/* SPDX-License-Identifier: MIT */
/* Quantised blocks: the scalar reference, and the one form that all of them share.
 *
 * Every quantised block type is small integers with a scale, and sometimes a minimum, per group of
 * 16 or 32: w = d * q + m, computed in f32 without contraction, is bit-exact to the format's
 * definition. Packers and the reference both start from here, so a new type is one function. */
#ifndef SOBRE_QUANT_H
#define SOBRE_QUANT_H

#include <stdint.h>

#include "dtype.h"

typedef struct quant_form {
    int32_t group; /* elements that share d and m: 16 or 32 */
    bool has_min;  /* m is used; else it is left alone */
    int32_t q_min, q_max;
} quant_form;

/* NULL if dtype is not quantised. */
const quant_form *quant_form_get(sobre_dtype dtype);
/* Unpacks n elements (a multiple of the block) of one row: q [n], d and m [n / group]. */
void quant_unpack(sobre_dtype dtype, const void *blocks, int64_t n, int8_t *q, float *d, float *m);
/* Decodes n elements of any type to f32. */
void dtype_decode(sobre_dtype dtype, const void *data, int64_t n, float *ret);
/* Encodes n f32 to F32, F16, BF16, Q8_0, Q4_0 or Q4_1 (for tests and made models); false for other
 * types. */
bool dtype_encode(sobre_dtype dtype, const float *data, int64_t n, void *ret);

#endif
