/* SPDX-License-Identifier: MIT */
/* Lowering: a node that no device supports is expanded into simpler ones, by a table of rules,
 * until every node can run somewhere. */
#include <stdio.h>
#include <string.h>

#include "dtype.h"
#include "plan.h"

enum { MAX_EXPANSION = 2 * SOBRE_MAX_OUT };

/* What a rule puts in a node's place. The last node writes the original outputs. */
typedef struct expansion {
    sobre_graph *g;
    sobre_node nodes[MAX_EXPANSION];
    int32_t n;
} expansion;

typedef struct rule {
    sobre_op op;
    /* False, with nothing done, if there is nothing to expand. */
    bool (*expand)(expansion *e, const sobre_node *node);
} rule;

/* A node with one output, shaped like `like`, in the same layer as `near`. */
static int32_t emit(expansion *e, const sobre_node *at, sobre_op op, int32_t n_in,
                    const int32_t *in, int32_t like, int32_t out)
{
    sobre_node *node = &e->nodes[e->n++];
    *node = (sobre_node){.op = op, .layer = at->layer, .n_in = n_in, .n_out = 1};
    memcpy(node->in, in, (size_t)n_in * sizeof *in);
    node->out[0] = out >= 0 ? out : graph_temp(e->g, op, &e->g->values[like]);
    node_trim(node);
    return node->out[0];
}

#define EMIT(e, at, op, like, out, ...)                                                  \
    emit((e), (at), (op), (int32_t)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), \
         (int32_t[]){__VA_ARGS__}, (like), (out))

/* The node itself, changed by the caller. */
static sobre_node *emit_copy(expansion *e, const sobre_node *node)
{
    sobre_node *copy = &e->nodes[e->n++];
    *copy = *node;
    return copy;
}

static bool embed_factor(expansion *e, const sobre_node *node)
{
    if (node->p.factor == 1) return false;
    sobre_node *embed = emit_copy(e, node);
    embed->p.factor = 1;
    embed->out[0] = graph_temp(e->g, SOBRE_OP_EMBED, &e->g->values[node->out[0]]);
    EMIT(e, node, SOBRE_OP_SCALE, node->out[0], node->out[0], embed->out[0]);
    e->nodes[e->n - 1].p.factor = node->p.factor;
    return true;
}

static bool matmul_residual(expansion *e, const sobre_node *node)
{
    int32_t residual = node->in[SOBRE_MATMUL_RESIDUAL];
    if (residual < 0) return false;
    sobre_node *mm = emit_copy(e, node);
    mm->in[SOBRE_MATMUL_RESIDUAL] = -1;
    mm->out[0] = graph_temp(e->g, SOBRE_OP_MATMUL, &e->g->values[node->out[0]]);
    EMIT(e, node, SOBRE_OP_ADD, node->out[0], node->out[0], mm->out[0], residual);
    return true;
}

static bool matmul_glu(expansion *e, const sobre_node *node)
{
    if (node->p.matmul.glu == SOBRE_ACT_NONE) return false;
    sobre_node *mm = emit_copy(e, node);
    mm->p.matmul.glu = SOBRE_ACT_NONE;
    mm->n_out = 2;
    for (int32_t i = 0; i < 2; i++)
        mm->out[i] = graph_temp(e->g, SOBRE_OP_MATMUL, &e->g->values[node->out[0]]);
    EMIT(e, node, SOBRE_OP_GLU, node->out[0], node->out[0], mm->out[0], mm->out[1]);
    e->nodes[e->n - 1].p.act = node->p.matmul.glu;
    return true;
}

static bool matmul_bias(expansion *e, const sobre_node *node)
{
    sobre_node *mm = emit_copy(e, node);
    for (int32_t i = 0; i < node->p.matmul.n_weights; i++) {
        int32_t *bias = &mm->in[SOBRE_MATMUL_B0 + 2 * i];
        if (*bias < 0) continue;
        mm->out[i] = graph_temp(e->g, SOBRE_OP_MATMUL, &e->g->values[node->out[i]]);
        EMIT(e, node, SOBRE_OP_ADD, node->out[i], node->out[i], mm->out[i], *bias);
        *bias = -1;
    }
    if (e->n > 1) return true;
    e->n = 0;
    return false;
}

static bool matmul_norm(expansion *e, const sobre_node *node)
{
    if (node->p.matmul.norm.kind == SOBRE_NORM_NONE) return false;
    int32_t x = EMIT(e, node, SOBRE_OP_NORM, node->in[SOBRE_MATMUL_X], -1, node->in[SOBRE_MATMUL_X],
                     node->in[SOBRE_MATMUL_NORM_W], node->in[SOBRE_MATMUL_NORM_B]);
    e->nodes[0].p.norm = node->p.matmul.norm;
    sobre_node *mm = emit_copy(e, node);
    mm->p.matmul.norm = (sobre_norm_params){SOBRE_NORM_NONE, 0};
    mm->in[SOBRE_MATMUL_X] = x;
    mm->in[SOBRE_MATMUL_NORM_W] = mm->in[SOBRE_MATMUL_NORM_B] = -1;
    return true;
}

static bool matmul_split(expansion *e, const sobre_node *node)
{
    if (node->p.matmul.n_weights < 2) return false;
    for (int32_t i = 0; i < node->p.matmul.n_weights; i++) {
        sobre_node *mm = emit_copy(e, node);
        mm->p.matmul.n_weights = 1;
        mm->n_out = 1;
        mm->n_in = SOBRE_MATMUL_B0 + 1;
        mm->in[SOBRE_MATMUL_W0] = node->in[SOBRE_MATMUL_W0 + 2 * i];
        mm->in[SOBRE_MATMUL_B0] = node->in[SOBRE_MATMUL_B0 + 2 * i];
        mm->out[0] = node->out[i];
    }
    return true;
}

static bool attention_prologue(expansion *e, const sobre_node *node)
{
    const sobre_attention_params *p = &node->p.attention;
    bool has_rope = p->rope.kind != SOBRE_ROPE_NONE, has_norm = p->qk_norm.kind != SOBRE_NORM_NONE;
    if (!has_rope && !has_norm) return false;
    /* A norm node knows the heads only by its weight's length. */
    if (has_norm && (node->in[SOBRE_ATTN_Q_NORM] < 0 || node->in[SOBRE_ATTN_K_NORM] < 0))
        return false;
    sobre_node copy = *node;
    for (int32_t slot = SOBRE_ATTN_Q; slot <= SOBRE_ATTN_K; slot++) {
        bool is_q = slot == SOBRE_ATTN_Q;
        int32_t like = node->in[slot], x = like;
        if (x < 0) continue;
        if (has_norm) {
            x = EMIT(e, node, SOBRE_OP_NORM, like, -1, x,
                     node->in[is_q ? SOBRE_ATTN_Q_NORM : SOBRE_ATTN_K_NORM]);
            e->nodes[e->n - 1].p.norm = p->qk_norm;
        }
        if (has_rope) {
            x = EMIT(e, node, SOBRE_OP_ROPE, like, -1, x, node->in[SOBRE_ATTN_POS],
                     node->in[SOBRE_ATTN_FACTORS]);
            e->nodes[e->n - 1].p.rope =
                (sobre_rope_node_params){p->rope, is_q ? p->n_head : p->n_head_kv, p->head_dim};
        }
        copy.in[slot] = x;
    }
    copy.p.attention.rope = (sobre_rope_params){0};
    copy.p.attention.qk_norm = (sobre_norm_params){SOBRE_NORM_NONE, 0};
    copy.in[SOBRE_ATTN_FACTORS] = copy.in[SOBRE_ATTN_Q_NORM] = copy.in[SOBRE_ATTN_K_NORM] = -1;
    *emit_copy(e, node) = copy;
    return true;
}

static bool glu_parts(expansion *e, const sobre_node *node)
{
    int32_t gate = EMIT(e, node, SOBRE_OP_ACTIVATION, node->out[0], -1, node->in[SOBRE_GLU_GATE]);
    e->nodes[0].p.act = node->p.act;
    EMIT(e, node, SOBRE_OP_MUL, node->out[0], node->out[0], gate, node->in[SOBRE_GLU_UP]);
    return true;
}

/* Tried in this order. Each takes something away for good, so lowering ends. */
static const rule rules[] = {
    {SOBRE_OP_EMBED, embed_factor},
    {SOBRE_OP_MATMUL, matmul_residual},
    {SOBRE_OP_MATMUL, matmul_glu},
    {SOBRE_OP_MATMUL, matmul_bias},
    {SOBRE_OP_MATMUL, matmul_norm},
    {SOBRE_OP_MATMUL, matmul_split},
    {SOBRE_OP_ATTENTION, attention_prologue},
    {SOBRE_OP_GLU, glu_parts},
};

static sobre_status unsupported(const sobre_graph *g, const device_set *devices,
                                const sobre_node *node)
{
    char names[160] = "", layer[32] = "", weight[SOBRE_NAME_SIZE + 48] = "";
    for (int32_t i = 0, n = 0; i < devices->n && n < (int32_t)sizeof names; i++) {
        const device_entry *d = devices->entries[i];
        n += snprintf(names + n, sizeof names - (size_t)n, "%s%s", i ? ", " : "", d->backend->name);
    }
    if (node->layer >= 0) snprintf(layer, sizeof layer, " in layer %d", (int)node->layer);
    for (int32_t i = 0; i < node->n_in && !weight[0]; i++) {
        const sobre_value *v = node->in[i] >= 0 ? &g->values[node->in[i]] : NULL;
        if (v && v->kind == SOBRE_VALUE_WEIGHT && v->rank == 2)
            snprintf(weight, sizeof weight, " (weight '%s', %s)", v->name,
                     dtype_get(v->dtype)->name);
    }
    return fail(g->ctx, SOBRE_UNSUPPORTED,
                "graph: no device can run %s%s%s; asked: %s; choose another device",
                op_get(node->op)->name, layer, weight, names[0] ? names : "none");
}

static sobre_status lower_node(sobre_graph *g, const device_set *devices, const sobre_node *node)
{
    if (devices_pick(devices, g->values, node) >= 0) return graph_append(g, node);
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        expansion e = {.g = g};
        if (rules[r].op != node->op || !rules[r].expand(&e, node)) continue;
        for (int32_t i = 0; i < e.n && g->status >= 0; i++) {
            node_trim(&e.nodes[i]);
            TRY(lower_node(g, devices, &e.nodes[i]));
        }
        return g->status;
    }
    return unsupported(g, devices, node);
}

sobre_status graph_lower(sobre_graph *g, const device_set *devices)
{
    TRY(sobre_graph_check(g));
    sobre_node *old = g->nodes;
    int32_t n_old = g->n_nodes;
    g->nodes = NULL;
    g->n_nodes = g->nodes_capacity = 0;
    sobre_status status = SOBRE_OK;
    for (int32_t i = 0; i < n_old && status >= 0; i++) status = lower_node(g, devices, &old[i]);
    mem_free(g->ctx, old);
    return status;
}
