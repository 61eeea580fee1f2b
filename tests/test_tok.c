/* SPDX-License-Identifier: MIT */
/* Tokenizers: UTF-8, the pieces of each pre-tokenizer, byte-level BPE on a made vocabulary and on
 * real ones, vocabularies that lie, and time linear in the text. */
#include "tok.h"
#include "pretok.h"
#include "utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "gguf_make.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static sobre_context *ctx;

static int open_context(void **state)
{
    return sobre_context_open(NULL, &ctx) < 0;
}

static int close_context(void **state)
{
    sobre_context_close(ctx);
    return 0;
}

/* --- UTF-8 */

static void test_utf8_whole(void **state)
{
    static const struct {
        const char *text;
        size_t whole;
    } rows[] = {
        {"", 0},
        {"abc", 3},
        {"a\xC3", 1},             /* é begins */
        {"a\xC3\xA9", 3},         /* é */
        {"\xE2\x82", 0},          /* € begins */
        {"\xF0\x9F\x9A", 0},      /* an emoji begins */
        {"\xF0\x9F\x9A\x80", 4},  /* and is there */
        {"x\xF0\x9F\xE2\x82", 3}, /* one broken off, another begins */
        {"\x80\x80", 2},          /* stray bytes wait for nothing */
        {"\xC0", 1},              /* can never become a character: overlong, */
        {"\xE0\x80", 2},          /* likewise, */
        {"\xED\xA0", 2},          /* a surrogate, */
        {"\xF4\x90", 2},          /* past U+10FFFF, */
        {"\xF5", 1},              /* likewise */
        {"\xC3\x80\x80", 3},
    };

    for (size_t i = 0; i < LENGTH(rows); i++)
        assert_int_equal(utf8_whole(rows[i].text, strlen(rows[i].text)), rows[i].whole);
}

#define BAD "\xEF\xBF\xBD" /* U+FFFD */

static void test_utf8_repair(void **state)
{
    static const char *const rows[][2] = {
        {"", ""},
        {"h\xC3\xA9 \xF0\x9F\x9A\x80", "h\xC3\xA9 \xF0\x9F\x9A\x80"},
        {"a\xFF\xFE"
         "b",
         "a" BAD BAD "b"},
        {"\xE2\x82"
         "A",
         BAD "A"},                     /* the start of one character: one mark */
        {"\xE0\x80", BAD BAD},         /* overlong: no start at all */
        {"\xED\xA0\x80", BAD BAD BAD}, /* surrogate */
        {"\xF0\x9F\xE2\x82\xAC", BAD "\xE2\x82\xAC"},
        {"\xF4\x90\x80\x80", BAD BAD BAD BAD},
        {"\xC3", BAD},
    };
    char to[64];

    for (size_t i = 0; i < LENGTH(rows); i++) {
        size_t n = utf8_repair(rows[i][0], strlen(rows[i][0]), to);
        assert_int_equal(n, strlen(rows[i][1]));
        assert_memory_equal(to, rows[i][1], n);
    }
}

/* Text that comes byte by byte, repaired as it becomes whole, is the text repaired at once. */
static void test_utf8_streams(void **state)
{
    static const char text[] =
        "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x9A\x80\xFF\xE0\x80\xF0\x9F x\xC3(\xED\xA0";
    size_t size = sizeof(text) - 1, held = 0, n = 0, whole;
    char once[3 * sizeof(text)], parts[3 * sizeof(text)];

    for (size_t i = 0; i < size; i++) {
        held++;
        whole = utf8_whole(text + i + 1 - held, held);
        n += utf8_repair(text + i + 1 - held, whole, parts + n);
        held -= whole;
        assert_true(held <= 3);
    }
    n += utf8_repair(text + size - held, held, parts + n);
    assert_int_equal(n, utf8_repair(text, size, once));
    assert_memory_equal(parts, once, n);
    assert_int_equal(utf8_valid(text, size), 10);
}

/* --- Pre-tokenizers: pieces joined by ¦, made with Python's regex module from the expressions as
 * the models publish them. */

static const char *const schemes[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"};

static const struct {
    const char *text;
    const char *pieces[LENGTH(schemes)];
} splits[] = {
    {"Hello world",
     {"Hello¦ world", "Hello¦ world", "Hello¦ world", "Hello¦ world", "Hello¦ world"}},
    {"I'm we'LL 'tis can't'VE",
     {"I¦'m¦ we¦'¦LL¦ '¦tis¦ can¦'t¦'¦VE", "I¦'m¦ we¦'¦LL¦ '¦tis¦ can¦'t¦'¦VE",
      "I¦'m¦ we¦'LL¦ '¦tis¦ can¦'t¦'VE", "I¦'m¦ we¦'LL¦ '¦tis¦ can¦'t¦'VE",
      "I¦'¦m¦ we¦'¦LL¦ ¦'¦tis¦ can¦'¦t¦'¦VE"}},
    {"  two  spaces ",
     {" ¦ two¦ ¦ spaces¦ ", " ¦ two¦ ¦ spaces¦ ", " ¦ two¦ ¦ spaces¦ ", " ¦ two¦ ¦ spaces¦ ",
      " ¦ two¦ ¦ spaces¦ "}},
    {"a\n\n\n b\r\n  c \n",
     {"a¦\n\n\n¦ b¦\r\n ¦ c¦ \n", "a¦\n\n\n¦ b¦\r\n ¦ c¦ \n", "a¦\n\n\n¦ b¦\r\n¦ ¦ c¦ \n",
      "a¦\n\n\n¦ b¦\r\n¦ ¦ c¦ \n", "a¦\n\n\n¦ b¦\r\n ¦ c¦ \n"}},
    {"\t\tx = 12345;\n",
     {"\t¦\t¦x¦ =¦ 12345¦;¦\n", "\t¦\t¦x¦ =¦ ¦1¦2¦3¦4¦5¦;¦\n", "\t¦\tx¦ =¦ ¦123¦45¦;\n",
      "\t¦\tx¦ =¦ ¦1¦2¦3¦4¦5¦;\n", "\t¦\t¦x¦ ¦=¦ ¦123¦45¦;¦\n"}},
    {"3.14159 and 1,000,000",
     {"3¦.¦14159¦ and¦ 1¦,¦000¦,¦000", "3¦.¦1¦4¦1¦5¦9¦ and¦ ¦1¦,¦0¦0¦0¦,¦0¦0¦0",
      "3¦.¦141¦59¦ and¦ ¦1¦,¦000¦,¦000", "3¦.¦1¦4¦1¦5¦9¦ and¦ ¦1¦,¦0¦0¦0¦,¦0¦0¦0",
      "3¦.¦141¦59¦ and¦ ¦1¦,¦000¦,¦000"}},
    {"½²Ⅷ一二", {"½²Ⅷ¦一二", "½¦²¦Ⅷ¦一二", "½²Ⅷ¦一二", "½¦²¦Ⅷ¦一二", "½²Ⅷ¦一二"}},
    {"naïve café déjà",
     {"naïve¦ café¦ déjà", "naïve¦ café¦ déjà", "naïve¦ café¦ déjà", "naïve¦ café¦ déjà",
      "naïve¦ café¦ déjà"}},
    {"日本語 text",
     {"日本語¦ text", "日本語¦ text", "日本語¦ text", "日本語¦ text", "日本語¦ text"}},
    {"🚀🚀 ok!!\n\n",
     {"🚀🚀¦ ok¦!!¦\n\n", "🚀🚀¦ ok¦!!¦\n\n", "🚀🚀¦ ok¦!!\n\n", "🚀🚀¦ ok¦!!\n\n", "🚀🚀¦ ok¦!!¦\n\n"}},
    {"$x+=y<z ^~| \"q\"",
     {"$¦x¦+=¦y¦<¦z¦ ^~|¦ \"¦q¦\"", "$¦x¦+=¦y¦<¦z¦ ^~|¦ \"¦q¦\"", "$x¦+=¦y¦<z¦ ^~|¦ \"¦q¦\"",
      "$x¦+=¦y¦<z¦ ^~|¦ \"¦q¦\"", "$¦x¦+=¦y¦<¦z¦ ¦^~|¦ ¦\"¦q¦\""}},
    {"\u00a0\u3000x\u2028y \302\205z",
     {"\u00a0¦\u3000¦x¦\u2028¦y¦ ¦\302\205¦z", "\u00a0¦\u3000¦x¦\u2028¦y¦ ¦\302\205¦z",
      "\u00a0¦\u3000x¦\u2028y¦ ¦\302\205z", "\u00a0¦\u3000x¦\u2028y¦ ¦\302\205z",
      "\u00a0¦\u3000¦x¦\u2028¦y¦ ¦\302\205¦z"}},
    {"\u180ea \u180e",
     {"\u180e¦a¦ \u180e", "\u180e¦a¦ \u180e", "\u180ea¦ \u180e", "\u180ea¦ \u180e",
      "\u180e¦a¦ \u180e"}},
    {"don\u2019t", {"don¦\u2019¦t", "don¦\u2019¦t", "don¦\u2019t", "don¦\u2019t", "don¦\u2019¦t"}},
    {"...\r\nno", {"...¦\r¦\n¦no", "...¦\r¦\n¦no", "...\r\n¦no", "...\r\n¦no", "...¦\r¦\n¦no"}},
    {"e\u0301 क्षि",
     {"e¦\u0301¦ क¦्¦ष¦ि", "e¦\u0301¦ क¦्¦ष¦ि", "e¦\u0301¦ क¦्ष¦ि", "e¦\u0301¦ क¦्ष¦ि",
      "e¦\u0301¦ क¦्¦ष¦ि"}},
    {" \n \n \n  x",
     {" \n \n \n ¦ x", " \n \n \n ¦ x", " \n \n \n¦ ¦ x", " \n \n \n¦ ¦ x", " \n \n \n ¦ x"}},
    {"'", {"'", "'", "'", "'", "'"}},
    {"'S's", {"'¦S¦'s", "'¦S¦'s", "'S¦'s", "'S¦'s", "'¦S¦'¦s"}},
    {"x\034y\037 z",
     {"x¦\034¦y¦\037¦ z", "x¦\034¦y¦\037¦ z", "x¦\034y¦\037¦ z", "x¦\034y¦\037¦ z",
      "x¦\034¦y¦\037¦ z"}},
};

typedef struct joined {
    char text[512];
    size_t n;
} joined;

static sobre_status join(void *user, const char *text, size_t size)
{
    static const char bar[] = "¦";
    joined *j = user;

    assert_true(j->n + size + sizeof(bar) < sizeof(j->text));
    if (j->n) j->n += (size_t)sprintf(j->text + j->n, "%s", bar);
    memcpy(j->text + j->n, text, size);
    j->n += size;
    j->text[j->n] = 0;
    return SOBRE_OK;
}

static void test_splits(void **state)
{
    for (size_t k = 0; k < LENGTH(schemes); k++) {
        pretok *p;
        pretok_match *m;

        assert_int_equal(pretok_open(ctx, pretok_find(schemes[k]), &p), SOBRE_OK);
        assert_int_equal(pretok_match_open(p, &m), SOBRE_OK);
        for (size_t i = 0; i < LENGTH(splits); i++) {
            joined j = {.n = 0};
            assert_int_equal(pretok_split(m, splits[i].text, strlen(splits[i].text), join, &j),
                             SOBRE_OK);
            assert_string_equal(j.text, splits[i].pieces[k]);
        }
        pretok_match_close(m);
        pretok_close(p);
    }
    assert_null(pretok_find("no such"));
}

/* --- Opening */

typedef struct opened {
    void *bytes;
    container *c;
    tokenizer *t;
    const char *note;
} opened;

/* Takes over `g`. */
static sobre_status open_made(gguf_make *g, opened *ret)
{
    size_t size;
    sobre_status status;

    *ret = (opened){.bytes = gguf_make_bytes(g, &size)};
    gguf_make_free(g);
    status = container_open(ctx, SOBRE(source, .data = ret->bytes, .data_size = size), &ret->c);
    assert_int_equal(status, SOBRE_OK);
    return tok_open(ret->c, &ret->t, &ret->note);
}

static void open_file(const char *path, opened *ret)
{
    *ret = (opened){0};
    if (container_open(ctx, SOBRE(source, .path = path), &ret->c) < 0 ||
        tok_open(ret->c, &ret->t, &ret->note) < 0)
        print_error("%s\n", sobre_error(ctx));
    assert_non_null(ret->t);
}

static void close_opened(opened *o)
{
    tok_close(o->t);
    container_close(o->c);
    free(o->bytes);
}

/* The ids as text, "1 2 3 ". */
static const char *encode(tokenizer *t, const char *text, size_t size, uint32_t flags)
{
    static char line[8192];
    int32_t ids[2048];
    size_t n = 0, at = 0;

    assert_int_equal(tok_encode(t, text, size, flags, ids, LENGTH(ids), &n), SOBRE_OK);
    line[0] = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(line + at, sizeof(line) - at, "%d ", ids[i]);
    return line;
}

static gguf_make *made(void)
{
    return gguf_make_llama(NULL);
}

/* Ids below 256 are the bytes. */
static void test_encodes(void **state)
{
    static const struct {
        const char *text;
        uint32_t flags;
        const char *ids;
    } rows[] = {
        {"", 0, ""},
        {"hello", 0, "274 "},
        {"hello world", 0, "274 277 "},
        {"xyz", 0, "120 121 122 "},
        {"he1he", 0, "259 49 259 "}, /* digits stand alone */
        {"<|im_start|>hello", 0, "257 274 "},
        {"<|im_start|>hello", SOBRE_TOKENIZE_NO_SPECIAL,
         "60 124 105 109 95 293 97 114 116 124 62 274 "},
        {"<|im_end|><|im_end|> the", 0, "258 258 268 "},
        {"<<|im_end|>", 0, "60 258 "},
        {"<|im_end", 0, "60 124 105 109 95 284 100 "}, /* the start of a special token */
        {"\xFFhe\xC3", 0, "255 259 195 "},             /* not UTF-8: its bytes */
        {"\xC3\xA9", 0, "195 169 "},
        {"\xED\xA0\x80", 0, "237 160 128 "},
    };
    opened o;

    assert_int_equal(open_made(made(), &o), SOBRE_OK);
    for (size_t i = 0; i < LENGTH(rows); i++)
        assert_string_equal(encode(o.t, rows[i].text, strlen(rows[i].text), rows[i].flags),
                            rows[i].ids);
    assert_string_equal(encode(o.t, "he\0he", 5, 0), "259 0 259 ");
    close_opened(&o);
}

static void test_adds_bos_and_eos(void **state)
{
    gguf_make *g = made();
    opened o;

    gguf_make_bool(g, "tokenizer.ggml.add_bos_token", true);
    gguf_make_bool(g, "tokenizer.ggml.add_eos_token", true);
    assert_int_equal(open_made(g, &o), SOBRE_OK);
    assert_string_equal(encode(o.t, "hello", 5, 0), "257 274 258 ");
    assert_string_equal(encode(o.t, "", 0, 0), "257 258 ");
    assert_string_equal(encode(o.t, "hello", 5, SOBRE_TOKENIZE_NO_BOS), "274 ");
    close_opened(&o);

    /* Llama 3's files may leave the flag out, and take pieces that are tokens whole. */
    g = made();
    gguf_make_key_remove(g, "tokenizer.ggml.add_bos_token");
    gguf_make_string(g, "tokenizer.ggml.pre", "llama-bpe");
    gguf_make_strings(g, "tokenizer.ggml.merges", NULL, 0);
    assert_int_equal(open_made(g, &o), SOBRE_OK);
    assert_string_equal(encode(o.t, "hello", 5, 0), "257 274 ");
    assert_string_equal(encode(o.t, "hellos", 6, 0), "257 104 101 108 108 111 115 ");
    close_opened(&o);
}

static void test_room(void **state)
{
    int32_t ids[2] = {-7, -7};
    size_t n = 0;
    opened o;

    assert_int_equal(open_made(made(), &o), SOBRE_OK);
    assert_int_equal(tok_encode(o.t, "hello world", 11, 0, NULL, 0, &n), SOBRE_BUFFER_TOO_SMALL);
    assert_int_equal(n, 2);
    assert_int_equal(tok_encode(o.t, "hello world", 11, 0, ids, 1, &n), SOBRE_BUFFER_TOO_SMALL);
    assert_int_equal(ids[0], -7);
    assert_int_equal(tok_encode(o.t, "hello world", 11, 0, ids, 2, &n), SOBRE_OK);
    assert_int_equal(ids[1], 277);
    assert_int_equal(tok_encode(o.t, NULL, 0, 0, NULL, 0, &n), SOBRE_OK);
    assert_int_equal(n, 0);
    close_opened(&o);
}

static void test_text(void **state)
{
    const char *text;
    size_t size;
    opened o;

    assert_int_equal(open_made(made(), &o), SOBRE_OK);
    assert_int_equal(tok_n_vocab(o.t), LLAMA_MAKE_N_VOCAB);
    assert_int_equal(tok_bos(o.t), 257);
    assert_int_equal(tok_eos(o.t), 258);
    for (int32_t id = 0; id < 256; id++) {
        assert_int_equal(tok_text(o.t, id, false, &text, &size), SOBRE_OK);
        assert_int_equal(size, 1);
        assert_int_equal((uint8_t)text[0], id);
    }
    assert_int_equal(tok_text(o.t, 277, false, &text, &size), SOBRE_OK);
    assert_int_equal(size, 6);
    assert_string_equal(text, " world");
    assert_int_equal(tok_text(o.t, 258, false, &text, &size), SOBRE_OK);
    assert_int_equal(size, 0);
    assert_int_equal(tok_text(o.t, 258, true, &text, &size), SOBRE_OK);
    assert_string_equal(text, "<|im_end|>");
    assert_int_equal(size, 10);
    assert_int_equal(tok_text(o.t, LLAMA_MAKE_N_VOCAB, true, &text, &size), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(tok_text(o.t, -1, true, &text, &size), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(tok_find(o.t, " world", 6), 277);
    assert_int_equal(tok_find(o.t, "<|im_end|>", 10), 258);
    assert_int_equal(tok_find(o.t, "no such", 7), -1);
    assert_int_equal(tok_find(o.t, "", 0), -1);
    assert_true(tok_is_end(o.t, 258));
    assert_true(tok_is_end(o.t, 256)); /* by its name */
    assert_false(tok_is_end(o.t, 257));
    assert_false(tok_is_end(o.t, -1));
    close_opened(&o);
}

/* A vocabulary of a few tokens: user-defined ones match even where special ones do not, the longest
 * first; a byte that has no token becomes the unknown one, or nothing. */
static void test_small_vocabulary(void **state)
{
    static const char *const tokens[] = {"a", "b", "ab", "<x>", "<x><y>", "<u>", "", ""};
    static const int32_t types[] = {1, 1, 1, 4, 4, 3, 5, 5}, unknown[] = {1, 1, 1, 4, 4, 2, 5, 5};
    static const char *const merges[] = {"a b"};
    gguf_make *g = gguf_make_new();
    opened o;

    gguf_make_string(g, "general.architecture", "llama");
    gguf_make_string(g, "tokenizer.ggml.model", "gpt2");
    gguf_make_strings(g, "tokenizer.ggml.tokens", tokens, LENGTH(tokens));
    gguf_make_i32s(g, "tokenizer.ggml.token_type", types, LENGTH(types));
    gguf_make_strings(g, "tokenizer.ggml.merges", merges, 1);
    gguf_make_u32(g, "tokenizer.ggml.unknown_token_id", 5);
    assert_int_equal(open_made(g, &o), SOBRE_OK);
    assert_string_equal(encode(o.t, "ab<x><y>b<x>", 12, 0), "2 4 1 3 ");
    assert_string_equal(encode(o.t, "ab<x><y>b<x>", 12, SOBRE_TOKENIZE_NO_SPECIAL), "2 4 1 3 ");
    assert_string_equal(encode(o.t, "<u>azb", 6, 0), "5 0 1 "); /* text calls up no control token */
    close_opened(&o);

    g = gguf_make_new();
    gguf_make_string(g, "general.architecture", "llama");
    gguf_make_string(g, "tokenizer.ggml.model", "gpt2");
    gguf_make_strings(g, "tokenizer.ggml.tokens", tokens, LENGTH(tokens));
    gguf_make_i32s(g, "tokenizer.ggml.token_type", types, LENGTH(types));
    gguf_make_strings(g, "tokenizer.ggml.merges", merges, 1);
    assert_int_equal(open_made(g, &o), SOBRE_OK);
    assert_string_equal(encode(o.t, "abz", 3, 0), "2 ");
    close_opened(&o);

    g = gguf_make_new();
    gguf_make_string(g, "general.architecture", "llama");
    gguf_make_string(g, "tokenizer.ggml.model", "gpt2");
    gguf_make_strings(g, "tokenizer.ggml.tokens", tokens, LENGTH(tokens));
    gguf_make_i32s(g, "tokenizer.ggml.token_type", unknown, LENGTH(unknown));
    gguf_make_strings(g, "tokenizer.ggml.merges", merges, 1);
    gguf_make_u32(g, "tokenizer.ggml.unknown_token_id", 5);
    assert_int_equal(open_made(g, &o), SOBRE_OK);
    assert_string_equal(encode(o.t, "azb", 3, 0), "0 5 1 ");
    close_opened(&o);
}

static void test_unknown_kinds(void **state)
{
    static const struct {
        const char *model, *pre, *note;
    } rows[] = {
        {"no_vocab", NULL, NULL},
        {"llama", NULL, "llama"},
        {"gpt2", "never-heard-of", "never-heard-of"},
    };
    gguf_make *g = made();
    opened o;

    for (size_t i = 0; i < LENGTH(rows); i++) {
        g = i ? made() : g;
        gguf_make_string(g, "tokenizer.ggml.model", rows[i].model);
        if (rows[i].pre) gguf_make_string(g, "tokenizer.ggml.pre", rows[i].pre);
        assert_int_equal(open_made(g, &o), SOBRE_OK);
        assert_null(o.t);
        if (rows[i].note)
            assert_string_equal(o.note, rows[i].note);
        else
            assert_null(o.note);
        close_opened(&o);
    }
    assert_int_equal(open_made(gguf_make_llama(&(llama_make){.no_tokenizer = true}), &o), SOBRE_OK);
    assert_null(o.t);
    close_opened(&o);
}

/* --- Files that lie */

static void no_tokens(gguf_make *g)
{
    gguf_make_key_remove(g, "tokenizer.ggml.tokens");
}

static void empty_tokens(gguf_make *g)
{
    gguf_make_strings(g, "tokenizer.ggml.tokens", NULL, 0);
}

static void tokens_are_numbers(gguf_make *g)
{
    gguf_make_i32s(g, "tokenizer.ggml.tokens", (int32_t[]){1, 2}, 2);
}

static void few_types(gguf_make *g)
{
    gguf_make_i32s(g, "tokenizer.ggml.token_type", (int32_t[]){1, 1}, 2);
}

static void wild_type(gguf_make *g)
{
    int32_t types[LLAMA_MAKE_N_VOCAB] = {[9] = 7};
    gguf_make_i32s(g, "tokenizer.ggml.token_type", types, LLAMA_MAKE_N_VOCAB);
}

static void negative_type(gguf_make *g)
{
    int32_t types[LLAMA_MAKE_N_VOCAB] = {[9] = -1};
    gguf_make_i32s(g, "tokenizer.ggml.token_type", types, LLAMA_MAKE_N_VOCAB);
}

static void types_are_text(gguf_make *g)
{
    gguf_make_string(g, "tokenizer.ggml.token_type", "normal");
}

static void duplicate_token(gguf_make *g)
{
    static const char *const tokens[] = {"a", "b", "c", "b"};
    gguf_make_key_remove(g, "tokenizer.ggml.token_type");
    gguf_make_strings(g, "tokenizer.ggml.tokens", tokens, 4);
}

static void no_merges(gguf_make *g)
{
    gguf_make_key_remove(g, "tokenizer.ggml.merges");
}

static void set_merge(gguf_make *g, const char *merge)
{
    const char *merges[] = {"h e", merge};
    gguf_make_strings(g, "tokenizer.ggml.merges", merges, 2);
}

static void merge_of_missing(gguf_make *g)
{
    set_merge(g, "he qq");
}

static void merge_to_missing(gguf_make *g)
{
    set_merge(g, "q q");
}

static void merge_of_one(gguf_make *g)
{
    set_merge(g, "hello");
}

static void merge_of_nothing(gguf_make *g)
{
    set_merge(g, "");
}

static void merge_with_blank_end(gguf_make *g)
{
    set_merge(g, "hello ");
}

static void merge_outside_alphabet(gguf_make *g)
{
    set_merge(g, "\xE6\x97\xA5 a");
}

static void bos_outside(gguf_make *g)
{
    gguf_make_u32(g, "tokenizer.ggml.bos_token_id", LLAMA_MAKE_N_VOCAB);
}

static void eos_is_text(gguf_make *g)
{
    gguf_make_string(g, "tokenizer.ggml.eos_token_id", "2");
}

static void pre_is_number(gguf_make *g)
{
    gguf_make_u32(g, "tokenizer.ggml.pre", 1);
}

static void add_bos_is_text(gguf_make *g)
{
    gguf_make_string(g, "tokenizer.ggml.add_bos_token", "yes");
}

static void test_bad_files(void **state)
{
    static const struct {
        void (*spoil)(gguf_make *g);
        const char *message;
    } rows[] = {
        {no_tokens, "tokenizer.ggml.tokens"},
        {empty_tokens, "tokenizer.ggml.tokens"},
        {tokens_are_numbers, "tokenizer.ggml.tokens"},
        {few_types, "2 items for 300 tokens"},
        {wild_type, "token 9 the unknown type 7"},
        {negative_type, "token 9 the unknown type -1"},
        {types_are_text, "tokenizer.ggml.token_type"},
        {duplicate_token, "tokens 1 and 3 are both \"b\""},
        {no_merges, "tokenizer.ggml.merges"},
        {merge_of_missing, "item 1 of tokenizer.ggml.merges, \"he qq\", names a token"},
        {merge_to_missing, "item 1 of tokenizer.ggml.merges, \"q q\", makes a token"},
        {merge_of_one, "is not two tokens"},
        {merge_of_nothing, "is not two tokens"},
        {merge_with_blank_end, "is not two tokens"},
        {merge_outside_alphabet, "is not two tokens"},
        {bos_outside, "tokenizer.ggml.bos_token_id"},
        {eos_is_text, "tokenizer.ggml.eos_token_id"},
        {pre_is_number, "tokenizer.ggml.pre"},
        {add_bos_is_text, "tokenizer.ggml.add_bos_token"},
    };

    for (size_t i = 0; i < LENGTH(rows); i++) {
        gguf_make *g = made();
        opened o;

        rows[i].spoil(g);
        assert_int_equal(open_made(g, &o), SOBRE_BAD_FORMAT);
        assert_null(o.t);
        if (!strstr(sobre_error(ctx), rows[i].message))
            print_error("\"%s\" lacks \"%s\"\n", sobre_error(ctx), rows[i].message);
        assert_non_null(strstr(sobre_error(ctx), rows[i].message));
        close_opened(&o);
    }
}

/* --- Time */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MOST_SECONDS = 20 };
#else
enum { MOST_SECONDS = 1 };
#endif

/* Quadratic time would show at 256 KiB too, which is quicker to test. */
static void check_time(tokenizer *t, size_t most, int32_t n_tails)
{
    static const char *const units[] = {
        "a",
        " ",
        "\n",
        "7",
        "\xF0\x9F\x9A\x80",
        "<",
        "<|im_start",
        " \n",
        "\xFF",
        "\t",
        "'",
        "ab",
        "1a",
        "\xC3\xA9",
        "\r\n",
        "he",
        "hello world, 42!\n",
        " \n ",
        "<|im_end|>",
    };
    bool lossy = tok_find(t, "\xFF", 1) < 0; /* the vocabulary lacks some bytes */
    char *text = malloc(most + 1);
    int32_t *ids = malloc((most + 3) * sizeof(*ids));

    assert_non_null(text);
    assert_non_null(ids);
    for (size_t i = 0; i < LENGTH(units); i++) {
        for (int32_t tail = 0; tail < n_tails; tail++) { /* a run may be undone by what ends it */
            size_t n = strlen(units[i]), size = 0, n_ids, decoded = 0, token_size;
            const char *token;
            clock_t start;
            double seconds;

            for (; size + n <= most; size += n) memcpy(text + size, units[i], n);
            if (tail) text[size++] = 'x';
            start = clock();
            assert_int_equal(
                tok_encode(t, text, size, SOBRE_TOKENIZE_NO_BOS, ids, most + 3, &n_ids), SOBRE_OK);
            seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
            if (seconds >= MOST_SECONDS)
                print_error("%zu bytes of \"%s\" took %.2f s\n", size, units[i], seconds);
            assert_true(seconds < MOST_SECONDS);
            for (size_t k = 0; k < n_ids && !lossy; k++) {
                assert_int_equal(tok_text(t, ids[k], true, &token, &token_size), SOBRE_OK);
                decoded += token_size;
            }
            if (!lossy) assert_int_equal(decoded, size);
        }
    }
    free(text);
    free(ids);
}

static void test_linear_time(void **state)
{
    static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"};

    for (size_t i = 0; i < LENGTH(names); i++) {
        gguf_make *g = made();
        opened o;

        gguf_make_string(g, "tokenizer.ggml.pre", names[i]);
        assert_int_equal(open_made(g, &o), SOBRE_OK);
        check_time(o.t, 1 << 18, 2);
        close_opened(&o);
    }
}

/* --- Real vocabularies */

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text;
    long size;

    if (!file) print_error("cannot read %s\n", path);
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    text = malloc((size_t)size + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)size, file), size);
    text[size] = 0;
    fclose(file);
    return text;
}

/* Cuts the next line off; NULL after the last. */
static char *next_line(char **text)
{
    char *line = *text, *end = strchr(line, '\n');

    if (!*line) return NULL;
    *text = end ? end + 1 : line + strlen(line);
    if (end) *end = 0;
    return line;
}

static void assert_ids(const char *ids, const char *expected)
{
    size_t n = strlen(ids);

    while (n && ids[n - 1] == ' ') n--;
    while (*expected == ' ') expected++;
    if (strlen(expected) != n || memcmp(ids, expected, n))
        print_error("got %s\nnot %s\n", ids, expected);
    assert_int_equal(strlen(expected), n);
    assert_memory_equal(ids, expected, n);
}

/* data/smollm2_prompts.txt: a text with \n, \t and \\ escaped, its ids, and so on. */
static void test_smollm2(void **state)
{
    const char *path = getenv("SOBRE_TEST_MODEL");
    char *all, *rest, *line;
    opened o;

    if (!path || !*path) {
        print_message("SKIP: the build option model is not set\n");
        skip();
    }
    open_file(path, &o);
    rest = all = read_text(TEST_DATA "/smollm2_prompts.txt");
    while ((line = next_line(&rest))) {
        size_t n = 0;
        char *ids;

        for (const char *from = line; *from; from++)
            line[n++] = *from != '\\' ? *from : *++from == 'n' ? '\n' : *from == 't' ? '\t' : *from;
        ids = next_line(&rest);
        assert_non_null(ids);
        assert_ids(encode(o.t, line, n, 0), ids);
    }
    free(all);
    assert_true(tok_is_end(o.t, tok_find(o.t, "<|im_end|>", 10)));
    check_time(o.t, 1 << 20, 1);
    close_opened(&o);
}

static void test_golden_vocabularies(void **state)
{
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2"};
    static const char mark[] = "\n__ggml_vocab_test__\n";
    const char *dir = getenv("SOBRE_TEST_GOLDEN");

    if (!dir || !*dir) {
        print_message("SKIP: the build option golden_dir is not set\n");
        skip();
    }
    for (size_t i = 0; i < LENGTH(names); i++) {
        char path[1024], *texts, *ids, *text, *rest, *line;
        int32_t n = 0;
        opened o;

        snprintf(path, sizeof(path), "%s/tokenizers/ggml-vocab-%s.gguf", dir, names[i]);
        open_file(path, &o);
        snprintf(path, sizeof(path), "%s/tokenizers/ggml-vocab-%s.gguf.inp", dir, names[i]);
        text = texts = read_text(path);
        snprintf(path, sizeof(path), "%s/tokenizers/ggml-vocab-%s.gguf.out", dir, names[i]);
        rest = ids = read_text(path);
        while ((line = next_line(&rest))) {
            char *end = strstr(text, mark);

            n++;
            assert_ids(
                encode(o.t, text, end ? (size_t)(end - text) : strlen(text), SOBRE_TOKENIZE_NO_BOS),
                line);
            if (!end) break;
            text = end + strlen(mark);
        }
        assert_true(n > 40);
        free(texts);
        free(ids);
        close_opened(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_whole),
        cmocka_unit_test(test_utf8_repair),
        cmocka_unit_test(test_utf8_streams),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_encodes),
        cmocka_unit_test(test_adds_bos_and_eos),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_small_vocabulary),
        cmocka_unit_test(test_unknown_kinds),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_linear_time),
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_golden_vocabularies),
    };

    return cmocka_run_group_tests(tests, open_context, close_context);
}
