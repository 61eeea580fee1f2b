/* SPDX-License-Identifier: MIT */
/* Running a plan: inputs in, slices and copies in order, logits out. Nothing is allocated here. */
#include <string.h>

#include "plan.h"

typedef struct running {
    plan *p;
    bool busy[MAX_PLACED]; /* devices that were given work and not waited for */
} running;

static const device_entry *entry(const plan *p, int32_t device)
{
    return p->devices.entries[device];
}

static void *host_at(const plan *p, int32_t device, const sobre_span *span)
{
    uint8_t *base = entry(p, device)->backend->host_pointer(span->buffer);
    return base ? base + span->offset : NULL;
}

static sobre_status write_span(const plan *p, int32_t device, const sobre_span *span,
                               const void *data, uint64_t size)
{
    void *host = host_at(p, device, span);
    if (!host) return entry(p, device)->backend->write(span->buffer, span->offset, data, size);
    memcpy(host, data, (size_t)size);
    return SOBRE_OK;
}

/* Bytes of a value in this run. */
static uint64_t used_size(const sobre_value *v, const exec_batch *b)
{
    return (uint64_t)value_elements(v, b->n_cols, b->n_rows) * 4; /* f32 or i32 */
}

/* Writes an input on every device that reads it. */
static sobre_status fill(const plan *p, int32_t value, const void *data, const exec_batch *b)
{
    if (value < 0) return SOBRE_OK;
    uint64_t size = used_size(&p->graph->values[value], b);
    for (int32_t d = 0; d < p->devices.n && size > 0; d++)
        if (p->spans[d][value].buffer) TRY(write_span(p, d, &p->spans[d][value], data, size));
    return SOBRE_OK;
}

static sobre_status wait_for(running *r, int32_t device)
{
    const device_entry *d = entry(r->p, device);
    uint64_t ticket = 0;
    if (!r->busy[device]) return SOBRE_OK;
    TRY(d->backend->fence(d->device, &ticket));
    TRY(d->backend->wait(d->device, ticket));
    r->busy[device] = false;
    return SOBRE_OK;
}

/* Brings a value from one device's arena to another's, once neither works any more. */
static sobre_status run_copy(running *r, const plan_copy *c, const exec_batch *b)
{
    const plan *p = r->p;
    const sobre_span *from = &p->spans[c->from][c->value], *to = &p->spans[c->to][c->value];
    uint64_t size = used_size(&p->graph->values[c->value], b);
    if (size == 0) return SOBRE_OK;
    TRY(wait_for(r, c->from));
    TRY(wait_for(r, c->to));
    const void *source = host_at(p, c->from, from);
    void *target = host_at(p, c->to, to);
    if (source) return write_span(p, c->to, to, source, size);
    void *staging = target ? target : p->staging;
    TRY(entry(p, c->from)->backend->read(from->buffer, from->offset, staging, size));
    return target ? SOBRE_OK
                  : entry(p, c->to)->backend->write(to->buffer, to->offset, staging, size);
}

/* Bytes of an output, in place or copied to `staging`. */
static sobre_status read_output(const plan *p, int32_t device, int32_t value, uint64_t from,
                                uint64_t size, void *staging, const void **ret_data)
{
    const sobre_span *span = &p->spans[device][value];
    const uint8_t *host = host_at(p, device, span);
    if (!host)
        TRY(entry(p, device)->backend->read(span->buffer, span->offset + from, staging, size));
    *ret_data = host ? host + from : staging;
    return SOBRE_OK;
}

static sobre_status run_all(running *r, const exec_batch *b, const float **ret_logits)
{
    plan *p = r->p;
    int32_t n_launches = 0;
    const sobre_run run = {.struct_size = sizeof run,
                           .n_cols = b->n_cols,
                           .n_rows = b->n_rows,
                           .n_seqs = b->n_seqs,
                           .seqs = b->seqs,
                           .cancelled = b->cancelled,
                           .cancelled_user = b->cancelled_user};
    TRY(fill(p, p->ids, b->ids, b));
    TRY(fill(p, p->embd, b->embd, b));
    TRY(fill(p, p->pos, b->pos, b));
    TRY(fill(p, p->rows, b->rows, b));
    TRY(fill(p, p->sampling, b->sampling, b));
    for (int32_t i = 0; i < p->n_slices; i++) {
        const plan_slice *slice = &p->slices[i];
        for (int32_t k = 0; k < slice->n_copies; k++)
            TRY(run_copy(r, &p->copies[slice->first_copy + k], b));
        r->busy[slice->device] = true;
        TRY(entry(p, slice->device)->backend->run(slice->exec, &run));
        n_launches += entry(p, slice->device)->backend->n_launches(slice->exec);
    }
    p->n_launches = n_launches;
    for (int32_t d = 0; d < p->devices.n; d++) TRY(wait_for(r, d));
    if (b->n_rows == 0 || p->picks >= 0) return SOBRE_OK;
    const void *logits;
    TRY(read_output(p, p->logits_device, p->logits, 0, used_size(&p->graph->values[p->logits], b),
                    p->staging, &logits));
    *ret_logits = logits;
    return SOBRE_OK;
}

static sobre_status check_batch(const plan *p, const exec_batch *b, const float **ret_logits)
{
    if (b->n_cols < 1 || b->n_cols > p->n_cols || b->n_rows < 0 || b->n_rows > p->n_rows ||
        b->n_seqs < 1 || b->n_seqs > p->n_seq)
        return fail(p->ctx, SOBRE_INVALID_ARGUMENT,
                    "run: %d columns, %d rows, %d sequences in a plan for %d, %d, %d",
                    (int)b->n_cols, (int)b->n_rows, (int)b->n_seqs, (int)p->n_cols, (int)p->n_rows,
                    (int)p->n_seq);
    if (b->embd && p->embd < 0)
        return fail(p->ctx, SOBRE_UNSUPPORTED,
                    "run: this model takes token ids, not embeddings; give ids");
    if (b->ids && p->ids < 0)
        return fail(p->ctx, SOBRE_UNSUPPORTED,
                    "run: this model takes embeddings, not token ids; give embeddings");
    if ((p->ids >= 0 && !b->ids) || (p->embd >= 0 && !b->embd) || (p->pos >= 0 && !b->pos) ||
        (p->rows >= 0 && b->n_rows > 0 && !b->rows) || !b->seqs)
        return fail(p->ctx, SOBRE_INVALID_ARGUMENT, "run: an input of the graph is missing");
    if (b->n_rows > 0 && (p->picks >= 0) != (b->sampling != NULL))
        return fail(p->ctx, SOBRE_INVALID_ARGUMENT, "run: sampling needs a plan that samples");
    if (b->n_rows > 0 && (p->logits < 0 || (!ret_logits && p->picks < 0)))
        return fail(p->ctx, SOBRE_INVALID_ARGUMENT, "run: rows are wanted, but %s",
                    p->logits < 0 ? "the graph has no output" : "there is nowhere to put them");
    if (p->n_slices > 0 && !p->slices[0].exec)
        return fail(p->ctx, SOBRE_INVALID_ARGUMENT, "run: this plan was made for its sizes only");
    return SOBRE_OK;
}

sobre_status exec_run(plan *p, const exec_batch *batch, const float **ret_logits)
{
    running r = {.p = p};
    TRY(check_batch(p, batch, ret_logits));
    sobre_status status = run_all(&r, batch, ret_logits);
    /* After a failure devices may still work on the caller's block tables. */
    for (int32_t d = 0; d < p->devices.n && status < 0; d++) (void)wait_for(&r, d);
    return status;
}

sobre_status exec_picks(plan *p, int32_t n_rows, const int32_t **ret_picks)
{
    const void *picks;
    uint64_t size = (uint64_t)value_elements(&p->graph->values[p->picks], 0, n_rows) * 4;
    TRY(read_output(p, p->picks_device, p->picks, 0, size, p->staging, &picks));
    *ret_picks = picks;
    return SOBRE_OK;
}

sobre_status exec_logits(plan *p, int32_t row, const float **ret_logits)
{
    const void *logits;
    uint64_t size = (uint64_t)value_elements(&p->graph->values[p->logits], 0, 1) * sizeof(float);
    uint8_t *staging = p->staging ? (uint8_t *)p->staging + p->staging_size - size : NULL;
    TRY(read_output(p, p->logits_device, p->logits, (uint64_t)row * size, size, staging, &logits));
    *ret_logits = logits;
    return SOBRE_OK;
}
