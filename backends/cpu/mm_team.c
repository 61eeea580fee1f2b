/* SPDX-License-Identifier: MIT */
/* How threads share a product. With few tokens each streams a contiguous share of the weights'
 * bytes, chunk by chunk, then helps threads that are slower or busy with something else. With many
 * tokens they take tasks, panels times a block of tokens, from one counter. */
#include "mm_kernels.h"

enum {
    GROUP = MM_STREAM_PANELS, /* panels of a task */
    LINE = 64,
    FETCHED = 20 * LINE,        /* bytes of a share that are fetched ahead */
    SHARE_CHUNKS = 4,           /* chunks of a share at least, if it has as many panels */
    COUNT_BITS = 32,            /* of a cursor: chunks taken; above them the product's number */
    MAX_TOKEN_BLOCK = 128,      /* tokens in a task */
    MIN_TOKEN_BLOCK = 32,       /* a multiple of every tile */
    ACT_CACHE_SIZE = 384 << 10, /* prepared bytes of a token block: stay in L2 */
};

/* Weights that are finished together: one, or the two of a GLU. */
static int32_t n_entries(const mm_job *job)
{
    return job->glu != SOBRE_ACT_NONE ? 1 : job->n_weights;
}

static int64_t n_panels(const mm_weight *w)
{
    return (w->n_rows + MM_PANEL - 1) / MM_PANEL;
}

/* Bytes of weights that one panel of an entry reads. */
static uint64_t entry_panel_size(const mm_job *job, int32_t entry)
{
    uint64_t size = job->w[entry].panel_size;
    return job->glu != SOBRE_ACT_NONE ? size + job->w[1].panel_size : size;
}

/* The panels of all entries, in one row. */
typedef struct panel_row {
    uint64_t n[4], size[4]; /* panels of an entry, bytes of each */
    int32_t n_entries;
    uint64_t bytes;
} panel_row;

static panel_row panel_row_of(const mm_job *job)
{
    panel_row r = {.n_entries = n_entries(job)};
    for (int32_t i = 0; i < r.n_entries; i++) {
        r.n[i] = (uint64_t)n_panels(&job->w[i]);
        r.size[i] = entry_panel_size(job, i);
        r.bytes += r.n[i] * r.size[i];
    }
    return r;
}

/* The first panel that begins at `byte` or later. */
static uint64_t panel_at(const panel_row *r, uint64_t byte)
{
    uint64_t panel = 0;
    for (int32_t i = 0; i < r->n_entries; i++) {
        if (byte <= r->n[i] * r->size[i]) return panel + (byte + r->size[i] - 1) / r->size[i];
        byte -= r->n[i] * r->size[i];
        panel += r->n[i];
    }
    return panel;
}

static void run_row(const mm_job *job, const panel_row *r, uint64_t begin, uint64_t end)
{
    uint64_t first = 0;
    for (int32_t i = 0; i < r->n_entries && first < end; i++) {
        uint64_t from = begin > first ? begin - first : 0, to = end - first;
        if (to > r->n[i]) to = r->n[i];
        if (from < to) mm_run_panels(job, i, (int64_t)from, (int64_t)to, 0, job->n_tokens);
        first += r->n[i];
    }
}

/* A thread's share, and the chunks it is taken in. */
typedef struct share {
    uint64_t begin, end, chunk;
    uint32_t n_chunks;
} share;

static share share_of(const panel_row *r, int32_t thread, int32_t n_threads)
{
    uint64_t part = r->bytes / (uint64_t)n_threads;
    share s = {.begin = panel_at(r, part * (uint64_t)thread),
               .end =
                   panel_at(r, thread == n_threads - 1 ? r->bytes : part * ((uint64_t)thread + 1))};
    s.chunk = (s.end - s.begin) / SHARE_CHUNKS;
    if (s.chunk > GROUP) s.chunk = GROUP;
    if (s.chunk < 1) s.chunk = 1;
    s.n_chunks = (uint32_t)((s.end - s.begin + s.chunk - 1) / s.chunk);
    return s;
}

/* Chunks of a share that are taken. A cursor that an older product left means none, so nobody has
 * to reset it. */
static uint32_t n_taken(const mm_job *job, uint64_t cursor)
{
    return cursor >> COUNT_BITS == job->number ? (uint32_t)cursor : 0;
}

/* Takes the next chunk of a share; false if there is none left. */
static bool take_chunk(const mm_job *job, mm_cursor *cursor, const share *s, uint64_t *ret_begin,
                       uint64_t *ret_end)
{
    uint64_t old = atomic_load_explicit(&cursor->at, memory_order_relaxed);
    for (;;) {
        uint32_t taken = n_taken(job, old);
        if (taken >= s->n_chunks) return false;
        uint64_t next = (uint64_t)job->number << COUNT_BITS | (taken + 1);
        if (!atomic_compare_exchange_weak_explicit(&cursor->at, &old, next, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        *ret_begin = s->begin + s->chunk * taken;
        *ret_end = *ret_begin + s->chunk < s->end ? *ret_begin + s->chunk : s->end;
        return true;
    }
}

/* Of the threads at distances 1, 2, 4 ..., the one whose share has most chunks left; -1: none has
 * any. So each thread has several helpers, and none looks at all others. */
static int32_t most_left(const mm_job *job, const panel_row *r, int32_t thread, int32_t n_threads)
{
    int32_t most = -1;
    uint32_t most_chunks = 0;
    for (int32_t distance = 1; distance < n_threads; distance *= 2) {
        int32_t other = (thread + distance) % n_threads;
        share s = share_of(r, other, n_threads);
        uint64_t at = atomic_load_explicit(&job->cursors[other].at, memory_order_relaxed);
        uint32_t taken = n_taken(job, at);
        if (taken >= s.n_chunks || s.n_chunks - taken <= most_chunks) continue;
        most = other;
        most_chunks = s.n_chunks - taken;
    }
    return most;
}

static void run_shares(const mm_job *job, int32_t thread, int32_t n_threads)
{
    panel_row r = panel_row_of(job);
    share s = share_of(&r, thread, n_threads);
    uint64_t begin, end;
    if (!job->cursors) {
        run_row(job, &r, s.begin, s.end);
        return;
    }
    for (int32_t of = thread; of >= 0; of = most_left(job, &r, thread, n_threads)) {
        s = share_of(&r, of, n_threads);
        while (take_chunk(job, &job->cursors[of], &s, &begin, &end)) {
            run_row(job, &r, begin, end);
            if (of != thread) break; /* perhaps another one has more left now */
        }
    }
}

static void run_tasks(mm_job *job, int32_t n_threads)
{
    uint64_t stride = mm_act_stride(mm_act_for(&job->w[0], job->exact), job->w[0].n_cols);
    int64_t block = (int64_t)(ACT_CACHE_SIZE / stride) / MIN_TOKEN_BLOCK * MIN_TOKEN_BLOCK;
    if (block > MAX_TOKEN_BLOCK) block = MAX_TOKEN_BLOCK;
    if (block < MIN_TOKEN_BLOCK) block = MIN_TOKEN_BLOCK;
    int64_t n_blocks = (job->n_tokens + block - 1) / block;

    /* Smaller tasks where there would be too few for all threads. */
    int64_t n_all = 0, group = GROUP;
    for (int32_t i = 0; i < n_entries(job); i++) n_all += n_panels(&job->w[i]);
    while (group > 1 && n_all / group * n_blocks < 4 * n_threads) group /= 2;

    int64_t n_groups[4], n_block_groups = 0;
    for (int32_t i = 0; i < n_entries(job); i++) {
        n_groups[i] = (n_panels(&job->w[i]) + group - 1) / group;
        n_block_groups += n_groups[i];
    }
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (task >= n_blocks * n_block_groups) return;
        int32_t token = (int32_t)(task / n_block_groups * block), entry = 0;
        int64_t at = task % n_block_groups;
        while (at >= n_groups[entry]) at -= n_groups[entry++];
        int64_t end = (at + 1) * group, n = n_panels(&job->w[entry]);
        int64_t n_tokens = job->n_tokens - token < block ? job->n_tokens - token : block;
        mm_run_panels(job, entry, at * group, end < n ? end : n, token, (int32_t)n_tokens);
    }
}

void mm_fetch_ahead(const mm_job *job, int32_t thread, int32_t n_threads)
{
    if (job->n_tokens > MM_FEW_TOKENS) return;
    const panel_row r = panel_row_of(job);
    uint64_t panel = share_of(&r, thread, n_threads).begin;
    for (int32_t i = 0; i < r.n_entries; i++) {
        if (panel < r.n[i]) {
            const uint8_t *first = job->w[i].data + panel * job->w[i].panel_size;
            for (int at = 0; at < FETCHED; at += LINE) __builtin_prefetch(first + at);
            return;
        }
        panel -= r.n[i];
    }
}

void mm_run(mm_job *job, int32_t thread, int32_t n_threads)
{
    if (job->n_tokens <= MM_FEW_TOKENS) {
        run_shares(job, thread, n_threads);
    } else {
        run_tasks(job, n_threads);
    }
}
