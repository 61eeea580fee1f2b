/* SPDX-License-Identifier: MIT */
/* Well-formed files that hold no sound model, and misuse of sound ones: each gives its error, with
 * the words that let a user find the fault, and nothing leaks. What is wrong with files as such is
 * in test_gguf_bad.c. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dtype.h"

/* One thing to spoil. NULL key or tensor: not that. */
typedef struct spoil {
    const char *name;
    void (*change)(gguf_make *g);
    sobre_status status;
    const char *says; /* a part of the message */
} spoil;

#define KEY(id, expr)            \
    static void id(gguf_make *g) \
    {                            \
        expr;                    \
    }

KEY(no_architecture, gguf_make_key_remove(g, "general.architecture"))
KEY(strange_architecture, gguf_make_string(g, "general.architecture", "perceptron"))
KEY(rude_architecture, gguf_make_string(g, "general.architecture", "\x1b[31mX\r\n"))
KEY(number_architecture, gguf_make_u32(g, "general.architecture", 3))
KEY(no_layers, gguf_make_key_remove(g, "llama.block_count"))
KEY(zero_layers, gguf_make_u32(g, "llama.block_count", 0))
KEY(many_layers, gguf_make_u32(g, "llama.block_count", 3))
KEY(huge_layers, gguf_make_u32(g, "llama.block_count", 4000000000u))
KEY(text_layers, gguf_make_string(g, "llama.block_count", "two"))
KEY(no_embd, gguf_make_key_remove(g, "llama.embedding_length"))
KEY(zero_embd, gguf_make_u32(g, "llama.embedding_length", 0))
KEY(other_embd, gguf_make_u32(g, "llama.embedding_length", 128))
KEY(no_ff, gguf_make_key_remove(g, "llama.feed_forward_length"))
KEY(other_ff, gguf_make_u32(g, "llama.feed_forward_length", 95))
KEY(no_ctx, gguf_make_key_remove(g, "llama.context_length"))
KEY(zero_ctx, gguf_make_u32(g, "llama.context_length", 0))
KEY(no_heads, gguf_make_key_remove(g, "llama.attention.head_count"))
KEY(zero_heads, gguf_make_u32(g, "llama.attention.head_count", 0))
KEY(odd_heads, gguf_make_u32(g, "llama.attention.head_count", 5))
KEY(odd_kv_heads, gguf_make_u32(g, "llama.attention.head_count_kv", 3))
KEY(many_kv_heads, gguf_make_u32(g, "llama.attention.head_count_kv", 8))
KEY(zero_kv_heads, gguf_make_u32(g, "llama.attention.head_count_kv", 0))
KEY(other_head_dim, gguf_make_u32(g, "llama.attention.key_length", 32))
KEY(float_heads, gguf_make_f32(g, "llama.attention.head_count", 4))
KEY(no_eps, gguf_make_key_remove(g, "llama.attention.layer_norm_rms_epsilon"))
KEY(nan_eps, gguf_make_f32(g, "llama.attention.layer_norm_rms_epsilon", NAN))
KEY(negative_eps, gguf_make_f32(g, "llama.attention.layer_norm_rms_epsilon", -1))
KEY(odd_rope, gguf_make_u32(g, "llama.rope.dimension_count", 7))
KEY(long_rope, gguf_make_u32(g, "llama.rope.dimension_count", 64))
KEY(zero_base, gguf_make_f32(g, "llama.rope.freq_base", 0))
KEY(yarn, gguf_make_string(g, "llama.rope.scaling.type", "yarn"))
KEY(experts, gguf_make_u32(g, "llama.expert_count", 8))
KEY(no_table, gguf_make_tensor_remove(g, "token_embd.weight"))
KEY(no_norm, gguf_make_tensor_remove(g, "output_norm.weight"))
KEY(no_q, gguf_make_tensor_remove(g, "blk.1.attn_q.weight"))
KEY(no_down, gguf_make_tensor_remove(g, "blk.0.ffn_down.weight"))
KEY(renamed, gguf_make_tensor_rename(g, "blk.1.ffn_up.weight", "blk.1.ffn_pu.weight"))

static void turned(gguf_make *g)
{
    make_tensor *t = gguf_make_tensor_find(g, "blk.0.ffn_gate.weight");
    uint64_t d = t->dims[0];

    t->dims[0] = t->dims[1];
    t->dims[1] = d;
}

static void reshaped(gguf_make *g)
{
    make_tensor *t = gguf_make_tensor_find(g, "blk.0.attn_norm.weight");

    t->rank = 2;
    t->dims[0] = t->dims[1] = 8;
}

static void flat_table(gguf_make *g)
{
    make_tensor *t = gguf_make_tensor_find(g, "token_embd.weight");

    t->dims[0] *= t->dims[1];
    t->rank = 1;
}

static void short_table(gguf_make *g)
{
    gguf_make_tensor_find(g, "token_embd.weight")->dims[1] = 299; /* below the tokenizer's 300 */
}

static void integer_weight(gguf_make *g)
{
    gguf_make_tensor_find(g, "blk.0.attn_v.weight")->type = SOBRE_I32;
}

static const spoil at_open[] = {
    {"no architecture", no_architecture, SOBRE_BAD_FORMAT, "general.architecture"},
    {"unknown architecture", strange_architecture, SOBRE_UNSUPPORTED, "perceptron"},
    {"terminal codes", rude_architecture, SOBRE_UNSUPPORTED, "\"?[31mX??\""},
    {"architecture is a number", number_architecture, SOBRE_BAD_FORMAT, "general.architecture"},
    {"no layer count", no_layers, SOBRE_BAD_FORMAT, "llama.block_count"},
    {"no layers", zero_layers, SOBRE_BAD_FORMAT, "llama.block_count"},
    {"a layer too many", many_layers, SOBRE_BAD_FORMAT, "blk.2."},
    {"four billion layers", huge_layers, SOBRE_BAD_FORMAT, "llama.block_count"},
    {"layer count is text", text_layers, SOBRE_BAD_FORMAT, "llama.block_count"},
    {"no embedding length", no_embd, SOBRE_BAD_FORMAT, "llama.embedding_length"},
    {"embedding length 0", zero_embd, SOBRE_BAD_FORMAT, "llama.embedding_length"},
    {"another embedding length", other_embd, SOBRE_BAD_FORMAT, "300 x 128"},
    {"no feed-forward length", no_ff, SOBRE_BAD_FORMAT, "llama.feed_forward_length"},
    {"another feed-forward length", other_ff, SOBRE_BAD_FORMAT, "ffn_"},
    {"no context length", no_ctx, SOBRE_BAD_FORMAT, "llama.context_length"},
    {"context length 0", zero_ctx, SOBRE_BAD_FORMAT, "llama.context_length"},
    {"no head count", no_heads, SOBRE_BAD_FORMAT, "llama.attention.head_count"},
    {"no heads", zero_heads, SOBRE_BAD_FORMAT, "llama.attention.head_count"},
    {"heads that do not divide", odd_heads, SOBRE_BAD_FORMAT, "divide"},
    {"kv heads that do not divide", odd_kv_heads, SOBRE_BAD_FORMAT, "divide"},
    {"more kv heads than heads", many_kv_heads, SOBRE_BAD_FORMAT, "divide"},
    {"no kv heads", zero_kv_heads, SOBRE_BAD_FORMAT, "head_count_kv"},
    {"another head size", other_head_dim, SOBRE_BAD_FORMAT, "attn_q"},
    {"head count is a float", float_heads, SOBRE_BAD_FORMAT, "llama.attention.head_count"},
    {"no epsilon", no_eps, SOBRE_BAD_FORMAT, "epsilon"},
    {"epsilon NaN", nan_eps, SOBRE_BAD_FORMAT, "epsilon"},
    {"epsilon below 0", negative_eps, SOBRE_BAD_FORMAT, "epsilon"},
    {"odd rope dims", odd_rope, SOBRE_BAD_FORMAT, "rope.dimension_count"},
    {"more rope dims than a head has", long_rope, SOBRE_BAD_FORMAT, "rope.dimension_count"},
    {"rope base 0", zero_base, SOBRE_BAD_FORMAT, "rope.freq_base"},
    {"yarn", yarn, SOBRE_UNSUPPORTED, "yarn"},
    {"experts", experts, SOBRE_UNSUPPORTED, "expert"},
    {"no embedding", no_table, SOBRE_BAD_FORMAT, "token_embd.weight"},
    {"no output norm", no_norm, SOBRE_BAD_FORMAT, "output_norm.weight"},
    {"no q", no_q, SOBRE_BAD_FORMAT, "blk.1.attn_q.weight"},
    {"no down", no_down, SOBRE_BAD_FORMAT, "blk.0.ffn_down.weight"},
    {"a misspelt tensor", renamed, SOBRE_BAD_FORMAT, "blk.1.ffn_up.weight"},
    {"a matrix turned round", turned, SOBRE_BAD_FORMAT, "blk.0.ffn_gate.weight"},
    {"a vector that is a matrix", reshaped, SOBRE_BAD_FORMAT, "blk.0.attn_norm.weight"},
    {"a table that is a vector", flat_table, SOBRE_BAD_FORMAT, "token_embd.weight"},
    {"fewer rows than tokens", short_table, SOBRE_BAD_FORMAT, "299"},
    {"an integer weight", integer_weight, SOBRE_UNSUPPORTED, "I32"},
};

static void *bytes_of(void (*change)(gguf_make *g), const llama_make *make, size_t *ret_size)
{
    gguf_make *g = gguf_make_llama(make);
    void *bytes;

    if (change) change(g);
    bytes = gguf_make_bytes(g, ret_size);
    gguf_make_free(g);
    return bytes;
}

static void bad_models_do_not_open(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof at_open / sizeof *at_open; i++) {
        const spoil *s = &at_open[i];
        test_memory memory = {0};
        sobre_allocator allocator = test_allocator(&memory);
        sobre_context *ctx;
        sobre_model *model = NULL;
        size_t size;
        void *bytes = bytes_of(s->change, NULL, &size);
        sobre_status st;

        assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator), &ctx),
                         SOBRE_OK);
        st = sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model);
        if (st != s->status || !strstr(sobre_error(ctx), s->says) || model)
            test_fail("%s: %s: %s", s->name, sobre_status_name(st), sobre_error(ctx));
        if (atomic_load(&memory.largest) > (long long)(4 * size + (1 << 20)))
            test_fail("%s: allocated %lld bytes for a file of %zu", s->name,
                      (long long)atomic_load(&memory.largest), size);
        sobre_context_close(ctx);
        assert_int_equal(atomic_load(&memory.n_live), 0);
        free(bytes);
    }
}

/* --- Weights that cannot be right: found when they are packed. */

typedef struct damage {
    sobre_dtype dtype;
    const char *tensor;
    size_t at; /* byte in the tensor's data */
    uint8_t bytes[4];
    size_t size;
} damage;

static const damage damages[] = {
    {SOBRE_Q4_0, "blk.1.attn_q.weight", 18 * 5, {0x00, 0x7e}, 2},     /* d is NaN */
    {SOBRE_Q4_1, "blk.1.ffn_down.weight", 20 * 3, {0x00, 0x7c}, 2},   /* d is infinite */
    {SOBRE_Q4_1, "blk.0.attn_v.weight", 20 * 3 + 2, {0x00, 0xfe}, 2}, /* m is NaN */
    {SOBRE_Q8_0, "blk.0.ffn_up.weight", 34 * 7, {0x00, 0xfc}, 2},     /* d is infinite */
    {SOBRE_F16, "token_embd.weight", 2 * 1000, {0x01, 0x7c}, 2},
    {SOBRE_F32, "blk.0.attn_k.weight", 4 * 100, {0, 0, 0xc0, 0x7f}, 4},
    {SOBRE_F32, "output_norm.weight", 4 * 3, {0, 0, 0x80, 0x7f}, 4},
};

static void damaged_weights_do_not_load(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const damage *d = &damages[i];
        test_memory memory = {0};
        sobre_allocator allocator = test_allocator(&memory);
        gguf_make *g = gguf_make_llama(&(llama_make){.dtype = d->dtype});
        sobre_context *ctx;
        sobre_model *model;
        size_t size;
        void *bytes;
        sobre_status st;

        memcpy(gguf_make_tensor_find(g, d->tensor)->data + d->at, d->bytes, d->size);
        bytes = gguf_make_bytes(g, &size);
        assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator), &ctx),
                         SOBRE_OK);
        assert_ok(ctx,
                  sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model));
        st = sobre_model_load(model, NULL, NULL);
        if (st != SOBRE_BAD_FORMAT || !strstr(sobre_error(ctx), d->tensor))
            test_fail("%s of type %s: %s: %s", d->tensor, dtype_get(d->dtype)->name,
                      sobre_status_name(st), sobre_error(ctx));
        sobre_model_close(model);
        sobre_context_close(ctx);
        assert_int_equal(atomic_load(&memory.n_live), 0);
        free(bytes);
        gguf_make_free(g);
    }
}

/* --- Files that change under the reader. */

typedef struct shrinking {
    const uint8_t *bytes;
    uint64_t size; /* what is still there */
} shrinking;

static int32_t read_shrinking(void *user, uint64_t offset, void *buffer, size_t size)
{
    const shrinking *s = user;

    if (offset + size > s->size) return 1;
    memcpy(buffer, s->bytes + offset, size);
    return 0;
}

static void truncated_while_it_loads(void **state)
{
    shrinking s;
    size_t size;
    void *bytes = bytes_of(NULL, NULL, &size);
    sobre_context *ctx;
    sobre_model *model;

    (void)state;
    s = (shrinking){bytes, size};
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    assert_ok(ctx,
              sobre_model_open(
                  ctx, SOBRE(source, .read = read_shrinking, .read_user = &s, .read_size = size),
                  &model));
    s.size = size - 100;
    assert_int_equal(sobre_model_load(model, NULL, NULL), SOBRE_IO);
    assert_true(strlen(sobre_error(ctx)) > 10);
    s.size = size; /* it is back */
    assert_ok(ctx, sobre_model_load(model, NULL, NULL));
    sobre_model_close(model);
    sobre_context_close(ctx);
    free(bytes);
}

/* --- Odd, but harmless. */

static void unused_tensors_are_warnings(void **state)
{
    gguf_make *g = gguf_make_llama(NULL);
    int64_t dims[] = {3};
    test_model t;
    const sobre_model_info *info;

    (void)state;
    gguf_make_tensor(g, "left.over", SOBRE_F32, 1, dims, NULL);
    t = test_model_make(g, NULL, NULL);
    info = sobre_model_info_get(t.model);
    assert_int_equal(info->n_warnings, 1);
    assert_non_null(strstr(info->warnings[0], "left.over"));
    test_model_close(&t);
}

static void no_tokenizer_runs_on_ids(void **state)
{
    test_model t =
        test_model_make(gguf_make_llama(&(llama_make){.no_tokenizer = true}), NULL, NULL);
    int32_t ids[4] = {1, 2, 3, 299};
    size_t n;

    (void)state;
    free(test_logits(&t, NULL, ids, 4, 0));
    assert_int_equal(sobre_tokenize(t.model, "a", 1, 0, NULL, 0, &n), SOBRE_UNSUPPORTED);
    assert_int_equal(sobre_token_find(t.model, "a"), -1);
    test_model_close(&t);
}

static void no_tensors_tokenizes(void **state)
{
    gguf_make *g = gguf_make_llama(NULL);
    sobre_context *ctx;
    sobre_model *model;
    int32_t ids[8];
    size_t size, n = 0;
    void *bytes;

    (void)state;
    while (g->n_tensors) gguf_make_tensor_remove(g, g->tensors[0].name);
    gguf_make_string(g, "general.architecture", "perceptron");
    bytes = gguf_make_bytes(g, &size);
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    assert_ok(ctx, sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model));
    assert_ok(ctx, sobre_tokenize(model, "ab", 2, 0, ids, 8, &n));
    assert_int_equal(n, 2);
    assert_int_equal(sobre_model_load(model, NULL, NULL), SOBRE_UNSUPPORTED);
    assert_int_equal(sobre_model_info_get(model)->n_vocab, LLAMA_MAKE_N_VOCAB);
    sobre_model_close(model);
    sobre_context_close(ctx);
    free(bytes);
    gguf_make_free(g);
}

/* --- Misuse of a sound model. What is wrong with batches is in test_session.c. */

static void prompt_longer_than_the_context(void **state)
{
    test_model t = test_model_make(gguf_make_llama(NULL), NULL, SOBRE(fit_options, .n_ctx = 20));
    const sobre_event *e;
    sobre_session *s;

    (void)state;
    assert_ok(t.ctx, sobre_session_open(t.model, NULL, &s));
    assert_int_equal(sobre_session_prompt(s, 0, "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", 30, 0),
                     SOBRE_CONTEXT_FULL);
    assert_non_null(strstr(sobre_error(t.ctx), "20"));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_DONE);
    /* text that is not UTF-8 is still text */
    assert_ok(t.ctx, sobre_session_prompt(s, 0, "\xff\xfe\xc3", 3, 0));
    assert_ok(t.ctx, sobre_session_next(s, -1, &e));
    sobre_session_close(s);
    test_model_close(&t);
}

/* A weight so large that logits overflow: an error, never a token. */
static void infinite_logits(void **state)
{
    gguf_make *g = gguf_make_llama(NULL);
    make_tensor *norm = gguf_make_tensor_find(g, "output_norm.weight");
    make_tensor *table = gguf_make_tensor_find(g, "token_embd.weight");
    float *w = (float *)(void *)norm->data, *x = (float *)(void *)table->data;
    test_model t;
    const sobre_event *e;
    sobre_session *s;

    (void)state;
    for (size_t i = 0; i < norm->size / sizeof *w; i++) w[i] = 3e38f;
    for (size_t i = 0; i < table->size / sizeof *x; i++) x[i] = 3;
    t = test_model_make(g, NULL, NULL);
    assert_ok(t.ctx, sobre_session_open(t.model, NULL, &s));
    assert_ok(t.ctx, sobre_session_prompt(s, 0, "a", 1, 0));
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_NOT_FINITE);
    sobre_session_close(s);
    test_model_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_models_do_not_open),
        cmocka_unit_test(damaged_weights_do_not_load),
        cmocka_unit_test(truncated_while_it_loads),
        cmocka_unit_test(unused_tensors_are_warnings),
        cmocka_unit_test(no_tokenizer_runs_on_ids),
        cmocka_unit_test(no_tensors_tokenizes),
        cmocka_unit_test(prompt_longer_than_the_context),
        cmocka_unit_test(infinite_logits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
