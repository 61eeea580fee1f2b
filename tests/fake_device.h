/* SPDX-License-Identifier: MIT */
/* Devices for the tests of graphs and plans: what they support is a set of flags, their memory is
 * the host's, every call can be made to fail, and their arithmetic is a checksum that shows whether
 * each node saw the right inputs. And a small graph of the Llama kind. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
/* The library has a function of this name. */
#undef fail
#undef fail_msg
#define fail_msg(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))

#include "dtype.h"
#include "plan.h"

/* What a device cannot do. */
enum {
    LACKS_NORM = 1, /* the prologue of a product */
    LACKS_GLU = 2,
    LACKS_RESIDUAL = 4,
    LACKS_BIAS = 8,
    LACKS_SIBLINGS = 16,
    LACKS_ROPE = 32, /* the prologue of attention */
    LACKS_QK_NORM = 64,
    LACKS_FUSION = 127,
};

struct sobre_device {
    sobre_context *ctx;
    unsigned lacks;
    unsigned missing_ops; /* bit by op */
    bool is_hidden;       /* the host cannot touch its memory */
    int *countdown;       /* the call that brings it to 0 fails; NULL: none does */
    int n_live;           /* buffers and execs */
    int n_runs, n_reads, n_writes;
    bool is_running; /* between run and wait */
    bool was_rushed; /* its memory was used while it ran */
};

struct sobre_buffer {
    sobre_device *device;
    uint8_t *data;
    uint64_t size;
};

struct sobre_exec {
    sobre_device *device;
    sobre_program program;
};

static inline sobre_status fake_call(sobre_device *d)
{
    if (d->countdown && --*d->countdown == 0) return fail(d->ctx, SOBRE_DEVICE, "injected");
    return SOBRE_OK;
}

static inline uint64_t fake_max_buffer(sobre_device *d)
{
    return UINT64_MAX;
}

static inline uint64_t fake_alignment(sobre_device *d)
{
    return 32;
}

static inline sobre_status fake_buffer_alloc(sobre_device *d, uint64_t size, sobre_buffer_use use,
                                             sobre_buffer **ret_buffer)
{
    TRY(fake_call(d));
    sobre_buffer *b = mem_alloc(d->ctx, 1, sizeof *b);
    if (!b) return SOBRE_OUT_OF_MEMORY;
    b->data = mem_alloc(d->ctx, 1, (size_t)size);
    if (!b->data) {
        mem_free(d->ctx, b);
        return SOBRE_OUT_OF_MEMORY;
    }
    memset(b->data, 0xee, (size_t)size);
    b->device = d;
    b->size = size;
    d->n_live++;
    *ret_buffer = b;
    return SOBRE_OK;
}

static inline void fake_buffer_free(sobre_buffer *b)
{
    b->device->n_live--;
    mem_free(b->device->ctx, b->data);
    mem_free(b->device->ctx, b);
}

static inline sobre_status fake_write(sobre_buffer *b, uint64_t offset, const void *data,
                                      uint64_t size)
{
    TRY(fake_call(b->device));
    b->device->was_rushed |= b->device->is_running;
    b->device->n_writes++;
    memcpy(b->data + offset, data, (size_t)size);
    return SOBRE_OK;
}

static inline sobre_status fake_read(sobre_buffer *b, uint64_t offset, void *ret_data,
                                     uint64_t size)
{
    TRY(fake_call(b->device));
    b->device->was_rushed |= b->device->is_running;
    b->device->n_reads++;
    memcpy(ret_data, b->data + offset, (size_t)size);
    return SOBRE_OK;
}

static inline void *fake_host_pointer(sobre_buffer *b)
{
    b->device->was_rushed |= b->device->is_running;
    return b->device->is_hidden ? NULL : b->data;
}

static inline int fake_supports(sobre_device *d, const sobre_value *values, const sobre_node *node)
{
    unsigned needs = 0;
    if (node->op == SOBRE_OP_MATMUL) {
        const sobre_matmul_params *p = &node->p.matmul;
        if (p->norm.kind != SOBRE_NORM_NONE) needs |= LACKS_NORM;
        if (p->glu != SOBRE_ACT_NONE) needs |= LACKS_GLU;
        if (p->n_weights > 1 && p->glu == SOBRE_ACT_NONE) needs |= LACKS_SIBLINGS;
        if (node->in[SOBRE_MATMUL_RESIDUAL] >= 0) needs |= LACKS_RESIDUAL;
        for (int32_t i = 0; i < p->n_weights; i++)
            if (node->in[SOBRE_MATMUL_B0 + 2 * i] >= 0) needs |= LACKS_BIAS;
    }
    if (node->op == SOBRE_OP_ATTENTION) {
        if (node->p.attention.rope.kind != SOBRE_ROPE_NONE) needs |= LACKS_ROPE;
        if (node->p.attention.qk_norm.kind != SOBRE_NORM_NONE) needs |= LACKS_QK_NORM;
    }
    return !(d->lacks & needs) && !(d->missing_ops >> node->op & 1);
}

static inline sobre_status fake_workspace_size(sobre_device *d, const sobre_program *program,
                                               uint64_t *ret_size)
{
    TRY(fake_call(d));
    *ret_size = 100 * (uint64_t)program->n_nodes;
    return SOBRE_OK;
}

static inline sobre_status fake_compile(sobre_device *d, const sobre_program *program,
                                        sobre_exec **ret_exec)
{
    TRY(fake_call(d));
    sobre_exec *e = mem_alloc(d->ctx, 1, sizeof *e);
    if (!e) return SOBRE_OUT_OF_MEMORY;
    *e = (sobre_exec){d, *program};
    d->n_live++;
    *ret_exec = e;
    return SOBRE_OK;
}

static inline void fake_exec_free(sobre_exec *e)
{
    e->device->n_live--;
    mem_free(e->device->ctx, e);
}

/* The checksum arithmetic: whole numbers below a prime, exact in f32. data[v] is where value v
 * lies, NULL for weights. */
static inline void fake_compute(const sobre_value *values, const sobre_node *node,
                                void *const *data, int32_t n_cols, int32_t n_rows)
{
    enum { PRIME = 65521 };
    for (int32_t o = 0; o < node->n_out; o++) {
        const sobre_value *out = &values[node->out[o]];
        int64_t n = value_elements(out, n_cols, n_rows), width = out->rank > 1 ? out->dims[1] : 1;
        float *to = data[node->out[o]];
        float *ret = malloc(sizeof *ret * (size_t)(n + 1));
        for (int64_t i = 0; i < n; i++) {
            int64_t row = i / width;
            uint64_t sum = (uint64_t)(node->op * 31 + o * 7 + i % width);
            if (node->op == SOBRE_OP_GATHER)
                row = ((const int32_t *)data[node->in[SOBRE_GATHER_ROWS]])[row];
            for (int32_t s = 0; s < node->n_in; s++) {
                if (node->in[s] < 0 || !data[node->in[s]]) continue;
                const sobre_value *in = &values[node->in[s]];
                int64_t w = in->rank > 1 ? in->dims[1] : 1;
                if (node->op == SOBRE_OP_GATHER && s == SOBRE_GATHER_ROWS) continue;
                uint64_t x = in->dtype == SOBRE_I32
                                 ? (uint64_t)((const int32_t *)data[node->in[s]])[row * w + i % w]
                                 : (uint64_t)((const float *)data[node->in[s]])[row * w + i % w];
                sum += (uint64_t)(s + 3) * x;
            }
            ret[i] = (float)(sum % PRIME);
        }
        memcpy(to, ret, sizeof *ret * (size_t)n);
        free(ret);
    }
}

static inline sobre_status fake_run(sobre_exec *e, const sobre_run *run)
{
    const sobre_program *p = &e->program;
    void **data = malloc(sizeof *data * (size_t)p->n_values);
    sobre_status status = fake_call(e->device);
    e->device->was_rushed |= e->device->is_running;
    e->device->is_running = true;
    e->device->n_runs++;
    if (status >= 0 && run->cancelled && run->cancelled(run->cancelled_user))
        status = fail(e->device->ctx, SOBRE_CANCELLED, "cancelled");
    for (int32_t v = 0; v < p->n_values; v++)
        data[v] = p->spans[v].buffer && p->values[v].kind != SOBRE_VALUE_WEIGHT
                      ? p->spans[v].buffer->data + p->spans[v].offset
                      : NULL;
    for (int32_t i = 0; i < p->n_nodes && status >= 0; i++)
        fake_compute(p->values, &p->nodes[i], data, run->n_cols, run->n_rows);
    free(data);
    return status;
}

static inline sobre_status fake_fence(sobre_device *d, uint64_t *ret_ticket)
{
    TRY(fake_call(d));
    *ret_ticket = 42;
    return SOBRE_OK;
}

static inline sobre_status fake_wait(sobre_device *d, uint64_t ticket)
{
    d->is_running = false;
    return ticket == 42 ? fake_call(d) : fail(d->ctx, SOBRE_INTERNAL, "ticket");
}

static inline int32_t fake_n_launches(const sobre_exec *e)
{
    return e->program.n_nodes;
}

static const sobre_backend fake_backend = {
    .struct_size = sizeof fake_backend,
    .name = "fake",
    .alignment = fake_alignment,
    .max_buffer = fake_max_buffer,
    .buffer_alloc = fake_buffer_alloc,
    .buffer_free = fake_buffer_free,
    .write = fake_write,
    .read = fake_read,
    .host_pointer = fake_host_pointer,
    .supports = fake_supports,
    .workspace_size = fake_workspace_size,
    .compile = fake_compile,
    .exec_free = fake_exec_free,
    .run = fake_run,
    .fence = fake_fence,
    .wait = fake_wait,
    .n_launches = fake_n_launches,
};

/* Up to two devices as a set. */
typedef struct fakes {
    sobre_device devices[2];
    device_entry entries[2];
    device_set set;
} fakes;

static inline void fakes_init(fakes *f, sobre_context *ctx, int32_t n)
{
    *f = (fakes){.set.n = n};
    for (int32_t i = 0; i < n; i++) {
        f->devices[i].ctx = ctx;
        f->entries[i] = (device_entry){.backend = &fake_backend, .device = &f->devices[i]};
        f->entries[i].info.name = "a fake";
        f->set.entries[i] = &f->entries[i];
    }
}

/* --- Graphs */

enum { N_EMBD = 16, N_HEAD = 4, N_HEAD_KV = 2, HEAD_DIM = 4, N_FF = 24, N_VOCAB = 40 };

/* Adds a node with the inputs `in`, ended by -2. */
static inline int32_t add_node(sobre_graph *g, sobre_node node, const int32_t *in)
{
    for (node.n_in = 0; in[node.n_in] != -2; node.n_in++) node.in[node.n_in] = in[node.n_in];
    return sobre_graph_node(g, &node, NULL);
}

#define NODE(g, node_op, params, ...) \
    add_node((g), (sobre_node){.op = SOBRE_OP_##node_op, params}, (int32_t[]){__VA_ARGS__, -2})

static inline int32_t test_weight(sobre_graph *g, const char *name, int32_t layer, int64_t n_out,
                                  int64_t n_in)
{
    char full[2 * SOBRE_NAME_SIZE];
    int64_t dims[] = {n_out, n_in};
    if (layer >= 0) snprintf(full, sizeof full, "blk.%d.%s", (int)layer, name);
    return sobre_graph_weight(g, layer >= 0 ? full : name, SOBRE_F32, n_in ? 2 : 1, dims, -1);
}

static inline int32_t test_matmul(sobre_graph *g, int32_t x, const char *name, int32_t layer,
                                  int64_t n_out, int64_t n_in)
{
    return NODE(g, MATMUL, .p.matmul.n_weights = 1, x, -1, -1, -1,
                test_weight(g, name, layer, n_out, n_in));
}

static inline int32_t test_norm(sobre_graph *g, int32_t x, const char *name, int32_t layer,
                                int64_t n)
{
    sobre_norm_params p = {SOBRE_NORM_RMS, 1e-5f};
    return NODE(g, NORM, .p.norm = p, x, test_weight(g, name, layer, n, 0));
}

enum { WITH_BIAS = 1, WITH_QK_NORM = 2, TIED = 4 };

static inline int32_t test_projection(sobre_graph *g, int32_t x, const char *name, int32_t layer,
                                      int64_t n_out, unsigned with)
{
    char bias[SOBRE_NAME_SIZE];
    int32_t y = test_matmul(g, x, name, layer, n_out, N_EMBD);
    snprintf(bias, sizeof bias, "%s.bias", name);
    if (!(with & WITH_BIAS)) return y;
    return add_node(g, (sobre_node){.op = SOBRE_OP_ADD},
                    (int32_t[]){y, test_weight(g, bias, layer, n_out, 0), -2});
}

static inline int32_t test_head_norm_rope(sobre_graph *g, int32_t x, const char *name,
                                          int32_t layer, int32_t n_head, unsigned with)
{
    sobre_rope_node_params p = {{SOBRE_ROPE_HALVES, HEAD_DIM, 10000, 1}, n_head, HEAD_DIM};
    if (with & WITH_QK_NORM) x = test_norm(g, x, name, layer, HEAD_DIM);
    return NODE(g, ROPE, .p.rope = p, x, sobre_graph_input(g, SOBRE_INPUT_POS, 0));
}

/* 15 nodes a layer and 4 around them, and those that `with` adds: 3 biases, 2 norms a layer. */
static inline sobre_graph *test_llama(sobre_context *ctx, int32_t n_layer, unsigned with)
{
    sobre_graph *g = NULL;
    if (sobre_graph_open(ctx, &g) < 0) return NULL;
    int32_t table = test_weight(g, "token_embd", -1, N_VOCAB, N_EMBD);
    int32_t x = NODE(g, EMBED, .p.factor = 1, sobre_graph_input(g, SOBRE_INPUT_IDS, 0), table);
    for (int32_t i = 0; i < n_layer; i++) {
        sobre_attention_params p = {.n_head = N_HEAD,
                                    .n_head_kv = N_HEAD_KV,
                                    .head_dim = HEAD_DIM,
                                    .head_dim_v = HEAD_DIM,
                                    .scale = 0.5f,
                                    .causal = 1,
                                    .append = 1,
                                    .kv = i};
        sobre_graph_layer(g, i);
        int32_t h = test_norm(g, x, "attn_norm", i, N_EMBD);
        int32_t q = test_projection(g, h, "attn_q", i, N_HEAD * HEAD_DIM, with);
        int32_t k = test_projection(g, h, "attn_k", i, N_HEAD_KV * HEAD_DIM, with);
        int32_t v = test_projection(g, h, "attn_v", i, N_HEAD_KV * HEAD_DIM, with);
        q = test_head_norm_rope(g, q, "attn_q_norm", i, N_HEAD, with);
        k = test_head_norm_rope(g, k, "attn_k_norm", i, N_HEAD_KV, with);
        h = NODE(g, ATTENTION, .p.attention = p, q, k, v, sobre_graph_input(g, SOBRE_INPUT_POS, 0));
        h = test_matmul(g, h, "attn_output", i, N_EMBD, N_HEAD * HEAD_DIM);
        x = add_node(g, (sobre_node){.op = SOBRE_OP_ADD}, (int32_t[]){x, h, -2});
        h = test_norm(g, x, "ffn_norm", i, N_EMBD);
        int32_t gate = test_matmul(g, h, "ffn_gate", i, N_FF, N_EMBD);
        int32_t up = test_matmul(g, h, "ffn_up", i, N_FF, N_EMBD);
        h = NODE(g, GLU, .p.act = SOBRE_ACT_SILU, gate, up);
        h = test_matmul(g, h, "ffn_down", i, N_EMBD, N_FF);
        x = add_node(g, (sobre_node){.op = SOBRE_OP_ADD}, (int32_t[]){x, h, -2});
    }
    sobre_graph_layer(g, -1);
    x = add_node(g, (sobre_node){.op = SOBRE_OP_GATHER},
                 (int32_t[]){x, sobre_graph_input(g, SOBRE_INPUT_ROWS, 0), -2});
    x = test_norm(g, x, "output_norm", -1, N_EMBD);
    x = test_matmul(g, x, with & TIED ? "token_embd" : "output", -1, N_VOCAB, N_EMBD);
    sobre_graph_output(g, x, "logits");
    return g;
}

/* Every node has the shape that its op wants, reads only what was made before, and no value is made
 * twice. */
static inline void assert_valid(sobre_context *ctx, const sobre_graph *g)
{
    bool *made = calloc((size_t)g->n_values, 1);
    assert_int_equal(sobre_graph_check(g), SOBRE_OK);
    for (int32_t v = 0; v < g->n_values; v++)
        made[v] = g->values[v].kind == SOBRE_VALUE_INPUT || g->values[v].kind == SOBRE_VALUE_WEIGHT;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const sobre_node *node = &g->nodes[i];
        sobre_value out[SOBRE_MAX_OUT];
        int32_t n_out = 0;
        for (int32_t s = 0; s < node->n_in; s++)
            if (node->in[s] >= 0) assert_true(made[node->in[s]]);
        for (int32_t s = node->n_in; s < SOBRE_MAX_IN; s++) assert_int_equal(node->in[s], -1);
        if (op_get(node->op)->shape(ctx, g->values, node, out, &n_out) < 0)
            fail_msg("node %d: %s", (int)i, sobre_error(ctx));
        assert_int_equal(n_out, node->n_out);
        for (int32_t o = 0; o < n_out; o++) {
            const sobre_value *v = &g->values[node->out[o]];
            assert_int_equal(v->rank, out[o].rank);
            assert_memory_equal(v->dims, out[o].dims, sizeof v->dims[0] * (size_t)v->rank);
            assert_false(made[node->out[o]]);
            made[node->out[o]] = true;
        }
    }
    free(made);
}

#endif
