/* SPDX-License-Identifier: MIT */
/* What the processor can do, and what it is called. */
#include "cpu.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

typedef struct cpuid_regs {
    unsigned a, b, c, d;
} cpuid_regs;

/* All zero if the processor has no such leaf. */
static cpuid_regs cpuid(unsigned leaf, unsigned subleaf)
{
    cpuid_regs r;
    if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) memset(&r, 0, sizeof r);
    return r;
}

static bool has_all(unsigned reg, unsigned bits)
{
    return (reg & bits) == bits;
}

/* Register sets that the operating system saves: bit 1 SSE, 2 AVX, 5 to 7 AVX-512. */
static unsigned saved_state(void)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool processor_has(sobre_cpu_isa isa)
{
    enum { STATE_AVX = 0x06, STATE_AVX512 = 0xe6, OSXSAVE = 1 << 27 };
    const unsigned fma_f16c_avx = 1u << 12 | 1u << 29 | 1u << 28, avx2 = 1u << 5;
    const unsigned avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31,
                   avx512_vnni = 1u << 11, avx_vnni = 1u << 4;
    cpuid_regs one = cpuid(1, 0), seven = cpuid(7, 0);
    if (!has_all(one.c, OSXSAVE) || !has_all(saved_state(), STATE_AVX)) return false;
    if (!has_all(one.c, fma_f16c_avx) || !has_all(seven.b, avx2)) return false;
    switch (isa) {
    case SOBRE_CPU_AVX2: return true;
    case SOBRE_CPU_AVXVNNI: return has_all(cpuid(7, 1).a, avx_vnni);
    case SOBRE_CPU_AVX512:
        return has_all(saved_state(), STATE_AVX512) && has_all(seven.b, avx512_f_dq_bw_vl) &&
               has_all(seven.c, avx512_vnni);
    default: return false;
    }
}

/* The brand string: 48 bytes in three leaves. */
static void brand(char *name, size_t size)
{
    enum { N_LEAVES = 3 };
    const unsigned first = 0x80000002u;
    char text[N_LEAVES * sizeof(cpuid_regs) + 1] = {0};
    for (unsigned i = 0; i < N_LEAVES; i++) {
        cpuid_regs r = cpuid(first + i, 0);
        memcpy(text + i * sizeof r, &r, sizeof r);
    }
    const char *begin = text + strspn(text, " ");
    size_t n = strlen(begin);
    while (n > 0 && begin[n - 1] == ' ') n--;
    snprintf(name, size, "%.*s", (int)n, begin);
}

#define UNNAMED "x86-64 processor"
#else
static bool processor_has(sobre_cpu_isa isa)
{
    return false;
}

static void brand(char *name, size_t size)
{
    name[0] = 0;
}

#if defined(__aarch64__)
#define UNNAMED "64-bit Arm processor"
#else
#define UNNAMED "processor"
#endif
#endif

/* Best first. */
static const struct {
    sobre_cpu_isa isa;
    const char *name;
} isas[] = {
    {SOBRE_CPU_AVX512, "AVX-512"}, {SOBRE_CPU_AVXVNNI, "AVX-VNNI"}, {SOBRE_CPU_AVX2, "AVX2"},
    {SOBRE_CPU_I8MM, "I8MM"},      {SOBRE_CPU_DOTPROD, "DOTPROD"},  {SOBRE_CPU_SCALAR, "scalar"},
};
enum { N_ISAS = sizeof isas / sizeof *isas };

bool cpu_isa_resolve(sobre_cpu_isa asked, sobre_cpu_isa *ret_isa)
{
    for (int i = 0; i < N_ISAS; i++) {
        if (asked != SOBRE_CPU_BEST && asked != isas[i].isa) continue;
        if (isas[i].isa != SOBRE_CPU_SCALAR && !processor_has(isas[i].isa)) continue;
        *ret_isa = isas[i].isa;
        return true;
    }
    return false;
}

const char *cpu_isa_name(sobre_cpu_isa isa)
{
    for (int i = 0; i < N_ISAS; i++) {
        if (isas[i].isa == isa) return isas[i].name;
    }
    return isa == SOBRE_CPU_BEST ? "best" : "?";
}

void cpu_model_name(char *name, size_t size)
{
    brand(name, size);
    if (!name[0]) snprintf(name, size, "%s", UNNAMED);
}
