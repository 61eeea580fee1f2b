/* SPDX-License-Identifier: MIT */
/*
 * Matrix products: every type of weight, both kinds of activations and every instruction set
 * against double precision, with odd shapes and a tolerance from the length of the sum; the same
 * bits however the work is batched and shared. mm_simde is this test with AVX-VNNI and AVX-512
 * through SIMDe. `test_mm --bench [TYPE]` times the products beside the machine's peaks instead.
 */
#include "isas.h"
#include "mm_rig.h"

#include "mm_bench.h"

enum { MAX_ROWS = 100, MAX_COLS = 576, MAX_TOKENS = 130 };
static const int32_t row_counts[] = {1, 15, 17, 48, 100};
static const int32_t col_counts[] = {32, 64, 96, 256, 288, 576, 7, 333};
static const int32_t token_counts[] = {1, 2, 3, 5, 8, 9, 33, 130};
enum {
    N_ROW_COUNTS = sizeof(row_counts) / sizeof(row_counts[0]),
    N_COL_COUNTS = sizeof(col_counts) / sizeof(col_counts[0]),
    N_TOKEN_COUNTS = sizeof(token_counts) / sizeof(token_counts[0])
};
static const sobre_cpu_isa isas[N_ISAS] = {ISAS(LIST_ISA, 0)};

static const mm_prologue no_norm = {.norm = {SOBRE_NORM_NONE, 0}};

static void check_bits(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof(float)) != 0) {
            print_error("value %zu differs: %.9g and %.9g\n", i, (double)a[i], (double)b[i]);
            fail();
        }
    }
}

static float *random_floats(size_t n, uint32_t seed)
{
    float *x = rig_alloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) x[i] = rig_random(&seed);
    return x;
}

/* The product of w and x with plain options; out [n_tokens, n_rows] is poisoned first and checked
 * for a write behind its end. */
static void multiply(const mm_kernels *kernels, const mm_weight *w, bool exact, const float *x,
                     int32_t n_tokens, int32_t n_threads, float *out)
{
    void *act = rig_prepare(kernels, mm_act_for(w, exact), &no_norm, x, w->n_cols, n_tokens);
    size_t n = (size_t)(n_tokens * w->n_rows);
    memset(out, 0xff, (n + MM_PANEL) * sizeof(float));
    mm_job job = {.kernels = kernels, .n_tokens = n_tokens, .n_weights = 1, .exact = exact};
    job.w[0] = *w;
    job.act[0] = act;
    job.out[0] = out;
    atomic_init(&job.next, 0);
    for (int32_t t = n_threads - 1; t >= 0; t--) mm_run(&job, t, n_threads);
    for (int i = 0; i < MM_PANEL; i++) assert_true(isnan(out[n + (size_t)i]));
    free(act);
}

/* --- Against double precision */

/* What n values become as int8 with one step, which is returned; zeros stay. */
static float reference_block(const float *x, int n, float *ret)
{
    float largest = 0.0f;
    for (int i = 0; i < n; i++) largest = fmaxf(largest, fabsf(x[i]));
    for (int i = 0; i < n; i++) {
        ret[i] = largest > 0 ? largest / 127.0f * rintf(x[i] * (127.0f / largest)) : 0.0f;
    }
    return largest / 127.0f;
}

/* What a row of x becomes where activations are int8, the blocks with large steps in two parts. */
static void reference_q8(const float *x, int64_t k, double *ret)
{
    float steps[MAX_COLS / MM_BLOCK], first[MM_BLOCK], second[MM_BLOCK], all = 0.0f;
    int64_t n_blocks = (k + MM_BLOCK - 1) / MM_BLOCK;
    for (int64_t b = 0; b < n_blocks; b++) {
        int n = k - b * MM_BLOCK < MM_BLOCK ? (int)(k - b * MM_BLOCK) : MM_BLOCK;
        steps[b] = reference_block(x + b * MM_BLOCK, n, first);
        all += steps[b] * steps[b];
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        const float *xb = x + b * MM_BLOCK;
        int n = k - b * MM_BLOCK < MM_BLOCK ? (int)(k - b * MM_BLOCK) : MM_BLOCK;
        reference_block(xb, n, first);
        for (int i = 0; i < n; i++) {
            float q = steps[b] > 0 ? rintf(xb[i] / steps[b]) : 0.0f;
            second[i] = fmaf(-steps[b], q, xb[i]);
        }
        reference_block(second, n, second);
        bool fine = steps[b] > 0 && steps[b] * steps[b] * MM_FINE_SHARE >= all;
        for (int i = 0; i < n; i++) {
            ret[b * MM_BLOCK + i] = (double)first[i] + (fine ? (double)second[i] : 0.0);
        }
    }
}

/* Sums and sums of magnitudes, [MAX_TOKENS, MAX_ROWS]. */
static double expected[MAX_TOKENS * MAX_ROWS], magnitude[MAX_TOKENS * MAX_ROWS];

static void reference(sobre_dtype dtype, const uint8_t *data, int32_t n_cols, const double *x)
{
    static float w[MAX_ROWS * MAX_COLS], size[MAX_ROWS * MAX_COLS];
    const quant_form *form = quant_form_get(dtype);
    for (int r = 0; r < MAX_ROWS; r++) {
        const uint8_t *row = data + (uint64_t)r * rig_row_size(dtype, n_cols);
        float *wr = w + r * n_cols, *sr = size + r * n_cols;
        dtype_decode(dtype, row, n_cols, wr);
        for (int i = 0; i < n_cols; i++) sr[i] = fabsf(wr[i]);
        if (!form) continue;
        int8_t q[MAX_COLS];
        float d[MAX_COLS / 16], m[MAX_COLS / 16] = {0};
        quant_unpack(dtype, row, n_cols, q, d, m);
        for (int i = 0; i < n_cols; i++) {
            int g = i / form->group;
            sr[i] = fabsf(d[g] * (float)q[i]) + (form->has_min ? fabsf(m[g]) : 0.0f);
        }
    }
    for (int t = 0; t < MAX_TOKENS; t++) {
        for (int r = 0; r < MAX_ROWS; r++) {
            const float *wr = w + r * n_cols, *sr = size + r * n_cols;
            const double *xt = x + t * n_cols;
            double sum = 0, absolute = 0;
            for (int i = 0; i < n_cols; i++) {
                sum += (double)wr[i] * xt[i];
                absolute += (double)sr[i] * fabs(xt[i]);
            }
            expected[t * MAX_ROWS + r] = sum;
            magnitude[t * MAX_ROWS + r] = absolute;
        }
    }
}

static void check_close(const float *out, int32_t n_tokens, int32_t n_rows, int32_t n_terms)
{
    const double eps = 0x1p-23 * (n_terms + 4);
    for (int t = 0; t < n_tokens; t++) {
        for (int r = 0; r < n_rows; r++) {
            double want = expected[t * MAX_ROWS + r], got = (double)out[t * n_rows + r];
            if (!(fabs(got - want) <= eps * magnitude[t * MAX_ROWS + r] + 1e-36)) {
                print_error("token %d, row %d of %d x %d: %.9g, not %.9g\n", t, r, n_rows, n_tokens,
                            got, want);
                fail();
            }
        }
    }
}

/* All shapes of one type and number of columns. Int8 products have the bits of the scalar ones. */
static void check_shapes(sobre_dtype dtype, int32_t n_cols, bool exact, const uint8_t *data,
                         const float *x, const double *x_reference)
{
    static float out[MAX_TOKENS * MAX_ROWS + MM_PANEL], scalar[MAX_TOKENS * MAX_ROWS + MM_PANEL];
    const quant_form *form = quant_form_get(dtype);
    const bool q8 = form && !exact;
    reference(dtype, data, n_cols, x_reference);
    for (int i = 0; i < N_ROW_COUNTS; i++) {
        mm_weight w = rig_pack(dtype, row_counts[i], n_cols, data);
        assert_int_equal(mm_act_for(&w, exact), q8 ? MM_ACT_Q8 : MM_ACT_F32);
        for (int j = 0; j < N_TOKEN_COUNTS; j++) {
            for (int v = 0; v < N_ISAS; v++) {
                const mm_kernels *kernels = mm_kernels_get(isas[v]);
                /* The slow ones take turns. */
                if (!kernels || (v != 1 && (i + j + (int)dtype) % N_ROW_COUNTS != 0)) continue;
                multiply(kernels, &w, exact, x, token_counts[j], 1 + (i + j) % 3, out);
                check_close(out, token_counts[j], row_counts[i],
                            q8 ? 2 * n_cols / form->group : n_cols);
                if (v == 0) memcpy(scalar, out, sizeof(scalar));
                if (q8 && (i + j + (int)dtype) % N_ROW_COUNTS == 0) {
                    check_bits(out, scalar, (size_t)(token_counts[j] * row_counts[i]));
                }
            }
        }
        free((void *)(uintptr_t)w.data);
    }
}

static void test_products(void **state)
{
    static double x_reference[MAX_TOKENS * MAX_COLS];
    for (int i = 0; i < RIG_N_DTYPES; i++) {
        const sobre_dtype dtype = rig_dtypes[i];
        for (int j = 0; j < N_COL_COUNTS; j++) {
            const int32_t n_cols = col_counts[j];
            if (n_cols % dtype_get(dtype)->block != 0) continue;
            uint8_t *data = rig_weights(dtype, MAX_ROWS, n_cols, 1u + (uint32_t)(i * 16 + j));
            float *x = random_floats((size_t)(MAX_TOKENS * n_cols), 77u + (uint32_t)j);
            for (int exact = 0; exact < 2; exact++) {
                const bool q8 = quant_form_get(dtype) && !exact;
                if (!q8 && !exact) continue; /* float types have one kind of activations */
                for (int t = 0; t < MAX_TOKENS; t++) {
                    float *xt = x + t * n_cols;
                    if (t % 3) xt[t * 37 % n_cols] *= 40; /* blocks to refine, elsewhere each */
                    double *rt = x_reference + t * n_cols;
                    for (int c = 0; c < n_cols; c++) rt[c] = (double)xt[c];
                    if (q8) reference_q8(xt, n_cols, rt);
                }
                check_shapes(dtype, n_cols, exact, data, x, x_reference);
            }
            free(x);
            free(data);
        }
    }
}

/* --- The same bits */

/* A job of up to four weights; out[i] [n_tokens, rows of w[i]]. */
static void run_job(mm_job *job, int32_t n_threads)
{
    atomic_init(&job->next, 0);
    for (int32_t t = 0; t < n_threads; t++) mm_run(job, t, n_threads);
}

static void test_same_bits(void **state)
{
    static const sobre_dtype dtypes[] = {SOBRE_Q4_0, SOBRE_Q4_1, SOBRE_Q8_0, SOBRE_Q4_K,
                                         SOBRE_Q6_K, SOBRE_Q2_K, SOBRE_F16,  SOBRE_F32};
    enum { ROWS = 100, COLS = 512, TOKENS = 41, THREADS = 7 };
    float *x = random_floats(TOKENS * COLS, 5);
    float *one = rig_alloc((ROWS + MM_PANEL) * sizeof(float));
    float *all = rig_alloc((TOKENS * ROWS + MM_PANEL) * sizeof(float));
    float *other = rig_alloc((TOKENS * ROWS + MM_PANEL) * sizeof(float));
    for (int v = 0; v < N_ISAS; v++) {
        const mm_kernels *kernels = mm_kernels_get(isas[v]);
        if (!kernels) continue;
        for (int i = 0; i < (int)(sizeof(dtypes) / sizeof(dtypes[0])) * 2; i++) {
            uint8_t *data = rig_weights(dtypes[i / 2], ROWS, COLS, 9);
            mm_weight w = rig_pack(dtypes[i / 2], ROWS, COLS, data);
            const bool exact = i % 2;
            multiply(kernels, &w, exact, x, TOKENS, 1, all);
            for (int32_t t = 0; t < TOKENS; t++) {
                multiply(kernels, &w, exact, x + t * COLS, 1, 1, one);
                check_bits(one, all + t * ROWS, ROWS);
            }
            for (int32_t n_threads = 2; n_threads <= THREADS; n_threads++) {
                multiply(kernels, &w, exact, x, TOKENS, n_threads, other);
                check_bits(other, all, TOKENS * ROWS);
                multiply(kernels, &w, exact, x, 3, n_threads, other);
                check_bits(other, all, 3 * ROWS);
            }
            free((void *)(uintptr_t)w.data);
            free(data);
        }
    }
    free(x);
    free(one);
    free(all);
    free(other);
}

/* --- Several weights, bias, GLU, residual */

static double act_reference(sobre_act act, double x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return x / (1 + exp(-x));
    case SOBRE_ACT_GELU_TANH:
        return x / (1 + exp(-2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case SOBRE_ACT_GELU_ERF: return x / 2 * erfc(-x / sqrt(2));
    case SOBRE_ACT_RELU: return x > 0 ? x : 0;
    default: return x;
    }
}

/* Weights of different types and heights that share a job give what they give alone. */
static void test_several_weights(void **state)
{
    enum { COLS = 256, TOKENS = 35, N = 4 };
    static const sobre_dtype dtypes[N] = {SOBRE_Q4_1, SOBRE_F16, SOBRE_Q6_K, SOBRE_Q8_0};
    static const int32_t n_rows[N] = {130, 17, 64, 5};
    static const int32_t n_tokens[] = {1, 4, TOKENS};
    float *x = random_floats(TOKENS * COLS, 3);
    for (int v = 0; v < N_ISAS; v++) {
        const mm_kernels *kernels = mm_kernels_get(isas[v]);
        if (!kernels) continue;
        for (int j = 0; j < 3 * 4; j++) {
            mm_job job = {.kernels = kernels, .n_tokens = n_tokens[j / 4], .n_weights = N};
            const int32_t n_threads = 1 + j % 4 * 2;
            float *alone[N], *bias[N];
            void *act[2];
            for (int i = 0; i < 2; i++) {
                act[i] = rig_prepare(kernels, (mm_act)i, &no_norm, x, COLS, job.n_tokens);
            }
            for (int i = 0; i < N; i++) {
                size_t size = (size_t)(TOKENS * n_rows[i] + MM_PANEL) * sizeof(float);
                uint8_t *data = rig_weights(dtypes[i], n_rows[i], COLS, 11);
                job.w[i] = rig_pack(dtypes[i], n_rows[i], COLS, data);
                free(data);
                job.act[i] = act[mm_act_for(&job.w[i], false)];
                job.out[i] = rig_alloc(size);
                memset(job.out[i], 0xff, size);
                alone[i] = rig_alloc(size);
                multiply(kernels, &job.w[i], false, x, job.n_tokens, 1, alone[i]);
                bias[i] = random_floats((size_t)n_rows[i], 8);
                job.bias[i] = i % 2 ? bias[i] : NULL;
            }
            run_job(&job, n_threads);
            for (int i = 0; i < N; i++) {
                for (int r = 0; i % 2 && r < job.n_tokens * n_rows[i]; r++) {
                    alone[i][r] += bias[i][r % n_rows[i]];
                }
                check_bits(job.out[i], alone[i], (size_t)(job.n_tokens * n_rows[i]));
                free((void *)(uintptr_t)job.w[i].data);
                free(job.out[i]);
                free(alone[i]);
                free(bias[i]);
            }
            free(act[0]);
            free(act[1]);
        }
    }
    free(x);
}

/* GLU with biases and a residual in place; gate and up of different types too. */
static void test_glu(void **state)
{
    enum { ROWS = 45, COLS = 64, TOKENS = 19 };
    static const sobre_dtype types[][2] = {
        {SOBRE_Q8_0, SOBRE_Q8_0}, {SOBRE_F32, SOBRE_F32}, {SOBRE_F16, SOBRE_Q4_0}};
    float *x = random_floats(TOKENS * COLS, 21);
    float *bias[2] = {random_floats(ROWS, 22), random_floats(ROWS, 23)};
    float *residual = random_floats(TOKENS * ROWS, 24);
    float *product[2], *out = rig_alloc(TOKENS * ROWS * sizeof(float));
    for (int i = 0; i < 2; i++) product[i] = rig_alloc((TOKENS * ROWS + MM_PANEL) * sizeof(float));
    for (int i = 0; i < N_ISAS * 3 * 5; i++) {
        const mm_kernels *kernels = mm_kernels_get(isas[i / 15]);
        if (!kernels) continue;
        const sobre_dtype *type = types[i / 5 % 3];
        const sobre_act glu = (sobre_act)(i % 5);
        mm_job job = {.kernels = kernels, .n_tokens = TOKENS, .n_weights = 2, .glu = glu};
        void *act[2];
        for (int j = 0; j < 2; j++) {
            act[j] = rig_prepare(kernels, (mm_act)j, &no_norm, x, COLS, TOKENS);
        }
        for (int j = 0; j < 2; j++) {
            uint8_t *data = rig_weights(type[j], ROWS, COLS, 31u + (uint32_t)j);
            if (type[j] == SOBRE_Q8_0) {
                float *w = random_floats(ROWS * COLS, 40);
                assert_true(dtype_encode(SOBRE_Q8_0, w, ROWS * COLS, data));
                free(w);
            }
            job.w[j] = rig_pack(type[j], ROWS, COLS, data);
            free(data);
            job.act[j] = act[mm_act_for(&job.w[j], false)];
            job.bias[j] = bias[j];
            multiply(kernels, &job.w[j], false, x, TOKENS, 1, product[j]);
        }
        memcpy(out, residual, TOKENS * ROWS * sizeof(float));
        job.out[0] = out;
        job.residual = out;
        job.n_weights = glu == SOBRE_ACT_NONE ? 1 : 2;
        run_job(&job, 2);
        for (int n = 0; n < TOKENS * ROWS; n++) {
            double a = (double)product[0][n] + (double)bias[0][n % ROWS];
            double b = (double)product[1][n] + (double)bias[1][n % ROWS];
            double y = glu == SOBRE_ACT_NONE ? a : act_reference(glu, a) * b;
            double size = (fabs(a) + 1) * (glu == SOBRE_ACT_NONE ? 1 : fabs(b) + 1) + 1;
            assert_true(fabs((double)out[n] - (y + (double)residual[n])) <= 4e-7 * size);
        }
        for (int j = 0; j < 2; j++) {
            free((void *)(uintptr_t)job.w[j].data);
            free(act[j]);
        }
    }
    free(x);
    free(residual);
    free(out);
    for (int i = 0; i < 2; i++) {
        free(bias[i]);
        free(product[i]);
    }
}

/* The activations' relative error over all that matters, through the epilogue. */
static void test_activations(void **state)
{
    static const struct {
        sobre_act act;
        float begin, end, error;
    } cases[] = {
        {SOBRE_ACT_SILU, -80, 80, 3e-7f},
        {SOBRE_ACT_GELU_TANH, -1, 12, 4e-7f},
        {SOBRE_ACT_GELU_TANH, -5, -1, 4e-6f},
        {SOBRE_ACT_GELU_ERF, -9, 12, 8e-7f},
        {SOBRE_ACT_RELU, -3, 3, 0},
        {SOBRE_ACT_SILU, -1e-3f, 1e-3f, 3e-7f},
        {SOBRE_ACT_GELU_ERF, -1e-3f, 1e-3f, 4e-7f},
    };
    enum { STEPS = 16000 };
    for (int i = 0; i < N_ISAS * (int)(sizeof(cases) / sizeof(cases[0])); i++) {
        const mm_kernels *kernels = mm_kernels_get(isas[i % N_ISAS]);
        const sobre_act act = cases[i / N_ISAS].act;
        const float begin = cases[i / N_ISAS].begin, end = cases[i / N_ISAS].end;
        if (!kernels) continue;
        for (int n = 0; n < STEPS; n += MM_PANEL) {
            float x[MM_PANEL], up[MM_PANEL], y[MM_PANEL];
            for (int r = 0; r < MM_PANEL; r++) {
                x[r] = begin + (end - begin) * (float)(n + r) / STEPS;
                up[r] = 1.0f;
            }
            mm_finish f = {.glu = act, .out = y, .n_rows = MM_PANEL, .n_tokens = 1};
            kernels->finish(&f, x, up);
            for (int r = 0; r < MM_PANEL; r++) {
                double want = act_reference(act, (double)x[r]);
                double error = fabs((double)y[r] - want);
                /* The scalar GELU is the C library's, as exact as its argument. */
                double bound = (double)cases[i / N_ISAS].error * (i % N_ISAS ? 1 : 8);
                if (!(error <= bound * fabs(want) + 1e-37)) {
                    print_error("activation %d, set %d, at %.9g: %.9g, not %.9g\n", (int)act,
                                i % N_ISAS, (double)x[r], (double)y[r], want);
                    fail();
                }
            }
        }
    }
}

/* --- The prologue */

static void reference_norm(const mm_prologue *p, const float *x, int64_t k, double *ret)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < k; i++) mean += (double)x[i] / (double)k;
    if (p->norm.kind != SOBRE_NORM_LAYER) mean = 0;
    for (int64_t i = 0; i < k; i++) {
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)k;
    }
    double scale = 1 / sqrt(square + (double)p->norm.eps);
    for (int64_t i = 0; i < k; i++) {
        ret[i] = ((double)x[i] - mean) * scale * (p->weight ? (double)p->weight[i] : 1) +
                 (p->bias ? (double)p->bias[i] : 0);
    }
}

static void test_prologue(void **state)
{
    enum { MAX_K = 600, TOKENS = 3 };
    static const int64_t lengths[] = {1, 2, 31, 32, 64, 100, 576, 600};
    float *x = random_floats(TOKENS * MAX_K, 51), *weight = random_floats(MAX_K, 52),
          *bias = random_floats(MAX_K, 53);
    double want[MAX_K];
    for (int i = 0; i < 8 * 3 * 4; i++) {
        const int64_t k = lengths[i / 12];
        const sobre_norm_kind norm = (sobre_norm_kind)(i / 4 % 3);
        const mm_prologue p = {{norm, 1e-5f}, i & 1 ? weight : NULL, i & 2 ? bias : NULL};
        void *scalar = NULL;
        for (int v = 0; v < N_ISAS; v++) {
            const mm_kernels *kernels = mm_kernels_get(isas[v]);
            if (!kernels) continue;
            float *f32 = rig_prepare(kernels, MM_ACT_F32, &p, x, k, TOKENS);
            uint8_t *q8 = rig_prepare(kernels, MM_ACT_Q8, &p, x, k, TOKENS);
            for (int t = 0; t < TOKENS; t++) {
                const float *y = f32 + t * mm_act_floats(k);
                const mm_act_block *b = (const mm_act_block *)q8 + t * mm_act_blocks(k);
                if (norm == SOBRE_NORM_NONE) {
                    check_bits(y, x + t * k, (size_t)k);
                } else {
                    reference_norm(&p, x + t * k, k, want);
                    for (int64_t c = 0; c < k; c++) {
                        assert_true(fabs((double)y[c] - want[c]) <= 2e-6 * (fabs(want[c]) + 1));
                    }
                }
                for (int64_t c = k; c < mm_act_floats(k); c++) assert_true(y[c] == 0.0f);
                const mm_act_fine *fine = (const mm_act_fine *)&b[mm_act_main(k)];
                const mm_act_block *rest = b + TOKENS * mm_act_blocks(k);
                for (int64_t c = 0; c < mm_act_main(k) * MM_BLOCK; c++) {
                    const mm_act_block *bc = &b[c / MM_BLOCK], *rc = &rest[c / MM_BLOCK];
                    const float error =
                        fmaf(-bc->d, (float)bc->q[c % MM_BLOCK], c < k ? y[c] : 0.0f);
                    bool refined = false;
                    for (int f = 0; f < fine->n; f++) refined |= fine->block[f] == c / MM_BLOCK;
                    assert_true(fabsf(error) <= 0.5001f * bc->d);
                    assert_true(rc->d == 0.0f || refined);
                    if (refined) {
                        assert_true(fabsf(error - rc->d * rc->q[c % MM_BLOCK]) <= 0.51f * rc->d);
                    }
                }
            }
            /* Prepared activations have the same bits everywhere. */
            if (v == 0) scalar = q8;
            for (int t = 0; v > 0 && t < 2 * TOKENS; t++) {
                size_t row = (size_t)mm_act_blocks(k) * sizeof(mm_act_block);
                size_t n = t < TOKENS ? row : row - sizeof(mm_act_block);
                assert_memory_equal(q8 + (size_t)t * row, (uint8_t *)scalar + (size_t)t * row, n);
            }
            free(f32);
            if (v > 0) free(q8);
        }
        free(scalar);
    }
    free(x);
    free(weight);
    free(bias);
}

/* --- Extremes */

/* Zeros, denormals, the largest values, and what is not finite. */
static void test_extremes(void **state)
{
    enum { ROWS = 33, COLS = 128 };
    float rows[7][COLS];
    for (int c = 0; c < COLS; c++) {
        const float sign = c % 3 ? 1.0f : -1.0f;
        rows[0][c] = 0.0f;
        rows[1][c] = sign * 1e-42f;
        rows[2][c] = sign * 3e-37f;
        rows[3][c] = sign * 1e30f;
        rows[4][c] = c == 70 ? 1e20f : sign * 1e-20f;
        rows[5][c] = c == 70 ? NAN : sign;
        rows[6][c] = c == 70 ? -INFINITY : sign;
    }
    float *w = random_floats(ROWS * COLS, 61);
    for (int c = 0; c < COLS; c++) w[c] = 0.0f; /* a row of zero scales */
    w[COLS] = 127.0f;
    for (int i = 0; i < 2 * N_ISAS; i++) {
        const mm_kernels *kernels = mm_kernels_get(isas[i / 2]);
        if (!kernels) continue;
        uint8_t *data = rig_alloc(rig_row_size(SOBRE_Q8_0, COLS) * ROWS);
        assert_true(dtype_encode(SOBRE_Q8_0, w, ROWS * COLS, data));
        /* Bytes of -128, which no encoder makes. */
        memset(data + 2 * rig_row_size(SOBRE_Q8_0, COLS) + 2, 0x80, 32);
        mm_weight packed = rig_pack(SOBRE_Q8_0, ROWS, COLS, data);
        for (int row = 0; row < 7; row++) {
            float out[ROWS + MM_PANEL], decoded[COLS];
            multiply(kernels, &packed, i % 2, rows[row], 1, 1, out);
            for (int r = 0; r < ROWS; r++) {
                if (row >= 5) {
                    assert_false(isfinite(out[r])); /* zero times infinity too */
                    continue;
                }
                double sum = 0, size = 0;
                mm_unpack_row(&packed, r, decoded);
                for (int c = 0; c < COLS; c++) {
                    sum += (double)decoded[c] * (double)rows[row][c];
                    size += fabs((double)decoded[c] * (double)rows[row][c]);
                }
                /* Int8 activations lose half a step each; below the tiny bound, all. */
                double bound = i % 2 ? 1e-5 : 1.0 / 127;
                if (row == 4 && i % 2 == 0) size += 32 * 1e-20;
                assert_true(fabs((double)out[r] - sum) <= bound * size + 1e-33);
            }
        }
        free((void *)(uintptr_t)packed.data);
        free(data);
    }
    free(w);
}

/* Blocks of equal bytes, with scales of 1 where they would not be finite. */
static bool equal_block(sobre_dtype dtype, uint8_t byte, uint8_t *block)
{
    const dtype_info *info = dtype_get(dtype);
    const int at[] = {0, 2, info->size - 2, info->size - 4};
    for (int mask = 0; mask < 16; mask++) {
        int8_t q[256];
        float d[16], m[16] = {0};
        bool finite = true;
        memset(block, byte, (size_t)info->size);
        for (int i = 0; i < 4; i++) {
            if (mask >> i & 1 && info->size > 17) memcpy(block + at[i], "\x00\x3c", 2);
        }
        quant_unpack(dtype, block, info->block, q, d, m);
        for (int g = 0; g < info->block / quant_form_get(dtype)->group; g++) {
            finite = finite && fabsf(d[g]) < 1e9f && fabsf(m[g]) < 1e9f;
        }
        if (finite) return true;
    }
    return false;
}

/* The largest dot products there are: nothing wraps or saturates on the way. */
static void test_largest_dots(void **state)
{
    enum { ROWS = 64, COLS = 512, TOKENS = 8 };
    static const uint8_t bytes[] = {0x00, 0xff, 0x7f, 0x80, 0x88, 0x0f, 0xf0, 0x55};
    float x[TOKENS * COLS], out[TOKENS * ROWS + MM_PANEL], scalar[TOKENS * ROWS + MM_PANEL];
    for (int i = 0; i < TOKENS * COLS; i++) {
        x[i] = i / COLS % 3 == 0 ? 1.0f : i / COLS % 3 == 1 ? -1.0f : i % 2 ? 1.0f : -1.0f;
    }
    for (int i = 0; i < RIG_N_DTYPES; i++) {
        const sobre_dtype dtype = rig_dtypes[i];
        if (!quant_form_get(dtype)) continue;
        uint8_t *data = rig_weights(dtype, ROWS, COLS, 91);
        const int64_t size = dtype_get(dtype)->size, row_size = rig_row_size(dtype, COLS);
        int n_made = 0;
        for (int64_t b = 0; b < ROWS * row_size / size; b++) {
            uint8_t block[256];
            if (!equal_block(dtype, bytes[b * size / row_size % 8], block)) continue;
            memcpy(data + b * size, block, (size_t)size);
            n_made++;
        }
        assert_true(n_made > 0);
        mm_weight w = rig_pack(dtype, ROWS, COLS, data);
        for (int v = 0; v < 2 * N_ISAS; v++) {
            const mm_kernels *kernels = mm_kernels_get(isas[v / 2]);
            if (!kernels) continue;
            const int32_t n_tokens = v % 2 ? TOKENS : 1;
            multiply(kernels, &w, false, x, n_tokens, 1, out);
            if (v == 1) memcpy(scalar, out, sizeof(scalar));
            if (v > 1) check_bits(out, scalar, (size_t)(n_tokens * ROWS));
        }
        free((void *)(uintptr_t)w.data);
        free(data);
    }
}

/* --- Packing */

static void test_unpack_row(void **state)
{
    enum { ROWS = 37 };
    for (int i = 0; i < RIG_N_DTYPES * N_COL_COUNTS; i++) {
        const sobre_dtype dtype = rig_dtypes[i / N_COL_COUNTS];
        const int32_t n_cols = col_counts[i % N_COL_COUNTS];
        if (n_cols % dtype_get(dtype)->block != 0) continue;
        float want[MAX_COLS], got[MAX_COLS];
        uint8_t *data = rig_weights(dtype, ROWS, n_cols, 71u + (uint32_t)i);
        mm_weight w = rig_pack(dtype, ROWS, n_cols, data);
        for (int r = 0; r < ROWS; r++) {
            dtype_decode(dtype, data + (uint64_t)r * rig_row_size(dtype, n_cols), n_cols, want);
            mm_unpack_row(&w, r, got);
            check_bits(got, want, (size_t)n_cols);
        }
        free((void *)(uintptr_t)w.data);
        free(data);
    }
}

/* A scale or weight that is not finite is found in any block of any row. */
static void test_not_finite(void **state)
{
    static const struct {
        sobre_dtype dtype;
        int at, size; /* of a scale in a block, or of a value */
    } cases[] = {{SOBRE_Q4_0, 0, 2},  {SOBRE_Q4_1, 0, 2}, {SOBRE_Q4_1, 2, 2},
                 {SOBRE_Q8_0, 0, 2},  {SOBRE_Q5_1, 2, 2}, {SOBRE_Q6_K, 208, 2},
                 {SOBRE_Q2_K, 82, 2}, {SOBRE_F16, 0, 2},  {SOBRE_BF16, 0, 2},
                 {SOBRE_F32, 0, 4},   {SOBRE_F64, 0, 8},  {SOBRE_MXFP4, 0, 1}};
    enum { ROWS = 20, COLS = 512 };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const sobre_dtype dtype = cases[i].dtype;
        const dtype_info *info = dtype_get(dtype);
        const uint64_t row_size = rig_row_size(dtype, COLS);
        uint8_t *data = rig_weights(dtype, ROWS, COLS, 81);
        mm_weight w = rig_pack(dtype, ROWS, COLS, data);
        uint8_t *packed = (uint8_t *)(uintptr_t)w.data;
        for (int bad = 0; bad < 2; bad++) {
            const int row = bad ? ROWS - 1 : 3;
            uint8_t *at = data + (uint64_t)row * row_size + cases[i].at +
                          (bad ? row_size - (uint64_t)info->size : 0);
            const size_t size = (size_t)cases[i].size;
            uint8_t kept[8];
            char text[32];
            memcpy(kept, at, size);
            memset(at, 0xff, size);
            assert_int_equal(mm_pack(&rig_host, &w, "blk.0.w", packed, 0, ROWS, data),
                             SOBRE_BAD_FORMAT);
            snprintf(text, sizeof(text), "row %d ", row);
            assert_non_null(strstr(rig_message, text));
            assert_non_null(strstr(rig_message, "blk.0.w"));
            assert_non_null(strstr(rig_message, "fetch it again"));
            memcpy(at, kept, size);
        }
        free(packed);
        free(data);
    }
}

static void test_layout(void **state)
{
    mm_weight w;
    uint64_t size = 7;
    sobre_weight desc = {"w", SOBRE_Q4_1, SOBRE_WEIGHT_MATMUL, 576, 1536};
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_OK);
    assert_int_equal(size, 576 * 1536 / 32 * 20); /* not a byte more than the file */
    assert_null(w.data);
    desc.dtype = SOBRE_I32;
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_UNSUPPORTED);
    assert_non_null(strstr(rig_message, "'w'"));
    desc.dtype = SOBRE_F32;
    desc.n_rows = INT64_MAX;
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_BAD_FORMAT);
    desc.n_rows = desc.n_cols = 1ll << 33;
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_BAD_FORMAT);
    desc = (sobre_weight){"w", SOBRE_Q4_0, SOBRE_WEIGHT_MATMUL, 16, 40};
    assert_int_equal(mm_layout(&rig_host, &desc, &w, &size), SOBRE_BAD_FORMAT);
    assert_int_equal(size, 576 * 1536 / 32 * 20);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(argc > 2 ? argv[2] : NULL);
    for (int v = 0; v < N_ISAS; v++) {
        if (mm_kernels_get(isas[v])) continue;
        print_message("skipped on this processor: %s\n", cpu_isa_name(isas[v]));
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),       cmocka_unit_test(test_unpack_row),
        cmocka_unit_test(test_not_finite),   cmocka_unit_test(test_products),
        cmocka_unit_test(test_same_bits),    cmocka_unit_test(test_several_weights),
        cmocka_unit_test(test_glu),          cmocka_unit_test(test_activations),
        cmocka_unit_test(test_prologue),     cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_largest_dots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
