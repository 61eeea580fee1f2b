/* SPDX-License-Identifier: MIT */
/* Building graphs, and the few things that every pass over them needs. */
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "plan.h"

enum { FIRST_CAPACITY = 64 };

sobre_status sobre_graph_open(sobre_context *context, sobre_graph **ret_graph)
{
    if (!context || !ret_graph) return SOBRE_INVALID_ARGUMENT;
    sobre_graph *g = mem_alloc(context, 1, sizeof *g);
    if (!g) return SOBRE_OUT_OF_MEMORY;
    context_ref(context);
    g->ctx = context;
    g->layer = -1;
    *ret_graph = g;
    return SOBRE_OK;
}

void sobre_graph_close(sobre_graph *graph)
{
    if (!graph) return;
    sobre_context *ctx = graph->ctx;
    mem_free(ctx, graph->values);
    mem_free(ctx, graph->nodes);
    mem_free(ctx, graph);
    context_unref(ctx);
}

/* Keeps the first failure, which was just reported, for sobre_graph_check(). Returns -1. */
static int32_t broken(sobre_graph *g, sobre_status status)
{
    g->status = status;
    snprintf(g->message, sizeof g->message, "%s", sobre_error(g->ctx));
    return -1;
}

sobre_status sobre_graph_check(const sobre_graph *graph)
{
    if (!graph) return SOBRE_INVALID_ARGUMENT;
    if (graph->status < 0) return fail(graph->ctx, graph->status, "%s", graph->message);
    return SOBRE_OK;
}

/* --- Values */

static void set_name(sobre_value *v, const char *name)
{
    size_t n = strlen(name);
    if (n >= sizeof v->name) n = sizeof v->name - 1;
    memcpy(v->name, name, n);
    memset(v->name + n, 0, sizeof v->name - n);
}

/* `items`, moved if need be so that one more fits; NULL after a failure. */
static void *reserve(sobre_graph *g, void *items, int32_t n, int32_t *capacity, size_t size)
{
    if (n < *capacity) return items;
    if (n > INT32_MAX / 2) {
        broken(g, fail(g->ctx, SOBRE_INVALID_ARGUMENT, "graph: more than %d items", (int)n));
        return NULL;
    }
    int32_t more = *capacity ? *capacity * 2 : FIRST_CAPACITY;
    void *grown = mem_grow(g->ctx, items, (size_t)n, (size_t)more, size);
    if (grown)
        *capacity = more;
    else
        broken(g, SOBRE_OUT_OF_MEMORY);
    return grown;
}

int32_t graph_value(sobre_graph *g, const sobre_value *value)
{
    sobre_value copy = *value; /* it may lie in the array that grows */
    if (g->status < 0) return -1;
    sobre_value *values = reserve(g, g->values, g->n_values, &g->values_capacity, sizeof *values);
    if (!values) return -1;
    g->values = values;
    g->values[g->n_values] = copy;
    return g->n_values++;
}

int32_t graph_temp(sobre_graph *g, sobre_op op, const sobre_value *like)
{
    sobre_value v = *like;
    v.kind = SOBRE_VALUE_TEMP;
    v.input = SOBRE_INPUT_NONE;
    v.tensor = -1;
    snprintf(v.name, sizeof v.name, "%s.%d", op_get(op)->name, (int)g->n_values);
    return graph_value(g, &v);
}

int32_t sobre_graph_input(sobre_graph *graph, sobre_input input, int64_t n_embd)
{
    static const struct {
        const char *name;
        sobre_dtype dtype;
        int32_t rank;
        int64_t dim;
    } inputs[] = {
        [SOBRE_INPUT_IDS] = {"ids", SOBRE_I32, 1, SOBRE_DIM_T},
        [SOBRE_INPUT_POS] = {"pos", SOBRE_I32, 1, SOBRE_DIM_T},
        [SOBRE_INPUT_ROWS] = {"rows", SOBRE_I32, 1, SOBRE_DIM_R},
        [SOBRE_INPUT_EMBD] = {"embd", SOBRE_F32, 2, SOBRE_DIM_T},
        [SOBRE_INPUT_SAMPLING] = {"sampling", SOBRE_I32, 2, SOBRE_DIM_R},
    };
    if (!graph || graph->status < 0) return -1;
    if (input <= SOBRE_INPUT_NONE || (size_t)input >= sizeof inputs / sizeof *inputs)
        return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                                  "graph: no input has number %d", (int)input));
    if (input == SOBRE_INPUT_EMBD && (n_embd <= 0 || n_embd > INT32_MAX))
        return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                                  "graph: embeddings of %lld elements", (long long)n_embd));
    for (int32_t i = 0; i < graph->n_values; i++)
        if (graph->values[i].kind == SOBRE_VALUE_INPUT && graph->values[i].input == input) return i;
    sobre_value v = {.kind = SOBRE_VALUE_INPUT,
                     .input = input,
                     .dtype = inputs[input].dtype,
                     .rank = inputs[input].rank,
                     .tensor = -1};
    v.dims[0] = inputs[input].dim;
    if (v.rank > 1) v.dims[1] = input == SOBRE_INPUT_EMBD ? n_embd : SOBRE_SAMPLE_PARAMS_SIZE;
    set_name(&v, inputs[input].name);
    return graph_value(graph, &v);
}

/* What is wrong with a weight's type or shape; NULL: nothing. */
static const char *weight_fault(const sobre_value *v)
{
    uint64_t size;
    if (!dtype_get(v->dtype)->name) return "has an unknown type";
    for (int32_t i = 0; i < v->rank; i++)
        if (v->dims[i] <= 0) return "has a dim that is not above 0";
    if (!dtype_row_size(v->dtype, v->dims[v->rank - 1], &size))
        return "has rows that are no whole number of blocks of its type";
    for (int32_t i = 0; i + 1 < v->rank; i++)
        if (!checked_mul(size, (uint64_t)v->dims[i], &size)) return "is larger than 2^64 bytes";
    if (size > INT64_MAX / 8) return "is larger than any memory";
    return NULL;
}

int32_t sobre_graph_weight(sobre_graph *graph, const char *name, sobre_dtype dtype, int32_t rank,
                           const int64_t *dims, int32_t tensor)
{
    if (!graph || graph->status < 0) return -1;
    if (!name || !dims || rank < 1 || rank > SOBRE_MAX_RANK)
        return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                                  "graph: a weight needs a name and 1 to %d dims", SOBRE_MAX_RANK));
    sobre_value v = {.kind = SOBRE_VALUE_WEIGHT, .dtype = dtype, .rank = rank, .tensor = tensor};
    memcpy(v.dims, dims, (size_t)rank * sizeof *dims);
    set_name(&v, name);
    const char *fault = weight_fault(&v);
    if (fault)
        return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT, "graph: weight '%s' %s",
                                  v.name, fault));
    for (int32_t i = 0; i < graph->n_values; i++) {
        const sobre_value *old = &graph->values[i];
        if (old->kind != SOBRE_VALUE_WEIGHT || old->tensor != tensor || strcmp(old->name, v.name))
            continue;
        if (old->dtype != dtype || old->rank != rank || memcmp(old->dims, v.dims, sizeof v.dims))
            return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                                      "graph: weight '%s' was added before with another type or "
                                      "shape",
                                      v.name));
        return i;
    }
    return graph_value(graph, &v);
}

void sobre_graph_output(sobre_graph *graph, int32_t value, const char *name)
{
    if (!graph || graph->status < 0) return;
    if (value < 0 || value >= graph->n_values ||
        (graph->values[value].kind != SOBRE_VALUE_TEMP &&
         graph->values[value].kind != SOBRE_VALUE_OUTPUT)) {
        broken(graph,
               fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                    "graph: value %d is no result of a node and cannot be an output", (int)value));
        return;
    }
    graph->values[value].kind = SOBRE_VALUE_OUTPUT;
    if (name) set_name(&graph->values[value], name);
}

/* --- Nodes */

void sobre_graph_layer(sobre_graph *graph, int32_t layer)
{
    if (graph) graph->layer = layer < 0 ? -1 : layer;
}

sobre_status graph_append(sobre_graph *g, const sobre_node *node)
{
    sobre_node copy = *node;
    if (g->status < 0) return g->status;
    sobre_node *nodes = reserve(g, g->nodes, g->n_nodes, &g->nodes_capacity, sizeof *nodes);
    if (!nodes) return g->status;
    g->nodes = nodes;
    node_trim(&copy);
    g->nodes[g->n_nodes++] = copy;
    return SOBRE_OK;
}

void node_trim(sobre_node *node)
{
    for (int32_t i = node->n_in; i < SOBRE_MAX_IN; i++) node->in[i] = -1;
    while (node->n_in > 0 && node->in[node->n_in - 1] < 0) node->n_in--;
    for (int32_t i = node->n_out; i < SOBRE_MAX_OUT; i++) node->out[i] = -1;
}

int32_t sobre_graph_node(sobre_graph *graph, const sobre_node *node, int32_t *ret_out)
{
    if (!graph || graph->status < 0) return -1;
    if (!node || (unsigned)node->op >= SOBRE_N_OPS || node->n_in < 0 || node->n_in > SOBRE_MAX_IN)
        return broken(graph,
                      fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                           "graph: a node needs a known op and 0 to %d inputs", SOBRE_MAX_IN));
    sobre_node copy = *node;
    copy.layer = graph->layer;
    copy.n_out = 0;
    for (int32_t i = 0; i < copy.n_in; i++)
        if (copy.in[i] < -1 || copy.in[i] >= graph->n_values)
            return broken(graph, fail(graph->ctx, SOBRE_INVALID_ARGUMENT,
                                      "graph: %s: input %d is value %d, of which there are %d",
                                      op_get(copy.op)->name, (int)i, (int)copy.in[i],
                                      (int)graph->n_values));
    node_trim(&copy);
    sobre_value out[SOBRE_MAX_OUT];
    sobre_status status =
        op_get(copy.op)->shape(graph->ctx, graph->values, &copy, out, &copy.n_out);
    if (status < 0) return broken(graph, status);
    for (int32_t i = 0; i < copy.n_out; i++) {
        copy.out[i] = graph_temp(graph, copy.op, &out[i]);
        if (copy.out[i] < 0) return -1;
    }
    if (graph_append(graph, &copy) < 0) return -1;
    for (int32_t i = 0; ret_out && i < copy.n_out; i++) ret_out[i] = copy.out[i];
    return copy.out[0];
}

/* --- Reading and passes */

const sobre_value *sobre_graph_values(const sobre_graph *graph, int32_t *ret_n)
{
    if (ret_n) *ret_n = graph ? graph->n_values : 0;
    return graph ? graph->values : NULL;
}

const sobre_node *sobre_graph_nodes(const sobre_graph *graph, int32_t *ret_n)
{
    if (ret_n) *ret_n = graph ? graph->n_nodes : 0;
    return graph ? graph->nodes : NULL;
}

sobre_status graph_clone(const sobre_graph *g, sobre_graph **ret_graph)
{
    sobre_graph *copy;
    TRY(sobre_graph_check(g));
    TRY(sobre_graph_open(g->ctx, &copy));
    copy->values = mem_alloc(g->ctx, (size_t)g->n_values, sizeof *g->values);
    copy->nodes = mem_alloc(g->ctx, (size_t)g->n_nodes, sizeof *g->nodes);
    if (!copy->values || !copy->nodes) {
        sobre_graph_close(copy);
        return SOBRE_OUT_OF_MEMORY;
    }
    if (g->n_values) memcpy(copy->values, g->values, (size_t)g->n_values * sizeof *g->values);
    if (g->n_nodes) memcpy(copy->nodes, g->nodes, (size_t)g->n_nodes * sizeof *g->nodes);
    copy->n_values = copy->values_capacity = g->n_values;
    copy->n_nodes = copy->nodes_capacity = g->n_nodes;
    copy->layer = g->layer;
    *ret_graph = copy;
    return SOBRE_OK;
}

sobre_status graph_take_embeddings(const sobre_graph *g, sobre_graph **ret_graph)
{
    sobre_graph *copy;
    int32_t found = -1;
    for (int32_t i = 0; i < g->n_nodes && found < 0; i++)
        if (g->nodes[i].op == SOBRE_OP_EMBED) found = i;
    if (found < 0)
        return fail(g->ctx, SOBRE_UNSUPPORTED,
                    "graph: it looks no token ids up, so nothing can stand in for them");
    TRY(graph_clone(g, &copy));
    sobre_node *embed = &copy->nodes[found];
    sobre_value *ids = &copy->values[embed->in[SOBRE_EMBED_IDS]];
    sobre_value *embd = &copy->values[embed->out[0]];
    ids->kind = SOBRE_VALUE_TEMP; /* that nobody reads */
    ids->input = SOBRE_INPUT_NONE;
    embd->kind = SOBRE_VALUE_INPUT;
    embd->input = SOBRE_INPUT_EMBD;
    set_name(embd, "embd");
    embed->op = SOBRE_N_OPS;
    graph_compact(copy);
    *ret_graph = copy;
    return SOBRE_OK;
}

/* The node that makes the first output of floats; NULL if there is none. */
static const sobre_node *logits_maker(const sobre_graph *g, int32_t *ret_logits)
{
    int32_t v = 0;
    while (v < g->n_values &&
           (g->values[v].kind != SOBRE_VALUE_OUTPUT || g->values[v].dtype != SOBRE_F32))
        v++;
    for (int32_t n = 0; n < g->n_nodes; n++)
        for (int32_t i = 0; i < g->nodes[n].n_out; i++)
            if (g->nodes[n].out[i] == v) {
                *ret_logits = v;
                return &g->nodes[n];
            }
    return NULL;
}

sobre_status graph_take_sampling(const sobre_graph *g, const device_set *devices,
                                 sobre_graph **ret_graph)
{
    sobre_graph *copy;
    int32_t logits = -1;
    const sobre_node *maker = logits_maker(g, &logits);
    if (!maker || g->values[logits].dims[0] != SOBRE_DIM_R) {
        *ret_graph = NULL;
        return SOBRE_OK;
    }
    TRY(graph_clone(g, &copy));
    sobre_graph_layer(copy, -1);
    int32_t params = sobre_graph_input(copy, SOBRE_INPUT_SAMPLING, 0);
    const sobre_node sample = {.op = SOBRE_OP_SAMPLE, .n_in = 2, .in = {logits, params}};
    sobre_graph_output(copy, sobre_graph_node(copy, &sample, NULL), "picks");
    sobre_status status = sobre_graph_check(copy);
    if (status < 0 || devices_pick(devices, copy->values, &copy->nodes[copy->n_nodes - 1]) !=
                          devices_pick(devices, copy->values, maker)) {
        sobre_graph_close(copy);
        copy = NULL;
    }
    if (status >= 0) *ret_graph = copy;
    return status;
}

void graph_uses(const sobre_graph *g, int32_t *ret_n_uses, int32_t *ret_producer)
{
    for (int32_t v = 0; v < g->n_values; v++) {
        ret_n_uses[v] = g->values[v].kind == SOBRE_VALUE_OUTPUT;
        ret_producer[v] = -1;
    }
    for (int32_t n = 0; n < g->n_nodes; n++) {
        const sobre_node *node = &g->nodes[n];
        if (node->op == SOBRE_N_OPS) continue;
        for (int32_t i = 0; i < node->n_in; i++)
            if (node->in[i] >= 0) ret_n_uses[node->in[i]]++;
        for (int32_t i = 0; i < node->n_out; i++) ret_producer[node->out[i]] = n;
    }
}

void graph_compact(sobre_graph *g)
{
    int32_t n = 0;
    for (int32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op != SOBRE_N_OPS) g->nodes[n++] = g->nodes[i];
    g->n_nodes = n;
}
