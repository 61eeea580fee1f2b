/* SPDX-License-Identifier: MIT */
/* How threads share a product: with few tokens the weights' bytes, with many the panels times
 * blocks of tokens. */
#include "mm_kernels.h"

enum {
    GROUP = MM_STREAM_PANELS,   /* panels of a task */
    FEW_TOKENS = 8,             /* up to here weights are streamed once, in static shares */
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

/* Each thread streams one contiguous share of all weights' bytes. */
static void run_shares(const mm_job *job, int32_t thread, int32_t n_threads)
{
    uint64_t total = 0, start = 0;
    for (int32_t i = 0; i < n_entries(job); i++) {
        total += entry_panel_size(job, i) * (uint64_t)n_panels(&job->w[i]);
    }
    uint64_t part = total / (uint64_t)n_threads;
    uint64_t share_begin = part * (uint64_t)thread;
    uint64_t share_end = thread == n_threads - 1 ? total : share_begin + part;
    for (int32_t i = 0; i < n_entries(job); i++) {
        /* A panel belongs to the share that its first byte lies in. */
        uint64_t size = entry_panel_size(job, i), n = (uint64_t)n_panels(&job->w[i]);
        uint64_t begin = share_begin > start ? (share_begin - start + size - 1) / size : 0;
        uint64_t end = share_end > start ? (share_end - start + size - 1) / size : 0;
        mm_run_panels(job, i, (int64_t)(begin < n ? begin : n), (int64_t)(end < n ? end : n), 0,
                      job->n_tokens);
        start += size * n;
    }
}

/* Threads take tasks, panels times a block of tokens, from the counter. */
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

void mm_run(mm_job *job, int32_t thread, int32_t n_threads)
{
    if (job->n_tokens <= FEW_TOKENS) {
        run_shares(job, thread, n_threads);
    } else {
        run_tasks(job, n_threads);
    }
}
