/* SPDX-License-Identifier: MIT */
/* A real model, SmolLM2-135M-Instruct Q4_1: how far its logits are from exact arithmetic, and what
 * it says.
 *
 * The reference is kept as the 64 largest logits and the log-sum-exp of 24 positions of six texts.
 * What is left of a distribution counts as one more outcome, so the divergence is a lower bound
 * that covers 89 % of the mass; the whole rows are compared when the build option golden_dir is
 * set. The bounds are docs/numerics.md's.
 *
 * SOBRE_TEST_DEVICES names the device (the first one counts), SOBRE_TEST_TEXTS the texts,
 * "en,chat", where all are too many. */
#include "support.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dtype.h"

enum { N_TOP = 64, MAX_TEXTS = 8, MAX_IDS = 512, MAX_POSITIONS = 32 };

typedef struct text {
    char name[17];
    float peer_kl; /* of another int8 implementation on the same text */
    int32_t n_ids, n_positions;
    int32_t ids[MAX_IDS], positions[MAX_POSITIONS], argmax[MAX_IDS];
    float lse[MAX_POSITIONS];
    uint16_t top[MAX_POSITIONS][N_TOP];
    uint16_t logits[MAX_POSITIONS][N_TOP]; /* f16 */
} text;

typedef struct fixture {
    test_model t;
    text texts[MAX_TEXTS];
    int32_t n_texts;
    bool is_short; /* not all of them: on a slow device */
} fixture;

static void take(FILE *f, void *to, size_t size)
{
    assert_int_equal(fread(to, 1, size, f), size);
}

/* "SGD1", u32 n_texts; each: name [16], f32 peer_kl, u32 n_ids, u32 n_positions, the three id
 * arrays (i32), then per position f32 lse, u16 id [64], f16 logit [64]. Little endian. */
static void read_texts(fixture *x)
{
    FILE *f = fopen(TEST_DATA "/smollm2_golden.bin", "rb");
    char magic[4];

    assert_non_null(f);
    take(f, magic, 4);
    assert_memory_equal(magic, "SGD1", 4);
    take(f, &x->n_texts, 4);
    assert_in_range(x->n_texts, 1, MAX_TEXTS);
    for (text *t = x->texts; t < x->texts + x->n_texts; t++) {
        take(f, t->name, 16);
        take(f, &t->peer_kl, 4);
        take(f, &t->n_ids, 4);
        take(f, &t->n_positions, 4);
        assert_true(t->n_ids <= MAX_IDS && t->n_positions <= MAX_POSITIONS);
        take(f, t->ids, (size_t)t->n_ids * 4);
        take(f, t->positions, (size_t)t->n_positions * 4);
        take(f, t->argmax, (size_t)t->n_ids * 4);
        for (int32_t i = 0; i < t->n_positions; i++) {
            take(f, &t->lse[i], 4);
            take(f, t->top[i], sizeof t->top[i]);
            take(f, t->logits[i], sizeof t->logits[i]);
        }
    }
    fclose(f);
}

/* Only the texts that are asked for. */
static void keep_texts(fixture *x)
{
    const char *names = getenv("SOBRE_TEST_TEXTS");
    int32_t n = 0;

    if (!names || !*names) return;
    for (int32_t i = 0; i < x->n_texts; i++) {
        const char *at = strstr(names, x->texts[i].name);
        size_t size = strlen(x->texts[i].name);

        if (at && (at == names || at[-1] == ',') && (!at[size] || at[size] == ','))
            x->texts[n++] = x->texts[i];
    }
    assert_true(n > 0);
    x->n_texts = n;
    x->is_short = true;
}

static int setup(void **state)
{
    static fixture x;
    const char *path = getenv("SOBRE_TEST_MODEL");

    *state = NULL;
    if (!path || !*path) return 0;
    read_texts(&x);
    keep_texts(&x);
    x.t = test_model_device(path, SOBRE(fit_options, .n_ctx = 1024, .n_seq = 5));
    *state = &x;
    return 0;
}

static int teardown(void **state)
{
    if (*state) test_model_close(&((fixture *)*state)->t);
    return 0;
}

static double log_sum_exp(const float *x, size_t n)
{
    double most = -INFINITY, sum = 0;

    for (size_t i = 0; i < n; i++) most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* Kullback-Leibler divergence of a row from the reference's 64 + 1 outcomes. */
static double row_kl(const text *t, int32_t i, const float *row, size_t n_vocab)
{
    double lse = log_sum_exp(row, n_vocab), kl = 0, p_rest = 1, q_rest = 1;

    for (int32_t k = 0; k < N_TOP; k++) {
        double lp = (double)f16_to_f32(t->logits[i][k]) - (double)t->lse[i],
               lq = (double)row[t->top[i][k]] - lse;

        kl += exp(lp) * (lp - lq);
        p_rest -= exp(lp);
        q_rest -= exp(lq);
    }
    return p_rest > 0 && q_rest > 0 ? kl + p_rest * log(p_rest / q_rest) : kl;
}

/* The whole rows: float16 [24, 49152] behind a header of 128 bytes. */
static float *golden_rows(const text *t, size_t n_vocab)
{
    const char *dir = getenv("SOBRE_TEST_GOLDEN");
    size_t n = (size_t)t->n_positions * n_vocab;
    uint16_t *half = malloc(n * sizeof *half);
    float *rows = malloc(n * sizeof *rows);
    char path[4096];
    FILE *f;

    snprintf(path, sizeof path, "%s/smollm2/%s.npy", dir, t->name);
    f = fopen(path, "rb");
    assert_true(f && half && rows && !fseek(f, 128, SEEK_SET));
    take(f, half, n * sizeof *half);
    fclose(f);
    for (size_t i = 0; i < n; i++) rows[i] = f16_to_f32(half[i]);
    free(half);
    return rows;
}

typedef struct figures {
    double kl, nmse, agree;
} figures;

static figures measure(const text *t, const float *logits, size_t n_vocab)
{
    const char *golden = getenv("SOBRE_TEST_GOLDEN");
    float *whole = golden && *golden ? golden_rows(t, n_vocab) : NULL;
    figures f = {0};
    double wrong = 0, all = 0;

    for (int32_t i = 0; i < t->n_positions; i++) {
        const float *row = logits + (size_t)t->positions[i] * n_vocab;

        if (whole) {
            const float *r = whole + (size_t)i * n_vocab;
            double lp = log_sum_exp(r, n_vocab), lq = log_sum_exp(row, n_vocab);

            for (size_t k = 0; k < n_vocab; k++) {
                f.kl += exp((double)r[k] - lp) * (((double)r[k] - lp) - ((double)row[k] - lq));
                wrong += pow((double)r[k] - (double)row[k], 2);
                all += pow((double)r[k], 2);
            }
        } else {
            f.kl += row_kl(t, i, row, n_vocab);
            for (int32_t k = 0; k < N_TOP; k++) {
                double r = (double)f16_to_f32(t->logits[i][k]);

                wrong += pow(r - (double)row[t->top[i][k]], 2);
                all += r * r;
            }
        }
    }
    for (int32_t i = 0; i < t->n_ids; i++) {
        const float *row = logits + (size_t)i * n_vocab;
        int32_t best = 0;

        for (size_t k = 1; k < n_vocab; k++)
            if (row[k] > row[best]) best = (int32_t)k;
        f.agree += best == t->argmax[i];
    }
    f.kl /= t->n_positions;
    f.nmse = wrong / all;
    f.agree /= t->n_ids;
    free(whole);
    return f;
}

static fixture *need(void **state)
{
    test_model_path(); /* skips */
    return *state;
}

static void int8_is_as_good_as_the_peer(void **state)
{
    fixture *x = need(state);
    double log_mean = 0;

    for (const text *t = x->texts; t < x->texts + x->n_texts; t++) {
        float *logits = test_logits(&x->t, NULL, t->ids, t->n_ids, 0);
        figures f = measure(t, logits, 49152);

        free(logits);
        print_message(
            "%-8s KL %.6f, %.3f of the peer's; same best token at %.3f of the positions\n", t->name,
            f.kl, f.kl / (double)t->peer_kl, f.agree);
        assert_true(f.kl / (double)t->peer_kl <= 2);
        assert_true(f.agree >= 0.9);
        log_mean += log(f.kl / (double)t->peer_kl) / x->n_texts;
    }
    print_message("geometric mean %.3f\n", exp(log_mean));
    assert_true(exp(log_mean) <= 1.15);
}

static void exact_is_exact(void **state)
{
    fixture *x = need(state);

    for (const text *t = x->texts; t < x->texts + x->n_texts; t++) {
        float *logits = test_logits(&x->t, SOBRE(session_options, .exact = 1), t->ids, t->n_ids, 0);
        figures f = measure(t, logits, 49152);

        free(logits);
        print_message("%-8s NMSE %.3g\n", t->name, f.nmse);
        assert_true(f.nmse <= 1e-6);
        assert_true(f.agree >= 0.99);
    }
}

static double rows_nmse(const float *x, const float *reference, size_t n)
{
    double wrong = 0, whole = 0;

    for (size_t i = 0; i < n; i++) {
        wrong += pow((double)x[i] - (double)reference[i], 2);
        whole += pow((double)reference[i], 2);
    }
    return wrong / whole;
}

/* The same bits on the CPU, the same numbers elsewhere. */
static void chunks_do_not_matter(void **state)
{
    static const int32_t chunks[] = {1, 7, 64};
    fixture *x = need(state);

    for (const text *t = x->texts; t < x->texts + (x->is_short ? 1 : 2); t++) {
        size_t n = (size_t)t->n_ids * 49152;
        float *all = test_logits(&x->t, SOBRE(session_options, .exact = 1), t->ids, t->n_ids, 0);

        for (size_t i = x->is_short; i < sizeof chunks / sizeof *chunks; i++) {
            float *cut =
                test_logits(&x->t, SOBRE(session_options, .exact = 1), t->ids, t->n_ids, chunks[i]);

            if (test_on_cpu())
                assert_memory_equal(all, cut, n * sizeof *all);
            else
                assert_true(rows_nmse(cut, all, n) <= 1e-9);
            free(cut);
        }
        free(all);
    }
}

/* Runs the session to the end of every sequence. */
static void generate(const test_model *t, sobre_session *s, int32_t ids[][64], int32_t *n,
                     char *answer, size_t size)
{
    const sobre_event *e;
    sobre_status st;
    size_t at = 0;

    while ((st = sobre_session_next(s, -1, &e)) == SOBRE_OK) {
        if (e->token >= 0 && n[e->seq] < 64) ids[e->seq][n[e->seq]++] = e->token;
        if (answer && at + e->text_size < size)
            memcpy(answer + at, e->text, e->text_size), at += e->text_size;
    }
    assert_ok(t->ctx, st);
    assert_int_equal(st, SOBRE_DONE);
    if (answer) answer[at] = 0;
}

static void knows_paris(void **state)
{
    fixture *x = need(state);
    const sobre_message m = {"user", "What is the capital of France?"};
    static int32_t ids[1][64];
    int32_t n[1] = {0};
    char answer[256];
    sobre_session *s;

    assert_ok(x->t.ctx, sobre_session_open(x->t.model, NULL, &s));
    assert_ok(x->t.ctx, sobre_session_chat(s, 0, &m, 1));
    generate(&x->t, s, ids, n, answer, sizeof answer);
    assert_string_equal(answer, "The capital of France is Paris.");
    sobre_session_close(s);
}

static void batch_says_the_same(void **state)
{
    static const char *const prompts[5] = {
        "Once upon a time", "The three laws of motion are",
        "def fibonacci(n):", "In the year 1492 Christopher Columbus sailed",
        "To bake a good bread you need flour, water, salt and"};
    const sobre_sampling how = {.struct_size = sizeof how, .max_tokens = 64, .ignore_eos = 1};
    fixture *x = need(state);
    static int32_t together[5][64], alone[5][64];
    int32_t n_together[5] = {0};
    sobre_session *s;

    if (x->is_short) {
        print_message("SKIP: five texts of 64 tokens take too long on this device\n");
        skip();
    }
    assert_ok(x->t.ctx, sobre_session_open(x->t.model, NULL, &s));
    for (int32_t i = 0; i < 5; i++) {
        assert_ok(x->t.ctx, sobre_session_sampling(s, i, &how));
        assert_ok(x->t.ctx, sobre_session_prompt(s, i, prompts[i], strlen(prompts[i]), 0));
    }
    generate(&x->t, s, together, n_together, NULL, 0);
    sobre_session_close(s);
    for (int32_t i = 0; i < 5; i++) {
        int32_t n[1] = {0};

        assert_ok(x->t.ctx, sobre_session_open(x->t.model, NULL, &s));
        assert_ok(x->t.ctx, sobre_session_sampling(s, 0, &how));
        assert_ok(x->t.ctx, sobre_session_prompt(s, 0, prompts[i], strlen(prompts[i]), 0));
        generate(&x->t, s, &alone[i], n, NULL, 0);
        sobre_session_close(s);
        assert_int_equal(n[0], 64);
        assert_int_equal(n_together[i], 64);
        assert_memory_equal(together[i], alone[i], sizeof alone[i]);
    }
}

/* What a device says greedily is what the CPU says, where both are exact. */
static void says_what_the_cpu_says(void **state)
{
    static const char *const prompts[] = {"Once upon a time", "The three laws of motion are",
                                          "def fibonacci(n):"};
    const sobre_sampling how = {.struct_size = sizeof how, .max_tokens = 64, .ignore_eos = 1};
    fixture *x = need(state);
    test_model on_cpu;

    if (test_on_cpu()) return; /* there is nothing to compare */
    on_cpu =
        test_model_file(test_model_path(), NULL, SOBRE(fit_options, .device = 1, .n_ctx = 1024));
    for (int32_t i = 0; i < (x->is_short ? 1 : 3); i++) {
        static int32_t ids[2][1][64];

        for (int k = 0; k < 2; k++) {
            const test_model *t = k ? &on_cpu : &x->t;
            int32_t n[1] = {0};
            sobre_session *s;

            assert_ok(t->ctx, sobre_session_open(t->model, SOBRE(session_options, .exact = 1), &s));
            assert_ok(t->ctx, sobre_session_sampling(s, 0, &how));
            assert_ok(t->ctx, sobre_session_prompt(s, 0, prompts[i], strlen(prompts[i]), 0));
            generate(t, s, ids[k], n, NULL, 0);
            assert_int_equal(n[0], 64);
            sobre_session_close(s);
        }
        assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    }
    test_model_close(&on_cpu);
}

static void golden_llama(void **state)
{
    char path[4096];
    static const int32_t ids[] = {3,  17, 42, 99, 5, 64,  120, 1,  0,  77, 23, 8, 90,  111,
                                  56, 31, 2,  2,  9, 127, 33,  44, 71, 18, 60, 4, 100, 95,
                                  13, 66, 81, 29, 7, 3,   50,  38, 41, 88, 19, 25};
    enum { N = sizeof ids / sizeof *ids, N_VOCAB = 128 };
    static float reference[N * N_VOCAB];
    static double wide[N * N_VOCAB];
    test_model t;
    float *logits;
    double nmse;
    FILE *f;

    (void)state;
    f = fopen(test_golden_path("archs/llama.npy", path, sizeof path), "rb");
    assert_true(f && !fseek(f, 128, SEEK_SET));
    take(f, reference, sizeof reference);
    fclose(f);
    for (size_t i = 0; i < N * N_VOCAB; i++) wide[i] = (double)reference[i];
    t = test_model_device(test_golden_path("archs/llama.gguf", path, sizeof path), NULL);
    logits = test_logits(&t, SOBRE(session_options, .exact = 1), ids, N, 0);
    nmse = test_nmse(logits, wide, N * N_VOCAB);
    print_message("golden llama NMSE %.3g\n", nmse);
    assert_true(nmse <= 1e-5);
    free(logits);
    test_model_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_is_as_good_as_the_peer),
        cmocka_unit_test(exact_is_exact),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(knows_paris),
        cmocka_unit_test(batch_says_the_same),
        cmocka_unit_test(says_what_the_cpu_says),
        cmocka_unit_test(golden_llama),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
