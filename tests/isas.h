/* SPDX-License-Identifier: MIT */
/* The instruction sets that there are for this architecture, the scalar one first:
 * X(arg, instruction set, name). */
#ifndef ISAS_H
#define ISAS_H

#include <sobre/sobre.h>

#if defined(__aarch64__)
#define ISAS(X, arg)                     \
    X(arg, SOBRE_CPU_SCALAR, "scalar")   \
    X(arg, SOBRE_CPU_DOTPROD, "DOTPROD") \
    X(arg, SOBRE_CPU_I8MM, "I8MM")
#else
#define ISAS(X, arg)                      \
    X(arg, SOBRE_CPU_SCALAR, "scalar")    \
    X(arg, SOBRE_CPU_AVX2, "AVX2")        \
    X(arg, SOBRE_CPU_AVXVNNI, "AVX-VNNI") \
    X(arg, SOBRE_CPU_AVX512, "AVX-512")
#endif
#define COUNT_ISA(arg, isa, name) +1
#define LIST_ISA(arg, isa, name)  isa,
enum { N_ISAS = 0 ISAS(COUNT_ISA, 0) };

#endif
