/* SPDX-License-Identifier: MIT */
/* Attention on the CPU: the same bits however the work is cut, batched and shared, and with every
 * instruction set but the scalar one. Its values are test_ops's matter. An argument picks tests by
 * cmocka's pattern of their names. */
#include "attn_bench.h"
#include "conf_attn.h"

/* ret [all columns][n_head * head_dim_v]. */
static void evaluate(const attn_case *c, const attn_data *d, sobre_cpu_isa isa, int32_t n_threads,
                     attn_cut cut, float *ret)
{
    rig r;
    attn_data copy = *d;
    rig_device device = rig_cpu(isa, n_threads);
    rig_open(&r, &device, attn_cols(c, &cut), 0);
    sobre_node node = attn_build(&r, c, &copy);
    rig_compile(&r);
    attn_eval(&r, c, d, &node, &cut, ret, NULL);
    rig_close(&r);
    rig_device_close(&device);
}

static size_t out_size(const attn_case *c, const attn_data *d)
{
    return (size_t)d->n_cols * (size_t)(c->p.n_head * c->p.head_dim_v);
}

static void has_the_same_bits_however_it_is_cut(void **state)
{
    static const struct {
        int32_t chunk, n_threads;
    } ways[] = {{1, 2}, {7, 1}, {7, 5}, {64, 2}, {0, 1}, {0, 3}};
    sobre_cpu_isa isa = rig_isa(state);
    for (int i = 0; i < attn_n_cases; i++) {
        const attn_case *c = &attn_cases[i];
        if (!c->p.causal) continue; /* a chunk sees no further than its end */
        attn_data d = attn_data_make(c);
        size_t n = out_size(c, &d);
        float *first = malloc(n * sizeof *first), *out = malloc(n * sizeof *out);
        assert_true(first && out);
        evaluate(c, &d, isa, 2, (attn_cut){0, c->n_seqs, 0, 0}, first);
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            memset(out, 0xff, n * sizeof *out);
            evaluate(c, &d, isa, ways[w].n_threads, (attn_cut){0, c->n_seqs, ways[w].chunk, 0},
                     out);
            if (memcmp(out, first, n * sizeof *out) != 0)
                test_fail("%s: other bits with chunks of %d, %d threads", c->name,
                          (int)ways[w].chunk, (int)ways[w].n_threads);
        }
        memset(out, 0xff, n * sizeof *out);
        for (int32_t s = 0; s < c->n_seqs; s++)
            evaluate(c, &d, isa, 2, (attn_cut){s, 1, 7, 0}, out);
        if (memcmp(out, first, n * sizeof *out) != 0)
            test_fail("%s: other bits for each sequence alone", c->name);
        free(first);
        free(out);
        attn_data_free(&d);
    }
}

/* All instruction sets but the scalar one sum in the same order. */
static void has_the_bits_of_others(void **state)
{
    sobre_cpu_isa isa = rig_isa(state), other = rig_isas[1];
    if (isa == SOBRE_CPU_SCALAR || isa == other) return;
    for (int i = 0; i < attn_n_cases; i++) {
        const attn_case *c = &attn_cases[i];
        attn_data d = attn_data_make(c);
        size_t n = out_size(c, &d);
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
        assert_true(a && b);
        evaluate(c, &d, other, 2, (attn_cut){0, c->n_seqs, 0, 0}, a);
        evaluate(c, &d, isa, 2, (attn_cut){0, c->n_seqs, 0, 0}, b);
        assert_memory_equal(a, b, n * sizeof *a);
        free(a);
        free(b);
        attn_data_free(&d);
    }
}

/* What is put in a page is the same with every instruction set, near what it was, and not finite if
 * that was not. */
static void pages_hold_what_is_put(void **state)
{
    enum { N = 5, SLOT = 30, HEAD_DIM = 50, HEAD_DIM_V = 43, PAD_V = 48, SIZE = 64 * 64 * 4 };
    static const struct {
        sobre_kv_type type;
        float of_number, of_group; /* error at most, of its magnitude and of the group's largest */
    } types[] = {{SOBRE_KV_F32, 0.0f, 0.0f},
                 {SOBRE_KV_F16, 0x1p-11f, 1e-4f},
                 {SOBRE_KV_BF16, 0x1p-8f, 0.0f},
                 {SOBRE_KV_Q8_0, 0.0f, 0.0042f}};
    static const float sizes[] = {1.0f, 1e-2f, 300.0f, 0.0f};
    static float x[N * HEAD_DIM], back[2][64 * 64];
    static uint8_t pages[2][2][SIZE];
    const sobre_cpu_isa isa = rig_isa(state);
    uint32_t seed = 3;
    for (size_t t = 0; t < 2 * sizeof types / sizeof types[0]; t++) {
        const bool tainted = t % 2;
        const sobre_kv_type type = types[t / 2].type;
        const attn_kernels *of[] = {attn_kernels_get(SOBRE_CPU_SCALAR, type),
                                    attn_kernels_get(isa, type)};
        for (size_t i = 0; i < N * HEAD_DIM; i++)
            x[i] = rig_random(&seed) * sizes[i / 32 % (sizeof sizes / sizeof sizes[0])];
        if (tainted) x[7] = x[HEAD_DIM + 40] = NAN;
        for (int k = 0; k < 2; k++) {
            memset(pages[k], 0, sizeof pages[k]);
            of[k]->put_k(x, N, HEAD_DIM, SLOT, pages[k][0]);
            of[k]->put_v(x, HEAD_DIM, N, HEAD_DIM_V, SLOT, pages[k][1]);
            of[k]->unpack_k(pages[k][0], HEAD_DIM, SLOT, SLOT + N, back[0]);
            of[k]->unpack_v(pages[k][1], PAD_V, SLOT, SLOT + N, back[1]);
            for (int i = 0; i < N * HEAD_DIM; i++) {
                const int row = i / HEAD_DIM, d = i % HEAD_DIM;
                const float from_k = back[0][d * 64 + SLOT + row];
                const float from_v = d < HEAD_DIM_V ? back[1][(SLOT + row) * PAD_V + d] : from_k;
                float most = 0.0f;
                if (isnan(x[i])) assert_true(isnan(from_k) && isnan(from_v));
                if (tainted) continue;
                for (int j = d / 32 * 32; j < HEAD_DIM && j < d / 32 * 32 + 32; j++)
                    most = fmaxf(most, fabsf(x[row * HEAD_DIM + j]));
                float error = types[t / 2].of_number * fabsf(x[i]) + types[t / 2].of_group * most;
                assert_true(fabsf(from_k - x[i]) <= error && fabsf(from_v - x[i]) <= error);
            }
        }
        if (!tainted) assert_memory_equal(pages[0], pages[1], sizeof pages[0]);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return attn_bench_all(argc > 2 ? argv[2] : NULL, argc > 3 ? atoi(argv[3]) : 1);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {RIG_TESTS(has_the_same_bits_however_it_is_cut) //
                                       RIG_TESTS(pages_hold_what_is_put)              //
                                       RIG_TESTS(has_the_bits_of_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
