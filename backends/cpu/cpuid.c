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
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

/* By the kernel's numbers, which not every libc has: arch/arm64/include/uapi/asm/hwcap.h. */
static bool processor_has(sobre_cpu_isa isa)
{
    const bool dotprod = getauxval(AT_HWCAP) >> 20 & 1, i8mm = getauxval(AT_HWCAP2) >> 13 & 1;
    switch (isa) {
    case SOBRE_CPU_DOTPROD: return dotprod;
    case SOBRE_CPU_I8MM: return dotprod && i8mm;
    default: return false;
    }
}

/* Where the kernel lets programs ask (HWCAP_CPUID). */
static unsigned identification(void)
{
    unsigned long id = 0;
    if (getauxval(AT_HWCAP) >> 11 & 1) __asm__("mrs %0, midr_el1" : "=r"(id));
    return (unsigned)id;
}
#else
/* What every processor has that the build is for. */
static bool processor_has(sobre_cpu_isa isa)
{
    switch (isa) {
#if defined(__ARM_FEATURE_DOTPROD)
    case SOBRE_CPU_DOTPROD: return true;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    case SOBRE_CPU_I8MM: return true;
#endif
#endif
    default: return false;
    }
}

static unsigned identification(void)
{
    return 0;
}
#endif

/* The core's that asks; a hybrid processor has others, too. */
static void brand(char *name, size_t size)
{
    static const struct {
        unsigned maker, part;
        const char *name;
    } cores[] = {
        {0x41, 0xd03, "Cortex-A53"},  {0x41, 0xd05, "Cortex-A55"},  {0x41, 0xd08, "Cortex-A72"},
        {0x41, 0xd0b, "Cortex-A76"},  {0x41, 0xd0c, "Neoverse N1"}, {0x41, 0xd40, "Neoverse V1"},
        {0x41, 0xd41, "Cortex-A78"},  {0x41, 0xd44, "Cortex-X1"},   {0x41, 0xd46, "Cortex-A510"},
        {0x41, 0xd47, "Cortex-A710"}, {0x41, 0xd48, "Cortex-X2"},   {0x41, 0xd49, "Neoverse N2"},
        {0x41, 0xd4d, "Cortex-A715"}, {0x41, 0xd4e, "Cortex-X3"},   {0x41, 0xd4f, "Neoverse V2"},
        {0x41, 0xd80, "Cortex-A520"}, {0x41, 0xd81, "Cortex-A720"}, {0x41, 0xd82, "Cortex-X4"},
        {0x41, 0xd84, "Neoverse V3"}, {0x41, 0xd85, "Cortex-X925"}, {0x48, 0xd01, "Kunpeng 920"},
        {0x51, 0x001, "Oryon"},       {0xc0, 0xac3, "AmpereOne"},
    };
    const unsigned id = identification(), maker = id >> 24 & 0xff, part = id >> 4 & 0xfff;
    name[0] = 0;
    for (size_t i = 0; i < sizeof cores / sizeof *cores; i++) {
        if (cores[i].maker == maker && cores[i].part == part) {
            snprintf(name, size, "%s", cores[i].name);
        }
    }
}

#define UNNAMED "64-bit Arm processor"
#else
static bool processor_has(sobre_cpu_isa isa)
{
    return false;
}

static void brand(char *name, size_t size)
{
    name[0] = 0;
}

#define UNNAMED "processor"
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
