/* SPDX-License-Identifier: MIT */
/* What is known of each operation: one table over SOBRE_OPS. */
#ifndef SOBRE_OPS_H
#define SOBRE_OPS_H

#include "context.h"

typedef struct op_info {
    const char *name;
    int32_t max_out;
    const char *const *in_names; /* of the input slots, NULL-terminated */
    /* Checks a node's inputs and parameters and gives its outputs' shapes (dtype, rank, dims of
     * ret[]), or fails. */
    sobre_status (*shape)(sobre_context *ctx, const sobre_value *values, const sobre_node *node,
                          sobre_value *ret, int32_t *ret_n);
    /* Floating-point operations for `cols` columns and `rows` wanted rows, `kv_len` cached
     * positions each. */
    double (*flops)(const sobre_value *values, const sobre_node *node, int64_t cols, int64_t rows,
                    int64_t kv_len);
} op_info;

const op_info *op_get(sobre_op op); /* never NULL for a valid op */
/* "[T, 576]" in `text`, which is returned. */
const char *value_shape(const sobre_value *value, char *text, size_t size);
/* Elements of a value with T and R replaced. */
int64_t value_elements(const sobre_value *value, int64_t cols, int64_t rows);
/* Bytes that a run of the node reads and writes: weights once, activations, cache. */
uint64_t op_bytes(const sobre_value *values, const sobre_node *node, int64_t cols, int64_t rows,
                  int64_t kv_len);

#endif
