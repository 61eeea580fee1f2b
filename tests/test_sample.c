/* SPDX-License-Identifier: MIT */
/* Samplers: each parameter alone and together, distributions against their exact values; and that
 * devices pick what the host does. */
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

static sobre_context *ctx;

static int setup(void **state)
{
    return sobre_context_open(NULL, &ctx) != SOBRE_OK;
}

static int teardown(void **state)
{
    sobre_context_close(ctx);
    return 0;
}

static sampler *open_sampler(const sobre_sampling *o, int32_t n_vocab)
{
    sampler *s = NULL;
    assert_int_equal(sampler_open(ctx, o, n_vocab, &s), SOBRE_OK);
    assert_non_null(s);
    return s;
}

static int32_t pick(sampler *s, const float *logits)
{
    int32_t id = -1;
    float logprob;
    assert_int_equal(sampler_pick(s, logits, NULL, 0, &id, &logprob), SOBRE_OK);
    return id;
}

/* Draws n times and checks every count against probability p [n_vocab]: chi-square, and nothing
 * where p is 0. */
static void check_draws(const sobre_sampling *o, const float *logits, const double *p,
                        int32_t n_vocab)
{
    enum { N = 20000, MAX = 16 };
    double chi = 0;
    int32_t counts[MAX] = {0}, freedom = -1;
    sampler *s = open_sampler(o, n_vocab);
    assert_true(n_vocab <= MAX);
    for (int i = 0; i < N; i++) counts[pick(s, logits)]++;
    for (int32_t i = 0; i < n_vocab; i++) {
        if (p[i] == 0) {
            assert_int_equal(counts[i], 0);
            continue;
        }
        chi += pow(counts[i] - N * p[i], 2) / (N * p[i]);
        freedom++;
    }
    /* Mean `freedom`, deviation sqrt(2 freedom): six deviations. */
    if (freedom > 0) assert_true(chi < freedom + 6 * sqrt(2.0 * freedom));
    sampler_close(s);
}

/* p proportional to w. */
static void normalise(double *w, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += w[i];
    for (int32_t i = 0; i < n; i++) w[i] /= sum;
}

static const float five[5] = {1.0f, 3.0f, 2.0f, -1.0f, 2.5f};

static void test_greedy(void **state)
{
    sampler *s = open_sampler(NULL, 5);
    int32_t id;
    float logprob;
    double sum = 0;
    for (int i = 0; i < 5; i++) sum += exp((double)five[i]);
    assert_int_equal(sampler_pick(s, five, NULL, 0, &id, &logprob), SOBRE_OK);
    assert_int_equal(id, 1);
    assert_float_equal(logprob, 3 - log(sum), 1e-6);
    /* Ties: the lowest id, wherever the block boundaries are. */
    sampler_close(s);
    for (int32_t n = 2; n < 70; n++) {
        float logits[70];
        s = open_sampler(NULL, n);
        for (int32_t i = 0; i < n; i++) logits[i] = i ? 1.0f : 0.5f;
        assert_int_equal(pick(s, logits), 1);
        logits[n - 1] = 2;
        assert_int_equal(pick(s, logits), n - 1);
        sampler_close(s);
    }
}

/* Against double arithmetic over a real vocabulary's size, extreme values included. */
static void test_logprob(void **state)
{
    enum { N = 49153 };
    static float logits[N];
    const float scales[] = {1e-3f, 4, 30, 200, 1e12f};
    sampler *s = open_sampler(SOBRE(sampling, .n_top = 64), N);
    uint32_t random = 7;
    for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
        double sum = 0;
        float max = -INFINITY, logprob;
        int32_t id;
        size_t n_top;
        for (int i = 0; i < N; i++) {
            random = random * 1664525u + 1013904223u;
            logits[i] = (float)(int32_t)random * 0x1p-31f * scales[k];
            if (i % 1000 == 13) logits[i] = -INFINITY;
            if (logits[i] > max) max = logits[i];
        }
        for (int i = 0; i < N; i++) sum += exp((double)logits[i] - (double)max);
        assert_int_equal(sampler_pick(s, logits, NULL, 0, &id, &logprob), SOBRE_OK);
        assert_true(fabs((double)logprob + log(sum)) < 2e-6 * fmax(1, log(sum)));
        const sobre_token_prob *top = sampler_top(s, &n_top);
        assert_int_equal(n_top, 64);
        assert_int_equal(top[0].id, id);
        for (size_t i = 0; i < n_top; i++) {
            double want = (double)logits[top[i].id] - (double)max - log(sum);
            assert_true(fabs((double)top[i].logprob - want) <= 1e-5 + 1e-6 * fabs(want));
            if (i) assert_true(logits[top[i].id] <= logits[top[i - 1].id]);
        }
        int better = 0;
        for (int i = 0; i < N; i++) better += logits[i] > logits[top[63].id];
        assert_true(better <= 63);
    }
    sampler_close(s);
}

static void test_top_ties(void **state)
{
    const float logits[6] = {2, 5, 5, 1, 5, 2};
    const int32_t want[5] = {1, 2, 4, 0, 5};
    sampler *s = open_sampler(SOBRE(sampling, .n_top = 5), 6);
    size_t n;
    pick(s, logits);
    const sobre_token_prob *top = sampler_top(s, &n);
    assert_int_equal(n, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(top[i].id, want[i]);
    sampler_close(s);
    /* No more than there are tokens. */
    s = open_sampler(SOBRE(sampling, .n_top = 9), 6);
    pick(s, logits);
    sampler_top(s, &n);
    assert_int_equal(n, 6);
    sampler_close(s);
}

static void test_temperature(void **state)
{
    const float temperatures[] = {0.3f, 1.0f, 2.5f, 1e30f};
    for (size_t k = 0; k < sizeof temperatures / sizeof *temperatures; k++) {
        double p[5];
        for (int i = 0; i < 5; i++) p[i] = exp((double)(five[i] - 3) / (double)temperatures[k]);
        normalise(p, 5);
        check_draws(SOBRE(sampling, .temperature = temperatures[k], .seed = k), five, p, 5);
    }
    const double best[5] = {0, 1, 0, 0, 0};
    check_draws(SOBRE(sampling, .temperature = 1e-40f), five, best, 5);
}

static void test_top_k(void **state)
{
    double p[5] = {0, exp(3), exp(2), 0, exp(2.5)}, all[5];
    const float ties[5] = {1, 2, 1, 1, 0};
    double tied[5] = {exp(1), exp(2), 0, 0, 0};
    const double one[5] = {0, 1, 0, 0, 0};
    normalise(p, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 3), five, p, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 1), five, one, 5);
    for (int i = 0; i < 5; i++) all[i] = exp((double)five[i]);
    normalise(all, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 5), five, all, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 99), five, all, 5);
    normalise(tied, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 2), ties, tied, 5);
}

static void test_top_p(void **state)
{
    /* Probabilities 0.4, 0.3, 0.2, 0.1, out of order. */
    const float logits[4] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const double one[4] = {0, 1, 0, 0}, two[4] = {0, 4 / 7.0, 0, 3 / 7.0};
    const double three[4] = {2 / 9.0, 4 / 9.0, 0, 3 / 9.0}, all[4] = {0.2, 0.4, 0.1, 0.3};
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 0.01f), logits, one, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 0.39f), logits, one, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 0.5f), logits, two, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 0.8f), logits, three, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 0.95f), logits, all, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .top_p = 1), logits, all, 4);
    /* After top-k: of 4/7 and 3/7 the first alone reaches 0.5. */
    check_draws(SOBRE(sampling, .temperature = 1, .top_k = 2, .top_p = 0.5f), logits, one, 4);
}

static void test_min_p(void **state)
{
    const float logits[4] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const double two[4] = {0, 4 / 7.0, 0, 3 / 7.0}, one[4] = {0, 1, 0, 0};
    check_draws(SOBRE(sampling, .temperature = 1, .min_p = 0.6f), logits, two, 4);
    check_draws(SOBRE(sampling, .temperature = 1, .min_p = 1), logits, one, 4);
}

static void test_bias(void **state)
{
    const sobre_logit_bias forbid[] = {{1, -INFINITY}, {4, -INFINITY}}, raise[] = {{3, 10}};
    sampler *s = open_sampler(SOBRE(sampling, .bias = forbid, .n_bias = 2), 5);
    float logprob;
    int32_t id;
    double sum = 0;
    assert_int_equal(sampler_pick(s, five, NULL, 0, &id, &logprob), SOBRE_OK);
    assert_int_equal(id, 2);
    for (int i = 0; i < 5; i++) sum += exp((double)five[i]);
    assert_float_equal(logprob, 2 - log(sum), 1e-6); /* of the model, not of the bias */
    sampler_close(s);
    s = open_sampler(SOBRE(sampling, .bias = raise, .n_bias = 1), 5);
    assert_int_equal(pick(s, five), 3);
    sampler_close(s);
    double p[5] = {exp(1), 0, exp(2), exp(-1), 0};
    normalise(p, 5);
    check_draws(SOBRE(sampling, .temperature = 1, .bias = forbid, .n_bias = 2), five, p, 5);
}

static void test_penalties(void **state)
{
    const float logits[4] = {2, 1.5f, -1, -3};
    const int32_t history[6] = {3, 0, 2, 0, -1, 0};
    const struct {
        sobre_sampling o;
        int32_t n;
        double want[4];
    } cases[] = {
        {{.repetition_penalty = 2}, 6, {1, 1.5, -2, -6}},
        {{.presence_penalty = 0.5f}, 6, {1.5, 1.5, -1.5, -3.5}},
        {{.frequency_penalty = 0.5f}, 6, {0.5, 1.5, -1.5, -3.5}},
        {{.repetition_penalty = 2, .presence_penalty = 1, .frequency_penalty = 0.25f},
         6,
         {-0.75, 1.5, -3.25, -7.25}},
        {{.presence_penalty = 1, .penalty_last_n = 3}, 6, {1, 1.5, -1, -3}},
        {{.presence_penalty = 1, .penalty_last_n = -1}, 6, {1, 1.5, -2, -4}},
        {{.presence_penalty = 1}, 0, {2, 1.5, -1, -3}},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        sobre_sampling o = cases[k].o;
        double p[4];
        o.struct_size = sizeof o;
        o.temperature = 1;
        for (int i = 0; i < 4; i++) p[i] = exp(cases[k].want[i]);
        normalise(p, 4);
        enum { N = 20000 };
        int32_t counts[4] = {0};
        sampler *s = open_sampler(&o, 4);
        for (int i = 0; i < N; i++) {
            int32_t id;
            float logprob;
            assert_int_equal(sampler_pick(s, logits, history, cases[k].n, &id, &logprob), SOBRE_OK);
            counts[id]++;
        }
        for (int i = 0; i < 4; i++)
            assert_true(fabs(counts[i] - N * p[i]) < 6 * sqrt(N * p[i]) + 6);
        sampler_close(s);
    }
    /* The window is the last 64 by default. */
    int32_t longer[70];
    for (int i = 0; i < 70; i++) longer[i] = i < 6 ? 0 : 3;
    sampler *s = open_sampler(SOBRE(sampling, .presence_penalty = 1), 4);
    int32_t id;
    float logprob;
    assert_int_equal(sampler_pick(s, logits, longer, 70, &id, &logprob), SOBRE_OK);
    assert_int_equal(id, 0);
    assert_int_equal(sampler_pick(s, logits, longer, 69, &id, &logprob), SOBRE_OK);
    assert_int_equal(id, 1);
    sampler_close(s);
}

static void test_seeds(void **state)
{
    float logits[100];
    int32_t ids[3][50];
    for (int i = 0; i < 100; i++) logits[i] = (float)(i % 7);
    for (int k = 0; k < 3; k++) {
        sampler *s = open_sampler(
            SOBRE(sampling, .temperature = 1, .top_p = 0.9f, .seed = k < 2 ? 42 : 43), 100);
        for (int i = 0; i < 50; i++) ids[k][i] = pick(s, logits);
        sampler_close(s);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_not_equal(ids[0], ids[2], sizeof ids[0]);
}

/* Selection over many candidates, against a sort. */
static int by_logit(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void test_selection(void **state)
{
    enum { N = 3000 };
    static float logits[N], sorted[N];
    uint32_t random = 99;
    for (int i = 0; i < N; i++) {
        random = random * 1664525u + 1013904223u;
        logits[i] = sorted[i] = (float)(int32_t)(random >> 20) / 512.0f - 4; /* many ties */
    }
    qsort(sorted, N, sizeof *sorted, by_logit);
    for (int32_t k = 1; k < N; k = k * 3 + 1) {
        sampler *s = open_sampler(SOBRE(sampling, .temperature = 1e6f, .top_k = k), N);
        for (int i = 0; i < 2000; i++) assert_true(logits[pick(s, logits)] >= sorted[k - 1]);
        sampler_close(s);
    }
    double total = 0, sum = 0;
    int32_t n = 0;
    for (int i = 0; i < N; i++) total += exp((double)sorted[i] / 2);
    while (sum < 0.3 * total) sum += exp((double)sorted[n++] / 2);
    sampler *s = open_sampler(SOBRE(sampling, .temperature = 2, .top_p = 0.3f), N);
    bool lowest = false;
    for (int i = 0; i < 20000; i++) {
        float x = logits[pick(s, logits)];
        assert_true(x >= sorted[n - 1]);
        lowest |= x == sorted[n - 1];
    }
    assert_true(lowest);
    sampler_close(s);
}

static void test_not_finite(void **state)
{
    const float bad[][3] = {{1, NAN, 2}, {1, INFINITY, 2}, {-INFINITY, -INFINITY, -INFINITY}};
    const float good[3] = {1, -INFINITY, 2};
    const sobre_logit_bias all[] = {{0, -INFINITY}, {2, -INFINITY}};
    for (int t = 0; t < 2; t++) {
        int32_t id = 77;
        float logprob = 5;
        sampler *s = open_sampler(SOBRE(sampling, .temperature = (float)t), 3);
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(sampler_pick(s, bad[k], NULL, 0, &id, &logprob), SOBRE_NOT_FINITE);
        assert_int_equal(id, 77);
        assert_true(logprob == 5);
        for (int i = 0; i < 100; i++) assert_int_not_equal(pick(s, good), 1);
        sampler_close(s);
        s = open_sampler(SOBRE(sampling, .temperature = (float)t, .bias = all, .n_bias = 2), 3);
        assert_int_equal(sampler_pick(s, good, NULL, 0, &id, &logprob), SOBRE_NOT_FINITE);
        assert_non_null(strstr(sobre_error(ctx), "bias"));
        sampler_close(s);
    }
}

static void test_bad_options(void **state)
{
    const sobre_logit_bias far[] = {{5, 1}}, below[] = {{-1, 1}}, nan[] = {{0, NAN}},
                           inf[] = {{0, INFINITY}};
    const char *const empty[] = {"a", ""}, *const null[] = {NULL};
    const struct {
        sobre_sampling o;
        const char *word;
    } cases[] = {
        {{.temperature = -1}, "temperature"},
        {{.temperature = NAN}, "temperature"},
        {{.temperature = INFINITY}, "temperature"},
        {{.top_k = -1}, "top_k"},
        {{.top_p = 1.5f}, "top_p"},
        {{.top_p = -0.5f}, "top_p"},
        {{.min_p = 2}, "min_p"},
        {{.repetition_penalty = -1}, "repetition_penalty"},
        {{.presence_penalty = INFINITY}, "presence_penalty"},
        {{.frequency_penalty = NAN}, "frequency_penalty"},
        {{.max_tokens = -1}, "max_tokens"},
        {{.n_top = 65}, "n_top"},
        {{.n_bias = 1}, "bias"},
        {{.bias = far, .n_bias = 1}, "token 5"},
        {{.bias = below, .n_bias = 1}, "token -1"},
        {{.bias = nan, .n_bias = 1}, "bias 0"},
        {{.bias = inf, .n_bias = 1}, "bias 0"},
        {{.n_stop = 1}, "stop"},
        {{.stop = empty, .n_stop = 2}, "stop string 1"},
        {{.stop = null, .n_stop = 1}, "stop string 0"},
    };
    sampler *s = NULL;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        sobre_sampling o = cases[k].o;
        o.struct_size = sizeof o;
        assert_int_equal(sampler_open(ctx, &o, 5, &s), SOBRE_INVALID_ARGUMENT);
        assert_null(s);
        assert_non_null(strstr(sobre_error(ctx), cases[k].word));
    }
    sobre_sampling o = {.struct_size = 3};
    assert_int_equal(sampler_open(ctx, &o, 5, &s), SOBRE_INVALID_ARGUMENT);
}

/* Structs of older and newer callers; copies outlive what they were made of. */
static void test_options(void **state)
{
    char stop[] = "END", *stops[] = {stop};
    sobre_logit_bias bias[] = {{2, 50}};
    sampler *s = open_sampler(SOBRE(sampling, .stop = (const char *const *)stops, .n_stop = 1,
                                    .bias = bias, .n_bias = 1, .max_tokens = 9),
                              5);
    memset(stop, 'x', 3);
    stops[0] = NULL;
    bias[0] = (sobre_logit_bias){0, 90};
    assert_string_equal(sampler_options(s)->stop[0], "END");
    assert_int_equal(sampler_options(s)->max_tokens, 9);
    assert_int_equal(pick(s, five), 2);
    sampler_close(s);

    sobre_sampling o = {.struct_size = offsetof(sobre_sampling, top_k), .top_k = -7};
    s = open_sampler(&o, 5); /* top_k is past the end of this caller's struct */
    assert_int_equal(sampler_options(s)->top_k, 0);
    sampler_close(s);

    struct {
        sobre_sampling o;
        uint64_t more;
    } newer = {.o.struct_size = sizeof newer};
    s = open_sampler(&newer.o, 5);
    sampler_close(s);
    newer.more = 1;
    assert_int_equal(sampler_open(ctx, &newer.o, 5, &s), SOBRE_UNSUPPORTED);
}

/* --- On devices. */

static float param_float(const int32_t *params, int i)
{
    float x;
    memcpy(&x, &params[i], sizeof x);
    return x;
}

/* What a device is told. */
static void test_params(void **state)
{
    enum { N_VOCAB = 1000, N_HISTORY = 400 };
    const int32_t *adjust;
    int32_t params[SOBRE_SAMPLE_PARAMS_SIZE], history[N_HISTORY] = {7, 3, -1, 7, 1000, 9, 7};
    const sobre_logit_bias bias[] = {{7, -1.5f}, {2, -INFINITY}}, twice[] = {{7, 1}, {7, 1}};
    sampler *s =
        open_sampler(SOBRE(sampling, .temperature = 0.5f, .top_k = 9, .min_p = 0.25f,
                           .presence_penalty = 2, .penalty_last_n = -1, .bias = bias, .n_bias = 2),
                     N_VOCAB);
    sampler_params(s, history, 7, params);
    assert_int_equal(params[SOBRE_SAMPLE_MODE], SOBRE_SAMPLE_MODE_LIST);
    assert_true(param_float(params, SOBRE_SAMPLE_INV_TEMPERATURE) == 2);
    assert_int_equal(params[SOBRE_SAMPLE_TOP_K], 9);
    assert_true(param_float(params, SOBRE_SAMPLE_TOP_P) == 1);
    assert_true(param_float(params, SOBRE_SAMPLE_MIN_P) == 0.25f);
    assert_true(param_float(params, SOBRE_SAMPLE_REPETITION) == 1);
    assert_true(param_float(params, SOBRE_SAMPLE_PRESENCE) == 2);
    const struct {
        int32_t id, count;
        float bias;
    } want[] = {{7, 3, -1.5f}, {2, 0, -INFINITY}, {3, 1, 0}, {9, 1, 0}};
    assert_int_equal(params[SOBRE_SAMPLE_N_ADJUST], 4);
    for (int i = 0; i < 4; i++) {
        adjust = params + SOBRE_SAMPLE_ADJUST + i * SOBRE_SAMPLE_ADJUST_SIZE;
        assert_int_equal(adjust[SOBRE_SAMPLE_ADJUST_ID], want[i].id);
        assert_int_equal(adjust[SOBRE_SAMPLE_ADJUST_COUNT], want[i].count);
        assert_true(param_float(adjust, SOBRE_SAMPLE_ADJUST_BIAS) == want[i].bias);
    }
    /* More different tokens than there is room for, and then fewer again. */
    for (int i = 0; i < N_HISTORY; i++) history[i] = i;
    sampler_params(s, history, N_HISTORY, params);
    assert_int_equal(params[SOBRE_SAMPLE_MODE], SOBRE_SAMPLE_MODE_HOST);
    sampler_params(s, history, SOBRE_SAMPLE_MAX_ADJUST, params);
    assert_int_equal(params[SOBRE_SAMPLE_MODE], SOBRE_SAMPLE_MODE_LIST);
    assert_int_equal(params[SOBRE_SAMPLE_N_ADJUST], SOBRE_SAMPLE_MAX_ADJUST);
    sampler_close(s);

    const struct {
        sobre_sampling o;
        int32_t mode;
    } modes[] = {
        {{.top_k = 0}, SOBRE_SAMPLE_MODE_BEST},
        {{.n_top = 1}, SOBRE_SAMPLE_MODE_LIST},
        {{.temperature = 1, .top_k = 64}, SOBRE_SAMPLE_MODE_LIST},
        {{.temperature = 1, .top_k = 65}, SOBRE_SAMPLE_MODE_HOST},
        {{.temperature = 1, .top_k = N_VOCAB}, SOBRE_SAMPLE_MODE_LIST},
        {{.temperature = 1e-40f}, SOBRE_SAMPLE_MODE_HOST},
        {{.n_top = 1, .frequency_penalty = 1}, SOBRE_SAMPLE_MODE_HOST},
        {{.n_top = 1, .bias = bias, .n_bias = 1}, SOBRE_SAMPLE_MODE_HOST},
        {{.bias = twice, .n_bias = 2}, SOBRE_SAMPLE_MODE_HOST},
    };
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
        sobre_sampling o = modes[k].o;
        o.struct_size = sizeof o;
        s = open_sampler(&o, N_VOCAB);
        sampler_params(s, history, 3, params);
        assert_int_equal(params[SOBRE_SAMPLE_MODE], modes[k].mode);
        sampler_close(s);
    }
}

/* Each pick uses one random number up, whoever makes it and however often it is prepared. */
static void test_turns(void **state)
{
    int32_t params[SOBRE_SAMPLE_PARAMS_SIZE], result[SOBRE_SAMPLE_RESULT_SIZE] = {0}, id;
    const sobre_sampling *o = SOBRE(sampling, .temperature = 2, .seed = 3);
    sampler *host = open_sampler(o, 5), *mixed = open_sampler(o, 5);
    float logprob, uniform = -1;
    for (int i = 0; i < 60; i++) {
        int32_t want = pick(host, five);
        for (int again = 0; again < 1 + i % 2; again++) {
            sampler_params(mixed, NULL, 0, params);
            float next = param_float(params, SOBRE_SAMPLE_UNIFORM);
            assert_true(next >= 0 && next <= 1 && (next == uniform) == (again == 1));
            uniform = next;
        }
        result[SOBRE_SAMPLE_ID] = want;
        if (i % 3)
            assert_int_equal(sampler_take(mixed, result, &id, &logprob), SOBRE_OK);
        else
            id = pick(mixed, five);
        assert_int_equal(id, want);
    }
    result[SOBRE_SAMPLE_ID] = 5;
    assert_int_equal(sampler_take(mixed, result, &id, &logprob), SOBRE_DEVICE);
    result[SOBRE_SAMPLE_ID] = -1;
    assert_int_equal(sampler_take(mixed, result, &id, &logprob), SOBRE_DEVICE);
    sampler_close(host);
    sampler_close(mixed);
}

typedef enum certainty { ANY, PICKED, LEFT } certainty; /* LEFT: to the host */

static bool is_tiny; /* little enough for a simulator of devices */

enum { N_DEVICE_ROWS = 3, MAX_DEVICE_VOCAB = 70001 };

/* A SAMPLE node for rows of n_vocab logits. */
typedef struct device_node {
    rig rig;
    int32_t logits, params, out, n_vocab;
    int32_t n_picks, n_left; /* with top-k */
} device_node;

static bool open_node(device_node *d, rig_device *on, int32_t n_vocab)
{
    sobre_node node = rig_node(SOBRE_OP_SAMPLE);
    *d = (device_node){.n_vocab = n_vocab};
    rig_open(&d->rig, on, N_DEVICE_ROWS + 1, N_DEVICE_ROWS + 1);
    d->rig.no_poison = is_tiny;
    d->logits = rig_input(&d->rig, SOBRE_DIM_R, n_vocab);
    d->params = rig_input(&d->rig, SOBRE_DIM_R, SOBRE_SAMPLE_PARAMS_SIZE);
    d->out = rig_input(&d->rig, SOBRE_DIM_R, SOBRE_SAMPLE_RESULT_SIZE);
    d->rig.values[d->params].dtype = d->rig.values[d->out].dtype = SOBRE_I32;
    node.in[SOBRE_SAMPLE_LOGITS] = d->logits;
    node.in[SOBRE_SAMPLE_PARAMS] = d->params;
    node.out[0] = d->out;
    rig_add(&d->rig, &node);
    if (!rig_supported(&d->rig)) return false;
    rig_compile(&d->rig);
    return true;
}

/* Samples a few times by two samplers, alike: one only on the host, one on the device where it can.
 */
static void check_device(device_node *d, const sobre_sampling *o, const float *logits,
                         const int32_t *history, int32_t n_history, certainty expected)
{
    static int32_t params[N_DEVICE_ROWS][SOBRE_SAMPLE_PARAMS_SIZE];
    int32_t results[N_DEVICE_ROWS][SOBRE_SAMPLE_RESULT_SIZE];
    sampler *host[N_DEVICE_ROWS], *mixed[N_DEVICE_ROWS];
    sobre_sampling options = *o;
    options.struct_size = sizeof options;
    for (int r = 0; r < N_DEVICE_ROWS; r++) {
        options.seed = o->seed + (uint64_t)r;
        host[r] = open_sampler(&options, d->n_vocab);
        mixed[r] = open_sampler(&options, d->n_vocab);
    }
    rig_write(&d->rig, d->logits, logits, N_DEVICE_ROWS * (uint64_t)d->n_vocab * sizeof *logits);
    for (int turn = 0; turn < (o->temperature > 0 ? 3 : 1); turn++) {
        for (int r = 0; r < N_DEVICE_ROWS; r++)
            sampler_params(mixed[r], history, n_history, params[r]);
        rig_write(&d->rig, d->params, params, sizeof params);
        rig_run(&d->rig, N_DEVICE_ROWS, N_DEVICE_ROWS, NULL, 0);
        rig_read(&d->rig, d->out, results, sizeof results);
        for (int r = 0; r < N_DEVICE_ROWS; r++) {
            const float *x = logits + (size_t)r * (size_t)d->n_vocab;
            int32_t want = -1, id = -1;
            float want_logprob = 0, logprob = 0;
            size_t n_want, n;
            bool left = results[r][SOBRE_SAMPLE_STATUS] != SOBRE_SAMPLE_PICKED;
            if (expected != ANY) assert_int_equal(left, expected == LEFT);
            if (expected == ANY && o->top_k) { /* only rounding can be in the way */
                d->n_picks++;
                d->n_left += left;
            }
            sobre_status status =
                sampler_pick(host[r], x, history, n_history, &want, &want_logprob);
            assert_int_equal(left ? sampler_pick(mixed[r], x, history, n_history, &id, &logprob)
                                  : sampler_take(mixed[r], results[r], &id, &logprob),
                             status);
            if (status < 0) continue;
            assert_int_equal(id, want);
            assert_true(fabsf(logprob - want_logprob) <= 1e-5f * fmaxf(1, fabsf(logprob)));
            const sobre_token_prob *top = sampler_top(host[r], &n_want);
            const sobre_token_prob *got = sampler_top(mixed[r], &n);
            assert_int_equal(n, n_want);
            for (size_t i = 0; i < n; i++) {
                float a = top[i].logprob, b = got[i].logprob;
                assert_int_equal(got[i].id, top[i].id);
                assert_true(a == b || fabsf(a - b) <= 1e-5f * fmaxf(1, fabsf(a)));
            }
        }
    }
    rig_check_guards(&d->rig);
    for (int r = 0; r < N_DEVICE_ROWS; r++) {
        sampler_close(host[r]);
        sampler_close(mixed[r]);
    }
}

static void check_settings(device_node *d)
{
    static float logits[N_DEVICE_ROWS * MAX_DEVICE_VOCAB], bad[N_DEVICE_ROWS * MAX_DEVICE_VOCAB];
    const int32_t n = d->n_vocab, history[] = {0, 4, 4, -1, 4, 2, n - 1, n};
    const int32_t n_history = sizeof history / sizeof *history;
    const sobre_logit_bias bias[] = {{0, -INFINITY}, {n - 1, 2.5f}};
    const size_t size = N_DEVICE_ROWS * (size_t)n * sizeof *logits, total = size / sizeof *logits;
    certainty if_many = n > SOBRE_SAMPLE_KEEP + 1 ? LEFT : ANY;
    const struct {
        sobre_sampling o;
        certainty expected;
    } settings[] = {
        {{.top_k = 5}, PICKED},
        {{.n_top = 1}, PICKED},
        {{.n_top = 64}, PICKED},
        {{.bias = bias, .n_bias = 2}, PICKED},
        {{.repetition_penalty = 1.5f, .presence_penalty = 0.5f, .frequency_penalty = 1}, PICKED},
        {{.repetition_penalty = 1.5f, .n_top = 2}, LEFT},
        {{.temperature = 1, .top_k = 1}, ANY},
        {{.temperature = 1.5f, .top_k = 40, .n_top = 3}, ANY},
        {{.temperature = 0.7f, .top_k = 64, .top_p = 0.9f}, ANY},
        {{.temperature = 0.3f, .top_p = 0.8f}, ANY},
        {{.temperature = 0.25f}, ANY},
        {{.temperature = 1e30f, .top_k = 20}, ANY},
        {{.temperature = 0.5f, .min_p = 0.1f}, ANY},
        {{.temperature = 1e-6f, .n_top = 2}, ANY},
        {{.temperature = 0.8f,
          .top_k = 30,
          .top_p = 0.95f,
          .min_p = 0.01f,
          .repetition_penalty = 1.2f,
          .presence_penalty = 0.2f,
          .frequency_penalty = 0.1f,
          .penalty_last_n = -1,
          .bias = bias,
          .n_bias = 2},
         ANY},
        {{.temperature = 1, .top_k = 65}, if_many},
    };
    uint32_t random = 11;
    for (size_t i = 0; i < total; i++) {
        random = random * 1664525u + 1013904223u;
        float u = (float)(random >> 8) * 0x1p-24f;
        /* Peaks over a plain, ties, and a token that is forbidden. */
        logits[i] = u > 0.999f || i % 50 == 7 ? 12 * u : 4 * u;
        if (i >= 2 * (size_t)n) logits[i] = roundf(logits[i]);
        if (i % 97 == 31) logits[i] = -INFINITY;
    }
    const size_t step = is_tiny ? 7 : 1; /* of best tokens, of a list, of one with everything */
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k += step)
        check_device(d, &settings[k].o, logits, history, n_history, settings[k].expected);
    if (is_tiny) return;
    const float broken[] = {NAN, INFINITY};
    for (size_t k = 0; k < 2; k++) {
        memcpy(bad, logits, size);
        for (int r = 0; r < N_DEVICE_ROWS; r++) bad[r * n + r * (n - 1) / 2] = broken[k];
        check_device(d, &settings[0].o, bad, history, n_history, LEFT);
        check_device(d, &settings[6].o, bad, history, n_history, LEFT);
    }
    for (size_t i = 0; i < total; i++) bad[i] = -INFINITY;
    check_device(d, &settings[0].o, bad, history, n_history, LEFT);
    check_device(d, &settings[6].o, bad, history, n_history, LEFT);
    for (size_t i = 0; i < total; i++) bad[i] = 1;
    check_device(d, &settings[2].o, bad, history, n_history, PICKED);
}

/* Devices pick what the host does, or leave it to the host. */
static void test_devices(void **state)
{
    static rig_device devices[RIG_MAX_DEVICES];
    const int32_t n_vocab[] = {5, 2049, 2, 63, 65, 300, MAX_DEVICE_VOCAB};
    const size_t n_sizes = is_tiny ? 2 : sizeof n_vocab / sizeof *n_vocab;
    int32_t n = rig_devices(devices), n_tested = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!rig_is_possible(&devices[i])) continue;
        for (size_t k = 0; k < n_sizes; k++) {
            device_node d;
            if (open_node(&d, &devices[i], n_vocab[k])) {
                check_settings(&d);
                assert_true(d.n_left * 8 <= d.n_picks);
                n_tested++;
            }
            rig_close(&d.rig);
            rig_device_close(&devices[i]);
        }
    }
    if (n_tested > 0) return;
    print_message("SKIP: none of the devices in SOBRE_TEST_DEVICES samples\n");
    skip();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest devices[] = {cmocka_unit_test(test_devices)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_logprob),
        cmocka_unit_test(test_top_ties),    cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_top_k),       cmocka_unit_test(test_top_p),
        cmocka_unit_test(test_min_p),       cmocka_unit_test(test_bias),
        cmocka_unit_test(test_penalties),   cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_selection),   cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_bad_options), cmocka_unit_test(test_options),
        cmocka_unit_test(test_params),      cmocka_unit_test(test_turns),
        cmocka_unit_test(test_devices),
    };
    is_tiny = argc > 1 && !strcmp(argv[1], "--tiny");
    if (is_tiny) return cmocka_run_group_tests(devices, setup, teardown);
    return cmocka_run_group_tests(tests, setup, teardown);
}
