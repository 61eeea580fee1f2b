/* SPDX-License-Identifier: MIT */
/* One background thread that runs one job at a time. All functions are for the owner's thread. */
#ifndef SOBRE_WORKER_H
#define SOBRE_WORKER_H

#include "context.h"

typedef struct worker worker;

sobre_status worker_open(sobre_context *ctx, worker **ret_worker);
/* Waits for a running job; NULL is fine. */
void worker_close(worker *w);
/* Starts job(arg); the thread itself on first use. The worker must be idle. UNAVAILABLE after
 * fork(). */
sobre_status worker_start(worker *w, sobre_status (*job)(void *arg), void *arg);
/* Waits until the worker is idle, at most timeout_ms (below 0: for ever); false if it is not. */
bool worker_wait(worker *w, int32_t timeout_ms);
/* What the last job returned; its failure is reported again on this thread. The worker must be
 * idle. */
sobre_status worker_result(worker *w);
/* Polls readable while the worker is idle; -1 where the system has no descriptors for that. */
int worker_fd(const worker *w);

#endif
