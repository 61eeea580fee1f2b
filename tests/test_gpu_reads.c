/* SPDX-License-Identifier: MIT */
/*
 * How many launches a GPU needs for a token, and what they read, against what cost.c counts: a
 * driver that computes nothing sees which memory each launch is given. Models have published
 * shapes, since it is large ones for which bytes matter; their memory is never touched.
 */
#include <stdlib.h>
#include <string.h>

#include "bench_shape.h"
#include "cost.h"
#include "driver.h"
#include "fake_gpu.h"
#include "fit.h"
#include "kv.h"
#include "model.h"

enum { N_CTX = 576, N_PAST = 200, MAX_SEQS = 32, MAX_COLS = 32 };
static const double most_share = 1.05; /* bytes read, of weights and cache */

/* --- A device whose memory is only a size */

static sobre_status size_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                               gpu_mem **ret_mem, void **ret_host)
{
    gpu_mem *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->size = size;
    *ret_mem = m;
    *ret_host = NULL;
    return SOBRE_OK;
}

static void size_free(sobre_device *device, gpu_mem *mem)
{
    free(mem);
}

static sobre_status size_write(sobre_device *device, gpu_mem *mem, uint64_t offset,
                               const void *data, uint64_t size)
{
    assert_true(offset <= mem->size && size <= mem->size - offset);
    return SOBRE_OK;
}

static sobre_status size_read(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                              uint64_t size)
{
    assert_true(offset <= mem->size && size <= mem->size - offset);
    memset(ret_data, 0, (size_t)size);
    return SOBRE_OK;
}

static sobre_status fence(sobre_device *device, uint64_t *ret_ticket)
{
    *ret_ticket = 1;
    return SOBRE_OK;
}

static sobre_status done(sobre_device *device, uint64_t ticket)
{
    return SOBRE_OK;
}

static const sobre_backend backend = {
    .struct_size = sizeof backend,
    .name = "fake",
    .fence = fence,
    .poll = done,
    .wait = done,
    GPU_BACKEND_SLOTS,
};

/* --- What launches are given */

typedef struct reading {
    fake device; /* first: the driver finds the rest behind it */
    gpu_driver driver;
    device_entry entry;
    device_set devices;
    shape_model *made;
    sobre_model *model;
    sobre_graph *graph;
    cache c;
    sobre_span *weights;        /* [n_values] */
    uint64_t all_weights;       /* bytes */
    int32_t n_launches;         /* from here on: in the run */
    uint64_t weights_read;      /* bytes */
    int32_t n_caches, n_tables; /* launches that read a cache, that look rows up */
} reading;

static bool has_mem(const gpu_args *args, const gpu_mem *mem)
{
    for (int32_t i = 0; i < args->n; i++)
        if (args->a[i].kind == GPU_ARG_MEM && args->a[i].u.mem == mem) return true;
    return false;
}

static sobre_status listen(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                           uint32_t n_groups_y)
{
    reading *r = (reading *)device;
    const char *entry = kernel->variant.entry;

    r->n_launches++;
    for (int32_t v = 0; v < r->graph->n_values; v++) {
        const sobre_span *span = &r->weights[v];
        if (!span->buffer || !has_mem(&kernel->args, span->buffer->mem)) continue;
        if (strcmp(entry, "embed") == 0) {
            r->weights_read += span->size / (uint64_t)r->graph->values[v].dims[0];
            r->n_tables++;
        } else {
            r->weights_read += span->size * n_groups_y; /* tiles of columns: each reads all rows */
        }
    }
    for (int32_t i = 0; i < r->c.n && strcmp(entry, "attn_append") != 0; i++)
        r->n_caches += has_mem(&kernel->args, r->c.slots[i].buffer->mem);
    return SOBRE_OK;
}

/* --- A model on that device */

static void alloc_weights(reading *r)
{
    const sobre_graph *g = r->graph;
    uint32_t *uses = calloc((size_t)g->n_values, sizeof *uses);

    r->weights = calloc((size_t)g->n_values, sizeof *r->weights);
    assert_true(uses && r->weights);
    for (int32_t n = 0; n < g->n_nodes; n++)
        for (int32_t i = 0; i < g->nodes[n].n_in; i++) {
            int32_t v = g->nodes[n].in[i];
            if (v >= 0 && g->values[v].kind == SOBRE_VALUE_WEIGHT)
                uses[v] |= weight_slot_use(g->nodes[n].op, i);
        }
    for (int32_t v = 0; v < g->n_values; v++) {
        if (!uses[v]) continue;
        const sobre_weight w = weight_describe(&g->values[v], uses[v]);
        sobre_span *span = &r->weights[v];
        assert_ok(r->device.ctx, gpu_weight_size(&r->device.device, &w, &span->size));
        assert_ok(r->device.ctx, gpu_buffer_alloc(&r->device.device, span->size,
                                                  SOBRE_BUFFER_WEIGHTS, &span->buffer));
        if (!(uses[v] & SOBRE_WEIGHT_TABLE) || uses[v] & SOBRE_WEIGHT_MATMUL)
            r->all_weights += span->size;
    }
    free(uses);
}

static void open_reading(reading *r, const char *shape, const char *quant)
{
    sobre_source source;
    sobre_graph *fused;

    *r = (reading){.driver = fake_driver_without_blas};
    fake_open(&r->device);
    r->driver.mem_alloc = size_alloc;
    r->driver.mem_free = size_free;
    r->driver.mem_write = size_write;
    r->driver.mem_read = size_read;
    r->driver.launch = listen;
    r->device.device.driver = &r->driver;
    r->device.device.caps.max_buffer = UINT64_C(1) << 32;
    r->device.device.caps.n_units = 28;
    r->entry = (device_entry){.backend = &backend, .device = &r->device.device};
    r->entry.info.name = "a card";
    r->devices = (device_set){.entries = {&r->entry}, .n = 1};
    assert_int_equal(shape_model_open(shape, quant, &r->made, &source), SOBRE_OK);
    assert_ok(r->device.ctx, sobre_model_open(r->device.ctx, &source, &r->model));
    assert_ok(r->device.ctx, graph_for_devices(r->model->graph, &r->devices, &fused));
    assert_ok(r->device.ctx, graph_take_sampling(fused, &r->devices, &r->graph));
    assert_non_null(r->graph);
    sobre_graph_close(fused);
    assert_ok(r->device.ctx, cache_open(r->device.ctx, r->graph, &r->devices, r->model->kv,
                                        r->model->n_kv, SOBRE_KV_F16, kv_pages_for(N_CTX), &r->c));
    assert_ok(r->device.ctx, cache_alloc(&r->c));
    alloc_weights(r);
}

static void close_reading(reading *r)
{
    for (int32_t v = 0; v < r->graph->n_values; v++) gpu_buffer_free(r->weights[v].buffer);
    free(r->weights);
    cache_close(&r->c);
    sobre_graph_close(r->graph);
    sobre_model_close(r->model);
    shape_model_close(r->made);
    fake_close(&r->device);
}

/* A run, in a plan for sequences of up to n_ctx tokens that have n_past of them. Returns how many
 * launches the plan says that there were. */
static int32_t run(reading *r, int32_t n_ctx, int32_t n_past, int32_t n_seqs, int32_t n_cols)
{
    enum { MAX_PAGES = 128 };
    const plan_options o = {.devices = &r->devices,
                            .n_cols = n_seqs * n_cols,
                            .n_rows = n_seqs,
                            .n_seq = n_seqs,
                            .weights = r->weights,
                            .kv_slots = r->c.slots,
                            .n_kv_slots = r->c.n,
                            .n_pages = kv_pages_for(n_ctx)};
    static const int32_t pages[MAX_PAGES] = {0};
    static const int32_t params[MAX_SEQS * SOBRE_SAMPLE_PARAMS_SIZE] = {0};
    int32_t ids[MAX_COLS] = {0}, pos[MAX_COLS], rows[MAX_SEQS];
    sobre_run_seq seqs[MAX_SEQS];
    const exec_batch batch = {.n_cols = o.n_cols,
                              .n_rows = n_seqs,
                              .n_seqs = n_seqs,
                              .ids = ids,
                              .pos = pos,
                              .rows = rows,
                              .sampling = params,
                              .seqs = seqs};
    plan *p;

    assert_true(n_seqs <= MAX_SEQS && o.n_cols <= MAX_COLS && o.n_pages <= MAX_PAGES);
    for (int32_t i = 0; i < o.n_cols; i++) pos[i] = n_past + i % n_cols;
    for (int32_t s = 0; s < n_seqs; s++) {
        seqs[s] = (sobre_run_seq){s * n_cols, n_cols, n_past, pages};
        rows[s] = (s + 1) * n_cols - 1;
    }
    assert_ok(r->device.ctx, plan_make(r->device.ctx, r->graph, &o, &p));
    r->n_launches = 0;
    assert_ok(r->device.ctx, exec_run(p, &batch, NULL));
    int32_t n_launches = p->n_launches;
    plan_free(p);
    return n_launches;
}

/* Weights and cache are read once, and little else is. */
static void reads_each_weight_once(void **state)
{
    static const char *const shapes[] = {"smollm2-135m", "qwen2.5-0.5b-llama", "tinyllama-1.1b"};
    static const char *const quants[] = {"Q4_0", "Q8_0"};

    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes * 2; i++) {
        reading r;
        sobre_cost cost = SOBRE_INIT(cost);
        open_reading(&r, shapes[i / 2], quants[i % 2]);
        const sobre_kv_desc *kv = r.model->kv;
        const uint64_t position = 2 * 2 * (uint64_t)kv->n_head_kv * (uint64_t)kv->head_dim;
        const uint64_t cached = (uint64_t)r.c.n * position * (N_PAST + 1);

        (void)run(&r, N_CTX, N_PAST, 1, 1);
        assert_ok(r.device.ctx,
                  cost_count(r.device.ctx, r.graph, &r.devices, &r.c, 1, N_PAST, &cost));
        assert_int_equal(r.n_launches, cost.n_launches);
        assert_int_equal(r.weights_read, cost.weight_bytes);
        assert_int_equal(r.n_tables, 1);
        assert_int_equal(r.n_caches, r.c.n); /* each by one launch */
        assert_int_equal(cost.kv_bytes, cached + (uint64_t)r.c.n * position);
        const double needed = (double)(r.all_weights + cached);
        const double read = (double)(r.weights_read + cost.kv_bytes + cost.activation_bytes);
        if (read > most_share * needed)
            test_fail("%s %s: %.0f bytes are read for %.0f of weights and cache", shapes[i / 2],
                      quants[i % 2], read, needed);
        close_reading(&r);
    }
}

/* A prompt's launches are those of another plan. */
static void counts_prompts_apart(void **state)
{
    reading r;
    sobre_cost token = SOBRE_INIT(cost), prompt = SOBRE_INIT(cost);

    (void)state;
    open_reading(&r, "smollm2-135m", "Q4_0");
    assert_ok(r.device.ctx, cost_count(r.device.ctx, r.graph, &r.devices, &r.c, 1, 0, &token));
    assert_ok(r.device.ctx, cost_count(r.device.ctx, r.graph, &r.devices, &r.c, 512, 0, &prompt));
    assert_true(prompt.n_launches > 0 && prompt.n_launches != token.n_launches);
    assert_true(prompt.weight_bytes < token.weight_bytes + token.weight_bytes / 100);
    assert_true(prompt.flop > 300 * token.flop); /* but for logits, which only its last row has */
    close_reading(&r);
}

/* A decoded token, with sampling: embedding, layers, head, and two for the draw. */
static void launches_a_layer(void **state)
{
    static const struct {
        const char *what;
        bool flat;
        int32_t n_ctx, n_past, n_seqs, n_cols, of_layer, around;
    } cases[] = {
        {"a context that is not split", false, 128, 100, 1, 1, 5, 4},
        {"a short context", false, 4096, 200, 1, 1, 5, 4},
        {"the longest short one", false, 4096, 4095, 1, 1, 5, 4},
        {"a sequence that is short so far", false, 8192, 4095, 1, 1, 5, 4},
        {"a long one", false, 8192, 4096, 1, 1, 6, 4},
        {"eight sequences", false, 4096, 200, 8, 1, 5, 4},
        {"eight long ones", false, 8192, 5000, 8, 1, 6, 4},
        {"several columns of each of two", false, 4096, 200, 2, 4, 6, 4},
        /* Norms apart, the merge too, and the gather. */
        {"more than gemv takes", false, 4096, 200, 32, 1, 8, 6},
        {"a processor", true, 4096, 200, 1, 1, 8, 6},
    };
    reading r;

    (void)state;
    open_reading(&r, "smollm2-135m", "Q4_0");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        r.device.device.caps.flat_memory = cases[i].flat;
        int32_t n = run(&r, cases[i].n_ctx, cases[i].n_past, cases[i].n_seqs, cases[i].n_cols);
        int32_t expected = cases[i].of_layer * r.c.n + cases[i].around;
        if (n != expected || r.n_launches != expected)
            test_fail("%s: %d launches, said to be %d, should be %d", cases[i].what,
                      (int)r.n_launches, (int)n, (int)expected);
    }
    close_reading(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_each_weight_once),
        cmocka_unit_test(counts_prompts_apart),
        cmocka_unit_test(launches_a_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
