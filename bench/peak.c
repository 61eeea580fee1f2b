/* SPDX-License-Identifier: MIT */
#include "peak.h"

#include "cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTER "x"
#elif defined(__aarch64__)
#include <arm_neon.h>
#define REGISTER "w"
#else
#define REGISTER "m"
#endif

/* So many sums that none waits for another, and that registers hold them; by name, since compilers
 * keep arrays in memory. */
/* clang-format off */
#define EACH_SUM(X, arg)                                      \
    X(s0, arg) X(s1, arg) X(s2, arg) X(s3, arg) X(s4, arg)    \
    X(s5, arg) X(s6, arg) X(s7, arg) X(s8, arg) X(s9, arg)    \
    X(s10, arg) X(s11, arg)
/* clang-format on */
enum { N_SUMS = 12, N_READ_SUMS = 8 };

#define DECLARE(s, type) type s = {0};
#define USE(s, unused)   __asm__ volatile("" : : REGISTER(s));
#define STEP(s, step)                           \
    {                                           \
        __asm__ volatile("" : "+" REGISTER(x)); \
        sum = s;                                \
        s = step;                               \
    }

/* `step` adds products of x to `sum`. The empty statements have the compiler believe that x changes
 * each time, and that the sums are used. */
#define LOOP(function, target, sum_type, x_type, first, step) \
    target static void function(int64_t n)                    \
    {                                                         \
        EACH_SUM(DECLARE, sum_type)                           \
        sum_type sum;                                         \
        x_type x = first;                                     \
        for (int64_t k = 0; k < n; k++) {                     \
            EACH_SUM(STEP, step)                              \
        }                                                     \
        EACH_SUM(USE, )                                       \
    }

#define READ(function, target, vector_bytes)                                              \
    target static void function(const uint8_t *data, size_t size)                         \
    {                                                                                     \
        typedef uint64_t words __attribute__((vector_size(vector_bytes), may_alias));     \
        const words *from = (const words *)(const void *)data;                            \
        words sums[N_READ_SUMS] = {{0}};                                                  \
        for (size_t n = size / sizeof sums; n > 0; n--, from += N_READ_SUMS)              \
            for (int i = 0; i < N_READ_SUMS; i++) sums[i] += from[i];                     \
        for (int i = 0; i < N_READ_SUMS; i++) __asm__ volatile("" : : REGISTER(sums[i])); \
    }

#define TARGET(features) __attribute__((target(features)))
#define TINY             1e-9f /* its squares never add up to infinity */

#if defined(__x86_64__)
#define AVX2    TARGET("avx2,fma")
#define AVXVNNI TARGET("avx2,fma,avxvnni")
#define AVX512  TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
LOOP(int8_avx2, AVX2, __m256i, __m256i, _mm256_set1_epi8(3),
     _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, x)))
LOOP(int8_avxvnni, AVXVNNI, __m256i, __m256i, _mm256_set1_epi8(3),
     _mm256_dpbusd_avx_epi32(sum, x, x))
LOOP(int8_avx512, AVX512, __m512i, __m512i, _mm512_set1_epi8(3), _mm512_dpbusd_epi32(sum, x, x))
LOOP(f32_avx2, AVX2, __m256, __m256, _mm256_set1_ps(TINY), _mm256_fmadd_ps(x, x, sum))
LOOP(f32_avx512, AVX512, __m512, __m512, _mm512_set1_ps(TINY), _mm512_fmadd_ps(x, x, sum))
READ(read_avx2, AVX2, 32)
READ(read_avx512, AVX512, 64)
#elif defined(__aarch64__)
#define DOTPROD TARGET("arch=armv8.2-a+dotprod")
#define I8MM    TARGET("arch=armv8.2-a+dotprod+i8mm")
LOOP(int8_dotprod, DOTPROD, int32x4_t, int8x16_t, vdupq_n_s8(3), vdotq_s32(sum, x, x))
LOOP(int8_i8mm, I8MM, int32x4_t, int8x16_t, vdupq_n_s8(3), vmmlaq_s32(sum, x, x))
LOOP(f32_neon, , float32x4_t, float32x4_t, vdupq_n_f32(TINY), vfmaq_f32(sum, x, x))
#endif

/* What a compiler makes of vectors of 16 bytes. */
typedef int16_t int16_lanes __attribute__((vector_size(16)));
typedef float f32_lanes __attribute__((vector_size(16)));
LOOP(int8_plain, , int16_lanes, int16_lanes, (int16_lanes){0} + 3, sum + x * x)
LOOP(f32_plain, , f32_lanes, f32_lanes, (f32_lanes){0} + TINY, sum + x * x)
READ(read_plain, , 16)

static const peak_loops all[] = {
#if defined(__x86_64__)
    {SOBRE_CPU_AVX512, "vpdpbusd of 512 bits", "vfmadd of 512 bits", int8_avx512, f32_avx512,
     N_SUMS * 128, N_SUMS * 32, read_avx512},
    {SOBRE_CPU_AVXVNNI, "vpdpbusd of 256 bits", "vfmadd of 256 bits", int8_avxvnni, f32_avx2,
     N_SUMS * 64, N_SUMS * 16, read_avx2},
    {SOBRE_CPU_AVX2, "vpmaddubsw + vpaddw of 256 bits", "vfmadd of 256 bits", int8_avx2, f32_avx2,
     N_SUMS * 64, N_SUMS * 16, read_avx2},
#elif defined(__aarch64__)
    {SOBRE_CPU_I8MM, "smmla", "fmla of 128 bits", int8_i8mm, f32_neon, N_SUMS * 64, N_SUMS * 8,
     read_plain},
    {SOBRE_CPU_DOTPROD, "sdot", "fmla of 128 bits", int8_dotprod, f32_neon, N_SUMS * 32, N_SUMS * 8,
     read_plain},
#endif
    {SOBRE_CPU_SCALAR, "16-bit products and sums in vectors of 128 bits",
     "products and sums in vectors of 128 bits", int8_plain, f32_plain, N_SUMS * 16, N_SUMS * 8,
     read_plain},
};

const peak_loops *peak_loops_get(sobre_cpu_isa isa)
{
    sobre_cpu_isa found;

    if (!cpu_isa_resolve(isa, &found)) return NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].isa == found) return &all[i];
    return NULL;
}
