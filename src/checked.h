/* SPDX-License-Identifier: MIT */
/* Arithmetic on untrusted sizes: false on overflow, and the result is then not written. */
#ifndef SOBRE_CHECKED_H
#define SOBRE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *ret = r;
    return true;
}

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *ret = r;
    return true;
}

/* Up to the next multiple of `align`, a power of two. */
static inline bool checked_round_up(uint64_t a, uint64_t align, uint64_t *ret)
{
    uint64_t r;
    if (!checked_add(a, align - 1, &r)) return false;
    *ret = r & ~(align - 1);
    return true;
}

static inline bool checked_size(uint64_t a, size_t *ret)
{
    if (a > SIZE_MAX) return false;
    *ret = (size_t)a;
    return true;
}

#endif
