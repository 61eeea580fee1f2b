/* SPDX-License-Identifier: MIT */
/* Sessions on a tiny model: batches, sequences, full contexts, work in the background, cancelling,
 * reloading, bad input. What they say is in test_generate.c. */
#include "session_rig.h"

#include <math.h>
#include <poll.h>
#include <stdlib.h>

#include "os.h"

/* --- Batches. */

static void test_open(void **state)
{
    const struct {
        sobre_session_options o;
        sobre_status want;
    } cases[] = {
        {{.n_ctx = -1}, SOBRE_INVALID_ARGUMENT},
        {{.n_seq = -1}, SOBRE_INVALID_ARGUMENT},
        {{.n_seq = 1025}, SOBRE_INVALID_ARGUMENT},
        {{.n_chunk = -5}, SOBRE_INVALID_ARGUMENT},
        {{.n_ctx = 1 << 30}, SOBRE_INVALID_ARGUMENT},
        {{.kv_type = (sobre_kv_type)5}, SOBRE_INVALID_ARGUMENT},
        {{.kv_type = (sobre_kv_type)-1}, SOBRE_INVALID_ARGUMENT},
        {{.kv_type = SOBRE_KV_BF16}, SOBRE_OK},
        {{.kv_type = SOBRE_KV_Q8_0}, SOBRE_OK},
        {{.full = (sobre_full_policy)7}, SOBRE_INVALID_ARGUMENT},
        {{.full = SOBRE_FULL_SHIFT, .n_keep = 256}, SOBRE_INVALID_ARGUMENT},
        {{.n_ctx = 33, .n_seq = 2, .n_chunk = 1 << 20}, SOBRE_OK},
        {{.exact = 1}, SOBRE_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sobre_session *s = NULL;
        sobre_session_options o = cases[i].o;
        o.struct_size = sizeof o;
        assert_int_equal(sobre_session_open(model, &o, &s), cases[i].want);
        assert_true(!s == (cases[i].want < 0));
        sobre_session_close(s);
    }
    sobre_session_close(NULL);
    sobre_session_cancel(NULL);
    assert_int_equal(sobre_session_eval(NULL, NULL), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_seq_length(NULL, 0), -1);
}

static void test_eval(void **state)
{
    int32_t ids[10];
    sobre_session *s = open_session(NULL);
    const float *logits;
    test_ids(ids, 10, N_VOCAB, 1);
    assert_int_equal(sobre_seq_length(s, 0), 0);
    assert_int_equal(sobre_seq_length(s, 7), 0);
    assert_int_equal(sobre_seq_length(s, 8), -1);
    assert_int_equal(sobre_seq_length(s, -1), -1);
    assert_int_equal(sobre_session_logits(s, 0, &logits), SOBRE_INVALID_ARGUMENT);
    assert_ok(ctx, eval(s, 0, ids, 10, SOBRE_WANT_ALL));
    assert_int_equal(sobre_session_n_logits(s), 10);
    assert_int_equal(sobre_seq_length(s, 0), 10);
    assert_memory_equal(sobre_seq_ids(s, 0), ids, sizeof ids);
    float last[N_VOCAB];
    memcpy(last, row(s, 9), sizeof last);
    assert_int_equal(sobre_session_logits(s, 10, &logits), SOBRE_INVALID_ARGUMENT);
    assert_ok(ctx, eval(s, 1, ids, 10, SOBRE_WANT_LAST));
    assert_int_equal(sobre_session_n_logits(s), 1);
    assert_memory_equal(row(s, 0), last, sizeof last);
    assert_ok(ctx, eval(s, 1, ids, 1, SOBRE_WANT_NONE));
    assert_int_equal(sobre_session_n_logits(s), 0);
    sobre_session_close(s);
}

/* The bits of an exact session depend on nothing but the tokens. */
static void test_chunks(void **state)
{
    enum { N = 150 };
    int32_t ids[N];
    static float want[N * N_VOCAB];
    const int32_t chunks[] = {1, 7, 64, 256};
    test_ids(ids, N, N_VOCAB, 2);
    for (size_t k = 0; k < 4; k++) {
        sobre_session *s = open_session(SOBRE(session_options, .exact = 1, .n_chunk = chunks[k]));
        assert_ok(ctx, eval(s, 3, ids, N, SOBRE_WANT_ALL));
        for (int32_t i = 0; i < N; i++) {
            const float *logits = row(s, (size_t)i);
            if (k == 0)
                memcpy(want + i * N_VOCAB, logits, N_VOCAB * sizeof *want);
            else
                assert_memory_equal(logits, want + i * N_VOCAB, N_VOCAB * sizeof *want);
        }
        sobre_session_close(s);
    }
    /* Sequences of different lengths in one batch, cut by chunks anywhere; rows in order. */
    sobre_session *s = open_session(SOBRE(session_options, .exact = 1, .n_chunk = 32));
    const sobre_entry entries[] = {
        {5, 0, 70, SOBRE_WANT_LAST, ids, NULL},  {0, 0, 1, SOBRE_WANT_ALL, ids, NULL},
        {2, 0, 100, SOBRE_WANT_NONE, ids, NULL}, {7, 0, 3, SOBRE_WANT_ALL, ids, NULL},
        {1, 0, 40, SOBRE_WANT_NONE, ids, NULL},
    };
    const int32_t rows[] = {69, 0, 0, 1, 2};
    assert_ok(ctx, sobre_session_eval(s, SOBRE(batch, .entries = entries, .n_entries = 5)));
    assert_int_equal(sobre_session_n_logits(s), 5);
    for (size_t i = 0; i < 5; i++)
        assert_memory_equal(row(s, i), want + rows[i] * N_VOCAB, N_VOCAB * sizeof *want);
    assert_ok(ctx, eval(s, 2, ids + 100, 1, SOBRE_WANT_LAST));
    assert_memory_equal(row(s, 0), want + 100 * N_VOCAB, N_VOCAB * sizeof *want);
    sobre_session_close(s);
}

static void test_truncate_and_fork(void **state)
{
    enum { N = 100 };
    int32_t a[N], b[N];
    float want[N_VOCAB];
    sobre_stats stats = SOBRE_INIT(stats);
    sobre_session *s = open_session(SOBRE(session_options, .exact = 1)),
                  *fresh = open_session(SOBRE(session_options, .exact = 1));
    test_ids(a, N, N_VOCAB, 3);
    test_ids(b, N, N_VOCAB, 4);
    assert_ok(ctx, eval(s, 0, a, N, SOBRE_WANT_NONE));
    assert_ok(ctx, sobre_session_stats(s, &stats));
    uint64_t bytes = stats.kv_bytes;
    assert_true(bytes > 0);
    assert_ok(ctx, sobre_seq_fork(s, 0, 1));
    assert_ok(ctx, sobre_seq_fork(s, 1, 2));
    assert_ok(ctx, sobre_seq_fork(s, 2, 2));
    assert_ok(ctx, sobre_session_stats(s, &stats));
    assert_true(stats.kv_bytes == bytes); /* a fork shares */
    assert_ok(ctx, sobre_seq_truncate(s, 2, 30));
    assert_int_equal(sobre_seq_length(s, 2), 30);
    /* Each goes its own way from pages that were shared. */
    assert_ok(ctx, eval(s, 2, b, 20, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(s, 1, b, 10, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(s, 0, b + 50, 1, SOBRE_WANT_LAST));
    memcpy(want, row(s, 0), sizeof want);
    assert_ok(ctx, eval(fresh, 0, a, N, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(fresh, 0, b + 50, 1, SOBRE_WANT_LAST));
    assert_memory_equal(row(fresh, 0), want, sizeof want);

    assert_ok(ctx, eval(s, 1, b + 10, 1, SOBRE_WANT_LAST));
    memcpy(want, row(s, 0), sizeof want);
    assert_ok(ctx, eval(fresh, 1, a, N, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(fresh, 1, b, 11, SOBRE_WANT_LAST));
    assert_memory_equal(row(fresh, 0), want, sizeof want);

    assert_ok(ctx, eval(s, 2, b + 20, 1, SOBRE_WANT_LAST));
    memcpy(want, row(s, 0), sizeof want);
    assert_ok(ctx, eval(fresh, 2, a, 30, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(fresh, 2, b, 21, SOBRE_WANT_LAST));
    assert_memory_equal(row(fresh, 0), want, sizeof want);

    assert_int_equal(sobre_seq_truncate(s, 0, 999), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_seq_truncate(s, 0, -1), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_seq_truncate(s, 8, 0), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_seq_fork(s, 0, 8), SOBRE_INVALID_ARGUMENT);
    for (int32_t i = 0; i < 3; i++) assert_ok(ctx, sobre_seq_truncate(s, i, 0));
    assert_ok(ctx, sobre_session_stats(s, &stats));
    assert_true(stats.kv_bytes == 0);
    sobre_session_close(s);
    sobre_session_close(fresh);
}

static void test_bad_batches(void **state)
{
    int32_t ids[300] = {1, 2, 3}, high[] = {1, N_VOCAB}, low[] = {-1};
    float embd[64] = {0};
    const struct {
        sobre_entry e;
        sobre_status want;
        const char *word;
    } cases[] = {
        {{8, 0, 1, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "sequence 8"},
        {{-1, 0, 1, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "sequence -1"},
        {{1, 3, 0, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "no tokens"},
        {{1, 3, -4, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "no tokens"},
        {{1, 2, 1, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "pos is 2"},
        {{1, 3, 1, 0, NULL, NULL}, SOBRE_INVALID_ARGUMENT, "either"},
        {{1, 3, 1, 0, ids, embd}, SOBRE_INVALID_ARGUMENT, "either"},
        {{1, 3, 1, (sobre_want)5, ids, NULL}, SOBRE_INVALID_ARGUMENT, "logits"},
        {{1, 3, 2, 0, high, NULL}, SOBRE_INVALID_ARGUMENT, "300"},
        {{1, 3, 1, 0, low, NULL}, SOBRE_INVALID_ARGUMENT, "-1"},
        {{1, 3, 254, 0, ids, NULL}, SOBRE_CONTEXT_FULL, "256"},
        {{0, 0, 1, 0, ids, NULL}, SOBRE_INVALID_ARGUMENT, "earlier"},
    };
    sobre_session *s = open_session(NULL);
    assert_ok(ctx, eval(s, 1, ids, 3, SOBRE_WANT_NONE));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const sobre_entry entries[] = {{0, 0, 3, SOBRE_WANT_LAST, ids, NULL}, cases[i].e};
        const sobre_batch *b = SOBRE(batch, .entries = entries, .n_entries = 2);
        assert_int_equal(sobre_session_eval(s, b), cases[i].want);
        assert_non_null(strstr(sobre_error(ctx), cases[i].word));
        assert_int_equal(sobre_session_submit(s, b), cases[i].want);
        assert_int_equal(sobre_seq_length(s, 0), 0);
        assert_int_equal(sobre_seq_length(s, 1), 3);
    }
    assert_int_equal(sobre_session_eval(s, NULL), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_eval(s, SOBRE(batch, .n_entries = 1)), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_wait(s, 0), SOBRE_INVALID_ARGUMENT);
    /* Still usable, up to the last position. */
    assert_ok(ctx, eval(s, 1, ids, 253, SOBRE_WANT_LAST));
    assert_int_equal(eval(s, 1, ids, 1, SOBRE_WANT_LAST), SOBRE_CONTEXT_FULL);
    assert_int_equal(sobre_seq_length(s, 1), 256);
    sobre_session_close(s);
}

static void test_stats(void **state)
{
    int32_t ids[70];
    sobre_stats stats = SOBRE_INIT(stats);
    sobre_session *s = open_session(SOBRE(session_options, .n_chunk = 32));
    test_ids(ids, 70, N_VOCAB, 9);
    assert_ok(ctx, eval(s, 0, ids, 70, SOBRE_WANT_LAST));
    assert_ok(ctx, eval(s, 0, ids, 1, SOBRE_WANT_LAST));
    assert_ok(ctx, sobre_session_stats(s, &stats));
    assert_true(stats.n_prefill == 70 && stats.n_decode == 1 && stats.n_evals == 4);
    assert_true(stats.prefill_ns > 0 && stats.decode_ns > 0 && stats.n_launches > 0);
    assert_int_equal(sobre_session_stats(s, NULL), SOBRE_INVALID_ARGUMENT);
    sobre_session_close(s);
}

/* --- Full contexts. */

static void test_full_error(void **state)
{
    int32_t ids[64], start = 66;
    answer a[8] = {{.text = ""}};
    const sobre_event *e;
    sobre_session *s = open_session(SOBRE(session_options, .n_ctx = 40));
    test_ids(ids, 64, N_VOCAB, 8);
    assert_int_equal(sobre_session_prompt_ids(s, 0, ids, 40), SOBRE_CONTEXT_FULL);
    assert_non_null(strstr(sobre_error(ctx), "40"));
    assert_int_equal(sobre_seq_length(s, 0), 0);
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);
    const sobre_sampling *o = SOBRE(sampling, .ignore_eos = 1);
    assert_ok(ctx, sobre_session_sampling(s, 0, o));
    assert_ok(ctx, sobre_session_sampling(s, 1, o));
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 39));
    assert_ok(ctx, sobre_session_prompt_ids(s, 1, &start, 1));
    generate(s, a);
    assert_int_equal(a[0].n, 1);
    assert_int_equal(a[0].finish, SOBRE_FINISH_FULL);
    assert_int_equal(a[1].n, 39);
    assert_int_equal(a[1].finish, SOBRE_FINISH_FULL);
    assert_int_equal(sobre_seq_length(s, 1), 40);
    assert_int_equal(sobre_session_prompt_ids(s, 1, ids, 1), SOBRE_CONTEXT_FULL);
    /* A generating sequence that somebody else fills up ends without a token. */
    assert_ok(ctx, sobre_session_prompt_ids(s, 2, ids, 10));
    assert_ok(ctx, eval(s, 2, ids, 30, SOBRE_WANT_NONE));
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->token, -1);
    assert_int_equal(e->finish, SOBRE_FINISH_FULL);
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);
    sobre_session_close(s);
}

static void test_full_shift(void **state)
{
    enum { N_CTX = 40, N_KEEP = 4 };
    int32_t ids[64], want[64];
    float logits[N_VOCAB];
    answer a[8] = {{.text = ""}};
    const sobre_session_options *o = SOBRE(session_options, .n_ctx = N_CTX, .exact = 1,
                                           .full = SOBRE_FULL_SHIFT, .n_keep = N_KEEP);
    sobre_session *s = open_session(o), *fresh = open_session(o);
    test_ids(ids, 64, N_VOCAB, 8);
    /* Evaluation: the first 4 and the newer half of the other 36, then the new one. */
    assert_ok(ctx, eval(s, 0, ids, N_CTX, SOBRE_WANT_NONE));
    assert_ok(ctx, eval(s, 0, ids + 50, 1, SOBRE_WANT_LAST));
    assert_int_equal(sobre_seq_length(s, 0), N_KEEP + 18 + 1);
    memcpy(want, ids, N_KEEP * sizeof *ids);
    memcpy(want + N_KEEP, ids + N_CTX - 18, 18 * sizeof *ids);
    want[N_KEEP + 18] = ids[50];
    assert_memory_equal(sobre_seq_ids(s, 0), want, (N_KEEP + 19) * sizeof *want);
    memcpy(logits, row(s, 0), sizeof logits);
    assert_ok(ctx, eval(fresh, 0, want, N_KEEP + 19, SOBRE_WANT_LAST));
    assert_memory_equal(row(fresh, 0), logits, sizeof logits);
    /* More than n_keep leaves room for is an error, and changes nothing. */
    assert_int_equal(eval(s, 0, ids, 37, SOBRE_WANT_NONE), SOBRE_CONTEXT_FULL);
    assert_int_equal(sobre_seq_length(s, 0), N_KEEP + 19);
    assert_ok(ctx, eval(s, 0, ids, 36, SOBRE_WANT_NONE));
    assert_int_equal(sobre_seq_length(s, 0), N_CTX);
    /* A cancelled call takes the shift back. */
    memcpy(want, sobre_seq_ids(s, 0), N_CTX * sizeof *want);
    sobre_session_cancel(s);
    assert_int_equal(eval(s, 0, ids, 1, SOBRE_WANT_LAST), SOBRE_CANCELLED);
    assert_int_equal(sobre_seq_length(s, 0), N_CTX);
    assert_memory_equal(sobre_seq_ids(s, 0), want, N_CTX * sizeof *want);
    assert_ok(ctx, eval(s, 0, ids, 1, SOBRE_WANT_LAST));
    /* Generation goes on past the context; a prompt makes room for itself. */
    assert_ok(ctx,
              sobre_session_sampling(s, 1, SOBRE(sampling, .max_tokens = 150, .ignore_eos = 1)));
    assert_ok(ctx, sobre_session_prompt_ids(s, 1, ids, 30));
    generate(s, a);
    assert_int_equal(a[1].n, 150);
    assert_int_equal(a[1].finish, SOBRE_FINISH_LENGTH);
    int32_t length = sobre_seq_length(s, 1);
    assert_true(length > N_KEEP && length <= N_CTX);
    assert_memory_equal(sobre_seq_ids(s, 1), ids, N_KEEP * sizeof *ids);
    assert_memory_equal(sobre_seq_ids(s, 1) + N_KEEP, a[1].tokens + 150 - (length - N_KEEP),
                        (size_t)(length - N_KEEP) * sizeof *ids);
    assert_ok(ctx, sobre_session_prompt_ids(s, 1, ids, 35));
    assert_int_equal(sobre_session_prompt_ids(s, 1, ids, 36), SOBRE_CONTEXT_FULL);
    sobre_session_close(s);
    sobre_session_close(fresh);
}

/* --- In the background. */

static void test_submit(void **state)
{
    enum { N = 200 };
    int32_t ids[N], own[N];
    float want[N_VOCAB];
    const float *logits;
    const sobre_event *e;
    sobre_stats stats = SOBRE_INIT(stats);
    sobre_session *s = open_session(SOBRE(session_options, .exact = 1, .n_chunk = 16));
    test_ids(ids, N, N_VOCAB, 11);
    memcpy(own, ids, sizeof own);
    assert_ok(ctx, eval(s, 0, ids, N, SOBRE_WANT_LAST));
    memcpy(want, row(s, 0), sizeof want);
    sobre_entry entry = {1, 0, N, SOBRE_WANT_LAST, own, NULL};
    for (int round = 0; round < 3; round++) {
        struct pollfd fd = {.fd = sobre_session_fd(s), .events = POLLIN};
        assert_true(fd.fd >= 0);
        assert_int_equal(poll(&fd, 1, 0), 1); /* nothing runs */
        memcpy(own, ids, sizeof own);
        assert_ok(ctx, sobre_session_submit(s, SOBRE(batch, .entries = &entry, .n_entries = 1)));
        memset(own, 0xff, sizeof own); /* it was copied */
        /* Meanwhile the session is the batch's. */
        assert_int_equal(sobre_session_eval(s, SOBRE(batch, .entries = &entry, .n_entries = 1)),
                         SOBRE_INVALID_ARGUMENT);
        assert_non_null(strstr(sobre_error(ctx), "sobre_session_wait"));
        assert_int_equal(sobre_session_next(s, 0, &e), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_session_logits(s, 0, &logits), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_seq_truncate(s, 0, 0), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_seq_fork(s, 0, 1), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_session_prompt_ids(s, 2, ids, 1), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_session_sampling(s, 2, NULL), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_session_stats(s, &stats), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_seq_length(s, 1), 0);
        assert_null(sobre_seq_ids(s, 1));
        if (round == 0) {
            assert_int_equal(poll(&fd, 1, 60000), 1);
            assert_ok(ctx, sobre_session_wait(s, 0));
        } else if (round == 1) {
            sobre_status status;
            while ((status = sobre_session_wait(s, 1)) == SOBRE_AGAIN) continue;
            assert_ok(ctx, status);
        } else {
            assert_ok(ctx, sobre_session_wait(s, -1));
        }
        assert_memory_equal(row(s, 0), want, sizeof want);
        assert_int_equal(sobre_seq_length(s, 1), N);
        assert_ok(ctx, sobre_seq_truncate(s, 1, 0));
    }
    /* Errors come with their message to the waiting thread. */
    assert_ok(ctx,
              sobre_session_submit(
                  s, SOBRE(batch, .entries = &(sobre_entry){.seq = 1, .n_tokens = N, .ids = ids},
                           .n_entries = 1)));
    sobre_session_cancel(s);
    sobre_status status = sobre_session_wait(s, -1);
    if (status < 0) {
        assert_int_equal(status, SOBRE_CANCELLED);
        assert_non_null(strstr(sobre_error(ctx), "cancel"));
        assert_int_equal(sobre_seq_length(s, 1), 0);
    }
    /* Closing while a batch runs. */
    assert_ok(ctx, sobre_seq_truncate(s, 1, 0));
    assert_ok(ctx,
              sobre_session_submit(
                  s, SOBRE(batch, .entries = &(sobre_entry){.seq = 1, .n_tokens = N, .ids = ids},
                           .n_entries = 1)));
    sobre_session_close(s);
}

/* poll() and next(0), once a readiness, give what next(-1) gives. */
static void test_poll(void **state)
{
    int32_t ids[20];
    answer want[8] = {{.text = ""}};
    test_ids(ids, 20, N_VOCAB, 12);
    for (int way = 0; way < 3; way++) {
        answer a[8] = {{.text = ""}};
        const sobre_event *e;
        sobre_status status;
        sobre_session *s = open_session(NULL);
        struct pollfd fd = {.fd = sobre_session_fd(s), .events = POLLIN};
        for (int32_t i = 0; i < 3; i++) {
            assert_ok(ctx, sobre_session_sampling(s, i,
                                                  SOBRE(sampling, .max_tokens = 10 + i,
                                                        .temperature = 1, .seed = (uint64_t)i,
                                                        .n_top = 2, .ignore_eos = 1)));
            assert_ok(ctx, sobre_session_prompt_ids(s, i, ids, (size_t)(3 + 5 * i)));
        }
        if (way == 0) {
            generate(s, want);
        } else {
            do {
                if (way == 1) assert_int_equal(poll(&fd, 1, 60000), 1);
                status = sobre_session_next(s, way == 1 ? 0 : 3, &e);
                if (status == SOBRE_OK) add_event(&a[e->seq], e);
            } while (status == SOBRE_OK || status == SOBRE_AGAIN);
            assert_int_equal(status, SOBRE_DONE);
            for (int i = 0; i < 3; i++) {
                assert_int_equal(a[i].n, 10 + i);
                assert_memory_equal(a[i].tokens, want[i].tokens, sizeof a[i].tokens);
                assert_string_equal(a[i].text, want[i].text);
                assert_int_equal(a[i].finish, SOBRE_FINISH_LENGTH);
            }
        }
        sobre_session_close(s);
    }
    /* Closing in the middle of a step. */
    const sobre_event *e;
    sobre_session *s = open_session(NULL);
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 20));
    sobre_status status = sobre_session_next(s, 0, &e);
    assert_true(status == SOBRE_AGAIN || status == SOBRE_OK);
    sobre_session_close(s);
}

/* --- Cancelling. */

typedef struct canceller {
    sobre_session *session;
    atomic_int stop;
} canceller;

static void cancel_often(void *arg)
{
    canceller *c = arg;
    while (!atomic_load(&c->stop)) {
        sobre_session_cancel(c->session);
        uint64_t until = os_now_ns() + 300000;
        while (os_now_ns() < until) continue;
    }
}

static void test_cancel(void **state)
{
    enum { N = 60 };
    int32_t ids[200];
    answer want[8] = {{0}}, a = {0};
    const sobre_event *e;
    const sobre_sampling *o = SOBRE(sampling, .max_tokens = N, .ignore_eos = 1);
    test_ids(ids, 200, N_VOCAB, 13);
    sobre_session *s = open_session(NULL);
    assert_ok(ctx, sobre_session_sampling(s, 0, o));
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 150));
    generate(s, want);

    /* The next call is cancelled, and only that. */
    sobre_session_cancel(s);
    assert_int_equal(eval(s, 1, ids, 200, SOBRE_WANT_LAST), SOBRE_CANCELLED);
    assert_non_null(strstr(sobre_error(ctx), "cancel"));
    assert_int_equal(sobre_seq_length(s, 1), 0);
    assert_ok(ctx, eval(s, 1, ids, 20, SOBRE_WANT_LAST));
    sobre_session_cancel(s);
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_CANCELLED);
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);

    /* From another thread, again and again: what was generated stays, and in the end it is the
     * same. */
    canceller c = {.session = s};
    assert_ok(ctx, sobre_session_sampling(s, 2, o));
    assert_ok(ctx, sobre_session_prompt_ids(s, 2, ids, 150));
    os_thread *thread = os_thread_start(cancel_often, &c);
    assert_non_null(thread);
    sobre_status status;
    int n_cancelled = 0;
    while ((status = sobre_session_next(s, a.n % 2 ? -1 : 5, &e)) != SOBRE_DONE) {
        if (status == SOBRE_OK) add_event(&a, e);
        if (status == SOBRE_CANCELLED && ++n_cancelled == 40) atomic_store(&c.stop, 1);
        assert_true(status >= 0 || status == SOBRE_CANCELLED);
    }
    atomic_store(&c.stop, 1);
    os_thread_join(thread);
    assert_true(n_cancelled > 0);
    assert_int_equal(a.n, N);
    assert_memory_equal(a.tokens, want[0].tokens, sizeof a.tokens);
    assert_string_equal(a.text, want[0].text);
    sobre_session_close(s);
}

/* --- Loading and unloading. */

static void test_reload(void **state)
{
    enum { N = 30 };
    int32_t ids[100];
    float want[N_VOCAB];
    answer whole[8] = {{0}}, a = {0};
    const sobre_event *e;
    const sobre_sampling *o = SOBRE(sampling, .max_tokens = N, .ignore_eos = 1);
    test_model t =
        test_model_make(gguf_make_llama(NULL), NULL, SOBRE(fit_options, .n_ctx = 256, .n_seq = 4));
    sobre_session *s = NULL, *other = NULL;
    test_ids(ids, 100, N_VOCAB, 14);
    assert_ok(t.ctx, sobre_session_open(t.model, SOBRE(session_options, .exact = 1), &s));
    assert_ok(t.ctx, sobre_session_sampling(s, 0, o));
    assert_ok(t.ctx, sobre_session_prompt_ids(s, 0, ids, 90));
    generate(s, whole);
    assert_ok(t.ctx, eval(s, 1, ids, 70, SOBRE_WANT_NONE));
    assert_ok(t.ctx, eval(s, 1, ids, 1, SOBRE_WANT_LAST));
    memcpy(want, row(s, 0), sizeof want);
    assert_ok(t.ctx, sobre_seq_truncate(s, 1, 70));
    assert_ok(t.ctx, sobre_session_sampling(s, 2, o));
    assert_ok(t.ctx, sobre_session_prompt_ids(s, 2, ids, 90));
    for (int i = 0; i < 10; i++) {
        assert_ok(t.ctx, sobre_session_next(s, -1, &e));
        add_event(&a, e);
    }

    assert_ok(t.ctx, sobre_model_unload(t.model));
    assert_int_equal(sobre_session_open(t.model, NULL, &other), SOBRE_INVALID_ARGUMENT);
    assert_non_null(strstr(sobre_error(t.ctx), "sobre_model_load"));
    assert_int_equal(eval(s, 1, ids, 1, SOBRE_WANT_LAST), SOBRE_UNAVAILABLE);
    assert_non_null(strstr(sobre_error(t.ctx), "sobre_model_load"));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_UNAVAILABLE);
    assert_int_equal(sobre_seq_length(s, 1), 70);
    assert_int_equal(sobre_seq_length(s, 2), 100);

    assert_ok(t.ctx, sobre_model_load(t.model, SOBRE(fit_options, .n_ctx = 64), NULL));
    assert_ok(t.ctx, eval(s, 1, ids, 1, SOBRE_WANT_LAST));
    assert_memory_equal(row(s, 0), want, sizeof want);
    sobre_status status;
    while ((status = sobre_session_next(s, -1, &e)) == SOBRE_OK) add_event(&a, e);
    assert_int_equal(status, SOBRE_DONE);
    assert_int_equal(a.n, N);
    assert_memory_equal(a.tokens, whole[0].tokens, sizeof a.tokens);
    /* A session outlives the caller's reference to its model, loaded or not. */
    assert_ok(t.ctx, sobre_model_unload(t.model));
    test_model_close(&t);
    sobre_session_close(s);
}

static void test_not_finite(void **state)
{
    gguf_make *g = gguf_make_llama(NULL);
    make_tensor *norm = gguf_make_tensor_find(g, "output_norm.weight");
    float huge = 3e38f;
    for (size_t i = 0; i < norm->size; i += sizeof huge) memcpy(norm->data + i, &huge, sizeof huge);
    test_model t = test_model_make(g, NULL, NULL);
    sobre_session *s = NULL;
    const sobre_event *e;
    int32_t ids[3] = {1, 2, 3};
    assert_ok(t.ctx, sobre_session_open(t.model, NULL, &s));
    assert_ok(t.ctx, eval(s, 0, ids, 3, SOBRE_WANT_NONE));
    assert_int_equal(eval(s, 0, ids, 3, SOBRE_WANT_LAST), SOBRE_NOT_FINITE);
    assert_int_equal(sobre_seq_length(s, 0), 3);
    assert_int_equal(sobre_session_n_logits(s), 0);
    assert_ok(t.ctx, sobre_session_prompt_ids(s, 0, ids, 1));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_NOT_FINITE);
    assert_int_equal(sobre_session_next(s, 1000, &e), SOBRE_NOT_FINITE);
    assert_non_null(strstr(sobre_error(t.ctx), "NaN"));
    sobre_session_close(s);
    test_model_close(&t);
}

/* A forbidding bias is an error of that step; the sequence can go on with other settings. */
static void test_nothing_to_draw(void **state)
{
    sobre_logit_bias all[N_VOCAB];
    const sobre_event *e;
    int32_t ids[3] = {1, 2, 3};
    sobre_session *s = open_session(NULL);
    for (int32_t i = 0; i < N_VOCAB; i++) all[i] = (sobre_logit_bias){i, -INFINITY};
    assert_ok(ctx, sobre_session_sampling(s, 0, SOBRE(sampling, .bias = all, .n_bias = N_VOCAB)));
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 3));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_NOT_FINITE);
    assert_int_equal(sobre_seq_length(s, 0), 3);
    assert_ok(ctx, eval(s, 1, ids, 3, SOBRE_WANT_LAST));
    int32_t best = argmax(row(s, 0));
    assert_ok(ctx, sobre_session_sampling(s, 0, NULL));
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->token, best);
    sobre_session_close(s);
}

/* Two sessions of one model on two threads. */
typedef struct side {
    sobre_session *session;
    int32_t ids[40];
    answer answers[8];
    sobre_status status;
} side;

static void run_side(void *arg)
{
    side *x = arg;
    const sobre_event *e;
    while ((x->status = sobre_session_next(x->session, -1, &e)) == SOBRE_OK)
        if (e->token >= 0) x->answers[e->seq].tokens[x->answers[e->seq].n++] = e->token;
}

static void test_side_by_side(void **state)
{
    static side sides[3];
    os_thread *threads[2];
    memset(sides, 0, sizeof sides);
    for (int k = 0; k < 3; k++) { /* the third is the first again, alone */
        side *x = &sides[k];
        x->session = open_session(NULL);
        test_ids(x->ids, 40, N_VOCAB, (uint32_t)(20 + k % 2));
        assert_ok(ctx, sobre_session_sampling(x->session, 0,
                                              SOBRE(sampling, .max_tokens = 60, .ignore_eos = 1)));
        assert_ok(ctx, sobre_session_prompt_ids(x->session, 0, x->ids, 40));
    }
    for (int k = 0; k < 2; k++) {
        threads[k] = os_thread_start(run_side, &sides[k]);
        assert_non_null(threads[k]);
    }
    for (int k = 0; k < 2; k++) os_thread_join(threads[k]);
    run_side(&sides[2]);
    for (int k = 0; k < 3; k++) {
        assert_int_equal(sides[k].status, SOBRE_DONE);
        assert_int_equal(sides[k].answers[0].n, 60);
        sobre_session_close(sides[k].session);
    }
    assert_memory_equal(sides[0].answers[0].tokens, sides[2].answers[0].tokens,
                        60 * sizeof(int32_t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),         cmocka_unit_test(test_eval),
        cmocka_unit_test(test_chunks),       cmocka_unit_test(test_truncate_and_fork),
        cmocka_unit_test(test_bad_batches),  cmocka_unit_test(test_stats),
        cmocka_unit_test(test_full_error),   cmocka_unit_test(test_full_shift),
        cmocka_unit_test(test_submit),       cmocka_unit_test(test_poll),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_reload),
        cmocka_unit_test(test_not_finite),   cmocka_unit_test(test_nothing_to_draw),
        cmocka_unit_test(test_side_by_side),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
