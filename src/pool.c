/* SPDX-License-Identifier: MIT */
/* The thread pool: a ticket per job, an epoch that starts one, and a barrier inside it. Everything
 * waits in the same way, at a gate.
 *
 * Where threads run: with as many as there are cores, each worker is bound to one of its own. The
 * caller's thread is never bound, so the worker whose core the caller is found on goes to the core
 * that is left. With fewer threads than cores the workers are only kept to one CPU a core, and to
 * the fastest kind of cores if those are enough: other programs, too, find room so. With more, or
 * under a quota of CPU time, the system places them. */
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
} worker;

typedef enum placing { PLACE_FREE, PLACE_CONFINED, PLACE_BOUND } placing;

/* CPUs by seat. Seats below n_cores are of distinct cores. */
typedef struct seating {
    placing placing;
    int32_t n_cpus, n_cores, n_confined; /* seats that confined workers share */
    int cpus[MAX_THREADS];
    int32_t core_seat[MAX_THREADS]; /* the seat of the CPU's core */
    int caller_cpu;                 /* where the caller was last seen */
    int32_t caller_seat;            /* of that core */
} seating;

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
    seating seats;
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

/* Returns once the gate's value is not `old`; true if that took a sleep. */
static bool gate_wait(gate *g, unsigned old, uint64_t spin_ns)
{
    if (spin_ns > 0) {
        uint64_t end = 0;
        for (;;) {
            for (int i = 0; i < PAUSES_PER_CHECK; i++) {
                if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return false;
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
    return true;
}

static void gate_advance(gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->n_sleepers) > 0) os_word_wake_all(&g->value);
}

/* --- Seats */

static void seats_open(seating *s, int32_t n_threads)
{
    if (n_threads < 2 || n_threads > s->n_cores || os_cpu_time_limited()) return;
    s->placing = n_threads == s->n_cores ? PLACE_BOUND : PLACE_CONFINED;
    int32_t n_fast = os_fast_cores(s->cpus, s->n_cores);
    s->n_confined = n_threads <= n_fast ? n_fast : s->n_cores;
    s->caller_cpu = -1;
    int cores[MAX_THREADS];
    for (int32_t i = 0; i < s->n_cpus; i++) {
        int32_t seat = 0, last = i < s->n_cores ? i : s->n_cores - 1;
        cores[i] = os_cpu_core(s->cpus[i]); /* asks the system, so once for each */
        while (seat < last && cores[seat] != cores[i]) seat++;
        s->core_seat[i] = seat;
    }
}

static void bind_worker(pool *p, int32_t index, int32_t seat)
{
    if (index > 0 && index < p->n_threads)
        os_thread_confine(p->workers[index - 1].thread, &p->seats.cpus[seat], 1);
}

/* The caller's thread looks where it is, and has the worker there make way. */
static void seat_caller(pool *p)
{
    seating *s = &p->seats;
    if (s->placing != PLACE_BOUND) return;
    const int cpu = os_cpu_now();
    const int32_t before = s->caller_seat;
    if (cpu == s->caller_cpu) return;
    s->caller_cpu = cpu;
    for (int32_t i = 0; i < s->n_cpus; i++)
        if (s->cpus[i] == cpu) s->caller_seat = s->core_seat[i];
    if (s->caller_seat == before) return;
    bind_worker(p, s->caller_seat, 0);
    bind_worker(p, before, before);
}

static void seat_workers(pool *p)
{
    const seating *s = &p->seats;
    for (int32_t i = 0; i < p->n_threads - 1; i++) {
        if (s->placing == PLACE_CONFINED)
            os_thread_confine(p->workers[i].thread, s->cpus, s->n_confined);
        if (s->placing == PLACE_BOUND) bind_worker(p, i + 1, i + 1);
    }
}

/* --- Threads */

static void worker_run(void *arg)
{
    const worker *w = arg;
    pool *p = w->owner;
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
    seating seats = {0};
    int n_cores = 0;
    seats.n_cpus = os_cpus(seats.cpus, MAX_THREADS, &n_cores);
    seats.n_cores = n_cores;
    if (n_threads == 0) n_threads = n_cores > 0 ? n_cores : 1;
    size_t size = sizeof(pool) + (size_t)(n_threads - 1) * sizeof(worker);
    pool *p = mem_alloc_aligned(ctx, size, _Alignof(pool));
    if (!p) return SOBRE_OUT_OF_MEMORY;
    p->ctx = ctx;
    p->process = os_process_id();
    p->seats = seats;
    seats_open(&p->seats, n_threads);
    /* Threads that share a CPU would spin away the time of those they wait for. */
    p->spin_ns = n_threads <= seats.n_cpus ? SPIN_NS : 0;

    int32_t n_started = 0;
    for (; n_started < n_threads - 1; n_started++) {
        worker *w = &p->workers[n_started];
        w->owner = p;
        w->index = n_started + 1;
        w->thread = os_thread_start(worker_run, w);
        if (!w->thread) break;
    }
    p->n_threads = n_started + 1;
    if (p->n_threads < n_threads)
        log_write(ctx, SOBRE_LOG_WARNING, "only %d of %d threads could be started",
                  (int)p->n_threads, (int)n_threads);
    seat_workers(p);
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
        seat_caller(p);
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
    } else if (gate_wait(&p->phase, phase, p->spin_ns) && thread == 0) {
        seat_caller(p); /* perhaps it takes turns with a worker on one core */
    }
}
