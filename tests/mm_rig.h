/* SPDX-License-Identifier: MIT */
/* What tests and timings of matrix products share: a host that keeps the last message, random
 * weights of every type, and packing. */
#ifndef MM_RIG_H
#define MM_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu.h"
#include "dtype.h"
#include "mm_kernels.h"
#include "quant.h"

static char rig_message[512];

static inline sobre_status rig_fail(sobre_context *context, sobre_status status, const char *format,
                                    ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(rig_message, sizeof(rig_message), format, args);
    va_end(args);
    return status;
}

static const sobre_host rig_host = {.struct_size = sizeof(sobre_host), .fail = rig_fail};

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

/* Random blocks: any bits whose scales are finite and not so large that sums overflow. */
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
            good = good && fabsf(d[g]) < 1e3f && fabsf(m[g]) < 1e4f;
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

/* Packed; w->data is to be freed. */
static inline mm_weight rig_pack(sobre_dtype dtype, int64_t n_rows, int64_t n_cols,
                                 const uint8_t *data)
{
    mm_weight w;
    uint64_t size;
    sobre_weight desc = {"w", dtype, SOBRE_WEIGHT_MATMUL, n_rows, n_cols};
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_OK);
    uint8_t *packed = rig_alloc(size);
    memset(packed, 0xff, (size_t)size);
    /* In two calls, the second first. */
    int64_t half = n_rows / 2 / MM_PANEL * MM_PANEL;
    const uint8_t *second = data + (uint64_t)half * rig_row_size(dtype, n_cols);
    assert_int_equal(mm_pack(&rig_host, &w, "w", packed, half, n_rows - half, second), SOBRE_OK);
    assert_int_equal(mm_pack(&rig_host, &w, "w", packed, 0, half, data), SOBRE_OK);
    w.data = packed;
    return w;
}

static inline void *rig_prepare(const mm_kernels *kernels, mm_act act, const mm_prologue *prologue,
                                const float *x, int64_t k, int32_t n_tokens)
{
    void *prepared = rig_alloc(mm_act_size(act, k, n_tokens));
    memset(prepared, 0xff, (size_t)mm_act_size(act, k, n_tokens));
    mm_act_prepare(kernels, act, prologue, x, k, n_tokens, n_tokens / 2, n_tokens, prepared);
    mm_act_prepare(kernels, act, prologue, x, k, n_tokens, 0, n_tokens / 2, prepared);
    return prepared;
}

#endif
