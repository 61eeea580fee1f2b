/* SPDX-License-Identifier: MIT */
/* Element and block types: one table. */
#ifndef SOBRE_DTYPE_H
#define SOBRE_DTYPE_H

#include <sobre/graph.h>
#include <stdbool.h>

typedef struct dtype_info {
    const char *name;    /* "Q4_1"; NULL: no such type */
    const char *retired; /* why a number that GGUF once used is refused; NULL: it is not retired */
    int32_t block;       /* elements a block; 1 for plain types */
    int32_t size;        /* bytes a block */
    bool is_quant;       /* blocks of small integers with scales */
    bool is_float;       /* F32, F16, BF16, F64 */
    const char *known;   /* name of a type that is refused: retired, or not supported (yet) */
} dtype_info;

/* NULL-named entry for unknown numbers; never NULL itself. */
const dtype_info *dtype_get(int64_t dtype);
/* Bytes of a row of n elements; false if n is no multiple of the block, or on overflow. */
bool dtype_row_size(sobre_dtype dtype, int64_t n, uint64_t *ret_size);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* round to nearest even */
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f); /* round to nearest even */

#endif
