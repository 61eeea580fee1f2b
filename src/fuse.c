/* SPDX-License-Identifier: MIT */
/* Fusion: neighbours become one node, by a table of rules. A candidate replaces its parts only if
 * it will run on the device that runs them, or on one that is preferred to it. No value is added,
 * but that of a weight which several devices use.
 */
#include <string.h>

#include "plan.h"

typedef struct fusion {
    sobre_graph *g;
    const device_set *devices;
    int32_t *n_uses, *producer; /* [n_values], kept up to date */
} fusion;

typedef struct rule {
    sobre_op op;                          /* of the node that a match is looked for at */
    bool (*apply)(fusion *f, int32_t at); /* true if the graph changed */
} rule;

/* The node that makes a value that only one node reads; NULL if there is none or it is another op.
 */
static sobre_node *sole_maker(const fusion *f, int32_t value, sobre_op op)
{
    if (value < 0 || f->producer[value] < 0 || f->n_uses[value] != 1) return NULL;
    sobre_node *node = &f->g->nodes[f->producer[value]];
    return node->op == op ? node : NULL;
}

/* Would the candidate run where its parts do, or better? */
static bool accepted(const fusion *f, const sobre_node *candidate, int32_t n_parts,
                     const sobre_node *const *parts)
{
    int32_t device = devices_pick(f->devices, f->g->values, candidate);
    for (int32_t i = 0; i < n_parts && device >= 0; i++)
        if (device > devices_pick(f->devices, f->g->values, parts[i])) device = -1;
    return device >= 0;
}

/* Puts an accepted candidate in the place of its parts, at position `at`. */
static bool replace(fusion *f, sobre_node *candidate, int32_t at, int32_t n_parts,
                    sobre_node *const *parts)
{
    candidate->n_in = SOBRE_MAX_IN;
    node_trim(candidate);
    if (!accepted(f, candidate, n_parts, (const sobre_node *const *)parts)) return false;
    for (int32_t i = 0; i < n_parts; i++) parts[i]->op = SOBRE_N_OPS;
    f->g->nodes[at] = *candidate;
    graph_uses(f->g, f->n_uses, f->producer);
    return true;
}

static bool same_norm(const sobre_norm_params *a, const sobre_norm_params *b)
{
    return a->kind == b->kind && a->eps == b->eps;
}

static bool same_rope(const sobre_rope_params *a, const sobre_rope_params *b)
{
    return a->kind == b->kind && a->n_dims == b->n_dims && a->base == b->base &&
           a->scale == b->scale;
}

/* Has neither a GLU nor a residual, so that its outputs are plain products (with biases). */
static bool is_plain(const sobre_node *mm)
{
    return mm->op == SOBRE_OP_MATMUL && mm->p.matmul.glu == SOBRE_ACT_NONE &&
           mm->in[SOBRE_MATMUL_RESIDUAL] < 0;
}

/* Do two products read the same input, through the same norm? */
static bool same_input(const sobre_node *a, const sobre_node *b)
{
    return a->in[SOBRE_MATMUL_X] == b->in[SOBRE_MATMUL_X] &&
           a->in[SOBRE_MATMUL_NORM_W] == b->in[SOBRE_MATMUL_NORM_W] &&
           a->in[SOBRE_MATMUL_NORM_B] == b->in[SOBRE_MATMUL_NORM_B] &&
           same_norm(&a->p.matmul.norm, &b->p.matmul.norm);
}

/* Adds b's weights, biases and outputs behind a's. */
static void add_weights(sobre_node *a, const sobre_node *b)
{
    int32_t n = a->p.matmul.n_weights;
    for (int32_t i = 0; i < b->p.matmul.n_weights; i++, n++) {
        a->in[SOBRE_MATMUL_W0 + 2 * n] = b->in[SOBRE_MATMUL_W0 + 2 * i];
        a->in[SOBRE_MATMUL_B0 + 2 * n] = b->in[SOBRE_MATMUL_B0 + 2 * i];
        a->out[n] = b->out[i];
    }
    a->p.matmul.n_weights = a->n_out = n;
}

/* matmul, add [C] -> matmul with bias */
static bool fuse_bias(fusion *f, int32_t at)
{
    sobre_node *add = &f->g->nodes[at];
    int32_t product = add->in[SOBRE_BINARY_A], bias = add->in[SOBRE_BINARY_B];
    sobre_node *mm = sole_maker(f, product, SOBRE_OP_MATMUL);
    if (!mm || !is_plain(mm) || f->g->values[bias].kind != SOBRE_VALUE_WEIGHT) return false;
    int32_t i = 0;
    while (mm->out[i] != product) i++;
    if (mm->in[SOBRE_MATMUL_B0 + 2 * i] >= 0) return false;
    sobre_node fused = *mm;
    fused.in[SOBRE_MATMUL_B0 + 2 * i] = bias;
    fused.out[i] = add->out[0];
    return replace(f, &fused, f->producer[product], 2, (sobre_node *[]){mm, add});
}

/* glu(matmul, matmul) -> matmul with glu. Before siblings, so that gate and up find each other
 * where more products share their input. */
static bool fuse_glu(fusion *f, int32_t at)
{
    sobre_node *glu = &f->g->nodes[at];
    int32_t gate_value = glu->in[SOBRE_GLU_GATE], up_value = glu->in[SOBRE_GLU_UP];
    sobre_node *gate = sole_maker(f, gate_value, SOBRE_OP_MATMUL);
    sobre_node *up = sole_maker(f, up_value, SOBRE_OP_MATMUL);
    if (!gate || !up || !is_plain(gate) || !is_plain(up) || !same_input(gate, up)) return false;
    sobre_node fused = *gate;
    if (gate != up && gate->p.matmul.n_weights == 1 && up->p.matmul.n_weights == 1)
        add_weights(&fused, up);
    else if (gate != up || gate->p.matmul.n_weights != 2 || gate->out[0] != gate_value)
        return false;
    fused.p.matmul.glu = glu->p.act;
    fused.n_out = 1;
    fused.out[0] = glu->out[0];
    int32_t first = gate < up ? f->producer[gate_value] : f->producer[up_value];
    return replace(f, &fused, first, 3, (sobre_node *[]){gate, up, glu});
}

/* matmul(x, W0), matmul(x, W1) -> matmul(x; W0, W1), up to four in one layer */
static bool fuse_siblings(fusion *f, int32_t at)
{
    sobre_node *first = &f->g->nodes[at];
    if (!is_plain(first) || f->n_uses[first->in[SOBRE_MATMUL_X]] < 2) return false;
    for (int32_t i = at + 1; i < f->g->n_nodes; i++) {
        sobre_node *other = &f->g->nodes[i];
        if (!is_plain(other) || other->layer != first->layer || !same_input(first, other) ||
            first->p.matmul.n_weights + other->p.matmul.n_weights > SOBRE_MAX_OUT)
            continue;
        sobre_node fused = *first;
        add_weights(&fused, other);
        if (replace(f, &fused, at, 2, (sobre_node *[]){first, other})) return true;
    }
    return false;
}

/* norm, matmul -> matmul with norm; for all readers of the norm or for none */
static bool fuse_norm(fusion *f, int32_t at)
{
    sobre_node *norm = &f->g->nodes[at];
    int32_t y = norm->out[0], w = norm->in[SOBRE_NORM_W], n_left = f->n_uses[y];
    if (w >= 0 && f->g->values[w].dims[0] != f->g->values[y].dims[1]) return false;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t i = at + 1; i < f->g->n_nodes; i++) {
            sobre_node *mm = &f->g->nodes[i];
            if (mm->op != SOBRE_OP_MATMUL || mm->in[SOBRE_MATMUL_X] != y ||
                mm->p.matmul.norm.kind != SOBRE_NORM_NONE)
                continue;
            sobre_node fused = *mm;
            fused.in[SOBRE_MATMUL_X] = norm->in[SOBRE_NORM_X];
            fused.in[SOBRE_MATMUL_NORM_W] = w;
            fused.in[SOBRE_MATMUL_NORM_B] = norm->in[SOBRE_NORM_B];
            fused.p.matmul.norm = norm->p.norm;
            if (pass == 1)
                *mm = fused;
            else if (accepted(f, &fused, 2, (const sobre_node *[]){norm, mm}))
                n_left--;
        }
        if (n_left > 0 || f->n_uses[y] == 0) return false;
    }
    norm->op = SOBRE_N_OPS;
    graph_uses(f->g, f->n_uses, f->producer);
    return true;
}

/* The maker of q or k, if it is a RoPE that the attention could do itself. */
static sobre_node *rope_of(const fusion *f, const sobre_node *attention, int32_t slot)
{
    const sobre_attention_params *p = &attention->p.attention;
    sobre_node *rope = sole_maker(f, attention->in[slot], SOBRE_OP_ROPE);
    int32_t n_head = slot == SOBRE_ATTN_Q ? p->n_head : p->n_head_kv;
    int32_t pos = attention->in[SOBRE_ATTN_POS];
    bool good = rope && rope->p.rope.head_dim == p->head_dim && rope->p.rope.n_head == n_head &&
                (pos < 0 || pos == rope->in[SOBRE_ROPE_POS]);
    return good ? rope : NULL;
}

/* attention(rope(q), rope(k)) -> attention with rope */
static bool fuse_rope(fusion *f, int32_t at)
{
    sobre_node *attention = &f->g->nodes[at];
    sobre_node *q = rope_of(f, attention, SOBRE_ATTN_Q), *k = rope_of(f, attention, SOBRE_ATTN_K);
    bool has_k = attention->in[SOBRE_ATTN_K] >= 0;
    if (attention->p.attention.rope.kind != SOBRE_ROPE_NONE ||
        attention->p.attention.qk_norm.kind != SOBRE_NORM_NONE || !q || (has_k && !k))
        return false;
    if (has_k && (!same_rope(&q->p.rope.rope, &k->p.rope.rope) ||
                  q->in[SOBRE_ROPE_POS] != k->in[SOBRE_ROPE_POS] ||
                  q->in[SOBRE_ROPE_FACTORS] != k->in[SOBRE_ROPE_FACTORS]))
        return false;
    sobre_node fused = *attention;
    fused.p.attention.rope = q->p.rope.rope;
    fused.in[SOBRE_ATTN_Q] = q->in[SOBRE_ROPE_X];
    fused.in[SOBRE_ATTN_K] = has_k ? k->in[SOBRE_ROPE_X] : -1;
    fused.in[SOBRE_ATTN_POS] = q->in[SOBRE_ROPE_POS];
    fused.in[SOBRE_ATTN_FACTORS] = q->in[SOBRE_ROPE_FACTORS];
    return replace(f, &fused, at, has_k ? 3 : 2, (sobre_node *[]){attention, q, k});
}

/* The maker of q or k, if it is a norm over each head. */
static sobre_node *head_norm_of(const fusion *f, const sobre_node *attention, int32_t slot)
{
    sobre_node *norm = sole_maker(f, attention->in[slot], SOBRE_OP_NORM);
    if (!norm || norm->in[SOBRE_NORM_W] < 0 || norm->in[SOBRE_NORM_B] >= 0) return NULL;
    const sobre_value *w = &f->g->values[norm->in[SOBRE_NORM_W]];
    return w->dims[0] == attention->p.attention.head_dim ? norm : NULL;
}

/* attention(norm(q), norm(k)) -> attention with norms per head, which come before its rope */
static bool fuse_qk_norm(fusion *f, int32_t at)
{
    sobre_node *attention = &f->g->nodes[at];
    sobre_node *q = head_norm_of(f, attention, SOBRE_ATTN_Q);
    sobre_node *k = head_norm_of(f, attention, SOBRE_ATTN_K);
    if (attention->p.attention.qk_norm.kind != SOBRE_NORM_NONE || !q || !k ||
        !same_norm(&q->p.norm, &k->p.norm))
        return false;
    sobre_node fused = *attention;
    fused.p.attention.qk_norm = q->p.norm;
    fused.in[SOBRE_ATTN_Q] = q->in[SOBRE_NORM_X];
    fused.in[SOBRE_ATTN_K] = k->in[SOBRE_NORM_X];
    fused.in[SOBRE_ATTN_Q_NORM] = q->in[SOBRE_NORM_W];
    fused.in[SOBRE_ATTN_K_NORM] = k->in[SOBRE_NORM_W];
    return replace(f, &fused, at, 3, (sobre_node *[]){attention, q, k});
}

/* add(matmul, r) -> matmul with residual, where the add stood: there both are known */
static bool fuse_residual(fusion *f, int32_t at)
{
    sobre_node *add = &f->g->nodes[at];
    if (f->g->values[add->in[SOBRE_BINARY_B]].kind == SOBRE_VALUE_WEIGHT) return false;
    for (int32_t side = 0; side < 2; side++) {
        sobre_node *mm = sole_maker(f, add->in[side], SOBRE_OP_MATMUL);
        if (!mm || mm->n_out != 1 || mm->in[SOBRE_MATMUL_RESIDUAL] >= 0) continue;
        sobre_node fused = *mm;
        fused.in[SOBRE_MATMUL_RESIDUAL] = add->in[1 - side];
        fused.out[0] = add->out[0];
        if (replace(f, &fused, at, 2, (sobre_node *[]){mm, add})) return true;
    }
    return false;
}

/* In this order, each over the whole graph. */
static const rule rules[] = {
    {SOBRE_OP_ADD, fuse_bias},        {SOBRE_OP_GLU, fuse_glu},
    {SOBRE_OP_MATMUL, fuse_siblings}, {SOBRE_OP_NORM, fuse_norm},
    {SOBRE_OP_ATTENTION, fuse_rope},  {SOBRE_OP_ATTENTION, fuse_qk_norm},
    {SOBRE_OP_ADD, fuse_residual},
};

/* Gives each device its own value of a weight that several use, since a weight lies on one device
 * (a tied embedding may be a table here and a product there). */
static sobre_status separate_weights(sobre_graph *g, const device_set *devices)
{
    int32_t n_weights = g->n_values, n = devices->n; /* copies come behind */
    if (n < 2) return SOBRE_OK;
    int32_t *owned = mem_alloc(g->ctx, (size_t)n_weights, sizeof *owned * (size_t)n);
    if (!owned) return SOBRE_OUT_OF_MEMORY;
    for (int32_t i = 0; i < g->n_nodes && g->status >= 0; i++) {
        sobre_node *node = &g->nodes[i];
        int32_t device = devices_pick(devices, g->values, node);
        for (int32_t s = 0; s < node->n_in && device >= 0; s++) {
            int32_t v = node->in[s];
            if (v < 0 || g->values[v].kind != SOBRE_VALUE_WEIGHT) continue;
            int32_t *mine = &owned[v * n], taken = 0; /* value + 1 */
            for (int32_t d = 0; d < n; d++) taken |= mine[d];
            if (!mine[device]) mine[device] = (taken ? graph_value(g, &g->values[v]) : v) + 1;
            node->in[s] = mine[device] - 1;
        }
    }
    mem_free(g->ctx, owned);
    return g->status;
}

sobre_status graph_fuse(sobre_graph *g, const device_set *devices)
{
    TRY(sobre_graph_check(g));
    int32_t *counts = mem_alloc(g->ctx, (size_t)g->n_values, 2 * sizeof *counts);
    if (!counts) return SOBRE_OUT_OF_MEMORY;
    fusion f = {g, devices, counts, counts + g->n_values};
    graph_uses(g, f.n_uses, f.producer);
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++)
        for (int32_t i = 0; i < g->n_nodes; i++)
            while (g->nodes[i].op == rules[r].op && rules[r].apply(&f, i)) {
            }
    graph_compact(g);
    mem_free(g->ctx, counts);
    return separate_weights(g, devices);
}
