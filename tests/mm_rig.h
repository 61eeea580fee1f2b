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
#include "mm_kernels.h"
#include "random_weights.h"

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
