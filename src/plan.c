/* SPDX-License-Identifier: MIT */
/* Plans: which device runs each node, where each value lies there, what is copied between devices,
 * and the compiled slices. */
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "plan.h"

int32_t devices_pick(const device_set *devices, const sobre_value *values, const sobre_node *node)
{
    bool early = node->layer >= 0 ? node->layer < devices->first_layer
                                  : node->op == SOBRE_OP_EMBED && devices->first_layer > 0;
    for (int32_t i = early ? devices->n - 1 : 0; i < devices->n; i++) {
        const device_entry *d = devices->entries[i];
        if (d->backend->supports(d->device, values, node)) return i;
    }
    return -1;
}

/* When a value is on a device: steps are node indices, inclusive. `last` -1: never. */
typedef struct life {
    int32_t first, last;
} life;

/* What plan_make() needs only while it works. */
typedef struct making {
    plan *p;
    const sobre_graph *g;
    const plan_options *options;
    int32_t *producer;   /* [n_values] */
    life *lives;         /* [devices][n_values] */
    memplan_item *items; /* [n_values] */
} making;

static bool value_size(const plan *p, const sobre_value *v, uint64_t *ret_size)
{
    uint64_t size;
    int64_t dims[SOBRE_MAX_RANK];
    for (int32_t i = 0; i < v->rank; i++)
        dims[i] = v->dims[i] == SOBRE_DIM_T   ? p->n_cols
                  : v->dims[i] == SOBRE_DIM_R ? p->n_rows
                                              : v->dims[i];
    if (!dtype_row_size(v->dtype, dims[v->rank - 1], &size)) return false;
    for (int32_t i = 0; i + 1 < v->rank; i++)
        if (!checked_mul(size, (uint64_t)dims[i], &size)) return false;
    *ret_size = size;
    return true;
}

/* Finds the values that the executor fills and reads. */
static void find_roles(plan *p)
{
    int32_t *roles[] = {[SOBRE_INPUT_IDS] = &p->ids,
                        [SOBRE_INPUT_POS] = &p->pos,
                        [SOBRE_INPUT_ROWS] = &p->rows,
                        [SOBRE_INPUT_EMBD] = &p->embd,
                        [SOBRE_INPUT_SAMPLING] = &p->sampling};
    p->ids = p->pos = p->rows = p->embd = p->sampling = p->logits = p->picks = -1;
    for (int32_t v = p->graph->n_values - 1; v >= 0; v--) {
        const sobre_value *value = &p->graph->values[v];
        if (value->kind == SOBRE_VALUE_INPUT) *roles[value->input] = v;
        if (value->kind == SOBRE_VALUE_OUTPUT && value->dtype == SOBRE_F32) p->logits = v;
    }
    for (int32_t n = 0; n < p->graph->n_nodes; n++)
        if (p->graph->nodes[n].op == SOBRE_OP_SAMPLE) p->picks = p->graph->nodes[n].out[0];
}

/* Chooses devices, and allocates the slices and copies that follow from them. */
static sobre_status assign_devices(making *m)
{
    plan *p = m->p;
    int32_t n_slices = 0, n_copies = 0;
    for (int32_t n = 0; n < m->g->n_nodes; n++) {
        const sobre_node *node = &m->g->nodes[n];
        int32_t device = devices_pick(&p->devices, m->g->values, node);
        if (device < 0)
            return fail(p->ctx, SOBRE_UNSUPPORTED,
                        "plan: no device can run node %d, %s; lower the graph first", (int)n,
                        op_get(node->op)->name);
        p->node_device[n] = device;
        if (n == 0 || device != p->node_device[n - 1]) n_slices++;
        for (int32_t i = 0; i < node->n_in; i++) {
            int32_t maker = node->in[i] >= 0 ? m->producer[node->in[i]] : -1;
            if (maker >= 0 && p->node_device[maker] != device) n_copies++;
        }
    }
    p->slices = mem_alloc(p->ctx, (size_t)n_slices, sizeof *p->slices);
    p->copies = mem_alloc(p->ctx, (size_t)n_copies, sizeof *p->copies);
    return p->slices && p->copies ? SOBRE_OK : SOBRE_OUT_OF_MEMORY;
}

/* Notes that a node of the last slice reads a value. */
static void read_value(making *m, int32_t node, int32_t value)
{
    plan *p = m->p;
    plan_slice *slice = &p->slices[p->n_slices - 1];
    int32_t device = slice->device, n_values = m->g->n_values;
    const sobre_value *v = &m->g->values[value];
    life *here = &m->lives[(size_t)device * (size_t)n_values + (size_t)value];
    if (v->kind == SOBRE_VALUE_WEIGHT) {
        if (m->options->weights) p->spans[device][value] = m->options->weights[value];
        return;
    }
    if (v->kind == SOBRE_VALUE_INPUT) {
        *here = (life){0, m->g->n_nodes - 1};
        return;
    }
    int32_t home = p->node_device[m->producer[value]];
    if (here->last < 0) {
        life *there = &m->lives[(size_t)home * (size_t)n_values + (size_t)value];
        p->copies[p->n_copies++] = (plan_copy){value, home, device};
        slice->n_copies++;
        here->first = slice->first_node;
        if (there->last < slice->first_node) there->last = slice->first_node;
    }
    if (here->last < node) here->last = node;
}

/* Slices the nodes and finds out when each value is where. */
static void make_slices(making *m)
{
    plan *p = m->p;
    for (size_t i = 0; i < (size_t)p->devices.n * (size_t)m->g->n_values; i++)
        m->lives[i] = (life){0, -1};
    for (int32_t n = 0; n < m->g->n_nodes; n++) {
        const sobre_node *node = &m->g->nodes[n];
        int32_t device = p->node_device[n];
        if (n == 0 || device != p->node_device[n - 1])
            p->slices[p->n_slices++] =
                (plan_slice){.device = device, .first_node = n, .first_copy = p->n_copies};
        p->slices[p->n_slices - 1].n_nodes++;
        for (int32_t i = 0; i < node->n_in; i++)
            if (node->in[i] >= 0) read_value(m, n, node->in[i]);
        for (int32_t i = 0; i < node->n_out; i++) {
            size_t at = (size_t)device * (size_t)m->g->n_values + (size_t)node->out[i];
            bool is_output = m->g->values[node->out[i]].kind == SOBRE_VALUE_OUTPUT;
            m->lives[at] = is_output ? (life){0, m->g->n_nodes - 1} : (life){n, n};
        }
    }
}

/* Gives each value on a device its place in the arena. */
static sobre_status make_arena(making *m, int32_t device)
{
    plan *p = m->p;
    const device_entry *d = p->devices.entries[device];
    const life *lives = &m->lives[(size_t)device * (size_t)m->g->n_values];
    uint64_t align = d->backend->alignment(d->device), size;
    int32_t n = 0;
    for (int32_t v = 0; v < m->g->n_values; v++) {
        if (lives[v].last < 0) continue;
        memplan_item *item = &m->items[n++];
        *item = (memplan_item){.first = lives[v].first, .last = lives[v].last};
        sobre_span *span = &p->spans[device][v];
        if (!value_size(p, &m->g->values[v], &span->size) ||
            !checked_round_up(span->size, align, &item->size))
            return fail(p->ctx, SOBRE_OUT_OF_MEMORY,
                        "plan: value '%s' for %d columns is larger than 2^64 bytes; use fewer",
                        m->g->values[v].name, (int)p->n_cols);
    }
    TRY(memplan_assign(p->ctx, m->items, n, align, &size));
    if (n > 0 && size == 0) size = align; /* all are empty, but need a buffer to lie in */
    if (m->options->weights && n > 0)
        TRY(d->backend->buffer_alloc(d->device, size, SOBRE_BUFFER_ARENA, &p->arena[device]));
    p->arena_size[device] = size;
    n = 0;
    for (int32_t v = 0; v < m->g->n_values; v++) {
        if (lives[v].last < 0) continue;
        p->spans[device][v].buffer = p->arena[device];
        p->spans[device][v].offset = m->items[n++].ret_offset;
    }
    return SOBRE_OK;
}

static sobre_status check_kv(const making *m)
{
    const plan_options *o = m->options;
    for (int32_t n = 0; n < m->g->n_nodes; n++) {
        const sobre_node *node = &m->g->nodes[n];
        const sobre_attention_params *a = &node->p.attention;
        if (node->op != SOBRE_OP_ATTENTION || (!a->append && node->in[SOBRE_ATTN_K] >= 0)) continue;
        if (!o->kv_slots || a->kv < 0 || a->kv >= o->n_kv_slots || !o->kv_slots[a->kv].buffer)
            return fail(m->p->ctx, SOBRE_INVALID_ARGUMENT,
                        "plan: attention in layer %d uses cache %d, of which there are %d",
                        (int)node->layer, (int)a->kv, (int)o->n_kv_slots);
    }
    return SOBRE_OK;
}

static sobre_status make_program(making *m, plan_slice *slice)
{
    plan *p = m->p;
    const plan_options *o = m->options;
    const device_entry *d = p->devices.entries[slice->device];
    uint64_t size = 0, *total = &p->workspace_size[slice->device];
    slice->program = (sobre_program){.struct_size = sizeof slice->program,
                                     .values = m->g->values,
                                     .n_values = m->g->n_values,
                                     .nodes = m->g->nodes + slice->first_node,
                                     .n_nodes = slice->n_nodes,
                                     .spans = p->spans[slice->device],
                                     .n_cols = p->n_cols,
                                     .n_rows = p->n_rows,
                                     .n_seq = p->n_seq,
                                     .n_pages = o->n_pages,
                                     .kv_slots = o->kv_slots,
                                     .n_kv_slots = o->n_kv_slots,
                                     .exact = p->exact,
                                     .n_uses = p->n_uses};
    if (o->prepare && d->backend->prepare) d->backend->prepare(d->device, &slice->program);
    TRY(d->backend->workspace_size(d->device, &slice->program, &size));
    if (!checked_add(*total, size, total))
        return fail(p->ctx, SOBRE_OUT_OF_MEMORY,
                    "plan: the workspace of %s for %d columns is larger than 2^64 bytes; use fewer",
                    d->backend->name, (int)p->n_cols);
    if (!o->weights) return SOBRE_OK;
    TRY(d->backend->compile(d->device, &slice->program, &slice->exec));
    p->n_launches += d->backend->n_launches(slice->exec);
    return SOBRE_OK;
}

static bool is_host_visible(const plan *p, int32_t device)
{
    return p->devices.entries[device]->backend->host_pointer(p->arena[device]);
}

/* Logits; or results of sampling, and behind them a row of logits. */
static uint64_t staging_for_outputs(const plan *p)
{
    const sobre_value *logits = &p->graph->values[p->logits];
    uint64_t size = 0;
    if (p->picks >= 0 && !is_host_visible(p, p->picks_device))
        size = p->spans[p->picks_device][p->picks].size;
    if (is_host_visible(p, p->logits_device)) return size;
    return p->picks >= 0 ? size + (uint64_t)value_elements(logits, 1, 1) * sizeof(float)
                         : p->spans[p->logits_device][p->logits].size;
}

/* Host memory for what no device lets the host touch. */
static sobre_status make_staging(making *m)
{
    plan *p = m->p;
    uint64_t size = 0;
    size_t host_size;
    for (int32_t i = 0; i < p->n_copies; i++) {
        const plan_copy *c = &p->copies[i];
        uint64_t need = p->spans[c->from][c->value].size;
        if (need > size && !is_host_visible(p, c->from) && !is_host_visible(p, c->to)) size = need;
    }
    if (p->logits >= 0) {
        uint64_t need = staging_for_outputs(p);
        if (need > size) size = need;
    }
    if (size == 0) return SOBRE_OK;
    if (!checked_size(size, &host_size))
        return fail(p->ctx, SOBRE_OUT_OF_MEMORY, "plan: %llu bytes of staging memory are too many",
                    (unsigned long long)size);
    p->staging = mem_alloc_aligned(p->ctx, host_size, 64);
    if (!p->staging) return SOBRE_OUT_OF_MEMORY;
    p->staging_size = size;
    return SOBRE_OK;
}

static sobre_status make_all(making *m)
{
    plan *p = m->p;
    size_t n_values = (size_t)m->g->n_values, n_nodes = (size_t)m->g->n_nodes;
    size_t n_devices = (size_t)p->devices.n;
    p->n_uses = mem_alloc(p->ctx, n_values, sizeof *p->n_uses);
    m->producer = mem_alloc(p->ctx, n_values, sizeof *m->producer);
    m->lives = mem_alloc(p->ctx, n_values, n_devices * sizeof *m->lives);
    m->items = mem_alloc(p->ctx, n_values, sizeof *m->items);
    p->node_device = mem_alloc(p->ctx, n_nodes, sizeof *p->node_device);
    if (!p->n_uses || !m->producer || !m->lives || !m->items || !p->node_device)
        return SOBRE_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_devices; i++) {
        p->spans[i] = mem_alloc(p->ctx, n_values, sizeof **p->spans);
        if (!p->spans[i]) return SOBRE_OUT_OF_MEMORY;
    }
    graph_uses(m->g, p->n_uses, m->producer);
    find_roles(p);
    TRY(assign_devices(m));
    make_slices(m);
    p->logits_device = p->logits >= 0 ? p->node_device[m->producer[p->logits]] : -1;
    p->picks_device = p->picks >= 0 ? p->node_device[m->producer[p->picks]] : -1;
    if (m->options->weights) TRY(check_kv(m));
    for (int32_t i = 0; i < p->devices.n; i++) TRY(make_arena(m, i));
    for (int32_t i = 0; i < p->n_slices; i++) TRY(make_program(m, &p->slices[i]));
    return m->options->weights ? make_staging(m) : SOBRE_OK;
}

sobre_status plan_make(sobre_context *ctx, const sobre_graph *graph, const plan_options *options,
                       plan **ret_plan)
{
    const plan_options *o = options;
    TRY(sobre_graph_check(graph));
    if (o->n_cols < 1 || o->n_rows < 0 || o->n_rows > o->n_cols || o->n_seq < 1)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "plan: %d columns, %d rows, %d sequences",
                    (int)o->n_cols, (int)o->n_rows, (int)o->n_seq);
    plan *p = mem_alloc(ctx, 1, sizeof *p);
    if (!p) return SOBRE_OUT_OF_MEMORY;
    p->ctx = ctx;
    p->graph = graph;
    p->devices = *o->devices;
    p->n_cols = o->n_cols;
    p->n_rows = o->n_rows;
    p->n_seq = o->n_seq;
    p->exact = o->exact;
    making m = {.p = p, .g = graph, .options = o};
    sobre_status status = make_all(&m);
    mem_free(ctx, m.producer);
    mem_free(ctx, m.lives);
    mem_free(ctx, m.items);
    if (status < 0)
        plan_free(p);
    else
        *ret_plan = p;
    return status;
}

void plan_free(plan *p)
{
    if (!p) return;
    for (int32_t i = 0; i < p->n_slices; i++)
        if (p->slices[i].exec)
            p->devices.entries[p->slices[i].device]->backend->exec_free(p->slices[i].exec);
    for (int32_t i = 0; i < p->devices.n; i++) {
        if (p->arena[i]) p->devices.entries[i]->backend->buffer_free(p->arena[i]);
        mem_free(p->ctx, p->spans[i]);
    }
    mem_free(p->ctx, p->node_device);
    mem_free(p->ctx, p->n_uses);
    mem_free(p->ctx, p->slices);
    mem_free(p->ctx, p->copies);
    mem_free(p->ctx, p->staging);
    mem_free(p->ctx, p);
}
