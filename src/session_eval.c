/* SPDX-License-Identifier: MIT */
/* Evaluation: what a session keeps on the device, and the way of a batch through plans. */
#include "session.h"

#include <math.h>
#include <string.h>

#include "checked.h"
#include "fit.h"

/* --- On the device. */

/* Columns that a plan is made for; the last bucket is n_chunk. Larger ones than n_chunk are
 * skipped. */
static const int32_t col_buckets[N_COL_BUCKETS - 1] = {1, 2, 4, 8, 32};

static sobre_status attach(sobre_session *s)
{
    sobre_model *m = s->model;
    cache c = {0};

    TRY(cache_open(s->ctx, m->fused, &m->devices, m->kv, m->n_kv, s->kv_type, s->kv.n_pages, &c));
    sobre_status status = fit_cache(m, &c);
    if (status >= 0) status = cache_alloc(&c);
    if (status < 0) {
        cache_close(&c);
        return status;
    }
    s->cache = c;
    atomic_fetch_add(&m->cache_bytes, c.size[0]);
    s->generation = m->generation;
    s->on_device = true;
    return SOBRE_OK;
}

void session_detach(sobre_session *s)
{
    plan **plans = &s->plans[0][0][0];

    for (size_t i = 0; i < sizeof s->plans / sizeof *plans; i++) {
        plan_free(plans[i]);
        plans[i] = NULL;
    }
    if (s->on_device) {
        atomic_fetch_sub(&s->model->cache_bytes, s->cache.size[0]);
        cache_close(&s->cache);
    }
    s->on_device = false;
    for (int32_t i = 0; i < s->n_seq; i++) kv_truncate(&s->kv, i, 0);
}

/* Keeps the model loaded until run_end(), and the session on its device. */
static sobre_status run_begin(sobre_session *s)
{
    sobre_model *m = s->model;
    sobre_status status = SOBRE_OK;

    os_mutex_lock(&m->mutex);
    bool loaded = m->loaded;
    if (loaded) atomic_fetch_add(&m->running, 1);
    os_mutex_unlock(&m->mutex);
    if (!loaded)
        return fail(s->ctx, SOBRE_UNAVAILABLE,
                    "the model is not loaded; call sobre_model_load(), and this session goes on "
                    "where it stopped");
    if (s->on_device && s->generation != m->generation) session_detach(s);
    if (!s->on_device) status = attach(s);
    if (status < 0) atomic_fetch_sub(&m->running, 1);
    return status;
}

static void run_end(sobre_session *s)
{
    atomic_fetch_sub(&s->model->running, 1);
}

sobre_status session_attach(sobre_session *s)
{
    TRY(run_begin(s));
    run_end(s);
    return SOBRE_OK;
}

/* The plan for a run, compiled on first use. */
static sobre_status find_plan(sobre_session *s, plan_kind kind, int32_t n_cols, int32_t n_rows,
                              plan **ret_plan)
{
    const sobre_model *m = s->model;
    const sobre_graph *graphs[N_PLAN_KINDS] = {m->fused, m->fused_embd, m->fused_sample};
    int32_t c = 0, r, cols, rows;
    plan **found;

    while (c < N_COL_BUCKETS - 1 && (col_buckets[c] < n_cols || col_buckets[c] > s->n_chunk)) c++;
    cols = c < N_COL_BUCKETS - 1 ? col_buckets[c] : s->n_chunk;
    const int32_t row_buckets[N_ROW_BUCKETS] = {1, cols < 32 ? cols : 32, cols};
    for (r = 0; row_buckets[r] < n_rows;) r++;
    rows = row_buckets[r];
    found = &s->plans[kind][c][r];
    if (!*found) {
        const plan_options o = {
            .devices = &m->devices,
            .n_cols = cols,
            .n_rows = rows,
            .n_seq = s->n_seq < cols ? s->n_seq : cols,
            .exact = s->exact,
            .weights = m->w.spans,
            .kv_slots = s->cache.slots,
            .n_kv_slots = s->cache.n,
            .n_pages = s->kv.max_pages,
        };
        TRY(plan_make(s->ctx, graphs[kind], &o, found));
    }
    *ret_plan = *found;
    return SOBRE_OK;
}

/* --- Chunks. */

/* What one pass over the items has done so far. */
typedef struct passing {
    int32_t n_items, item; /* the item that comes next */
    size_t n_rows, rows_done;
    int32_t n_cols, n_run_rows, n_run_seqs; /* of the chunk being filled */
    bool embd;                              /* its columns are embeddings */
} passing;

/* Copies the page that a write would otherwise change under another sequence. */
static sobre_status reserve(sobre_session *s, int32_t seq, int32_t n)
{
    int32_t from, to;

    TRY(kv_reserve(&s->kv, seq, n, &from, &to));
    sobre_status status = from >= 0 ? cache_copy(&s->cache, from, to) : SOBRE_OK;
    if (status < 0) kv_unsplit(&s->kv, seq, from, to);
    return status;
}

static bool wants_row(const session_item *item, const session_seq *q, int32_t pos)
{
    if (item->want == SOBRE_WANT_ALL) return pos >= item->n_before;
    return item->want == SOBRE_WANT_LAST && pos == q->n_ids - 1;
}

/* Does the next column of an item come as an embedding? */
static bool next_is_embd(const sobre_session *s, const session_item *item)
{
    return item->embd && s->kv.seqs[item->seq].length >= item->n_before;
}

/* Adds columns of one item to the chunk, as many as there is room for: ids that wait from before,
 * or what the item brings. */
static sobre_status fill_columns(sobre_session *s, passing *p)
{
    const session_item *item = &s->items[p->item];
    const session_seq *q = &s->seqs[item->seq];
    int32_t begin = s->kv.seqs[item->seq].length;
    int32_t end = item->embd && !p->embd ? item->n_before : q->n_ids, n = end - begin;

    if (n > s->n_chunk - p->n_cols) n = s->n_chunk - p->n_cols;
    TRY(reserve(s, item->seq, n));
    s->run_seqs[p->n_run_seqs++] = (sobre_run_seq){
        .col = p->n_cols, .n_cols = n, .pos = begin, .pages = s->kv.seqs[item->seq].pages};
    if (p->embd)
        memcpy(s->run_embd + (size_t)p->n_cols * (size_t)s->n_embd,
               item->embd + (size_t)(begin - item->n_before) * (size_t)s->n_embd,
               (size_t)n * (size_t)s->n_embd * sizeof(float));
    for (int32_t i = 0; i < n; i++, p->n_cols++) {
        s->run_ids[p->n_cols] = q->ids[begin + i];
        s->run_pos[p->n_cols] = begin + i;
        if (wants_row(item, q, begin + i)) s->run_rows[p->n_run_rows++] = p->n_cols;
    }
    if (begin + n == q->n_ids) p->item++;
    return SOBRE_OK;
}

/* Fills the chunk. A sequence has one share of it, and all columns are of one kind. */
static sobre_status fill_chunk(sobre_session *s, passing *p)
{
    p->n_cols = p->n_run_rows = p->n_run_seqs = 0;
    p->embd = next_is_embd(s, &s->items[p->item]);
    if (p->embd && !s->run_embd) {
        s->run_embd =
            mem_alloc(s->ctx, (size_t)s->n_chunk, (size_t)s->n_embd * sizeof *s->run_embd);
        if (!s->run_embd) return SOBRE_OUT_OF_MEMORY;
    }
    for (int32_t done = -1; p->item < p->n_items && p->item != done && p->n_cols < s->n_chunk;) {
        if (next_is_embd(s, &s->items[p->item]) != p->embd) break;
        done = p->item;
        TRY(fill_columns(s, p));
    }
    return SOBRE_OK;
}

static int is_cancelled(const void *session)
{
    const sobre_session *s = session;
    return atomic_load_explicit(&s->cancel, memory_order_relaxed);
}

static sobre_status check_finite(sobre_session *s, const float *logits, size_t n)
{
    enum { LANES = 16 };
    int32_t bad[LANES] = {0}, any = 0;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) bad[j] |= !(fabsf(logits[i + (size_t)j]) < INFINITY);
    for (; i < n; i++) any |= !(fabsf(logits[i]) < INFINITY);
    for (int j = 0; j < LANES; j++) any |= bad[j];
    if (!any) return SOBRE_OK;
    return fail(s->ctx, SOBRE_NOT_FINITE,
                "the logits hold NaN or infinity; the model's weights are damaged, or its numbers "
                "overflow (an exact session may help)");
}

/* Room for all rows of a pass. */
static sobre_status keep_room(sobre_session *s, const passing *p)
{
    uint64_t bytes;
    size_t size;

    if (!checked_mul(p->n_rows, (uint64_t)s->n_vocab * sizeof(float), &bytes) ||
        !checked_size(bytes, &size))
        return fail(s->ctx, SOBRE_OUT_OF_MEMORY,
                    "%zu rows of logits are more than can be addressed; want fewer", p->n_rows);
    if (size > s->kept_size) {
        mem_pages_free(s->ctx, s->kept, s->kept_size);
        s->kept_size = 0;
        s->kept = mem_pages_alloc(s->ctx, size, false);
        if (!s->kept) return SOBRE_OUT_OF_MEMORY;
        s->kept_size = size;
    }
    s->logits = s->kept;
    return SOBRE_OK;
}

/* Rows that come with the last chunk stay where the plan put them; earlier ones are copied. */
static sobre_status keep_rows(sobre_session *s, const passing *p, const float *logits)
{
    size_t n = (size_t)p->n_run_rows * (size_t)s->n_vocab;

    if (!n) return SOBRE_OK;
    TRY(check_finite(s, logits, n));
    if (p->rows_done == 0 && p->item == p->n_items) {
        s->logits = logits;
        return SOBRE_OK;
    }
    if (p->rows_done == 0) TRY(keep_room(s, p));
    memcpy(s->kept + p->rows_done * (size_t)s->n_vocab, logits, n * sizeof *logits);
    return SOBRE_OK;
}

/* The results of sampling, and the logits of those rows that the host must look at. */
static sobre_status keep_picks(sobre_session *s, const passing *p, plan *from)
{
    const int32_t *picks;
    int32_t *kept = s->picks + p->rows_done * SOBRE_SAMPLE_RESULT_SIZE;

    if (!p->n_run_rows) return SOBRE_OK;
    TRY(exec_picks(from, p->n_run_rows, &picks));
    memcpy(kept, picks, (size_t)p->n_run_rows * SOBRE_SAMPLE_RESULT_SIZE * sizeof *kept);
    for (int32_t i = 0; i < p->n_run_rows; i++) {
        const float *logits;
        if (kept[i * SOBRE_SAMPLE_RESULT_SIZE + SOBRE_SAMPLE_STATUS] == SOBRE_SAMPLE_PICKED)
            continue;
        TRY(exec_logits(from, i, &logits));
        TRY(check_finite(s, logits, (size_t)s->n_vocab));
        if (!s->logits) TRY(keep_room(s, p));
        memcpy(s->kept + (p->rows_done + (size_t)i) * (size_t)s->n_vocab, logits,
               (size_t)s->n_vocab * sizeof *logits);
    }
    return SOBRE_OK;
}

static sobre_status run_chunk(sobre_session *s, passing *p)
{
    const float *logits = NULL;
    int32_t first = p->item;
    plan *chosen;
    plan_kind kind;

    TRY(fill_chunk(s, p));
    if (is_cancelled(s))
        return fail(s->ctx, SOBRE_CANCELLED, "cancelled by sobre_session_cancel()");
    kind = s->sampled ? PLAN_SAMPLE : p->embd ? PLAN_EMBD : PLAN_IDS;
    TRY(find_plan(s, kind, p->n_cols, p->n_run_rows, &chosen));
    const exec_batch batch = {
        .n_cols = p->n_cols,
        .n_rows = p->n_run_rows,
        .n_seqs = p->n_run_seqs,
        .ids = p->embd ? NULL : s->run_ids,
        .embd = p->embd ? s->run_embd : NULL,
        .pos = s->run_pos,
        .rows = s->run_rows,
        .sampling = s->sampled ? s->sampling + p->rows_done * SOBRE_SAMPLE_PARAMS_SIZE : NULL,
        .seqs = s->run_seqs,
        .cancelled = is_cancelled,
        .cancelled_user = s,
    };
    TRY(exec_run(chosen, &batch, &logits));
    TRY(s->sampled ? keep_picks(s, p, chosen) : keep_rows(s, p, logits));
    for (int32_t i = 0; i < p->n_run_seqs; i++)
        kv_advance(&s->kv, s->items[first + i].seq, s->run_seqs[i].n_cols);
    p->rows_done += (size_t)p->n_run_rows;
    s->stats.n_evals++;
    s->stats.n_launches = (uint64_t)chosen->n_launches;
    return SOBRE_OK;
}

/* What waits from before must be ids. */
static sobre_status check_replay(sobre_session *s, int32_t n_items)
{
    for (int32_t i = 0; i < n_items; i++) {
        const session_item *item = &s->items[i];
        for (int32_t k = s->kv.seqs[item->seq].length; k < item->n_before; k++)
            if (s->seqs[item->seq].ids[k] < 0)
                return fail(s->ctx, SOBRE_UNSUPPORTED,
                            "sequence %d was given embeddings, which are not kept, so it cannot be "
                            "evaluated again; truncate it to 0 and give them once more",
                            item->seq);
    }
    return SOBRE_OK;
}

/* What the device needs to know to sample for each item. */
static sobre_status fill_sampling(sobre_session *s, int32_t n_items)
{
    size_t n_seq = (size_t)s->n_seq;

    if (!s->sampling)
        s->sampling = mem_alloc(s->ctx, n_seq, SOBRE_SAMPLE_PARAMS_SIZE * sizeof *s->sampling);
    if (!s->picks) s->picks = mem_alloc(s->ctx, n_seq, SOBRE_SAMPLE_RESULT_SIZE * sizeof *s->picks);
    if (!s->sampling || !s->picks) return SOBRE_OUT_OF_MEMORY;
    for (int32_t i = 0; i < n_items; i++) {
        const session_seq *q = &s->seqs[s->items[i].seq];
        sampler_params(q->sampler, q->ids, q->n_ids,
                       s->sampling + (size_t)i * SOBRE_SAMPLE_PARAMS_SIZE);
    }
    return SOBRE_OK;
}

static sobre_status run_all(sobre_session *s, int32_t n_items, bool sample)
{
    passing p = {.n_items = n_items};
    uint64_t begin = os_now_ns(), n_cols = 0;

    TRY(check_replay(s, n_items));
    s->sampled = sample && s->model->fused_sample;
    if (s->sampled) TRY(fill_sampling(s, n_items));
    for (int32_t i = 0; i < n_items; i++) {
        const session_item *item = &s->items[i];
        const session_seq *q = &s->seqs[item->seq];
        n_cols += (uint64_t)(q->n_ids - s->kv.seqs[item->seq].length);
        if (item->want == SOBRE_WANT_LAST) p.n_rows++;
        if (item->want == SOBRE_WANT_ALL) p.n_rows += (size_t)(q->n_ids - item->n_before);
    }
    while (p.item < n_items) TRY(run_chunk(s, &p));
    s->n_logits = s->sampled ? 0 : p.n_rows;
    bool decode = n_cols == (uint64_t)n_items;
    *(decode ? &s->stats.n_decode : &s->stats.n_prefill) += n_cols;
    *(decode ? &s->stats.decode_ns : &s->stats.prefill_ns) += os_now_ns() - begin;
    return SOBRE_OK;
}

sobre_status session_run(sobre_session *s, int32_t n_items, bool sample)
{
    s->logits = NULL;
    s->n_logits = 0;
    TRY(run_begin(s));
    sobre_status status = run_all(s, n_items, sample);
    run_end(s);
    if (status < 0) { /* what was reserved, but not used, goes back */
        for (int32_t i = 0; i < n_items; i++) {
            int32_t seq = s->items[i].seq;
            kv_truncate(&s->kv, seq, s->kv.seqs[seq].length);
        }
    }
    return status;
}

/* --- Batches. */

static sobre_status check_entry(sobre_session *s, const sobre_entry *e, size_t index)
{
    const char *problem = NULL;

    TRY(session_check_seq(s, e->seq));
    int32_t length = s->seqs[e->seq].n_ids;
    if (e->n_tokens < 1)
        problem = "has no tokens; give at least one";
    else if (!e->ids == !e->embd)
        problem = "must have either ids or embd";
    else if (e->want < SOBRE_WANT_NONE || e->want > SOBRE_WANT_ALL)
        problem = "wants logits in a way that does not exist; use SOBRE_WANT_NONE, LAST or ALL";
    else if (s->seqs[e->seq].in_batch)
        problem = "is for a sequence that an earlier entry is for too; join them";
    if (problem)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "entry %zu (sequence %d) %s", index, e->seq,
                    problem);
    if (e->pos != length)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                    "entry %zu: pos is %d, but sequence %d has %d tokens; truncate it, or continue "
                    "at its end",
                    index, e->pos, e->seq, length);
    for (int32_t i = 0; e->ids && i < e->n_tokens; i++)
        if (e->ids[i] < 0 || e->ids[i] >= s->n_vocab)
            return fail(s->ctx, SOBRE_INVALID_ARGUMENT,
                        "entry %zu: token %d is %d; the model has ids 0 to %d", index, i, e->ids[i],
                        s->n_vocab - 1);
    bool shifts = s->full == SOBRE_FULL_SHIFT && length > s->n_keep;
    int32_t room = s->n_ctx - (shifts ? s->n_keep : length);
    if (e->n_tokens > room)
        return fail(s->ctx, SOBRE_CONTEXT_FULL,
                    "entry %zu: sequence %d has %d tokens and can have %d, so %d more have no "
                    "room; truncate it, or open a session with a larger n_ctx",
                    index, e->seq, length, s->n_ctx, e->n_tokens);
    return SOBRE_OK;
}

sobre_status session_check_batch(sobre_session *s, const sobre_entry *entries, size_t n_entries)
{
    sobre_status status = SOBRE_OK;
    size_t n;

    if (!entries || n_entries == 0)
        return fail(s->ctx, SOBRE_INVALID_ARGUMENT, "the batch has no entries; give at least one");
    for (n = 0; n < n_entries && status >= 0; n++) {
        status = check_entry(s, &entries[n], n);
        if (status >= 0) s->seqs[entries[n].seq].in_batch = true;
    }
    /* The entry that failed, if one did, was not marked by itself. */
    for (size_t i = 0; i < (status < 0 ? n - 1 : n); i++) s->seqs[entries[i].seq].in_batch = false;
    return status;
}

sobre_status session_shift(sobre_session *s, int32_t seq, int32_t n)
{
    session_seq *q = &s->seqs[seq];
    int32_t length = q->n_ids;

    for (int32_t i = 0; i < q->n_ids; i++)
        if (q->ids[i] < 0)
            return fail(s->ctx, SOBRE_CONTEXT_FULL,
                        "sequence %d is full, and cannot drop its older half, because it was given "
                        "embeddings, which are not kept; truncate it to 0",
                        seq);
    while (n > s->n_ctx - length) length = s->n_keep + (length - s->n_keep) / 2;
    memmove(q->ids + s->n_keep, q->ids + q->n_ids - (length - s->n_keep),
            (size_t)(length - s->n_keep) * sizeof *q->ids);
    q->n_ids = length;
    if (s->kv.seqs[seq].length > s->n_keep) kv_truncate(&s->kv, seq, s->n_keep);
    return SOBRE_OK;
}

/* Adds an entry's tokens to its sequence. */
static sobre_status take_entry(sobre_session *s, const sobre_entry *e, session_item *item)
{
    session_seq *q = &s->seqs[e->seq];

    *item = (session_item){.seq = e->seq, .want = e->want, .n_before = q->n_ids, .embd = e->embd};
    session_drop_step(q);
    if (e->n_tokens > s->n_ctx - q->n_ids) {
        item->saved = mem_alloc(s->ctx, (size_t)q->n_ids, sizeof *item->saved);
        if (!item->saved) return SOBRE_OUT_OF_MEMORY;
        memcpy(item->saved, q->ids, (size_t)q->n_ids * sizeof *q->ids);
        item->n_saved = q->n_ids;
        TRY(session_shift(s, e->seq, e->n_tokens));
        item->n_before = q->n_ids;
    }
    TRY(session_grow(s, q, e->n_tokens));
    for (int32_t i = 0; i < e->n_tokens; i++) q->ids[q->n_ids++] = e->ids ? e->ids[i] : -1;
    return SOBRE_OK;
}

/* Takes the tokens of a failed call away. What was evaluated of older ones stays. */
static void restore(sobre_session *s, const session_item *item)
{
    session_seq *q = &s->seqs[item->seq];
    int32_t valid = item->saved ? s->n_keep : item->n_before;

    q->n_ids = item->saved ? item->n_saved : item->n_before;
    if (item->saved) memcpy(q->ids, item->saved, (size_t)item->n_saved * sizeof *q->ids);
    if (s->kv.seqs[item->seq].length > valid) kv_truncate(&s->kv, item->seq, valid);
}

sobre_status session_eval_batch(sobre_session *s, const sobre_entry *entries, size_t n_entries)
{
    sobre_status status = SOBRE_OK;
    int32_t n = 0;

    while (n < (int32_t)n_entries && status >= 0) {
        status = take_entry(s, &entries[n], &s->items[n]);
        n++;
    }
    if (status >= 0) status = session_run(s, n, false);
    for (int32_t i = 0; i < n; i++) {
        if (status < 0) restore(s, &s->items[i]);
        mem_free(s->ctx, s->items[i].saved);
        s->items[i].saved = NULL;
    }
    return status;
}
