/* SPDX-License-Identifier: MIT */
/* Generation on a tiny model: greedy answers, batches, every way to finish, events, chats. */
#include "session_rig.h"

#include <math.h>
#include <stdlib.h>

/* next() picks what eval and argmax pick. */
static void test_greedy(void **state)
{
    enum { N = 20 };
    int32_t ids[8], want[N];
    answer a[8] = {{.text = ""}};
    sobre_session *s = open_session(NULL);
    test_ids(ids, 8, N_VOCAB, 5);
    assert_ok(ctx, eval(s, 0, ids, 8, SOBRE_WANT_LAST));
    for (int i = 0; i < N; i++) {
        want[i] = argmax(row(s, 0));
        assert_ok(ctx, eval(s, 0, &want[i], 1, SOBRE_WANT_LAST));
    }
    const sobre_event *e = NULL;
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);
    assert_null(e);
    assert_ok(ctx, sobre_session_sampling(s, 1, SOBRE(sampling, .max_tokens = N, .ignore_eos = 1)));
    assert_ok(ctx, sobre_session_prompt_ids(s, 1, ids, 8));
    assert_int_equal(sobre_seq_length(s, 1), 8);
    generate(s, a);
    assert_int_equal(a[1].n, N);
    assert_int_equal(a[1].finish, SOBRE_FINISH_LENGTH);
    assert_memory_equal(a[1].tokens, want, sizeof want);
    assert_int_equal(sobre_seq_length(s, 1), 8 + N);
    assert_memory_equal(sobre_seq_ids(s, 1) + 8, want, sizeof want);
    /* A new prompt goes on after the last token, which has not been evaluated yet. */
    float logits[N_VOCAB];
    assert_ok(ctx, eval(s, 0, ids, 3, SOBRE_WANT_LAST));
    memcpy(logits, row(s, 0), sizeof logits);
    assert_ok(ctx, eval(s, 1, ids, 3, SOBRE_WANT_LAST));
    for (int i = 0; i < N_VOCAB; i++) assert_float_equal(row(s, 0)[i], logits[i], 1e-2);
    sobre_session_close(s);
}

static void test_alone_and_in_a_batch(void **state)
{
    enum { N = 32 };
    answer together[8] = {{.text = ""}};
    const int32_t lengths[] = {1, 40, 7, 90, 3};
    const sobre_sampling *o = SOBRE(sampling, .max_tokens = N, .ignore_eos = 1);
    int32_t ids[100];
    sobre_session *s = open_session(NULL);
    test_ids(ids, 100, N_VOCAB, 6);
    for (int32_t i = 0; i < 5; i++) {
        assert_ok(ctx, sobre_session_sampling(s, i, o));
        assert_ok(ctx, sobre_session_prompt_ids(s, i, ids + i, (size_t)lengths[i]));
    }
    generate(s, together);
    for (int32_t i = 0; i < 5; i++) {
        answer alone[8] = {{.text = ""}};
        sobre_session *one = open_session(NULL);
        assert_ok(ctx, sobre_session_sampling(one, 0, o));
        assert_ok(ctx, sobre_session_prompt_ids(one, 0, ids + i, (size_t)lengths[i]));
        generate(one, alone);
        assert_int_equal(alone[0].n, N);
        assert_memory_equal(alone[0].tokens, together[i].tokens, N * sizeof(int32_t));
        assert_string_equal(alone[0].text, together[i].text);
        sobre_session_close(one);
    }
    sobre_session_close(s);
}

/* The model says what the bias makes it say. */
static const sobre_sampling *saying(sobre_logit_bias *bias, int32_t id, sobre_sampling *o)
{
    *bias = (sobre_logit_bias){id, 1e6f};
    o->struct_size = sizeof *o;
    o->bias = bias;
    o->n_bias = 1;
    return o;
}

static void test_finish(void **state)
{
    sobre_logit_bias bias;
    const char *const stop[] = {"no", "bbb"};
    const struct {
        sobre_sampling o;
        int32_t id;
        int32_t n;
        const char *text;
        sobre_finish finish;
    } cases[] = {
        {{.max_tokens = 5}, 'a', 5, "aaaaa", SOBRE_FINISH_LENGTH},
        {{.max_tokens = 5}, EOT, 1, "", SOBRE_FINISH_STOP},
        {{.max_tokens = 1}, EOT, 1, "", SOBRE_FINISH_STOP},
        {{.max_tokens = 4, .ignore_eos = 1}, EOT, 4, "", SOBRE_FINISH_LENGTH},
        {{.max_tokens = 9, .stop = stop, .n_stop = 2}, 'b', 3, "", SOBRE_FINISH_STRING},
        {{.max_tokens = 2, .stop = stop, .n_stop = 2}, 'b', 2, "bb", SOBRE_FINISH_LENGTH},
        {{.max_tokens = 2}, 0xe2, 2, "\xef\xbf\xbd\xef\xbf\xbd", SOBRE_FINISH_LENGTH},
    };
    sobre_session *s = open_session(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sobre_sampling o = cases[i].o;
        answer a[8] = {{.text = ""}};
        int32_t start = 65;
        assert_ok(ctx, sobre_seq_truncate(s, 2, 0));
        assert_ok(ctx, sobre_session_sampling(s, 2, saying(&bias, cases[i].id, &o)));
        assert_ok(ctx, sobre_session_prompt_ids(s, 2, &start, 1));
        generate(s, a);
        assert_int_equal(a[2].n, cases[i].n);
        assert_string_equal(a[2].text, cases[i].text);
        assert_int_equal(a[2].finish, cases[i].finish);
        assert_int_equal(sobre_seq_length(s, 2), 1 + cases[i].n);
    }
    sobre_session_close(s);
}

static void test_events(void **state)
{
    int32_t ids[4] = {72, 101, 108, 108};
    const sobre_event *e;
    sobre_session *s = open_session(SOBRE(session_options, .exact = 1));
    double sum = 0;
    assert_ok(ctx, eval(s, 1, ids, 4, SOBRE_WANT_LAST));
    const float *logits = row(s, 0);
    int32_t best = argmax(logits);
    for (int i = 0; i < N_VOCAB; i++) sum += exp((double)logits[i] - (double)logits[best]);
    assert_ok(ctx, sobre_session_sampling(s, 0, SOBRE(sampling, .n_top = 3, .ignore_eos = 1)));
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 4));
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->seq, 0);
    assert_int_equal(e->token, best);
    assert_float_equal(e->logprob, -log(sum), 1e-5);
    assert_int_equal(e->n_top, 3);
    assert_int_equal(e->top[0].id, best);
    assert_float_equal(e->top[0].logprob, e->logprob, 1e-6);
    assert_true(e->top[1].logprob >= e->top[2].logprob);
    /* Cutting a sequence ends its generation. */
    assert_ok(ctx, sobre_seq_truncate(s, 0, 2));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);
    /* And so does being overwritten; the others go on, though their events come from one step. */
    assert_ok(ctx, sobre_session_prompt_ids(s, 0, ids, 4));
    assert_ok(ctx, sobre_session_prompt_ids(s, 2, ids, 4));
    assert_ok(ctx, sobre_session_prompt_ids(s, 3, ids, 2));
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->seq, 0);
    assert_ok(ctx, sobre_seq_fork(s, 0, 2));
    assert_int_equal(sobre_seq_length(s, 2), 7);
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->seq, 3);
    assert_ok(ctx, sobre_session_next(s, -1, &e));
    assert_int_equal(e->seq, 0);
    sobre_session_close(s);
}

static void test_prompt_text(void **state)
{
    answer a[8] = {{.text = ""}};
    int32_t ids[64];
    size_t n;
    sobre_logit_bias bias;
    sobre_session *s = open_session(NULL);
    assert_ok(ctx, sobre_tokenize(model, "hello world", 11, 0, ids, 64, &n));
    assert_ok(ctx,
              sobre_session_sampling(s, 0, saying(&bias, '!', SOBRE(sampling, .max_tokens = 3))));
    assert_ok(ctx, sobre_session_prompt(s, 0, "hello world", 11, 0));
    assert_int_equal(sobre_seq_length(s, 0), (int32_t)n);
    assert_memory_equal(sobre_seq_ids(s, 0), ids, n * sizeof *ids);
    generate(s, a);
    assert_string_equal(a[0].text, "!!!");
    assert_int_equal(sobre_session_prompt(s, 0, NULL, 5, 0), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_prompt(s, 1, "", 0, SOBRE_TOKENIZE_NO_BOS),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_prompt_ids(s, 1, (int32_t[]){-3}, 1), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_prompt_ids(s, 9, ids, 1), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_seq_length(s, 1), 0);
    sobre_session_close(s);
}

/* The ids of a conversation are those of its whole text. */
static void test_chat(void **state)
{
    const char text[] = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n!!<|im_end|>\n"
                        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n";
    const sobre_message hi = {"user", "hi"}, bye = {"user", "bye"}, bad = {"nobody", "x"};
    int32_t ids[256];
    size_t n;
    sobre_logit_bias bias;
    assert_ok(ctx, sobre_tokenize(model, text, strlen(text), SOBRE_TOKENIZE_NO_BOS, ids, 256, &n));
    for (int ended = 0; ended < 2; ended++) {
        answer a[8] = {{.text = ""}};
        sobre_session *s = open_session(NULL);
        const int32_t end = EOT;
        assert_ok(ctx, sobre_session_sampling(
                           s, 0, saying(&bias, '!', SOBRE(sampling, .max_tokens = 2))));
        assert_ok(ctx, sobre_session_chat(s, 0, &hi, 1));
        generate(s, a);
        assert_string_equal(a[0].text, "!!");
        /* Whether the answer ended by itself, or was cut off. */
        if (ended) assert_ok(ctx, eval(s, 0, &end, 1, SOBRE_WANT_NONE));
        assert_int_equal(sobre_session_chat(s, 0, &bad, 1), SOBRE_INVALID_ARGUMENT);
        assert_int_equal(sobre_session_chat(s, 0, NULL, 0), SOBRE_INVALID_ARGUMENT);
        assert_ok(ctx, sobre_session_chat(s, 0, &bye, 1));
        int32_t length = sobre_seq_length(s, 0);
        assert_true(length == (int32_t)n || length == (int32_t)n + 1); /* BOS */
        assert_memory_equal(sobre_seq_ids(s, 0) + (length - (int32_t)n), ids, n * sizeof *ids);
        sobre_session_close(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_alone_and_in_a_batch),
        cmocka_unit_test(test_finish),      cmocka_unit_test(test_events),
        cmocka_unit_test(test_prompt_text), cmocka_unit_test(test_chat),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
