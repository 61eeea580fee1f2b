/* SPDX-License-Identifier: MIT */
/* Thousands of damaged files through everything a program does with a model: open, ask, tokenize,
 * load, generate. None may crash, leak or take memory without bound; most are refused, some are not
 * damaged where it matters. test_mutations [N [SEED]]     more of them, and others */
#include "support.h"

#include <stdlib.h>
#include <string.h>

enum { N_BASES = 5, HEADER = 12000 /* bytes that hold metadata and tensor directory */ };

static int n_mutations = 2000;
static uint64_t seed = 1;

/* xorshift64: Marsaglia 2003, "Xorshift RNGs". */
static uint64_t draw(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

static void put(uint8_t *bytes, size_t size, size_t at, uint64_t value, size_t width)
{
    if (at + width <= size) memcpy(bytes + at, &value, width);
}

/* Spoils up to four places, mostly in the header; returns the size, which a cut makes smaller. */
static size_t mutate(uint8_t *bytes, size_t size)
{
    for (uint64_t n = 1 + draw(4); n > 0; n--) {
        size_t at = draw(4) ? draw(HEADER < size ? HEADER : size) : draw(size);

        switch (draw(5)) {
        case 0: bytes[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1: bytes[at] = (uint8_t)draw(256); break;
        case 2: put(bytes, size, at, draw(3) ? draw(300) : seed, 8); break;
        case 3: put(bytes, size, at, draw(2) ? UINT32_MAX : 0, 4); break;
        default:
            if (draw(8) == 0) size = at + 1;
        }
    }
    return size;
}

static void generate(sobre_context *ctx, sobre_model *model)
{
    const sobre_message message = {"user", "hello the world"};
    static const int32_t ids[] = {1, 2, 3};
    const sobre_event *event;
    sobre_session *s;
    sobre_status st = sobre_session_open(model, NULL, &s);

    if (st < 0) return;
    if (sobre_session_chat(s, 0, &message, 1) < 0) st = sobre_session_prompt_ids(s, 0, ids, 3);
    for (int i = 0; i < 3 && st == SOBRE_OK; i++) st = sobre_session_next(s, -1, &event);
    if (st < 0) assert_true(strlen(sobre_error(ctx)) > 10);
    sobre_session_close(s);
}

static void use(sobre_context *ctx, sobre_model *model)
{
    const char *text;
    int32_t ids[64];
    size_t n;

    sobre_tokenize(model, "the <|im_start|> \xff", 18, 0, ids, 64, &n);
    for (int32_t i = 0; i < 4; i++) sobre_token_text(model, (int32_t)draw(310) - 3, 1, &text, &n);
    for (int32_t i = 0; sobre_model_meta_key(model, i); i++)
        sobre_model_meta(model, sobre_model_meta_key(model, i));
    if (sobre_model_load(model, NULL, NULL) >= 0) generate(ctx, model);
}

static void damaged_files_do_no_harm(void **state)
{
    static const sobre_dtype dtypes[N_BASES] = {SOBRE_F32, SOBRE_Q4_1, SOBRE_Q8_0, SOBRE_F16,
                                                SOBRE_Q4_0};
    void *bases[N_BASES];
    size_t sizes[N_BASES];
    int n_opened = 0;

    (void)state;
    for (int i = 0; i < N_BASES; i++) {
        gguf_make *g = gguf_make_llama(&(llama_make){
            .dtype = dtypes[i], .n_layer = 1, .biases = i & 1, .rope_factors = (i & 2) != 0});

        bases[i] = gguf_make_bytes(g, &sizes[i]);
        gguf_make_free(g);
    }
    for (int i = 0; i < n_mutations; i++) {
        test_memory memory = {0};
        const sobre_allocator allocator = test_allocator(&memory);
        const int base = (int)draw(N_BASES);
        uint8_t *bytes = malloc(sizes[base]);
        sobre_context *ctx;
        sobre_model *model;
        size_t size;

        assert_non_null(bytes);
        memcpy(bytes, bases[base], sizes[base]);
        size = mutate(bytes, sizes[base]);
        assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator,
                                                  .n_threads = 1, .host_limit = 512u << 20),
                                            &ctx),
                         SOBRE_OK);
        if (sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model) >= 0) {
            n_opened++;
            use(ctx, model);
            sobre_model_close(model);
        } else {
            assert_true(strlen(sobre_error(ctx)) > 10);
        }
        sobre_context_close(ctx);
        if (atomic_load(&memory.n_live)) test_fail("mutation %d leaks", i);
        free(bytes);
    }
    assert_in_range(n_opened, n_mutations / 10, n_mutations * 9 / 10); /* both ways are taken */
    for (int i = 0; i < N_BASES; i++) free(bases[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(damaged_files_do_no_harm)};

    if (argc > 1) n_mutations = atoi(argv[1]);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10) + 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
