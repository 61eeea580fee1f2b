/* SPDX-License-Identifier: MIT */
/* What a processor does at most, for shares of it: loops of nothing but byte products, f32
 * multiply-adds or reads, in each instruction set that products are written for. */
#ifndef SOBRE_BENCH_PEAK_H
#define SOBRE_BENCH_PEAK_H

#include <stddef.h>
#include <stdint.h>

#include <sobre/sobre.h>

typedef struct peak_loops {
    sobre_cpu_isa isa;
    const char *int8_name, *f32_name; /* the instructions */
    /* n rounds, each of so many operations; a multiplication and an addition are two */
    void (*int8)(int64_t n), (*f32)(int64_t n);
    double int8_ops, f32_ops;
    /* Data aligned to 64 bytes, a multiple of 512 of them. */
    void (*read)(const uint8_t *data, size_t size);
} peak_loops;

/* NULL: the processor lacks the instruction set. */
const peak_loops *peak_loops_get(sobre_cpu_isa isa);

#endif
