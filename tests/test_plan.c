/* SPDX-License-Identifier: MIT */
/* Plans and their runs: devices, slices, copies, arenas, inputs, failures, and how they print. */
#include "fake_device.h"
#include "null/null.h"
#include "support.h"

enum { N_LAYER = 3, MAX_COLS = 8, MAX_ROWS = 3 };

static int open_context(void **state)
{
    sobre_context *ctx;
    if (sobre_context_open(NULL, &ctx) < 0) return -1;
    *state = ctx;
    return 0;
}

static int close_context(void **state)
{
    sobre_context_close(*state);
    return 0;
}

/* What a plan of test_llama() needs besides the graph. The fakes read neither weights nor cache. */
typedef struct setting {
    sobre_span *weights;
    sobre_buffer kv;
    sobre_kv_slot slots[N_LAYER];
    plan_options options;
} setting;

static void setting_init(setting *s, const sobre_graph *g, const fakes *f)
{
    *s = (setting){.weights = calloc((size_t)g->n_values, sizeof *s->weights)};
    s->options = (plan_options){.devices = &f->set,
                                .n_cols = MAX_COLS,
                                .n_rows = MAX_ROWS,
                                .n_seq = 2,
                                .weights = s->weights,
                                .kv_slots = s->slots,
                                .n_kv_slots = N_LAYER};
    for (int i = 0; i < N_LAYER; i++) s->slots[i].buffer = &s->kv;
}

typedef struct test_batch {
    int32_t ids[MAX_COLS], pos[MAX_COLS], rows[MAX_ROWS];
    sobre_run_seq seqs[2];
    exec_batch batch;
} test_batch;

static void batch_init(test_batch *b, int32_t n_cols, int32_t n_rows)
{
    *b = (test_batch){.batch = {.n_cols = n_cols, .n_rows = n_rows, .n_seqs = 1}};
    for (int32_t i = 0; i < n_cols; i++) {
        b->ids[i] = 11 * i + n_cols;
        b->pos[i] = 5 + i;
    }
    for (int32_t i = 0; i < n_rows; i++) b->rows[i] = n_cols - n_rows + i;
    b->seqs[0] = (sobre_run_seq){.n_cols = n_cols, .pos = 5};
    b->batch.ids = b->ids;
    b->batch.pos = b->pos;
    b->batch.rows = b->rows;
    b->batch.seqs = b->seqs;
}

/* The same checksums with memory of its own for every value. */
static float *reference(const sobre_graph *g, const test_batch *b)
{
    void **data = calloc((size_t)g->n_values, sizeof *data);
    float *logits = NULL;
    for (int32_t v = 0; v < g->n_values; v++) {
        const sobre_value *value = &g->values[v];
        const void *given = value->input == SOBRE_INPUT_IDS    ? b->ids
                            : value->input == SOBRE_INPUT_POS  ? b->pos
                            : value->input == SOBRE_INPUT_ROWS ? b->rows
                                                               : NULL;
        if (value->kind == SOBRE_VALUE_WEIGHT) continue;
        size_t size = (size_t)value_elements(value, b->batch.n_cols, b->batch.n_rows) * 4;
        data[v] = calloc(1, size + 1);
        if (given) memcpy(data[v], given, size);
    }
    for (int32_t i = 0; i < g->n_nodes; i++)
        fake_compute(g->values, &g->nodes[i], data, b->batch.n_cols, b->batch.n_rows);
    for (int32_t v = 0; v < g->n_values; v++) {
        if (g->values[v].kind == SOBRE_VALUE_OUTPUT)
            logits = data[v];
        else
            free(data[v]);
    }
    free(data);
    return logits;
}

/* Runs a plan with several sizes of batch, and compares. */
static void assert_runs(plan *p, const fakes *f)
{
    const int32_t sizes[][2] = {{1, 1}, {MAX_COLS, MAX_ROWS}, {3, 0}, {MAX_COLS, 1}, {2, 2}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        test_batch b;
        const float *logits = NULL;
        batch_init(&b, sizes[i][0], sizes[i][1]);
        float *expected = reference(p->graph, &b);
        assert_ok(p->ctx, exec_run(p, &b.batch, &logits));
        if (sizes[i][1])
            assert_memory_equal(logits, expected, sizeof *logits * N_VOCAB * (size_t)sizes[i][1]);
        free(expected);
    }
    for (int32_t d = 0; d < f->set.n; d++) {
        assert_false(f->devices[d].was_rushed);
        assert_false(f->devices[d].is_running);
    }
}

static void lower_and_fuse(sobre_graph *g, const fakes *f)
{
    assert_ok(g->ctx, graph_lower(g, &f->set));
    assert_ok(g->ctx, graph_fuse(g, &f->set));
}

/* Offsets fit the arena, are aligned, and values that live together do not overlap: the runs show
 * the last. */
static void assert_spans(const plan *p)
{
    for (int32_t d = 0; d < p->devices.n; d++) {
        assert_int_equal(p->arena_size[d] % 32, 0);
        for (int32_t v = 0; v < p->graph->n_values; v++) {
            const sobre_span *s = &p->spans[d][v];
            if (p->graph->values[v].kind == SOBRE_VALUE_WEIGHT) continue;
            assert_int_equal(s->offset % 32, 0);
            assert_true(s->offset + s->size <= p->arena_size[d]);
        }
    }
}

static void test_one_device(void **state)
{
    for (int hidden = 0; hidden < 2; hidden++) {
        fakes f;
        setting s;
        plan *p = NULL;
        sobre_graph *g = test_llama(*state, N_LAYER, TIED);
        fakes_init(&f, *state, 1);
        f.devices[0].is_hidden = hidden;
        lower_and_fuse(g, &f);
        setting_init(&s, g, &f);
        assert_ok(*state, plan_make(*state, g, &s.options, &p));
        assert_int_equal(p->n_slices, 1);
        assert_int_equal(p->n_copies, 0);
        assert_int_equal(p->n_launches, g->n_nodes);
        assert_int_equal(p->workspace_size[0], 100 * g->n_nodes);
        assert_int_equal(p->staging_size, hidden ? MAX_ROWS * N_VOCAB * 4 : 0);
        assert_int_equal(p->embd, -1);
        assert_string_equal(g->values[p->logits].name, "logits");
        assert_spans(p);
        assert_runs(p, &f);
        assert_int_equal(f.devices[0].n_runs, 5);
        assert_int_equal(f.devices[0].n_reads, hidden ? 4 : 0);
        plan_free(p);
        assert_int_equal(f.devices[0].n_live, 0);
        free(s.weights);
        sobre_graph_close(g);
    }
}

/* A layer's temps share memory: the arena does not grow with the layers. */
static void test_arena(void **state)
{
    uint64_t sizes[2];
    for (int32_t i = 0; i < 2; i++) {
        fakes f;
        plan *p = NULL;
        sobre_graph *g = test_llama(*state, i ? 12 : 2, 0);
        fakes_init(&f, *state, 1);
        lower_and_fuse(g, &f);
        plan_options o = {.devices = &f.set, .n_cols = 64, .n_rows = 1, .n_seq = 1};
        assert_ok(*state, plan_make(*state, g, &o, &p));
        sizes[i] = p->arena_size[0];
        plan_free(p);
        sobre_graph_close(g);
    }
    assert_int_equal(sizes[0], sizes[1]);
    /* x, its successor, and the largest pair of a layer; ids, pos, rows, logits beside them. */
    assert_true(sizes[1] <= 64 * 4 * (2 * N_EMBD + N_EMBD * 2 + N_FF) + 4 * N_VOCAB + 64 * 8 + 128);
}

/* Sizes only: nothing is allocated on a device, nothing is compiled, nothing runs. */
static void test_sizes_only(void **state)
{
    fakes f;
    plan *p = NULL;
    test_batch b;
    const float *logits = NULL;
    sobre_graph *g = test_llama(*state, 1, 0);
    fakes_init(&f, *state, 1);
    plan_options o = {.devices = &f.set, .n_cols = 4, .n_rows = 1, .n_seq = 1};
    assert_ok(*state, plan_make(*state, g, &o, &p));
    assert_int_equal(f.devices[0].n_live, 0);
    assert_true(p->arena_size[0] > 0 && p->workspace_size[0] > 0);
    batch_init(&b, 1, 1);
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_INVALID_ARGUMENT);
    plan_free(p);
    sobre_graph_close(g);
}

/* The first device cannot attend: three slices a layer, a copy at each border; every visibility. */
static void test_two_devices(void **state)
{
    for (unsigned hidden = 0; hidden < 4; hidden++) {
        fakes f;
        setting s;
        plan *p = NULL;
        sobre_graph *g = test_llama(*state, N_LAYER, 0);
        fakes_init(&f, *state, 2);
        f.devices[0].is_hidden = hidden & 1;
        f.devices[1].is_hidden = hidden >> 1;
        f.devices[0].missing_ops = 1u << SOBRE_OP_ATTENTION | 1u << SOBRE_OP_ROPE;
        lower_and_fuse(g, &f);
        setting_init(&s, g, &f);
        assert_ok(*state, plan_make(*state, g, &s.options, &p));
        assert_int_equal(p->n_slices, 2 * N_LAYER + 1);
        assert_int_equal(p->n_copies, 4 * N_LAYER); /* q, k, v there, the result back */
        for (int32_t i = 0; i < p->n_slices; i++) {
            assert_int_equal(p->slices[i].device, i % 2);
            assert_int_equal(p->slices[i].n_copies, i == 0 ? 0 : i % 2 ? 3 : 1);
        }
        /* Positions are needed where attention is, ids where the table is. */
        assert_null(p->spans[0][p->pos].buffer);
        assert_non_null(p->spans[1][p->pos].buffer);
        assert_non_null(p->spans[0][p->ids].buffer);
        assert_null(p->spans[1][p->ids].buffer);
        assert_int_equal(p->staging_size > 0, hidden & 1); /* logits; copies if both are hidden */
        assert_spans(p);
        assert_runs(p, &f);
        plan_free(p);
        assert_int_equal(f.devices[0].n_live + f.devices[1].n_live, 0);
        free(s.weights);
        sobre_graph_close(g);
    }
}

/* A value that several slices of another device read is copied once, and the head's tied weight
 * becomes a value of each device. */
static void test_shared_values(void **state)
{
    fakes f;
    setting s;
    plan *p = NULL;
    sobre_graph *g = test_llama(*state, N_LAYER, TIED);
    fakes_init(&f, *state, 2);
    f.devices[0].missing_ops = 1u << SOBRE_OP_EMBED | 1u << SOBRE_OP_ADD;
    f.devices[0].lacks = LACKS_RESIDUAL;
    lower_and_fuse(g, &f);
    setting_init(&s, g, &f);
    assert_ok(*state, plan_make(*state, g, &s.options, &p));
    int32_t table = g->nodes[0].in[SOBRE_EMBED_TABLE];
    int32_t head = g->nodes[g->n_nodes - 1].in[SOBRE_MATMUL_W0];
    assert_int_not_equal(table, head);
    assert_string_equal(g->values[table].name, g->values[head].name);
    for (int32_t i = 0; i < p->n_copies; i++)
        for (int32_t k = 0; k < i; k++)
            assert_false(p->copies[i].value == p->copies[k].value &&
                         p->copies[i].to == p->copies[k].to);
    assert_spans(p);
    assert_runs(p, &f);
    plan_free(p);
    free(s.weights);
    sobre_graph_close(g);
}

static void test_bad_plans(void **state)
{
    fakes f;
    setting s;
    plan *p = NULL;
    sobre_graph *g = test_llama(*state, N_LAYER, 0);
    fakes_init(&f, *state, 1);
    setting_init(&s, g, &f);
    const struct {
        int32_t n_cols, n_rows, n_seq, n_kv_slots;
    } cases[] = {{0, 0, 1, 3}, {4, 5, 1, 3}, {4, -1, 1, 3}, {4, 1, 0, 3}, {4, 1, 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        plan_options o = s.options;
        o.n_cols = cases[i].n_cols;
        o.n_rows = cases[i].n_rows;
        o.n_seq = cases[i].n_seq;
        o.n_kv_slots = cases[i].n_kv_slots;
        assert_int_equal(plan_make(*state, g, &o, &p), SOBRE_INVALID_ARGUMENT);
        assert_null(p);
    }
    f.devices[0].missing_ops = 1u << SOBRE_OP_GLU;
    assert_int_equal(plan_make(*state, g, &s.options, &p), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(sobre_error(*state), "glu"));
    assert_null(p);
    assert_int_equal(f.devices[0].n_live, 0);
    free(s.weights);
    sobre_graph_close(g);
}

static int is_cancelled(const void *user)
{
    return *(const int *)user;
}

static void test_bad_runs(void **state)
{
    fakes f;
    setting s;
    plan *p = NULL;
    test_batch b;
    const float *logits = NULL;
    const float embd[MAX_COLS * N_EMBD] = {0};
    int cancel = 1;
    sobre_graph *g = test_llama(*state, N_LAYER, 0);
    fakes_init(&f, *state, 1);
    setting_init(&s, g, &f);
    assert_ok(*state, plan_make(*state, g, &s.options, &p));
    batch_init(&b, 1, 1);
    b.batch.embd = embd;
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(sobre_error(*state), "not embeddings"));
    batch_init(&b, 1, 1);
    b.batch.n_cols = MAX_COLS + 1;
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_INVALID_ARGUMENT);
    b.batch.n_cols = 1;
    b.batch.n_seqs = 3;
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_INVALID_ARGUMENT);
    batch_init(&b, 1, 1);
    b.batch.ids = NULL;
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_INVALID_ARGUMENT);
    batch_init(&b, 1, 1);
    assert_int_equal(exec_run(p, &b.batch, NULL), SOBRE_INVALID_ARGUMENT);
    b.batch.cancelled = is_cancelled;
    b.batch.cancelled_user = &cancel;
    assert_int_equal(exec_run(p, &b.batch, &logits), SOBRE_CANCELLED);
    assert_null(logits);
    assert_false(f.devices[0].is_running);
    cancel = 0;
    assert_ok(*state, exec_run(p, &b.batch, &logits));
    batch_init(&b, 1, 0);
    assert_ok(*state, exec_run(p, &b.batch, NULL));
    assert_runs(p, &f);
    plan_free(p);
    free(s.weights);
    sobre_graph_close(g);
}

/* A graph that takes embeddings. */
static void test_embeddings(void **state)
{
    fakes f;
    plan *p = NULL;
    sobre_span weights[16] = {{0}};
    sobre_run_seq seq = {.n_cols = 2};
    const float embd[2 * 4] = {1, 2, 3, 4, 5, 6, 7, 8}, *out = NULL;
    const int32_t rows[] = {1}, ids[] = {1, 2};
    sobre_graph *g = NULL;
    assert_ok(*state, sobre_graph_open(*state, &g));
    int32_t x = sobre_graph_input(g, SOBRE_INPUT_EMBD, 4);
    x = NODE(g, GATHER, .p.factor = 0, x, sobre_graph_input(g, SOBRE_INPUT_ROWS, 0));
    sobre_graph_output(g, x, "out");
    fakes_init(&f, *state, 1);
    plan_options o = {.devices = &f.set, .n_cols = 2, .n_rows = 1, .n_seq = 1, .weights = weights};
    assert_ok(*state, plan_make(*state, g, &o, &p));
    exec_batch b = {
        .n_cols = 2, .n_rows = 1, .n_seqs = 1, .rows = rows, .embd = embd, .seqs = &seq};
    assert_ok(*state, exec_run(p, &b, &out));
    for (int32_t i = 0; i < 4; i++) /* as fake_compute() has it for a gather */
        assert_true(out[i] == (float)(SOBRE_OP_GATHER * 31 + i) + 3 * embd[4 + i]);
    b.ids = ids;
    assert_int_equal(exec_run(p, &b, &out), SOBRE_UNSUPPORTED);
    plan_free(p);
    sobre_graph_close(g);
}

/* Everything from graph to logits on two devices; the first failure is returned. */
static sobre_status whole_way(sobre_context *ctx, fakes *f)
{
    sobre_graph *fused = NULL;
    plan *p = NULL;
    setting s = {0};
    test_batch b;
    const float *logits = NULL;
    sobre_graph *g = test_llama(ctx, N_LAYER, WITH_BIAS | TIED);
    if (!g) return SOBRE_OUT_OF_MEMORY;
    f->devices[0].is_hidden = f->devices[1].is_hidden = true;
    f->devices[0].missing_ops = 1u << SOBRE_OP_ATTENTION | 1u << SOBRE_OP_ROPE;
    batch_init(&b, 3, 2);
    sobre_status status = graph_clone(g, &fused);
    if (status >= 0) status = graph_fuse(fused, &f->set);
    f->devices[0].lacks = LACKS_FUSION;
    f->devices[1].lacks = LACKS_FUSION;
    f->devices[1].missing_ops = 1u << SOBRE_OP_EMBED;
    if (status >= 0) status = graph_lower(fused, &f->set);
    if (status >= 0) setting_init(&s, fused, f);
    if (status >= 0) status = plan_make(ctx, fused, &s.options, &p);
    if (status >= 0) status = exec_run(p, &b.batch, &logits);
    plan_free(p);
    free(s.weights);
    sobre_graph_close(fused);
    sobre_graph_close(g);
    return status;
}

static void test_faults_calls(void **state)
{
    sobre_status status = SOBRE_INTERNAL;
    int n = 0;
    while (status < 0) {
        fakes f;
        int countdown = ++n;
        fakes_init(&f, *state, 2);
        f.devices[0].countdown = f.devices[1].countdown = &countdown;
        status = whole_way(*state, &f);
        assert_true(status >= 0 || status == SOBRE_DEVICE);
        assert_int_equal(f.devices[0].n_live + f.devices[1].n_live, 0);
        assert_false(f.devices[0].is_running || f.devices[1].is_running);
        if (status < 0) assert_string_equal(sobre_error(*state), "injected");
    }
    assert_true(n > 50);
}

static void test_faults_memory(void **state)
{
    sobre_status status = SOBRE_INTERNAL;
    for (long long n = 1; status < 0; n++) {
        test_memory memory = {0};
        sobre_allocator allocator = test_allocator(&memory);
        sobre_context *ctx = NULL;
        fakes f;
        assert_int_equal(sobre_context_open(SOBRE(context_options, .allocator = &allocator), &ctx),
                         SOBRE_OK);
        long long n_before = memory.n_live;
        memory.fail_at = memory.n_calls + n;
        fakes_init(&f, ctx, 2);
        status = whole_way(ctx, &f);
        assert_true(status >= 0 || status == SOBRE_OUT_OF_MEMORY);
        assert_int_equal(memory.n_live, n_before);
        memory.fail_at = 0;
        fakes_init(&f, ctx, 2);
        assert_ok(ctx, whole_way(ctx, &f)); /* usable afterwards */
        sobre_context_close(ctx);
        assert_int_equal(memory.n_live, 0);
        assert_true(n < 1000);
    }
}

/* What a device is asked for, and in which order, as the null backend recorded it. */
static void test_null_device(void **state)
{
    static null_control control;
    sobre_context *ctx = NULL;
    device_entry entry = {.index = 0};
    plan *p = NULL;
    setting s;
    test_batch b;
    const float *logits = NULL;
    control = (null_control){.alignment = 1024};
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    context_null_control_set(ctx, &control);
    entry.backend = null_backend(context_host(ctx));
    assert_ok(ctx, entry.backend->device_open(context_host(ctx), 0, &entry.device));
    fakes f = {.set = {.entries = {&entry}, .n = 1}};
    sobre_graph *g = test_llama(ctx, N_LAYER, WITH_BIAS);
    lower_and_fuse(g, &f);
    assert_int_equal(g->n_nodes, 5 * N_LAYER + 3);
    setting_init(&s, g, &f);
    long long first = control.n_calls;
    assert_ok(ctx, plan_make(ctx, g, &s.options, &p));
    for (int32_t v = 0; v < g->n_values; v++)
        assert_int_equal(p->spans[0][v].offset % control.alignment, 0);
    batch_init(&b, 2, 1);
    assert_ok(ctx, exec_run(p, &b.batch, &logits));
    const null_call calls[] = {NULL_CALL_BUFFER_ALLOC, NULL_CALL_WORKSPACE_SIZE, NULL_CALL_COMPILE,
                               NULL_CALL_WRITE,        NULL_CALL_WRITE,          NULL_CALL_WRITE,
                               NULL_CALL_RUN,          NULL_CALL_FENCE,          NULL_CALL_WAIT,
                               NULL_CALL_READ};
    assert_int_equal(control.n_calls - first, sizeof calls / sizeof *calls);
    assert_memory_equal(&control.log[first], calls, sizeof calls);
    assert_int_equal(control.n_ops[SOBRE_OP_ATTENTION], N_LAYER);
    assert_int_equal(control.n_cols, 2);
    plan_free(p);
    assert_int_equal(control.n_buffers + control.n_execs, 0);
    /* Of a device that knows simple nodes only, fusion asks in vain. */
    control.simple_only = true;
    assert_ok(ctx, graph_lower(g, &f.set));
    int32_t n_nodes = g->n_nodes;
    assert_int_equal(n_nodes, 18 * N_LAYER + 4);
    assert_ok(ctx, graph_fuse(g, &f.set));
    assert_int_equal(g->n_nodes, n_nodes);
    assert_valid(ctx, g);
    entry.backend->device_close(entry.device);
    free(s.weights);
    sobre_graph_close(g);
    sobre_context_close(ctx);
}

/* --- Dumps */

typedef struct text {
    char *data;
    size_t size;
} text;

static void collect(void *user, const char *data, size_t size)
{
    text *t = user;
    t->data = realloc(t->data, t->size + size + 1);
    memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static int32_t count(const char *where, const char *what)
{
    int32_t n = 0;
    for (; (where = strstr(where, what)); where += strlen(what)) n++;
    return n;
}

static void test_inspect(void **state)
{
    fakes f;
    plan *p = NULL;
    text t = {NULL, 0};
    const text_sink sink = {collect, &t};
    sobre_graph *g = test_llama(*state, N_LAYER, TIED);
    fakes_init(&f, *state, 2);
    f.devices[0].missing_ops = 1u << SOBRE_OP_ATTENTION | 1u << SOBRE_OP_ROPE;
    lower_and_fuse(g, &f);
    assert_ok(*state, inspect_graph(*state, g, "of a test", SOBRE_DUMP_TEXT, &sink));
    assert_non_null(strstr(t.data, "graph of a test: 18 nodes\n"));
    assert_int_equal(count(t.data, "rms norm, 3 weights"), N_LAYER);
    assert_int_equal(count(t.data, "glu silu"), N_LAYER);
    assert_non_null(strstr(t.data, "4/2 heads of 4, rope halves, append, causal, cache 1"));
    assert_non_null(strstr(t.data, "logits [R, 40]\n"));
    t.size = 0;
    assert_ok(*state, inspect_graph(*state, g, "of a \"test\"", SOBRE_DUMP_DOT, &sink));
    assert_non_null(strstr(t.data, "digraph \"of a \\\"test\\\"\" {"));
    assert_int_equal(count(t.data, "subgraph cluster_2 "), 5);
    assert_int_equal(count(t.data, "{"), count(t.data, "}"));
    assert_non_null(strstr(t.data, "[label=\"[T, 16]\"]"));
    plan_options o = {.devices = &f.set, .n_cols = 4, .n_rows = 1, .n_seq = 1};
    assert_ok(*state, plan_make(*state, g, &o, &p));
    t.size = 0;
    assert_ok(*state, inspect_plan(p, SOBRE_DUMP_TEXT, &sink));
    assert_non_null(strstr(t.data, "18 nodes, 7 slices, 12 copies\n"));
    assert_int_equal(count(t.data, "from device 0"), 3 * N_LAYER);
    assert_int_equal(count(t.data, "from device 1"), N_LAYER);
    assert_non_null(strstr(t.data, "device 1: fake, a fake: arena "));
    assert_non_null(strstr(t.data, " +160\n")); /* logits */
    t.size = 0;
    assert_ok(*state, inspect_plan(p, SOBRE_DUMP_DOT, &sink));
    assert_int_equal(count(t.data, "attention on device 1"), N_LAYER);
    plan_free(p);
    sobre_graph_close(g);
    free(t.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_device),    cmocka_unit_test(test_arena),
        cmocka_unit_test(test_sizes_only),    cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_shared_values), cmocka_unit_test(test_bad_plans),
        cmocka_unit_test(test_bad_runs),      cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_faults_calls),  cmocka_unit_test(test_faults_memory),
        cmocka_unit_test(test_null_device),   cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
