/* SPDX-License-Identifier: MIT */
/* Takes the place of backends/cpu/cpuid.c in tests that run the kernels for AVX-512 and AVX-VNNI
 * through SIMDe: any processor with AVX2 then has everything. */
#include <stdio.h>

#include "cpu.h"

bool cpu_isa_resolve(sobre_cpu_isa asked, sobre_cpu_isa *ret_isa)
{
    *ret_isa = asked == SOBRE_CPU_BEST ? SOBRE_CPU_AVX512 : asked;
    return true;
}

const char *cpu_isa_name(sobre_cpu_isa isa)
{
    switch (isa) {
    case SOBRE_CPU_AVX512: return "AVX-512 through SIMDe";
    case SOBRE_CPU_AVXVNNI: return "AVX-VNNI through SIMDe";
    default: return "less than AVX-VNNI";
    }
}

void cpu_model_name(char *name, size_t size)
{
    snprintf(name, size, "SIMDe");
}
