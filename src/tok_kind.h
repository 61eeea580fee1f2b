/* SPDX-License-Identifier: MIT */
/* Tokenizers from inside: the vocabulary that all kinds share, and what a kind provides. */
#ifndef SOBRE_TOK_KIND_H
#define SOBRE_TOK_KIND_H

#include "tok.h"

/* tokenizer.ggml.token_type */
typedef enum token_type {
    TOKEN_UNDEFINED = 0,
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
    N_TOKEN_TYPES
} token_type;

typedef struct vocab_token {
    uint32_t start, size; /* in vocab.text */
    uint8_t type;
    bool plain; /* its text was decoded as the kind prescribes, so it stands for those bytes in
                   plain text; else it is a name, found as it is written */
    bool is_end;
} vocab_token;

/* A slot repeats where the text lies, so that a look-up touches memory twice and no more. */
typedef struct vocab_slot {
    uint32_t hash;
    int32_t id;                /* -1: free */
    uint32_t start, size : 31; /* in vocab.text */
    uint32_t plain : 1;
} vocab_slot;

/* A node of the tree of special tokens. */
typedef struct trie_node {
    int32_t child, next; /* -1: none; the first below, the next beside */
    int32_t id;          /* of the token that ends here; -1: none */
    uint8_t byte;
} trie_node;

typedef struct vocab {
    sobre_context *ctx;
    int32_t n, n_special;
    int32_t max_size;    /* of the longest token */
    vocab_token *tokens; /* [n] */
    char *text;          /* of all tokens, each with a zero after it */
    vocab_slot *slots;
    uint32_t mask; /* slots - 1 */
    uint64_t seed;
    trie_node *trie;
    int32_t n_trie;
    int32_t roots[256]; /* by first byte; -1: none */
} vocab;

/* Spreads the bits of a word; a table's seed keeps a made file from choosing its collisions. */
static inline uint64_t hash_word(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

/* Decodes a token as it is written in the file to the bytes that it stands for, at most `size` of
 * them, into `to`. False if it cannot be read so. */
typedef bool (*vocab_decode)(const char *text, size_t size, char *to, size_t *ret_size);

/* Reads tokens and types, decodes, indexes. On failure vocab_close() must still be called. */
sobre_status vocab_open(vocab *v, const container *c, vocab_decode decode);
void vocab_close(vocab *v);
/* -1: none. Among plain tokens, or among names. */
int32_t vocab_find(const vocab *v, const char *text, size_t size, bool plain);
/* Looks up plain tokens, many at once, which hides the memory's latency. */
typedef struct vocab_key {
    const char *text;
    size_t size;
    uint32_t hash; /* set, as id is */
    int32_t id;
} vocab_key;
void vocab_find_all(const vocab *v, vocab_key *keys, int32_t n);
/* The longest special token that the text begins with; -1: none. Control and unknown tokens count
 * only if `control`. */
int32_t vocab_match(const vocab *v, const char *text, size_t size, bool control);

/* What one call of tok_encode() collects. */
typedef struct tok_run {
    int32_t *ids;
    size_t n;         /* room is there for one id a byte, BOS and EOS */
    const char *text; /* of the call */
    void *scratch;    /* the kind's */
} tok_run;

typedef struct tok_kind {
    const char *name; /* tokenizer.ggml.model */
    /* Does this version know the pre-tokenizer? Asked first; NULL: the kind has none. */
    bool (*knows)(const char *pre);
    vocab_decode decode;
    /* Reads what only this kind has, once t->vocab is there; sets defaults of flags. */
    sobre_status (*open)(tokenizer *t, const container *c, const char *pre);
    void (*close)(tokenizer *t); /* also after a failed open */
    /* Appends the ids of text that has no special tokens in it. */
    sobre_status (*encode)(const tokenizer *t, tok_run *run, const char *text, size_t size);
    void (*finish)(const tokenizer *t, tok_run *run); /* frees the scratch */
} tok_kind;

extern const tok_kind tok_kind_bpe; /* tok_bpe.c */

struct tokenizer {
    sobre_context *ctx;
    const tok_kind *kind;
    void *state; /* the kind's */
    vocab vocab;
    int32_t bos, eos, eot, eom, unk, sep, pad, cls, mask; /* -1: none */
    bool add_bos, add_eos;
};

/* For messages: the name of the file that a container was read from. */
const char *container_name(const container *c);

#endif
