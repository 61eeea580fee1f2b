/* SPDX-License-Identifier: MIT */
/* Loading weights: every tensor is read once, in runs of rows, and packed into the layout its
 * device wants. The pool's threads take runs from a counter, each with a small staging buffer of
 * its own. */
#include <string.h>

#include "checked.h"
#include "model.h"
#include "pool.h"

enum { STAGING_SIZE = 1 << 20, ROW_GRAIN = 16 };

/* --- Which weight is used how, and where. */

uint32_t weight_slot_use(sobre_op op, int32_t slot)
{
    if (op == SOBRE_OP_EMBED) return SOBRE_WEIGHT_TABLE;
    if (op == SOBRE_OP_MATMUL && slot >= SOBRE_MATMUL_W0 && (slot - SOBRE_MATMUL_W0) % 2 == 0)
        return SOBRE_WEIGHT_MATMUL;
    return SOBRE_WEIGHT_VECTOR;
}

/* Uses of each weight on device d; 0 for values that are none. */
static void weight_uses(const sobre_graph *g, const device_set *devices, int32_t d,
                        uint32_t *ret_uses)
{
    memset(ret_uses, 0, (size_t)g->n_values * sizeof *ret_uses);
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const sobre_node *node = &g->nodes[i];

        if (devices_pick(devices, g->values, node) != d) continue;
        for (int32_t s = 0; s < node->n_in; s++)
            if (node->in[s] >= 0 && g->values[node->in[s]].kind == SOBRE_VALUE_WEIGHT)
                ret_uses[node->in[s]] |= weight_slot_use(node->op, s);
    }
}

sobre_weight weight_describe(const sobre_value *v, uint32_t uses)
{
    bool vector = v->rank == 1;

    return (sobre_weight){.name = v->name,
                          .dtype = v->dtype,
                          .uses = uses,
                          .n_rows = vector ? 1 : v->dims[0],
                          .n_cols = v->dims[v->rank - 1]};
}

static bool has_own_buffers(const device_entry *e)
{
    return e->backend->max_buffer(e->device) != UINT64_MAX;
}

/* Packed sizes on device d; ret_spans (may be NULL) gets offset and size of each. */
static sobre_status lay_out(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                            int32_t d, const uint32_t *uses, sobre_span *ret_spans,
                            uint64_t *ret_size)
{
    const device_entry *e = devices->entries[d];
    uint64_t align = e->backend->alignment(e->device), at = 0;

    for (int32_t v = 0; v < g->n_values; v++) {
        sobre_weight w;
        uint64_t size;

        if (!uses[v]) continue;
        w = weight_describe(&g->values[v], uses[v]);
        TRY(e->backend->weight_size(e->device, &w, &size));
        if (size > e->backend->max_buffer(e->device))
            return fail(ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
                        "tensor '%s' takes %llu bytes on %s, which cannot address more than %llu "
                        "in one piece; use a smaller quantisation, or another device",
                        w.name, (unsigned long long)size, e->info.name,
                        (unsigned long long)e->backend->max_buffer(e->device));
        if (ret_spans) ret_spans[v] = (sobre_span){NULL, has_own_buffers(e) ? 0 : at, size};
        if (!checked_add(at, size, &at) || !checked_round_up(at, align, &at))
            return fail(ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
                        "the weights are more bytes than can be counted");
    }
    *ret_size = at;
    return SOBRE_OK;
}

sobre_status weights_size(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                          uint64_t ret_size[MAX_PLACED])
{
    uint32_t *uses = mem_alloc(ctx, (size_t)g->n_values, sizeof *uses);
    sobre_status status = uses ? SOBRE_OK : SOBRE_OUT_OF_MEMORY;
    uint64_t size[MAX_PLACED] = {0};

    for (int32_t d = 0; d < devices->n && status >= 0; d++) {
        weight_uses(g, devices, d, uses);
        status = lay_out(ctx, g, devices, d, uses, NULL, &size[d]);
    }
    mem_free(ctx, uses);
    if (status < 0) return status;
    memcpy(ret_size, size, sizeof size);
    return SOBRE_OK;
}

/* --- Loading. */

typedef struct load_task {
    int32_t value, device;
    int64_t row, n_rows;
} load_task;

typedef struct load_job {
    sobre_model *m;
    const uint32_t *const *uses; /* per device */
    const load_task *tasks;
    int32_t n_tasks;
    uint8_t *staging; /* [n_threads, STAGING_SIZE], or a row's size if that is more */
    uint64_t staging_size;
    atomic_int next, done;
    atomic_int status; /* of the first failure */
    os_mutex mutex;    /* guards message */
    char message[512];
    const sobre_load_options *options;
} load_job;

static void load_failed(load_job *job, sobre_status status)
{
    int expected = SOBRE_OK;

    if (!atomic_compare_exchange_strong(&job->status, &expected, status)) return;
    os_mutex_lock(&job->mutex);
    strncpy(job->message, sobre_error(job->m->ctx), sizeof job->message - 1);
    os_mutex_unlock(&job->mutex);
}

static sobre_status load_rows(load_job *job, const load_task *task, uint8_t *staging)
{
    sobre_model *m = job->m;
    const sobre_value *v = &m->fused->values[task->value];
    const tensor_info *t = &m->file->tensors[v->tensor];
    const device_entry *e = m->devices.entries[task->device];
    sobre_weight w = weight_describe(v, job->uses[task->device][task->value]);
    uint64_t row_size = t->size / (uint64_t)w.n_rows; /* exact: the container checked the size */
    uint64_t offset = t->offset + (uint64_t)task->row * row_size,
             size = (uint64_t)task->n_rows * row_size;
    reader *r = m->file->files[t->file];
    const void *data = reader_peek(r, offset, size);

    if (!data) {
        TRY(reader_read(r, offset, staging, (size_t)size));
        data = staging;
    }
    return e->backend->weight_pack(e->device, &w, &m->w.spans[task->value], task->row, task->n_rows,
                                   data);
}

static void load_run(void *arg, int32_t thread, int32_t n_threads)
{
    load_job *job = arg;
    const sobre_load_options *o = job->options;
    int i;

    while (!atomic_load(&job->status) && (i = atomic_fetch_add(&job->next, 1)) < job->n_tasks) {
        sobre_status status =
            load_rows(job, &job->tasks[i], job->staging + (uint64_t)thread * job->staging_size);
        int done = atomic_fetch_add(&job->done, 1) + 1;

        if (status < 0) {
            load_failed(job, status);
        } else if (thread == 0 && o->progress &&
                   o->progress(o->progress_user, (double)done / job->n_tasks)) {
            load_failed(job, fail(job->m->ctx, SOBRE_CANCELLED, "loading was cancelled"));
        }
    }
}

static int64_t rows_at_once(const sobre_weight *w, uint64_t row_size)
{
    int64_t rows = (int64_t)(STAGING_SIZE / row_size) / ROW_GRAIN * ROW_GRAIN;

    if (rows < ROW_GRAIN) rows = ROW_GRAIN;
    return rows > w->n_rows ? w->n_rows : rows;
}

/* Counts the tasks, or writes them too; they follow the order of the file, so that reading is
 * sequential. */
static int32_t list_tasks(const load_job *job, load_task *ret_tasks, uint64_t *ret_staging)
{
    const sobre_model *m = job->m;
    int32_t n = 0;

    *ret_staging = 1;
    for (int32_t d = 0; d < m->devices.n; d++)
        for (int32_t v = 0; v < m->fused->n_values; v++) {
            const sobre_value *value = &m->fused->values[v];
            sobre_weight w;
            uint64_t row_size;
            int64_t step;

            if (!job->uses[d][v]) continue;
            w = weight_describe(value, job->uses[d][v]);
            row_size = m->file->tensors[value->tensor].size / (uint64_t)w.n_rows;
            step = rows_at_once(&w, row_size);
            if (row_size * (uint64_t)step > *ret_staging) *ret_staging = row_size * (uint64_t)step;
            for (int64_t row = 0; row < w.n_rows; row += step, n++)
                if (ret_tasks)
                    ret_tasks[n] =
                        (load_task){v, d, row, w.n_rows - row < step ? w.n_rows - row : step};
        }
    return n;
}

static sobre_status load_tasks(load_job *job)
{
    sobre_model *m = job->m;
    sobre_context *ctx = m->ctx;
    struct pool *p;
    load_task *tasks;
    sobre_status status;

    TRY(context_pool(ctx, &p));
    job->n_tasks = list_tasks(job, NULL, &job->staging_size);
    tasks = mem_alloc(ctx, (size_t)job->n_tasks, sizeof *tasks);
    job->staging = mem_alloc(ctx, (size_t)pool_n_threads(p), (size_t)job->staging_size);
    status = tasks && job->staging ? SOBRE_OK : SOBRE_OUT_OF_MEMORY;
    if (status >= 0) {
        list_tasks(job, tasks, &job->staging_size);
        job->tasks = tasks;
        status = pool_run(p, load_run, job);
    }
    mem_free(ctx, job->staging);
    mem_free(ctx, tasks);
    if (status < 0) return status;
    status = (sobre_status)atomic_load(&job->status);
    if (status < 0) return fail(ctx, status, "%s", job->message);
    if (job->options->progress) job->options->progress(job->options->progress_user, 1);
    return SOBRE_OK;
}

static sobre_status load_device(sobre_model *m, int32_t d, uint32_t *uses)
{
    const device_entry *e = m->devices.entries[d];
    uint64_t size = 0;

    weight_uses(m->fused, &m->devices, d, uses);
    TRY(lay_out(m->ctx, m->fused, &m->devices, d, uses, m->w.spans, &size));
    if (!size) return SOBRE_OK;
    if (!has_own_buffers(e))
        TRY(e->backend->buffer_alloc(e->device, size, SOBRE_BUFFER_WEIGHTS, &m->w.shared[d]));
    for (int32_t v = 0; v < m->fused->n_values; v++) {
        sobre_span *span = &m->w.spans[v];

        if (!uses[v]) continue;
        span->buffer = m->w.shared[d];
        if (!span->buffer)
            TRY(e->backend->buffer_alloc(e->device, span->size, SOBRE_BUFFER_WEIGHTS,
                                         &span->buffer));
        m->w.device[v] = d;
    }
    return SOBRE_OK;
}

sobre_status weights_load(sobre_model *m, const sobre_load_options *options)
{
    uint32_t *uses[MAX_PLACED] = {NULL};
    load_job job = {.m = m, .uses = (const uint32_t *const *)uses, .options = options};
    sobre_status status = SOBRE_OK;

    atomic_init(&job.next, 0);
    atomic_init(&job.done, 0);
    atomic_init(&job.status, SOBRE_OK);
    if (!os_mutex_init(&job.mutex))
        return fail(m->ctx, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
    m->w.spans = mem_alloc(m->ctx, (size_t)m->fused->n_values, sizeof *m->w.spans);
    m->w.device = mem_alloc(m->ctx, (size_t)m->fused->n_values, sizeof *m->w.device);
    if (!m->w.spans || !m->w.device) status = SOBRE_OUT_OF_MEMORY;
    for (int32_t d = 0; d < m->devices.n && status >= 0; d++) {
        uses[d] = mem_alloc(m->ctx, (size_t)m->fused->n_values, sizeof *uses[d]);
        status = uses[d] ? load_device(m, d, uses[d]) : SOBRE_OUT_OF_MEMORY;
    }
    if (status >= 0) status = load_tasks(&job);
    for (int32_t d = 0; d < m->devices.n; d++) mem_free(m->ctx, uses[d]);
    os_mutex_destroy(&job.mutex);
    if (status < 0) weights_free(m);
    return status;
}

void weights_free(sobre_model *m)
{
    for (int32_t v = 0; m->w.spans && m->w.device && v < m->fused->n_values; v++) {
        int32_t d = m->w.device[v];
        sobre_buffer *buffer = m->w.spans[v].buffer;

        if (buffer && buffer != m->w.shared[d]) m->devices.entries[d]->backend->buffer_free(buffer);
    }
    for (int32_t d = 0; d < m->devices.n; d++)
        if (m->w.shared[d]) m->devices.entries[d]->backend->buffer_free(m->w.shared[d]);
    mem_free(m->ctx, m->w.spans);
    mem_free(m->ctx, m->w.device);
    m->w = (weights){0};
}
