/* SPDX-License-Identifier: MIT */
/* Graphs and plans as text for people and for Graphviz. */
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "plan.h"

/* One dump. `p` is NULL for a graph that has no plan. */
typedef struct dump {
    const text_sink *sink;
    const sobre_graph *g;
    const plan *p;
} dump;

enum { PARTS_SIZE = 160, PIECE_SIZE = 512 };

static void put(const dump *d, const char *format, ...) SOBRE_PRINTF(2, 3);
static void put(const dump *d, const char *format, ...)
{
    char text[PIECE_SIZE];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0) return;
    d->sink->write(d->sink->user, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

/* 12345 -> "12.0 KiB" */
static const char *bytes_text(uint64_t size, char *text, size_t capacity)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    uint64_t tenths = size < UINT64_MAX / 10 ? size * 10 : UINT64_MAX;
    int unit = 0;
    for (; tenths >= 10240 && unit < 4; unit++) tenths /= 1024;
    if (unit == 0)
        snprintf(text, capacity, "%llu B", (unsigned long long)size);
    else
        snprintf(text, capacity, "%llu.%llu %s", (unsigned long long)(tenths / 10),
                 (unsigned long long)(tenths % 10), units[unit]);
    return text;
}

/* --- What a node does besides its op */

static const char *act_name(sobre_act act)
{
    static const char *const names[] = {"none", "silu", "gelu tanh", "gelu erf", "relu"};
    return (size_t)act < sizeof names / sizeof *names ? names[act] : "?";
}

static const char *norm_name(sobre_norm_kind kind)
{
    return kind == SOBRE_NORM_RMS ? "rms norm" : kind == SOBRE_NORM_LAYER ? "layer norm" : "";
}

static const char *rope_name(sobre_rope_kind kind)
{
    return kind == SOBRE_ROPE_PAIRS ? "rope pairs" : kind == SOBRE_ROPE_HALVES ? "rope halves" : "";
}

static void add_part(char *parts, const char *format, ...) SOBRE_PRINTF(2, 3);
static void add_part(char *parts, const char *format, ...)
{
    size_t n = strlen(parts);
    va_list args;
    if (n > 0 && n + 2 < PARTS_SIZE) n += (size_t)snprintf(parts + n, PARTS_SIZE - n, ", ");
    va_start(args, format);
    vsnprintf(parts + n, PARTS_SIZE - n, format, args);
    va_end(args);
}

static void matmul_parts(const sobre_node *node, char *parts)
{
    const sobre_matmul_params *p = &node->p.matmul;
    int32_t n_bias = 0;
    for (int32_t i = 0; i < p->n_weights; i++) n_bias += node->in[SOBRE_MATMUL_B0 + 2 * i] >= 0;
    if (p->norm.kind != SOBRE_NORM_NONE) add_part(parts, "%s", norm_name(p->norm.kind));
    if (p->n_weights > 1) add_part(parts, "%d weights", (int)p->n_weights);
    if (n_bias > 0) add_part(parts, "%d bias%s", (int)n_bias, n_bias > 1 ? "es" : "");
    if (p->glu != SOBRE_ACT_NONE) add_part(parts, "glu %s", act_name(p->glu));
    if (node->in[SOBRE_MATMUL_RESIDUAL] >= 0) add_part(parts, "residual");
}

static void attention_parts(const sobre_node *node, char *parts)
{
    const sobre_attention_params *p = &node->p.attention;
    add_part(parts, "%d/%d heads of %d", (int)p->n_head, (int)p->n_head_kv, (int)p->head_dim);
    if (p->qk_norm.kind != SOBRE_NORM_NONE)
        add_part(parts, "%s of q, k", norm_name(p->qk_norm.kind));
    if (p->rope.kind != SOBRE_ROPE_NONE) add_part(parts, "%s", rope_name(p->rope.kind));
    if (p->append) add_part(parts, "append");
    if (p->causal) add_part(parts, "causal");
    if (p->window > 0) add_part(parts, "window %d", (int)p->window);
    if (p->softcap > 0) add_part(parts, "softcap");
    if (p->max_alibi_bias > 0) add_part(parts, "alibi");
    if (p->kv >= 0) add_part(parts, "cache %d", (int)p->kv);
}

static const char *node_parts(const sobre_node *node, char *parts)
{
    parts[0] = 0;
    switch (node->op) {
    case SOBRE_OP_MATMUL: matmul_parts(node, parts); break;
    case SOBRE_OP_ATTENTION: attention_parts(node, parts); break;
    case SOBRE_OP_NORM: add_part(parts, "%s", norm_name(node->p.norm.kind)); break;
    case SOBRE_OP_ROPE:
        add_part(parts, "%s, %d heads", rope_name(node->p.rope.rope.kind),
                 (int)node->p.rope.n_head);
        break;
    case SOBRE_OP_GLU:
    case SOBRE_OP_ACTIVATION: add_part(parts, "%s", act_name(node->p.act)); break;
    default: break;
    }
    return parts;
}

/* --- Text */

/* " @4096 +2304": where a value lies on a device. */
static void put_place(const dump *d, int32_t device, int32_t value)
{
    if (!d->p) return;
    const sobre_span *span = &d->p->spans[device][value];
    put(d, " @%llu +%llu", (unsigned long long)span->offset, (unsigned long long)span->size);
}

static void put_value(const dump *d, int32_t device, int32_t value)
{
    const sobre_value *v = &d->g->values[value];
    char shape[112];
    put(d, "%s %s", v->name, value_shape(v, shape, sizeof shape));
    put_place(d, device, value);
}

static void put_node(const dump *d, int32_t index)
{
    const sobre_node *node = &d->g->nodes[index];
    int32_t device = d->p ? d->p->node_device[index] : 0;
    char layer[16] = "-", parts[PARTS_SIZE], shape[112], size[32];
    const char *sep = "";
    if (node->layer >= 0) snprintf(layer, sizeof layer, "%d", (int)node->layer);
    put(d, "%5d  %5s  ", (int)index, layer);
    if (d->p) put(d, "%6d  ", (int)device);
    put(d, "%-10s  %-54s  ", op_get(node->op)->name, node_parts(node, parts));
    for (int32_t i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0 || d->g->values[node->in[i]].kind == SOBRE_VALUE_WEIGHT) continue;
        put(d, "%s%s", sep, d->g->values[node->in[i]].name);
        sep = ", ";
    }
    sep = " -> ";
    for (int32_t i = 0; i < node->n_out; i++, sep = ", ") {
        put(d, "%s", sep);
        put_value(d, device, node->out[i]);
    }
    put(d, "\n");
    for (int32_t i = 0; i < node->n_in; i++) {
        const sobre_value *v = node->in[i] >= 0 ? &d->g->values[node->in[i]] : NULL;
        uint64_t row;
        if (!v || v->kind != SOBRE_VALUE_WEIGHT ||
            !dtype_row_size(v->dtype, v->dims[v->rank - 1], &row))
            continue;
        uint64_t n_rows = (uint64_t)(value_elements(v, 0, 0) / v->dims[v->rank - 1]);
        put(d, "%*s%-8s %-36s %-6s %-16s %s\n", d->p ? 36 : 28, "", op_get(node->op)->in_names[i],
            v->name, dtype_get(v->dtype)->name, value_shape(v, shape, sizeof shape),
            bytes_text(row * n_rows, size, sizeof size));
    }
}

static void put_header(const dump *d)
{
    put(d, "%5s  %5s  %s%-10s  %-54s  inputs -> outputs%s\n", "node", "layer",
        d->p ? "device  " : "", "op", "parts", d->p ? " @offset +bytes in the arena" : "");
}

static void put_inputs(const dump *d)
{
    for (int32_t v = 0; v < d->g->n_values; v++) {
        if (d->g->values[v].kind != SOBRE_VALUE_INPUT) continue;
        if (!d->p) {
            put(d, "input ");
            put_value(d, 0, v);
            put(d, "\n");
        }
        for (int32_t i = 0; d->p && i < d->p->devices.n; i++) {
            if (d->p->spans[i][v].size == 0) continue;
            put(d, "input on device %d: ", (int)i);
            put_value(d, i, v);
            put(d, "\n");
        }
    }
}

static void put_graph(const dump *d, const char *title)
{
    put(d, "graph %s: %d nodes\n", title, (int)d->g->n_nodes);
    put_inputs(d);
    put_header(d);
    for (int32_t i = 0; i < d->g->n_nodes; i++) put_node(d, i);
}

static void put_plan(const dump *d)
{
    const plan *p = d->p;
    char arena[32], workspace[32];
    put(d, "plan for at most %d columns, %d rows, %d sequences%s: %d nodes, %d slices, %d copies",
        (int)p->n_cols, (int)p->n_rows, (int)p->n_seq, p->exact ? ", exact" : "",
        (int)d->g->n_nodes, (int)p->n_slices, (int)p->n_copies);
    if (p->n_launches > 0) put(d, ", %d launches", (int)p->n_launches);
    put(d, "\n");
    for (int32_t i = 0; i < p->devices.n; i++)
        put(d, "device %d: %s, %s: arena %s, workspace %s\n", (int)i,
            p->devices.entries[i]->backend->name,
            p->devices.entries[i]->info.name ? p->devices.entries[i]->info.name : "",
            bytes_text(p->arena_size[i], arena, sizeof arena),
            bytes_text(p->workspace_size[i], workspace, sizeof workspace));
    put_inputs(d);
    put_header(d);
    for (int32_t s = 0; s < p->n_slices; s++) {
        const plan_slice *slice = &p->slices[s];
        for (int32_t i = 0; i < slice->n_copies; i++) {
            const plan_copy *c = &p->copies[slice->first_copy + i];
            put(d, "%5s  %5s  %6d  %-10s  from device %-42d  ", "", "", (int)c->to, "copy",
                (int)c->from);
            put_value(d, c->to, c->value);
            put(d, "\n");
        }
        for (int32_t i = 0; i < slice->n_nodes; i++) put_node(d, slice->first_node + i);
    }
}

/* --- Graphviz */

/* A name inside quotes. */
static void put_escaped(const dump *d, const char *text)
{
    for (; *text; text++) put(d, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
}

static void dot_node(const dump *d, int32_t index)
{
    const sobre_node *node = &d->g->nodes[index];
    char parts[PARTS_SIZE], shape[112];
    if (node->layer >= 0)
        put(d, "  subgraph cluster_%d { label=\"layer %d\"; ", (int)node->layer, (int)node->layer);
    else
        put(d, "  { ");
    put(d, "n%d [label=\"%s", (int)index, op_get(node->op)->name);
    if (d->p) put(d, " on device %d", (int)d->p->node_device[index]);
    if (node_parts(node, parts)[0]) put(d, "\\n%s", parts);
    for (int32_t i = 0; i < node->n_in; i++) {
        const sobre_value *v = node->in[i] >= 0 ? &d->g->values[node->in[i]] : NULL;
        if (!v || v->kind != SOBRE_VALUE_WEIGHT) continue;
        put(d, "\\n");
        put_escaped(d, v->name);
        put(d, " %s %s", dtype_get(v->dtype)->name, value_shape(v, shape, sizeof shape));
    }
    put(d, "\"]; }\n");
}

static void dot_edge(const dump *d, const char *from, int32_t from_index, const char *to,
                     int32_t to_index, int32_t device, int32_t value)
{
    const sobre_value *v = &d->g->values[value];
    char shape[112];
    put(d, "  %s%d -> %s%d [label=\"%s", from, (int)from_index, to, (int)to_index,
        value_shape(v, shape, sizeof shape));
    put_place(d, device, value);
    put(d, "\"];\n");
}

static void put_dot(const dump *d, const char *title, const int32_t *producer)
{
    put(d, "digraph \"");
    put_escaped(d, title);
    put(d, "\" {\n  label=\"");
    put_escaped(d, title);
    put(d, "\";\n  node [shape=box];\n");
    for (int32_t v = 0; v < d->g->n_values; v++) {
        const sobre_value *value = &d->g->values[v];
        if (value->kind != SOBRE_VALUE_INPUT && value->kind != SOBRE_VALUE_OUTPUT) continue;
        put(d, "  v%d [shape=ellipse, label=\"", (int)v);
        put_escaped(d, value->name);
        put(d, "\"];\n");
    }
    for (int32_t n = 0; n < d->g->n_nodes; n++) dot_node(d, n);
    for (int32_t n = 0; n < d->g->n_nodes; n++) {
        const sobre_node *node = &d->g->nodes[n];
        int32_t device = d->p ? d->p->node_device[n] : 0;
        for (int32_t i = 0; i < node->n_in; i++) {
            int32_t v = node->in[i];
            if (v < 0 || d->g->values[v].kind == SOBRE_VALUE_WEIGHT) continue;
            if (producer[v] >= 0)
                dot_edge(d, "n", producer[v], "n", n, device, v);
            else
                dot_edge(d, "v", v, "n", n, device, v);
        }
        for (int32_t i = 0; i < node->n_out; i++)
            if (d->g->values[node->out[i]].kind == SOBRE_VALUE_OUTPUT)
                dot_edge(d, "n", n, "v", node->out[i], device, node->out[i]);
    }
    put(d, "}\n");
}

static sobre_status dot(sobre_context *ctx, const dump *d, const char *title)
{
    int32_t *counts = mem_alloc(ctx, (size_t)d->g->n_values, 2 * sizeof *counts);
    if (!counts) return SOBRE_OUT_OF_MEMORY;
    graph_uses(d->g, counts, counts + d->g->n_values);
    put_dot(d, title, counts + d->g->n_values);
    mem_free(ctx, counts);
    return SOBRE_OK;
}

sobre_status inspect_graph(sobre_context *ctx, const sobre_graph *g, const char *title,
                           sobre_dump_format format, const text_sink *sink)
{
    const dump d = {sink, g, NULL};
    TRY(sobre_graph_check(g));
    if (format == SOBRE_DUMP_DOT) return dot(ctx, &d, title);
    put_graph(&d, title);
    return SOBRE_OK;
}

sobre_status inspect_plan(const plan *p, sobre_dump_format format, const text_sink *sink)
{
    const dump d = {sink, p->graph, p};
    if (format == SOBRE_DUMP_DOT) return dot(p->ctx, &d, "plan");
    put_plan(&d);
    return SOBRE_OK;
}
