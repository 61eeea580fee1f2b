/* SPDX-License-Identifier: MIT */
/* Placements on a device and the CPU beside it: which layers go where, what they take, and that a
 * session's cache and weights follow. The device is the null one, with bounded buffers as a GPU
 * has. */
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "null/null.h"
#include "support.h"

enum { N_LAYER = 5 };

typedef struct placing {
    null_control control;
    sobre_context *ctx;
    sobre_model *model;
    int32_t device;
    void *bytes;
} placing;

static void open_placing(placing *p)
{
    size_t size;
    gguf_make *g = gguf_make_llama(&(llama_make){.n_layer = N_LAYER});

    *p = (placing){.control.max_buffer = 1 << 24};
    assert_int_equal(sobre_context_open(NULL, &p->ctx), SOBRE_OK);
    context_null_control_set(p->ctx, &p->control);
    assert_ok(p->ctx, sobre_device_get(p->ctx, "null", 0, &p->device, NULL));
    p->bytes = gguf_make_bytes(g, &size);
    gguf_make_free(g);
    assert_ok(p->ctx, sobre_model_open(p->ctx, SOBRE(source, .data = p->bytes, .data_size = size),
                                       &p->model));
}

static void close_placing(placing *p)
{
    sobre_model_close(p->model);
    sobre_context_close(p->ctx);
    assert_int_equal(p->control.n_buffers, 0);
    assert_int_equal(p->control.n_execs, 0);
    assert_int_equal(p->control.n_devices, 0);
    free(p->bytes);
}

static sobre_placement fit(placing *p, int32_t n_layer, uint64_t limit)
{
    sobre_placement got = SOBRE_INIT(placement);
    assert_ok(p->ctx, sobre_model_fit(p->model,
                                      SOBRE(fit_options, .device = p->device, .n_layer = n_layer,
                                            .limit = limit),
                                      &got));
    return got;
}

static void layers_are_split_as_told(void **state)
{
    placing p;
    open_placing(&p);
    sobre_placement all = fit(&p, 0, 0), before = {0};

    assert_int_equal(all.n_layer, N_LAYER);
    assert_int_equal(all.cpu_bytes, 0);
    assert_int_equal(fit(&p, 99, 0).n_layer, N_LAYER);
    for (int32_t n = 1; n < N_LAYER; n++) {
        sobre_placement some = fit(&p, n, 0);

        assert_int_equal(some.n_layer, n);
        assert_int_equal(some.kv_bytes, all.kv_bytes / N_LAYER * (uint64_t)n);
        assert_true(some.weight_bytes > before.weight_bytes);
        assert_true(some.weight_bytes < all.weight_bytes);
        assert_true(some.cpu_bytes > 0 && (n == 1 || some.cpu_bytes < before.cpu_bytes));
        before = some;
    }
    assert_int_equal(
        sobre_model_fit(p.model, SOBRE(fit_options, .device = p.device, .n_layer = -1), &before),
        SOBRE_INVALID_ARGUMENT);
    close_placing(&p);
}

static void a_device_says_which_caches_it_has(void **state)
{
    static const sobre_kv_type types[] = {SOBRE_KV_BF16, SOBRE_KV_Q8_0};
    placing p;
    open_placing(&p);
    sobre_placement got = SOBRE_INIT(placement);

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        assert_int_equal(
            sobre_model_fit(p.model, SOBRE(fit_options, .device = p.device, .kv_type = types[i]),
                            &got),
            SOBRE_UNSUPPORTED);
        assert_non_null(strstr(sobre_error(p.ctx), "f32 and f16"));
    }
    assert_ok(p.ctx, sobre_model_load(p.model, SOBRE(fit_options, .device = p.device), NULL));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const int32_t id = 5;
        sobre_session *s = NULL;
        sobre_status status =
            sobre_session_open(p.model, SOBRE(session_options, .kv_type = types[i]), &s);
        if (status >= 0)
            status = sobre_session_eval(
                s,
                SOBRE(batch, .entries = &(sobre_entry){.n_tokens = 1, .ids = &id}, .n_entries = 1));
        assert_int_equal(status, SOBRE_UNSUPPORTED);
        sobre_session_close(s);
    }
    close_placing(&p);
}

static void as_many_layers_as_fit_go_to_the_device(void **state)
{
    placing p;
    open_placing(&p);
    sobre_placement got = SOBRE_INIT(placement);

    for (int32_t n = 1; n <= N_LAYER; n++) {
        uint64_t enough = fit(&p, n, 0).total_bytes;

        assert_int_equal(fit(&p, 0, enough).n_layer, n);
        if (n > 1) assert_int_equal(fit(&p, 0, enough - 1).n_layer, n - 1);
        assert_int_equal(sobre_model_fit(p.model,
                                         SOBRE(fit_options, .device = p.device, .n_layer = n,
                                               .limit = enough - 1),
                                         &got),
                         SOBRE_DEVICE_OUT_OF_MEMORY); /* told so, and not less */
    }
    uint64_t least = fit(&p, 1, 0).total_bytes;
    assert_int_equal(
        sobre_model_fit(p.model, SOBRE(fit_options, .device = p.device, .limit = least - 1), &got),
        SOBRE_DEVICE_OUT_OF_MEMORY);
    close_placing(&p);
}

/* A driver may tell only how much memory there is in all: then an eighth of it is for others, and
 * what the model holds counts. */
static void memory_is_bounded_where_no_driver_tells_what_is_free(void **state)
{
    sobre_session *first = NULL, *second = NULL;
    placing p;

    open_placing(&p);
    const sobre_placement all = fit(&p, 0, 0), some = fit(&p, 2, 0);
    p.control.hides_free = true;
    p.control.memory_size = some.total_bytes / 7 * 8 + 8;
    assert_int_equal(fit(&p, 0, 0).n_layer, 2);

    p.control.memory_size = (all.total_bytes + all.kv_bytes / 2) / 7 * 8;
    assert_ok(p.ctx, sobre_model_load(p.model, SOBRE(fit_options, .device = p.device), NULL));
    assert_ok(p.ctx, sobre_session_open(p.model, NULL, &first));
    p.control.memory_size = (all.weight_bytes + all.kv_bytes * 3 / 2) / 7 * 8;
    assert_int_equal(sobre_session_open(p.model, NULL, &second), SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_non_null(strstr(sobre_error(p.ctx), "the session's KV cache needs"));
    sobre_session_close(first);
    close_placing(&p);
}

static void a_split_model_runs(void **state)
{
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    sobre_session *s = NULL;
    const float *logits;
    placing p;

    open_placing(&p);
    assert_ok(p.ctx, sobre_model_load(p.model,
                                      SOBRE(fit_options, .device = p.device, .n_layer = 2,
                                            .n_ctx = 128, .n_seq = 2, .n_chunk = 4),
                                      NULL));
    assert_ok(p.ctx, sobre_session_open(p.model, NULL, &s));
    const sobre_entry e = {0, 0, 7, SOBRE_WANT_LAST, ids, NULL};
    assert_ok(p.ctx, sobre_session_eval(s, SOBRE(batch, .entries = &e, .n_entries = 1)));
    assert_ok(p.ctx, sobre_session_logits(s, 0, &logits));
    assert_true(logits[0] == 0); /* the null device's, which has the last layers and the head */
    assert_int_equal(p.control.n_runs, 2);
    assert_int_equal(p.control.n_ops[SOBRE_OP_ATTENTION], 2 * 2);
    assert_int_equal(p.control.n_ops[SOBRE_OP_EMBED], 0);

    /* A fork's first own position copies a page in every layer, on both devices. */
    int64_t n_calls = p.control.n_calls, n_copies = 0;
    assert_ok(p.ctx, sobre_seq_fork(s, 0, 1));
    const sobre_entry next = {1, 7, 1, SOBRE_WANT_NONE, ids, NULL};
    assert_ok(p.ctx, sobre_session_eval(s, SOBRE(batch, .entries = &next, .n_entries = 1)));
    for (int64_t i = n_calls; i < p.control.n_calls; i++)
        n_copies += p.control.log[i] == NULL_CALL_COPY;
    assert_int_equal(n_copies, 2);
    sobre_session_close(s);
    close_placing(&p);
}

static void a_cache_or_weight_past_the_largest_buffer_is_refused(void **state)
{
    sobre_placement got = SOBRE_INIT(placement);
    placing p;

    open_placing(&p);
    p.control.max_buffer = 4096;
    assert_int_equal(sobre_model_fit(p.model, SOBRE(fit_options, .device = p.device), &got),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    close_placing(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_split_as_told),
        cmocka_unit_test(a_device_says_which_caches_it_has),
        cmocka_unit_test(as_many_layers_as_fit_go_to_the_device),
        cmocka_unit_test(memory_is_bounded_where_no_driver_tells_what_is_free),
        cmocka_unit_test(a_split_model_runs),
        cmocka_unit_test(a_cache_or_weight_past_the_largest_buffer_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
