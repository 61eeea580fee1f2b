/* SPDX-License-Identifier: MIT */
/* Makes GGUF files in memory, for tests: well-formed ones, and any lie that a test asks for.
 *
 *     gguf_make *g = gguf_make_llama(&(llama_make){.n_layer = 3});
 *     gguf_make_u32(g, "llama.block_count", 4);          // a key given again replaces the first
 *     gguf_make_tensor_find(g, "output_norm.weight")->dims[0] = 63;
 *     size_t size;
 *     void *bytes = gguf_make_bytes(g, &size);           // free() it
 *     gguf_make_free(g);
 *
 * Every field may be changed until gguf_make_bytes(), which writes what it finds. Failures of
 * malloc and of files end the test program. */
#ifndef GGUF_MAKE_H
#define GGUF_MAKE_H

#include <stdbool.h>

#include "dtype.h"

/* Metadata types by GGUF's numbers. */
enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

typedef struct make_key {
    char *key;
    uint64_t key_size; /* as written; the bytes are key's first, as many as it has */
    uint32_t type;
    uint8_t *value; /* as in the file */
    size_t size;
} make_key;

typedef struct make_tensor {
    char *name;
    uint64_t name_size; /* as for keys */
    uint32_t rank, type;
    uint64_t dims[8]; /* as in the file: innermost first */
    uint64_t offset;  /* set by gguf_make_bytes() unless fixed_offset */
    bool fixed_offset;
    uint8_t *data;
    size_t size;
} make_tensor;

typedef struct gguf_make {
    char magic[4];
    uint32_t version;              /* 3 */
    uint32_t alignment;            /* of the data; 32. Writes no key */
    int64_t add_keys, add_tensors; /* lies: added to the counts in the header */
    make_key *keys;
    size_t n_keys;
    make_tensor *tensors;
    size_t n_tensors;
} gguf_make;

gguf_make *gguf_make_new(void);
void gguf_make_free(gguf_make *g);
/* The file, allocated with malloc. */
void *gguf_make_bytes(gguf_make *g, size_t *ret_size);
void gguf_make_write(gguf_make *g, const char *path);

/* Metadata. A key that is there already gets the new value in its old place. */
void gguf_make_u32(gguf_make *g, const char *key, uint32_t value);
void gguf_make_f32(gguf_make *g, const char *key, float value);
void gguf_make_bool(gguf_make *g, const char *key, bool value);
void gguf_make_string(gguf_make *g, const char *key, const char *value);
void gguf_make_strings(gguf_make *g, const char *key, const char *const *items, size_t n);
void gguf_make_i32s(gguf_make *g, const char *key, const int32_t *items, size_t n);
void gguf_make_f32s(gguf_make *g, const char *key, const float *items, size_t n);
/* Any type, any bytes. */
void gguf_make_raw(gguf_make *g, const char *key, uint32_t type, const void *value, size_t size);
/* NULL if absent. */
make_key *gguf_make_key_find(gguf_make *g, const char *key);
void gguf_make_key_remove(gguf_make *g, const char *key);
void gguf_make_key_rename(gguf_make *g, const char *key, const char *name);

/* Tensors. `dims` outermost first; `data` NULL: pseudo-random, the same for the same name, uniform
 * with variance 1 / (last dim). Types that dtype_encode() lacks get pseudo-random bytes. */
make_tensor *gguf_make_tensor(gguf_make *g, const char *name, sobre_dtype dtype, int rank,
                              const int64_t *dims, const float *data);
make_tensor *gguf_make_tensor_find(gguf_make *g, const char *name);
void gguf_make_tensor_remove(gguf_make *g, const char *name);
void gguf_make_tensor_rename(gguf_make *g, const char *name, const char *to);

/* A whole little model of the Llama family; zero fields take the value in brackets. */
typedef struct llama_make {
    int32_t n_layer;      /* [2] */
    int32_t n_embd;       /* [64] */
    int32_t n_head;       /* [4] */
    int32_t n_head_kv;    /* [2] */
    int32_t n_ff;         /* [96] */
    int32_t n_ctx;        /* [256] */
    sobre_dtype dtype;    /* of matrices and embeddings [F32]; vectors are F32 */
    bool separate_output; /* an output.weight; else tied */
    bool biases;          /* on q, k, v and the attention's output */
    bool rope_factors;    /* rope_freqs.weight */
    bool no_tokenizer;    /* n_vocab is then 300 all the same */
} llama_make;

enum { LLAMA_MAKE_N_VOCAB = 300 };

/* `options` may be NULL. The tokenizer is byte-level BPE ("gpt2", pre "smollm"): ids 0 .. 255 are
 * the bytes in order, in GPT-2's alphabet; then <|endoftext|> 256, <|im_start|> 257 (BOS),
 * <|im_end|> 258 (EOS); then merged tokens ("he", "hel", " the", " world", ...). With a ChatML
 * template. */
gguf_make *gguf_make_llama(const llama_make *options);
/* GPT-2's character for a byte, as UTF-8; ret holds 3 bytes. */
void gguf_make_byte_text(uint8_t byte, char *ret);

#endif
