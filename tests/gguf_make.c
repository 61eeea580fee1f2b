/* SPDX-License-Identifier: MIT */
/* Makes GGUF files in memory, for tests. */
#include "gguf_make.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"

static void *must(void *p)
{
    if (!p) {
        fputs("gguf_make: out of memory\n", stderr);
        exit(1);
    }
    return p;
}

static void *copy_of(const void *data, size_t size)
{
    void *copy = must(malloc(size + 1));
    if (size) memcpy(copy, data, size);
    ((char *)copy)[size] = 0;
    return copy;
}

/* --- Bytes */

typedef struct bytes {
    uint8_t *data;
    size_t size, capacity;
} bytes;

static void put(bytes *b, const void *data, size_t size)
{
    if (b->capacity - b->size < size) {
        b->capacity = 2 * b->capacity + size;
        b->data = must(realloc(b->data, b->capacity));
    }
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
}

/* The low `size` bytes of v, little endian. */
static void put_int(bytes *b, uint64_t v, size_t size)
{
    uint8_t raw[8];
    for (size_t i = 0; i < size; i++) raw[i] = (uint8_t)(v >> 8 * i);
    put(b, raw, size);
}

static void put_text(bytes *b, const char *text, uint64_t size_field)
{
    size_t size = strlen(text);
    put_int(b, size_field, 8);
    put(b, text, size_field < size ? (size_t)size_field : size);
}

static void put_padding(bytes *b, size_t align)
{
    while (align && b->size % align) put_int(b, 0, 1);
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* --- Keys */

gguf_make *gguf_make_new(void)
{
    gguf_make *g = must(calloc(1, sizeof *g));
    memcpy(g->magic, "GGUF", 4);
    g->version = 3;
    g->alignment = 32;
    return g;
}

void gguf_make_free(gguf_make *g)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        free(g->keys[i].key);
        free(g->keys[i].value);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        free(g->tensors[i].name);
        free(g->tensors[i].data);
    }
    free(g->keys);
    free(g->tensors);
    free(g);
}

make_key *gguf_make_key_find(gguf_make *g, const char *key)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        if (!strcmp(g->keys[i].key, key)) return &g->keys[i];
    }
    return NULL;
}

static make_key *key_add(gguf_make *g, const char *key)
{
    g->keys = must(realloc(g->keys, (g->n_keys + 1) * sizeof *g->keys));
    make_key *k = &g->keys[g->n_keys++];
    *k = (make_key){.key = copy_of(key, strlen(key)), .key_size = strlen(key)};
    return k;
}

void gguf_make_raw(gguf_make *g, const char *key, uint32_t type, const void *value, size_t size)
{
    make_key *k = gguf_make_key_find(g, key);
    if (!k) k = key_add(g, key);
    free(k->value);
    k->type = type;
    k->value = copy_of(value, size);
    k->size = size;
}

static void raw_and_free(gguf_make *g, const char *key, uint32_t type, bytes *b)
{
    gguf_make_raw(g, key, type, b->data, b->size);
    free(b->data);
}

static void raw_int(gguf_make *g, const char *key, uint32_t type, uint64_t value, size_t size)
{
    bytes b = {0};
    put_int(&b, value, size);
    raw_and_free(g, key, type, &b);
}

void gguf_make_u32(gguf_make *g, const char *key, uint32_t value)
{
    raw_int(g, key, GGUF_U32, value, 4);
}

void gguf_make_f32(gguf_make *g, const char *key, float value)
{
    raw_int(g, key, GGUF_F32, bits_of(value), 4);
}

void gguf_make_bool(gguf_make *g, const char *key, bool value)
{
    raw_int(g, key, GGUF_BOOL, value, 1);
}

void gguf_make_string(gguf_make *g, const char *key, const char *value)
{
    bytes b = {0};
    put_text(&b, value, strlen(value));
    raw_and_free(g, key, GGUF_STRING, &b);
}

static bytes array_head(uint32_t type, size_t n)
{
    bytes b = {0};
    put_int(&b, type, 4);
    put_int(&b, n, 8);
    return b;
}

void gguf_make_strings(gguf_make *g, const char *key, const char *const *items, size_t n)
{
    bytes b = array_head(GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) put_text(&b, items[i], strlen(items[i]));
    raw_and_free(g, key, GGUF_ARRAY, &b);
}

void gguf_make_i32s(gguf_make *g, const char *key, const int32_t *items, size_t n)
{
    bytes b = array_head(GGUF_I32, n);
    for (size_t i = 0; i < n; i++) put_int(&b, (uint32_t)items[i], 4);
    raw_and_free(g, key, GGUF_ARRAY, &b);
}

void gguf_make_f32s(gguf_make *g, const char *key, const float *items, size_t n)
{
    bytes b = array_head(GGUF_F32, n);
    for (size_t i = 0; i < n; i++) put_int(&b, bits_of(items[i]), 4);
    raw_and_free(g, key, GGUF_ARRAY, &b);
}

void gguf_make_key_remove(gguf_make *g, const char *key)
{
    make_key *k = gguf_make_key_find(g, key);
    if (!k) return;
    free(k->key);
    free(k->value);
    size_t after = (size_t)(g->keys + g->n_keys - (k + 1));
    memmove(k, k + 1, after * sizeof *k);
    g->n_keys--;
}

void gguf_make_key_rename(gguf_make *g, const char *key, const char *name)
{
    make_key *k = gguf_make_key_find(g, key);
    if (!k) return;
    free(k->key);
    k->key = copy_of(name, strlen(name));
    k->key_size = strlen(name);
}

/* --- Tensors */

make_tensor *gguf_make_tensor_find(gguf_make *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (!strcmp(g->tensors[i].name, name)) return &g->tensors[i];
    }
    return NULL;
}

/* Marsaglia 2003, "Xorshift RNGs". */
static uint32_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 32);
}

make_tensor *gguf_make_tensor(gguf_make *g, const char *name, sobre_dtype dtype, int rank,
                              const int64_t *dims, const float *data)
{
    make_tensor *t = gguf_make_tensor_find(g, name);
    if (!t) {
        g->tensors = must(realloc(g->tensors, (g->n_tensors + 1) * sizeof *g->tensors));
        t = &g->tensors[g->n_tensors++];
        *t = (make_tensor){.name = copy_of(name, strlen(name)), .name_size = strlen(name)};
    }
    free(t->data);
    t->rank = (uint32_t)rank;
    t->type = (uint32_t)dtype;
    int64_t n_rows = 1, n = dims[rank - 1];
    for (int i = 0; i < rank; i++) {
        t->dims[rank - 1 - i] = (uint64_t)dims[i];
        if (i < rank - 1) n_rows *= dims[i];
    }
    uint64_t row_size = 0, seed = 0x9e3779b97f4a7c15;
    if (!dtype_row_size(dtype, n, &row_size)) {
        fprintf(stderr, "gguf_make: tensor \"%s\": no rows of %lld of type %d\n", name,
                (long long)n, dtype);
        exit(1);
    }
    for (const char *c = name; *c; c++) seed = (seed ^ (uint8_t)*c) * 0x100000001b3;
    t->size = (size_t)row_size * (size_t)n_rows;
    t->data = must(malloc(t->size + 1));
    float *made = must(malloc((size_t)n * sizeof *made)), scale = sqrtf(3.0f / (float)n);
    for (int64_t row = 0; row < n_rows; row++) {
        const float *from = data ? data + row * n : made;
        for (int64_t i = 0; !data && i < n; i++) {
            made[i] = scale * ((float)next_random(&seed) * 0x1p-31f - 1);
        }
        uint8_t *to = t->data + (size_t)row * row_size;
        if (dtype_encode(dtype, from, n, to)) continue;
        for (uint64_t i = 0; i < row_size; i++) to[i] = (uint8_t)next_random(&seed);
    }
    free(made);
    return t;
}

void gguf_make_tensor_remove(gguf_make *g, const char *name)
{
    make_tensor *t = gguf_make_tensor_find(g, name);
    if (!t) return;
    free(t->name);
    free(t->data);
    size_t after = (size_t)(g->tensors + g->n_tensors - (t + 1));
    memmove(t, t + 1, after * sizeof *t);
    g->n_tensors--;
}

void gguf_make_tensor_rename(gguf_make *g, const char *name, const char *to)
{
    make_tensor *t = gguf_make_tensor_find(g, name);
    if (!t) return;
    free(t->name);
    t->name = copy_of(to, strlen(to));
    t->name_size = strlen(to);
}

/* --- Files */

void *gguf_make_bytes(gguf_make *g, size_t *ret_size)
{
    bytes b = {0};
    put(&b, g->magic, 4);
    put_int(&b, g->version, 4);
    put_int(&b, g->n_tensors + (uint64_t)g->add_tensors, 8);
    put_int(&b, g->n_keys + (uint64_t)g->add_keys, 8);
    for (size_t i = 0; i < g->n_keys; i++) {
        const make_key *k = &g->keys[i];
        put_text(&b, k->key, k->key_size);
        put_int(&b, k->type, 4);
        put(&b, k->value, k->size);
    }
    uint64_t offset = 0, align = g->alignment ? g->alignment : 1;
    for (size_t i = 0; i < g->n_tensors; i++) {
        make_tensor *t = &g->tensors[i];
        if (!t->fixed_offset) t->offset = offset;
        offset = (offset + t->size + align - 1) / align * align;
        put_text(&b, t->name, t->name_size);
        put_int(&b, t->rank, 4);
        for (uint32_t k = 0; k < t->rank && k < 8; k++) put_int(&b, t->dims[k], 8);
        put_int(&b, t->type, 4);
        put_int(&b, t->offset, 8);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        put_padding(&b, align);
        put(&b, g->tensors[i].data, g->tensors[i].size);
    }
    *ret_size = b.size;
    return b.data;
}

void gguf_make_write(gguf_make *g, const char *path)
{
    size_t size;
    void *data = gguf_make_bytes(g, &size);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) {
        fprintf(stderr, "gguf_make: cannot write %s\n", path);
        exit(1);
    }
    free(data);
}

/* --- A little Llama */

/* Printable bytes stand for themselves, the others for U+0100 and on: Radford et al. 2019,
 * "Language Models are Unsupervised Multitask Learners". */
static unsigned byte_character(unsigned byte)
{
    unsigned others = 0;
    for (unsigned b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte) return printable ? b : 256 + others;
        others += !printable;
    }
    return 0;
}

void gguf_make_byte_text(uint8_t byte, char *ret)
{
    unsigned c = byte_character(byte);
    if (c < 0x80) {
        ret[0] = (char)c;
        ret[1] = 0;
    } else {
        ret[0] = (char)(0xc0 | c >> 6);
        ret[1] = (char)(0x80 | (c & 63));
        ret[2] = 0;
    }
}

#define SPACE "\xc4\xa0" /* GPT-2's character for it */

/* In order of rank; the merged token is both halves. */
/* clang-format off */
static const char *const merges[] = {
    "h e", "l l", "i n", "o r", "e r", "a n", "r e", "o n", SPACE " t", SPACE "t he",
    SPACE " w", SPACE " a", SPACE " s", "he l", "he ll", "hell o", SPACE "w or", SPACE "wor l",
    SPACE "worl d", "in g", SPACE " i", SPACE "i s", SPACE " o", SPACE "o f", "a t", "e n",
    SPACE " c", SPACE "a n", SPACE "an d", "o u", "u s", "e s", "s er", "us er", "s t", "st e",
    "ste m", "s y", "sy stem", "a s", "as s",
};
/* clang-format on */

enum { N_MERGES = sizeof merges / sizeof merges[0], N_SPECIAL = 3 };
_Static_assert(256 + N_SPECIAL + N_MERGES == LLAMA_MAKE_N_VOCAB, "as documented");

static const char chatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}";

static void add_tokenizer(gguf_make *g)
{
    enum { N = LLAMA_MAKE_N_VOCAB, SIZE = 32 };
    static const char *const specials[N_SPECIAL] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    char texts[N][SIZE];
    const char *tokens[N];
    int32_t types[N]; /* 1 normal, 3 control */
    for (int i = 0; i < N; i++) {
        tokens[i] = texts[i];
        types[i] = i >= 256 && i < 256 + N_SPECIAL ? 3 : 1;
        if (i < 256) {
            gguf_make_byte_text((uint8_t)i, texts[i]);
        } else if (i < 256 + N_SPECIAL) {
            snprintf(texts[i], SIZE, "%s", specials[i - 256]);
        } else {
            const char *merge = merges[i - 256 - N_SPECIAL], *space = strchr(merge, ' ');
            snprintf(texts[i], SIZE, "%.*s%s", (int)(space - merge), merge, space + 1);
        }
    }
    gguf_make_string(g, "tokenizer.ggml.model", "gpt2");
    gguf_make_string(g, "tokenizer.ggml.pre", "smollm");
    gguf_make_strings(g, "tokenizer.ggml.tokens", tokens, N);
    gguf_make_i32s(g, "tokenizer.ggml.token_type", types, N);
    gguf_make_strings(g, "tokenizer.ggml.merges", merges, N_MERGES);
    gguf_make_u32(g, "tokenizer.ggml.bos_token_id", 257);
    gguf_make_u32(g, "tokenizer.ggml.eos_token_id", 258);
    gguf_make_bool(g, "tokenizer.ggml.add_bos_token", false);
    gguf_make_string(g, "tokenizer.chat_template", chatml);
}

static void add_matrix(gguf_make *g, const char *name, sobre_dtype dtype, int64_t n_rows,
                       int64_t n_cols)
{
    gguf_make_tensor(g, name, dtype, 2, (int64_t[]){n_rows, n_cols}, NULL);
}

/* Values about `middle`. */
static void add_vector(gguf_make *g, const char *name, int64_t n, float middle)
{
    float *data = must(malloc((size_t)n * sizeof *data));
    uint64_t seed = 0x2545f4914f6cdd1d;
    for (int64_t i = 0; i < n; i++) {
        data[i] = middle + 0.1f * ((float)next_random(&seed) * 0x1p-31f - 1);
    }
    gguf_make_tensor(g, name, SOBRE_F32, 1, &n, data);
    free(data);
}

static const char *block_name(char *buffer, size_t size, int layer, const char *rest)
{
    snprintf(buffer, size, "blk.%d.%s", layer, rest);
    return buffer;
}

static int32_t or_default(int32_t value, int32_t otherwise)
{
    return value ? value : otherwise;
}

gguf_make *gguf_make_llama(const llama_make *options)
{
    llama_make o = options ? *options : (llama_make){0};
    int32_t n_layer = or_default(o.n_layer, 2), n_embd = or_default(o.n_embd, 64);
    int32_t n_head = or_default(o.n_head, 4), n_head_kv = or_default(o.n_head_kv, 2);
    int32_t n_ff = or_default(o.n_ff, 96), head_dim = n_embd / n_head;
    int32_t n_kv = n_head_kv * head_dim;
    gguf_make *g = gguf_make_new();
    gguf_make_string(g, "general.architecture", "llama");
    gguf_make_string(g, "general.name", "tiny");
    gguf_make_u32(g, "llama.vocab_size", LLAMA_MAKE_N_VOCAB);
    gguf_make_u32(g, "llama.context_length", (uint32_t)or_default(o.n_ctx, 256));
    gguf_make_u32(g, "llama.embedding_length", (uint32_t)n_embd);
    gguf_make_u32(g, "llama.block_count", (uint32_t)n_layer);
    gguf_make_u32(g, "llama.feed_forward_length", (uint32_t)n_ff);
    gguf_make_u32(g, "llama.attention.head_count", (uint32_t)n_head);
    gguf_make_u32(g, "llama.attention.head_count_kv", (uint32_t)n_head_kv);
    gguf_make_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_make_u32(g, "llama.rope.dimension_count", (uint32_t)head_dim);
    gguf_make_f32(g, "llama.rope.freq_base", 10000);
    if (!o.no_tokenizer) add_tokenizer(g);

    add_matrix(g, "token_embd.weight", o.dtype, LLAMA_MAKE_N_VOCAB, n_embd);
    if (o.separate_output) add_matrix(g, "output.weight", o.dtype, LLAMA_MAKE_N_VOCAB, n_embd);
    add_vector(g, "output_norm.weight", n_embd, 1);
    if (o.rope_factors) add_vector(g, "rope_freqs.weight", head_dim / 2, 2);
    const struct {
        const char *name;
        int32_t n_rows, n_cols;
        bool biased;
    } matrices[] = {
        {"attn_q", n_embd, n_embd, true},  {"attn_k", n_kv, n_embd, true},
        {"attn_v", n_kv, n_embd, true},    {"attn_output", n_embd, n_embd, true},
        {"ffn_gate", n_ff, n_embd, false}, {"ffn_up", n_ff, n_embd, false},
        {"ffn_down", n_embd, n_ff, false},
    };
    for (int layer = 0; layer < n_layer; layer++) {
        char name[SOBRE_NAME_SIZE], part[32];
        add_vector(g, block_name(name, sizeof name, layer, "attn_norm.weight"), n_embd, 1);
        add_vector(g, block_name(name, sizeof name, layer, "ffn_norm.weight"), n_embd, 1);
        for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
            snprintf(part, sizeof part, "%s.weight", matrices[i].name);
            add_matrix(g, block_name(name, sizeof name, layer, part), o.dtype, matrices[i].n_rows,
                       matrices[i].n_cols);
            if (!o.biases || !matrices[i].biased) continue;
            snprintf(part, sizeof part, "%s.bias", matrices[i].name);
            add_vector(g, block_name(name, sizeof name, layer, part), matrices[i].n_rows, 0);
        }
    }
    return g;
}
