/* SPDX-License-Identifier: MIT */
/* What a run does: bytes and operations follow from the nodes and from the sizes that devices give
 * to weights and caches, launches from the devices. Nothing is allocated on them. */
#include "cost.h"

#include <string.h>

#include "fit.h"
#include "kv.h"

/* One count. */
typedef struct counting {
    const sobre_graph *g;
    const device_set *devices;
    const cache *c;
    int64_t n_cols, n_rows, n_past;
    sobre_cost *cost;
} counting;

/* Matrices and vectors are read whole, once; of a table the rows that are looked up. */
static sobre_status add_weight(const counting *k, const device_entry *e, const sobre_node *node,
                               int32_t slot)
{
    const sobre_weight w =
        weight_describe(&k->g->values[node->in[slot]], weight_slot_use(node->op, slot));
    uint64_t size;

    TRY(e->backend->weight_size(e->device, &w, &size));
    if (w.uses == SOBRE_WEIGHT_TABLE)
        size = size / (uint64_t)w.n_rows *
               (uint64_t)value_elements(&k->g->values[node->in[SOBRE_EMBED_IDS]], k->n_cols,
                                        k->n_rows);
    k->cost->weight_bytes += size;
    return SOBRE_OK;
}

static uint64_t activation_size(const counting *k, int32_t value)
{
    const uint64_t element = 4; /* f32 or i32 */
    return (uint64_t)value_elements(&k->g->values[value], k->n_cols, k->n_rows) * element;
}

/* Of an activation whose rows are gathered, only those are read. */
static void add_activations(const counting *k, const sobre_node *node)
{
    uint64_t size = 0;

    for (int32_t i = 0; i < node->n_out; i++) size += activation_size(k, node->out[i]);
    for (int32_t i = 0; i < node->n_in; i++) {
        bool gathered = node->op == SOBRE_OP_GATHER && i == SOBRE_GATHER_X;

        if (node->in[i] < 0 || k->g->values[node->in[i]].kind == SOBRE_VALUE_WEIGHT) continue;
        size += activation_size(k, gathered ? node->out[0] : node->in[i]);
    }
    k->cost->activation_bytes += size;
}

/* The positions that any column sees are read once; those that it brings are written. */
static void add_cache(const counting *k, const sobre_attention_params *p)
{
    int64_t seen = k->n_past + k->n_cols, most = (int64_t)p->window + k->n_cols - 1;

    if (p->kv < 0 || p->kv >= k->c->n) return;
    if (p->window > 0 && most < seen) seen = most;
    if (p->append) seen += k->n_cols;
    k->cost->kv_bytes += (uint64_t)seen * (k->c->slots[p->kv].page_size / SOBRE_KV_PAGE);
}

static sobre_status add_node(const counting *k, const sobre_node *node)
{
    const device_entry *e =
        k->devices->entries[devices_pick(k->devices, k->g->values, node)]; /* the plan has one */
    /* A causal column sees those before it: on average half of what the run brings. */
    const int64_t kv_len = k->n_past + (k->n_cols + 1) / 2;

    for (int32_t i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && k->g->values[node->in[i]].kind == SOBRE_VALUE_WEIGHT)
            TRY(add_weight(k, e, node, i));
    add_activations(k, node);
    if (node->op == SOBRE_OP_ATTENTION) add_cache(k, &node->p.attention);
    k->cost->flop +=
        (uint64_t)op_get(node->op)->flops(k->g->values, node, k->n_cols, k->n_rows, kv_len);
    return SOBRE_OK;
}

static sobre_status add_launches(const plan *p, sobre_cost *cost)
{
    for (int32_t i = 0; i < p->n_slices; i++) {
        const plan_slice *slice = &p->slices[i];
        const device_entry *e = p->devices.entries[slice->device];
        int32_t n = slice->n_nodes;

        if (e->backend->count_launches)
            TRY(e->backend->count_launches(e->device, &slice->program, &n));
        cost->n_launches += n;
    }
    return SOBRE_OK;
}

sobre_status cost_count(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                        const cache *c, int32_t n_cols, int32_t n_past, sobre_cost *ret_cost)
{
    sobre_cost cost = SOBRE_INIT(cost);
    const counting k = {g, devices, c, n_cols, 1, n_past, &cost};
    const plan_options o = {.devices = devices,
                            .n_cols = n_cols,
                            .n_rows = (int32_t)k.n_rows,
                            .n_seq = 1,
                            .kv_slots = c->slots,
                            .n_kv_slots = c->n,
                            .n_pages = (int32_t)c->n_pages};
    plan *p = NULL;
    sobre_status status;

    TRY(plan_make(ctx, g, &o, &p));
    status = add_launches(p, &cost);
    plan_free(p);
    for (int32_t i = 0; i < g->n_nodes && status >= 0; i++) status = add_node(&k, &g->nodes[i]);
    if (status >= 0) *ret_cost = cost;
    return status;
}

static sobre_status count(sobre_model *m, const sobre_graph *fused, const device_set *devices,
                          const sobre_placement *p, int32_t n_cols, int32_t n_past,
                          sobre_cost *ret_cost)
{
    sobre_graph *sampling = NULL;
    cache c = {0};
    sobre_status status;

    TRY(graph_take_sampling(fused, devices, &sampling));
    if (sampling) fused = sampling;
    status =
        cache_open(m->ctx, fused, devices, m->kv, m->n_kv, p->kv_type, kv_pages_for(p->n_ctx), &c);
    if (status >= 0) {
        status = cost_count(m->ctx, fused, devices, &c, n_cols, n_past, ret_cost);
        cache_close(&c);
    }
    sobre_graph_close(sampling);
    return status;
}

sobre_status sobre_model_cost(sobre_model *model, const sobre_fit_options *options, int32_t n_cols,
                              int32_t n_past, sobre_cost *ret_cost)
{
    sobre_cost cost;
    sobre_placement p;
    sobre_graph *fused;
    device_set devices;
    sobre_status status;
    size_t size;

    if (!model) return SOBRE_INVALID_ARGUMENT;
    if (!ret_cost || ret_cost->struct_size < sizeof(size_t))
        return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "sobre_cost.struct_size is not set");
    TRY(model_check_runs(model));
    TRY(fit_make(model, options, &devices, &fused, &p));
    if (n_cols < 1 || n_cols > p.n_chunk || n_past < 0 || n_past > p.n_ctx - n_cols)
        status = fail(model->ctx, SOBRE_INVALID_ARGUMENT,
                      "a run of %d columns after %d positions: it must have 1 to %d columns, and "
                      "%d positions in all at most",
                      (int)n_cols, (int)n_past, (int)p.n_chunk, (int)p.n_ctx);
    else
        status = count(model, fused, &devices, &p, n_cols, n_past, &cost);
    sobre_graph_close(fused);
    if (status < 0) return status;
    size = ret_cost->struct_size;
    cost.struct_size = size;
    memcpy(ret_cost, &cost, size < sizeof cost ? size : sizeof cost);
    return SOBRE_OK;
}
