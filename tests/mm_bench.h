/* SPDX-License-Identifier: MIT */
/* Times of products on one thread: bytes a second for one token and operations a second for many,
 * beside what the machine reads and multiplies at most, probed around each. */
#ifndef MM_BENCH_H
#define MM_BENCH_H

#include <time.h>

#include "mm_rig.h"

static inline double bench_now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* GB/s of plain reads of a buffer. */
static inline double bench_read_peak(const uint64_t *data, size_t size)
{
    uint64_t sums[8] = {0};
    double start = bench_now();
    for (size_t i = 0; i + 8 <= size / 8; i += 8) {
        for (int j = 0; j < 8; j++) sums[j] += data[i + (size_t)j];
    }
    double seconds = bench_now() - start;
    volatile uint64_t sink =
        sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    (void)sink;
    return (double)size / seconds / 1e9;
}

/* Best of a few runs of a job, in seconds. */
static inline double bench_job(mm_job *job, int n_runs)
{
    double best = 1e30;
    for (int i = 0; i < n_runs; i++) {
        atomic_store(&job->next, 0);
        double start = bench_now();
        mm_run(job, 0, 1);
        double seconds = bench_now() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* GOPS of byte products and 16-bit sums that depend on nothing but themselves; and of f32 FMA. */
__attribute__((target("avx2"))) static inline double bench_int8_peak(void)
{
    enum { N = 20000000 };
    __m256i sum[8], w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5);
    for (int i = 0; i < 8; i++) sum[i] = _mm256_setzero_si256();
    double start = bench_now();
    for (int n = 0; n < N / 8; n++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(w));
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, x));
        }
    }
    double seconds = bench_now() - start;
    for (int i = 0; i < 8; i++) __asm__ volatile("" : : "x"(sum[i]));
    return 64.0 * N / seconds / 1e9;
}

__attribute__((target("avx2,fma"))) static inline double bench_f32_peak(void)
{
    enum { N = 20000000 };
    __m256 sum[10], w = _mm256_set1_ps(1e-9f);
    for (int i = 0; i < 10; i++) sum[i] = _mm256_setzero_ps();
    double start = bench_now();
    for (int n = 0; n < N / 10; n++) {
        for (int i = 0; i < 10; i++) {
            __asm__ volatile("" : "+x"(w));
            sum[i] = _mm256_fmadd_ps(w, w, sum[i]);
        }
    }
    double seconds = bench_now() - start;
    for (int i = 0; i < 10; i++) __asm__ volatile("" : : "x"(sum[i]));
    return 16.0 * N / seconds / 1e9;
}
#else
static inline double bench_int8_peak(void)
{
    return NAN;
}
static inline double bench_f32_peak(void)
{
    return NAN;
}
#endif

/* One type: rows x cols weights, decode over memory larger than caches, prefill over 512 tokens. */
static inline void bench_type(const mm_kernels *kernels, sobre_dtype dtype, bool exact)
{
    enum { COLS = 1536, ROWS = 576, TOKENS = 512, STREAM = 96 << 20 };
    static const mm_prologue as_is = {.norm = {SOBRE_NORM_NONE, 0}};
    uint8_t *data = rig_weights(dtype, ROWS, COLS, 1);
    mm_weight w = rig_pack(dtype, ROWS, COLS, data);
    const uint64_t file_size = rig_row_size(dtype, COLS) * ROWS;
    double start = bench_now();
    for (int i = 0; i < 10; i++) {
        mm_pack(&rig_host, &w, "w", (uint8_t *)(uintptr_t)w.data, 0, ROWS, data);
    }
    const double pack = 10 * (double)file_size / (bench_now() - start) / 1e9;

    const mm_act act = mm_act_for(&w, exact);
    float *x = rig_alloc(TOKENS * COLS * sizeof(float));
    uint32_t seed = 7;
    for (int i = 0; i < TOKENS * COLS; i++) x[i] = rig_random(&seed);
    void *prepared = rig_prepare(kernels, act, &as_is, x, COLS, TOKENS);
    start = bench_now();
    mm_act_prepare(kernels, act, &as_is, x, COLS, TOKENS, 0, TOKENS, prepared);
    const double prepare = TOKENS * COLS / (bench_now() - start) / 1e9;

    float *out = rig_alloc(TOKENS * ROWS * sizeof(float));
    mm_job job = {.kernels = kernels, .n_tokens = TOKENS, .n_weights = 1, .exact = exact};
    job.w[0] = w;
    job.act[0] = prepared;
    job.out[0] = out;
    const double peak = act == MM_ACT_Q8 ? bench_int8_peak() : bench_f32_peak();
    const double prefill = 2.0 * TOKENS * COLS * ROWS / bench_job(&job, 5) / 1e9;

    /* The same panels many times over. */
    const int64_t n_copies = STREAM / (int64_t)(w.panel_size * (ROWS / MM_PANEL));
    const uint64_t size = w.panel_size * (ROWS / MM_PANEL) * (uint64_t)n_copies;
    uint8_t *many = rig_alloc(size);
    for (int64_t i = 0; i < n_copies; i++) {
        memcpy(many + size / (uint64_t)n_copies * (uint64_t)i, w.data,
               (size_t)(size / (uint64_t)n_copies));
    }
    float *out_many = rig_alloc((uint64_t)(ROWS * n_copies) * sizeof(float));
    job.w[0].data = many;
    job.w[0].n_rows = ROWS * n_copies;
    job.out[0] = out_many;
    job.n_tokens = 1;
    double read_peak = 0;
    for (int i = 0; i < 3; i++) {
        double peak_now = bench_read_peak((const uint64_t *)many, size);
        if (peak_now > read_peak) read_peak = peak_now;
    }
    const double decode = (double)size / bench_job(&job, 3) / 1e9;
    printf(
        "%-8s %-5s %7.1f of %6.1f GOPS %3.0f %%   %5.1f of %5.1f GB/s %3.0f %%   pack %5.2f GB/s  "
        "prepare %5.2f G/s\n",
        dtype_get(dtype)->name, act == MM_ACT_Q8 ? "int8" : "f32", prefill, peak,
        100 * prefill / peak, decode, read_peak, 100 * decode / read_peak, pack, prepare);
    fflush(stdout);
    free(many);
    free(out_many);
    free(out);
    free(prepared);
    free(x);
    free(data);
    free((void *)(uintptr_t)w.data);
}

static inline int bench(void)
{
    static const struct {
        sobre_dtype dtype;
        bool exact;
    } cases[] = {{SOBRE_Q4_0, false}, {SOBRE_Q4_1, false}, {SOBRE_Q8_0, false}, {SOBRE_Q4_K, false},
                 {SOBRE_Q6_K, false}, {SOBRE_Q2_K, false}, {SOBRE_F16, false},  {SOBRE_BF16, false},
                 {SOBRE_F32, false},  {SOBRE_Q4_1, true},  {SOBRE_Q8_0, true}};
    const mm_kernels *kernels = mm_kernels_get(SOBRE_CPU_BEST);
    printf("%s, one thread; prefill of 512 tokens beside the multiplier's peak (AVX2), decode "
           "beside plain reads\n",
           cpu_isa_name(kernels->isa));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bench_type(kernels, cases[i].dtype, cases[i].exact);
    }
    return 0;
}

#endif
