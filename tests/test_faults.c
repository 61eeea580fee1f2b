/* SPDX-License-Identifier: MIT */
/* Every allocation between opening a context and the first token is made to fail in turn: the call
 * that needed it says OUT_OF_MEMORY, nothing leaks, and the library works afterwards. On a tiny
 * model, and on the file given as argument. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

/* From nothing to the first token; what was opened is closed again. */
static sobre_status first_token(const sobre_allocator *allocator, const sobre_source *source,
                                bool exact)
{
    sobre_context *ctx = NULL;
    sobre_model *model = NULL;
    sobre_session *session = NULL;
    const sobre_event *event;
    static const int32_t ids[] = {3, 1, 4, 1, 5};
    sobre_status st =
        sobre_context_open(SOBRE(context_options, .allocator = allocator, .n_threads = 2), &ctx);

    if (st >= 0) st = sobre_model_open(ctx, source, &model);
    if (st >= 0) st = sobre_model_load(model, NULL, NULL);
    if (st >= 0) st = sobre_session_open(model, SOBRE(session_options, .exact = exact), &session);
    if (st >= 0 && sobre_model_info_get(model)->has_tokenizer)
        st = sobre_session_prompt(session, 0, "hello the world", 15, 0);
    else if (st >= 0)
        st = sobre_session_prompt_ids(session, 0, ids, 5);
    if (st >= 0) st = sobre_session_next(session, -1, &event);
    if (st < 0 && ctx) assert_true(strlen(sobre_error(ctx)) > 10);
    sobre_session_close(session);
    sobre_model_close(model);
    sobre_context_close(ctx);
    return st;
}

static void every_allocation(const sobre_source *source, bool for_good)
{
    test_memory memory = {.for_good = for_good};
    sobre_allocator allocator = test_allocator(&memory);
    long long n_calls, n_failed = 0;

    assert_int_equal(first_token(&allocator, source, false), SOBRE_OK);
    assert_int_equal(atomic_load(&memory.n_live), 0);
    n_calls = atomic_load(&memory.n_calls);
    for (memory.fail_at = 1; memory.fail_at <= n_calls; memory.fail_at++) {
        sobre_status st;

        atomic_store(&memory.n_calls, 0);
        st = first_token(&allocator, source, false);
        n_failed += st < 0;
        /* One that fails once may be something that is done without: a smaller pool, say. */
        if (st != SOBRE_OUT_OF_MEMORY && (for_good || st != SOBRE_OK))
            test_fail("allocation %lld of %lld: %s", memory.fail_at, n_calls,
                      sobre_status_name(st));
        if (atomic_load(&memory.n_live))
            test_fail("allocation %lld of %lld: %lld blocks leaked", memory.fail_at, n_calls,
                      (long long)atomic_load(&memory.n_live));
    }
    assert_true(n_failed > n_calls / 2);
    memory.fail_at = 0;
    assert_int_equal(first_token(&allocator, source, true), SOBRE_OK);
    assert_int_equal(atomic_load(&memory.n_live), 0);
}

static void tiny_model(void **state)
{
    gguf_make *g = gguf_make_llama(&(llama_make){.dtype = SOBRE_Q4_1, .n_layer = 1});
    size_t size;
    void *bytes = gguf_make_bytes(g, &size);

    (void)state;
    every_allocation(SOBRE(source, .data = bytes, .data_size = size), false);
    every_allocation(SOBRE(source, .data = bytes, .data_size = size), true);
    free(bytes);
    gguf_make_free(g);
}

static void golden_model(void **state)
{
    char path[4096];

    (void)state;
    test_golden_path("archs/llama.gguf", path, sizeof path);
    every_allocation(SOBRE(source, .path = path), false);
}

/* A context that lives on: what failed once works when there is memory again. */
static void same_context_recovers(void **state)
{
    test_memory memory = {0};
    sobre_allocator allocator = test_allocator(&memory);
    gguf_make *g = gguf_make_llama(NULL);
    sobre_context *ctx;
    sobre_model *model = NULL;
    sobre_session *session = NULL;
    const sobre_event *event;
    size_t size;
    void *bytes = gguf_make_bytes(g, &size);

    (void)state;
    assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator), &ctx),
                     SOBRE_OK);
    memory.for_good = 1;
    for (long long n = 1; !session; n++) {
        sobre_status st = SOBRE_OK;

        memory.fail_at = n;
        atomic_store(&memory.n_calls, 0);
        if (!model)
            st = sobre_model_open(ctx, SOBRE(source, .data = bytes, .data_size = size), &model);
        if (st >= 0 && !session) {
            st = sobre_model_load(model, NULL, NULL);
            if (st >= 0) st = sobre_session_open(model, NULL, &session);
            if (st < 0) sobre_model_unload(model);
        }
        assert_true(st == SOBRE_OK || st == SOBRE_OUT_OF_MEMORY);
    }
    memory.fail_at = 0;
    for (long long n = 1;; n++) { /* the session, too, outlives its failures */
        sobre_status st;

        memory.fail_at = n;
        atomic_store(&memory.n_calls, 0);
        st = sobre_session_prompt(session, 0, "hello", 5, 0);
        if (st >= 0) st = sobre_session_next(session, -1, &event);
        memory.fail_at = 0;
        if (st == SOBRE_OK) break;
        assert_int_equal(st, SOBRE_OUT_OF_MEMORY);
        assert_ok(ctx, sobre_seq_truncate(session, 0, 0));
    }
    assert_ok(ctx, sobre_session_next(session, -1, &event));
    sobre_session_close(session);
    sobre_model_close(model);
    sobre_context_close(ctx);
    assert_int_equal(atomic_load(&memory.n_live), 0);
    free(bytes);
    gguf_make_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_model),
        cmocka_unit_test(golden_model),
        cmocka_unit_test(same_context_recovers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
