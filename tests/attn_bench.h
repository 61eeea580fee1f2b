/* SPDX-License-Identifier: MIT */
/* Times of attention beside what the machine multiplies and reads at most. Attention and its probe
 * take turns in slices of about a millisecond and the best of each slice counts, so that other
 * programs disturb little. */
#ifndef ATTN_BENCH_H
#define ATTN_BENCH_H

#include "attn.h"
#include "mm_bench.h"
#include "support.h"

enum {
    ATTN_BENCH_TOKENS = 512,
    ATTN_BENCH_CHUNK = 32,        /* of a prompt */
    ATTN_BENCH_CONTEXT = 4096,    /* of each sequence that is decoded */
    ATTN_BENCH_CACHE = 128 << 20, /* more than caches hold */
    ATTN_BENCH_SLICES = 40,
};

typedef struct attn_bench {
    const char *name;
    int32_t n_head, n_head_kv, head_dim;
} attn_bench;

typedef struct attn_bench_run {
    attn_job *job;
    const sobre_run *run;
    pool *threads;
} attn_bench_run;

static void attn_bench_thread(void *arg, int32_t thread, int32_t n_threads)
{
    attn_bench_run *r = arg;
    attn_run(r->job, r->run, r->threads, thread, n_threads);
}

static void attn_bench_append(void *arg, int32_t thread, int32_t n_threads)
{
    attn_bench_run *r = arg;
    attn_append(r->job, r->run, thread, n_threads);
}

static double attn_bench_seconds(attn_bench_run *r, pool_job what)
{
    atomic_store(&r->job->next, 0);
    double start = bench_now();
    assert_int_equal(pool_run(r->threads, what, r), SOBRE_OK);
    return bench_now() - start;
}

/* One layer: a prompt, then one token at the end of each of many long sequences in turn. */
static void attn_bench_case(const attn_bench *c, sobre_kv_type type, sobre_cpu_isa isa,
                            pool *threads, const char *type_name)
{
    const int32_t n_threads = pool_n_threads(threads);
    attn_job job = {
        .kernels = attn_kernels_get(isa, type),
        .wide = attn_kernels_get(isa, SOBRE_KV_F32),
        .vec = vec_kernels_get(isa),
        .p = {.n_head = c->n_head,
              .n_head_kv = c->n_head_kv,
              .head_dim = c->head_dim,
              .head_dim_v = c->head_dim,
              .scale = 0.125f,
              .causal = 1},
        .type = type,
    };
    const sobre_kv_desc desc = {type, c->n_head_kv, c->head_dim, c->head_dim};
    const size_t width = (size_t)c->n_head * (size_t)c->head_dim, n_x = width * ATTN_BENCH_TOKENS;
    enum { SEQ_PAGES = ATTN_BENCH_CONTEXT / SOBRE_KV_PAGE };
    assert_true(attn_page_size(&desc, &job.page_size));
    int32_t n_seqs = (int32_t)(ATTN_BENCH_CACHE / (job.page_size * SEQ_PAGES));
    if (n_seqs < 2) n_seqs = 2;
    const uint64_t seq_size = job.page_size * SEQ_PAGES;
    job.pages = rig_alloc(seq_size * (uint64_t)n_seqs);
    job.scratch = rig_alloc(attn_scratch_size(&job.p, n_threads));
    float *x = rig_alloc(n_x * sizeof(float));
    uint32_t seed = 7;
    for (size_t i = 0; i < n_x; i++) x[i] = rig_random(&seed);
    job.q = job.k = job.v = x;
    job.out = rig_alloc(n_x * sizeof(float));
    int32_t pages[SEQ_PAGES];
    for (int32_t i = 0; i < SEQ_PAGES; i++) pages[i] = i;

    sobre_run_seq seq = {.n_cols = ATTN_BENCH_TOKENS, .pages = pages};
    sobre_run run = {
        .struct_size = sizeof run, .n_cols = ATTN_BENCH_TOKENS, .n_seqs = 1, .seqs = &seq};
    attn_bench_run r = {&job, &run, threads};
    double peak = 0, prefill = 0, append = 0, read = 0, decode = 0;
    double flops = 4.0 * c->head_dim * c->n_head * ATTN_BENCH_TOKENS * (ATTN_BENCH_TOKENS + 1) / 2;
    for (int i = 0; i < ATTN_BENCH_SLICES; i++)
        append = best(append, 2.0 * ATTN_BENCH_TOKENS * c->n_head_kv * c->head_dim /
                                  attn_bench_seconds(&r, attn_bench_append) / 1e9);
    run.n_cols = seq.n_cols = ATTN_BENCH_CHUNK;
    for (; seq.pos < ATTN_BENCH_TOKENS; seq.pos += ATTN_BENCH_CHUNK) {
        double seconds = INFINITY;
        for (int i = 0; i < ATTN_BENCH_SLICES; i++) {
            seconds = fmin(seconds, attn_bench_seconds(&r, attn_bench_thread));
            if (i % 8 == 0) peak = best(peak, bench_f32_peak());
        }
        prefill += seconds;
    }
    prefill = flops / prefill / 1e9;
    uint8_t *first = job.pages;
    for (uint64_t at = job.page_size; at < seq_size * (uint64_t)n_seqs; at += job.page_size)
        memcpy(first + at, first, (size_t)job.page_size);
    seq = (sobre_run_seq){.n_cols = 1, .pos = ATTN_BENCH_CONTEXT - 1, .pages = pages};
    run.n_cols = 1;
    for (int i = 0; i < 2 * ATTN_BENCH_SLICES; i++) { /* never what was just read */
        job.pages = first + seq_size * (uint64_t)(i % n_seqs);
        if ((i + i / n_seqs) % 2) {
            decode =
                best(decode, (double)seq_size / attn_bench_seconds(&r, attn_bench_thread) / 1e9);
        } else {
            read = best(read, bench_read_peak(job.pages, (size_t)seq_size));
        }
    }
    peak *= n_threads;
    printf("%-5s %-22s %6.1f of %6.1f GFLOPS %3.0f %%   %5.1f of %5.1f GB/s %4.0f %%   %5.2f G/s\n",
           type_name, c->name, prefill, peak, 100 * prefill / peak, decode, read,
           100 * decode / read, append);
    fflush(stdout);
    free(first);
    free(job.scratch);
    free(job.out);
    free(x);
}

/* `only`: a type's name, or NULL for all. */
static int attn_bench_all(const char *only, int32_t n_threads)
{
    static const attn_bench cases[] = {
        {"64, groups of 3", 9, 3, 64},   {"64, groups of 7", 14, 2, 64},
        {"64, groups of 8", 16, 2, 64},  {"64, no groups", 8, 8, 64},
        {"128, groups of 4", 8, 2, 128},
    };
    static const struct {
        sobre_kv_type type;
        const char *name;
    } types[] = {{SOBRE_KV_F32, "f32"},
                 {SOBRE_KV_F16, "f16"},
                 {SOBRE_KV_BF16, "bf16"},
                 {SOBRE_KV_Q8_0, "q8_0"}};
    const sobre_cpu_isa isa = mm_kernels_get(SOBRE_CPU_BEST)->isa;
    sobre_context *ctx;
    pool *threads;
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    assert_int_equal(pool_open(ctx, n_threads, &threads), SOBRE_OK);
    printf("%s, %d threads; peaks are f32 of AVX2 on as many, and plain reads on one\n"
           "cache heads                  %d tokens                     one at %d          append\n",
           cpu_isa_name(isa), (int)n_threads, ATTN_BENCH_TOKENS, ATTN_BENCH_CONTEXT);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            if (!only || strcmp(only, types[t].name) == 0)
                attn_bench_case(&cases[i], types[t].type, isa, threads, types[t].name);
    pool_close(threads);
    sobre_context_close(ctx);
    return 0;
}

#endif
