/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers: the regular expressions that cut text into the pieces inside which byte-level BPE
 * may merge. */
#ifndef SOBRE_PRETOK_H
#define SOBRE_PRETOK_H

#include "context.h"

typedef struct pretok_scheme {
    const char *name;          /* of tokenizer.ggml.pre */
    const char *const *stages; /* regular expressions, NULL-terminated */
    bool whole_pieces;         /* a piece that is a token is not built by merges */
    bool add_bos;              /* unless the file says otherwise */
} pretok_scheme;

/* NULL: no such pre-tokenizer. */
const pretok_scheme *pretok_find(const char *name);

/* The compiled expressions: immutable, any thread. */
typedef struct pretok pretok;

sobre_status pretok_open(sobre_context *ctx, const pretok_scheme *scheme, pretok **ret_pretok);
void pretok_close(pretok *p);

/* What matching needs besides: one a thread and call. */
typedef struct pretok_match pretok_match;

sobre_status pretok_match_open(const pretok *p, pretok_match **ret_match);
void pretok_match_close(pretok_match *m);

/* Passes the pieces of well-formed UTF-8 to `piece`, in order and without gaps; stops at its first
 * failure. Time is linear in the text. */
typedef sobre_status (*pretok_piece)(void *user, const char *text, size_t size);
sobre_status pretok_split(pretok_match *m, const char *text, size_t size, pretok_piece piece,
                          void *user);

#endif
