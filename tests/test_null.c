/* SPDX-License-Identifier: MIT */
/* The null backend: what it lists, records, and how it fails. */
#include "null.h"

#include <math.h>
#include <string.h>

#include "context.h"
#include "support.h"

static sobre_context *open_with(null_control *control)
{
    sobre_context *ctx;
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    context_null_control_set(ctx, control);
    return ctx;
}

static const device_entry *use_null(sobre_context *ctx)
{
    const device_entry *entry;
    int32_t number = 0;
    assert_ok(ctx, sobre_device_get(ctx, "null", 0, &number, NULL));
    assert_ok(ctx, device_use(ctx, number, &entry));
    return entry;
}

static void has_no_devices_without_a_control(void **state)
{
    sobre_context *ctx = open_with(NULL);
    int32_t n = -1, all = -1, cpus = -1;
    assert_ok(ctx, sobre_device_count(ctx, "null", &n));
    assert_ok(ctx, sobre_device_count(ctx, "cpu", &cpus));
    assert_ok(ctx, sobre_device_count(ctx, NULL, &all));
    assert_int_equal(n, 0);
    assert_int_equal(all, cpus);
    sobre_context_close(ctx);
}

static void lists_a_device_that_cannot_be_used(void **state)
{
    null_control control = {.reason = "the card is not plugged in"};
    sobre_context *ctx = open_with(&control);
    const sobre_device_info *info;
    const device_entry *entry = NULL;
    int32_t number = 0;
    assert_ok(ctx, sobre_device_get(ctx, "null", 0, &number, &info));
    assert_int_equal(info->kind, SOBRE_DEVICE_NULL);
    assert_string_equal(info->reason, control.reason);
    assert_int_equal(device_use(ctx, number, &entry), SOBRE_UNAVAILABLE);
    assert_non_null(strstr(sobre_error(ctx), control.reason));
    sobre_context_close(ctx);
}

/* x [T, 8] -> scale -> argmax */
typedef struct small_program {
    sobre_value values[3];
    sobre_node nodes[2];
    sobre_span spans[3];
    sobre_program program;
} small_program;

static void small_program_make(small_program *s, sobre_buffer *arena)
{
    static const uint64_t sizes[3] = {4 * 8 * 4, 4 * 8 * 4, 4 * 4};
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 3; i++) {
        s->values[i] = (sobre_value){.kind = SOBRE_VALUE_TEMP,
                                     .dtype = i < 2 ? SOBRE_F32 : SOBRE_I32,
                                     .rank = i < 2 ? 2 : 1,
                                     .dims = {SOBRE_DIM_T, 8},
                                     .tensor = -1};
        s->spans[i] = (sobre_span){arena, 256 * (uint64_t)i, sizes[i]};
    }
    s->nodes[0] = (sobre_node){.op = SOBRE_OP_SCALE, .n_in = 1, .n_out = 1, .in = {0}, .out = {1}};
    s->nodes[1] = (sobre_node){.op = SOBRE_OP_ARGMAX, .n_in = 1, .n_out = 1, .in = {1}, .out = {2}};
    s->program = (sobre_program){.struct_size = sizeof s->program,
                                 .values = s->values,
                                 .n_values = 3,
                                 .nodes = s->nodes,
                                 .n_nodes = 2,
                                 .spans = s->spans,
                                 .n_cols = 4,
                                 .n_rows = 4,
                                 .n_seq = 1};
}

static void records_runs_and_writes_zeros(void **state)
{
    null_control control = {.host_visible = true};
    sobre_context *ctx = open_with(&control);
    const device_entry *e = use_null(ctx);
    const sobre_backend *b = e->backend;
    sobre_buffer *arena = NULL;
    sobre_exec *exec = NULL;
    small_program s;
    assert_ok(ctx, b->buffer_alloc(e->device, 1024, SOBRE_BUFFER_ARENA, &arena));
    assert_true(isnan(((float *)b->host_pointer(arena))[3])); /* poisoned */
    small_program_make(&s, arena);
    assert_ok(ctx, b->compile(e->device, &s.program, &exec));
    assert_int_equal(b->n_launches(exec), 2);
    sobre_run run = {.struct_size = sizeof run, .n_cols = 3, .n_rows = 1, .n_seqs = 1};
    assert_ok(ctx, b->run(exec, &run));
    const float *out = (const float *)b->host_pointer(arena) + 64;
    for (int i = 0; i < 3 * 8; i++) assert_true(out[i] == 0.0f);
    assert_true(isnan(out[3 * 8])); /* only as many columns as ran */
    assert_int_equal(control.n_ops[SOBRE_OP_SCALE], 1);
    assert_int_equal(control.n_ops[SOBRE_OP_ARGMAX], 1);
    assert_int_equal(control.n_ops[SOBRE_OP_MATMUL], 0);
    assert_int_equal(control.n_runs, 1);
    assert_int_equal(control.n_cols, 3);
    assert_int_equal(control.n_execs, 1);

    static const null_call expected[] = {NULL_CALL_DEVICE_COUNT, NULL_CALL_DEVICE_INFO,
                                         NULL_CALL_DEVICE_OPEN,  NULL_CALL_BUFFER_ALLOC,
                                         NULL_CALL_COMPILE,      NULL_CALL_RUN};
    assert_int_equal(atomic_load(&control.n_calls), 6);
    for (int i = 0; i < 6; i++) assert_int_equal(control.log[i], expected[i]);
    b->exec_free(exec);
    b->buffer_free(arena);
    assert_int_equal(control.n_execs + control.n_buffers, 0);
    assert_int_equal(control.used, 0);
    sobre_context_close(ctx);
    assert_int_equal(control.n_devices, 0);
}

static void answers_again_as_often_as_told(void **state)
{
    null_control control = {.n_again = 2};
    sobre_context *ctx = open_with(&control);
    const device_entry *e = use_null(ctx);
    uint64_t first = 0, second = 0;
    assert_ok(ctx, e->backend->fence(e->device, &first));
    assert_int_equal(e->backend->poll(e->device, first), SOBRE_AGAIN);
    assert_int_equal(e->backend->poll(e->device, first), SOBRE_AGAIN);
    assert_int_equal(e->backend->poll(e->device, first), SOBRE_OK);
    assert_ok(ctx, e->backend->fence(e->device, &second));
    assert_int_not_equal(first, second);
    assert_int_equal(e->backend->poll(e->device, first), SOBRE_OK); /* an older one is done */
    assert_int_equal(e->backend->poll(e->device, second), SOBRE_AGAIN);
    assert_ok(ctx, e->backend->wait(e->device, second));
    sobre_context_close(ctx);
}

/* Everything a caller does, until the first failure; all that was opened is closed. */
static sobre_status whole_story(sobre_context *ctx, const device_entry *e)
{
    const sobre_backend *b = e->backend;
    sobre_buffer *arena = NULL;
    sobre_exec *exec = NULL;
    small_program s;
    uint64_t size = 0, ticket = 0;
    float x[8] = {1};
    sobre_weight w = {"w", SOBRE_F32, SOBRE_WEIGHT_VECTOR, 1, 8};
    sobre_kv_desc desc = {SOBRE_KV_F16, 1, 64, 64};
    sobre_status status = b->buffer_alloc(e->device, 1024, SOBRE_BUFFER_ARENA, &arena);
    if (status >= 0) small_program_make(&s, arena);
    if (status >= 0) status = b->weight_size(e->device, &w, &size);
    if (status >= 0) status = b->weight_pack(e->device, &w, &s.spans[0], 0, 1, x);
    if (status >= 0) status = b->kv_page_size(e->device, &desc, &size);
    if (status >= 0) status = b->workspace_size(e->device, &s.program, &size);
    if (status >= 0) status = b->compile(e->device, &s.program, &exec);
    if (status >= 0) status = b->write(arena, 0, x, sizeof x);
    if (status >= 0) status = b->copy(arena, 512, arena, 0, sizeof x);
    if (status >= 0) status = b->read(arena, 512, x, sizeof x);
    sobre_run run = {.struct_size = sizeof run, .n_cols = 1, .n_rows = 1, .n_seqs = 1};
    if (status >= 0) status = b->run(exec, &run);
    if (status >= 0) status = b->fence(e->device, &ticket);
    if (status >= 0) status = b->poll(e->device, ticket);
    if (status >= 0) status = b->wait(e->device, ticket);
    b->exec_free(exec);
    b->buffer_free(arena);
    return status;
}

static void fails_the_call_that_it_is_told_to(void **state)
{
    null_control control = {.fail_status = SOBRE_DEVICE_LOST};
    sobre_context *ctx = open_with(&control);
    const device_entry *e = use_null(ctx);
    int64_t before = atomic_load(&control.n_calls);
    assert_ok(ctx, whole_story(ctx, e));
    int64_t n = atomic_load(&control.n_calls) - before;
    assert_int_equal(n, NULL_N_CALLS - 3); /* each slot once, but the three that list and open */
    for (int64_t i = 1; i <= n; i++) {
        control.fail_at = atomic_load(&control.n_calls) + i;
        assert_int_equal(whole_story(ctx, e), SOBRE_DEVICE_LOST);
        int64_t last = atomic_load(&control.n_calls);
        assert_int_equal(last, control.fail_at);
        assert_non_null(strstr(sobre_error(ctx), null_call_name(control.log[last - 1])));
        assert_int_equal(control.n_execs + control.n_buffers, 0);
    }
    sobre_context_close(ctx);
}

static void has_the_memory_and_the_operations_that_it_is_given(void **state)
{
    null_control control = {
        .memory_size = 1000, .alignment = 512, .unsupported = 1u << SOBRE_OP_ARGMAX};
    sobre_context *ctx = open_with(&control);
    const device_entry *e = use_null(ctx);
    sobre_buffer *a = NULL, *b = NULL;
    uint64_t total = 0, left = 0;
    assert_int_equal(e->backend->alignment(e->device), 512);
    assert_ok(ctx, e->backend->buffer_alloc(e->device, 600, SOBRE_BUFFER_KV, &a));
    assert_null(e->backend->host_pointer(a));
    e->backend->mem_info(e->device, &total, &left);
    assert_int_equal(total, 1000);
    assert_int_equal(left, 400);
    assert_int_equal(e->backend->buffer_alloc(e->device, 401, SOBRE_BUFFER_KV, &b),
                     SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_null(b);
    e->backend->buffer_free(a);

    sobre_node argmax = {.op = SOBRE_OP_ARGMAX}, matmul = {.op = SOBRE_OP_MATMUL};
    matmul.p.matmul.n_weights = 1;
    assert_false(e->backend->supports(e->device, NULL, &argmax));
    assert_true(e->backend->supports(e->device, NULL, &matmul));
    matmul.p.matmul.n_weights = 3;
    assert_true(e->backend->supports(e->device, NULL, &matmul));
    control.simple_only = true;
    assert_false(e->backend->supports(e->device, NULL, &matmul));
    sobre_context_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_no_devices_without_a_control),
        cmocka_unit_test(lists_a_device_that_cannot_be_used),
        cmocka_unit_test(records_runs_and_writes_zeros),
        cmocka_unit_test(answers_again_as_often_as_told),
        cmocka_unit_test(fails_the_call_that_it_is_told_to),
        cmocka_unit_test(has_the_memory_and_the_operations_that_it_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
