/* SPDX-License-Identifier: MIT */
/*
 * What bench/gpu.sh measures of one model on one device, as one JSON object on stdout:
 *
 *   bench-gpu DEVICE SHAPE QUANT [--plugins DIR] [-p N] [-n N] [-b N,N] [-r N]
 *
 * Weights are random (bench_shape.h). Tokens are sampled where the logits are, as in use. All
 * figures of time are medians of -r repeats but load_s and cold_first_token_s, which happen once.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_shape.h"
#include "os.h"
#include "registry.h"

enum { MAX_BATCHES = 8, MAX_REPEATS = 100, COPY_SIZE = 256 << 20, N_COPIES = 20, SHORT = 8 };

typedef struct bench {
    const char *device, *shape, *quant, *plugins;
    int32_t n_prompt, n_gen, n_repeats, batches[MAX_BATCHES], n_batches;
    sobre_context *ctx;
    sobre_model *model;
    sobre_session *session;
    const sobre_device_info *info;
    int32_t number; /* of the device */
} bench;

/* Ends the program unless the status is fine: nothing is worth saving. */
static void check(const bench *b, sobre_status status, const char *what)
{
    if (status >= 0) return;
    fprintf(stderr, "%s: %s: %s\n", what, sobre_status_name(status), sobre_error(b->ctx));
    exit(1);
}

static double seconds_since(uint64_t start)
{
    return (double)(os_now_ns() - start) / 1e9;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *samples, int32_t n)
{
    qsort(samples, (size_t)n, sizeof *samples, by_size);
    return n % 2 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

/* --- The device alone */

/* Bytes read and written each second while a buffer is copied; 0: it cannot be measured. */
static double copy_rate(const bench *b)
{
    const device_entry *e;
    sobre_buffer *from, *to;
    uint64_t ticket = 0, start = 0;

    check(b, device_use(b->ctx, b->number, &e), "opening the device");
    check(b, e->backend->buffer_alloc(e->device, COPY_SIZE, SOBRE_BUFFER_ARENA, &from), "a buffer");
    check(b, e->backend->buffer_alloc(e->device, COPY_SIZE, SOBRE_BUFFER_ARENA, &to), "a buffer");
    for (int i = -2; i < N_COPIES; i++) { /* two to warm up */
        if (i == 0) {
            check(b, e->backend->fence(e->device, &ticket), "a fence");
            check(b, e->backend->wait(e->device, ticket), "waiting");
            start = os_now_ns();
        }
        check(b, e->backend->copy(to, 0, from, 0, COPY_SIZE), "copying");
    }
    check(b, e->backend->fence(e->device, &ticket), "a fence");
    check(b, e->backend->wait(e->device, ticket), "waiting");
    const double seconds = seconds_since(start);
    e->backend->buffer_free(from);
    e->backend->buffer_free(to);
    return seconds > 0 ? 2.0 * COPY_SIZE * N_COPIES / seconds : 0;
}

/* --- The model */

static void fill(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t seed)
{
    for (int32_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((seed >> 33) % (uint64_t)n_vocab);
    }
}

static void next_tokens(const bench *b, int32_t n)
{
    const sobre_event *event;

    for (int32_t i = 0; i < n; i++)
        check(b, sobre_session_next(b->session, -1, &event), "the next token");
}

/* Seconds for n_gen tokens of each of n sequences after short prompts. */
static double decode_once(const bench *b, const int32_t *ids, int32_t n)
{
    uint64_t start;

    for (int32_t s = 0; s < n; s++) {
        check(b, sobre_seq_truncate(b->session, s, 0), "beginning anew");
        check(b,
              sobre_session_sampling(b->session, s,
                                     SOBRE(sampling, .ignore_eos = 1, .max_tokens = b->n_gen + 1)),
              "sampling");
        check(b, sobre_session_prompt_ids(b->session, s, ids + s, SHORT), "a prompt");
    }
    next_tokens(b, n);
    start = os_now_ns();
    next_tokens(b, n * b->n_gen);
    return seconds_since(start);
}

static double decode_rate(const bench *b, const int32_t *ids, int32_t n)
{
    double samples[MAX_REPEATS];

    decode_once(b, ids, n);
    for (int32_t i = 0; i < b->n_repeats; i++)
        samples[i] = (double)n * b->n_gen / decode_once(b, ids, n);
    return median(samples, b->n_repeats);
}

/* Seconds from a prompt of `n` ids to its first token. */
static double first_token(const bench *b, const int32_t *ids, int32_t n)
{
    const uint64_t start = os_now_ns();

    check(b, sobre_seq_truncate(b->session, 0, 0), "beginning anew");
    check(b, sobre_session_sampling(b->session, 0, SOBRE(sampling, .max_tokens = 1)), "sampling");
    check(b, sobre_session_prompt_ids(b->session, 0, ids, (size_t)n), "a prompt");
    next_tokens(b, 1);
    return seconds_since(start);
}

static double first_token_median(const bench *b, const int32_t *ids, int32_t n)
{
    double samples[MAX_REPEATS];

    first_token(b, ids, n);
    for (int32_t i = 0; i < b->n_repeats; i++) samples[i] = first_token(b, ids, n);
    return median(samples, b->n_repeats);
}

/* Names of drivers may hold anything; these need no escapes. */
static void print_text(const char *key, const char *text)
{
    printf("\"%s\": \"", key);
    for (; *text; text++)
        if (isprint((unsigned char)*text) && *text != '"' && *text != '\\') putchar(*text);
    printf("\", ");
}

static int measure(bench *b)
{
    sobre_measurement speed = SOBRE_INIT(measurement);
    sobre_placement placed = SOBRE_INIT(placement);
    sobre_stats stats = SOBRE_INIT(stats);
    shape_model *made;
    sobre_source source;
    int32_t most = 1, index = 0;
    char backend[32];

    snprintf(backend, sizeof backend, "%s", b->device);
    if (strchr(backend, ':')) {
        index = (int32_t)strtol(strchr(backend, ':') + 1, NULL, 10);
        *strchr(backend, ':') = 0;
    }
    check(b, sobre_context_open(SOBRE(context_options, .plugin_dir = b->plugins), &b->ctx),
          "opening");
    check(b, sobre_device_get(b->ctx, backend, index, &b->number, &b->info), b->device);
    check(b, sobre_device_measure(b->ctx, b->number, &speed), "measuring the device");
    const double copied = copy_rate(b);

    if (shape_model_open(b->shape, b->quant, &made, &source) < 0) {
        fprintf(stderr, "there is no shape %s of %s\n", b->shape, b->quant);
        return 2;
    }
    for (int32_t i = 0; i < b->n_batches; i++)
        if (b->batches[i] > most) most = b->batches[i];
    const int32_t n_ctx = b->n_prompt > SHORT + b->n_gen ? b->n_prompt + 1 : SHORT + b->n_gen + 1;
    const int32_t n_ids = n_ctx + most;
    int32_t *ids = malloc((size_t)n_ids * sizeof *ids);
    if (!ids) return 1;
    check(b, sobre_model_open(b->ctx, &source, &b->model), "the model");
    fill(ids, n_ids, sobre_model_info_get(b->model)->n_vocab, 1);

    const sobre_fit_options fit =
        *SOBRE(fit_options, .device = b->number, .n_ctx = n_ctx, .n_seq = most);
    uint64_t start = os_now_ns();
    check(b, sobre_model_fit(b->model, &fit, &placed), "the placement");
    check(b, sobre_model_load(b->model, &fit, NULL), "loading");
    const double load_s = seconds_since(start);
    check(b, sobre_session_open(b->model, NULL, &b->session), "a session");
    first_token(b, ids, SHORT);
    const double cold = seconds_since(start);

    const uint64_t token_bytes = placed.weight_bytes - shape_model_table_size(made);
    const double warm = first_token_median(b, ids, SHORT);
    const double prefill = b->n_prompt / first_token_median(b, ids, b->n_prompt);
    printf("{");
    print_text("device", b->info->name);
    print_text("backend", backend);
    print_text("detail", b->info->detail ? b->info->detail : "");
    print_text("shape", b->shape);
    print_text("quant", b->quant);
    printf("\"weight_bytes\": %llu, \"token_bytes\": %llu, \"n_prompt\": %d, \"n_gen\": %d, "
           "\"n_repeats\": %d, ",
           (unsigned long long)placed.weight_bytes, (unsigned long long)token_bytes,
           (int)b->n_prompt, (int)b->n_gen, (int)b->n_repeats);
    printf("\"copy_bytes_per_s\": %.4g, \"stream_bytes_per_s\": %llu, \"ns_per_launch\": %llu, ",
           copied, (unsigned long long)speed.bytes_per_s, (unsigned long long)speed.ns_per_launch);
    printf("\"load_s\": %.4g, \"cold_first_token_s\": %.4g, \"first_token_ms\": %.4g, "
           "\"prefill_ts\": %.5g, \"decode_ts\": {",
           load_s, cold, warm * 1e3, prefill);
    double single = 0;
    for (int32_t i = 0; i < b->n_batches; i++) {
        const double rate = decode_rate(b, ids, b->batches[i]);
        if (b->batches[i] == 1) {
            single = rate;
            check(b, sobre_session_stats(b->session, &stats), "statistics");
        }
        printf("%s\"%d\": %.5g", i ? ", " : "", (int)b->batches[i], rate);
    }
    printf("}, \"launches_per_token\": %llu, \"copy_share\": %.4g}\n",
           (unsigned long long)stats.n_launches,
           copied > 0 ? single * (double)token_bytes / copied : 0);
    sobre_session_close(b->session);
    sobre_model_close(b->model);
    shape_model_close(made);
    sobre_context_close(b->ctx);
    free(ids);
    return 0;
}

static int usage(void)
{
    fputs("usage: bench-gpu DEVICE SHAPE QUANT [--plugins DIR] [-p N] [-n N] [-b N,N] [-r N]\n",
          stderr);
    return 2;
}

static void read_batches(bench *b, const char *text)
{
    char *end = (char *)(uintptr_t)text;

    for (b->n_batches = 0; b->n_batches < MAX_BATCHES && *text; text = end + (*end == ',')) {
        b->batches[b->n_batches++] = (int32_t)strtol(text, &end, 10);
        if (end == text) break;
    }
}

int main(int argc, char **argv)
{
    bench b = {
        .n_prompt = 512, .n_gen = 128, .n_repeats = 5, .batches = {1, 8, 32}, .n_batches = 3};

    if (argc < 4 || argc % 2 != 0) return usage();
    b.device = argv[1];
    b.shape = argv[2];
    b.quant = argv[3];
    for (int i = 4; i < argc; i += 2) {
        if (!strcmp(argv[i], "--plugins"))
            b.plugins = argv[i + 1];
        else if (!strcmp(argv[i], "-b"))
            read_batches(&b, argv[i + 1]);
        else if (!strcmp(argv[i], "-p"))
            b.n_prompt = (int32_t)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "-n"))
            b.n_gen = (int32_t)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "-r"))
            b.n_repeats = (int32_t)strtol(argv[i + 1], NULL, 10);
        else
            return usage();
    }
    for (int32_t i = 0; i < b.n_batches; i++)
        if (b.batches[i] < 1) return usage();
    if (b.n_prompt < 1 || b.n_gen < 1 || b.n_repeats < 1 || b.n_repeats > MAX_REPEATS ||
        b.n_batches == 0)
        return usage();
    return measure(&b);
}
