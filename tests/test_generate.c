/* SPDX-License-Identifier: MIT */
/* Generation on a tiny model: greedy answers, batches, every way to finish, events, chats. */
#include "session_rig.h"

#include <math.h>
#include <stdlib.h>

#include "context.h"
#include "null.h"

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

/* --- On a device that samples: the null one, whose logits are all 0. */

typedef struct sampling_device {
    null_control control;
    sobre_context *ctx;
    sobre_model *model;
    sobre_session *session;
    void *bytes;
} sampling_device;

static void open_device(sampling_device *d, bool host_visible)
{
    int32_t number = 0;
    size_t size;
    gguf_make *g = gguf_make_llama(NULL);
    *d = (sampling_device){.control = {.samples = true, .host_visible = host_visible}};
    assert_int_equal(sobre_context_open(NULL, &d->ctx), SOBRE_OK);
    context_null_control_set(d->ctx, &d->control);
    assert_ok(d->ctx, sobre_device_get(d->ctx, "null", 0, &number, NULL));
    d->bytes = gguf_make_bytes(g, &size);
    gguf_make_free(g);
    assert_ok(d->ctx, sobre_model_open(d->ctx, SOBRE(source, .data = d->bytes, .data_size = size),
                                       &d->model));
    assert_ok(d->ctx, sobre_model_load(d->model,
                                       SOBRE(fit_options, .device = number, .n_ctx = 256,
                                             .n_seq = 3, .n_chunk = 64),
                                       NULL));
    assert_ok(d->ctx, sobre_session_open(d->model, NULL, &d->session));
}

static void close_device(sampling_device *d)
{
    sobre_session_close(d->session);
    sobre_model_close(d->model);
    sobre_context_close(d->ctx);
    assert_int_equal(d->control.n_buffers + d->control.n_execs + d->control.n_devices, 0);
    free(d->bytes);
}

static int64_t count_calls(const null_control *control, int64_t from, null_call call)
{
    int64_t n = 0;
    for (int64_t i = from; i < control->n_calls && i < NULL_LOG_SIZE; i++)
        n += control->log[i] == call;
    return n;
}

/* A token costs one read; a row that the host picks from, one more; none if it can look. */
static void check_device_samples(bool host_visible)
{
    const sobre_logit_bias bias[] = {{5, 1}};
    const sobre_sampling *options[] = {
        SOBRE(sampling, .ignore_eos = 1),
        SOBRE(sampling, .ignore_eos = 1, .bias = bias, .n_bias = 1, .n_top = 2),
        SOBRE(sampling, .ignore_eos = 1, .temperature = 1, .top_k = 3, .n_top = 2),
    };
    const int32_t want[] = {0, 5, 0}; /* the second is beyond a device */
    const sobre_event *e;
    sampling_device d;
    int32_t ids[100];
    open_device(&d, host_visible);
    test_ids(ids, 100, N_VOCAB, 3);
    for (int32_t i = 0; i < 3; i++) {
        assert_ok(d.ctx, sobre_session_sampling(d.session, i, options[i]));
        assert_ok(d.ctx, sobre_session_prompt_ids(d.session, i, ids, i == 2 ? 100 : 4));
    }
    for (int step = 0; step < 4; step++) {
        int64_t before = d.control.n_calls;
        for (int32_t i = 0; i < 3; i++) {
            assert_ok(d.ctx, sobre_session_next(d.session, -1, &e));
            assert_int_equal(e->seq, i);
            assert_int_equal(e->token, want[i]);
            assert_int_equal(e->n_top, i ? 2 : 0);
            if (i == 1) assert_float_equal(e->logprob, -log(N_VOCAB), 1e-4);
            if (i == 1) assert_int_equal(e->top[1].id, 1);
        }
        if (step > 0)
            assert_int_equal(count_calls(&d.control, before, NULL_CALL_READ), host_visible ? 0 : 2);
        assert_int_equal(sobre_session_n_logits(d.session), 0);
    }
    assert_true(d.control.n_ops[SOBRE_OP_SAMPLE] >= 4);
    /* What is evaluated by hand still gives logits. */
    int64_t n_samples = d.control.n_ops[SOBRE_OP_SAMPLE];
    assert_ok(d.ctx, sobre_seq_truncate(d.session, 1, 0));
    assert_ok(d.ctx, eval(d.session, 1, ids, 4, SOBRE_WANT_ALL));
    assert_int_equal(sobre_session_n_logits(d.session), 4);
    assert_int_equal(d.control.n_ops[SOBRE_OP_SAMPLE], n_samples);
    close_device(&d);
}

static void test_device_samples(void **state)
{
    check_device_samples(false);
    check_device_samples(true);
}

/* A step that fails anywhere can be taken again. */
static void test_device_fails(void **state)
{
    const sobre_logit_bias bias[] = {{5, 1}};
    const sobre_event *e;
    sampling_device d;
    int32_t id = 65, n_failed = 0;
    open_device(&d, false);
    d.control.fail_status = SOBRE_DEVICE;
    assert_ok(d.ctx, sobre_session_sampling(
                         d.session, 0, SOBRE(sampling, .bias = bias, .n_bias = 1, .n_top = 1)));
    assert_ok(d.ctx, sobre_session_prompt_ids(d.session, 0, &id, 1));
    for (sobre_status status = SOBRE_DEVICE; status < 0;) {
        int64_t first = d.control.n_calls + 1;
        d.control.fail_at = first + n_failed;
        status = sobre_session_next(d.session, -1, &e);
        d.control.fail_at = 0;
        if (status >= 0) break;
        assert_int_equal(status, SOBRE_DEVICE);
        n_failed++;
        assert_ok(d.ctx, sobre_session_next(d.session, -1, &e));
        assert_int_equal(e->token, 5);
        assert_int_equal(e->finish, SOBRE_FINISH_NONE);
    }
    assert_true(n_failed > 6);
    close_device(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),         cmocka_unit_test(test_alone_and_in_a_batch),
        cmocka_unit_test(test_finish),         cmocka_unit_test(test_events),
        cmocka_unit_test(test_prompt_text),    cmocka_unit_test(test_chat),
        cmocka_unit_test(test_device_samples), cmocka_unit_test(test_device_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
