/* SPDX-License-Identifier: MIT */
/* Models of public shapes with random weights, made as they are read: speed and memory at real
 * sizes without a download. What they write is noise; they have no tokenizer. */
#ifndef SOBRE_BENCH_SHAPE_H
#define SOBRE_BENCH_SHAPE_H

#include <stddef.h>
#include <stdint.h>

#include <sobre/sobre.h>

typedef struct shape_model shape_model;

/* Names by index, NULL past the last. */
const char *shape_name(size_t index);
const char *shape_quant_name(size_t index);

/* A GGUF file of this shape and block type. *ret_source reads it, and is valid until
 * shape_model_close(). Same arguments, same bytes. INVALID_ARGUMENT: no such shape or type;
 * OUT_OF_MEMORY. */
sobre_status shape_model_open(const char *shape, const char *quant, shape_model **ret_model,
                              sobre_source *ret_source);
/* Bytes of the embedding where it is not the output too: a token reads one row of them. */
uint64_t shape_model_table_size(const shape_model *model);
void shape_model_close(shape_model *model);

#endif
