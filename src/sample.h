/* SPDX-License-Identifier: MIT */
/* Samplers: logits to a token. State belongs to a sequence. */
#ifndef SOBRE_SAMPLE_H
#define SOBRE_SAMPLE_H

#include "context.h"

typedef struct sampler sampler;

/* Validates and copies `options` (NULL: greedy). n_ctx bounds the history. */
sobre_status sampler_open(sobre_context *ctx, const sobre_sampling *options, int32_t n_vocab,
                          sampler **ret_sampler);
void sampler_close(sampler *s);
const sobre_sampling *sampler_options(const sampler *s); /* with pointers to the copies */

/* Picks a token for logits [n_vocab], which are only read. `history` [n_history] are the sequence's
 * ids so far. *ret_logprob is the token's log-probability under the plain softmax. NOT_FINITE for
 * NaN or +Inf anywhere, or if nothing can be drawn. Allocates nothing. */
sobre_status sampler_pick(sampler *s, const float *logits, const int32_t *history,
                          int32_t n_history, int32_t *ret_id, float *ret_logprob);
/* Fills a row of the op SAMPLE [SOBRE_SAMPLE_PARAMS_SIZE] for the next pick. The random number in
 * it is kept for that pick, wherever it is made. Where a device could not do what the options ask
 * for, it says so. */
void sampler_params(sampler *s, const int32_t *history, int32_t n_history, int32_t *ret_params);
/* Takes a row of what came back [SOBRE_SAMPLE_RESULT_SIZE] as the pick, if its status is PICKED.
 * Else it takes sampler_pick(). */
sobre_status sampler_take(sampler *s, const int32_t *result, int32_t *ret_id, float *ret_logprob);
/* The n_top most likely tokens of the last pick, most likely first. */
const sobre_token_prob *sampler_top(const sampler *s, size_t *ret_n);

#endif
