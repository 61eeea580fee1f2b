/* SPDX-License-Identifier: MIT */
#include "answer.h"

#include <string.h>

#include "os.h"

static void append_logprobs(answer *r, const sobre_event *event)
{
    json_t *top = json_array(), *token = json_object();

    for (size_t i = 0; i < event->n_top; i++)
        json_array_append_new(top, json_pack("{s:i,s:f}", "id", (int)event->top[i].id, "logprob",
                                             (double)event->top[i].logprob));
    json_object_set_new(token, "id", json_integer(event->token));
    json_object_set_new(token, "logprob", json_real((double)event->logprob));
    json_object_set_new(token, "top", top);
    json_array_append_new(r->logprobs, token);
}

/* What the session has evaluated so far, prefill and decode together. */
static void read_stats(const app *a, uint64_t *ret_n, double *ret_seconds)
{
    sobre_stats stats = SOBRE_INIT(stats);
    sobre_session_stats(a->session, &stats);
    *ret_n = stats.n_prefill + stats.n_decode;
    *ret_seconds = (double)(stats.prefill_ns + stats.decode_ns) * 1e-9;
}

int answer_fail(const app *a, sobre_status status)
{
    if (status != SOBRE_CONTEXT_FULL) return app_fail(a, status);
    if (a->shifts || sobre_seq_length(a->session, 0) == 0)
        complain("the prompt does not fit in the context; shorten it, or --n-ctx makes the context "
                 "larger");
    else
        complain("the context is full; --n-ctx makes it larger, --full shift drops old text");
    return CODE_FULL;
}

/* The next event; a device that fails is replaced by the CPU if that is wanted, where the session
 * evaluates its tokens again. */
static sobre_status next_event(app *a, const sobre_event **ret_event)
{
    sobre_status status;
    do {
        status = wait_event(a, ret_event);
    } while (status < 0 && app_fall_back(a, &status));
    return status;
}

int answer_run(app *a, uint64_t start_ns, bool quiet, bool want_logprobs, answer *ret_answer)
{
    answer r = {.ids = quiet ? json_array() : NULL,
                .logprobs = quiet && want_logprobs ? json_array() : NULL};
    const sobre_event *event;
    uint64_t n_before, n_after;
    double before, after;
    char last = '\n';
    int code = CODE_OK;

    read_stats(a, &n_before, &before);
    while ((r.status = next_event(a, &event)) == SOBRE_OK) {
        if (event->token >= 0 && r.n_tokens++ == 0) {
            r.first_seconds = (double)(os_now_ns() - start_ns) * 1e-9;
            read_stats(a, &n_after, &after);
            r.n_prompt = n_after - n_before;
            r.prompt_seconds = after - before;
            n_before = n_after;
            before = after;
        }
        if (event->finish) r.finish = event->finish;
        if (quiet) {
            text_add(&r.text, event->text, event->text_size);
            if (event->token >= 0) json_array_append_new(r.ids, json_integer(event->token));
            if (event->token >= 0 && r.logprobs) append_logprobs(&r, event);
        } else if (event->text_size > 0) {
            out_text(stdout, event->text, event->text_size);
            last = event->text[event->text_size - 1];
        } else if (event->token >= 0 && !a->info->has_tokenizer) {
            printf("%s%d", r.n_tokens > 1 ? " " : "", (int)event->token);
            last = ' ';
        }
        if (!quiet && (code = out_finish()) != CODE_OK) break;
    }
    read_stats(a, &n_after, &after);
    r.n_decode = n_after - n_before;
    r.decode_seconds = after - before;
    if (last != '\n') putchar('\n');

    if (code == CODE_OK && r.status < 0) code = answer_fail(a, r.status);
    if (code == CODE_OK && r.text.failed) code = out_of_memory();
    if (code == CODE_OK && r.finish == SOBRE_FINISH_FULL) code = answer_fail(a, SOBRE_CONTEXT_FULL);
    const int flushed = out_finish();
    *ret_answer = r;
    return code == CODE_OK ? flushed : code;
}

void answer_free(answer *r)
{
    text_free(&r->text);
    json_decref(r->ids);
    json_decref(r->logprobs);
    *r = (answer){0};
}

static void print_tokens(uint64_t n)
{
    fprintf(stderr, "%llu token%s", (unsigned long long)n, n == 1 ? "" : "s");
}

void answer_print_statistics(const answer *r)
{
    if (r->n_prompt > 0) {
        print_tokens(r->n_prompt);
        fprintf(stderr, " prompt");
        if (r->prompt_seconds > 0)
            fprintf(stderr, " at %.1f tokens/s", (double)r->n_prompt / r->prompt_seconds);
    }
    if (r->n_tokens > 0) {
        fprintf(stderr, ", ");
        print_tokens(r->n_tokens);
        if (r->n_decode > 0 && r->decode_seconds > 0)
            fprintf(stderr, " at %.1f tokens/s", (double)r->n_decode / r->decode_seconds);
        fprintf(stderr, ", first token after %.2f s", r->first_seconds);
    }
    if (r->n_prompt > 0 || r->n_tokens > 0) putc('\n', stderr);
}

const char *answer_finish_name(const answer *r)
{
    static const char *const names[] = {"none", "stop", "string", "length", "full"};
    return r->status == SOBRE_CANCELLED ? "cancelled" : names[r->finish];
}
