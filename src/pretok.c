/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers on PCRE2.
 *
 * The expressions are those that the vocabularies were trained with, written so that no match takes
 * more than linear time: repeats are possessive wherever what follows cannot use what they took. A
 * stage is applied to each piece of the stage before it; what it does not match is a piece too. */
#include "pretok.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* White_Space of Unicode; PCRE2's \s has U+180E too. BLANK is the same without line ends. */
#define SPACE    "\\t-\\r\\x{85}\\p{Z}"
#define BLANK    "\\t\\x{0B}\\f\\x{85}\\p{Z}"
#define TRAILING "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]++"

/* GPT-2's: Radford et al. 2019, the encoder published with the model. */
#define GPT2_SPLIT \
    "'(?:[stmd]|re|ve|ll)| ?\\p{L}++| ?\\p{N}++| ?[^" SPACE "\\p{L}\\p{N}]++|" TRAILING

/* Llama 3's and Qwen 2's differ in how many digits stand together. The last alternative but
 * TRAILING is \s*[\r\n]+: all up to the last line end of a run of white space. */
#define LINES_SPLIT(digits)                                                             \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}++|" digits \
    "| ?[^" SPACE "\\p{L}\\p{N}]++[\\r\\n]*+|(?:[" BLANK "]*+[\\r\\n]++)++|" TRAILING

static const char *const gpt2[] = {GPT2_SPLIT, NULL};
static const char *const smollm[] = {"\\p{N}", GPT2_SPLIT, NULL};
static const char *const llama3[] = {LINES_SPLIT("\\p{N}{1,3}+"), NULL};
static const char *const qwen2[] = {LINES_SPLIT("\\p{N}"), NULL};
/* For files that name none. */
static const char *const unnamed[] = {"[\\p{P}$+<=>^~|]++", GPT2_SPLIT, "\\p{N}++", "[0-9]{3}",
                                      NULL};

static const pretok_scheme schemes[] = {
    /* name, stages, whole_pieces, add_bos */
    {"default", unnamed, false, false},
    {"gpt-2", gpt2, false, false},
    {"phi-2", gpt2, false, false},
    {"olmo", gpt2, false, false},
    {"mpt", gpt2, false, false},
    {"jais", gpt2, false, false},
    {"exaone4", gpt2, false, false},
    {"mellum", gpt2, false, false},
    {"smollm", smollm, false, false},
    {"starcoder", smollm, false, false},
    {"refact", smollm, false, false},
    {"command-r", smollm, false, false},
    {"codeshell", smollm, false, false},
    {"exaone", smollm, false, false},
    {"llama-bpe", llama3, true, true},
    {"llama3", llama3, true, true},
    {"llama-v3", llama3, true, true},
    {"llama-v3.1", llama3, true, true},
    {"llama-v3.2", llama3, true, true},
    {"falcon3", llama3, true, true},
    {"falcon-h1", llama3, true, true},
    {"pixtral", llama3, true, true},
    {"lfm2", llama3, true, true},
    {"dbrx", llama3, false, false},
    {"smaug-bpe", llama3, false, false},
    {"qwen2", qwen2, false, false},
    {"deepseek-r1-qwen", qwen2, false, false},
    {"megrez", qwen2, false, false},
    {"stablelm2", qwen2, false, false},
};

enum { MAX_STAGES = 4, HEAP_LIMIT = 16 * 1024 /* KiB */ };

struct pretok {
    sobre_context *ctx;
    pcre2_general_context *memory;
    pcre2_code *stages[MAX_STAGES + 1]; /* the last is NULL */
};

struct pretok_match {
    const pretok *p;
    pcre2_match_context *limits;
    pcre2_match_data *data;
    pretok_piece piece;
    void *user;
};

const pretok_scheme *pretok_find(const char *name)
{
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
        if (!strcmp(schemes[i].name, name)) return &schemes[i];
    return NULL;
}

static sobre_status no_memory(sobre_context *ctx)
{
    return fail(ctx, SOBRE_OUT_OF_MEMORY, "no memory for the pre-tokenizer; close something");
}

sobre_status pretok_open(sobre_context *ctx, const pretok_scheme *scheme, pretok **ret_pretok)
{
    pretok *p = mem_alloc(ctx, 1, sizeof(*p));

    if (!p) return SOBRE_OUT_OF_MEMORY;
    p->ctx = ctx;
    p->memory = pcre2_general_context_create(mem_plain_alloc, mem_plain_free, ctx);
    if (!p->memory) {
        pretok_close(p);
        return no_memory(ctx);
    }
    for (int32_t i = 0; scheme->stages[i]; i++) {
        pcre2_compile_context *compile = pcre2_compile_context_create(p->memory);
        pcre2_code *code = NULL;
        int error = PCRE2_ERROR_NOMEMORY;
        PCRE2_SIZE where = 0;

        if (compile)
            code = pcre2_compile((PCRE2_SPTR)scheme->stages[i], PCRE2_ZERO_TERMINATED,
                                 PCRE2_UTF | PCRE2_UCP, &error, &where, compile);
        pcre2_compile_context_free(compile);
        if (!code) {
            pretok_close(p);
            if (!compile || error == PCRE2_ERROR_HEAP_FAILED) return no_memory(ctx);
            return fail(ctx, SOBRE_INTERNAL,
                        "PCRE2 error %d at byte %zu of the expression of pre-tokenizer %s", error,
                        (size_t)where, scheme->name);
        }
        /* Where the system allows no code to be made, matches are interpreted. */
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        p->stages[i] = code;
    }
    *ret_pretok = p;
    return SOBRE_OK;
}

void pretok_close(pretok *p)
{
    if (!p) return;
    for (pcre2_code **stage = p->stages; *stage; stage++) pcre2_code_free(*stage);
    pcre2_general_context_free(p->memory);
    mem_free(p->ctx, p);
}

sobre_status pretok_match_open(const pretok *p, pretok_match **ret_match)
{
    pretok_match *m = mem_alloc(p->ctx, 1, sizeof(*m));

    if (!m) return SOBRE_OUT_OF_MEMORY;
    m->p = p;
    m->limits = pcre2_match_context_create(p->memory);
    m->data = pcre2_match_data_create(1, p->memory);
    if (!m->limits || !m->data) {
        pretok_match_close(m);
        return no_memory(p->ctx);
    }
    pcre2_set_heap_limit(m->limits, HEAP_LIMIT);
    *ret_match = m;
    return SOBRE_OK;
}

void pretok_match_close(pretok_match *m)
{
    if (!m) return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->limits);
    mem_free(m->p->ctx, m);
}

/* Finds the next match at or after `from`; if there is none, it begins and ends at `size`. */
static sobre_status next_match(pretok_match *m, const pcre2_code *code, const char *text,
                               size_t size, size_t from, size_t *ret_begin, size_t *ret_end)
{
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
    int rc =
        pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, m->data, m->limits);

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         m->data, m->limits);
    if (rc == PCRE2_ERROR_NOMEMORY) return no_memory(m->p->ctx);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
        return fail(m->p->ctx, SOBRE_UNSUPPORTED,
                    "PCRE2 error %d after byte %zu of a run of %zu bytes of text; cut the text "
                    "into shorter ones",
                    rc, from, size);
    *ret_begin = rc >= 0 ? span[0] : size;
    *ret_end = rc >= 0 ? span[1] : size;
    return SOBRE_OK;
}

static sobre_status split_stage(pretok_match *m, pcre2_code *const *stage, const char *text,
                                size_t size)
{
    size_t at = 0, begin = 0, end = 0;

    if (!*stage) return m->piece(m->user, text, size);
    while (at < size) {
        TRY(next_match(m, *stage, text, size, at, &begin, &end));
        if (begin > at) TRY(split_stage(m, stage + 1, text + at, begin - at));
        if (end > begin) TRY(split_stage(m, stage + 1, text + begin, end - begin));
        at = end;
    }
    return SOBRE_OK;
}

sobre_status pretok_split(pretok_match *m, const char *text, size_t size, pretok_piece piece,
                          void *user)
{
    /* No match may take more steps than a few for each byte. */
    uint32_t limit = size < UINT32_MAX / 4 - 1000 ? (uint32_t)(1000 + 4 * size) : UINT32_MAX;

    pcre2_set_match_limit(m->limits, limit);
    pcre2_set_depth_limit(m->limits, limit);
    m->piece = piece;
    m->user = user;
    return split_stage(m, m->p->stages, text, size);
}
