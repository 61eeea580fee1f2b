/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include "cpu.h"
#include "dtype.h"
#include "quant.h"

const sobre_cpu_isa rig_isas[N_ISAS] = {ISAS(LIST_ISA, 0)};

/* --- Devices */

rig_device rig_cpu(sobre_cpu_isa isa, int32_t n_threads)
{
    rig_device d = {.backend = "cpu", .n_threads = n_threads, .isa = isa};
    snprintf(d.name, sizeof d.name, "cpu %s", cpu_isa_name(isa));
    return d;
}

int32_t rig_devices(rig_device devices[RIG_MAX_DEVICES])
{
    const char *at = getenv("SOBRE_TEST_DEVICES");
    int32_t n = 0;
    if (!at || !*at) at = "cpu,null";
    while (*at) {
        rig_device d = {.n_threads = 1};
        size_t size = strcspn(at, ","), colon = strcspn(at, ",:");
        assert_true(n + N_ISAS <= RIG_MAX_DEVICES && colon < sizeof d.backend);
        snprintf(d.name, sizeof d.name, "%.*s", (int)size, at);
        snprintf(d.backend, sizeof d.backend, "%.*s", (int)colon, at);
        if (colon < size) d.index = (int32_t)atoi(at + colon + 1);
        if (strcmp(d.backend, "cpu") != 0)
            devices[n++] = d;
        else
            for (int i = 0; i < N_ISAS; i++)
                if (colon == size || i == d.index) devices[n++] = rig_cpu(rig_isas[i], 3);
        at += size + (at[size] == ',');
    }
    return n;
}

bool rig_is_possible(const rig_device *device)
{
    sobre_cpu_isa resolved;
    return strcmp(device->backend, "cpu") != 0 || cpu_isa_resolve(device->isa, &resolved);
}

void rig_device_need(const rig_device *device)
{
    if (rig_is_possible(device)) return;
    print_message("SKIP: this processor has no %s; see the tests through SIMDe\n",
                  cpu_isa_name(device->isa));
    skip();
}

sobre_cpu_isa rig_isa(void **state)
{
    sobre_cpu_isa isa = (sobre_cpu_isa)(uintptr_t)*state;
    rig_device_need(&(rig_device){.backend = "cpu", .isa = isa});
    return isa;
}

void rig_device_open(rig_device *device)
{
    int32_t number = 0;
    if (device->entry) return;
    rig_device_close(device); /* one that failed to open */
    assert_int_equal(sobre_context_open(SOBRE(context_options, .n_threads = device->n_threads,
                                              .cpu_isa = device->isa, .blas = device->blas,
                                              .plugin_dir = getenv("SOBRE_TEST_PLUGINS")),
                                        &device->ctx),
                     SOBRE_OK);
    context_null_control_set(device->ctx, &device->null);
    assert_ok(device->ctx,
              sobre_device_get(device->ctx, device->backend, device->index, &number, NULL));
    assert_ok(device->ctx, device_use(device->ctx, number, &device->entry));
}

void rig_device_close(rig_device *device)
{
    sobre_context_close(device->ctx);
    device->ctx = NULL;
    device->entry = NULL;
}

bool rig_is_null(const rig_device *device)
{
    return strcmp(device->backend, "null") == 0;
}

bool rig_computes(const rig_device *device)
{
    return !rig_is_null(device) && !getenv("SOBRE_TEST_BLIND");
}

void rig_open(rig *r, rig_device *on, int32_t n_cols, int32_t n_rows)
{
    memset(r, 0, sizeof *r);
    rig_device_open(on);
    r->on = on;
    r->ctx = on->ctx;
    r->b = on->entry->backend;
    r->device = on->entry->device;
    r->n_cols = n_cols;
    r->n_rows = n_rows;
}

void rig_close(rig *r)
{
    if (!r->b) return;
    r->b->exec_free(r->exec);
    r->b->buffer_free(r->kv);
    r->b->buffer_free(r->arena);
    for (int32_t i = 0; i < RIG_VALUES; i++) {
        r->b->buffer_free(r->own[i]);
        free(r->packed[i].file);
    }
    memset(r, 0, sizeof *r);
}

/* --- Values */

static uint64_t aligned(const rig *r, uint64_t size)
{
    uint64_t to = r->b->alignment(r->device);
    return (size + to - 1) / to * to;
}

static int32_t add_value(rig *r, sobre_value_kind kind, sobre_dtype dtype, int64_t rows, int64_t n,
                         uint64_t size)
{
    assert_true(r->n_values < RIG_VALUES);
    sobre_value *v = &r->values[r->n_values];
    *v = (sobre_value){.kind = kind, .dtype = dtype, .rank = n > 0 ? 2 : 1, .tensor = -1};
    v->dims[0] = rows;
    v->dims[1] = n;
    snprintf(v->name, sizeof v->name, "v%d", (int)r->n_values);
    r->spans[r->n_values].size = size;
    if (kind != SOBRE_VALUE_WEIGHT && !r->no_poison) {
        r->spans[r->n_values].offset = r->arena_size;
        r->arena_size += aligned(r, size + RIG_GUARD);
    }
    return r->n_values++;
}

static int64_t most(const rig *r, int64_t rows)
{
    return rows == SOBRE_DIM_T ? r->n_cols : rows == SOBRE_DIM_R ? r->n_rows : rows;
}

int32_t rig_input(rig *r, int64_t rows, int64_t n)
{
    return add_value(r, SOBRE_VALUE_TEMP, SOBRE_F32, rows, n, (uint64_t)(most(r, rows) * n) * 4);
}

int32_t rig_ints(rig *r, int64_t rows)
{
    return add_value(r, SOBRE_VALUE_INPUT, SOBRE_I32, rows, 0, (uint64_t)most(r, rows) * 4);
}

int32_t rig_weight_file(rig *r, sobre_dtype dtype, uint32_t uses, int64_t rows, int64_t n,
                        const void *data)
{
    sobre_weight w = {"weight", dtype, uses, rows > 0 ? rows : 1, n};
    uint64_t size = 0, file_size = rig_row_size(dtype, n) * (uint64_t)w.n_rows;
    assert_ok(r->ctx, r->b->weight_size(r->device, &w, &size));
    int32_t v =
        add_value(r, SOBRE_VALUE_WEIGHT, dtype, rows > 0 ? rows : n, rows > 0 ? n : 0, size);
    r->packed[v].weight = w;
    r->packed[v].file = rig_alloc(file_size);
    memcpy(r->packed[v].file, data, (size_t)file_size);
    return v;
}

int32_t rig_weight(rig *r, sobre_dtype dtype, uint32_t uses, int64_t rows, int64_t n, float *x)
{
    uint64_t row_size = rig_row_size(dtype, n);
    int64_t n_rows = rows > 0 ? rows : 1;
    uint8_t *file = rig_alloc(row_size * (uint64_t)n_rows);
    for (int64_t i = 0; i < n_rows; i++) {
        assert_true(dtype_encode(dtype, x + i * n, n, file + (uint64_t)i * row_size));
        dtype_decode(dtype, file + (uint64_t)i * row_size, n, x + i * n);
    }
    int32_t v = rig_weight_file(r, dtype, uses, rows, n, file);
    free(file);
    return v;
}

void rig_cache(rig *r, sobre_kv_type type, int32_t n_head_kv, int32_t head_dim, int32_t head_dim_v)
{
    r->slot.desc = (sobre_kv_desc){type, n_head_kv, head_dim, head_dim_v};
    sobre_status status = r->b->kv_page_size(r->device, &r->slot.desc, &r->slot.page_size);
    r->no_cache = status == SOBRE_UNSUPPORTED;
    if (!r->no_cache) assert_ok(r->ctx, status);
    assert_true(r->no_cache || r->slot.page_size > 0);
}

/* --- Nodes */

sobre_node rig_node(sobre_op op)
{
    sobre_node node = {.op = op, .layer = -1, .n_in = SOBRE_MAX_IN, .n_out = 1};
    for (int i = 0; i < SOBRE_MAX_IN; i++) node.in[i] = -1;
    return node;
}

void rig_add(rig *r, const sobre_node *node)
{
    assert_true(r->n_nodes < RIG_NODES);
    r->nodes[r->n_nodes++] = *node;
}

bool rig_supported(const rig *r)
{
    for (int32_t i = 0; i < r->n_nodes; i++) {
        bool supported = r->b->supports(r->device, r->values, &r->nodes[i]) != 0;
        if (r->no_cache && r->nodes[i].op == SOBRE_OP_ATTENTION) {
            if (r->slot.desc.type <= SOBRE_KV_F16) assert_false(supported);
            return false; /* devices may have no more types than these */
        }
        if (!supported) return false;
    }
    return true;
}

static sobre_buffer *alloc_poisoned(rig *r, uint64_t size, sobre_buffer_use use)
{
    sobre_buffer *buffer = NULL;
    assert_ok(r->ctx, r->b->buffer_alloc(r->device, size, use, &buffer));
    if (!r->no_poison) {
        uint8_t *nan = rig_alloc(size);
        memset(nan, 0xff, (size_t)size);
        assert_ok(r->ctx, r->b->write(buffer, 0, nan, size));
        free(nan);
    }
    return buffer;
}

/* As a model is loaded: one buffer for all weights, or one each where buffers are bounded. A weight
 * comes in two calls, the second half first. */
static void pack_weights(rig *r)
{
    bool apart = r->b->max_buffer(r->device) != UINT64_MAX;
    uint64_t size = 0;
    int32_t first = -1;
    for (int32_t i = 0; i < r->n_values; i++) {
        if (!r->packed[i].file) continue;
        if (first < 0) first = i;
        r->spans[i].offset = apart ? 0 : size;
        size += aligned(r, r->spans[i].size);
        if (apart) r->own[i] = alloc_poisoned(r, r->spans[i].size, SOBRE_BUFFER_WEIGHTS);
    }
    if (first >= 0 && !apart) r->own[first] = alloc_poisoned(r, size, SOBRE_BUFFER_WEIGHTS);
    for (int32_t i = 0; i < r->n_values; i++) {
        const sobre_weight *w = &r->packed[i].weight;
        if (!r->packed[i].file) continue;
        r->spans[i].buffer = r->own[apart ? i : first];
        int64_t half = w->n_rows / 32 * 16;
        const uint8_t *second =
            r->packed[i].file + rig_row_size(w->dtype, w->n_cols) * (uint64_t)half;
        assert_ok(r->ctx,
                  r->b->weight_pack(r->device, w, &r->spans[i], half, w->n_rows - half, second));
        if (half > 0)
            assert_ok(r->ctx,
                      r->b->weight_pack(r->device, w, &r->spans[i], 0, half, r->packed[i].file));
    }
}

/* oclgrind takes a buffer for unwritten if a piece of it was written behind its begin. Weights are;
 * so they are written once more as a whole. */
static void rewrite_weights(rig *r)
{
    for (int32_t i = 0; i < r->n_values; i++) {
        uint64_t size = r->spans[i].size;
        if (!r->packed[i].file || !r->own[i]) continue;
        uint8_t *whole = rig_alloc(size);
        assert_ok(r->ctx, r->b->read(r->own[i], 0, whole, size));
        assert_ok(r->ctx, r->b->write(r->own[i], 0, whole, size));
        free(whole);
    }
}

/* What no node reads is for the test. */
static void count_uses(rig *r)
{
    for (int32_t n = 0; n < r->n_nodes; n++)
        for (int32_t i = 0; i < r->nodes[n].n_in; i++)
            if (r->nodes[n].in[i] >= 0) r->n_uses[r->nodes[n].in[i]]++;
}

void rig_compile(rig *r)
{
    uint64_t size = 0;
    assert_true(rig_supported(r));
    count_uses(r);
    pack_weights(r);
    if (r->no_poison) rewrite_weights(r);
    if (r->arena_size > 0) r->arena = alloc_poisoned(r, r->arena_size, SOBRE_BUFFER_ARENA);
    for (int32_t i = 0; i < r->n_values; i++) {
        if (r->packed[i].file) continue;
        if (r->no_poison) r->own[i] = alloc_poisoned(r, r->spans[i].size, SOBRE_BUFFER_ARENA);
        r->spans[i].buffer = r->no_poison ? r->own[i] : r->arena;
    }
    if (r->slot.page_size > 0)
        r->slot.buffer = r->kv = alloc_poisoned(r, r->slot.page_size * RIG_PAGES, SOBRE_BUFFER_KV);
    r->program = (sobre_program){.struct_size = sizeof r->program,
                                 .values = r->values,
                                 .n_values = r->n_values,
                                 .nodes = r->nodes,
                                 .n_nodes = r->n_nodes,
                                 .spans = r->spans,
                                 .n_cols = r->n_cols,
                                 .n_rows = r->n_rows,
                                 .n_seq = RIG_MAX_SEQS,
                                 .n_pages = RIG_PAGES,
                                 .kv_slots = &r->slot,
                                 .n_kv_slots = r->kv ? 1 : 0,
                                 .exact = r->exact,
                                 .n_uses = r->n_uses};
    assert_ok(r->ctx, r->b->workspace_size(r->device, &r->program, &size));
    assert_ok(r->ctx, r->b->compile(r->device, &r->program, &r->exec));
    assert_true(r->b->n_launches(r->exec) > 0);
}

/* --- Runs */

void rig_write(rig *r, int32_t value, const void *data, uint64_t size)
{
    assert_true(size <= r->spans[value].size);
    assert_ok(r->ctx, r->b->write(r->spans[value].buffer, r->spans[value].offset, data, size));
}

void rig_read(rig *r, int32_t value, void *ret_data, uint64_t size)
{
    assert_true(size <= r->spans[value].size);
    assert_ok(r->ctx, r->b->read(r->spans[value].buffer, r->spans[value].offset, ret_data, size));
}

void rig_run(rig *r, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs)
{
    static const int32_t pages[RIG_PAGES];
    const sobre_run_seq one = {0, n_cols, 0, pages};
    if (!seqs) {
        seqs = &one;
        n_seqs = 1;
    }
    sobre_run run = {.struct_size = sizeof run,
                     .n_cols = n_cols,
                     .n_rows = n_rows,
                     .n_seqs = n_seqs,
                     .seqs = seqs};
    uint64_t ticket;
    assert_ok(r->ctx, r->b->run(r->exec, &run));
    assert_ok(r->ctx, r->b->fence(r->device, &ticket));
    assert_ok(r->ctx, r->b->wait(r->device, ticket));
}

void rig_check_guards(rig *r)
{
    uint8_t guard[RIG_GUARD];
    if (r->no_poison) return;
    for (int32_t i = 0; i < r->n_values; i++) {
        if (r->packed[i].file) continue;
        assert_ok(r->ctx,
                  r->b->read(r->arena, r->spans[i].offset + r->spans[i].size, guard, sizeof guard));
        for (int32_t k = 0; k < RIG_GUARD; k++)
            if (guard[k] != 0xff)
                test_fail("something was written %d bytes behind the end of value %d", (int)k,
                          (int)i);
    }
}
