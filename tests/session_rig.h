/* SPDX-License-Identifier: MIT */
/* What the tests of sessions share: a tiny model with eight sequences, and short ways to use it. */
#ifndef SESSION_RIG_H
#define SESSION_RIG_H

#include <string.h>

#include "support.h"

enum { N_VOCAB = LLAMA_MAKE_N_VOCAB, EOT = 258 };

static test_model made;
static sobre_context *ctx;
static sobre_model *model;

static inline int setup(void **state)
{
    made = test_model_make(gguf_make_llama(NULL), NULL,
                           SOBRE(fit_options, .n_ctx = 256, .n_seq = 8, .n_chunk = 64));
    ctx = made.ctx;
    model = made.model;
    return 0;
}

static inline int teardown(void **state)
{
    test_model_close(&made);
    return 0;
}

static inline sobre_session *open_session(const sobre_session_options *o)
{
    sobre_session *s = NULL;
    assert_ok(ctx, sobre_session_open(model, o, &s));
    return s;
}

static inline sobre_status eval(sobre_session *s, int32_t seq, const int32_t *ids, int32_t n,
                                sobre_want want)
{
    const sobre_entry e = {seq, sobre_seq_length(s, seq), n, want, ids, NULL};
    return sobre_session_eval(s, SOBRE(batch, .entries = &e, .n_entries = 1));
}

static inline const float *row(sobre_session *s, size_t index)
{
    const float *logits = NULL;
    assert_ok(ctx, sobre_session_logits(s, index, &logits));
    return logits;
}

static inline int32_t argmax(const float *x)
{
    int32_t best = 0;
    for (int32_t i = 1; i < N_VOCAB; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Runs next() to the end; tokens, text and the last event's finish of one sequence. */
typedef struct answer {
    int32_t n;
    int32_t tokens[512];
    char text[2048];
    size_t size;
    sobre_finish finish;
} answer;

static inline void add_event(answer *a, const sobre_event *e)
{
    assert_int_equal(a->finish, SOBRE_FINISH_NONE); /* nothing follows a finish */
    if (e->token >= 0) a->tokens[a->n++] = e->token;
    assert_true(a->size + e->text_size < sizeof a->text);
    memcpy(a->text + a->size, e->text, e->text_size);
    a->size += e->text_size;
    a->text[a->size] = '\0';
    a->finish = e->finish;
}

static inline void generate(sobre_session *s, answer *answers)
{
    const sobre_event *e;
    sobre_status status;
    while ((status = sobre_session_next(s, -1, &e)) == SOBRE_OK) add_event(&answers[e->seq], e);
    if (status != SOBRE_DONE) assert_ok(ctx, status);
}

#endif
