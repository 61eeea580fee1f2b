/* SPDX-License-Identifier: MIT */
/* Sessions: opening, batches in the foreground and in the background, sequences. */
#include "session.h"

#include <string.h>

#include "checked.h"

enum { MAX_SEQ = 1024 };

/* --- Opening and closing. */

static sobre_status read_options(sobre_session *s, const sobre_session_options *options,
                                 const sobre_placement *p)
{
    sobre_session_options o = SOBRE_INIT(session_options);
    const int32_t max_ctx = s->model->hp.n_ctx;

    TRY(options_copy(s->ctx, "session_options", options, &o, sizeof o));
    s->n_ctx = o.n_ctx ? o.n_ctx : p->n_ctx;
    s->n_seq = o.n_seq ? o.n_seq : p->n_seq;
    s->n_chunk = o.n_chunk ? o.n_chunk : p->n_chunk;
    s->kv_type = o.exact ? SOBRE_KV_F32 : o.kv_type ? o.kv_type : p->kv_type;
    s->exact = o.exact != 0;
    s->full = o.full;
    s->n_keep = o.n_keep;
    if (s->n_ctx < 1 || s->n_ctx > max_ctx || s->n_seq < 1 || s->n_seq > MAX_SEQ || s->n_chunk < 1)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "a session of n_ctx %d, n_seq %d, n_chunk %d cannot be; n_ctx goes from 1 to "
                    "%d, n_seq from 1 to %d, n_chunk from 1",
                    s->n_ctx, s->n_seq, s->n_chunk, max_ctx, MAX_SEQ);
    TRY(kv_check_type(s->ctx, s->kv_type));
    if (s->full != SOBRE_FULL_ERROR && s->full != SOBRE_FULL_SHIFT)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "full is %d; use SOBRE_FULL_ERROR or SOBRE_FULL_SHIFT", (int)s->full);
    if (s->full == SOBRE_FULL_SHIFT && (s->n_keep < 0 || s->n_keep > s->n_ctx - 2))
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "n_keep is %d; with n_ctx %d it goes from 0 to %d", s->n_keep, s->n_ctx,
                    s->n_ctx - 2);
    /* No batch has more columns than all sequences together. */
    if (s->n_chunk > (int64_t)s->n_ctx * s->n_seq) s->n_chunk = s->n_ctx * s->n_seq;
    return SOBRE_OK;
}

static sobre_status allocate(sobre_session *s)
{
    size_t n_seq = (size_t)s->n_seq, n_chunk = (size_t)s->n_chunk;

    TRY(kv_open(s->ctx, s->n_seq, s->n_ctx, &s->kv));
    if (!(s->seqs = mem_alloc(s->ctx, n_seq, sizeof *s->seqs)) ||
        !(s->items = mem_alloc(s->ctx, n_seq, sizeof *s->items)) ||
        !(s->queue = mem_alloc(s->ctx, n_seq, sizeof *s->queue)) ||
        !(s->run_seqs = mem_alloc(s->ctx, n_seq, sizeof *s->run_seqs)) ||
        !(s->run_ids = mem_alloc(s->ctx, n_chunk, sizeof *s->run_ids)) ||
        !(s->run_pos = mem_alloc(s->ctx, n_chunk, sizeof *s->run_pos)) ||
        !(s->run_rows = mem_alloc(s->ctx, n_chunk, sizeof *s->run_rows)))
        return SOBRE_OUT_OF_MEMORY;
    return SOBRE_OK;
}

static sobre_status get_placement(sobre_model *m, sobre_placement *ret_placement)
{
    os_mutex_lock(&m->mutex);
    bool loaded = m->loaded;
    if (loaded) *ret_placement = m->placement;
    os_mutex_unlock(&m->mutex);
    if (loaded) return SOBRE_OK;
    return fail(m->ctx, SOBRE_INVALID_ARGUMENT,
                "a session needs a loaded model; call sobre_model_load() first");
}

static sobre_status open_all(sobre_session *s, const sobre_session_options *options,
                             const sobre_placement *p)
{
    TRY(read_options(s, options, p));
    TRY(allocate(s));
    return session_attach(s);
}

sobre_status sobre_session_open(sobre_model *model, const sobre_session_options *options,
                                sobre_session **ret_session)
{
    if (!model) return SOBRE_INVALID_ARGUMENT;
    if (!ret_session) return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "ret_session is NULL");
    sobre_placement p = SOBRE_INIT(placement);
    TRY(get_placement(model, &p));
    sobre_session *s = mem_alloc(model->ctx, 1, sizeof *s);
    if (!s) return SOBRE_OUT_OF_MEMORY;
    s->ctx = model->ctx;
    s->model = model;
    model_ref(model);
    atomic_init(&s->cancel, 0);
    s->n_vocab = model->hp.n_vocab;
    s->n_embd = model->hp.n_embd;
    sobre_status status = open_all(s, options, &p);
    if (status < 0) {
        sobre_session_close(s);
        return status;
    }
    *ret_session = s;
    return SOBRE_OK;
}

void sobre_session_close(sobre_session *session)
{
    sobre_session *s = session;

    if (!s) return;
    sobre_context *ctx = s->ctx;
    atomic_store(&s->cancel, 1);
    worker_close(s->worker);
    if (s->kv.seqs) session_detach(s);
    kv_close(&s->kv);
    for (int32_t i = 0; s->seqs && i < s->n_seq; i++) {
        mem_free(ctx, s->seqs[i].ids);
        sampler_close(s->seqs[i].sampler);
        stop_close(s->seqs[i].text);
        mem_free(ctx, s->seqs[i].top);
    }
    mem_free(ctx, s->seqs);
    mem_free(ctx, s->items);
    mem_free(ctx, s->queue);
    mem_free(ctx, s->run_seqs);
    mem_free(ctx, s->run_ids);
    mem_free(ctx, s->run_pos);
    mem_free(ctx, s->run_rows);
    mem_free(ctx, s->run_embd);
    mem_free(ctx, s->sampling);
    mem_free(ctx, s->picks);
    mem_free(ctx, s->submitted);
    mem_pages_free(ctx, s->kept, s->kept_size);
    sobre_model *model = s->model;
    mem_free(ctx, s);
    sobre_model_close(model);
}

/* Only an atomic store: it runs in signal handlers. */
void sobre_session_cancel(sobre_session *session)
{
    if (session) atomic_store(&session->cancel, 1);
}

/* --- Checks and small parts. */

sobre_status session_check_idle(sobre_session *s)
{
    static const char *const what[] = {
        [JOB_BATCH] = "a batch is still running; call sobre_session_wait() first",
        [JOB_STEP] = "generation is still running; call sobre_session_next() first",
    };
    if (s->job == JOB_NONE) return SOBRE_OK;
    return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "%s", what[s->job]);
}

sobre_status session_check_seq(sobre_session *s, int32_t seq)
{
    if (seq >= 0 && seq < s->n_seq) return SOBRE_OK;
    return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                "there is no sequence %d; this session has 0 to %d (n_seq)", seq, s->n_seq - 1);
}

sobre_status session_grow(sobre_session *s, session_seq *q, int32_t n)
{
    enum { FIRST = 256 };
    int32_t want = q->n_ids + n; /* at most n_ctx */

    if (want <= q->capacity) return SOBRE_OK;
    if (want < FIRST) want = FIRST;
    if (want < 2 * q->capacity) want = 2 * q->capacity;
    if (want > s->n_ctx) want = s->n_ctx;
    int32_t *ids = mem_grow(s->ctx, q->ids, (size_t)q->n_ids, (size_t)want, sizeof *ids);
    if (!ids) return SOBRE_OUT_OF_MEMORY;
    q->ids = ids;
    q->capacity = want;
    return SOBRE_OK;
}

void session_drop_step(session_seq *q)
{
    q->stepped = false;
    if (q->text) stop_reset(q->text);
}

void session_end_generation(session_seq *q)
{
    session_drop_step(q);
    q->generating = false;
}

sobre_status session_return(sobre_session *s, sobre_status status)
{
    if (status == SOBRE_CANCELLED) atomic_store(&s->cancel, 0);
    return status;
}

/* --- Batches. */

/* The caller's batch, if this session can take it now. */
static sobre_status read_batch(sobre_session *s, const sobre_batch *batch, sobre_batch *ret_batch)
{
    sobre_batch b = SOBRE_INIT(batch);

    TRY(session_check_idle(s));
    TRY(options_copy(s->ctx, "batch", batch, &b, sizeof b));
    TRY(session_check_batch(s, b.entries, b.n_entries));
    *ret_batch = b;
    return SOBRE_OK;
}

sobre_status sobre_session_eval(sobre_session *session, const sobre_batch *batch)
{
    sobre_session *s = session;
    sobre_batch b = SOBRE_INIT(batch);

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(read_batch(s, batch, &b));
    return session_return(s, session_eval_batch(s, b.entries, b.n_entries));
}

static sobre_status need_worker(sobre_session *s)
{
    return s->worker ? SOBRE_OK : worker_open(s->ctx, &s->worker);
}

sobre_status session_start(sobre_session *s, session_job kind, sobre_status (*job)(void *session))
{
    TRY(need_worker(s));
    for (int32_t i = 0; i < s->n_seq; i++) s->seqs[i].n_shown = s->seqs[i].n_ids;
    TRY(worker_start(s->worker, job, s));
    s->job = kind;
    return SOBRE_OK;
}

sobre_status session_collect(sobre_session *s)
{
    s->job = JOB_NONE;
    return session_return(s, worker_result(s->worker));
}

/* Entries, then their ids and embeddings, in one block. */
static sobre_status copy_batch(sobre_session *s, const sobre_batch *b, sobre_entry **ret_entries)
{
    uint64_t size = b->n_entries * sizeof(sobre_entry);
    size_t total;

    for (size_t i = 0; i < b->n_entries; i++) {
        const sobre_entry *e = &b->entries[i];
        uint64_t one = e->ids ? sizeof *e->ids : (uint64_t)s->n_embd * sizeof *e->embd, all;
        if (!checked_mul(one, (uint64_t)e->n_tokens, &all) || !checked_add(size, all, &size))
            return fail(s->ctx, SOBRE_OUT_OF_MEMORY, "the batch is too large to be copied");
    }
    if (!checked_size(size, &total))
        return fail(s->ctx, SOBRE_OUT_OF_MEMORY, "the batch is too large to be copied");
    sobre_entry *entries = mem_alloc(s->ctx, 1, total);
    if (!entries) return SOBRE_OUT_OF_MEMORY;
    uint8_t *at = (uint8_t *)(entries + b->n_entries);
    memcpy(entries, b->entries, b->n_entries * sizeof *entries);
    for (size_t i = 0; i < b->n_entries; i++) {
        sobre_entry *e = &entries[i];
        size_t one = e->ids ? sizeof *e->ids : (size_t)s->n_embd * sizeof *e->embd;
        size_t n = one * (size_t)e->n_tokens;
        const void *from = e->ids ? (const void *)e->ids : e->embd;
        const void *to = memcpy(at, from, n);
        if (e->ids)
            e->ids = to;
        else
            e->embd = to;
        at += n;
    }
    *ret_entries = entries;
    return SOBRE_OK;
}

static sobre_status batch_job(void *session)
{
    sobre_session *s = session;
    return session_eval_batch(s, s->submitted, s->n_submitted);
}

static void drop_submitted(sobre_session *s)
{
    mem_free(s->ctx, s->submitted);
    s->submitted = NULL;
}

sobre_status sobre_session_submit(sobre_session *session, const sobre_batch *batch)
{
    sobre_session *s = session;
    sobre_batch b = SOBRE_INIT(batch);

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(read_batch(s, batch, &b));
    TRY(copy_batch(s, &b, &s->submitted));
    s->n_submitted = b.n_entries;
    sobre_status status = session_start(s, JOB_BATCH, batch_job);
    if (status < 0) drop_submitted(s);
    return status;
}

sobre_status sobre_session_wait(sobre_session *session, int32_t timeout_ms)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    if (s->job != JOB_BATCH)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "no batch was submitted; call sobre_session_submit() first");
    if (!worker_wait(s->worker, timeout_ms)) return SOBRE_AGAIN;
    drop_submitted(s);
    return session_collect(s);
}

int sobre_session_fd(sobre_session *session)
{
    return session && need_worker(session) >= 0 ? worker_fd(session->worker) : -1;
}

sobre_status sobre_session_logits(sobre_session *session, size_t index, const float **ret_logits)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    if (!ret_logits) return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "ret_logits is NULL");
    if (index >= s->n_logits)
        return fail(
            s->ctx, SOBRE_INVALID_ARGUMENT,
            "there is no row %zu of logits: the last evaluation kept %zu; set `want` in its "
            "entries",
            index, s->n_logits);
    *ret_logits = s->logits + index * (size_t)s->n_vocab;
    return SOBRE_OK;
}

size_t sobre_session_n_logits(const sobre_session *session)
{
    return session && session->job == JOB_NONE ? session->n_logits : 0;
}

/* --- Sequences. */

int32_t sobre_seq_length(const sobre_session *session, int32_t seq)
{
    if (!session || seq < 0 || seq >= session->n_seq) return -1;
    const session_seq *q = &session->seqs[seq];
    return session->job == JOB_NONE ? q->n_ids : q->n_shown;
}

const int32_t *sobre_seq_ids(const sobre_session *session, int32_t seq)
{
    if (!session || seq < 0 || seq >= session->n_seq || session->job != JOB_NONE) return NULL;
    return session->seqs[seq].ids;
}

sobre_status sobre_seq_truncate(sobre_session *session, int32_t seq, int32_t length)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    TRY(session_check_seq(s, seq));
    session_seq *q = &s->seqs[seq];
    if (length < 0 || length > q->n_ids)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "sequence %d has %d tokens and cannot be cut to %d", seq, q->n_ids, length);
    session_end_generation(q);
    q->n_ids = length;
    if (s->kv.seqs[seq].length > length) kv_truncate(&s->kv, seq, length);
    return SOBRE_OK;
}

sobre_status sobre_seq_fork(sobre_session *session, int32_t from, int32_t to)
{
    sobre_session *s = session;

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    TRY(session_check_seq(s, from));
    TRY(session_check_seq(s, to));
    if (from == to) return SOBRE_OK;
    const session_seq *a = &s->seqs[from];
    session_seq *b = &s->seqs[to];
    if (a->n_ids > b->n_ids) TRY(session_grow(s, b, a->n_ids - b->n_ids));
    session_end_generation(b);
    if (a->n_ids) memcpy(b->ids, a->ids, (size_t)a->n_ids * sizeof *b->ids);
    b->n_ids = a->n_ids;
    kv_fork(&s->kv, from, to);
    return SOBRE_OK;
}

/* --- Statistics. */

sobre_status sobre_session_stats(const sobre_session *session, sobre_stats *ret_stats)
{
    sobre_session *s = (sobre_session *)session; /* errors belong to the context */

    if (!s) return SOBRE_INVALID_ARGUMENT;
    TRY(session_check_idle(s));
    if (!ret_stats || ret_stats->struct_size < sizeof(size_t))
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "sobre_stats.struct_size is not set");
    sobre_stats stats = s->stats;
    stats.kv_bytes = cache_page_size(&s->cache) * (uint64_t)kv_pages_used(&s->kv);
    stats.struct_size = ret_stats->struct_size;
    memcpy(ret_stats, &stats, stats.struct_size < sizeof stats ? stats.struct_size : sizeof stats);
    return SOBRE_OK;
}
