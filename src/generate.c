/* SPDX-License-Identifier: MIT */
/* Generation: prompts add ids to sequences; a step evaluates what waits in every generating
 * sequence and samples one token each; next() makes one event of each of them. A step touches no
 * text, so it can run in the background while the caller still reads the last event. */
#include "session.h"

#include <string.h>

#include "template.h"

/* --- Sampling options. */

/* The parts that a sequence needs before it can generate. */
static sobre_status set_sampling(sobre_session *s, session_seq *q, const sobre_sampling *options)
{
    sampler *made = NULL;
    stop_matcher *text = NULL;
    sobre_token_prob *top = NULL;
    const char *held;
    size_t n_held;
    bool matched;

    TRY(sampler_open(s->ctx, options, s->n_vocab, &made));
    const sobre_sampling *o = sampler_options(made);
    size_t n_top = (size_t)o->n_top;
    sobre_status status = stop_open(s->ctx, o->stop, o->n_stop, &text);
    if (status >= 0 && n_top > q->top_capacity && !(top = mem_alloc(s->ctx, n_top, sizeof *top)))
        status = SOBRE_OUT_OF_MEMORY;
    if (status >= 0 && q->text) { /* characters and words under way go on */
        held = stop_held(q->text, &n_held);
        status = stop_push(text, held, n_held, &matched);
    }
    if (status < 0) {
        mem_free(s->ctx, top);
        stop_close(text);
        sampler_close(made);
        return status;
    }
    if (top) {
        if (q->n_top) memcpy(top, q->top, q->n_top * sizeof *top);
        mem_free(s->ctx, q->top);
        q->top = top;
        q->top_capacity = n_top;
    }
    stop_close(q->text);
    sampler_close(q->sampler);
    q->text = text;
    q->sampler = made;
    q->n_generated = 0;
    return SOBRE_OK;
}

sobre_status sobre_session_sampling(sobre_session *session, int32_t seq,
                                    const sobre_sampling *sampling)
{
    if (!session) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(session));
    TRY(session_check_seq(session, seq));
    return set_sampling(session, &session->seqs[seq], sampling);
}

/* --- Prompts. */

/* Adds ids, and starts generation. All checks come before any change. */
static sobre_status add_prompt(sobre_session *s, int32_t seq, const int32_t *ids, size_t n_ids)
{
    session_seq *q = &s->seqs[seq];
    int32_t length = q->n_ids;
    bool shifts = s->full == SOBRE_FULL_SHIFT && length > s->n_keep;
    int32_t room = s->n_ctx - (shifts ? s->n_keep : length);

    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= s->n_vocab)
            return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                        "token %zu of the prompt is %d; the model has ids 0 to %d", i, ids[i],
                        s->n_vocab - 1);
    if (n_ids == 0 && length == 0)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "the prompt has no tokens, and sequence %d is empty; give at least one token",
                    seq);
    if (n_ids >= (size_t)room) /* one more for the answer */
        return fail(s->ctx, SOBRE_CONTEXT_FULL,
                    "the prompt has %zu tokens, but sequence %d has room for %d and an answer "
                    "(%d of %d are used); shorten it, truncate the sequence, or load the model "
                    "with a larger n_ctx",
                    n_ids, seq, room > 0 ? room - 1 : 0, length, s->n_ctx);
    int32_t n = (int32_t)n_ids;
    if (!q->sampler) TRY(set_sampling(s, q, NULL));
    if (n + 1 > s->n_ctx - length) {
        TRY(session_grow(s, q, s->n_ctx - length)); /* before anything is lost */
        TRY(session_shift(s, seq, n + 1));
    }
    TRY(session_grow(s, q, n + 1));
    if (n) memcpy(q->ids + q->n_ids, ids, n_ids * sizeof *ids);
    q->n_ids += n;
    session_drop_step(q);
    q->n_generated = 0;
    q->generating = true;
    return SOBRE_OK;
}

/* Text to ids, with room for one id before them. */
static sobre_status encode(sobre_session *s, const char *text, size_t size, uint32_t flags,
                           int32_t **ret_ids, size_t *ret_n)
{
    enum { EXTRA = 16 }; /* BOS and the like; otherwise a token has at least a byte */
    tokenizer *tok = s->model->tok;
    size_t capacity = size + EXTRA, n = 0;

    if (size > SIZE_MAX / sizeof **ret_ids - 2 * EXTRA)
        return fail(s->ctx, SOBRE_CONTEXT_FULL, "a text of %zu bytes is too long for any context",
                    size);
    for (;;) {
        int32_t *ids = mem_alloc(s->ctx, capacity + 1, sizeof *ids);
        if (!ids) return SOBRE_OUT_OF_MEMORY;
        sobre_status status = tok_encode(tok, text, size, flags, ids + 1, capacity, &n);
        if (status >= 0) {
            *ret_ids = ids;
            *ret_n = n;
            return SOBRE_OK;
        }
        mem_free(s->ctx, ids);
        if (status != SOBRE_BUFFER_TOO_SMALL || n <= capacity) return status;
        capacity = n;
    }
}

static sobre_status need_tokenizer(sobre_session *s)
{
    if (s->model->tok) return SOBRE_OK;
    return fail(s->ctx, SOBRE_UNSUPPORTED,
                "this model has no tokenizer that this version knows; give ids with "
                "sobre_session_prompt_ids()");
}

sobre_status sobre_session_prompt(sobre_session *session, int32_t seq, const char *text,
                                  size_t text_size, uint32_t tokenize_flags)
{
    sobre_session *s = session;
    int32_t *ids;
    size_t n;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    TRY(session_check_seq(s, seq));
    if (!text && text_size) return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "text is NULL");
    TRY(need_tokenizer(s));
    TRY(encode(s, text ? text : "", text_size, tokenize_flags, &ids, &n));
    sobre_status status = add_prompt(s, seq, ids + 1, n);
    mem_free(s->ctx, ids);
    return status;
}

sobre_status sobre_session_prompt_ids(sobre_session *session, int32_t seq, const int32_t *ids,
                                      size_t n_ids)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    TRY(session_check_seq(s, seq));
    if (!ids && n_ids) return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "ids is NULL");
    return add_prompt(s, seq, ids, n_ids);
}

/* Messages as the model's text; *ret_text is the caller's. */
static sobre_status render(sobre_session *s, const sobre_message *messages, size_t n, bool first,
                           char **ret_text, size_t *ret_size)
{
    enum { AROUND_MESSAGE = 128, AROUND_ALL = 512 }; /* a guess; the format says if it is too low */
    size_t capacity = AROUND_ALL, size = 0;

    for (size_t i = 0; i < n; i++)
        capacity += AROUND_MESSAGE + (messages[i].content ? strlen(messages[i].content) : 0);
    for (;;) {
        char *text = mem_alloc(s->ctx, capacity, 1);
        if (!text) return SOBRE_OUT_OF_MEMORY;
        sobre_status status = chat_format_render(s->ctx, s->model->chat, messages, n, first, true,
                                                 text, capacity, &size);
        if (status >= 0) {
            *ret_text = text;
            *ret_size = size;
            return SOBRE_OK;
        }
        mem_free(s->ctx, text);
        if (status != SOBRE_BUFFER_TOO_SMALL || size < capacity) return status;
        capacity = size + 1;
    }
}

sobre_status sobre_session_chat(sobre_session *session, int32_t seq, const sobre_message *messages,
                                size_t n_messages)
{
    sobre_session *s = session;
    int32_t *ids;
    char *text;
    size_t size, n;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    TRY(session_check_seq(s, seq));
    if (!messages || !n_messages)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "there are no messages; give at least one");
    TRY(need_tokenizer(s));
    if (!s->model->chat)
        return fail(s->ctx, SOBRE_UNSUPPORTED,
                    "this model has no chat template that this version recognises; format the "
                    "text yourself and call sobre_session_prompt()");
    const session_seq *q = &s->seqs[seq];
    const tokenizer *tok = s->model->tok;
    bool first = q->n_ids == 0;
    TRY(render(s, messages, n_messages, first, &text, &size));
    sobre_status status = encode(s, text, size, first ? 0 : SOBRE_TOKENIZE_NO_BOS, &ids, &n);
    mem_free(s->ctx, text);
    if (status < 0) return status;

    int32_t *begin = ids + 1;
    if (first && n >= 2 && begin[0] == tok_bos(tok) && begin[1] == begin[0]) {
        begin++; /* the tokenizer added one to the template's own */
        n--;
    } else if (!first && tok_eos(tok) >= 0 && !tok_is_end(tok, q->ids[q->n_ids - 1])) {
        *--begin = tok_eos(tok); /* the answer before was cut off */
        n++;
    }
    status = add_prompt(s, seq, begin, n);
    mem_free(s->ctx, ids);
    return status;
}

/* --- Steps. */

/* Puts a sequence into the step; one that has no room is only marked. */
static sobre_status join_step(sobre_session *s, int32_t seq, int32_t *n_items)
{
    session_seq *q = &s->seqs[seq];

    if (q->n_ids == s->n_ctx && s->full == SOBRE_FULL_SHIFT) TRY(session_shift(s, seq, 1));
    if (q->n_ids == s->n_ctx) return SOBRE_OK;
    TRY(session_grow(s, q, 1));
    /* All was evaluated, but nothing sampled: the last token gives the logits once more. */
    if (s->kv.seqs[seq].length == q->n_ids && q->ids[q->n_ids - 1] < 0)
        return fail(s->ctx, SOBRE_UNSUPPORTED,
                    "sequence %d ends in an embedding, which is not kept, so its logits cannot be "
                    "had again; sample from sobre_session_logits(), and prompt with that token",
                    seq);
    if (s->kv.seqs[seq].length == q->n_ids) kv_truncate(&s->kv, seq, q->n_ids - 1);
    s->items[(*n_items)++] =
        (session_item){.seq = seq, .want = SOBRE_WANT_LAST, .n_before = q->n_ids};
    return SOBRE_OK;
}

/* The token of the step's i-th item: the device's, or from its logits. */
static sobre_status sample_item(sobre_session *s, int32_t i)
{
    session_seq *q = &s->seqs[s->items[i].seq];
    const int32_t *result = s->sampled ? s->picks + (size_t)i * SOBRE_SAMPLE_RESULT_SIZE : NULL;

    if (result && result[SOBRE_SAMPLE_STATUS] == SOBRE_SAMPLE_PICKED)
        TRY(sampler_take(q->sampler, result, &q->token, &q->logprob));
    else
        TRY(sampler_pick(q->sampler, s->logits + (size_t)i * (size_t)s->n_vocab, q->ids, q->n_ids,
                         &q->token, &q->logprob));
    const sobre_token_prob *top = sampler_top(q->sampler, &q->n_top);
    if (q->n_top) memcpy(q->top, top, q->n_top * sizeof *top);
    return SOBRE_OK;
}

/* One token for every generating sequence. Changes no ids, but by a shift. */
static sobre_status step(void *session)
{
    sobre_session *s = session;
    int32_t n_items = 0;

    for (int32_t i = 0; i < s->n_seq; i++) {
        s->seqs[i].token = -1;
        if (s->seqs[i].generating) TRY(join_step(s, i, &n_items));
    }
    if (n_items) TRY(session_run(s, n_items, true));
    for (int32_t i = 0; i < n_items; i++) TRY(sample_item(s, i));
    s->n_queue = s->queue_at = 0;
    for (int32_t i = 0; i < s->n_seq; i++) {
        s->seqs[i].stepped = s->seqs[i].generating;
        if (s->seqs[i].generating) s->queue[s->n_queue++] = i;
    }
    return SOBRE_OK;
}

/* --- Events. */

static bool any_generating(const sobre_session *s)
{
    for (int32_t i = 0; i < s->n_seq; i++)
        if (s->seqs[i].generating) return true;
    return false;
}

/* Drops queue entries of sequences that were cut or overwritten since. */
static bool queue_empty(sobre_session *s)
{
    while (s->queue_at < s->n_queue && !s->seqs[s->queue[s->queue_at]].stepped) s->queue_at++;
    return s->queue_at == s->n_queue;
}

/* Feeds the token's text to the matcher. */
static sobre_status add_text(sobre_session *s, session_seq *q, bool *ret_matched)
{
    const tokenizer *tok = s->model->tok;
    const char *text;
    size_t size;

    if (!tok || q->token >= tok_n_vocab(tok)) return SOBRE_OK; /* ids without text */
    TRY(tok_text(tok, q->token, false, &text, &size));
    return stop_push(q->text, text, size, ret_matched);
}

/* Makes an event of a stepped sequence. */
static sobre_status make_event(sobre_session *s, int32_t seq)
{
    session_seq *q = &s->seqs[seq];
    const sobre_sampling *o = sampler_options(q->sampler);
    const tokenizer *tok = s->model->tok;
    bool matched = false;
    sobre_event e = {.struct_size = sizeof e, .seq = seq, .token = q->token};

    if (q->token < 0) {
        e.finish = SOBRE_FINISH_FULL;
    } else {
        bool end = tok && tok_is_end(tok, q->token) && !o->ignore_eos;
        if (!end) TRY(add_text(s, q, &matched));
        q->ids[q->n_ids++] = q->token;
        q->n_generated++;
        e.logprob = q->logprob;
        e.top = q->top;
        e.n_top = q->n_top;
        if (end)
            e.finish = SOBRE_FINISH_STOP;
        else if (matched)
            e.finish = SOBRE_FINISH_STRING;
        else if (o->max_tokens && q->n_generated >= o->max_tokens)
            e.finish = SOBRE_FINISH_LENGTH;
        else if (q->n_ids == s->n_ctx && s->full == SOBRE_FULL_ERROR)
            e.finish = SOBRE_FINISH_FULL;
    }
    stop_take(q->text, e.finish != SOBRE_FINISH_NONE, &e.text, &e.text_size);
    q->stepped = false;
    if (e.finish) q->generating = false;
    s->event = e;
    return SOBRE_OK;
}

sobre_status sobre_session_next(sobre_session *session, int32_t timeout_ms,
                                const sobre_event **ret_event)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    if (!ret_event) return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "ret_event is NULL");
    if (s->job == JOB_BATCH) return session_check_idle(s);
    for (;;) {
        if (s->job == JOB_STEP) {
            if (!worker_wait(s->worker, timeout_ms)) return SOBRE_AGAIN;
            TRY(session_collect(s));
        }
        if (atomic_load(&s->cancel))
            return session_return(
                s, fail(s->ctx, SOBRE_CANCELLED, "cancelled by sobre_session_cancel()"));
        if (!queue_empty(s)) {
            TRY(make_event(s, s->queue[s->queue_at]));
            s->queue_at++;
            *ret_event = &s->event;
            return SOBRE_OK;
        }
        if (!any_generating(s)) return SOBRE_DONE;
        if (timeout_ms < 0)
            TRY(session_return(s, step(s)));
        else
            TRY(session_start(s, JOB_STEP, step));
    }
}
