/* SPDX-License-Identifier: MIT */
/*
 * What bench/cpu.py needs to know beside `sobre bench`, each as one JSON object on stdout:
 *
 *   bench-cpu [--threads N] [--isa NAME] [--seconds S] [--mb N]
 *       what the processor does at most: byte products, f32 multiply-adds, reads of memory that
 *       caches do not hold
 *   bench-cpu --model FILE [-p N] [-n N]
 *       what of a model works: operations of a prompt's products, packed bytes that a token reads
 *
 * The loops run on the library's own threads, so that these are placed as in use. All do a slice of
 * a few milliseconds at the same time, again and again; a slice counts from the first thread's
 * start to the last one's end.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "model.h"
#include "os.h"
#include "peak.h"
#include "pool.h"

enum { MAX_SLICES = 4096, MAX_THREADS = 256, SLICE_NS = 2000000, READ_SLICE = 16 << 20 };
enum { CPU = 1 }; /* a device's number */

typedef struct span {
    _Alignas(64) uint64_t begin, end; /* times */
} span;

typedef struct probe {
    const peak_loops *loops;
    pool *pool;
    uint8_t *data; /* [n_threads, share] */
    size_t share, at;
    void (*compute)(int64_t n);
    int64_t n_rounds;
    span spans[MAX_THREADS];
    double rates[MAX_SLICES]; /* billions a second */
} probe;

typedef struct rate {
    double median, best;
} rate;

/* Ends the program unless the status is fine: nothing is worth saving. */
static void check(sobre_context *ctx, sobre_status status, const char *what)
{
    if (status >= 0) return;
    fprintf(stderr, "bench-cpu: %s: %s: %s\n", what, sobre_status_name(status), sobre_error(ctx));
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* --- Peaks */

static void touch(void *arg, int32_t thread, int32_t n_threads)
{
    const probe *p = arg;
    memset(p->data + (size_t)thread * p->share, 1, p->share);
}

static void compute_slice(void *arg, int32_t thread, int32_t n_threads)
{
    probe *p = arg;
    p->spans[thread].begin = os_now_ns();
    p->compute(p->n_rounds);
    p->spans[thread].end = os_now_ns();
}

static void read_slice(void *arg, int32_t thread, int32_t n_threads)
{
    probe *p = arg;
    p->spans[thread].begin = os_now_ns();
    p->loops->read(p->data + (size_t)thread * p->share + p->at, READ_SLICE);
    p->spans[thread].end = os_now_ns();
}

static uint64_t slice_ns(const probe *p)
{
    uint64_t begin = p->spans[0].begin, end = p->spans[0].end;

    for (int32_t i = 1; i < pool_n_threads(p->pool); i++) {
        if (p->spans[i].begin < begin) begin = p->spans[i].begin;
        if (p->spans[i].end > end) end = p->spans[i].end;
    }
    return end > begin ? end - begin : 1;
}

/* Slices of `work` operations or bytes a thread for so long. */
static rate repeat(sobre_context *ctx, probe *p, pool_job slice, double work, double seconds)
{
    const uint64_t end = os_now_ns() + (uint64_t)(seconds * 1e9);
    size_t n = 0;

    do {
        check(ctx, pool_run(p->pool, slice, p), "a slice");
        p->rates[n++] = work * pool_n_threads(p->pool) / (double)slice_ns(p);
        p->at = p->at + READ_SLICE < p->share ? p->at + READ_SLICE : 0;
    } while (n < MAX_SLICES && os_now_ns() < end);
    qsort(p->rates, n, sizeof *p->rates, by_size);
    return (rate){p->rates[n / 2], p->rates[n - 1]};
}

static rate compute_rate(sobre_context *ctx, probe *p, void (*compute)(int64_t n), double ops,
                         double seconds)
{
    p->compute = compute;
    for (p->n_rounds = 1024;; p->n_rounds *= 2) { /* warms up, too */
        check(ctx, pool_run(p->pool, compute_slice, p), "a slice");
        if (slice_ns(p) >= SLICE_NS) break;
    }
    return repeat(ctx, p, compute_slice, ops * (double)p->n_rounds, seconds);
}

static void print_rate(const char *key, rate r)
{
    printf("\"%s\": %.5g, \"%s_best\": %.5g", key, r.median, key, r.best);
}

static int print_peaks(int32_t n_threads, sobre_cpu_isa isa, double seconds, size_t size)
{
    static probe p;
    sobre_context *ctx = NULL;
    char name[128];

    p.loops = peak_loops_get(isa);
    if (!p.loops) {
        fprintf(stderr, "bench-cpu: this processor has no %s\n", cpu_isa_name(isa));
        return 2;
    }
    check(ctx, sobre_context_open(SOBRE(context_options, .n_threads = n_threads), &ctx), "opening");
    check(ctx, context_pool(ctx, &p.pool), "threads");
    n_threads = pool_n_threads(p.pool);
    p.share = size / (size_t)n_threads / READ_SLICE * READ_SLICE;
    if (p.share == 0) p.share = READ_SLICE;
    p.data = os_pages_alloc(p.share * (size_t)n_threads, true);
    if (!p.data) {
        fprintf(stderr, "bench-cpu: there are no %zu bytes to read\n", p.share * (size_t)n_threads);
        return 1;
    }
    check(ctx, pool_run(p.pool, touch, &p), "touching");

    const rate int8 = compute_rate(ctx, &p, p.loops->int8, p.loops->int8_ops, seconds);
    const rate f32 = compute_rate(ctx, &p, p.loops->f32, p.loops->f32_ops, seconds);
    const rate reads = repeat(ctx, &p, read_slice, READ_SLICE, seconds);
    cpu_model_name(name, sizeof name);
    for (char *c = name; *c; c++) /* into a JSON string */
        if (!isprint((unsigned char)*c) || *c == '"' || *c == '\\') *c = ' ';
    printf("{\"cpu\": \"%s\", \"isa\": \"%s\", \"int8\": \"%s\", \"f32\": \"%s\", "
           "\"n_threads\": %d, ",
           name, cpu_isa_name(p.loops->isa), p.loops->int8_name, p.loops->f32_name, (int)n_threads);
    print_rate("int8_gops", int8);
    printf(", ");
    print_rate("f32_gflops", f32);
    printf(", ");
    print_rate("read_gbs", reads);
    printf("}\n");
    os_pages_free(p.data, p.share * (size_t)n_threads);
    sobre_context_close(ctx);
    return 0;
}

/* --- What a model takes */

static int print_model(const char *path, int32_t n_prompt, int32_t n_gen)
{
    const int32_t n_ctx = n_prompt > n_gen ? n_prompt : n_gen;
    sobre_fit_options fit = {.struct_size = sizeof fit, .device = CPU, .n_ctx = n_ctx};
    sobre_placement placed = SOBRE_INIT(placement);
    sobre_context *ctx = NULL;
    sobre_model *model;
    sobre_cost token = SOBRE_INIT(cost);
    double prompt_ops = 0;

    check(ctx, sobre_context_open(NULL, &ctx), "opening");
    check(ctx, sobre_model_open(ctx, SOBRE(source, .path = path), &model), "the model");
    check(ctx, sobre_model_fit(model, &fit, &placed), "the placement");
    check(ctx, sobre_model_cost(model, &fit, 1, 0, &token), "counting");
    const sobre_value *values = model->graph->values;
    for (int32_t i = 0; i < model->graph->n_nodes; i++) {
        const sobre_node *node = &model->graph->nodes[i];
        if (node->op != SOBRE_OP_MATMUL) continue;
        /* Logits are of a prompt's last token only: one row. */
        const int64_t n_x = value_elements(&values[node->in[SOBRE_MATMUL_X]], n_prompt, 1);
        for (int32_t w = 0; w < node->p.matmul.n_weights; w++)
            prompt_ops +=
                2.0 * (double)n_x * (double)values[node->in[SOBRE_MATMUL_W0 + 2 * w]].dims[0];
    }
    printf("{\"weight_bytes\": %llu, \"token_bytes\": %llu, \"n_prompt\": %d, "
           "\"prompt_ops\": %.10g, \"kv_bytes\": %llu, \"quantization\": \"%s\"}\n",
           (unsigned long long)placed.weight_bytes, (unsigned long long)token.weight_bytes,
           (int)n_prompt, prompt_ops, (unsigned long long)placed.kv_bytes,
           sobre_model_info_get(model)->quantization);
    sobre_model_close(model);
    sobre_context_close(ctx);
    return 0;
}

/* --- The command line */

static int usage(void)
{
    fputs("usage: bench-cpu [--threads N] [--isa NAME] [--seconds S] [--mb N]\n"
          "       bench-cpu --model FILE [-p N] [-n N]\n",
          stderr);
    return 2;
}

/* As `sobre --isa` takes them: "avx512" is "AVX-512". */
static bool same_name(const char *word, const char *name)
{
    for (; *name; name++) {
        if (*name == '-') continue;
        if (*word++ != tolower((unsigned char)*name)) return false;
    }
    return !*word;
}

static bool find_isa(const char *word, sobre_cpu_isa *ret_isa)
{
    for (int isa = SOBRE_CPU_BEST; isa <= SOBRE_CPU_I8MM; isa++) {
        if (!same_name(word, cpu_isa_name((sobre_cpu_isa)isa))) continue;
        *ret_isa = (sobre_cpu_isa)isa;
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    enum { MOST_MB = 1 << 20 };
    const char *model = NULL;
    sobre_cpu_isa isa = SOBRE_CPU_BEST;
    double n_threads = 0, seconds = 0.2, mb = 512, n_prompt = 512, n_gen = 128;
    const struct {
        const char *name;
        double *to, max;
    } numbers[] = {
        {"--threads", &n_threads, MAX_THREADS}, {"--seconds", &seconds, 60}, {"--mb", &mb, MOST_MB},
        {"-p", &n_prompt, INT32_MAX},           {"-n", &n_gen, INT32_MAX},
    };

    if (argc % 2 == 0) return usage();
    for (int i = 1; i < argc; i += 2) {
        bool known = false;
        char *end = argv[i + 1];

        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            if (strcmp(argv[i], numbers[k].name) != 0) continue;
            *numbers[k].to = strtod(argv[i + 1], &end);
            known = end != argv[i + 1] && !*end && *numbers[k].to >= 0 &&
                    *numbers[k].to <= numbers[k].max;
        }
        if (!strcmp(argv[i], "--model"))
            model = argv[i + 1], known = true;
        else if (!strcmp(argv[i], "--isa"))
            known = find_isa(argv[i + 1], &isa);
        if (!known) return usage();
    }
    if (model) return print_model(model, (int32_t)n_prompt, (int32_t)n_gen);
    return print_peaks((int32_t)n_threads, isa, seconds, (size_t)mb << 20);
}
