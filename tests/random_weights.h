/* SPDX-License-Identifier: MIT */
/* Random numbers, and random weights of every type as they stand in a file. */
#ifndef RANDOM_WEIGHTS_H
#define RANDOM_WEIGHTS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dtype.h"
#include "quant.h"

static const sobre_dtype rig_dtypes[] = {
    SOBRE_F32,   SOBRE_F16,    SOBRE_BF16,   SOBRE_F64,   SOBRE_Q4_0,  SOBRE_Q4_1,  SOBRE_Q5_0,
    SOBRE_Q5_1,  SOBRE_Q8_0,   SOBRE_Q2_K,   SOBRE_Q3_K,  SOBRE_Q4_K,  SOBRE_Q5_K,  SOBRE_Q6_K,
    SOBRE_IQ3_S, SOBRE_IQ4_NL, SOBRE_IQ4_XS, SOBRE_TQ1_0, SOBRE_TQ2_0, SOBRE_MXFP4,
};
enum { RIG_N_DTYPES = sizeof(rig_dtypes) / sizeof(rig_dtypes[0]) };

static inline uint32_t rig_next(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Within -1 .. 1. */
static inline float rig_random(uint32_t *state)
{
    return (float)(int32_t)rig_next(state) / 2147483648.0f;
}

static inline void *rig_alloc(uint64_t size)
{
    void *p = aligned_alloc(64, (size_t)(size + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

static inline uint64_t rig_row_size(sobre_dtype dtype, int64_t n_cols)
{
    uint64_t size = 0;
    assert_true(dtype_row_size(dtype, n_cols, &size));
    return size;
}

static inline void rig_fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = rig_random(&seed);
}

/* Random blocks: any bits whose scales are finite, and not so large that sums overflow or numbers
 * pass f16. */
static inline void rig_random_block(sobre_dtype dtype, uint32_t *seed, uint8_t *block)
{
    const dtype_info *info = dtype_get(dtype);
    const quant_form *form = quant_form_get(dtype);
    for (bool good = false; !good;) {
        int8_t q[256];
        float d[16], m[16] = {0};
        for (int i = 0; i < info->size; i++) block[i] = (uint8_t)(rig_next(seed) >> 11);
        quant_unpack(dtype, block, info->block, q, d, m);
        good = true;
        for (int g = 0; g < info->block / form->group; g++) {
            good = good && fabsf(d[g]) < 1e2f && fabsf(m[g]) < 1e3f;
        }
    }
}

/* [n_rows, n_cols] as in a file. */
static inline uint8_t *rig_weights(sobre_dtype dtype, int64_t n_rows, int64_t n_cols, uint32_t seed)
{
    const dtype_info *info = dtype_get(dtype);
    uint64_t size = rig_row_size(dtype, n_cols) * (uint64_t)n_rows;
    uint8_t *data = rig_alloc(size);
    if (info->is_quant) {
        for (uint64_t at = 0; at < size; at += (uint64_t)info->size) {
            rig_random_block(dtype, &seed, data + at);
        }
        return data;
    }
    for (int64_t i = 0; i < n_rows * n_cols; i++) {
        float x = rig_random(&seed);
        double wide = x;
        if (dtype == SOBRE_F64) {
            memcpy(data + 8 * i, &wide, 8);
        } else {
            assert_true(dtype_encode(dtype, &x, 1, data + info->size * i));
        }
    }
    return data;
}

#endif
