/* SPDX-License-Identifier: MIT */
/* Bytes of tokens to text that may be shown: holds back what may yet become a stop string or is an
 * unfinished character. What comes out does not depend on how the bytes were cut into tokens. */
#ifndef SOBRE_STOP_H
#define SOBRE_STOP_H

#include "context.h"

typedef struct stop_matcher stop_matcher;

/* The strings are not copied; they outlive the matcher. */
sobre_status stop_open(sobre_context *ctx, const char *const *strings, size_t n_strings,
                       stop_matcher **ret_matcher);
void stop_close(stop_matcher *m);
/* Forgets everything that was pushed. */
void stop_reset(stop_matcher *m);
/* Adds bytes. *ret_matched: a stop string is complete; it and what follows are dropped, and so is
 * everything pushed until stop_reset(). Of strings that end at the same byte the longest counts. */
sobre_status stop_push(stop_matcher *m, const char *bytes, size_t size, bool *ret_matched);
/* Text that is certain now, as UTF-8; with `all` what was held back too, an unfinished character as
 * U+FFFD. Valid until the next call on this matcher. */
void stop_take(stop_matcher *m, bool all, const char **ret_text, size_t *ret_size);
/* Bytes that were pushed and not taken. */
const char *stop_held(const stop_matcher *m, size_t *ret_size);

#endif
