/* SPDX-License-Identifier: MIT */
/* The thread pool: every thread works, barriers hold, sessions take turns, idle threads sleep. */
#include "pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { N_MAX = 64 };

static int open_context(void **state)
{
    sobre_context *ctx;
    if (sobre_context_open(NULL, &ctx) != SOBRE_OK) return -1;
    *state = ctx;
    return 0;
}

static int close_context(void **state)
{
    sobre_context_close(*state);
    return 0;
}

typedef struct visit {
    atomic_int by_thread[N_MAX];
    atomic_int n_threads;
} visit;

static void visit_job(void *arg, int32_t thread, int32_t n_threads)
{
    visit *v = arg;
    atomic_fetch_add(&v->by_thread[thread], 1);
    atomic_store(&v->n_threads, n_threads);
}

static void every_thread_runs_each_job_once(void **state)
{
    static const int32_t counts[] = {1, 2, 3, 8, N_MAX};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        pool *p;
        assert_int_equal(pool_open(*state, counts[c], &p), SOBRE_OK);
        assert_int_equal(pool_n_threads(p), counts[c]);
        visit v;
        memset(&v, 0, sizeof v);
        enum { N_JOBS = 50 };
        for (int i = 0; i < N_JOBS; i++) assert_int_equal(pool_run(p, visit_job, &v), SOBRE_OK);
        assert_int_equal(atomic_load(&v.n_threads), counts[c]);
        for (int i = 0; i < N_MAX; i++)
            assert_int_equal(atomic_load(&v.by_thread[i]), i < counts[c] ? N_JOBS : 0);
        pool_close(p);
    }
}

typedef struct ring {
    pool *p;
    int32_t cells[N_MAX];
    atomic_int n_wrong;
} ring;

/* Each round a thread checks what its neighbour wrote before the barrier; plain memory, so that a
 * missing barrier is a data race too. */
static void ring_job(void *arg, int32_t thread, int32_t n_threads)
{
    ring *r = arg;
    for (int32_t round = 1; round <= 300; round++) {
        r->cells[thread] = round;
        pool_barrier(r->p, thread);
        if (r->cells[(thread + 1) % n_threads] != round) atomic_fetch_add(&r->n_wrong, 1);
        pool_barrier(r->p, thread);
    }
}

static void barriers_order_memory(void **state)
{
    static const int32_t counts[] = {1, 2, 5, 16};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        ring r;
        memset(&r, 0, sizeof r);
        assert_int_equal(pool_open(*state, counts[c], &r.p), SOBRE_OK);
        assert_int_equal(pool_run(r.p, ring_job, &r), SOBRE_OK);
        assert_int_equal(atomic_load(&r.n_wrong), 0);
        pool_close(r.p);
    }
}

typedef struct caller {
    pool *p;
    atomic_int *inside; /* jobs running now */
    atomic_int n_overlaps, n_done;
    int32_t n_jobs;
    sobre_status status;
} caller;

static void exclusive_job(void *arg, int32_t thread, int32_t n_threads)
{
    caller *c = arg;
    if (thread == 0 && atomic_fetch_add(c->inside, 1) != 0) atomic_fetch_add(&c->n_overlaps, 1);
    pool_barrier(c->p, thread);
    if (thread == 0) {
        atomic_fetch_sub(c->inside, 1);
        atomic_fetch_add(&c->n_done, 1);
    }
}

static void caller_run(void *arg)
{
    caller *c = arg;
    for (int32_t i = 0; i < c->n_jobs; i++) {
        sobre_status status = pool_run(c->p, exclusive_job, c);
        if (status != SOBRE_OK) c->status = status;
    }
}

static void sessions_take_turns(void **state)
{
    static const int32_t counts[] = {1, 2, 4};
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        pool *p;
        assert_int_equal(pool_open(*state, counts[k], &p), SOBRE_OK);
        enum { N_CALLERS = 6, N_JOBS = 40 };
        caller callers[N_CALLERS];
        os_thread *threads[N_CALLERS];
        atomic_int inside;
        atomic_init(&inside, 0);
        memset(callers, 0, sizeof callers);
        for (int i = 0; i < N_CALLERS; i++) {
            callers[i].p = p;
            callers[i].inside = &inside;
            callers[i].n_jobs = N_JOBS;
            threads[i] = os_thread_start(caller_run, &callers[i]);
            assert_non_null(threads[i]);
        }
        for (int i = 0; i < N_CALLERS; i++) {
            os_thread_join(threads[i]);
            assert_int_equal(callers[i].status, SOBRE_OK);
            assert_int_equal(atomic_load(&callers[i].n_overlaps), 0);
            assert_int_equal(atomic_load(&callers[i].n_done), N_JOBS);
        }
        pool_close(p);
    }
}

typedef struct queue {
    pool *p;
    atomic_int hold, n_waiting;
    int order[N_MAX];
    int n_order;
} queue;

typedef struct queued {
    queue *q;
    int id;
} queued;

static void hold_job(void *arg, int32_t thread, int32_t n_threads)
{
    queue *q = arg;
    while (thread == 0 && atomic_load(&q->hold)) continue;
}

static void queued_job(void *arg, int32_t thread, int32_t n_threads)
{
    queued *self = arg;
    if (thread == 0) self->q->order[self->q->n_order++] = self->id;
}

static void holder_run(void *arg)
{
    queue *q = arg;
    pool_run(q->p, hold_job, q);
}

static void queued_run(void *arg)
{
    queued *self = arg;
    atomic_fetch_add(&self->q->n_waiting, 1);
    pool_run(self->q->p, queued_job, self);
}

static void pause_ms(int ms)
{
    os_event event;
    assert_true(os_event_init(&event));
    os_event_wait(&event, ms);
    os_event_destroy(&event);
}

static void first_come_first_served(void **state)
{
    queue q;
    memset(&q, 0, sizeof q);
    assert_int_equal(pool_open(*state, 2, &q.p), SOBRE_OK);
    atomic_store(&q.hold, 1);
    os_thread *holder = os_thread_start(holder_run, &q);
    assert_non_null(holder);
    pause_ms(20);
    enum { N_QUEUED = 5 };
    queued jobs[N_QUEUED];
    os_thread *threads[N_QUEUED];
    for (int i = 0; i < N_QUEUED; i++) {
        jobs[i] = (queued){&q, i};
        threads[i] = os_thread_start(queued_run, &jobs[i]);
        assert_non_null(threads[i]);
        while (atomic_load(&q.n_waiting) != i + 1) pause_ms(1);
        pause_ms(20); /* it has its ticket */
    }
    atomic_store(&q.hold, 0);
    os_thread_join(holder);
    for (int i = 0; i < N_QUEUED; i++) os_thread_join(threads[i]);
    assert_int_equal(q.n_order, N_QUEUED);
    for (int i = 0; i < N_QUEUED; i++) assert_int_equal(q.order[i], i);
    pool_close(q.p);
}

static void idle_threads_use_no_cpu(void **state)
{
    pool *p;
    assert_int_equal(pool_open(*state, 4, &p), SOBRE_OK);
    visit v;
    memset(&v, 0, sizeof v);
    assert_int_equal(pool_run(p, visit_job, &v), SOBRE_OK);
    pause_ms(20); /* the spin ends */
    clock_t before = clock();
    pause_ms(300);
    double used = (double)(clock() - before) / CLOCKS_PER_SEC;
#ifndef _WIN32 /* clock() is wall time there */
    assert_true(used < 0.05);
#endif
    (void)used;
    pool_close(p);
}

/* Whoever calls keeps the CPUs it may run on, and workers keep to those. */
typedef struct seen {
    int cpus[N_MAX];
} seen;

static void look_job(void *arg, int32_t thread, int32_t n_threads)
{
    seen *s = arg;
    s->cpus[thread] = os_cpu_now();
}

static void threads_stay_on_the_callers_cpus(void **state)
{
    int before[N_MAX], after[N_MAX], n_cores = 0, n_cores_after = 0;
    const int n = os_cpus(before, N_MAX, &n_cores);
    for (int32_t n_threads = 1; n_threads <= n_cores + 1 && n_threads <= N_MAX; n_threads++) {
        pool *p;
        assert_int_equal(pool_open(*state, n_threads, &p), SOBRE_OK);
        for (int round = 0; round < 20; round++) {
            seen s;
            assert_int_equal(pool_run(p, look_job, &s), SOBRE_OK);
            for (int32_t t = 0; t < n_threads; t++) {
                int i = 0;
                while (s.cpus[t] >= 0 && i < n && before[i] != s.cpus[t]) i++;
                assert_true(i < n || n == N_MAX);
            }
        }
        assert_int_equal(os_cpus(after, N_MAX, &n_cores_after), n);
        assert_int_equal(n_cores_after, n_cores);
        assert_memory_equal(after, before, (size_t)n * sizeof *before);
        pool_close(p);
    }
}

/* Jobs end although each thread's CPU is shared with other threads that never rest. */
static void stay_busy(void *arg)
{
    while (!atomic_load((atomic_int *)arg)) continue;
}

static void works_beside_busy_threads(void **state)
{
    enum { N_BUSY = 3 };
    atomic_int stop;
    os_thread *busy[N_BUSY];
    ring r;
    atomic_init(&stop, 0);
    for (int i = 0; i < N_BUSY; i++) {
        busy[i] = os_thread_start(stay_busy, &stop);
        assert_non_null(busy[i]);
    }
    memset(&r, 0, sizeof r);
    assert_int_equal(pool_open(*state, 0, &r.p), SOBRE_OK);
    assert_int_equal(pool_run(r.p, ring_job, &r), SOBRE_OK);
    assert_int_equal(atomic_load(&r.n_wrong), 0);
    pool_close(r.p);
    atomic_store(&stop, 1);
    for (int i = 0; i < N_BUSY; i++) os_thread_join(busy[i]);
}

static void shares_cover_the_range(void **state)
{
    for (int64_t n = 0; n < 200; n += 7) {
        for (int64_t grain = 1; grain <= 64; grain *= 4) {
            for (int32_t n_threads = 1; n_threads < 9; n_threads++) {
                int64_t at = 0;
                for (int32_t t = 0; t < n_threads; t++) {
                    int64_t begin, end;
                    pool_share(n, grain, t, n_threads, &begin, &end);
                    assert_int_equal(begin, at);
                    assert_true(end >= begin && (end % grain == 0 || end == n));
                    at = end;
                }
                assert_int_equal(at, n);
            }
        }
    }
}

static void refuses_odd_counts(void **state)
{
    pool *p = NULL;
    assert_int_equal(pool_open(*state, -1, &p), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(pool_open(*state, 257, &p), SOBRE_INVALID_ARGUMENT);
    assert_null(p);
    assert_int_equal(pool_open(*state, 0, &p), SOBRE_OK);
    assert_true(pool_n_threads(p) >= 1);
    pool_close(p);
    pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_each_job_once),
        cmocka_unit_test(barriers_order_memory),
        cmocka_unit_test(sessions_take_turns),
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(idle_threads_use_no_cpu),
        cmocka_unit_test(threads_stay_on_the_callers_cpus),
        cmocka_unit_test(works_beside_busy_threads),
        cmocka_unit_test(shares_cover_the_range),
        cmocka_unit_test(refuses_odd_counts),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
