/* SPDX-License-Identifier: MIT */
/* Tokenizers: one interface, one file a kind (tok_bpe.c now; SentencePiece, unigram and WordPiece
 * plug in here). */
#ifndef SOBRE_TOK_H
#define SOBRE_TOK_H

#include "container.h"
#include "utf8.h"

typedef struct tokenizer tokenizer;

/* Reads tokenizer.ggml.* and validates it. *ret_tok is NULL (and OK) if there is none, it is
 * "no_vocab", or a kind that this version does not know (then *ret_note, may be NULL, says which:
 * static or owned by the container). */
sobre_status tok_open(const container *c, tokenizer **ret_tok, const char **ret_note);
void tok_close(tokenizer *t);

int32_t tok_n_vocab(const tokenizer *t);
int32_t tok_bos(const tokenizer *t); /* -1: none */
int32_t tok_eos(const tokenizer *t);
/* Ends a generation: EOS, EOT, EOM and the like. */
bool tok_is_end(const tokenizer *t, int32_t id);
int32_t tok_find(const tokenizer *t, const char *text, size_t size);

/* As sobre_tokenize(). Any thread. */
sobre_status tok_encode(tokenizer *t, const char *text, size_t size, uint32_t flags, int32_t *ids,
                        size_t capacity, size_t *ret_n);
/* As sobre_token_text(). */
sobre_status tok_text(const tokenizer *t, int32_t id, bool special, const char **ret_text,
                      size_t *ret_size);

#endif
