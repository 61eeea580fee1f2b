/* SPDX-License-Identifier: MIT */
/* One answer of the model: streamed to standard output, or kept for JSON, and measured. */
#ifndef SOBRE_CLI_ANSWER_H
#define SOBRE_CLI_ANSWER_H

#include "app.h"
#include "out.h"

typedef struct answer {
    text_buffer text;
    json_t *ids, *logprobs; /* NULL unless wanted */
    sobre_finish finish;
    sobre_status status; /* CANCELLED after Ctrl-C */
    uint64_t n_prompt, n_tokens, n_decode;
    double first_seconds, prompt_seconds, decode_seconds;
} answer;

/* Runs a session whose prompt was just given (at start_ns) until its answer ends. `quiet` prints
 * nothing and keeps the text, ids and, with want_logprobs, log-probabilities. An exit code. */
int answer_run(app *a, uint64_t start_ns, bool quiet, bool want_logprobs, answer *ret_answer);
/* app_fail(), with the program's own advice where the context is full. */
int answer_fail(const app *a, sobre_status status);
void answer_free(answer *answer);
/* "12 tokens prompt at 312.3 tokens/s, ..." on standard error. */
void answer_print_statistics(const answer *answer);
/* "stop", "string", "length", "full", "cancelled". */
const char *answer_finish_name(const answer *answer);

/* A conversation on the terminal; an exit code. */
int chat_run(app *a, const char *system, bool raw);

#endif
