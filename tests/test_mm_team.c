/* SPDX-License-Identifier: MIT */
/* How threads share a product: every panel is done exactly once, whoever does it, and threads that
 * never come are made up for by the others. */
#include "pool.h"

#include "mm_rig.h"

enum { N_COLS = 64, MAX_ROWS = 700, MAX_WEIGHTS = 3, MAX_THREADS = 64, N_PRODUCTS = 4 };

/* A job whose outputs are their own residuals, so that a panel that is done twice shows. */
typedef struct team {
    mm_weight w[MAX_WEIGHTS];
    float *weights[MAX_WEIGHTS], *out[MAX_WEIGHTS];
    float x[N_COLS * MM_FEW_TOKENS];
    void *act;
    mm_job job;
    mm_cursor *cursors;
    pool *threads;
    int32_t late; /* thread that begins when all others are through; -1: none */
    atomic_int n_through;
    int32_t product; /* counts those of the run */
    int n_missed;    /* results that the late thread did not find */
} team;

static float expected(const team *t, int32_t i, int64_t row, int32_t token)
{
    double sum = 0;
    for (int32_t k = 0; k < N_COLS; k++)
        sum += (double)t->weights[i][row * N_COLS + k] * (double)t->x[token * N_COLS + k];
    return (float)sum;
}

/* The first weight's product was added `times` times. */
static int count_wrong(const team *t, int32_t times)
{
    int n = 0;
    for (int32_t i = 0; i < t->job.n_weights; i++)
        for (int32_t token = 0; token < t->job.n_tokens; token++)
            for (int64_t row = 0; row < t->w[i].n_rows; row++) {
                float want = expected(t, i, row, token) * (float)(i == 0 ? times : 1);
                n += fabsf(t->out[i][token * t->w[i].n_rows + row] - want) > 1e-4f;
            }
    return n;
}

static void team_job(void *arg, int32_t thread, int32_t n_threads)
{
    team *t = arg;
    if (thread == t->late) {
        while (atomic_load(&t->n_through) < n_threads - 1) continue;
        t->n_missed = count_wrong(t, t->product);
    }
    mm_job own = t->job;
    mm_run(&own, thread, n_threads);
    atomic_fetch_add(&t->n_through, 1);
}

static void run_team(team *t, int32_t n_threads, int32_t late)
{
    for (int32_t i = 0; i < MAX_WEIGHTS; i++)
        memset(t->out[i], 0, MAX_ROWS * MM_FEW_TOKENS * sizeof(float));
    t->late = late;
    t->n_missed = 0;
    for (t->product = 1; t->product <= N_PRODUCTS; t->product++) {
        t->job.number++;
        atomic_store(&t->n_through, 0);
        assert_int_equal(pool_run(t->threads, team_job, t), SOBRE_OK);
        assert_int_equal(atomic_load(&t->n_through), n_threads);
        assert_int_equal(t->n_missed, 0);
        assert_int_equal(count_wrong(t, t->product), 0);
    }
}

static void open_team(team *t, const int32_t *n_rows, int32_t n_weights, int32_t n_tokens)
{
    uint32_t seed = 7;
    memset(t, 0, sizeof *t);
    for (int32_t i = 0; i < N_COLS * n_tokens; i++) t->x[i] = rig_random(&seed);
    t->act = rig_prepare(mm_kernels_get(SOBRE_CPU_BEST), MM_ACT_F32, &(mm_prologue){0}, t->x,
                         N_COLS, n_tokens);
    t->job = (mm_job){.kernels = mm_kernels_get(SOBRE_CPU_BEST),
                      .n_tokens = n_tokens,
                      .n_weights = n_weights,
                      .number = UINT32_MAX - 2};
    for (int32_t i = 0; i < MAX_WEIGHTS; i++) {
        t->out[i] = rig_alloc(MAX_ROWS * MM_FEW_TOKENS * sizeof(float));
        t->weights[i] = rig_alloc(MAX_ROWS * N_COLS * sizeof(float));
        for (int32_t k = 0; k < MAX_ROWS * N_COLS; k++) t->weights[i][k] = rig_random(&seed);
        if (i >= n_weights) continue;
        t->w[i] = t->job.w[i] =
            rig_pack(SOBRE_F32, n_rows[i], N_COLS, (const uint8_t *)t->weights[i]);
        t->job.act[i] = t->act;
        t->job.out[i] = t->out[i];
    }
    t->job.residual = t->out[0];
    t->cursors = aligned_alloc(64, MAX_THREADS * sizeof *t->cursors);
    assert_non_null(t->cursors);
    memset(t->cursors, 0, MAX_THREADS * sizeof *t->cursors);
    t->job.cursors = t->cursors;
}

static void close_team(team *t)
{
    for (int32_t i = 0; i < MAX_WEIGHTS; i++) {
        free((void *)(uintptr_t)t->w[i].data);
        free(t->weights[i]);
        free(t->out[i]);
    }
    free(t->cursors);
    free(t->act);
}

static void every_panel_once(void **state)
{
    static const int32_t rows[][MAX_WEIGHTS] = {
        {1, 0, 0}, {100, 0, 0}, {576, 192, 190}, {700, 17, 1}};
    static const int32_t n_weights[] = {1, 1, 3, 3}, thread_counts[] = {1, 2, 3, 8, MAX_THREADS};
    sobre_context *ctx;
    assert_int_equal(sobre_context_open(NULL, &ctx), SOBRE_OK);
    for (size_t c = 0; c < sizeof n_weights / sizeof *n_weights; c++)
        for (size_t k = 0; k < sizeof thread_counts / sizeof *thread_counts; k++) {
            int32_t n_threads = thread_counts[k];
            team t;
            open_team(&t, rows[c], n_weights[c], k % 2 ? MM_FEW_TOKENS : 1);
            assert_int_equal(pool_open(ctx, n_threads, &t.threads), SOBRE_OK);
            run_team(&t, n_threads, -1);
            for (int32_t late = 0; n_threads > 1 && late < n_threads; late += n_threads / 2)
                run_team(&t, n_threads, late);
            pool_close(t.threads);
            close_team(&t);
        }
    sobre_context_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_panel_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
