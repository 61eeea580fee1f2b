/* SPDX-License-Identifier: MIT */
/* Tokenizers: what all kinds share. A kind is a row in the table below. */
#include "tok.h"

#include <string.h>

#include "tok_kind.h"

static const tok_kind *const kinds[] = {&tok_kind_bpe};

/* Spellings of tokens that end a turn or a text, in files that name only one of them. */
static const char *const end_names[] = {
    "<|im_end|>",    "<|endoftext|>",
    "<|eot_id|>",    "<|end_of_text|>",
    "<|eom_id|>",    "<|end|>",
    "<end_of_turn>", "</s>",
    "<eos>",         "<EOT>",
    "<|return|>",    "<|call|>",
    "<|eot|>",       "<｜end▁of▁sentence｜>",
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

const char *container_name(const container *c)
{
    return c->n_files > 0 && c->files[0]->name ? c->files[0]->name : "model";
}

/* --- Opening */

static sobre_status read_ids(tokenizer *t, const container *c)
{
    const struct {
        const char *key;
        int32_t *id;
        bool is_end;
    } rows[] = {
        {"tokenizer.ggml.bos_token_id", &t->bos, false},
        {"tokenizer.ggml.eos_token_id", &t->eos, true},
        {"tokenizer.ggml.eot_token_id", &t->eot, true},
        {"tokenizer.ggml.eom_token_id", &t->eom, true},
        {"tokenizer.ggml.unknown_token_id", &t->unk, false},
        {"tokenizer.ggml.seperator_token_id", &t->sep, false}, /* so spelled by the format */
        {"tokenizer.ggml.padding_token_id", &t->pad, false},
        {"tokenizer.ggml.cls_token_id", &t->cls, false},
        {"tokenizer.ggml.mask_token_id", &t->mask, false},
    };

    for (size_t i = 0; i < LENGTH(rows); i++) {
        *rows[i].id = -1;
        TRY(meta_get_i32(c, rows[i].key, false, 0, t->vocab.n - 1, rows[i].id, NULL));
        if (rows[i].is_end && *rows[i].id >= 0) t->vocab.tokens[*rows[i].id].is_end = true;
    }
    for (size_t i = 0; i < LENGTH(end_names); i++) {
        int32_t id = vocab_find(&t->vocab, end_names[i], strlen(end_names[i]), false);
        if (id >= 0) t->vocab.tokens[id].is_end = true;
    }
    return SOBRE_OK;
}

static sobre_status open_kind(tokenizer *t, const container *c, const char *pre)
{
    TRY(vocab_open(&t->vocab, c, t->kind->decode));
    TRY(read_ids(t, c));
    TRY(t->kind->open(t, c, pre));
    TRY(meta_get_bool(c, "tokenizer.ggml.add_bos_token", false, &t->add_bos, NULL));
    return meta_get_bool(c, "tokenizer.ggml.add_eos_token", false, &t->add_eos, NULL);
}

sobre_status tok_open(const container *c, tokenizer **ret_tok, const char **ret_note)
{
    const tok_kind *kind = NULL;
    const char *note = NULL;
    meta_string model = {0}, pre = {"default", 7};
    tokenizer *t = NULL;
    sobre_status status;
    bool found = false;

    TRY(meta_get_string(c, "tokenizer.ggml.model", false, &model, &found));
    TRY(meta_get_string(c, "tokenizer.ggml.pre", false, &pre, NULL));
    if (found && strcmp(model.text, "no_vocab") && strcmp(model.text, "none")) {
        for (size_t i = 0; i < LENGTH(kinds); i++)
            if (!strcmp(kinds[i]->name, model.text)) kind = kinds[i];
        if (!kind)
            note = model.text;
        else if (kind->knows && !kind->knows(pre.text))
            note = pre.text;
    }
    if (kind && !note) {
        t = mem_alloc(c->ctx, 1, sizeof(*t));
        if (!t) return SOBRE_OUT_OF_MEMORY;
        t->ctx = c->ctx;
        t->kind = kind;
        t->vocab.ctx = c->ctx;
        status = open_kind(t, c, pre.text);
        if (status < 0) {
            tok_close(t);
            return status;
        }
    }
    *ret_tok = t;
    if (ret_note) *ret_note = note;
    return SOBRE_OK;
}

void tok_close(tokenizer *t)
{
    if (!t) return;
    t->kind->close(t);
    vocab_close(&t->vocab);
    mem_free(t->ctx, t);
}

/* --- Facts */

int32_t tok_n_vocab(const tokenizer *t)
{
    return t->vocab.n;
}

int32_t tok_bos(const tokenizer *t)
{
    return t->bos;
}

int32_t tok_eos(const tokenizer *t)
{
    return t->eos;
}

bool tok_is_end(const tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.tokens[id].is_end;
}

int32_t tok_find(const tokenizer *t, const char *text, size_t size)
{
    int32_t id = vocab_find(&t->vocab, text, size, true);

    return id >= 0 ? id : vocab_find(&t->vocab, text, size, false);
}

sobre_status tok_text(const tokenizer *t, int32_t id, bool special, const char **ret_text,
                      size_t *ret_size)
{
    const vocab_token *token;

    if (id < 0 || id >= t->vocab.n)
        return fail(t->ctx, SOBRE_INVALID_ARGUMENT, "no token %d: the vocabulary has 0 to %d", id,
                    t->vocab.n - 1);
    token = &t->vocab.tokens[id];
    *ret_text = t->vocab.text + token->start;
    *ret_size = !special && (token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN)
                    ? 0
                    : token->size;
    return SOBRE_OK;
}

/* --- Encoding */

static sobre_status encode_text(const tokenizer *t, tok_run *run, const char *text, size_t size,
                                bool control)
{
    size_t begin = 0, at = 0;

    while (t->vocab.n_special && at < size) {
        int32_t id = vocab_match(&t->vocab, text + at, size - at, control);

        if (id < 0) {
            at++;
            continue;
        }
        if (at > begin) TRY(t->kind->encode(t, run, text + begin, at - begin));
        run->ids[run->n++] = id;
        at += t->vocab.tokens[id].size;
        begin = at;
    }
    return size > begin ? t->kind->encode(t, run, text + begin, size - begin) : SOBRE_OK;
}

sobre_status tok_encode(tokenizer *t, const char *text, size_t size, uint32_t flags, int32_t *ids,
                        size_t capacity, size_t *ret_n)
{
    bool frame = !(flags & SOBRE_TOKENIZE_NO_BOS), control = !(flags & SOBRE_TOKENIZE_NO_SPECIAL);
    tok_run run = {.text = text};
    sobre_status status;

    if (size > INT32_MAX / 2)
        return fail(t->ctx, SOBRE_INVALID_ARGUMENT,
                    "%zu bytes of text are more than 1 GiB; cut them", size);
    run.ids = mem_alloc(t->ctx, size + 2, sizeof(*run.ids));
    if (!run.ids) return SOBRE_OUT_OF_MEMORY;
    if (frame && t->add_bos && t->bos >= 0) run.ids[run.n++] = t->bos;
    status = encode_text(t, &run, text, size, control);
    t->kind->finish(t, &run);
    if (status >= 0) {
        if (frame && t->add_eos && t->eos >= 0) run.ids[run.n++] = t->eos;
        if (run.n > capacity)
            status = fail(t->ctx, SOBRE_BUFFER_TOO_SMALL,
                          "the text has %zu tokens, room is for %zu", run.n, capacity);
        else if (run.n)
            memcpy(ids, run.ids, run.n * sizeof(*ids));
        *ret_n = run.n;
    }
    mem_free(t->ctx, run.ids);
    return status;
}
