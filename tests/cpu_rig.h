/* SPDX-License-Identifier: MIT */
/* Runs single nodes on a device through the backend's table, with values in one arena and, for
 * attention, a cache whose pages are filled with NaN and handed out in no order. */
#ifndef CPU_RIG_H
#define CPU_RIG_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "cpu.h"
#include "dtype.h"
#include "quant.h"
#include "support.h"

enum { RIG_VALUES = 24, RIG_NODES = 8, RIG_MAX_SEQS = 8, RIG_PAGES = 64 };

typedef struct rig {
    sobre_context *ctx;
    const device_entry *entry;
    const sobre_backend *b;
    sobre_buffer *arena, *kv;
    uint64_t arena_used;
    sobre_value values[RIG_VALUES];
    sobre_span spans[RIG_VALUES];
    int32_t n_values;
    sobre_node nodes[RIG_NODES];
    int32_t n_nodes;
    int32_t n_cols, n_rows; /* the most of a run */
    bool exact;
    sobre_kv_slot slot;
    sobre_program program;
    sobre_exec *exec;
} rig;

/* A test once for each instruction set. */
static sobre_cpu_isa rig_isas[] = {SOBRE_CPU_SCALAR, SOBRE_CPU_AVX2, SOBRE_CPU_AVX512};
#define RIG_TESTS(f)                                                                          \
    {#f ", scalar", f, NULL, NULL, &rig_isas[0]}, {#f ", AVX2", f, NULL, NULL, &rig_isas[1]}, \
    {                                                                                         \
#f ", AVX-512", f, NULL, NULL, &rig_isas[2]                                           \
    }

/* The instruction set that a test of RIG_TESTS is for; skips it where the processor has none. */
static inline sobre_cpu_isa rig_isa(void **state)
{
    sobre_cpu_isa isa = *(sobre_cpu_isa *)*state, resolved;
    if (!cpu_isa_resolve(isa, &resolved)) {
        print_message("SKIP: this processor has no %s; see the tests through SIMDe\n",
                      cpu_isa_name(isa));
        skip();
    }
    return isa;
}

static inline float rig_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1 << 23) - 1.0f;
}

static inline void rig_fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = rig_random(&seed);
}

static inline void rig_open(rig *r, sobre_cpu_isa isa, int32_t n_threads, int32_t n_cols,
                            int32_t n_rows)
{
    enum { ARENA_SIZE = 8 << 20 };
    memset(r, 0, sizeof *r);
    assert_int_equal(
        sobre_context_open(SOBRE(context_options, .n_threads = n_threads, .cpu_isa = isa), &r->ctx),
        SOBRE_OK);
    assert_ok(r->ctx, device_use(r->ctx, 1, &r->entry));
    r->b = r->entry->backend;
    r->n_cols = n_cols;
    r->n_rows = n_rows;
    assert_ok(r->ctx,
              r->b->buffer_alloc(r->entry->device, ARENA_SIZE, SOBRE_BUFFER_ARENA, &r->arena));
    memset(r->b->host_pointer(r->arena), 0xff, ARENA_SIZE);
}

static inline void rig_close(rig *r)
{
    r->b->exec_free(r->exec);
    r->b->buffer_free(r->kv);
    r->b->buffer_free(r->arena);
    sobre_context_close(r->ctx);
}

static inline void *rig_data(rig *r, int32_t value)
{
    return (uint8_t *)r->b->host_pointer(r->arena) + r->spans[value].offset;
}

static inline int32_t rig_value(rig *r, sobre_value_kind kind, sobre_dtype dtype, int64_t rows,
                                int64_t n, uint64_t size)
{
    assert_true(r->n_values < RIG_VALUES);
    sobre_value *v = &r->values[r->n_values];
    *v = (sobre_value){.kind = kind, .dtype = dtype, .rank = n > 0 ? 2 : 1, .tensor = -1};
    v->dims[0] = rows;
    v->dims[1] = n;
    snprintf(v->name, sizeof v->name, "v%d", (int)r->n_values);
    r->spans[r->n_values] = (sobre_span){r->arena, r->arena_used, size};
    r->arena_used += (size + 63) / 64 * 64;
    return r->n_values++;
}

/* An activation f32 [rows (may be T or R), n]. */
static inline int32_t rig_input(rig *r, int64_t rows, int64_t n)
{
    int64_t most = rows == SOBRE_DIM_T ? r->n_cols : rows == SOBRE_DIM_R ? r->n_rows : rows;
    return rig_value(r, SOBRE_VALUE_TEMP, SOBRE_F32, rows, n, (uint64_t)(most * n) * 4);
}

/* i32 [rows]. */
static inline int32_t rig_ints(rig *r, int64_t rows)
{
    int64_t most = rows == SOBRE_DIM_T ? r->n_cols : r->n_rows;
    return rig_value(r, SOBRE_VALUE_INPUT, SOBRE_I32, rows, 0, (uint64_t)most * 4);
}

/* A weight [rows, n] (rows 0: a vector [n]) of `dtype`, packed; x [rows * n] becomes what the type
 * can hold of it. */
static inline int32_t rig_weight(rig *r, sobre_dtype dtype, uint32_t uses, int64_t rows, int64_t n,
                                 float *x)
{
    uint64_t row_size = 0, size = 0;
    int64_t n_rows = rows > 0 ? rows : 1;
    uint8_t *file;
    assert_true(dtype_row_size(dtype, n, &row_size));
    file = mem_alloc(r->ctx, (size_t)n_rows, (size_t)row_size);
    assert_non_null(file);
    for (int64_t i = 0; i < n_rows; i++) {
        assert_true(dtype_encode(dtype, x + i * n, n, file + (uint64_t)i * row_size));
        dtype_decode(dtype, file + (uint64_t)i * row_size, n, x + i * n);
    }
    sobre_weight w = {"weight", dtype, uses, n_rows, n};
    assert_ok(r->ctx, r->b->weight_size(r->entry->device, &w, &size));
    int32_t v =
        rig_value(r, SOBRE_VALUE_WEIGHT, dtype, rows > 0 ? rows : n, rows > 0 ? n : 0, size);
    assert_ok(r->ctx, r->b->weight_pack(r->entry->device, &w, &r->spans[v], 0, n_rows, file));
    mem_free(r->ctx, file);
    return v;
}

/* A node with all slots empty. */
static inline sobre_node rig_node(sobre_op op)
{
    sobre_node node = {.op = op, .layer = -1, .n_in = SOBRE_MAX_IN, .n_out = 1};
    for (int i = 0; i < SOBRE_MAX_IN; i++) node.in[i] = -1;
    return node;
}

static inline void rig_add(rig *r, const sobre_node *node)
{
    assert_true(r->b->supports(r->entry->device, r->values, node));
    assert_true(r->n_nodes < RIG_NODES);
    r->nodes[r->n_nodes++] = *node;
}

/* A cache of RIG_PAGES pages full of NaN. */
static inline void rig_cache(rig *r, sobre_kv_type type, int32_t n_head_kv, int32_t head_dim,
                             int32_t head_dim_v)
{
    r->slot.desc = (sobre_kv_desc){type, n_head_kv, head_dim, head_dim_v};
    assert_ok(r->ctx, r->b->kv_page_size(r->entry->device, &r->slot.desc, &r->slot.page_size));
    uint64_t size = r->slot.page_size * RIG_PAGES;
    assert_ok(r->ctx, r->b->buffer_alloc(r->entry->device, size, SOBRE_BUFFER_KV, &r->kv));
    memset(r->b->host_pointer(r->kv), 0xff, (size_t)size);
    r->slot.buffer = r->kv;
}

static inline void rig_compile(rig *r)
{
    uint64_t size = 0;
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
                                 .exact = r->exact};
    assert_ok(r->ctx, r->b->workspace_size(r->entry->device, &r->program, &size));
    assert_ok(r->ctx, r->b->compile(r->entry->device, &r->program, &r->exec));
    assert_true(r->b->n_launches(r->exec) >= r->n_nodes);
}

static inline void rig_run(rig *r, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs,
                           int32_t n_seqs)
{
    sobre_run run = {.struct_size = sizeof run,
                     .n_cols = n_cols,
                     .n_rows = n_rows,
                     .n_seqs = n_seqs,
                     .seqs = seqs};
    uint64_t ticket;
    assert_ok(r->ctx, r->b->run(r->exec, &run));
    assert_ok(r->ctx, r->b->fence(r->entry->device, &ticket));
    assert_ok(r->ctx, r->b->wait(r->entry->device, ticket));
}

/* |x - reference| at most `tolerance` times the largest of the reference. */
static inline void rig_close_to(const float *x, const double *reference, int64_t n,
                                double tolerance)
{
    double most = 0, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(x[i] - reference[i]);
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
        if (fabs(reference[i]) > most) most = fabs(reference[i]);
    }
    if (!(worst <= tolerance * most))
        test_fail("element %lld is %g, should be %g (the largest is %g)", (long long)at, x[at],
                  reference[at], most);
}

#endif
