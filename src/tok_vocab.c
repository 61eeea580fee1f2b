/* SPDX-License-Identifier: MIT */
/* The vocabulary: tokens, their text, and how to find them. */
#include <string.h>

#include "checked.h"
#include "tok_kind.h"

static const char key_tokens[] = "tokenizer.ggml.tokens";
static const char key_types[] = "tokenizer.ggml.token_type";

static uint32_t hash_text(uint64_t h, const char *text, size_t size)
{
    uint64_t word;

    h = hash_word(h, size);
    for (; size >= 8; text += 8, size -= 8) {
        memcpy(&word, text, 8);
        h = hash_word(h, word);
    }
    if (size) {
        word = 0;
        memcpy(&word, text, size);
        h = hash_word(h, word);
    }
    return (uint32_t)hash_word(h, 0);
}

static bool slot_holds(const vocab *v, const vocab_slot *slot, uint32_t hash, const char *text,
                       size_t size, bool plain)
{
    return slot->hash == hash && slot->size == size && slot->plain == plain &&
           !memcmp(v->text + slot->start, text, size);
}

/* The slot that holds this text, or the free one where it belongs. */
static vocab_slot *find_slot(const vocab *v, uint32_t hash, const char *text, size_t size,
                             bool plain)
{
    for (uint32_t at = hash & v->mask;; at = (at + 1) & v->mask) {
        vocab_slot *slot = &v->slots[at];
        if (slot->id < 0 || slot_holds(v, slot, hash, text, size, plain)) return slot;
    }
}

int32_t vocab_find(const vocab *v, const char *text, size_t size, bool plain)
{
    return size ? find_slot(v, hash_text(v->seed, text, size), text, size, plain)->id : -1;
}

void vocab_find_all(const vocab *v, vocab_key *keys, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        keys[i].hash = hash_text(v->seed, keys[i].text, keys[i].size);
        __builtin_prefetch(&v->slots[keys[i].hash & v->mask]);
    }
    for (int32_t i = 0; i < n; i++) {
        const vocab_slot *slot = &v->slots[keys[i].hash & v->mask];
        if (slot->id >= 0) __builtin_prefetch(v->text + slot->start);
    }
    for (int32_t i = 0; i < n; i++)
        keys[i].id =
            keys[i].size ? find_slot(v, keys[i].hash, keys[i].text, keys[i].size, true)->id : -1;
}

/* --- Reading */

static sobre_status read_types(vocab *v, const container *c)
{
    const meta_value *types = container_meta(c, key_types);

    if (!types) return SOBRE_OK;
    if (types->type != META_ARRAY || (types->item != META_U64 && types->item != META_I64))
        return fail(v->ctx, SOBRE_BAD_FORMAT, "%s: %s is not an array of integers",
                    container_name(c), key_types);
    if (types->v.array.n != (uint64_t)v->n)
        return fail(v->ctx, SOBRE_BAD_FORMAT, "%s: %s has %llu items for %d tokens",
                    container_name(c), key_types, (unsigned long long)types->v.array.n, v->n);
    for (int32_t id = 0; id < v->n; id++) {
        /* Negative numbers become large ones. */
        uint64_t type = ((const uint64_t *)types->v.array.items)[id];
        if (type >= N_TOKEN_TYPES)
            return fail(v->ctx, SOBRE_BAD_FORMAT, "%s: %s gives token %d the unknown type %lld",
                        container_name(c), key_types, id, (long long)type);
        v->tokens[id].type = (uint8_t)type;
    }
    return SOBRE_OK;
}

static bool is_special(const vocab_token *t)
{
    return t->type == TOKEN_CONTROL || t->type == TOKEN_USER_DEFINED || t->type == TOKEN_UNKNOWN;
}

/* Decoding never makes text longer, so that its size in the file is enough. */
static sobre_status read_text(vocab *v, const container *c, const meta_string *items,
                              vocab_decode decode)
{
    uint64_t total = 0;
    uint32_t at = 0;

    for (int32_t id = 0; id < v->n; id++)
        if (!checked_add(total, (uint64_t)items[id].size + 1, &total) || total > INT32_MAX)
            return fail(v->ctx, SOBRE_BAD_FORMAT, "%s: %s holds more than 2 GiB of text",
                        container_name(c), key_tokens);
    v->text = mem_alloc(v->ctx, (size_t)total, 1);
    if (!v->text) return SOBRE_OUT_OF_MEMORY;
    for (int32_t id = 0; id < v->n; id++) {
        vocab_token *t = &v->tokens[id];
        size_t size = items[id].size;

        t->plain = !is_special(t) && decode(items[id].text, size, v->text + at, &size);
        if (!t->plain) memcpy(v->text + at, items[id].text, size);
        t->start = at;
        t->size = (uint32_t)size;
        v->text[at + t->size] = 0;
        at += t->size + 1;
    }
    return SOBRE_OK;
}

static sobre_status build_index(vocab *v, const container *c)
{
    uint64_t n_slots = 16;

    while (n_slots < (uint64_t)v->n + v->n / 2) n_slots *= 2;
    v->slots = mem_alloc(v->ctx, (size_t)n_slots, sizeof(*v->slots));
    if (!v->slots) return SOBRE_OUT_OF_MEMORY;
    memset(v->slots, 0xFF, (size_t)n_slots * sizeof(*v->slots));
    v->mask = (uint32_t)(n_slots - 1);
    v->seed = hash_word((uintptr_t)v->slots, (uintptr_t)v);
    for (int32_t id = 0; id < v->n; id++) {
        const vocab_token *t = &v->tokens[id];
        uint32_t hash;
        vocab_slot *slot;

        if (!t->size) continue; /* padding: stands for nothing */
        hash = hash_text(v->seed, v->text + t->start, t->size);
        slot = find_slot(v, hash, v->text + t->start, t->size, t->plain);
        if (slot->id < 0)
            *slot = (vocab_slot){hash, id, t->start, t->size, t->plain};
        else if (t->type != TOKEN_UNUSED && t->type != TOKEN_USER_DEFINED)
            return fail(v->ctx, SOBRE_BAD_FORMAT, "%s: %s: tokens %d and %d are both \"%.*s\"",
                        container_name(c), key_tokens, slot->id, id,
                        (int)(t->size < 64 ? t->size : 64), v->text + t->start);
    }
    return SOBRE_OK;
}

static int32_t trie_add(vocab *v, int32_t *link, uint8_t byte)
{
    for (; *link >= 0; link = &v->trie[*link].next)
        if (v->trie[*link].byte == byte) return *link;
    *link = v->n_trie;
    v->trie[v->n_trie] = (trie_node){-1, -1, -1, byte};
    return v->n_trie++;
}

/* Special tokens are looked for at every byte of a text, so their length is bounded. */
static sobre_status build_trie(vocab *v, const container *c)
{
    enum { MAX_SPECIAL = 1024 };
    size_t n_nodes = 0;

    memset(v->roots, 0xFF, sizeof(v->roots));
    for (int32_t id = 0; id < v->n; id++) {
        if (!is_special(&v->tokens[id])) continue;
        if (v->tokens[id].size > MAX_SPECIAL)
            return fail(v->ctx, SOBRE_BAD_FORMAT,
                        "%s: %s: token %d is a special one of %u bytes; at most %d can be",
                        container_name(c), key_tokens, id, (unsigned)v->tokens[id].size,
                        MAX_SPECIAL);
        n_nodes += v->tokens[id].size;
    }
    v->trie = mem_alloc(v->ctx, n_nodes, sizeof(*v->trie));
    if (!v->trie) return SOBRE_OUT_OF_MEMORY;
    for (int32_t id = 0; id < v->n; id++) {
        const vocab_token *t = &v->tokens[id];
        const uint8_t *text = (const uint8_t *)v->text + t->start;
        int32_t node;

        if (!is_special(t) || !t->size) continue;
        node = trie_add(v, &v->roots[text[0]], text[0]);
        for (uint32_t i = 1; i < t->size; i++) node = trie_add(v, &v->trie[node].child, text[i]);
        if (v->trie[node].id < 0) v->trie[node].id = id;
        v->n_special++;
    }
    return SOBRE_OK;
}

int32_t vocab_match(const vocab *v, const char *text, size_t size, bool control)
{
    int32_t found = -1, node = v->roots[(uint8_t)text[0]];

    for (size_t i = 0;;) {
        const trie_node *here;

        while (node >= 0 && v->trie[node].byte != (uint8_t)text[i]) node = v->trie[node].next;
        if (node < 0) return found;
        here = &v->trie[node];
        if (here->id >= 0 && (control || v->tokens[here->id].type == TOKEN_USER_DEFINED))
            found = here->id;
        if (++i == size) return found;
        node = here->child;
    }
}

sobre_status vocab_open(vocab *v, const container *c, vocab_decode decode)
{
    const meta_value *tokens = container_meta(c, key_tokens);

    v->ctx = c->ctx;
    if (!tokens || tokens->type != META_ARRAY || tokens->item != META_STRING ||
        tokens->v.array.n == 0 || tokens->v.array.n > INT32_MAX / 2)
        return fail(v->ctx, SOBRE_BAD_FORMAT,
                    "%s: %s must be an array of strings, with one token at least; convert the "
                    "model again",
                    container_name(c), key_tokens);
    v->n = (int32_t)tokens->v.array.n;
    v->tokens = mem_alloc(v->ctx, (size_t)v->n, sizeof(*v->tokens));
    if (!v->tokens) return SOBRE_OUT_OF_MEMORY;
    TRY(read_types(v, c));
    TRY(read_text(v, c, tokens->v.array.items, decode));
    TRY(build_index(v, c));
    return build_trie(v, c);
}

void vocab_close(vocab *v)
{
    mem_free(v->ctx, v->trie);
    mem_free(v->ctx, v->slots);
    mem_free(v->ctx, v->text);
    mem_free(v->ctx, v->tokens);
}
