/* SPDX-License-Identifier: MIT */
/* Compiles a program to steps and runs them. A node becomes one to three steps, with a barrier of
 * all threads between two steps unless one thread does both. */
#include "step.h"

#include <string.h>

#include "attn.h"
#include "checked.h"
#include "pool.h"

enum {
    ALIGN = 64,
    SERIAL_WORK = 8192, /* elements: a step of up to this many is not worth sharing */
    FLAT_GRAIN = 1024,  /* elements that a thread takes at least */
};

typedef struct step step;

/* Most steps work on a range of units, which threads share: elements, or rows of a value. */
typedef void (*range_fn)(const step *s, const sobre_exec *e, int64_t begin, int64_t end);
/* Others share the work themselves. */
typedef void (*team_fn)(step *s, const sobre_exec *e, int32_t thread, int32_t n_threads);

typedef struct rows_step { /* elementwise and by row */
    const float *x, *y, *z;
    void *out;
    union {
        float factor;
        sobre_act act;
        struct {
            sobre_norm_params params;
            int64_t group; /* elements that are normalised together */
        } norm;
        const int32_t *rows;
    } p;
} rows_step;

typedef struct rope_step {
    sobre_rope_params rope;
    const int32_t *pos;      /* of the table */
    const float *factors;    /* of the table */
    const double *frequency; /* of the table */
    float *table;            /* [T][2 * n_dims] */
    const float *x;
    float *out;
    int32_t n_head, head_dim;
} rope_step;

struct step {
    range_fn range;
    team_fn team; /* exactly one of the two is set */
    int32_t layer;
    int64_t n_rows; /* or SOBRE_DIM_T, SOBRE_DIM_R */
    int64_t width;  /* elements of a row */
    bool flat;      /* units are elements, not rows */
    union {
        rows_step rows;
        rope_step rope;
        struct {
            const int32_t *ids;
            mm_weight table;
            float factor;
            float *out;
        } embed;
        struct {
            mm_prologue prologue;
            const float *x;
            void *act[2];    /* by mm_act; NULL: not wanted */
            uint8_t *own[2]; /* the first thread's own, where there are few tokens */
        } prepare;
        mm_job matmul;
        attn_job *attention;
    } u;
};

struct sobre_exec {
    sobre_device *device;
    pool *threads;
    step *steps;
    int32_t n_steps;
    int32_t n_before_gather; /* steps that are run when no rows are wanted */
    attn_job *attentions;
    double *frequencies; /* of RoPE tables */
    mm_cursor *cursors;  /* [threads] */
    uint32_t n_products;
    uint64_t own_size[2]; /* by mm_act: from one thread's own activations to the next one's */
    uint8_t *workspace;
    size_t workspace_size;
    /* This run: */
    const sobre_run *run;
    int32_t n_run;
    atomic_int stop_at; /* first step that is not run any more; n_run: none */
};

/* --- Steps */

static void embed_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        float *out = s->u.embed.out + i * s->width;
        mm_unpack_row(&s->u.embed.table, s->u.embed.ids[i], out);
        if (s->u.embed.factor != 1.0f) e->device->vec->scale(out, s->u.embed.factor, s->width, out);
    }
}

static void gather_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    for (int64_t i = begin; i < end; i++)
        memcpy((float *)r->out + i * s->width, r->x + r->p.rows[i] * s->width,
               (size_t)s->width * sizeof(float));
}

static void norm_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    int64_t group = r->p.norm.group;
    for (int64_t i = begin * s->width; i < end * s->width; i += group)
        e->device->vec->norm(r->p.norm.params, r->x + i, r->y, r->z, group, (float *)r->out + i);
}

static void add_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    for (int64_t i = begin; i < end; i++)
        e->device->vec->add(r->x + i * s->width, r->y, s->width, (float *)r->out + i * s->width);
}

static void mul_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    for (int64_t i = begin; i < end; i++)
        e->device->vec->mul(r->x + i * s->width, r->y, s->width, (float *)r->out + i * s->width);
}

static void argmax_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    for (int64_t i = begin; i < end; i++)
        ((int32_t *)r->out)[i] = e->device->vec->argmax(r->x + i * s->width, s->width);
}

static void add_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->add(r->x + begin, r->y + begin, end - begin, (float *)r->out + begin);
}

static void mul_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->mul(r->x + begin, r->y + begin, end - begin, (float *)r->out + begin);
}

static void scale_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->scale(r->x + begin, r->p.factor, end - begin, (float *)r->out + begin);
}

static void softcap_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->softcap(r->x + begin, r->p.factor, end - begin, (float *)r->out + begin);
}

static void act_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->act(r->p.act, r->x + begin, end - begin, (float *)r->out + begin);
}

static void glu_flat(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rows_step *r = &s->u.rows;
    e->device->vec->glu(r->p.act, r->x + begin, r->y + begin, end - begin, (float *)r->out + begin);
}

static void rope_table_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rope_step *r = &s->u.rope;
    for (int64_t i = begin; i < end; i++)
        rope_table(r->rope.kind, r->rope.n_dims, r->frequency, r->factors, r->pos[i],
                   r->table + i * ROPE_TABLE_ROWS * r->rope.n_dims);
}

static void rope_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    const rope_step *r = &s->u.rope;
    for (int64_t i = begin; i < end; i++)
        e->device->vec->rope(r->rope.kind, r->rope.n_dims,
                             r->table + i * ROPE_TABLE_ROWS * r->rope.n_dims, r->x + i * s->width,
                             r->n_head, r->head_dim, r->out + i * s->width);
}

static int64_t rows_of(int64_t dim, const sobre_run *run)
{
    return dim == SOBRE_DIM_T ? run->n_cols : dim == SOBRE_DIM_R ? run->n_rows : dim;
}

static void prepare(const step *s, const sobre_exec *e, mm_act a, int64_t begin, int64_t end,
                    void *ret_act)
{
    mm_act_prepare(e->device->mm, a, &s->u.prepare.prologue, s->u.prepare.x, s->width,
                   (int32_t)rows_of(s->n_rows, e->run), (int32_t)begin, (int32_t)end, ret_act);
}

static void prepare_rows(const step *s, const sobre_exec *e, int64_t begin, int64_t end)
{
    for (int a = 0; a < 2; a++)
        if (s->u.prepare.act[a]) prepare(s, e, (mm_act)a, begin, end, s->u.prepare.act[a]);
}

/* --- Few tokens: rather than wait for the thread that prepares them, each prepares its own. */

static uint8_t *own_act(const step *prepared, const sobre_exec *e, mm_act a, int32_t thread)
{
    return prepared->u.prepare.own[a] + e->own_size[a] * (uint64_t)thread;
}

static bool is_own(const step *s, const sobre_run *run)
{
    int64_t n_tokens = rows_of(s->n_rows, run);
    return s->range == prepare_rows && n_tokens <= MM_FEW_TOKENS &&
           n_tokens * s->width <= SERIAL_WORK;
}

static void prepare_own(const step *s, const sobre_exec *e, int32_t thread)
{
    for (int a = 0; a < 2; a++)
        if (s->u.prepare.act[a])
            prepare(s, e, (mm_act)a, 0, rows_of(s->n_rows, e->run),
                    own_act(s, e, (mm_act)a, thread));
}

static void matmul_team(step *s, const sobre_exec *e, int32_t thread, int32_t n_threads)
{
    const step *prepared = s - 1;
    if (s->u.matmul.n_tokens == 0) return;
    if (!is_own(prepared, e->run)) {
        mm_run(&s->u.matmul, thread, n_threads);
        return;
    }
    mm_job job = s->u.matmul;
    for (int32_t i = 0; i < job.n_weights; i++)
        job.act[i] = own_act(prepared, e, mm_act_for(&job.w[i], job.exact), thread);
    mm_run(&job, thread, n_threads);
}

static void append_team(step *s, const sobre_exec *e, int32_t thread, int32_t n_threads)
{
    attn_append(s->u.attention, e->run, thread, n_threads);
}

static void attend_team(step *s, const sobre_exec *e, int32_t thread, int32_t n_threads)
{
    attn_run(s->u.attention, e->run, e->threads, thread, n_threads);
}

/* --- Running */

static int64_t units_of(const step *s, const sobre_run *run)
{
    int64_t n = rows_of(s->n_rows, run);
    return s->flat ? n * s->width : n;
}

/* One thread does it. */
static bool is_serial(const step *s, const sobre_run *run)
{
    return !s->team && !is_own(s, run) && rows_of(s->n_rows, run) * s->width <= SERIAL_WORK;
}

/* Must threads wait for each other before step i? */
static bool must_wait(const sobre_exec *e, int32_t i)
{
    const step *s = &e->steps[i];
    if (i == 0) return false;
    if (s->layer != s[-1].layer) return true;
    return !is_own(s - 1, e->run) && !(is_serial(s, e->run) && is_serial(s - 1, e->run));
}

/* Before a wait: what the thread will stream first may come meanwhile. */
static void fetch_ahead(const sobre_exec *e, int32_t i, int32_t thread, int32_t n_threads)
{
    for (int32_t end = i + 2; i < end && i < e->n_run; i++)
        if (e->steps[i].team == matmul_team)
            mm_fetch_ahead(&e->steps[i].u.matmul, thread, n_threads);
}

static void walk(void *arg, int32_t thread, int32_t n_threads)
{
    sobre_exec *e = arg;
    for (int32_t i = 0; i < e->n_run; i++) {
        step *s = &e->steps[i];
        if (i > 0 && s->layer != s[-1].layer && thread == 0 && e->run->cancelled &&
            e->run->cancelled(e->run->cancelled_user))
            atomic_store_explicit(&e->stop_at, i, memory_order_relaxed);
        if (must_wait(e, i)) {
            fetch_ahead(e, i, thread, n_threads);
            pool_barrier(e->threads, thread);
            /* Thread 0 may already be at a later step: it stops there, not here. */
            if (atomic_load_explicit(&e->stop_at, memory_order_relaxed) <= i) return;
        }
        if (s->team) {
            s->team(s, e, thread, n_threads);
        } else if (is_own(s, e->run)) {
            prepare_own(s, e, thread);
        } else if (is_serial(s, e->run)) {
            if (thread == 0) s->range(s, e, 0, units_of(s, e->run));
        } else {
            int64_t begin, end;
            pool_share(units_of(s, e->run), s->flat ? FLAT_GRAIN : 1, thread, n_threads, &begin,
                       &end);
            if (begin < end) s->range(s, e, begin, end);
        }
    }
}

sobre_status step_run(sobre_exec *e, const sobre_run *run)
{
    sobre_context *ctx = e->device->ctx;
    static const char cancelled[] = "cancelled; the tokens so far stay";
    if (run->cancelled && run->cancelled(run->cancelled_user))
        return fail(ctx, SOBRE_CANCELLED, "%s", cancelled);
    e->run = run;
    e->n_run = run->n_rows == 0 ? e->n_before_gather : e->n_steps;
    atomic_store(&e->stop_at, e->n_run);
    for (int32_t i = 0; i < e->n_run; i++) {
        step *s = &e->steps[i];
        if (s->team == matmul_team) {
            s->u.matmul.n_tokens = (int32_t)rows_of(s->n_rows, run);
            s->u.matmul.number = ++e->n_products;
            atomic_store_explicit(&s->u.matmul.next, 0, memory_order_relaxed);
        } else if (s->team == attend_team) {
            atomic_store_explicit(&s->u.attention->next, 0, memory_order_relaxed);
        }
    }
    TRY(pool_run(e->threads, walk, e));
    if (atomic_load(&e->stop_at) < e->n_run) return fail(ctx, SOBRE_CANCELLED, "%s", cancelled);
    return SOBRE_OK;
}

/* --- Workspace: prepared activations (by mm_act), each thread's own of few tokens, attention's
 * scratch, one RoPE table for all nodes that turn alike. */

typedef struct workspace {
    uint64_t act[2], scratch, tables; /* sizes, each a multiple of ALIGN */
    uint64_t own[2];                  /* a thread's */
    int32_t n_threads;
    int32_t n_frequencies; /* of all tables */
} workspace;

typedef struct rope_use {
    sobre_rope_params rope; /* kind NONE: the node does not turn anything */
    int32_t pos, factors;
} rope_use;

static int32_t in_slot(const sobre_node *node, int32_t slot)
{
    return slot < node->n_in ? node->in[slot] : -1;
}

static rope_use rope_of(const sobre_node *node)
{
    rope_use u = {.pos = -1, .factors = -1};
    if (node->op == SOBRE_OP_ROPE) {
        u.rope = node->p.rope.rope;
        u.pos = in_slot(node, SOBRE_ROPE_POS);
        u.factors = in_slot(node, SOBRE_ROPE_FACTORS);
    } else if (node->op == SOBRE_OP_ATTENTION) {
        u.rope = node->p.attention.rope;
        u.pos = in_slot(node, SOBRE_ATTN_POS);
        u.factors = in_slot(node, SOBRE_ATTN_FACTORS);
    }
    return u;
}

/* The first node that turns like node n; n itself if none does before. */
static int32_t rope_first(const sobre_program *p, int32_t n)
{
    rope_use u = rope_of(&p->nodes[n]);
    for (int32_t i = 0; i < n; i++) {
        rope_use v = rope_of(&p->nodes[i]);
        if (v.rope.kind == u.rope.kind && v.rope.n_dims == u.rope.n_dims &&
            v.rope.base == u.rope.base && v.rope.scale == u.rope.scale && v.pos == u.pos &&
            v.factors == u.factors)
            return i;
    }
    return n;
}

sobre_weight weight_of_value(const sobre_value *value, uint32_t uses)
{
    return (sobre_weight){.name = value->name,
                          .dtype = value->dtype,
                          .uses = uses,
                          .n_rows = value->rank == 1 ? 1 : value->dims[0],
                          .n_cols = value->dims[value->rank - 1]};
}

static int64_t most_rows(const sobre_program *p, int32_t value)
{
    int64_t dim = p->values[value].dims[0];
    return dim == SOBRE_DIM_T ? p->n_cols : dim == SOBRE_DIM_R ? p->n_rows : dim;
}

static bool grow(uint64_t size, uint64_t *most)
{
    if (!checked_round_up(size, ALIGN, &size)) return false;
    if (size > *most) *most = size;
    return true;
}

static uint64_t table_size(const sobre_program *p, const sobre_rope_params *rope)
{
    uint64_t row = (uint64_t)rope->n_dims * ROPE_TABLE_ROWS * sizeof(float);
    return (row * (uint64_t)p->n_cols + ALIGN - 1) / ALIGN * ALIGN;
}

static sobre_status measure(sobre_device *d, const sobre_program *p, int32_t n_threads,
                            workspace *ret)
{
    workspace w = {.n_threads = n_threads};
    for (int32_t n = 0; n < p->n_nodes; n++) {
        const sobre_node *node = &p->nodes[n];
        if (node->op == SOBRE_OP_MATMUL) {
            int32_t x = node->in[SOBRE_MATMUL_X];
            for (int32_t i = 0; i < node->p.matmul.n_weights; i++) {
                const sobre_value *v = &p->values[node->in[SOBRE_MATMUL_W0 + 2 * i]];
                sobre_weight desc = weight_of_value(v, SOBRE_WEIGHT_MATMUL);
                mm_weight mm;
                uint64_t unused;
                TRY(mm_layout(d->host, &desc, &mm, &unused));
                mm_act act = mm_act_for(&mm, p->exact != 0);
                int64_t n_rows = most_rows(p, x), n_own = SERIAL_WORK / mm.n_cols;
                if (n_own > MM_FEW_TOKENS) n_own = MM_FEW_TOKENS;
                if (n_own > n_rows) n_own = n_rows;
                grow(mm_act_size(act, mm.n_cols, (int32_t)n_own), &w.own[act]);
                if (!grow(mm_act_size(act, mm.n_cols, (int32_t)n_rows), &w.act[act]))
                    return fail(d->ctx, SOBRE_OUT_OF_MEMORY, "%s: a batch of it is too large",
                                v->name);
            }
        }
        if (node->op == SOBRE_OP_ATTENTION)
            grow(attn_scratch_size(&node->p.attention, n_threads), &w.scratch);
        rope_use u = rope_of(node);
        if (u.rope.kind != SOBRE_ROPE_NONE && rope_first(p, n) == n) {
            w.tables += table_size(p, &u.rope);
            w.n_frequencies += u.rope.n_dims / 2;
        }
    }
    *ret = w;
    return SOBRE_OK;
}

static uint64_t workspace_total(const workspace *w)
{
    return w->act[0] + w->act[1] + w->scratch + w->tables +
           (w->own[0] + w->own[1]) * (uint64_t)w->n_threads;
}

sobre_status step_workspace_size(sobre_device *device, const sobre_program *program,
                                 uint64_t *ret_size)
{
    workspace w;
    TRY(measure(device, program, context_n_threads(device->ctx), &w));
    *ret_size = workspace_total(&w);
    return SOBRE_OK;
}

/* --- Compiling */

typedef struct compiler {
    sobre_exec *e;
    const sobre_program *p;
    workspace w;
    uint8_t *act[2], *own[2], *scratch, *tables; /* places in the workspace */
    double *frequencies;
    int32_t n_attentions;
    step **table_steps; /* [n_nodes]: the step that fills the table of the node's RoPE */
} compiler;

static void *at(const compiler *c, int32_t value)
{
    if (value < 0) return NULL;
    const sobre_span *span = &c->p->spans[value];
    return span->buffer->data + span->offset;
}

static void *slot_at(const compiler *c, const sobre_node *node, int32_t slot)
{
    return at(c, in_slot(node, slot));
}

static step *add_step(compiler *c, const sobre_node *node, int32_t value)
{
    const sobre_value *v = &c->p->values[value];
    step *s = &c->e->steps[c->e->n_steps++];
    s->layer = node->layer;
    s->n_rows = v->dims[0];
    s->width = v->rank > 1 ? v->dims[1] : 1;
    return s;
}

static sobre_status weight_at(const compiler *c, int32_t value, uint32_t use, mm_weight *ret)
{
    sobre_weight desc = weight_of_value(&c->p->values[value], use);
    mm_weight w;
    uint64_t unused;
    TRY(mm_layout(c->e->device->host, &desc, &w, &unused));
    w.data = at(c, value);
    *ret = w;
    return SOBRE_OK;
}

static sobre_status compile_embed(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = add_step(c, node, node->out[0]);
    s->range = embed_rows;
    s->u.embed.ids = slot_at(c, node, SOBRE_EMBED_IDS);
    s->u.embed.factor = node->p.factor;
    s->u.embed.out = at(c, node->out[0]);
    return weight_at(c, node->in[SOBRE_EMBED_TABLE], SOBRE_WEIGHT_TABLE, &s->u.embed.table);
}

static sobre_status compile_gather(compiler *c, const sobre_node *node, int32_t n)
{
    if (c->e->n_before_gather < 0 && c->p->values[node->out[0]].dims[0] == SOBRE_DIM_R)
        c->e->n_before_gather = c->e->n_steps;
    step *s = add_step(c, node, node->out[0]);
    s->range = gather_rows;
    s->u.rows.x = slot_at(c, node, SOBRE_GATHER_X);
    s->u.rows.p.rows = slot_at(c, node, SOBRE_GATHER_ROWS);
    s->u.rows.out = at(c, node->out[0]);
    return SOBRE_OK;
}

static sobre_status compile_norm(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = add_step(c, node, node->out[0]);
    int32_t w = in_slot(node, SOBRE_NORM_W);
    s->range = norm_rows;
    s->u.rows.p.norm.params = node->p.norm;
    s->u.rows.p.norm.group = w < 0 ? s->width : c->p->values[w].dims[0];
    s->u.rows.x = slot_at(c, node, SOBRE_NORM_X);
    s->u.rows.y = at(c, w);
    s->u.rows.z = slot_at(c, node, SOBRE_NORM_B);
    s->u.rows.out = at(c, node->out[0]);
    return SOBRE_OK;
}

static sobre_status compile_matmul(compiler *c, const sobre_node *node, int32_t n)
{
    const sobre_matmul_params *p = &node->p.matmul;
    step *prepare = add_step(c, node, node->in[SOBRE_MATMUL_X]);
    prepare->range = prepare_rows;
    prepare->u.prepare.x = slot_at(c, node, SOBRE_MATMUL_X);
    prepare->u.prepare.prologue = (mm_prologue){.norm = p->norm,
                                                .weight = slot_at(c, node, SOBRE_MATMUL_NORM_W),
                                                .bias = slot_at(c, node, SOBRE_MATMUL_NORM_B)};

    step *s = add_step(c, node, node->out[0]);
    mm_job *job = &s->u.matmul;
    s->team = matmul_team;
    job->kernels = c->e->device->mm;
    job->n_weights = p->n_weights;
    job->exact = c->p->exact != 0;
    job->glu = p->glu;
    job->cursors = c->e->cursors;
    job->residual = slot_at(c, node, SOBRE_MATMUL_RESIDUAL);
    for (int32_t i = 0; i < p->n_weights; i++) {
        int32_t w = node->in[SOBRE_MATMUL_W0 + 2 * i];
        TRY(weight_at(c, w, SOBRE_WEIGHT_MATMUL, &job->w[i]));
        mm_act act = mm_act_for(&job->w[i], job->exact);
        job->act[i] = prepare->u.prepare.act[act] = c->act[act];
        prepare->u.prepare.own[act] = c->own[act];
        job->bias[i] = slot_at(c, node, SOBRE_MATMUL_B0 + 2 * i);
        if (i < node->n_out) job->out[i] = at(c, node->out[i]);
    }
    return SOBRE_OK;
}

/* The step that fills the table of node n's RoPE; made before the first node that uses it. */
static const step *rope_table_step(compiler *c, const sobre_node *node, int32_t n)
{
    int32_t first = rope_first(c->p, n);
    rope_use u = rope_of(node);
    if (first == n) {
        step *s = add_step(c, node, u.pos);
        s->range = rope_table_rows;
        s->width = u.rope.n_dims * ROPE_TABLE_ROWS;
        s->u.rope.rope = u.rope;
        s->u.rope.pos = at(c, u.pos);
        s->u.rope.factors = at(c, u.factors);
        s->u.rope.frequency = c->frequencies;
        s->u.rope.table = (float *)c->tables;
        rope_frequencies(&u.rope, c->frequencies);
        c->frequencies += u.rope.n_dims / 2;
        c->tables += table_size(c->p, &u.rope);
        c->table_steps[n] = s;
    }
    return c->table_steps[first];
}

static sobre_status compile_rope(compiler *c, const sobre_node *node, int32_t n)
{
    const step *table = rope_table_step(c, node, n);
    step *s = add_step(c, node, node->out[0]);
    s->range = rope_rows;
    s->u.rope = table->u.rope;
    s->u.rope.x = slot_at(c, node, SOBRE_ROPE_X);
    s->u.rope.out = at(c, node->out[0]);
    s->u.rope.n_head = node->p.rope.n_head;
    s->u.rope.head_dim = node->p.rope.head_dim;
    return SOBRE_OK;
}

static sobre_status compile_attention(compiler *c, const sobre_node *node, int32_t n)
{
    const sobre_attention_params *p = &node->p.attention;
    const sobre_device *d = c->e->device;
    const sobre_kv_slot *slot = &c->p->kv_slots[p->kv];
    attn_job *job = &c->e->attentions[c->n_attentions++];
    *job = (attn_job){
        .kernels = attn_kernels_get(d->isa, slot->desc.type),
        .wide = attn_kernels_get(d->isa, SOBRE_KV_F32),
        .vec = d->vec,
        .p = *p,
        .pages = slot->buffer->data + slot->offset,
        .page_size = slot->page_size,
        .type = slot->desc.type,
        .q = slot_at(c, node, SOBRE_ATTN_Q),
        .k = slot_at(c, node, SOBRE_ATTN_K),
        .v = slot_at(c, node, SOBRE_ATTN_V),
        .q_norm = slot_at(c, node, SOBRE_ATTN_Q_NORM),
        .k_norm = slot_at(c, node, SOBRE_ATTN_K_NORM),
        .sinks = slot_at(c, node, SOBRE_ATTN_SINKS),
        .out = at(c, node->out[0]),
        .scratch = c->scratch,
    };
    if (!job->kernels)
        return fail(d->ctx, SOBRE_UNSUPPORTED,
                    "the CPU has no attention over a KV cache of type %d", (int)slot->desc.type);
    if (p->rope.kind != SOBRE_ROPE_NONE) job->rope = rope_table_step(c, node, n)->u.rope.table;
    if (p->append) {
        step *s = add_step(c, node, node->in[SOBRE_ATTN_K]);
        s->team = append_team;
        s->u.attention = job;
    }
    step *s = add_step(c, node, node->out[0]);
    s->team = attend_team;
    s->u.attention = job;
    return SOBRE_OK;
}

/* x [, y] -> out by element, or with y [C] by row. */
static step *elementwise(compiler *c, const sobre_node *node)
{
    step *s = add_step(c, node, node->out[0]);
    s->u.rows.x = slot_at(c, node, 0);
    s->u.rows.y = slot_at(c, node, 1);
    s->u.rows.out = at(c, node->out[0]);
    s->flat = true;
    return s;
}

static sobre_status compile_binary(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = elementwise(c, node);
    bool add = node->op == SOBRE_OP_ADD;
    s->flat = c->p->values[node->in[SOBRE_BINARY_B]].rank > 1;
    if (s->flat) {
        s->range = add ? add_flat : mul_flat;
    } else {
        s->range = add ? add_rows : mul_rows;
    }
    return SOBRE_OK;
}

static sobre_status compile_act(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = elementwise(c, node);
    s->range = node->op == SOBRE_OP_GLU ? glu_flat : act_flat;
    s->u.rows.p.act = node->p.act;
    return SOBRE_OK;
}

static sobre_status compile_factor(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = elementwise(c, node);
    s->range = node->op == SOBRE_OP_SCALE ? scale_flat : softcap_flat;
    s->u.rows.p.factor = node->p.factor;
    return SOBRE_OK;
}

static sobre_status compile_argmax(compiler *c, const sobre_node *node, int32_t n)
{
    step *s = add_step(c, node, node->in[SOBRE_UNARY_X]);
    s->range = argmax_rows;
    s->u.rows.x = slot_at(c, node, SOBRE_UNARY_X);
    s->u.rows.out = at(c, node->out[0]);
    return SOBRE_OK;
}

static sobre_status (*const compile_op[SOBRE_N_OPS])(compiler *c, const sobre_node *node,
                                                     int32_t n) = {
    [SOBRE_OP_EMBED] = compile_embed,   [SOBRE_OP_GATHER] = compile_gather,
    [SOBRE_OP_NORM] = compile_norm,     [SOBRE_OP_MATMUL] = compile_matmul,
    [SOBRE_OP_ROPE] = compile_rope,     [SOBRE_OP_ATTENTION] = compile_attention,
    [SOBRE_OP_GLU] = compile_act,       [SOBRE_OP_ACTIVATION] = compile_act,
    [SOBRE_OP_ADD] = compile_binary,    [SOBRE_OP_MUL] = compile_binary,
    [SOBRE_OP_SCALE] = compile_factor,  [SOBRE_OP_SOFTCAP] = compile_factor,
    [SOBRE_OP_ARGMAX] = compile_argmax,
};

enum { MAX_STEPS_PER_NODE = 3 };

static sobre_status compile_all(compiler *c)
{
    sobre_exec *e = c->e;
    sobre_context *ctx = e->device->ctx;
    size_t n_nodes = (size_t)c->p->n_nodes, size;
    TRY(context_pool(ctx, &e->threads));
    TRY(measure(e->device, c->p, pool_n_threads(e->threads), &c->w));
    if (!checked_size(workspace_total(&c->w), &size))
        return fail(ctx, SOBRE_OUT_OF_MEMORY,
                    "the CPU's workspace is larger than its address space");
    e->steps = mem_alloc(ctx, n_nodes, MAX_STEPS_PER_NODE * sizeof *e->steps);
    e->attentions = mem_alloc(ctx, n_nodes, sizeof *e->attentions);
    e->frequencies = mem_alloc(ctx, (size_t)c->w.n_frequencies, sizeof *e->frequencies);
    e->cursors =
        mem_alloc_aligned(ctx, (size_t)c->w.n_threads * sizeof *e->cursors, _Alignof(mm_cursor));
    c->table_steps = mem_alloc(ctx, n_nodes, sizeof *c->table_steps);
    if (!e->steps || !e->attentions || !e->frequencies || !e->cursors || !c->table_steps)
        return SOBRE_OUT_OF_MEMORY;
    if (size > 0) {
        e->workspace = mem_pages_alloc(ctx, size, false);
        if (!e->workspace) return SOBRE_OUT_OF_MEMORY;
        e->workspace_size = size;
        c->act[0] = e->workspace;
        c->act[1] = c->act[0] + c->w.act[0];
        c->scratch = c->act[1] + c->w.act[1];
        c->tables = c->scratch + c->w.scratch;
        c->own[0] = c->tables + c->w.tables;
        c->own[1] = c->own[0] + c->w.own[0] * (uint64_t)c->w.n_threads;
        memcpy(e->own_size, c->w.own, sizeof e->own_size);
    }
    c->frequencies = e->frequencies;
    for (int32_t n = 0; n < c->p->n_nodes; n++)
        TRY(compile_op[c->p->nodes[n].op](c, &c->p->nodes[n], n));
    if (e->n_before_gather < 0) e->n_before_gather = e->n_steps;
    return SOBRE_OK;
}

sobre_status step_compile(sobre_device *device, const sobre_program *program, sobre_exec **ret_exec)
{
    sobre_exec *e = mem_alloc(device->ctx, 1, sizeof *e);
    if (!e) return SOBRE_OUT_OF_MEMORY;
    e->device = device;
    e->n_before_gather = -1;
    compiler c = {.e = e, .p = program};
    sobre_status status = compile_all(&c);
    mem_free(device->ctx, c.table_steps);
    if (status < 0) {
        step_free(e);
        return status;
    }
    *ret_exec = e;
    return SOBRE_OK;
}

void step_free(sobre_exec *e)
{
    if (!e) return;
    sobre_context *ctx = e->device->ctx;
    if (e->workspace) mem_pages_free(ctx, e->workspace, e->workspace_size);
    mem_free(ctx, e->cursors);
    mem_free(ctx, e->frequencies);
    mem_free(ctx, e->attentions);
    mem_free(ctx, e->steps);
    mem_free(ctx, e);
}

int32_t step_count(const sobre_exec *e)
{
    return e->n_steps;
}
