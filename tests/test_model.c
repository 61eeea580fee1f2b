/* SPDX-License-Identifier: MIT */
/* Whole models against the double-precision oracle, and the same bits however the work is cut. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ref_llama.h"

enum { N_IDS = 150 }; /* three pages */

static const sobre_session_options exact = {.struct_size = sizeof exact, .exact = 1};

static double worst_nmse(const llama_make *make, const sobre_session_options *so,
                         const sobre_context_options *co)
{
    test_model t = test_model_make(gguf_make_llama(make), co, NULL);
    int32_t ids[N_IDS], n_vocab;
    size_t size;
    gguf_make *g = gguf_make_llama(make);
    void *bytes = gguf_make_bytes(g, &size);
    double *reference, nmse;
    float *logits;

    test_ids(ids, N_IDS, LLAMA_MAKE_N_VOCAB, 1);
    reference = ref_llama(bytes, size, ids, N_IDS, &n_vocab);
    logits = test_logits(&t, so, ids, N_IDS, 0);
    nmse = test_nmse(logits, reference, (size_t)N_IDS * (size_t)n_vocab);
    free(logits), free(reference), free(bytes);
    gguf_make_free(g);
    test_model_close(&t);
    return nmse;
}

static const struct {
    const char *name;
    llama_make make;
    double bound, bound_q8; /* of exact arithmetic, and of int8 activations with an f16 cache */
} shapes[] = {
    {"plain", {0}, 1e-10, 1e-5},
    {"one query head a kv head", {.n_head = 4, .n_head_kv = 4}, 1e-10, 1e-5},
    {"one kv head", {.n_head = 8, .n_head_kv = 1}, 1e-10, 1e-5},
    {"biases", {.biases = true}, 1e-10, 1e-5},
    {"rope factors", {.rope_factors = true}, 1e-10, 1e-5},
    {"separate output", {.separate_output = true}, 1e-10, 1e-5},
    {"odd sizes", {.n_embd = 72, .n_head = 3, .n_head_kv = 3, .n_ff = 40}, 1e-10, 1e-5},
    {"one layer", {.n_layer = 1}, 1e-10, 1e-5},
    {"F16", {.dtype = SOBRE_F16}, 1e-10, 1e-5},
    {"BF16", {.dtype = SOBRE_BF16}, 1e-10, 1e-5},
    {"Q4_0", {.dtype = SOBRE_Q4_0}, 1e-10, 1e-3},
    {"Q4_1", {.dtype = SOBRE_Q4_1}, 1e-10, 1e-3},
    {"Q8_0", {.dtype = SOBRE_Q8_0, .biases = true, .rope_factors = true}, 1e-10, 1e-3},
};

static void matches_oracle(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double e = worst_nmse(&shapes[i].make, &exact, NULL),
               q = worst_nmse(&shapes[i].make, NULL, NULL);

        if (!(e <= shapes[i].bound) || !(q <= shapes[i].bound_q8))
            test_fail("%s: NMSE %.3g exact, %.3g with int8 activations", shapes[i].name, e, q);
    }
}

static void scalar_matches_oracle(void **state)
{
    const sobre_context_options co = {.struct_size = sizeof co, .cpu_isa = SOBRE_CPU_SCALAR};
    const llama_make make = {.dtype = SOBRE_Q4_1, .rope_factors = true};

    (void)state;
    assert_true(worst_nmse(&make, &exact, &co) <= 1e-10);
    assert_true(worst_nmse(&make, NULL, &co) <= 1e-3);
}

/* Chunks and threads do not change a bit, with int8 activations neither. */
static void same_bits(void **state)
{
    static const int32_t chunks[] = {1, 7, 64, 100}, threads[] = {1, 2, 3, 5};
    const llama_make make = {.dtype = SOBRE_Q4_1, .n_layer = 2};
    int32_t ids[N_IDS];
    size_t size = (size_t)N_IDS * LLAMA_MAKE_N_VOCAB * sizeof(float);

    (void)state;
    test_ids(ids, N_IDS, LLAMA_MAKE_N_VOCAB, 2);
    for (int mode = 0; mode < 2; mode++) {
        const sobre_session_options *so = mode ? &exact : NULL;
        float *first = NULL;

        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            test_model t = test_model_make(gguf_make_llama(&make),
                                           SOBRE(context_options, .n_threads = threads[i]), NULL);

            for (size_t k = 0; k <= sizeof chunks / sizeof *chunks; k++) {
                float *x = test_logits(&t, so, ids, N_IDS, k ? chunks[k - 1] : 0);

                if (!first) {
                    first = x;
                    continue;
                }
                if (memcmp(first, x, size))
                    test_fail("other bits with %d threads, chunk %d, exact %d", (int)threads[i],
                              k ? (int)chunks[k - 1] : 0, mode);
                free(x);
            }
            test_model_close(&t);
        }
        free(first);
    }
}

static void from_file_reader_and_map(void **state)
{
    gguf_make *g = gguf_make_llama(NULL);
    char path[] = "test_model_XXXXXX.gguf";
    int32_t ids[20];
    float *first = NULL;

    (void)state;
    test_ids(ids, 20, LLAMA_MAKE_N_VOCAB, 3);
    gguf_make_write(g, path);
    for (int map = 0; map < 2; map++) {
        test_model t = {0};
        float *x;

        assert_int_equal(sobre_context_open(NULL, &t.ctx), SOBRE_OK);
        assert_ok(t.ctx,
                  sobre_model_open(t.ctx, SOBRE(source, .path = path, .map = map), &t.model));
        assert_ok(t.ctx, sobre_model_load(t.model, NULL, NULL));
        x = test_logits(&t, NULL, ids, 20, 0);
        if (first) assert_memory_equal(first, x, 20 * LLAMA_MAKE_N_VOCAB * sizeof *x);
        if (first)
            free(x);
        else
            first = x;
        test_model_close(&t);
    }
    remove(path);
    {
        test_model t = test_model_make(g, NULL, NULL);
        float *x = test_logits(&t, NULL, ids, 20, 0);

        assert_memory_equal(first, x, 20 * LLAMA_MAKE_N_VOCAB * sizeof *x);
        free(x);
        test_model_close(&t);
    }
    free(first);
}

/* Rows of the embedding table given as embeddings mean what their ids mean, in any mixture. */
static void embeddings_for_ids(void **state)
{
    enum { N = 90, N_EMBD = 64 };
    test_model t =
        test_model_make(gguf_make_llama(NULL), NULL, SOBRE(fit_options, .n_seq = 2, .n_chunk = 32));
    gguf_make *g = gguf_make_llama(NULL);
    const float *table =
        (const float *)(const void *)gguf_make_tensor_find(g, "token_embd.weight")->data;
    static float embd[N * N_EMBD];
    int32_t ids[N];
    float *want;
    const float *row;
    sobre_session *s;

    (void)state;
    test_ids(ids, N, LLAMA_MAKE_N_VOCAB, 4);
    for (int32_t i = 0; i < N; i++)
        memcpy(embd + i * N_EMBD, table + ids[i] * N_EMBD, N_EMBD * sizeof *embd);
    want = test_logits(&t, NULL, ids, N, 0);
    assert_ok(t.ctx, sobre_session_open(t.model, NULL, &s));
    {
        const sobre_entry first[2] = {
            {.seq = 0, .n_tokens = N, .want = SOBRE_WANT_LAST, .embd = embd},
            {.seq = 1, .n_tokens = 40, .ids = ids}};
        const sobre_entry then = {.seq = 1,
                                  .pos = 40,
                                  .n_tokens = N - 40,
                                  .want = SOBRE_WANT_LAST,
                                  .embd = embd + 40 * N_EMBD};

        assert_ok(t.ctx, sobre_session_eval(s, SOBRE(batch, .entries = first, .n_entries = 2)));
        assert_ok(t.ctx, sobre_session_logits(s, 0, &row));
        assert_memory_equal(row, want + (size_t)(N - 1) * LLAMA_MAKE_N_VOCAB,
                            LLAMA_MAKE_N_VOCAB * sizeof *row);
        assert_ok(t.ctx, sobre_session_eval(s, SOBRE(batch, .entries = &then, .n_entries = 1)));
        assert_ok(t.ctx, sobre_session_logits(s, 0, &row));
        assert_memory_equal(row, want + (size_t)(N - 1) * LLAMA_MAKE_N_VOCAB,
                            LLAMA_MAKE_N_VOCAB * sizeof *row);
    }
    assert_int_equal(sobre_seq_ids(s, 1)[39], ids[39]);
    assert_int_equal(sobre_seq_ids(s, 1)[40], -1);
    /* They are not kept, so they cannot be replayed. */
    assert_ok(t.ctx, sobre_model_unload(t.model));
    assert_ok(t.ctx, sobre_model_load(t.model, NULL, NULL));
    {
        const sobre_entry more = {.seq = 1, .pos = N, .n_tokens = 1, .ids = ids};

        assert_int_equal(sobre_session_eval(s, SOBRE(batch, .entries = &more, .n_entries = 1)),
                         SOBRE_UNSUPPORTED);
        assert_non_null(strstr(sobre_error(t.ctx), "embeddings"));
        assert_ok(t.ctx, sobre_seq_truncate(s, 1, 40));
    }
    sobre_session_close(s);
    free(want);
    gguf_make_free(g);
    test_model_close(&t);
}

/* Ids that come while a sampled token waits for its event take its place. */
static void ids_replace_a_waiting_token(void **state)
{
    test_model t =
        test_model_make(gguf_make_llama(NULL), NULL, SOBRE(fit_options, .n_ctx = 32, .n_seq = 2));
    const sobre_sampling how = {.struct_size = sizeof how, .ignore_eos = 1};
    int32_t ids[40];
    const sobre_event *e;
    sobre_session *s;

    (void)state;
    test_ids(ids, 40, LLAMA_MAKE_N_VOCAB, 5);
    assert_ok(t.ctx, sobre_session_open(t.model, NULL, &s));
    for (int32_t seq = 0; seq < 2; seq++) {
        assert_ok(t.ctx, sobre_session_sampling(s, seq, &how));
        assert_ok(t.ctx, sobre_session_prompt_ids(s, seq, ids, 10));
    }
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_OK); /* of 0; that of 1 waits */
    assert_int_equal(e->seq, 0);
    {
        const sobre_entry fill = {.seq = 1, .pos = 10, .n_tokens = 22, .ids = ids};

        assert_ok(t.ctx, sobre_session_eval(s, SOBRE(batch, .entries = &fill, .n_entries = 1)));
    }
    for (sobre_status st = SOBRE_OK; st == SOBRE_OK;) {
        st = sobre_session_next(s, -1, &e);
        assert_true(st == SOBRE_OK || st == SOBRE_DONE);
        assert_true(sobre_seq_length(s, 0) <= 32 && sobre_seq_length(s, 1) <= 32);
        if (st == SOBRE_OK && e->seq == 1) assert_int_equal(e->finish, SOBRE_FINISH_FULL);
    }
    assert_memory_equal(sobre_seq_ids(s, 1) + 10, ids, 22 * sizeof *ids);
    /* A prompt likewise: what follows it is its answer, not the older prompt's. */
    for (int32_t seq = 0; seq < 2; seq++) {
        assert_ok(t.ctx, sobre_seq_truncate(s, seq, 0));
        assert_ok(t.ctx, sobre_session_prompt_ids(s, seq, ids, 5));
    }
    assert_int_equal(sobre_session_next(s, -1, &e), SOBRE_OK);
    assert_ok(t.ctx, sobre_session_prompt_ids(s, 1, ids + 5, 5));
    assert_int_equal(sobre_seq_length(s, 1), 10);
    assert_memory_equal(sobre_seq_ids(s, 1), ids, 10 * sizeof *ids);
    sobre_session_close(s);
    test_model_close(&t);
}

static void sessions_have_limits(void **state)
{
    /* 2 layers x (k and v) x 2 heads x 16 dims x 64 positions x 2 bytes = 16 KiB a page */
    test_model t =
        test_model_make(gguf_make_llama(NULL), NULL, SOBRE(fit_options, .limit = 4 << 20));
    sobre_session *a, *b;

    (void)state;
    assert_int_equal(sobre_session_open(t.model, SOBRE(session_options, .n_ctx = 257), &a),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_session_open(t.model, SOBRE(session_options, .n_seq = 1000), &a),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_non_null(strstr(sobre_error(t.ctx), "MiB"));
    assert_ok(t.ctx, sobre_session_open(t.model, SOBRE(session_options, .n_seq = 40), &a));
    assert_int_equal(sobre_session_open(t.model, SOBRE(session_options, .n_seq = 40), &b),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    sobre_session_close(a);
    assert_ok(t.ctx, sobre_session_open(t.model, SOBRE(session_options, .n_seq = 40), &b));
    sobre_session_close(b);
    test_model_close(&t);
}

static void describes_itself(void **state)
{
    test_model t = test_model_make(gguf_make_llama(&(llama_make){.dtype = SOBRE_Q8_0}), NULL, NULL);
    const sobre_model_info *info = sobre_model_info_get(t.model);
    sobre_placement p = SOBRE_INIT(placement);
    bool block_count = false;

    (void)state;
    assert_string_equal(info->architecture, "llama");
    assert_string_equal(info->quantization, "Q8_0");
    assert_string_equal(info->chat_format, "chatml");
    assert_int_equal(info->n_layer, 2);
    assert_int_equal(info->n_vocab, LLAMA_MAKE_N_VOCAB);
    assert_int_equal(info->head_dim, 16);
    assert_true(info->has_tokenizer);
    assert_string_equal(sobre_model_meta(t.model, "llama.block_count"), "2");
    assert_null(sobre_model_meta(t.model, "llama.no_such_key"));
    for (int32_t i = 0; sobre_model_meta_key(t.model, i); i++)
        block_count |= !strcmp(sobre_model_meta_key(t.model, i), "llama.block_count");
    assert_true(block_count);
    assert_ok(t.ctx, sobre_model_fit(t.model, NULL, &p));
    assert_int_equal(p.device, 1);
    assert_int_equal(p.n_ctx, 256);
    assert_true(p.weight_bytes > 0 && p.workspace_bytes > 0);
    /* 4 pages x 2 layers x (k and v) x 2 heads x 16 dims x 64 positions x 2 bytes */
    assert_int_equal(p.kv_bytes, 4 * 2 * 2 * 2 * 16 * 64 * 2);
    assert_int_equal(p.total_bytes, p.weight_bytes + p.kv_bytes + p.workspace_bytes);
    assert_int_equal(sobre_model_fit(t.model, SOBRE(fit_options, .limit = 1000), &p),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_int_equal(sobre_model_fit(t.model, SOBRE(fit_options, .n_ctx = 257), &p),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_model_fit(t.model, SOBRE(fit_options, .device = 99), &p),
                     SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_model_load(t.model, NULL, NULL), SOBRE_INVALID_ARGUMENT); /* twice */
    assert_ok(t.ctx, sobre_model_unload(t.model));
    assert_int_equal(sobre_model_unload(t.model), SOBRE_INVALID_ARGUMENT);
    test_model_close(&t);
}

typedef struct watching {
    sobre_model *model;
    double last;
} watching;

static int32_t ask_model(void *user, double done)
{
    watching *w = user;

    assert_string_equal(sobre_model_meta(w->model, "llama.block_count"), "2");
    assert_true(done >= w->last && done <= 1);
    w->last = done;
    return 0;
}

static void progress_may_ask_the_model(void **state)
{
    test_model t = test_model_make(gguf_make_llama(NULL), NULL, NULL);
    watching w = {t.model, 0};

    (void)state;
    assert_ok(t.ctx, sobre_model_unload(t.model));
    assert_ok(t.ctx,
              sobre_model_load(t.model, NULL,
                               SOBRE(load_options, .progress = ask_model, .progress_user = &w)));
    assert_true(w.last == 1);
    test_model_close(&t);
}

static int32_t cancel_at_half(void *user, double done)
{
    *(int *)user += 1;
    return done >= 0.5;
}

static void loading_can_be_cancelled(void **state)
{
    test_model t =
        test_model_make(gguf_make_llama(NULL), SOBRE(context_options, .n_threads = 1), NULL);
    int calls = 0;

    (void)state;
    assert_ok(t.ctx, sobre_model_unload(t.model));
    assert_int_equal(
        sobre_model_load(t.model, NULL,
                         SOBRE(load_options, .progress = cancel_at_half, .progress_user = &calls)),
        SOBRE_CANCELLED);
    assert_true(calls > 1);
    assert_ok(t.ctx, sobre_model_load(t.model, NULL, NULL));
    test_model_close(&t);
}

typedef struct dump {
    char text[1 << 16];
    size_t size;
} dump;

static void dump_write(void *user, const char *text, size_t size)
{
    dump *d = user;

    assert_true(d->size + size < sizeof d->text);
    memcpy(d->text + d->size, text, size);
    d->text[d->size += size] = 0;
}

static void dumps(void **state)
{
    test_model t = test_model_make(gguf_make_llama(NULL), NULL, NULL);
    dump *d = calloc(1, sizeof *d);

    (void)state;
    assert_non_null(d);
    assert_ok(t.ctx,
              sobre_model_dump(t.model, NULL, SOBRE_DUMP_GRAPH, SOBRE_DUMP_TEXT, 0, dump_write, d));
    assert_non_null(strstr(d->text, "attention"));
    assert_non_null(strstr(d->text, "blk.1.ffn_down.weight"));
    memset(d, 0, sizeof *d);
    assert_ok(t.ctx,
              sobre_model_dump(t.model, NULL, SOBRE_DUMP_PLAN, SOBRE_DUMP_DOT, 8, dump_write, d));
    assert_memory_equal(d->text, "digraph", 7);
    assert_int_equal(sobre_model_dump(t.model, NULL, 7, SOBRE_DUMP_TEXT, 0, dump_write, d),
                     SOBRE_INVALID_ARGUMENT);
    free(d);
    test_model_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_oracle),
        cmocka_unit_test(scalar_matches_oracle),
        cmocka_unit_test(same_bits),
        cmocka_unit_test(from_file_reader_and_map),
        cmocka_unit_test(embeddings_for_ids),
        cmocka_unit_test(ids_replace_a_waiting_token),
        cmocka_unit_test(sessions_have_limits),
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(progress_may_ask_the_model),
        cmocka_unit_test(dumps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
