/* SPDX-License-Identifier: MIT */
/* Well-formed GGUF files: metadata of every type, tensors, all kinds of sources, split files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container.h"
#include "gguf_make.h"

#include <cmocka.h> /* last: it defines fail() */

typedef struct fixture {
    sobre_context *ctx;
    char folder[64];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->folder, "/tmp/sobre-gguf-XXXXXX");
    if (!mkdtemp(f->folder) || sobre_context_open(NULL, &f->ctx) != SOBRE_OK) return 1;
    *state = f;
    return 0;
}

/* Every test removes the files that it made, and all memory is given back. */
static int teardown(void **state)
{
    fixture *f = *state;
    sobre_usage usage = SOBRE_INIT(usage);
    sobre_context_usage(f->ctx, &usage);
    sobre_context_close(f->ctx);
    int failed = rmdir(f->folder);
    free(f);
    return failed;
}

static const char *in_folder(const fixture *f, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

static uint64_t held(sobre_context *ctx)
{
    sobre_usage usage = SOBRE_INIT(usage);
    assert_int_equal(sobre_context_usage(ctx, &usage), SOBRE_OK);
    return usage.host_bytes;
}

static container *open_ok(sobre_context *ctx, const sobre_source *source)
{
    container *c = NULL;
    if (container_open(ctx, source, &c) != SOBRE_OK) fail_msg("%s", sobre_error(ctx));
    return c;
}

static container *open_made(sobre_context *ctx, gguf_make *g, void **ret_bytes)
{
    size_t size;
    *ret_bytes = gguf_make_bytes(g, &size);
    gguf_make_free(g);
    return open_ok(ctx, SOBRE(source, .data = *ret_bytes, .data_size = size));
}

/* --- Metadata */

static void test_scalars(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_new();
    void *bytes;
    gguf_make_raw(g, "u8", GGUF_U8, "\xff", 1);
    gguf_make_raw(g, "i8", GGUF_I8, "\xff", 1);
    gguf_make_raw(g, "u16", GGUF_U16, "\xfe\xff", 2);
    gguf_make_raw(g, "i16", GGUF_I16, "\xfe\xff", 2);
    gguf_make_raw(g, "u32", GGUF_U32, "\xfd\xff\xff\xff", 4);
    gguf_make_raw(g, "i32", GGUF_I32, "\xfd\xff\xff\xff", 4);
    gguf_make_raw(g, "u64", GGUF_U64, "\xfc\xff\xff\xff\xff\xff\xff\xff", 8);
    gguf_make_raw(g, "i64", GGUF_I64, "\xfc\xff\xff\xff\xff\xff\xff\xff", 8);
    gguf_make_raw(g, "f64", GGUF_F64, "\0\0\0\0\0\0\xf8\x3f", 8);
    gguf_make_f32(g, "f32", -0.25f);
    gguf_make_bool(g, "yes", true);
    gguf_make_bool(g, "no", false);
    gguf_make_string(g, "text", "gr\xc3\xbc\xc3\x9f");
    gguf_make_raw(g, "zero", GGUF_STRING, "\3\0\0\0\0\0\0\0a\0b", 11);
    container *c = open_made(f->ctx, g, &bytes);

    assert_int_equal(c->n_meta, 14);
    assert_string_equal(c->meta[1].key, "i8");
    assert_int_equal(container_meta(c, "u8")->v.u64, 255);
    assert_int_equal(container_meta(c, "i8")->v.i64, -1);
    assert_int_equal(container_meta(c, "u16")->v.u64, 65534);
    assert_int_equal(container_meta(c, "i16")->v.i64, -2);
    assert_int_equal(container_meta(c, "u32")->v.u64, 4294967293);
    assert_int_equal(container_meta(c, "i32")->v.i64, -3);
    assert_true(container_meta(c, "u64")->v.u64 == UINT64_MAX - 3);
    assert_true(container_meta(c, "i64")->v.i64 == -4);
    assert_true(container_meta(c, "f64")->v.f64 == 1.5);
    assert_true(container_meta(c, "f32")->v.f64 == -0.25);
    assert_true(container_meta(c, "yes")->v.boolean);
    assert_false(container_meta(c, "no")->v.boolean);
    assert_string_equal(container_meta(c, "text")->v.string.text, "gr\xc3\xbc\xc3\x9f");
    assert_int_equal(container_meta(c, "zero")->v.string.size, 3);
    assert_memory_equal(container_meta(c, "zero")->v.string.text, "a\0b", 4);
    assert_null(container_meta(c, "missing"));
    assert_int_equal(container_tensor(c, "missing"), -1);
    container_close(c);
    free(bytes);
}

static void test_arrays(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_new();
    void *bytes;
    const char *words[] = {"a", "", "long word"};
    enum { MANY = 100000 };
    int32_t *many = malloc(MANY * sizeof *many);
    for (int i = 0; i < MANY; i++) many[i] = 7 * i - MANY;
    gguf_make_strings(g, "words", words, 3);
    gguf_make_strings(g, "none", NULL, 0);
    gguf_make_i32s(g, "many", many, MANY);
    gguf_make_f32s(g, "floats", (const float[]){1, -2.5f, INFINITY}, 3);
    gguf_make_raw(g, "bools", GGUF_ARRAY, "\7\0\0\0\3\0\0\0\0\0\0\0\1\0\1", 15);
    gguf_make_raw(g, "i8s", GGUF_ARRAY, "\1\0\0\0\2\0\0\0\0\0\0\0\x80\x7f", 14);
    container *c = open_made(f->ctx, g, &bytes);

    const meta_value *v = container_meta(c, "words");
    assert_int_equal(v->type, META_ARRAY);
    assert_int_equal(v->item, META_STRING);
    assert_int_equal(v->v.array.n, 3);
    const meta_string *strings = v->v.array.items;
    for (int i = 0; i < 3; i++) {
        assert_string_equal(strings[i].text, words[i]);
        assert_int_equal(strings[i].size, strlen(words[i]));
    }
    assert_int_equal(container_meta(c, "none")->v.array.n, 0);
    v = container_meta(c, "many");
    assert_int_equal(v->item, META_I64);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(((const int64_t *)v->v.array.items)[i], many[i]);
    }
    v = container_meta(c, "floats");
    assert_int_equal(v->item, META_F64);
    assert_true(((const double *)v->v.array.items)[1] == -2.5);
    assert_true(isinf(((const double *)v->v.array.items)[2]));
    v = container_meta(c, "bools");
    assert_int_equal(v->item, META_BOOL);
    assert_true(((const bool *)v->v.array.items)[2]);
    assert_false(((const bool *)v->v.array.items)[1]);
    v = container_meta(c, "i8s");
    assert_int_equal(((const int64_t *)v->v.array.items)[0], -128);
    assert_int_equal(((const int64_t *)v->v.array.items)[1], 127);
    container_close(c);
    free(bytes);
    free(many);
}

static void expect_error(sobre_context *ctx, sobre_status got, const char *text)
{
    assert_int_equal(got, SOBRE_BAD_FORMAT);
    if (!strstr(sobre_error(ctx), text)) fail_msg("\"%s\" lacks \"%s\"", sobre_error(ctx), text);
}

static void test_typed(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_new();
    void *bytes;
    gguf_make_u32(g, "n", 7);
    gguf_make_raw(g, "minus", GGUF_I8, "\xff", 1);
    gguf_make_u32(g, "large", 5000000);
    gguf_make_raw(g, "huge", GGUF_U64, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    gguf_make_f32(g, "x", 0.5f);
    gguf_make_f32(g, "nan", NAN);
    gguf_make_bool(g, "flag", true);
    gguf_make_string(g, "text", "hello");
    gguf_make_i32s(g, "list", (const int32_t[]){1}, 1);
    container *c = open_made(f->ctx, g, &bytes);

    int32_t n = -5;
    float x = -5;
    bool flag = false, found = false;
    meta_string text = {0};
    assert_int_equal(meta_get_i32(c, "n", true, 1, 7, &n, &found), SOBRE_OK);
    assert_true(n == 7 && found);
    assert_int_equal(meta_get_i32(c, "minus", true, -1, 7, &n, NULL), SOBRE_OK);
    assert_int_equal(n, -1);
    assert_int_equal(meta_get_i32(c, "none", false, 1, 7, &n, &found), SOBRE_OK);
    assert_true(n == -1 && !found);
    assert_int_equal(meta_get_f32(c, "x", true, &x, NULL), SOBRE_OK);
    assert_true(x == 0.5f);
    assert_int_equal(meta_get_bool(c, "flag", true, &flag, &found), SOBRE_OK);
    assert_true(flag && found);
    assert_int_equal(meta_get_string(c, "text", true, &text, NULL), SOBRE_OK);
    assert_string_equal(text.text, "hello");

    n = -5;
    expect_error(f->ctx, meta_get_i32(c, "text", false, 1, 7, &n, NULL),
                 "\"text\" at byte 157 is a string, expected an integer");
    expect_error(f->ctx, meta_get_i32(c, "list", false, 1, 7, &n, NULL), "is an array, expected");
    expect_error(f->ctx, meta_get_i32(c, "none", true, 1, 7, &n, NULL), "\"none\" is missing");
    expect_error(f->ctx, meta_get_i32(c, "minus", false, 0, 7, &n, NULL), "is -1, expected 0 to 7");
    expect_error(f->ctx, meta_get_i32(c, "large", false, 1, 4999999, &n, NULL), "is 5000000, ");
    expect_error(f->ctx, meta_get_i32(c, "huge", false, INT32_MIN, INT32_MAX, &n, NULL),
                 "is 18446744073709551615, ");
    expect_error(f->ctx, meta_get_f32(c, "nan", false, &x, NULL), "expected a finite number");
    expect_error(f->ctx, meta_get_f32(c, "n", false, &x, NULL), "an integer, expected a float");
    expect_error(f->ctx, meta_get_bool(c, "n", false, &flag, NULL), "expected a boolean");
    expect_error(f->ctx, meta_get_string(c, "flag", false, &text, NULL), "is a boolean, ");
    assert_true(n == -5 && x == 0.5f && flag);
    assert_string_equal(text.text, "hello");
    container_close(c);
    free(bytes);
}

/* --- Sources */

/* Reads every tensor through the container and compares it with the maker's bytes. */
static void check_llama(container *c, const gguf_make *g)
{
    char model[64];
    meta_string name;
    assert_int_equal(c->n_tensors, (int)g->n_tensors);
    assert_int_equal(meta_get_string(c, "general.architecture", true, &name, NULL), SOBRE_OK);
    assert_string_equal(name.text, "llama");
    assert_int_equal(container_meta(c, "tokenizer.ggml.tokens")->v.array.n, LLAMA_MAKE_N_VOCAB);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const make_tensor *want = &g->tensors[i];
        int32_t k = container_tensor(c, want->name);
        if (k < 0) fail_msg("no %s", want->name);
        const tensor_info *t = &c->tensors[k];
        assert_int_equal(t->rank, want->rank);
        assert_int_equal(t->dtype, want->type);
        for (int32_t d = 0; d < t->rank; d++) {
            assert_int_equal(t->dims[d], want->dims[t->rank - 1 - d]);
        }
        assert_int_equal(t->size, want->size);
        uint8_t *data = malloc(want->size);
        assert_int_equal(reader_read(c->files[t->file], t->offset, data, want->size), SOBRE_OK);
        assert_memory_equal(data, want->data, want->size);
        const void *place = reader_peek(c->files[t->file], t->offset, t->size);
        if (place) assert_memory_equal(place, want->data, want->size);
        free(data);
    }
    snprintf(model, sizeof model, "blk.%d.attn_q.weight", 0);
    assert_int_equal(c->tensors[container_tensor(c, model)].dims[0], 64);
}

typedef struct source_user {
    const uint8_t *data;
    uint64_t size;
    int calls;
} source_user;

static int32_t read_callback(void *user, uint64_t offset, void *buffer, size_t size)
{
    source_user *u = user;
    u->calls++;
    if (offset > u->size || size > u->size - offset) return 1;
    memcpy(buffer, u->data + offset, size);
    return 0;
}

static void test_sources(void **state)
{
    fixture *f = *state;
    static const sobre_dtype dtypes[] = {SOBRE_F32, SOBRE_F16, SOBRE_Q8_0, SOBRE_Q4_1};
    uint64_t before = held(f->ctx);
    for (int i = 0; i < 4; i++) {
        gguf_make *g = gguf_make_llama(
            &(llama_make){.dtype = dtypes[i], .separate_output = i & 1, .biases = i & 1});
        if (i == 2) g->version = 2;
        size_t size;
        uint8_t *bytes = gguf_make_bytes(g, &size);
        const char *path = in_folder(f, "tiny.gguf");
        gguf_make_write(g, path);
        source_user user = {bytes, size, 0};
        const sobre_source *sources[] = {
            SOBRE(source, .path = path),
            SOBRE(source, .path = path, .map = 1),
            SOBRE(source, .data = bytes, .data_size = size),
            SOBRE(source, .read = read_callback, .read_user = &user, .read_size = size),
        };
        for (int s = 0; s < 4; s++) {
            container *c = open_ok(f->ctx, sources[s]);
            assert_string_equal(c->format, i == 2 ? "GGUF v2" : "GGUF v3");
            assert_string_equal(c->files[0]->name, s < 2 ? path : s == 2 ? "(memory)" : "(reader)");
            assert_int_equal(reader_peek(c->files[0], 0, 4) != NULL, s == 1 || s == 2);
            if (s == 3) assert_in_range(user.calls, 1, 8); /* in pieces, not by field */
            check_llama(c, g);
            container_close(c);
        }
        assert_int_equal(held(f->ctx), before);
        unlink(path);
        free(bytes);
        gguf_make_free(g);
    }
}

static void test_bad_sources(void **state)
{
    fixture *f = *state;
    char path[256];
    container *c = NULL;
    snprintf(path, sizeof path, "%s", in_folder(f, "fifo"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(container_open(f->ctx, SOBRE(source, .path = path), &c), SOBRE_IO);
    assert_non_null(strstr(sobre_error(f->ctx), "fifo: cannot be opened: "));
    unlink(path);
    assert_int_equal(container_open(f->ctx, SOBRE(source, .path = f->folder), &c), SOBRE_IO);
    assert_non_null(strstr(sobre_error(f->ctx), f->folder));
    assert_int_equal(container_open(f->ctx, SOBRE(source, .path = path), &c), SOBRE_IO);
    assert_non_null(strstr(sobre_error(f->ctx), "No such file"));
    for (int map = 0; map < 2; map++) {
        fclose(fopen(path, "w"));
        assert_int_equal(container_open(f->ctx, SOBRE(source, .path = path, .map = map), &c),
                         SOBRE_BAD_FORMAT);
        assert_non_null(strstr(sobre_error(f->ctx), "is empty"));
    }
    unlink(path);

    sobre_source odd = {0};
    assert_int_equal(container_open(f->ctx, &odd, &c), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(container_open(f->ctx, NULL, &c), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(container_open(f->ctx, SOBRE(source, .map = 1), &c), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(
        container_open(f->ctx, SOBRE(source, .path = path, .data = path, .data_size = 4), &c),
        SOBRE_INVALID_ARGUMENT);
    source_user user = {(const uint8_t *)"GGUF", 4, 0};
    assert_int_equal(
        container_open(
            f->ctx, SOBRE(source, .read = read_callback, .read_user = &user, .read_size = 99), &c),
        SOBRE_IO);
    assert_non_null(strstr(sobre_error(f->ctx), "read function gave 1"));
    assert_null(c);
}

/* The file loses its end between opening and reading. */
static void test_shrinking_file(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_llama(NULL);
    const char *path = in_folder(f, "tiny.gguf");
    gguf_make_write(g, path);
    gguf_make_free(g);
    container *c = open_ok(f->ctx, SOBRE(source, .path = path));
    const tensor_info *t = &c->tensors[container_tensor(c, "blk.1.ffn_down.weight")];
    assert_int_equal(truncate(path, (off_t)t->offset + 8), 0);
    uint8_t *data = malloc(t->size);
    expect_error(f->ctx, reader_read(c->files[0], t->offset, data, t->size),
                 "tiny.gguf: truncated while it was read");
    assert_int_equal(reader_read(c->files[0], t->offset, data, 8), SOBRE_OK);
    expect_error(f->ctx, reader_read(c->files[0], c->files[0]->size - 1, data, 2), "truncated: ");
    expect_error(f->ctx, reader_read(c->files[0], UINT64_MAX, data, 2), "truncated: ");
    free(data);
    container_close(c);
    unlink(path);
}

/* --- Readers on many threads */

typedef struct worker {
    container *c;
    const gguf_make *g;
    bool ok;
} worker;

static void read_all(void *arg)
{
    worker *w = arg;
    w->ok = true;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < w->g->n_tensors; i++) {
            const tensor_info *t = &w->c->tensors[container_tensor(w->c, w->g->tensors[i].name)];
            uint8_t *data = malloc(t->size);
            if (reader_read(w->c->files[0], t->offset, data, t->size) != SOBRE_OK ||
                memcmp(data, w->g->tensors[i].data, t->size)) {
                w->ok = false;
            }
            free(data);
        }
    }
}

static void test_threads(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_llama(NULL);
    const char *path = in_folder(f, "tiny.gguf");
    gguf_make_write(g, path);
    container *c = open_ok(f->ctx, SOBRE(source, .path = path));
    worker workers[4];
    os_thread *threads[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (worker){c, g, false};
        threads[i] = os_thread_start(read_all, &workers[i]);
        assert_non_null(threads[i]);
    }
    for (int i = 0; i < 4; i++) {
        os_thread_join(threads[i]);
        assert_true(workers[i].ok);
    }
    container_close(c);
    gguf_make_free(g);
    unlink(path);
}

/* --- Size */

/* Names for a large vocabulary; their time is linear, so a second is far from what it takes. */
static void test_large_vocabulary(void **state)
{
    fixture *f = *state;
    enum { TOKENS = 150000, MERGES = 280000, SIZE = 32 };
    char *texts = malloc((size_t)MERGES * SIZE);
    const char **items = malloc(MERGES * sizeof *items);
    for (int i = 0; i < MERGES; i++) {
        items[i] = texts + (size_t)i * SIZE;
        snprintf(texts + (size_t)i * SIZE, SIZE, "t%d m%d", i % 999, i);
    }
    gguf_make *g = gguf_make_new();
    gguf_make_strings(g, "tokenizer.ggml.tokens", items, TOKENS);
    gguf_make_strings(g, "tokenizer.ggml.merges", items, MERGES);
    const char *path = in_folder(f, "vocab.gguf");
    gguf_make_write(g, path);
    gguf_make_free(g);
    uint64_t begin = os_now_ns();
    container *c = open_ok(f->ctx, SOBRE(source, .path = path));
    double ms = (double)(os_now_ns() - begin) / 1e6;
    print_message("opened %d tokens and %d merges in %.1f ms\n", TOKENS, MERGES, ms);
    assert_true(ms < 1000);
    const meta_string *merges = container_meta(c, "tokenizer.ggml.merges")->v.array.items;
    for (int i = 0; i < MERGES; i++) assert_string_equal(merges[i].text, items[i]);
    container_close(c);
    unlink(path);
    free(items);
    free(texts);
}

/* Many tensors, in no order of names, are found by name. */
static void test_many_tensors(void **state)
{
    fixture *f = *state;
    enum { MANY = 5000 };
    gguf_make *g = gguf_make_new();
    const int64_t one = 1;
    char name[32];
    void *bytes;
    g->alignment = 32;
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "tensor.%d", i * 7919 % MANY);
        float value = (float)(i * 7919 % MANY);
        gguf_make_tensor(g, name, SOBRE_F32, 1, &one, &value);
    }
    container *c = open_made(f->ctx, g, &bytes);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "tensor.%d", i);
        int32_t k = container_tensor(c, name);
        assert_true(k >= 0);
        float value;
        assert_int_equal(reader_read(c->files[0], c->tensors[k].offset, &value, 4), SOBRE_OK);
        assert_true(value == (float)i);
    }
    assert_int_equal(container_tensor(c, "tensor.5000"), -1);
    container_close(c);
    free(bytes);
}

/* Rank 4, blocks, an alignment of the file's own. */
static void test_shapes(void **state)
{
    fixture *f = *state;
    gguf_make *g = gguf_make_new();
    void *bytes;
    g->alignment = 4096;
    gguf_make_u32(g, "general.alignment", 4096);
    gguf_make_tensor(g, "a", SOBRE_Q6_K, 4, (const int64_t[]){2, 3, 5, 256}, NULL);
    gguf_make_tensor(g, "b", SOBRE_F64, 1, (const int64_t[]){3}, NULL);
    gguf_make_tensor(g, "c", SOBRE_MXFP4, 2, (const int64_t[]){1, 64}, NULL);
    container *c = open_made(f->ctx, g, &bytes);
    const tensor_info *a = &c->tensors[container_tensor(c, "a")];
    const tensor_info *b = &c->tensors[container_tensor(c, "b")];
    assert_int_equal(a->rank, 4);
    assert_int_equal(a->dims[0], 2);
    assert_int_equal(a->dims[3], 256);
    assert_int_equal(a->size, 30 * 210);
    assert_int_equal(a->offset, 4096);
    assert_int_equal(b->offset, 4096 + 8192);
    assert_int_equal(b->size, 24);
    assert_int_equal(c->tensors[container_tensor(c, "c")].size, 34);
    container_close(c);
    free(bytes);
}

/* --- Split files */

static void write_part(const fixture *f, gguf_make *g, int no, int count, int n_tensors)
{
    char name[64];
    gguf_make_raw(g, "split.no", GGUF_U16, &(uint16_t){(uint16_t)no}, 2);
    gguf_make_raw(g, "split.count", GGUF_U16, &(uint16_t){(uint16_t)count}, 2);
    gguf_make_raw(g, "split.tensors.count", GGUF_I32, &(int32_t){n_tensors}, 4);
    snprintf(name, sizeof name, "m-%05d-of-%05d.gguf", no + 1, count);
    gguf_make_write(g, in_folder(f, name));
    gguf_make_free(g);
}

static void test_split(void **state)
{
    fixture *f = *state;
    const int64_t dims[] = {2, 32};
    char path[256], name[64];
    for (int no = 0; no < 3; no++) {
        gguf_make *g = gguf_make_new();
        if (no == 0) gguf_make_string(g, "general.architecture", "llama");
        for (int i = 0; i < no; i++) { /* the first part has metadata only */
            snprintf(name, sizeof name, "t%d.%d", no, i);
            gguf_make_tensor(g, name, SOBRE_F32, 2, dims, NULL);
        }
        write_part(f, g, no, 3, 3);
    }
    uint64_t before = held(f->ctx);
    for (int given = 0; given < 6; given++) {
        snprintf(path, sizeof path, "%s/m-%05d-of-00003.gguf", f->folder, given % 3 + 1);
        container *c = open_ok(f->ctx, SOBRE(source, .path = path, .map = given / 3));
        assert_int_equal(c->n_files, 3);
        assert_int_equal(c->n_tensors, 3);
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "m-%05d-of-00003.gguf", i + 1);
            assert_non_null(strstr(c->files[i]->name, name));
            assert_int_equal(c->files[i]->mapped, given / 3);
        }
        const tensor_info *t = &c->tensors[container_tensor(c, "t2.1")];
        assert_int_equal(t->file, 2);
        uint8_t data[256];
        assert_int_equal(reader_read(c->files[2], t->offset, data, sizeof data), SOBRE_OK);
        assert_int_equal(c->tensors[container_tensor(c, "t1.0")].file, 1);
        assert_non_null(container_meta(c, "general.architecture"));
        container_close(c);
        assert_int_equal(held(f->ctx), before);
    }
    for (int no = 0; no < 3; no++) {
        snprintf(path, sizeof path, "%s/m-%05d-of-00003.gguf", f->folder, no + 1);
        unlink(path);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_scalars),      TEST(test_arrays),
        TEST(test_typed),        TEST(test_sources),
        TEST(test_bad_sources),  TEST(test_shrinking_file),
        TEST(test_threads),      TEST(test_large_vocabulary),
        TEST(test_many_tensors), TEST(test_shapes),
        TEST(test_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
