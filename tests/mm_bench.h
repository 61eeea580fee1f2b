/* SPDX-License-Identifier: MIT */
/* Times of products on one thread, beside what the machine multiplies and reads at most. A product
 * and its probe take turns in slices of about a millisecond and the best slice of each counts, so
 * that other programs disturb little. */
#ifndef MM_BENCH_H
#define MM_BENCH_H

#include <time.h>

#include "mm_rig.h"
#include "../bench/peak.h"

static inline double bench_now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- Peaks: operations or bytes a second in billions, of the best instruction set */

enum { BENCH_ROUNDS = 500000 };

static inline double bench_int8_peak(void)
{
    const peak_loops *loops = peak_loops_get(SOBRE_CPU_BEST);
    double start = bench_now();
    loops->int8(BENCH_ROUNDS);
    return loops->int8_ops * BENCH_ROUNDS / (bench_now() - start) / 1e9;
}

static inline double bench_f32_peak(void)
{
    const peak_loops *loops = peak_loops_get(SOBRE_CPU_BEST);
    double start = bench_now();
    loops->f32(BENCH_ROUNDS);
    return loops->f32_ops * BENCH_ROUNDS / (bench_now() - start) / 1e9;
}

/* Data is aligned to 64 bytes. */
static inline double bench_read_peak(const uint8_t *data, size_t size)
{
    const peak_loops *loops = peak_loops_get(SOBRE_CPU_BEST);
    double start = bench_now();
    loops->read(data, size / 512 * 512);
    return (double)size / (bench_now() - start) / 1e9;
}

/* --- Products */

static inline double bench_job(mm_job *job)
{
    atomic_store(&job->next, 0);
    double start = bench_now();
    mm_run(job, 0, 1);
    return bench_now() - start;
}

static inline double best(double a, double b)
{
    return a > b ? a : b;
}

enum { BENCH_COLS = 1536, BENCH_ROWS = 576, BENCH_TOKENS = 128, BENCH_SLICES = 60 };

/* One token over more weights than caches hold: the packed matrix many times, a slice at a time. */
static inline void bench_decode(mm_job job, double *ret_rate, double *ret_peak)
{
    enum { STREAM = 192 << 20, N_SLICES = 48 };
    const mm_weight w = job.w[0];
    const uint64_t matrix_size = w.panel_size * (BENCH_ROWS / MM_PANEL);
    const uint64_t n_copies = STREAM / matrix_size, per_slice = n_copies / N_SLICES;
    const uint64_t slice = per_slice * matrix_size;
    uint8_t *many = rig_alloc(n_copies * matrix_size);
    for (uint64_t i = 0; i < n_copies; i++) {
        memcpy(many + matrix_size * i, w.data, (size_t)matrix_size);
    }
    float *out = rig_alloc(per_slice * BENCH_ROWS * sizeof(float));
    job.w[0].n_rows = (int64_t)per_slice * BENCH_ROWS;
    job.out[0] = out;
    job.n_tokens = 1;
    *ret_rate = *ret_peak = 0;
    for (int i = 0; i < 2 * N_SLICES; i++) { /* a slice and the next: never one just read */
        const uint64_t at = (uint64_t)(i % N_SLICES) * slice;
        if (i % 2 == i / N_SLICES) {
            job.w[0].data = many + at;
            *ret_rate = best(*ret_rate, (double)slice / bench_job(&job) / 1e9);
        } else {
            *ret_peak = best(*ret_peak, bench_read_peak(many + at, (size_t)slice));
        }
    }
    free(many);
    free(out);
}

static inline void bench_type(const mm_kernels *kernels, sobre_dtype dtype, bool exact)
{
    static const mm_prologue as_is = {.norm = {SOBRE_NORM_NONE, 0}};
    const size_t n_x = (size_t)BENCH_TOKENS * BENCH_COLS;
    uint8_t *data = rig_weights(dtype, BENCH_ROWS, BENCH_COLS, 1);
    mm_weight w = rig_pack(dtype, BENCH_ROWS, BENCH_COLS, data);
    const mm_act act = mm_act_for(&w, exact);
    float *x = rig_alloc(n_x * sizeof(float)), *out = rig_alloc(n_x * sizeof(float));
    uint32_t seed = 7;
    for (size_t i = 0; i < n_x; i++) x[i] = rig_random(&seed);
    void *prepared = rig_prepare(kernels, act, &as_is, x, BENCH_COLS, BENCH_TOKENS);
    mm_job job = {.kernels = kernels, .n_tokens = BENCH_TOKENS, .n_weights = 1, .exact = exact};
    job.w[0] = w;
    job.act[0] = prepared;
    job.out[0] = out;

    double peak = 0, prefill = 0, pack = 0, prepare = 0, decode, read_peak;
    for (int i = 0; i < BENCH_SLICES; i++) {
        peak = best(peak, act == MM_ACT_Q8 ? bench_int8_peak() : bench_f32_peak());
        prefill = best(prefill, 2.0 * (double)n_x * BENCH_ROWS / bench_job(&job) / 1e9);
        double start = bench_now();
        mm_act_prepare(kernels, act, &as_is, x, BENCH_COLS, BENCH_TOKENS, 0, BENCH_TOKENS,
                       prepared);
        prepare = best(prepare, (double)n_x / (bench_now() - start) / 1e9);
    }
    for (int i = 0; i < 8; i++) {
        double start = bench_now();
        mm_pack(&rig_host, &w, "w", (uint8_t *)(uintptr_t)w.data, 0, BENCH_ROWS, data);
        pack = best(pack, (double)rig_row_size(dtype, BENCH_COLS) * BENCH_ROWS /
                              (bench_now() - start) / 1e9);
    }
    bench_decode(job, &decode, &read_peak);
    printf("%-5s %-4s  %6.1f of %6.1f GOPS %3.0f %%   %5.1f of %5.1f GB/s %3.0f %%   %5.2f GB/s   "
           "%5.2f G/s\n",
           dtype_get(dtype)->name, act == MM_ACT_Q8 ? "int8" : "f32", prefill, peak,
           100 * prefill / peak, decode, read_peak, 100 * decode / read_peak, pack, prepare);
    fflush(stdout);
    free(x);
    free(out);
    free(prepared);
    free(data);
    free((void *)(uintptr_t)w.data);
}

/* `only`: a type's name, or NULL for all. */
static inline int bench(const char *only)
{
    static const struct {
        sobre_dtype dtype;
        bool exact;
    } cases[] = {{SOBRE_Q4_0, false}, {SOBRE_Q4_1, false}, {SOBRE_Q8_0, false}, {SOBRE_Q4_K, false},
                 {SOBRE_Q6_K, false}, {SOBRE_Q2_K, false}, {SOBRE_F16, false},  {SOBRE_BF16, false},
                 {SOBRE_F32, false},  {SOBRE_Q4_1, true},  {SOBRE_Q8_0, true}};
    const mm_kernels *kernels = mm_kernels_get(SOBRE_CPU_BEST);
    printf("%s, one thread; peaks are those of %s and of plain reads\n"
           "weights act   %d tokens                 one token                pack         "
           "prepare\n",
           cpu_isa_name(kernels->isa), peak_loops_get(SOBRE_CPU_BEST)->int8_name, BENCH_TOKENS);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (only && strcmp(only, dtype_get(cases[i].dtype)->name) != 0) continue;
        bench_type(kernels, cases[i].dtype, cases[i].exact);
    }
    return 0;
}

#endif
