/* SPDX-License-Identifier: MIT */
/* Malformed GGUF files: each is refused with a message that names the place, leaks nothing, and
 * makes no allocation that its size does not justify. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "container.h"
#include "gguf_make.h"

#include <cmocka.h> /* last: it defines fail() */

/* --- A context that counts, and fails on request. */

typedef struct counter {
    size_t largest;  /* allocation since it was last zeroed */
    int64_t live;    /* allocations */
    int64_t fail_at; /* the allocation that fails, counted down; below 0: none */
} counter;

static void *count_alloc(void *user, size_t size, size_t align)
{
    counter *n = user;
    if (n->fail_at == 0) return NULL;
    if (n->fail_at > 0) n->fail_at--;
    if (size > n->largest) n->largest = size;
    void *ptr = aligned_alloc(align, (size + align - 1) / align * align);
    if (ptr) n->live++;
    return ptr;
}

static void count_free(void *user, void *ptr)
{
    ((counter *)user)->live--;
    free(ptr);
}

typedef struct fixture {
    counter count;
    sobre_context *ctx;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->count.fail_at = -1;
    const sobre_allocator allocator = {&f->count, count_alloc, count_free};
    *state = f;
    return sobre_context_open(SOBRE(context_options, .allocator = &allocator), &f->ctx);
}

static int teardown(void **state)
{
    fixture *f = *state;
    sobre_context_close(f->ctx);
    int failed = f->count.live != 0;
    free(f);
    return failed;
}

typedef struct memory {
    const uint8_t *data;
    uint64_t size;
} memory;

static int32_t read_memory(void *user, uint64_t offset, void *buffer, size_t size)
{
    const memory *m = user;
    if (offset > m->size || size > m->size - offset) return 1;
    memcpy(buffer, m->data + offset, size);
    return 0;
}

/* Opens bytes in place (way 0) or by reading (way 1), and closes. Fails the test if memory leaks,
 * or more is asked for at once than the file's size justifies. */
static sobre_status try_open(fixture *f, const uint8_t *bytes, size_t size, int way)
{
    memory m = {bytes, size};
    container *c = NULL;
    int64_t live = f->count.live;
    f->count.largest = 0;
    sobre_status status = container_open(
        f->ctx,
        way == 0 ? SOBRE(source, .data = bytes, .data_size = size)
                 : SOBRE(source, .read = read_memory, .read_user = &m, .read_size = size),
        &c);
    assert_int_equal(status == SOBRE_OK, c != NULL);
    container_close(c);
    assert_int_equal(f->count.live, live);
    if (f->count.largest > 4 * size + (1 << 20)) {
        fail_msg("%zu bytes at once for a file of %zu", f->count.largest, size);
    }
    return status;
}

/* --- One lie each */

/* "text" is the second key, "a", "b" and "c" are the tensors. */
static gguf_make *honest(void)
{
    static const char *const words[] = {"one", "two"};
    gguf_make *g = gguf_make_new();
    gguf_make_string(g, "general.architecture", "test");
    gguf_make_string(g, "text", "some text");
    gguf_make_strings(g, "words", words, 2);
    gguf_make_tensor(g, "a", SOBRE_F32, 2, (const int64_t[]){4, 32}, NULL);
    gguf_make_tensor(g, "b", SOBRE_Q4_0, 2, (const int64_t[]){2, 64}, NULL);
    gguf_make_tensor(g, "c", SOBRE_F16, 1, (const int64_t[]){32}, NULL);
    return g;
}

typedef enum action {
    PATCH, /* `size` bytes of `value` at byte `at` of the file */
    KEY,   /* key `name` of type `value` with `bytes` */
    KEY_SIZE,
    KEY_RENAME, /* to `bytes` */
    ADD_KEYS,
    ADD_TENSORS,
    TENSOR_RANK,
    TENSOR_TYPE,
    TENSOR_DIM, /* number `at`, innermost first */
    TENSOR_OFFSET,
    TENSOR_NAME_SIZE,
    TENSOR_RENAME,
} action;

typedef struct bad_case {
    const char *title;
    action action;
    const char *name; /* of the key or tensor */
    const char *bytes;
    size_t size, at;
    uint64_t value;
    sobre_status status;
    const char *message; /* a part of it */
} bad_case;

/* Fields of a case. */
#define AT(byte, width, number) .action = PATCH, .at = byte, .size = width, .value = number
#define SET(key, number, raw) \
    .action = KEY, .name = key, .value = number, .bytes = raw, .size = sizeof(raw) - 1
#define LIE(what, which, number) .action = what, .name = which, .value = number
#define DIM(which, number, length) \
    .action = TENSOR_DIM, .name = which, .at = number, .value = length
#define RENAME(what, which, to) .action = what, .name = which, .bytes = to
#define BAD(text)               .status = SOBRE_BAD_FORMAT, .message = text
#define NOT_YET(text)           .status = SOBRE_UNSUPPORTED, .message = text

#define MAX64 "\xff\xff\xff\xff\xff\xff\xff\xff"
#define LONG_NAME                                                                  \
    "0123456789012345678901234567890123456789012345678901234567890123" /* 64 bytes \
                                                                        */

static const bad_case cases[] = {
    /* header */
    {"no magic", AT(0, 4, 0), BAD("starts with bytes 00 00 00 00")},
    {"text file", AT(0, 4, 0x6c6c6568), BAD("is no GGUF file")},
    {"magic reversed", AT(0, 4, 0x47475546), NOT_YET("big-endian")},
    {"GGML before GGUF", AT(0, 4, 0x67676a74), NOT_YET("before GGUF")},
    {"ZIP archive", AT(0, 4, 0x04034b50), NOT_YET("ZIP")},
    {"Git LFS pointer", AT(0, 4, 0x73726576), NOT_YET("git lfs pull")},
    {"web page", AT(0, 4, 0x4f44213c), NOT_YET("web page")},
    {"version 0", AT(4, 4, 0), BAD("version 0")},
    {"version 1", AT(4, 4, 1), NOT_YET("version 1, which was replaced")},
    {"version 4", AT(4, 4, 4), NOT_YET("later version of GGUF")},
    {"version nonsense", AT(4, 4, 0x12345678), NOT_YET("version 305419896 at byte 4")},
    {"big endian 3", AT(4, 4, 0x03000000), NOT_YET("big-endian file")},
    {"big endian 2", AT(4, 4, 0x02000000), NOT_YET("big-endian file")},
    {"huge number of tensors", AT(8, 8, UINT64_MAX), BAD("byte 8: 18446744073709551615 tensors")},
    {"number of tensors that overflows", AT(8, 8, UINT64_MAX / 33 + 2), BAD(" tensors, but")},
    {"2^31 tensors", AT(8, 8, 1u << 31), BAD("2147483648 tensors, but the file has room for")},
    {"huge number of keys", AT(16, 8, UINT64_MAX), BAD("18446744073709551615 metadata keys")},
    {"2^32 keys", AT(16, 8, 1ull << 32), BAD("4294967296 metadata keys")},
    {"one key too many", LIE(ADD_KEYS, 0, 1), BAD("at byte")},
    {"one key too few", LIE(ADD_KEYS, 0, UINT64_MAX), BAD("at byte")},
    {"one tensor too many", LIE(ADD_TENSORS, 0, 1), BAD("tensor 4 of 4 at byte")},
    /* keys */
    {"empty key", LIE(KEY_SIZE, "text", 0), BAD("metadata key 2 of 3 at byte 68: a name of 0 ")},
    {"key of 65536 bytes", LIE(KEY_SIZE, "text", 65536), BAD("a name of 65536 bytes")},
    {"key of 2^64 - 1 bytes", LIE(KEY_SIZE, "text", UINT64_MAX), BAD("expected 1 to 65535")},
    {"key past the end", LIE(KEY_SIZE, "text", 60000), BAD("60000 bytes, but only")},
    {"key with a zero", AT(78, 1, 0), BAD("metadata key 2 of 3 at byte 78: byte 0 in a name")},
    {"key with a newline", RENAME(KEY_RENAME, "text", "te\nxt"), BAD("byte 10 in a name")},
    {"key twice", RENAME(KEY_RENAME, "text", "words"), BAD("key \"words\" occurs twice, at byte")},
    {"unknown type", SET("x", 13, "\0"), BAD("key \"x\" at byte 161: type 13 is unknown")},
    {"type 2^32 - 1", SET("x", 0xffffffff, "\0"), BAD("type 4294967295 is unknown")},
    {"boolean 2", SET("x", GGUF_BOOL, "\2"), BAD("a boolean of value 2")},
    {"string past the end", SET("x", GGUF_STRING, "\0\0\1\0\0\0\0\0"),
     BAD("key \"x\" at byte 165: a string of 65536 bytes")},
    {"string of 2^64 - 1", SET("x", GGUF_STRING, MAX64), BAD("a string of 18446744073709551615")},
    {"string of 2^63", SET("x", GGUF_STRING, "\0\0\0\0\0\0\0\x80"), BAD("9223372036854775808")},
    /* arrays */
    {"array of arrays", SET("x", GGUF_ARRAY, "\11\0\0\0\1\0\0\0\0\0\0\0"), BAD("array of arrays")},
    {"array of unknown", SET("x", GGUF_ARRAY, "\15\0\0\0\1\0\0\0\0\0\0\0"), BAD("of type 13")},
    {"2^64 - 1 bytes", SET("x", GGUF_ARRAY, "\0\0\0\0" MAX64), BAD("array of 184467440737095516")},
    {"2^64 - 1 strings", SET("x", GGUF_ARRAY, "\10\0\0\0" MAX64), BAD("but the file has room")},
    {"2^61 numbers", SET("x", GGUF_ARRAY, "\14\0\0\0\0\0\0\0\0\0\0\x20"),
     BAD("2305843009213693952")},
    {"strings for half the file", SET("x", GGUF_ARRAY, "\10\0\0\0\1\1\0\0\0\0\0\0"),
     BAD("array of 257 items")},
    {"string past the end in an array",
     SET("x", GGUF_ARRAY, "\10\0\0\0\1\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0"), BAD("16777216 bytes")},
    {"boolean 255 in an array", SET("x", GGUF_ARRAY, "\7\0\0\0\3\0\0\0\0\0\0\0\1\xff\1"),
     BAD("byte 178: a boolean of value 255")},
    /* alignment */
    {"alignment 0", SET("general.alignment", GGUF_U32, "\0\0\0\0"), BAD("an alignment of 0")},
    {"alignment 1", SET("general.alignment", GGUF_U32, "\1\0\0\0"), BAD("an alignment of 1")},
    {"alignment 48", SET("general.alignment", GGUF_U32, "\60\0\0\0"), BAD("a power of two")},
    {"alignment 2^31", SET("general.alignment", GGUF_U32, "\0\0\0\x80"), BAD("out of range")},
    {"alignment -32", SET("general.alignment", GGUF_I32, "\xe0\xff\xff\xff"), BAD("out of range")},
    {"alignment as text",
     SET("general.alignment", GGUF_STRING,
         "\2\0\0\0\0\0\0\0"
         "32"),
     BAD("\"general.alignment\" at byte 152: expected an integer")},
    {"other alignment than the data's", SET("general.alignment", GGUF_U32, "\100\0\0\0"),
     BAD("608 is no multiple of the alignment 64")},
    /* tensors */
    {"empty name", LIE(TENSOR_NAME_SIZE, "b", 0), BAD("tensor 2 of 3 at byte")},
    {"name of 64 bytes", RENAME(TENSOR_RENAME, "b", LONG_NAME), BAD("name of 64 bytes, expected")},
    {"name of 2^64 - 1", LIE(TENSOR_NAME_SIZE, "b", UINT64_MAX), BAD("expected 1 to 63")},
    {"name with an escape", RENAME(TENSOR_RENAME, "b", "b\033[1m"), BAD("byte 27 in a name")},
    {"name twice", RENAME(TENSOR_RENAME, "b", "a"), BAD("tensor \"a\" occurs twice")},
    {"rank 0", LIE(TENSOR_RANK, "b", 0), BAD("tensor \"b\" at byte 202: 0 dims")},
    {"rank 5", LIE(TENSOR_RANK, "b", 5), BAD("5 dims, expected 1 to 4")},
    {"rank 2^32 - 1", LIE(TENSOR_RANK, "b", UINT32_MAX), BAD("4294967295 dims")},
    {"dim 0", DIM("b", 1, 0), BAD("tensor \"b\" at byte 214: a dim of 0")},
    {"dim 2^64 - 1", DIM("b", 1, UINT64_MAX), BAD("a dim of 18446744073709551615")},
    {"dims whose product overflows", DIM("b", 1, 1ull << 60), BAD("more bytes than any file")},
    {"dims whose product wraps to little", DIM("a", 1, 1ull << 57), BAD("more bytes than any")},
    {"row that overflows", DIM("a", 0, 1ull << 62), BAD("more bytes than any file")},
    {"row of half a block", DIM("b", 0, 48), BAD("no multiple of the 32 in a block of Q4_0")},
    {"one row too many", DIM("c", 0, 33), BAD("truncated: tensor \"c\" has 66 bytes at byte")},
    {"K-quant row too short", LIE(TENSOR_TYPE, "b", SOBRE_Q4_K), BAD("256 in a block of Q4_K")},
    {"offset past the end", LIE(TENSOR_OFFSET, "b", 1 << 20), BAD("but the file ends at byte")},
    {"offset not aligned", LIE(TENSOR_OFFSET, "b", 513), BAD("513 is no multiple of the align")},
    {"offset 2^64 - 32", LIE(TENSOR_OFFSET, "b", UINT64_MAX - 31), BAD("beyond any file")},
    {"offset 2^63", LIE(TENSOR_OFFSET, "b", 1ull << 63), BAD("truncated: tensor \"b\"")},
    {"tensors that overlap", LIE(TENSOR_OFFSET, "b", 480), BAD("\"a\" and \"b\" overlap")},
    {"tensors in one place", LIE(TENSOR_OFFSET, "b", 0), BAD("overlap at byte")},
    {"retired type Q4_2", LIE(TENSOR_TYPE, "b", 4), NOT_YET("tensor \"b\" at byte 222: type Q4_2")},
    {"retired type Q4_3", LIE(TENSOR_TYPE, "b", 5), NOT_YET("removed from GGML")},
    {"retired type Q4_0_4_4", LIE(TENSOR_TYPE, "b", 31), NOT_YET("type Q4_0_4_4 (31)")},
    {"retired type Q4_0_8_8", LIE(TENSOR_TYPE, "b", 33), NOT_YET("interleaved for one processor")},
    {"retired type IQ4_NL_4_4", LIE(TENSOR_TYPE, "b", 36), NOT_YET("type IQ4_NL_4_4 (36)")},
    {"type IQ2_XXS", LIE(TENSOR_TYPE, "b", 16), NOT_YET("type IQ2_XXS is not supported")},
    {"type Q8_1", LIE(TENSOR_TYPE, "b", 9), NOT_YET("type Q8_1 is not supported")},
    {"type 99", LIE(TENSOR_TYPE, "b", 99), NOT_YET("type 99 is unknown")},
    {"type 2^32 - 1", LIE(TENSOR_TYPE, "b", UINT32_MAX), NOT_YET("type 4294967295 is unknown")},
    /* parts of a split model, in memory */
    {"split.no without a count", SET("split.no", GGUF_U16, "\1\0"), BAD("\"split.count\" is 0")},
    {"part of a split model in memory", SET("split.count", GGUF_U16, "\3\0"),
     NOT_YET("part 1 of 3 of a split model; open it by its path")},
    {"65535 parts", SET("split.count", GGUF_U16, "\xff\xff"), BAD("expected 0 to 1024")},
    {"-1 parts", SET("split.count", GGUF_I32, "\xff\xff\xff\xff"), BAD("\"split.count\"")},
    {"split.count as a float", SET("split.count", GGUF_F32, "\0\0\0\0"), BAD("an integer")},
};

_Static_assert(sizeof cases / sizeof cases[0] >= 60, "as many as promised");

static uint8_t *make_case(const bad_case *b, size_t *ret_size)
{
    gguf_make *g = honest();
    make_key *key = b->name ? gguf_make_key_find(g, b->name) : NULL;
    make_tensor *tensor = b->name ? gguf_make_tensor_find(g, b->name) : NULL;
    switch (b->action) {
    case PATCH: break;
    case KEY: gguf_make_raw(g, b->name, (uint32_t)b->value, b->bytes, b->size); break;
    case KEY_SIZE: key->key_size = b->value; break;
    case KEY_RENAME: gguf_make_key_rename(g, b->name, b->bytes); break;
    case ADD_KEYS: g->add_keys = (int64_t)b->value; break;
    case ADD_TENSORS: g->add_tensors = (int64_t)b->value; break;
    case TENSOR_RANK: tensor->rank = (uint32_t)b->value; break;
    case TENSOR_TYPE: tensor->type = (uint32_t)b->value; break;
    case TENSOR_DIM: tensor->dims[b->at] = b->value; break;
    case TENSOR_OFFSET:
        tensor->offset = b->value;
        tensor->fixed_offset = true;
        break;
    case TENSOR_NAME_SIZE: tensor->name_size = b->value; break;
    case TENSOR_RENAME: gguf_make_tensor_rename(g, b->name, b->bytes); break;
    }
    uint8_t *bytes = gguf_make_bytes(g, ret_size);
    gguf_make_free(g);
    for (size_t i = 0; b->action == PATCH && i < b->size; i++) {
        bytes[b->at + i] = (uint8_t)(b->value >> 8 * i);
    }
    return bytes;
}

static void test_cases(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size;
        uint8_t *bytes = make_case(&cases[i], &size);
        for (int way = 0; way < 2; way++) {
            sobre_status status = try_open(f, bytes, size, way);
            const char *message = status < 0 ? sobre_error(f->ctx) : "";
            if (status != cases[i].status || !strstr(message, cases[i].message)) {
                fail_msg("%s: %s \"%s\", expected %s \"%s\"", cases[i].title,
                         sobre_status_name(status), message, sobre_status_name(cases[i].status),
                         cases[i].message);
            }
            assert_non_null(strstr(message, way == 0 ? "(memory): " : "(reader): "));
        }
        free(bytes);
    }
    print_message("%zu malformed files refused\n", sizeof cases / sizeof cases[0]);
}

static void test_honest(void **state)
{
    size_t size;
    gguf_make *g = honest();
    uint8_t *bytes = gguf_make_bytes(g, &size);
    for (int way = 0; way < 2; way++) {
        assert_int_equal(try_open(*state, bytes, size, way), SOBRE_OK);
    }
    free(bytes);
    gguf_make_free(g);
}

/* --- Lies by the thousand */

static void check_cut(fixture *f, const uint8_t *bytes, size_t size)
{
    uint8_t *cut = malloc(size + 1); /* exactly as long, for the address sanitizer */
    memcpy(cut, bytes, size);
    cut = realloc(cut, size ? size : 1);
    for (int way = 0; way < 2; way++) {
        assert_int_equal(try_open(f, cut, size, way), SOBRE_BAD_FORMAT);
        const char *message = sobre_error(f->ctx);
        if (!strstr(message, "truncated") && !strstr(message, "is empty")) {
            fail_msg("cut to %zu bytes: %s", size, message);
        }
    }
    free(cut);
}

static void test_truncated(void **state)
{
    size_t size;
    gguf_make *g = honest();
    uint8_t *bytes = gguf_make_bytes(g, &size);
    for (size_t cut = 0; cut < size; cut++) check_cut(*state, bytes, cut);
    free(bytes);
    gguf_make_free(g);

    g = gguf_make_llama(NULL);
    bytes = gguf_make_bytes(g, &size);
    for (size_t cut = 1; cut < size; cut += 997) check_cut(*state, bytes, cut);
    check_cut(*state, bytes, size - 1);
    free(bytes);
    gguf_make_free(g);
}

/* Any byte of the header changed: refused or, where it does no harm, accepted. */
static void test_changed_bytes(void **state)
{
    size_t size;
    gguf_make *g = honest();
    uint8_t *bytes = gguf_make_bytes(g, &size);
    int n_ok = 0, n_bad = 0;
    for (size_t i = 0; i < size; i++) {
        const uint8_t was = bytes[i];
        const uint8_t changed[] = {0, 1, 0x7f, 0x80, 0xff, (uint8_t)(was + 1), was ^ 0x40};
        for (size_t k = 0; k < sizeof changed; k++) {
            bytes[i] = changed[k];
            sobre_status status = try_open(*state, bytes, size, (int)(i & 1));
            assert_true(status == SOBRE_OK || status == SOBRE_BAD_FORMAT ||
                        status == SOBRE_UNSUPPORTED);
            if (status == SOBRE_OK) {
                n_ok++;
            } else {
                n_bad++;
            }
        }
        bytes[i] = was;
    }
    assert_true(n_ok > 0 && n_bad > 0);
    free(bytes);
    gguf_make_free(g);
}

/* The Nth allocation fails, for every N. */
static void test_no_memory(void **state)
{
    fixture *f = *state;
    size_t size;
    gguf_make *g = gguf_make_llama(NULL);
    uint8_t *bytes = gguf_make_bytes(g, &size);
    for (int way = 0; way < 2; way++) {
        for (int64_t n = 0;; n++) {
            f->count.fail_at = n;
            sobre_status status = try_open(f, bytes, size, way);
            bool all_succeeded = f->count.fail_at > 0;
            f->count.fail_at = -1;
            if (status == SOBRE_OK && all_succeeded) {
                assert_true(n > 5);
                break;
            }
            if (status == SOBRE_OK) continue; /* exactly n allocations: none was left to fail */
            assert_int_equal(status, SOBRE_OUT_OF_MEMORY);
        }
    }
    free(bytes);
    gguf_make_free(g);
}

/* A file of nothing but names with one long prefix opens in no time. */
static void test_alike_names(void **state)
{
    enum { MANY = 20000 };
    gguf_make *g = gguf_make_new();
    g->keys = calloc(MANY, sizeof *g->keys);
    for (int i = 0; i < MANY; i++) { /* not through gguf_make_bool(), which looks for the key */
        char name[128];
        int length = snprintf(name, sizeof name, "%0100d", i * 31 % MANY);
        g->keys[i] = (make_key){.key = strdup(name),
                                .key_size = (uint64_t)length,
                                .type = GGUF_BOOL,
                                .value = calloc(1, 1),
                                .size = 1};
    }
    g->n_keys = MANY;
    size_t size;
    uint8_t *bytes = gguf_make_bytes(g, &size);
    uint64_t begin = os_now_ns();
    assert_int_equal(try_open(*state, bytes, size, 0), SOBRE_OK);
    assert_true(os_now_ns() - begin < 1000000000);
    free(bytes);
    gguf_make_free(g);
}

/* --- Split files */

typedef struct split_case {
    const char *title;
    int part;        /* that is not as it should be; -1: none */
    const char *key; /* set to `value`; NULL: the part is missing */
    int32_t value;
    int open; /* the part that is opened */
    sobre_status status;
    const char *message;
} split_case;

static const split_case splits[] = {
    {"good", -1, NULL, 0, 0, SOBRE_OK, ""},
    {"missing second", 1, NULL, 0, 0, SOBRE_IO, "(part 2 of 3 of a split model"},
    {"missing first", 0, NULL, 0, 2, SOBRE_IO, "m-00001-of-00003.gguf: cannot be opened"},
    {"second says third", 1, "split.no", 2, 0, SOBRE_BAD_FORMAT, "part 3 of 3, but by its name it"},
    {"opened says another", 1, "split.no", 2, 1, SOBRE_BAD_FORMAT, "so its name must end in"},
    {"no beyond count", 0, "split.no", 3, 0, SOBRE_BAD_FORMAT, "\"split.no\" is 3"},
    {"third of four", 2, "split.count", 4, 0, SOBRE_BAD_FORMAT, "00003-of-00003.gguf: key"},
    {"fewer tensors said", 1, "split.tensors.count", 2, 0, SOBRE_BAD_FORMAT,
     "\"split.tensors.count\" is 2, but 3 in another part"},
    {"first is whole", 0, "split.count", 1, 2, SOBRE_BAD_FORMAT, "makes it part 1 of 1"},
    {"other version", 2, "version", 9, 0, SOBRE_UNSUPPORTED, "00003-of-00003.gguf: version 9"},
    {"all share a name", -1, "name", 0, 0, SOBRE_BAD_FORMAT, "tensor \"same\" occurs twice"},
    {"all say ten", -1, "split.tensors.count", 10, 0, SOBRE_BAD_FORMAT,
     "is 10, but the 3 parts hold 3 tensors"},
};

static void write_parts(const split_case *s, const char *folder, bool remove_only)
{
    char path[128];
    for (int no = 0; no < 3; no++) {
        snprintf(path, sizeof path, "%s/m-%05d-of-00003.gguf", folder, no + 1);
        unlink(path);
        bool changed = s->part == no || s->part < 0;
        if (remove_only || (changed && !s->key && s->part >= 0)) continue;
        gguf_make *g = gguf_make_new();
        char name[16];
        snprintf(name, sizeof name, changed && s->key && !strcmp(s->key, "name") ? "same" : "t%d",
                 no);
        gguf_make_u32(g, "split.no", (uint32_t)no);
        gguf_make_u32(g, "split.count", 3);
        gguf_make_u32(g, "split.tensors.count", 3);
        gguf_make_tensor(g, name, SOBRE_F32, 1, (const int64_t[]){8}, NULL);
        if (changed && s->key && gguf_make_key_find(g, s->key)) {
            gguf_make_u32(g, s->key, (uint32_t)s->value);
        } else if (changed && s->key && !strcmp(s->key, "version")) {
            g->version = (uint32_t)s->value;
        }
        gguf_make_write(g, path);
        gguf_make_free(g);
    }
}

static void test_splits(void **state)
{
    fixture *f = *state;
    char folder[] = "/tmp/sobre-split-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        const split_case *s = &splits[i];
        write_parts(s, folder, false);
        snprintf(path, sizeof path, "%s/m-%05d-of-00003.gguf", folder, s->open + 1);
        container *c = NULL;
        int64_t live = f->count.live;
        sobre_status status = container_open(f->ctx, SOBRE(source, .path = path), &c);
        const char *message = status < 0 ? sobre_error(f->ctx) : "";
        if (status != s->status || !strstr(message, s->message)) {
            fail_msg("%s: %s \"%s\", expected %s \"%s\"", s->title, sobre_status_name(status),
                     message, sobre_status_name(s->status), s->message);
        }
        container_close(c);
        assert_int_equal(f->count.live, live);
    }
    write_parts(&splits[0], folder, true);

    /* A part under another name. */
    gguf_make *g = gguf_make_new();
    gguf_make_u32(g, "split.no", 0);
    gguf_make_u32(g, "split.count", 2);
    snprintf(path, sizeof path, "%s/renamed.gguf", folder);
    gguf_make_write(g, path);
    gguf_make_free(g);
    container *c = NULL;
    assert_int_equal(container_open(f->ctx, SOBRE(source, .path = path), &c), SOBRE_BAD_FORMAT);
    assert_non_null(strstr(sobre_error(f->ctx), "\"-00001-of-00002.gguf\"; rename it"));
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_honest),        TEST(test_cases),     TEST(test_truncated),
        TEST(test_changed_bytes), TEST(test_no_memory), TEST(test_alike_names),
        TEST(test_splits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
