/* SPDX-License-Identifier: MIT */
#include "bench_shape.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sobre/graph.h>

/* --- What there is */

/* Figures of the published configurations. */
typedef struct shape {
    const char *name;
    int32_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab, n_ctx;
    bool tied; /* the output is the embedding */
    float rope_base, norm_eps;
} shape;

static const shape shapes[] = {
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, true, 1e5f, 1e-5f},
    {"smollm2-360m", 32, 960, 2560, 15, 5, 64, 49152, 8192, true, 1e5f, 1e-5f},
    /* Qwen2's family has biases on Q, K and V, which this leaves out: 0.01 % of its weights. */
    {"qwen2.5-0.5b-llama", 24, 896, 4864, 14, 2, 64, 151936, 32768, true, 1e6f, 1e-6f},
    {"tinyllama-1.1b", 22, 2048, 5632, 32, 4, 64, 32000, 2048, false, 1e4f, 1e-5f},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, true, 5e5f, 1e-5f},
    {"smollm2-1.7b", 24, 2048, 8192, 32, 32, 64, 49152, 8192, true, 1.3e5f, 1e-5f},
    {"llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256, 131072, true, 5e5f, 1e-5f},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Random bytes in a block's layout, with its scales set so that weights have the standard deviation
 * SIGMA; random bytes make the integers of a block, 0 to q_max, uniform. */
#define SIGMA 0.02f
#define SPAN(q_max) \
    (SIGMA * 3.46410162f / (q_max)) /* a uniform distribution's standard deviation */

enum { SUB_SCALE = 8 }; /* keeps the scale above it a normal number */

typedef struct quant {
    const char *name;
    sobre_dtype dtype;
    int32_t block, size; /* elements and bytes */
    struct {
        int32_t offset;
        float value;
    } scales[2];        /* half-precision numbers in the block; value 0: none */
    int32_t int8_at;    /* sixteen int8 sub-scales begin here; 0: none */
    uint16_t and_, or_; /* plain half-precision types: bits of each random element */
} quant;

static const quant quants[] = {
    /* sign and mantissa random, exponent 2^-6: half of the magnitudes are below 0.023 */
    {"F16", SOBRE_F16, 32, 64, {{0}}, 0, 0x83ff, 9 << 10},
    {"BF16", SOBRE_BF16, 32, 64, {{0}}, 0, 0x807f, 121 << 7},
    {"Q4_0", SOBRE_Q4_0, 32, 18, {{0, SPAN(15)}}, 0, 0, 0},
    {"Q4_1", SOBRE_Q4_1, 32, 20, {{0, SPAN(15)}, {2, -7.5f * SPAN(15)}}, 0, 0, 0},
    {"Q5_0", SOBRE_Q5_0, 32, 22, {{0, SPAN(31)}}, 0, 0, 0},
    {"Q5_1", SOBRE_Q5_1, 32, 24, {{0, SPAN(31)}, {2, -15.5f * SPAN(31)}}, 0, 0, 0},
    {"Q8_0", SOBRE_Q8_0, 32, 34, {{0, SPAN(255)}}, 0, 0, 0},
    /* six-bit sub-scales average 32 */
    {"Q4_K", SOBRE_Q4_K, 256, 144, {{0, SPAN(15) / 32}, {2, 7.5f * SPAN(15) / 32}}, 0, 0, 0},
    {"Q5_K", SOBRE_Q5_K, 256, 176, {{0, SPAN(31) / 32}, {2, 15.5f * SPAN(31) / 32}}, 0, 0, 0},
    {"Q6_K", SOBRE_Q6_K, 256, 210, {{208, SPAN(63) / SUB_SCALE}}, 192, 0, 0},
};
enum { N_QUANTS = sizeof quants / sizeof *quants, MAX_BLOCK_SIZE = 210 };

/* Ones, for norms. */
static const quant ones = {.name = "F32", .dtype = SOBRE_F32, .block = 1, .size = 4};

const char *shape_name(size_t index)
{
    return index < N_SHAPES ? shapes[index].name : NULL;
}

const char *shape_quant_name(size_t index)
{
    return index < N_QUANTS ? quants[index].name : NULL;
}

static const quant *find_quant(const char *name)
{
    for (size_t i = 0; i < N_QUANTS; i++)
        if (strcmp(quants[i].name, name) == 0) return &quants[i];
    return NULL;
}

/* --- The file: a header that is kept, and tensors that are made block by block */

typedef struct made_tensor {
    const quant *quant;
    uint64_t offset, size; /* from the beginning of the data */
} made_tensor;

struct shape_model {
    uint8_t *header;
    size_t header_size, header_capacity;
    made_tensor *tensors;
    size_t n_tensors, n_added;
    uint64_t data_size;
    bool tied, failed;
};

enum { ALIGNMENT = 32 };

static void put(shape_model *m, const void *data, size_t size)
{
    if (m->header_capacity - m->header_size < size) {
        const size_t capacity = (m->header_size + size) * 2;
        uint8_t *header = realloc(m->header, capacity);
        if (!header) {
            m->failed = true;
            return;
        }
        m->header = header;
        m->header_capacity = capacity;
    }
    memcpy(m->header + m->header_size, data, size);
    m->header_size += size;
}

static void put_number(shape_model *m, uint64_t value, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(value >> 8 * i);
    put(m, bytes, size);
}

static void put_text(shape_model *m, const char *text)
{
    put_number(m, strlen(text), 8);
    put(m, text, strlen(text));
}

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STRING = 8 };

static void put_key(shape_model *m, const char *key, uint32_t type)
{
    put_text(m, key);
    put_number(m, type, 4);
}

static void put_metadata(shape_model *m, const shape *s)
{
    char name[64];
    const struct {
        const char *key;
        uint32_t value;
    } whole[] = {
        {"llama.context_length", (uint32_t)s->n_ctx},
        {"llama.embedding_length", (uint32_t)s->n_embd},
        {"llama.block_count", (uint32_t)s->n_layer},
        {"llama.feed_forward_length", (uint32_t)s->n_ff},
        {"llama.attention.head_count", (uint32_t)s->n_head},
        {"llama.attention.head_count_kv", (uint32_t)s->n_head_kv},
        {"llama.attention.key_length", (uint32_t)s->head_dim},
        {"llama.attention.value_length", (uint32_t)s->head_dim},
        {"llama.rope.dimension_count", (uint32_t)s->head_dim},
        {"llama.vocab_size", (uint32_t)s->n_vocab},
    };
    const struct {
        const char *key;
        float value;
    } real[] = {
        {"llama.rope.freq_base", s->rope_base},
        {"llama.attention.layer_norm_rms_epsilon", s->norm_eps},
    };
    const char *text[][2] = {{"general.architecture", "llama"},
                             {"general.name", name},
                             {"tokenizer.ggml.model", "no_vocab"}};
    const size_t n_whole = sizeof whole / sizeof *whole, n_real = sizeof real / sizeof *real,
                 n_text = sizeof text / sizeof *text;

    snprintf(name, sizeof name, "%s-random", s->name);
    put(m, "GGUF", 4);
    put_number(m, 3, 4);
    put_number(m, m->n_tensors, 8);
    put_number(m, n_whole + n_real + n_text, 8);
    for (size_t i = 0; i < n_text; i++) {
        put_key(m, text[i][0], GGUF_STRING);
        put_text(m, text[i][1]);
    }
    for (size_t i = 0; i < n_whole; i++) {
        put_key(m, whole[i].key, GGUF_U32);
        put_number(m, whole[i].value, 4);
    }
    for (size_t i = 0; i < n_real; i++) {
        uint32_t bits;
        memcpy(&bits, &real[i].value, sizeof bits);
        put_key(m, real[i].key, GGUF_F32);
        put_number(m, bits, 4);
    }
}

/* n_rows 0: a vector. A row that the block type does not divide falls back to Q8_0. */
static void put_tensor(shape_model *m, const char *name, const quant *q, int64_t n_rows,
                       int64_t n_cols)
{
    if (n_cols % q->block != 0) q = find_quant("Q8_0");
    const uint64_t n = (uint64_t)(n_rows ? n_rows : 1) * (uint64_t)n_cols;
    made_tensor *t = &m->tensors[m->n_added++];

    *t = (made_tensor){q, m->data_size, n / (uint64_t)q->block * (uint64_t)q->size};
    m->data_size += (t->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    put_text(m, name);
    put_number(m, n_rows ? 2 : 1, 4);
    put_number(m, (uint64_t)n_cols, 8); /* innermost first */
    if (n_rows) put_number(m, (uint64_t)n_rows, 8);
    put_number(m, (uint64_t)q->dtype, 4);
    put_number(m, t->offset, 8);
}

static void put_tensors(shape_model *m, const shape *s, const quant *q)
{
    const int64_t d = s->n_embd, n_q = (int64_t)s->n_head * s->head_dim,
                  n_kv = (int64_t)s->n_head_kv * s->head_dim;
    const struct {
        const char *name;
        int64_t n_rows, n_cols;
    } layer[] = {
        {"attn_norm", 0, d},      {"attn_q", n_q, d},      {"attn_k", n_kv, d},
        {"attn_v", n_kv, d},      {"attn_output", d, n_q}, {"ffn_norm", 0, d},
        {"ffn_gate", s->n_ff, d}, {"ffn_up", s->n_ff, d},  {"ffn_down", d, s->n_ff},
    };
    const size_t n_layer_tensors = sizeof layer / sizeof *layer;
    /* Embedding and output keep more bits, as quantised files have them. */
    const quant *head = q->dtype == SOBRE_F16 || q->dtype == SOBRE_BF16 ? q
                        : q->block == 256                               ? find_quant("Q6_K")
                                                                        : find_quant("Q8_0");

    m->n_tensors = 2 + !s->tied + (size_t)s->n_layer * n_layer_tensors;
    m->tensors = calloc(m->n_tensors, sizeof *m->tensors);
    if (!m->tensors) {
        m->failed = true;
        return;
    }
    m->tied = s->tied;
    put_metadata(m, s);
    put_tensor(m, "token_embd.weight", head, s->n_vocab, d);
    put_tensor(m, "output_norm.weight", &ones, 0, d);
    if (!s->tied) put_tensor(m, "output.weight", head, s->n_vocab, d);
    for (int32_t l = 0; l < s->n_layer; l++)
        for (size_t i = 0; i < n_layer_tensors; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", (int)l, layer[i].name);
            put_tensor(m, name, layer[i].n_rows ? q : &ones, layer[i].n_rows, layer[i].n_cols);
        }
    while (m->header_size % ALIGNMENT != 0 && !m->failed) put_number(m, 0, 1);
}

/* --- Reading */

/* Vigna's splitmix64: a number of the sequence without those before it. */
static uint64_t random_at(uint64_t index)
{
    uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Half precision of a normal number, rounded down; for scales. */
static uint16_t to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t exponent = (bits >> 23 & 0xff) - 127 + 15;
    return (uint16_t)(bits >> 16 & 0x8000u) | (uint16_t)(exponent << 10 | (bits >> 13 & 0x3ff));
}

/* The block number `index` of a file. */
static void make_block(const quant *q, uint64_t index, uint8_t *block)
{
    uint64_t words[(MAX_BLOCK_SIZE + 7) / 8];

    if (q == &ones) {
        const float one = 1;
        memcpy(block, &one, sizeof one);
        return;
    }
    for (int32_t i = 0; i < (q->size + 7) / 8; i++)
        words[i] = random_at(index * (MAX_BLOCK_SIZE / 8 + 1) + (uint64_t)i);
    memcpy(block, words, (size_t)q->size);
    for (int32_t i = 0; q->and_ && i < q->size; i += 2) {
        uint16_t bits;
        memcpy(&bits, block + i, sizeof bits);
        bits = (uint16_t)((bits & q->and_) | q->or_);
        memcpy(block + i, &bits, sizeof bits);
    }
    if (q->int8_at) memset(block + q->int8_at, SUB_SCALE, 16);
    for (int32_t i = 0; i < 2 && q->scales[i].value != 0; i++) {
        const uint16_t half = to_half(q->scales[i].value);
        memcpy(block + q->scales[i].offset, &half, sizeof half);
    }
}

/* The tensor that holds or follows a byte of the data. */
static const made_tensor *find_tensor(const shape_model *m, uint64_t offset)
{
    size_t low = 0, high = m->n_tensors;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (m->tensors[middle].offset + m->tensors[middle].size > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low < m->n_tensors ? &m->tensors[low] : NULL;
}

static int32_t read_model(void *user, uint64_t offset, void *buffer, size_t size)
{
    const shape_model *m = user;
    uint8_t *to = buffer;

    if (offset > m->header_size + m->data_size || size > m->header_size + m->data_size - offset)
        return -1;
    memset(to, 0, size); /* between tensors */
    while (size > 0) {
        size_t n;
        if (offset < m->header_size) {
            n = m->header_size - (size_t)offset < size ? m->header_size - (size_t)offset : size;
            memcpy(to, m->header + offset, n);
        } else {
            const uint64_t at = offset - m->header_size;
            const made_tensor *t = find_tensor(m, at);
            if (!t) break;
            if (at < t->offset) {
                n = t->offset - at < size ? (size_t)(t->offset - at) : size;
            } else {
                const uint64_t block_size = (uint64_t)t->quant->size;
                const uint64_t index = (at - t->offset) / block_size;
                const size_t skip = (size_t)((at - t->offset) % block_size);
                const uint64_t key = t->offset + index; /* no two blocks share it */
                uint8_t block[MAX_BLOCK_SIZE];

                n = (size_t)block_size - skip < size ? (size_t)block_size - skip : size;
                if (n == block_size) {
                    make_block(t->quant, key, to);
                } else {
                    make_block(t->quant, key, block);
                    memcpy(to, block + skip, n);
                }
            }
        }
        to += n;
        offset += n;
        size -= n;
    }
    return 0;
}

sobre_status shape_model_open(const char *shape_wanted, const char *quant_wanted,
                              shape_model **ret_model, sobre_source *ret_source)
{
    const quant *q = find_quant(quant_wanted);
    const shape *s = NULL;

    for (size_t i = 0; i < N_SHAPES; i++)
        if (strcmp(shapes[i].name, shape_wanted) == 0) s = &shapes[i];
    if (!s || !q) return SOBRE_INVALID_ARGUMENT;
    shape_model *m = calloc(1, sizeof *m);
    if (!m) return SOBRE_OUT_OF_MEMORY;
    put_tensors(m, s, q);
    if (m->failed) {
        shape_model_close(m);
        return SOBRE_OUT_OF_MEMORY;
    }
    *ret_model = m;
    *ret_source = (sobre_source){.struct_size = sizeof *ret_source,
                                 .read = read_model,
                                 .read_user = m,
                                 .read_size = m->header_size + m->data_size};
    return SOBRE_OK;
}

uint64_t shape_model_table_size(const shape_model *m)
{
    return m->tied ? 0 : m->tensors[0].size;
}

void shape_model_close(shape_model *m)
{
    if (!m) return;
    free(m->header);
    free(m->tensors);
    free(m);
}
