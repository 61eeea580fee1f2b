/* SPDX-License-Identifier: MIT */
/*
 * Launches of a decoded token, as a session counts them on the device that SOBRE_TEST_DEVICES names
 * first, and that what they compute is what the CPU does. SOBRE_TEST_LAUNCHES: "L,A", launches of a
 * layer and around the layers that there must be; not set: counts are not looked at.
 */
#include "support.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_LAYER = 3, N_CTX = 1024, N_PROMPT = 300, N_DECODED = 5 };

static test_model model_on(const char *backend, int32_t index)
{
    test_model t = {0};
    size_t size;
    gguf_make *g = gguf_make_llama(&(llama_make){
        .n_layer = N_LAYER, .n_embd = 128, .n_ctx = N_CTX, .dtype = SOBRE_Q8_0, .biases = true});
    sobre_fit_options fit = SOBRE_INIT(fit_options);

    fit.n_ctx = N_CTX;
    t.bytes = gguf_make_bytes(g, &size);
    gguf_make_free(g);
    assert_int_equal(
        sobre_context_open(SOBRE(context_options, .plugin_dir = getenv("SOBRE_TEST_PLUGINS")),
                           &t.ctx),
        SOBRE_OK);
    assert_ok(t.ctx, sobre_device_get(t.ctx, backend, index, &fit.device, NULL));
    assert_ok(t.ctx,
              sobre_model_open(t.ctx, SOBRE(source, .data = t.bytes, .data_size = size), &t.model));
    assert_ok(t.ctx, sobre_model_load(t.model, &fit, NULL));
    return t;
}

/* Logits of the last position, exactly; ids come one by one from N_PROMPT on. */
static float *logits_of(const test_model *t, uint64_t *ret_n_launches)
{
    int32_t ids[N_PROMPT + N_DECODED];
    const float *row = NULL;
    sobre_session *s = NULL;
    sobre_stats stats = SOBRE_INIT(stats);
    float *kept = malloc(LLAMA_MAKE_N_VOCAB * sizeof *kept);

    assert_non_null(kept);
    test_ids(ids, N_PROMPT + N_DECODED, LLAMA_MAKE_N_VOCAB, 5);
    assert_ok(t->ctx, sobre_session_open(t->model, SOBRE(session_options, .exact = true), &s));
    for (int32_t n, i = 0; i < N_PROMPT + N_DECODED; i += n) {
        n = i < N_PROMPT ? N_PROMPT : 1;
        const sobre_entry e = {0, i, n, SOBRE_WANT_LAST, ids + i, NULL};
        assert_ok(t->ctx, sobre_session_eval(s, SOBRE(batch, .entries = &e, .n_entries = 1)));
    }
    assert_ok(t->ctx, sobre_session_logits(s, 0, &row));
    memcpy(kept, row, LLAMA_MAKE_N_VOCAB * sizeof *kept);
    assert_ok(t->ctx, sobre_session_stats(s, &stats));
    *ret_n_launches = stats.n_launches;
    sobre_session_close(s);
    return kept;
}

static void decodes_in_few_launches(void **state)
{
    const char *device = getenv("SOBRE_TEST_DEVICES"), *expected = getenv("SOBRE_TEST_LAUNCHES");
    char backend[16] = "cpu";
    int index = 0, of_layer = 0, around = 0;
    uint64_t n_launches, n_of_cpu;
    double wide[LLAMA_MAKE_N_VOCAB];

    (void)state;
    if (device) (void)sscanf(device, "%15[^:,]:%d", backend, &index);
    test_model t = model_on(backend, index), cpu = model_on("cpu", 0);
    float *x = logits_of(&t, &n_launches), *reference = logits_of(&cpu, &n_of_cpu);
    for (int32_t i = 0; i < LLAMA_MAKE_N_VOCAB; i++) wide[i] = (double)reference[i];
    assert_true(test_nmse(x, wide, LLAMA_MAKE_N_VOCAB) < 1e-5); /* a cache of f16 */
    assert_true(n_launches > 0);
    if (expected) {
        assert_int_equal(sscanf(expected, "%d,%d", &of_layer, &around), 2);
        assert_int_equal(n_launches, of_layer * N_LAYER + around);
    }
    free(x);
    free(reference);
    test_model_close(&t);
    test_model_close(&cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(decodes_in_few_launches)};
    return cmocka_run_group_tests_name("launches", tests, NULL, NULL);
}
