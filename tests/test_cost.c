/* SPDX-License-Identifier: MIT */
/* What a run costs, on a device whose weights keep the file's layout, so that every count can be
 * done by hand; and through the public function. */
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "null/null.h"
#include "support.h"

enum { N_LAYER = 3, N_EMBD = 64, N_KV = 32, N_FF = 96, N_VOCAB = LLAMA_MAKE_N_VOCAB };

typedef struct costing {
    null_control control;
    sobre_context *ctx;
    sobre_model *model;
    int32_t device;
    void *bytes;
} costing;

static void open_costing(costing *c)
{
    size_t size;
    gguf_make *g = gguf_make_llama(&(llama_make){.n_layer = N_LAYER, .dtype = SOBRE_Q8_0});

    *c = (costing){.control.max_buffer = 1 << 24};
    assert_int_equal(sobre_context_open(NULL, &c->ctx), SOBRE_OK);
    context_null_control_set(c->ctx, &c->control);
    assert_ok(c->ctx, sobre_device_get(c->ctx, "null", 0, &c->device, NULL));
    c->bytes = gguf_make_bytes(g, &size);
    gguf_make_free(g);
    assert_ok(c->ctx, sobre_model_open(c->ctx, SOBRE(source, .data = c->bytes, .data_size = size),
                                       &c->model));
}

static void close_costing(costing *c)
{
    sobre_model_close(c->model);
    sobre_context_close(c->ctx);
    assert_int_equal(c->control.n_buffers, 0);
    assert_int_equal(c->control.n_execs, 0);
    free(c->bytes);
}

static sobre_cost cost_of(costing *c, int32_t n_cols, int32_t n_past)
{
    sobre_cost cost = SOBRE_INIT(cost);
    assert_ok(c->ctx, sobre_model_cost(c->model, SOBRE(fit_options, .device = c->device), n_cols,
                                       n_past, &cost));
    return cost;
}

static void counts_as_by_hand(void **state)
{
    const sobre_model_info *info;
    sobre_placement placed = SOBRE_INIT(placement);
    costing c;

    (void)state;
    open_costing(&c);
    info = sobre_model_info_get(c.model);
    assert_int_equal(info->n_embd, N_EMBD);
    assert_int_equal(info->n_ff, N_FF);
    assert_int_equal(info->n_head_kv * info->head_dim, N_KV);
    assert_ok(c.ctx, sobre_model_fit(c.model, SOBRE(fit_options, .device = c.device), &placed));
    const sobre_cost one = cost_of(&c, 1, 0), later = cost_of(&c, 1, 99), two = cost_of(&c, 2, 0);
    /* All weights but those rows of the embedding that are not looked up. */
    const uint64_t row = N_EMBD / 32 * 34;
    const uint64_t layer =
        (2 * N_EMBD * N_EMBD + 2 * N_EMBD * N_KV + 3 * N_EMBD * N_FF) / 32 * 34 + 2 * N_EMBD * 4;
    const uint64_t output = (uint64_t)N_VOCAB * row + N_EMBD * 4;
    assert_int_equal(one.weight_bytes, N_LAYER * layer + output + row);
    assert_int_equal(two.weight_bytes, one.weight_bytes + row);
    assert_int_equal(later.weight_bytes, one.weight_bytes);
    /* Keys and values in f16: of each position seen, and of the new one once more. */
    const uint64_t position = N_LAYER * 2 * N_KV * 2;
    assert_int_equal(one.kv_bytes, 2 * position);
    assert_int_equal(later.kv_bytes, 101 * position);
    assert_int_equal(two.kv_bytes, 4 * position);
    /* Two a weight of a product, and not much more. */
    const uint64_t products =
        2 * (N_LAYER * (2 * N_EMBD * N_EMBD + 2 * N_EMBD * N_KV + 3 * N_EMBD * N_FF) +
             (uint64_t)N_VOCAB * N_EMBD);
    assert_in_range(one.flop, products, products + products / 10);
    assert_true(later.flop > one.flop && two.flop > one.flop);
    /* One row of logits, however many columns. */
    assert_true(two.flop < 2 * one.flop && two.activation_bytes < 2 * one.activation_bytes);
    assert_true(one.activation_bytes > N_VOCAB * 4);
    assert_true(one.n_launches >= 5 * N_LAYER);
    assert_int_equal(one.n_launches, two.n_launches); /* a node each */
    assert_true(one.weight_bytes <= placed.weight_bytes + row);
    close_costing(&c);
}

static void sampling_counts_where_the_device_samples(void **state)
{
    costing c;

    (void)state;
    open_costing(&c);
    const sobre_cost without = cost_of(&c, 1, 0);
    c.control.samples = true;
    const sobre_cost with = cost_of(&c, 1, 0);
    assert_int_equal(with.n_launches, without.n_launches + 1);
    assert_true(with.activation_bytes > without.activation_bytes + N_VOCAB * 4);
    assert_int_equal(with.weight_bytes, without.weight_bytes);
    close_costing(&c);
}

static void refuses_what_does_not_fit(void **state)
{
    const struct {
        int32_t n_cols, n_past;
    } wrong[] = {{0, 0}, {-1, 0}, {65, 0}, {1, -1}, {1, 256}, {64, 193}, {1, INT32_MAX}};
    costing c;

    (void)state;
    open_costing(&c);
    const sobre_fit_options *fit =
        SOBRE(fit_options, .device = c.device, .n_ctx = 256, .n_chunk = 64);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sobre_cost cost = {.struct_size = sizeof cost, .n_launches = -7};
        assert_int_equal(sobre_model_cost(c.model, fit, wrong[i].n_cols, wrong[i].n_past, &cost),
                         SOBRE_INVALID_ARGUMENT);
        assert_int_equal(cost.n_launches, -7);
    }
    sobre_cost cost = SOBRE_INIT(cost), unset = {0};
    assert_ok(c.ctx, sobre_model_cost(c.model, fit, 64, 192, &cost));
    assert_int_equal(sobre_model_cost(c.model, fit, 1, 0, &unset), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_model_cost(c.model, fit, 1, 0, NULL), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(sobre_model_cost(NULL, fit, 1, 0, &cost), SOBRE_INVALID_ARGUMENT);
    /* An older program's struct is filled as far as it goes. */
    sobre_cost older = {.struct_size = offsetof(sobre_cost, flop), .flop = 3};
    assert_ok(c.ctx, sobre_model_cost(c.model, fit, 1, 0, &older));
    assert_true(older.weight_bytes > 0 && older.flop == 3);
    close_costing(&c);
}

/* Each call of the device that counting makes, failed once. */
static void failures_leave_nothing(void **state)
{
    sobre_status status = SOBRE_DEVICE;
    costing c;

    (void)state;
    open_costing(&c);
    (void)cost_of(&c, 1, 0); /* opens the device */
    c.control.fail_status = SOBRE_DEVICE;
    for (int64_t n = 1; status == SOBRE_DEVICE; n++) {
        sobre_cost cost = SOBRE_INIT(cost);
        atomic_store(&c.control.n_calls, 0);
        c.control.fail_at = n;
        status = sobre_model_cost(c.model, SOBRE(fit_options, .device = c.device), 1, 0, &cost);
        assert_true(status == SOBRE_DEVICE || (status == SOBRE_OK && n > 10));
    }
    c.control.fail_at = 0;
    close_costing(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_as_by_hand),
        cmocka_unit_test(sampling_counts_where_the_device_samples),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
