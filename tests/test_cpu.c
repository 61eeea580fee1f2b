/* SPDX-License-Identifier: MIT */
/* What is the CPU's own among the slots of a backend's table: buffers that the host can use, how it
 * describes and cancels, what it refuses. What it computes is test_ops's matter. */
#include "rig.h"

enum { T = 5, R = 2 };

typedef struct countdown {
    int left;
    int n_asked;
} countdown;

static int cancel_after(const void *user)
{
    countdown *c = (countdown *)(uintptr_t)user;
    c->n_asked++;
    return c->left-- <= 0;
}

static float first_of(rig *r, int32_t value)
{
    float x;
    rig_read(r, value, &x, sizeof x);
    return x;
}

/* Asked before the first step and at each new layer; later layers are then not run. */
static void runs_can_be_cancelled(void **state)
{
    enum { N_LAYERS = 6 };
    static const int32_t widths[] = {8, 4000};
    for (int after = 0; after <= N_LAYERS; after++) {
        int32_t width = widths[after % 2];
        rig r;
        rig_device device = rig_cpu(SOBRE_CPU_SCALAR, 3);
        rig_open(&r, &device, T, R);
        int32_t x = rig_input(&r, SOBRE_DIM_T, width), out[N_LAYERS];
        for (int i = 0; i < N_LAYERS; i++) {
            sobre_node node = rig_node(SOBRE_OP_SCALE);
            node.layer = i;
            node.p.factor = 1.5f;
            node.in[0] = i > 0 ? out[i - 1] : x;
            node.out[0] = out[i] = rig_input(&r, SOBRE_DIM_T, width);
            rig_add(&r, &node);
        }
        rig_compile(&r);
        static float ones[T * 4000];
        for (int32_t i = 0; i < T * 4000; i++) ones[i] = 1;
        rig_write(&r, x, ones, (uint64_t)(T * width) * 4);
        countdown c = {after, 0};
        sobre_run run = {.struct_size = sizeof run,
                         .n_cols = T,
                         .n_rows = R,
                         .cancelled = cancel_after,
                         .cancelled_user = &c};
        sobre_status status = r.b->run(r.exec, &run);
        assert_int_equal(status, after < N_LAYERS ? SOBRE_CANCELLED : SOBRE_OK);
        for (int i = 0; i < N_LAYERS; i++)
            assert_int_equal(isfinite(first_of(&r, out[i])) != 0, i < after);
        assert_int_equal(c.n_asked, after < N_LAYERS ? after + 1 : N_LAYERS);
        rig_run(&r, T, R, NULL, 0); /* and the next run works */
        assert_true(isfinite(first_of(&r, out[N_LAYERS - 1])));
        rig_close(&r);
        rig_device_close(&device);
    }
}

static void buffers(void **state)
{
    rig r;
    rig_device device = rig_cpu(SOBRE_CPU_BEST, 1);
    rig_open(&r, &device, T, R);
    sobre_device *d = r.device;
    assert_int_equal(r.b->alignment(d), 64);
    sobre_buffer *b = NULL, *imported = NULL;
    assert_ok(r.ctx, r.b->buffer_alloc(d, 1000, SOBRE_BUFFER_KV, &b));
    char text[] = "a few bytes", back[sizeof text];
    assert_ok(r.ctx, r.b->write(b, 64, text, sizeof text));
    assert_ok(r.ctx, r.b->copy(b, 256, b, 64, sizeof text));
    assert_ok(r.ctx, r.b->read(b, 256, back, sizeof back));
    assert_string_equal(back, text);
    uint8_t *host = r.b->host_pointer(b);
    assert_int_equal((uintptr_t)host % 64, 0);
    assert_ok(r.ctx, r.b->buffer_import(d, 0, host, 500, &imported));
    assert_ptr_equal(r.b->host_pointer(imported), host);
    r.b->buffer_free(imported);
    assert_int_equal(r.b->buffer_import(d, 0, host + 1, 9, &imported), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(r.b->buffer_import(d, 5, host, 9, &imported), SOBRE_INVALID_ARGUMENT);
    r.b->buffer_free(b);
    r.b->buffer_free(NULL);
    r.b->exec_free(NULL);
    uint64_t total = 0, left = 0;
    r.b->mem_info(d, &total, &left);
    assert_true(left <= total);
    rig_close(&r);
    rig_device_close(&device);
}

static void device_is_described(void **state)
{
    sobre_context *ctx;
    const sobre_device_info *info;
    int32_t n = 0, number = 0;
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = 2), &ctx), SOBRE_OK);
    assert_int_equal(sobre_device_count(ctx, "cpu", &n), SOBRE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(sobre_device_get(ctx, "cpu", 0, &number, &info), SOBRE_OK);
    assert_int_equal(number, 1);
    assert_int_equal(info->kind, SOBRE_DEVICE_CPU);
    assert_true(strlen(info->name) > 0 && info->n_units >= 1);
    assert_non_null(strstr(info->detail, "2 threads"));
    assert_null(info->reason);
    sobre_context_close(ctx);
}

static void bad_weights_are_refused(void **state)
{
    rig r;
    rig_device device = rig_cpu(SOBRE_CPU_BEST, 1);
    rig_open(&r, &device, T, R);
    float x[3] = {1.0f, INFINITY, 2.0f};
    sobre_weight w = {"blk.0.attn_norm.weight", SOBRE_F32, SOBRE_WEIGHT_VECTOR, 1, 3};
    sobre_buffer *buffer = NULL;
    assert_ok(r.ctx, r.b->buffer_alloc(r.device, sizeof x, SOBRE_BUFFER_WEIGHTS, &buffer));
    sobre_span span = {buffer, 0, sizeof x};
    assert_int_equal(r.b->weight_pack(r.device, &w, &span, 0, 1, x), SOBRE_BAD_FORMAT);
    assert_non_null(strstr(sobre_error(r.ctx), "blk.0.attn_norm.weight"));
    r.b->buffer_free(buffer);
    sobre_kv_desc desc = {(sobre_kv_type)9, 1, 64, 64};
    uint64_t size = 0;
    assert_int_equal(r.b->kv_page_size(r.device, &desc, &size), SOBRE_UNSUPPORTED);
    rig_close(&r);
    rig_device_close(&device);
}

static void unsupported_nodes_are_declined(void **state)
{
    rig r;
    rig_device device = rig_cpu(SOBRE_CPU_BEST, 1);
    rig_open(&r, &device, T, R);
    sobre_node node = rig_node(SOBRE_OP_ATTENTION);
    node.p.attention = (sobre_attention_params){.n_head = 1, .n_head_kv = 1, .append = 1, .kv = 0};
    assert_true(r.b->supports(r.device, r.values, &node));
    node.in[SOBRE_ATTN_BIAS] = rig_input(&r, SOBRE_DIM_T, 4);
    assert_false(r.b->supports(r.device, r.values, &node));
    node = rig_node(SOBRE_OP_EMBED);
    node.in[SOBRE_EMBED_TABLE] = rig_input(&r, SOBRE_DIM_T, 4);
    assert_false(r.b->supports(r.device, r.values, &node));
    node = rig_node(SOBRE_N_OPS);
    assert_false(r.b->supports(r.device, r.values, &node));
    rig_close(&r);
    rig_device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_can_be_cancelled),
        cmocka_unit_test(buffers),
        cmocka_unit_test(device_is_described),
        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(unsupported_nodes_are_declined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
