/* SPDX-License-Identifier: MIT */
/* The context's threads. Jobs of several sessions take turns, first come first served; inside a job
 * all threads work on the same thing. Between jobs the threads spin shortly, then sleep: no CPU is
 * used while idle. */
#ifndef SOBRE_POOL_H
#define SOBRE_POOL_H

#include "context.h"

typedef struct pool pool;

/* n_threads counts the caller; 0: one a core that this process may run on. */
sobre_status pool_open(sobre_context *ctx, int32_t n_threads, pool **ret_pool);
void pool_close(pool *p);
int32_t pool_n_threads(const pool *p); /* the caller's included */

/* Runs job(arg, thread, n_threads) on every thread, the caller being thread 0; returns when all are
 * done. UNAVAILABLE in a child after fork(). */
typedef void (*pool_job)(void *arg, int32_t thread, int32_t n_threads);
sobre_status pool_run(pool *p, pool_job job, void *arg);
/* Inside a job: waits until every thread has come here. */
void pool_barrier(pool *p, int32_t thread);

/* The share of [0, n) that thread `thread` of n_threads takes, in units of `grain`. */
static inline void pool_share(int64_t n, int64_t grain, int32_t thread, int32_t n_threads,
                              int64_t *ret_begin, int64_t *ret_end)
{
    int64_t units = (n + grain - 1) / grain;
    int64_t begin = units * thread / n_threads * grain,
            end = units * (thread + 1) / n_threads * grain;
    *ret_begin = begin < n ? begin : n;
    *ret_end = end < n ? end : n;
}

#endif
