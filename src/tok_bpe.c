/* SPDX-License-Identifier: MIT */
/* Byte-level byte-pair encoding. Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al.
 * 2019. Every piece of the pre-tokenizer starts as one token a byte; of all neighbours that a merge
 * joins, the one of lowest rank goes first, the leftmost of equals. */
#include <string.h>

#include "pretok.h"
#include "tok_kind.h"
#include "utf8.h"

static const char key_merges[] = "tokenizer.ggml.merges";

enum { N_ALPHABET = 324 };
#define NO_RANK UINT32_MAX

typedef struct merge_slot {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* NO_RANK: free */
    int32_t id;    /* of the merged token */
} merge_slot;

typedef struct bpe {
    const pretok_scheme *scheme;
    pretok *pretok;
    int32_t byte_ids[256]; /* -1: the vocabulary lacks the byte */
    merge_slot *merges;
    uint32_t mask;
    uint64_t seed;
} bpe;

/* --- The alphabet: a vocabulary file writes each byte as a printable character. The printable ones
 * of Latin-1 stand for themselves, the others follow each other from U+0100. */

static int32_t byte_of(int32_t letter)
{
    if ((letter > 32 && letter < 127) || (letter > 160 && letter < 256 && letter != 173))
        return letter;
    if (letter < 256 || letter >= N_ALPHABET) return -1;
    letter -= 256;
    return letter < 33 ? letter : letter < 67 ? letter - 33 + 127 : 173;
}

static bool decode(const char *text, size_t size, char *to, size_t *ret_size)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;

    for (size_t i = 0; i < size; i++) {
        int32_t letter = p[i], byte;

        if (letter >= 0x80) { /* all letters have at most two bytes */
            if (letter < 0xC2 || letter > 0xDF || i + 1 == size || (p[i + 1] & 0xC0) != 0x80)
                return false;
            letter = (letter & 0x1F) << 6 | (p[++i] & 0x3F);
        }
        byte = byte_of(letter);
        if (byte < 0) return false;
        to[n++] = (char)byte;
    }
    *ret_size = n;
    return true;
}

/* --- Opening */

static bool bpe_knows(const char *pre)
{
    return pretok_find(pre) != NULL;
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t merge_home(const bpe *b, uint64_t pair)
{
    return (uint32_t)hash_word(b->seed, pair) & b->mask;
}

/* The slot of the pair, or the free one where it belongs. */
static merge_slot *merge_find(const bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = pair_of(left, right);
    uint32_t at = merge_home(b, pair);

    while (b->merges[at].rank != NO_RANK && b->merges[at].pair != pair) at = (at + 1) & b->mask;
    return &b->merges[at];
}

enum { LEFT, RIGHT, BOTH, N_KEYS, BATCH = 32 };

/* Splits "left right" into keys of the vocabulary; what cannot be read gets size 0. Returns where
 * the bytes end that were written to `scratch`, at most the line's size. */
static char *merge_keys(const meta_string *line, char *scratch, vocab_key keys[N_KEYS])
{
    const char *space = line->size > 2 ? memchr(line->text + 1, ' ', line->size - 2) : NULL;
    size_t n[2] = {0}, left_size = space ? (size_t)(space - line->text) : 0;

    if (!space || !decode(line->text, left_size, scratch, &n[LEFT]) ||
        !decode(space + 1, line->size - left_size - 1, scratch + n[LEFT], &n[RIGHT]))
        n[LEFT] = n[RIGHT] = 0;
    keys[LEFT] = (vocab_key){.text = scratch, .size = n[LEFT]};
    keys[RIGHT] = (vocab_key){.text = scratch + n[LEFT], .size = n[RIGHT]};
    keys[BOTH] = (vocab_key){.text = scratch, .size = n[LEFT] + n[RIGHT]};
    return scratch + n[LEFT] + n[RIGHT];
}

static sobre_status bad_merge(const container *c, const meta_string *line, uint64_t rank,
                              const vocab_key keys[N_KEYS])
{
    const char *what = keys[BOTH].size == 0 ? "is not two tokens with a space between"
                       : keys[LEFT].id < 0 || keys[RIGHT].id < 0
                           ? "names a token that the vocabulary does not have"
                           : "makes a token that the vocabulary does not have";

    return fail(c->ctx, SOBRE_BAD_FORMAT,
                "%s: item %llu of %s, \"%.*s\", %s; convert the model again", container_name(c),
                (unsigned long long)rank, key_merges, (int)(line->size < 64 ? line->size : 64),
                line->text, what);
}

/* Enters merges [begin, begin + n). */
static sobre_status enter_merges(bpe *b, const vocab *v, const container *c,
                                 const meta_string *lines, uint64_t begin, int32_t n, char *scratch)
{
    vocab_key keys[BATCH][N_KEYS];

    for (int32_t i = 0; i < n; i++) scratch = merge_keys(&lines[begin + i], scratch, keys[i]);
    vocab_find_all(v, keys[0], n * N_KEYS);
    for (int32_t i = 0; i < n; i++) {
        if (keys[i][LEFT].id < 0 || keys[i][RIGHT].id < 0 || keys[i][BOTH].id < 0)
            return bad_merge(c, &lines[begin + i], begin + i, keys[i]);
        __builtin_prefetch(&b->merges[merge_home(b, pair_of(keys[i][LEFT].id, keys[i][RIGHT].id))]);
    }
    for (int32_t i = 0; i < n; i++) {
        merge_slot *slot = merge_find(b, keys[i][LEFT].id, keys[i][RIGHT].id);

        if (slot->rank == NO_RANK)
            *slot = (merge_slot){pair_of(keys[i][LEFT].id, keys[i][RIGHT].id),
                                 (uint32_t)begin + (uint32_t)i, keys[i][BOTH].id};
    }
    return SOBRE_OK;
}

static sobre_status read_merges(bpe *b, const vocab *v, const container *c)
{
    const meta_value *merges = container_meta(c, key_merges);
    const meta_string *lines;
    sobre_status status = SOBRE_OK;
    uint64_t n, n_slots = 16;
    size_t batch_size = 0, most = 0;
    char *scratch;

    if (!merges || merges->type != META_ARRAY || merges->item != META_STRING ||
        merges->v.array.n > INT32_MAX / 2)
        return fail(v->ctx, SOBRE_BAD_FORMAT,
                    "%s: %s must be an array of strings for a byte-level tokenizer; convert the "
                    "model again",
                    container_name(c), key_merges);
    n = merges->v.array.n;
    lines = merges->v.array.items;
    while (n_slots < n + n / 2) n_slots *= 2;
    b->merges = mem_alloc(v->ctx, (size_t)n_slots, sizeof(*b->merges));
    if (!b->merges) return SOBRE_OUT_OF_MEMORY;
    memset(b->merges, 0xFF, (size_t)n_slots * sizeof(*b->merges));
    b->mask = (uint32_t)(n_slots - 1);
    b->seed = hash_word((uintptr_t)b->merges, (uintptr_t)b);
    for (uint64_t i = 0; i < n; i++) {
        batch_size = (i % BATCH ? batch_size : 0) + lines[i].size;
        if (batch_size > most) most = batch_size;
    }
    scratch = mem_alloc(v->ctx, most, 1);
    if (!scratch) return SOBRE_OUT_OF_MEMORY;
    for (uint64_t i = 0; i < n && status >= 0; i += BATCH)
        status = enter_merges(b, v, c, lines, i, n - i < BATCH ? (int32_t)(n - i) : BATCH, scratch);
    mem_free(v->ctx, scratch);
    return status;
}

static sobre_status bpe_open(tokenizer *t, const container *c, const char *pre)
{
    bpe *b = mem_alloc(t->ctx, 1, sizeof(*b));

    if (!b) return SOBRE_OUT_OF_MEMORY;
    t->state = b;
    b->scheme = pretok_find(pre);
    t->add_bos = b->scheme->add_bos;
    for (int32_t i = 0; i < 256; i++) {
        char byte = (char)i;
        b->byte_ids[i] = vocab_find(&t->vocab, &byte, 1, true);
    }
    TRY(read_merges(b, &t->vocab, c));
    return pretok_open(t->ctx, b->scheme, &b->pretok);
}

static void bpe_close(tokenizer *t)
{
    bpe *b = t->state;

    if (!b) return;
    pretok_close(b->pretok);
    mem_free(t->ctx, b->merges);
    mem_free(t->ctx, b);
}

/* --- Encoding */

/* A token of the piece being merged; they form a list. */
typedef struct symbol {
    int32_t prev, next; /* -1: none */
    int32_t id;         /* -1: a byte that the vocabulary lacks */
    uint32_t rank;      /* of the merge with `next`; NO_RANK: none, or this symbol is gone */
} symbol;

typedef struct bpe_scratch {
    const tokenizer *t;
    tok_run *run;
    pretok_match *match;
    symbol *symbols; /* [n_symbols] */
    uint64_t *heap;  /* [2 * n_symbols]: rank << 32 | symbol, least first */
    size_t n_symbols, n_heap;
} bpe_scratch;

/* A heap of four children a node: half as deep as a binary one, and they share a cache line. */
enum { HEAP_WAYS = 4 };

static void heap_push(bpe_scratch *s, uint64_t item)
{
    size_t at = s->n_heap++;

    while (at > 0) {
        size_t parent = (at - 1) / HEAP_WAYS;
        if (s->heap[parent] <= item) break;
        s->heap[at] = s->heap[parent];
        at = parent;
    }
    s->heap[at] = item;
}

static uint64_t heap_pop(bpe_scratch *s)
{
    uint64_t top = s->heap[0], item = s->heap[--s->n_heap];
    size_t at = 0;

    for (;;) {
        size_t child = at * HEAP_WAYS + 1, least = child;
        size_t end = child + HEAP_WAYS < s->n_heap ? child + HEAP_WAYS : s->n_heap;

        if (child >= s->n_heap) break;
        while (++child < end)
            if (s->heap[child] < s->heap[least]) least = child;
        if (s->heap[least] >= item) break;
        s->heap[at] = s->heap[least];
        at = least;
    }
    s->heap[at] = item;
    return top;
}

/* Looks up the merge of a symbol with its right neighbour. */
static void rank_symbol(bpe_scratch *s, const bpe *b, int32_t at)
{
    symbol *left = &s->symbols[at];

    left->rank = NO_RANK;
    if (left->next < 0 || left->id < 0 || s->symbols[left->next].id < 0) return;
    left->rank = merge_find(b, left->id, s->symbols[left->next].id)->rank;
    if (left->rank != NO_RANK) heap_push(s, (uint64_t)left->rank << 32 | (uint32_t)at);
}

static void merge_symbols(bpe_scratch *s, const bpe *b)
{
    while (s->n_heap) {
        uint64_t item = heap_pop(s);
        symbol *left = &s->symbols[(uint32_t)item], *right;

        /* A rank stands for one pair, so an item that is out of date differs in it. */
        if (left->rank != (uint32_t)(item >> 32)) continue;
        right = &s->symbols[left->next];
        left->id = merge_find(b, left->id, right->id)->id;
        left->next = right->next;
        right->rank = NO_RANK;
        if (left->next >= 0) s->symbols[left->next].prev = (int32_t)(uint32_t)item;
        rank_symbol(s, b, (int32_t)(uint32_t)item);
        if (left->prev >= 0) rank_symbol(s, b, left->prev);
    }
}

static sobre_status scratch_reserve(bpe_scratch *s, size_t n)
{
    sobre_context *ctx = s->t->ctx;

    if (n <= s->n_symbols) return SOBRE_OK;
    n += n / 2 + 64;
    mem_free(ctx, s->symbols);
    mem_free(ctx, s->heap);
    s->n_symbols = 0;
    s->heap = NULL;
    s->symbols = mem_alloc(ctx, n, sizeof(*s->symbols));
    if (!s->symbols) return SOBRE_OUT_OF_MEMORY;
    s->heap = mem_alloc(ctx, n, 2 * sizeof(*s->heap));
    if (!s->heap) return SOBRE_OUT_OF_MEMORY;
    s->n_symbols = n;
    return SOBRE_OK;
}

/* What stands for a byte that the vocabulary lacks; -1: it is left out. Never a control token,
 * which text must not be able to call up. */
static int32_t unknown_id(const tokenizer *t)
{
    return t->unk >= 0 && t->vocab.tokens[t->unk].type != TOKEN_CONTROL ? t->unk : -1;
}

static sobre_status encode_piece(void *user, const char *text, size_t size)
{
    bpe_scratch *s = user;
    const tokenizer *t = s->t;
    const bpe *b = t->state;
    tok_run *run = s->run;

    if (b->scheme->whole_pieces) {
        int32_t id = vocab_find(&t->vocab, text, size, true);
        if (id >= 0) {
            run->ids[run->n++] = id;
            return SOBRE_OK;
        }
    }
    TRY(scratch_reserve(s, size));
    for (size_t i = 0; i < size; i++)
        s->symbols[i] = (symbol){(int32_t)i - 1, i + 1 < size ? (int32_t)i + 1 : -1,
                                 b->byte_ids[(uint8_t)text[i]], NO_RANK};
    for (size_t i = 0; i + 1 < size; i++) rank_symbol(s, b, (int32_t)i);
    merge_symbols(s, b);
    for (int32_t at = 0; at >= 0; at = s->symbols[at].next) {
        int32_t id = s->symbols[at].id >= 0 ? s->symbols[at].id : unknown_id(t);
        if (id >= 0) run->ids[run->n++] = id;
    }
    return SOBRE_OK;
}

static sobre_status bpe_encode(const tokenizer *t, tok_run *run, const char *text, size_t size)
{
    bpe_scratch *s = run->scratch;
    size_t at = 0, begin, n;

    if (!s) {
        run->scratch = s = mem_alloc(t->ctx, 1, sizeof(*s));
        if (!s) return SOBRE_OUT_OF_MEMORY;
        s->t = t;
        s->run = run;
        TRY(pretok_match_open(((const bpe *)t->state)->pretok, &s->match));
    }
    while (at < size) {
        n = utf8_valid(text + at, size - at);
        if (n) TRY(pretok_split(s->match, text + at, n, encode_piece, s));
        at += n;
        /* What is not UTF-8 is a piece of its own. */
        begin = at;
        while (at < size && utf8_next(text + at, size - at, &n) != UTF8_CHAR) at += n;
        if (at > begin) TRY(encode_piece(s, text + begin, at - begin));
    }
    return SOBRE_OK;
}

static void bpe_finish(const tokenizer *t, tok_run *run)
{
    bpe_scratch *s = run->scratch;

    if (!s) return;
    pretok_match_close(s->match);
    mem_free(t->ctx, s->symbols);
    mem_free(t->ctx, s->heap);
    mem_free(t->ctx, s);
}

const tok_kind tok_kind_bpe = {
    .name = "gpt2",
    .knows = bpe_knows,
    .decode = decode,
    .open = bpe_open,
    .close = bpe_close,
    .encode = bpe_encode,
    .finish = bpe_finish,
};
