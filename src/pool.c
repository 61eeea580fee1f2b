/* SPDX-License-Identifier: MIT */
/* The thread pool: a ticket per job, an epoch that starts one, and a barrier inside it. Everything
 * waits in the same way, at a gate. */
#include "pool.h"

enum { MAX_THREADS = 256, SPIN_NS = 40000, PAUSES_PER_CHECK = 64 };

/* A counter that threads wait to see change. The waker calls the system only if somebody sleeps;
 * sequential consistency makes sure that either it sees the sleeper or the sleeper sees the change.
 */
typedef struct gate {
    _Alignas(64) atomic_uint value;
    atomic_uint n_sleepers;
} gate;

typedef struct worker {
    pool *owner;
    os_thread *thread;
    int32_t index; /* 1 and up; the caller is thread 0 */
    int cpu;       /* to run on; -1: any */
} worker;

struct pool {
    sobre_context *ctx;
    int32_t n_threads;
    uint64_t process; /* threads do not survive fork() */
    uint64_t spin_ns;
    bool stop;
    pool_job job;
    void *arg;
    atomic_uint next_ticket;
    gate turn;  /* the ticket that may run now */
    gate epoch; /* counts jobs started */
    gate done;  /* counts jobs finished by all workers */
    gate phase; /* counts barriers passed */
    _Alignas(64) atomic_int n_working;
    _Alignas(64) atomic_int n_arrived;
    worker workers[]; /* [n_threads - 1] */
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns once the gate's value is not `old`. */
static void gate_wait(gate *g, unsigned old, uint64_t spin_ns)
{
    if (spin_ns > 0) {
        uint64_t end = 0;
        for (;;) {
            for (int i = 0; i < PAUSES_PER_CHECK; i++) {
                if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
                cpu_pause();
            }
            uint64_t now = os_now_ns();
            if (end == 0) end = now + spin_ns;
            if (now >= end) break;
        }
    }
    atomic_fetch_add(&g->n_sleepers, 1);
    while (atomic_load(&g->value) == old) os_word_wait(&g->value, old);
    atomic_fetch_sub(&g->n_sleepers, 1);
}

static void gate_advance(gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->n_sleepers) > 0) os_word_wake_all(&g->value);
}

static void worker_run(void *arg)
{
    const worker *w = arg;
    pool *p = w->owner;
    if (w->cpu >= 0) os_thread_pin(w->cpu);
    for (unsigned epoch = 0;; epoch++) {
        gate_wait(&p->epoch, epoch, p->spin_ns);
        if (p->stop) return;
        p->job(p->arg, w->index, p->n_threads);
        if (atomic_fetch_sub(&p->n_working, 1) == 1) gate_advance(&p->done);
    }
}

sobre_status pool_open(sobre_context *ctx, int32_t n_threads, pool **ret_pool)
{
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "%d threads asked for; 1 to %d are possible",
                    (int)n_threads, MAX_THREADS);
    int cpus[MAX_THREADS], n_cores = 0;
    int n_cpus = os_cpus(cpus, MAX_THREADS, &n_cores);
    if (n_threads == 0) n_threads = n_cores > 0 ? n_cores : 1;
    size_t size = sizeof(pool) + (size_t)(n_threads - 1) * sizeof(worker);
    pool *p = mem_alloc_aligned(ctx, size, _Alignof(pool));
    if (!p) return SOBRE_OUT_OF_MEMORY;
    p->ctx = ctx;
    p->process = os_process_id();

    bool pin = n_threads > 1 && n_threads <= n_cores;
    /* Threads that share a CPU would spin away the time of those they wait for. */
    p->spin_ns = n_threads <= n_cpus ? SPIN_NS : 0;

    int32_t n_started = 0;
    for (; n_started < n_threads - 1; n_started++) {
        worker *w = &p->workers[n_started];
        w->owner = p;
        w->index = n_started + 1;
        w->cpu = pin ? cpus[w->index] : -1;
        w->thread = os_thread_start(worker_run, w);
        if (!w->thread) break;
    }
    p->n_threads = n_started + 1;
    if (p->n_threads < n_threads)
        log_write(ctx, SOBRE_LOG_WARNING, "only %d of %d threads could be started",
                  (int)p->n_threads, (int)n_threads);
    *ret_pool = p;
    return SOBRE_OK;
}

void pool_close(pool *p)
{
    if (!p) return;
    if (p->process == os_process_id()) {
        p->stop = true;
        gate_advance(&p->epoch);
        for (int32_t i = 0; i < p->n_threads - 1; i++) os_thread_join(p->workers[i].thread);
    }
    mem_free(p->ctx, p);
}

int32_t pool_n_threads(const pool *p)
{
    return p->n_threads;
}

sobre_status pool_run(pool *p, pool_job job, void *arg)
{
    if (p->process != os_process_id())
        return fail(p->ctx, SOBRE_UNAVAILABLE,
                    "the threads of this context did not survive fork(); open a context in the "
                    "child process");
    unsigned ticket = atomic_fetch_add(&p->next_ticket, 1), turn;
    while ((turn = atomic_load(&p->turn.value)) != ticket) gate_wait(&p->turn, turn, p->spin_ns);

    if (p->n_threads == 1) {
        job(arg, 0, 1);
    } else {
        p->job = job;
        p->arg = arg;
        atomic_store(&p->n_working, p->n_threads - 1);
        unsigned done = atomic_load(&p->done.value);
        gate_advance(&p->epoch);
        job(arg, 0, p->n_threads);
        gate_wait(&p->done, done, p->spin_ns);
    }
    gate_advance(&p->turn);
    return SOBRE_OK;
}

void pool_barrier(pool *p, int32_t thread)
{
    if (p->n_threads == 1) return;
    /* The phase cannot change before this thread arrives. */
    unsigned phase = atomic_load(&p->phase.value);
    if (atomic_fetch_add(&p->n_arrived, 1) == p->n_threads - 1) {
        atomic_store(&p->n_arrived, 0);
        gate_advance(&p->phase);
    } else {
        gate_wait(&p->phase, phase, p->spin_ns);
    }
}
