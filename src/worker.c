/* SPDX-License-Identifier: MIT */
/* The thread sleeps on a condition; its owner sleeps on an event, which poll() understands too. */
#include "worker.h"

#include <string.h>

enum { MESSAGE_SIZE = 512 };

struct worker {
    sobre_context *ctx;
    uint64_t process; /* that the thread lives in */
    os_thread *thread;
    os_event idle;  /* raised while there is no job */
    os_mutex mutex; /* guards what follows */
    os_cond wake;
    sobre_status (*job)(void *arg); /* NULL: idle */
    void *arg;
    bool stop;
    sobre_status status;
    char message[MESSAGE_SIZE]; /* of a failed job */
};

sobre_status worker_open(sobre_context *ctx, worker **ret_worker)
{
    worker *w = mem_alloc(ctx, 1, sizeof *w);
    if (!w) return SOBRE_OUT_OF_MEMORY;
    w->ctx = ctx;
    w->process = os_process_id();
    if (!os_mutex_init(&w->mutex)) goto no_mutex;
    if (!os_cond_init(&w->wake)) goto no_cond;
    if (!os_event_init(&w->idle)) goto no_event;
    os_event_raise(&w->idle);
    *ret_worker = w;
    return SOBRE_OK;

no_event:
    os_cond_destroy(&w->wake);
no_cond:
    os_mutex_destroy(&w->mutex);
no_mutex:
    mem_free(ctx, w);
    return fail(ctx, SOBRE_OUT_OF_MEMORY,
                "the system gave no event for work in the background; close some files, or use the "
                "calls that block");
}

/* A child after fork() has the memory, but not the thread. */
static bool is_orphan(const worker *w)
{
    return w->process != os_process_id();
}

static sobre_status fail_orphan(worker *w)
{
    return fail(w->ctx, SOBRE_UNAVAILABLE,
                "this process is a fork(), in which the session's thread does not live; open a new "
                "context here");
}

void worker_close(worker *w)
{
    if (!w) return;
    if (w->thread && !is_orphan(w)) {
        os_mutex_lock(&w->mutex);
        w->stop = true;
        os_cond_broadcast(&w->wake);
        os_mutex_unlock(&w->mutex);
        os_thread_join(w->thread);
    }
    os_event_destroy(&w->idle);
    os_cond_destroy(&w->wake);
    os_mutex_destroy(&w->mutex);
    mem_free(w->ctx, w);
}

static void worker_run(void *arg)
{
    worker *w = arg;

    os_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->job && !w->stop) os_cond_wait(&w->wake, &w->mutex);
        if (!w->job) break;
        os_mutex_unlock(&w->mutex);
        sobre_status status = w->job(w->arg);
        os_mutex_lock(&w->mutex);
        w->status = status;
        w->message[0] = '\0';
        if (status < 0) strncat(w->message, sobre_error(w->ctx), MESSAGE_SIZE - 1);
        w->job = NULL;
        os_event_raise(&w->idle);
    }
    os_mutex_unlock(&w->mutex);
}

sobre_status worker_start(worker *w, sobre_status (*job)(void *arg), void *arg)
{
    if (is_orphan(w)) return fail_orphan(w);
    os_mutex_lock(&w->mutex);
    w->job = job;
    w->arg = arg;
    os_event_clear(&w->idle);
    os_cond_broadcast(&w->wake);
    os_mutex_unlock(&w->mutex);
    if (w->thread || (w->thread = os_thread_start(worker_run, w))) return SOBRE_OK;
    w->job = NULL;
    os_event_raise(&w->idle);
    return fail(w->ctx, SOBRE_OUT_OF_MEMORY,
                "the system gave no thread for work in the background; use the calls that block");
}

static bool is_idle(worker *w)
{
    os_mutex_lock(&w->mutex);
    bool idle = !w->job;
    os_mutex_unlock(&w->mutex);
    return idle;
}

bool worker_wait(worker *w, int32_t timeout_ms)
{
    uint64_t begin = os_now_ns();

    while (!is_orphan(w) && !is_idle(w)) {
        int32_t left = timeout_ms;
        if (timeout_ms >= 0) {
            uint64_t spent = (os_now_ns() - begin) / 1000000;
            if (spent >= (uint64_t)timeout_ms) return false;
            left -= (int32_t)spent;
        }
        os_event_wait(&w->idle, left);
    }
    return true;
}

sobre_status worker_result(worker *w)
{
    if (is_orphan(w)) return fail_orphan(w);
    return w->status < 0 ? fail(w->ctx, w->status, "%s", w->message) : w->status;
}

int worker_fd(const worker *w)
{
    return os_event_fd(&w->idle);
}
