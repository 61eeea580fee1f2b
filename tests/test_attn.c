/* SPDX-License-Identifier: MIT */
/* Attention on the CPU: sequences of different lengths over several pages, against the definition
 * in double precision; and the same bits however the work is cut, batched and shared. */
#include <stdlib.h>

#include "cpu_rig.h"

typedef struct attn_case {
    const char *name;
    sobre_attention_params p;
    sobre_kv_type kv_type;
    bool with_factors, with_sinks;
    int32_t n_seqs;
    int32_t lengths[RIG_MAX_SEQS];
} attn_case;

/* What all sequences are made of: [column][...] with a sequence's columns one after the other. */
typedef struct attn_data {
    float *q, *k, *v;
    float q_norm[256], k_norm[256], factors[128], sinks[64];
    int32_t n_cols;
} attn_data;

static const attn_case cases[] = {
    {.name = "plain, grouped heads",
     .p = {.n_head = 6,
           .n_head_kv = 2,
           .head_dim = 64,
           .head_dim_v = 64,
           .scale = 0.125f,
           .causal = 1},
     .n_seqs = 3,
     .lengths = {150, 70, 5}},
    {.name = "no grouping, f16",
     .p = {.n_head = 3,
           .n_head_kv = 3,
           .head_dim = 80,
           .head_dim_v = 72,
           .scale = 0.11f,
           .causal = 1},
     .kv_type = SOBRE_KV_F16,
     .n_seqs = 2,
     .lengths = {64, 129}},
    {.name = "one KV head for many",
     .p = {.n_head = 37,
           .n_head_kv = 1,
           .head_dim = 8,
           .head_dim_v = 16,
           .scale = 0.35f,
           .causal = 1},
     .n_seqs = 2,
     .lengths = {66, 3}},
    {.name = "RoPE by halves with factors, norms of q and k, f16",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 32,
           .head_dim_v = 32,
           .scale = 0.18f,
           .causal = 1,
           .rope = {SOBRE_ROPE_HALVES, 32, 10000.0f, 1.0f},
           .qk_norm = {SOBRE_NORM_RMS, 1e-6f}},
     .kv_type = SOBRE_KV_F16,
     .with_factors = true,
     .n_seqs = 2,
     .lengths = {100, 65}},
    {.name = "partial RoPE by pairs, odd sizes",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 7,
           .head_dim_v = 5,
           .scale = 0.4f,
           .causal = 1,
           .rope = {SOBRE_ROPE_PAIRS, 6, 500.0f, 0.25f}},
     .n_seqs = 2,
     .lengths = {131, 1}},
    {.name = "window",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 16,
           .head_dim_v = 16,
           .scale = 0.25f,
           .causal = 1,
           .window = 50},
     .n_seqs = 2,
     .lengths = {400, 49}},
    {.name = "softcap and sinks",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 24,
           .head_dim_v = 24,
           .scale = 2.0f,
           .causal = 1,
           .softcap = 5.0f},
     .with_sinks = true,
     .n_seqs = 2,
     .lengths = {90, 10}},
    {.name = "ALiBi",
     .p = {.n_head = 6,
           .n_head_kv = 6,
           .head_dim = 16,
           .head_dim_v = 16,
           .scale = 0.25f,
           .causal = 1,
           .max_alibi_bias = 8.0f},
     .n_seqs = 1,
     .lengths = {130}},
    {.name = "both directions",
     .p = {.n_head = 2,
           .n_head_kv = 2,
           .head_dim = 32,
           .head_dim_v = 32,
           .scale = 0.2f,
           .max_alibi_bias = 4.0f},
     .n_seqs = 2,
     .lengths = {90, 30}},
    {.name = "long",
     .p = {.n_head = 3,
           .n_head_kv = 1,
           .head_dim = 16,
           .head_dim_v = 16,
           .scale = 0.9f,
           .causal = 1},
     .n_seqs = 1,
     .lengths = {1400}},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static float *random_rows(int64_t n, uint32_t seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    rig_fill(x, n, seed);
    return x;
}

static attn_data data_make(const attn_case *c)
{
    attn_data d = {.n_cols = 0};
    for (int32_t s = 0; s < c->n_seqs; s++) d.n_cols += c->lengths[s];
    d.q = random_rows((int64_t)d.n_cols * c->p.n_head * c->p.head_dim, 1);
    d.k = random_rows((int64_t)d.n_cols * c->p.n_head_kv * c->p.head_dim, 2);
    d.v = random_rows((int64_t)d.n_cols * c->p.n_head_kv * c->p.head_dim_v, 3);
    rig_fill(d.q_norm, 256, 4);
    rig_fill(d.k_norm, 256, 5);
    rig_fill(d.sinks, 64, 6);
    for (int i = 0; i < 128; i++) d.factors[i] = 1.0f + 0.25f * (float)i;
    return d;
}

static void data_free(attn_data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
}

/* --- The definition */

static void turned(const attn_case *c, const attn_data *d, const float *x, const float *norm_w,
                   int32_t pos, double *ret)
{
    const sobre_attention_params *p = &c->p;
    double squares = 0;
    for (int32_t i = 0; i < p->head_dim; i++) squares += (double)x[i] * x[i];
    for (int32_t i = 0; i < p->head_dim; i++)
        ret[i] = p->qk_norm.kind == SOBRE_NORM_RMS
                     ? x[i] / sqrt(squares / p->head_dim + p->qk_norm.eps) * norm_w[i]
                     : x[i];
    if (p->rope.kind == SOBRE_ROPE_NONE) return;
    for (int32_t i = 0; i < p->rope.n_dims / 2; i++) {
        double angle = p->rope.scale * pos * pow(p->rope.base, -2.0 * i / p->rope.n_dims);
        if (c->with_factors) angle /= d->factors[i];
        int32_t a = p->rope.kind == SOBRE_ROPE_PAIRS ? 2 * i : i;
        int32_t b = p->rope.kind == SOBRE_ROPE_PAIRS ? a + 1 : i + p->rope.n_dims / 2;
        double x0 = ret[a], x1 = ret[b];
        ret[a] = x0 * cos(angle) - x1 * sin(angle);
        ret[b] = x1 * cos(angle) + x0 * sin(angle);
    }
}

static double slope(const sobre_attention_params *p, int32_t head)
{
    if (p->max_alibi_bias == 0) return 0;
    double n = exp2(floor(log2(p->n_head)));
    return head < n ? pow(exp2(-p->max_alibi_bias / n), head + 1)
                    : pow(exp2(-p->max_alibi_bias / 2 / n), 2 * (head - n) + 1);
}

/* Heads of one sequence: its first column is `first`. */
static void reference_seq(const attn_case *c, const attn_data *d, int32_t first, int32_t length,
                          double *ret)
{
    const sobre_attention_params *p = &c->p;
    double *keys = malloc(sizeof *keys * (size_t)(length * p->head_dim)), q[256];
    double *w = malloc(sizeof *w * (size_t)length);
    assert_true(keys && w);
    for (int32_t h = 0; h < p->n_head; h++) {
        int32_t g = h / (p->n_head / p->n_head_kv);
        for (int32_t i = 0; i < length; i++)
            turned(c, d, d->k + ((first + i) * p->n_head_kv + g) * p->head_dim, d->k_norm, i,
                   keys + i * p->head_dim);
        for (int32_t t = 0; t < length; t++) {
            double *out = ret + ((first + t) * p->n_head + h) * p->head_dim_v, total = 0;
            int32_t end = p->causal ? t + 1 : length;
            int32_t begin = p->window && t + 1 > p->window ? t + 1 - p->window : 0;
            turned(c, d, d->q + ((first + t) * p->n_head + h) * p->head_dim, d->q_norm, t, q);
            for (int32_t i = begin; i < end; i++) {
                double s = 0;
                for (int32_t j = 0; j < p->head_dim; j++) s += q[j] * keys[i * p->head_dim + j];
                s *= p->scale;
                if (p->softcap > 0) s = p->softcap * tanh(s / p->softcap);
                w[i] = exp(s - slope(p, h) * abs(i - t));
                total += w[i];
            }
            if (c->with_sinks) total += exp(d->sinks[h]);
            for (int32_t j = 0; j < p->head_dim_v; j++) {
                out[j] = 0;
                for (int32_t i = begin; i < end; i++)
                    out[j] +=
                        w[i] / total * d->v[((first + i) * p->n_head_kv + g) * p->head_dim_v + j];
            }
        }
    }
    free(keys);
    free(w);
}

/* --- The device */

/* Evaluates sequences [from, from + n_seqs) together, each `chunk` columns at a time (0: whole),
 * the i-th from run i on. ret [all columns][n_head * head_dim_v]. */
static void evaluate(const attn_case *c, const attn_data *d, sobre_cpu_isa isa, int32_t n_threads,
                     int32_t from, int32_t n_seqs, int32_t chunk, float *ret)
{
    const sobre_attention_params *p = &c->p;
    int32_t n_q = p->n_head * p->head_dim, n_k = p->n_head_kv * p->head_dim,
            n_v = p->n_head_kv * p->head_dim_v, n_o = p->n_head * p->head_dim_v;
    rig r;
    attn_data copy = *d;
    rig_open(&r, isa, n_threads, chunk ? chunk * n_seqs : d->n_cols, 0);
    rig_cache(&r, c->kv_type ? c->kv_type : SOBRE_KV_F32, p->n_head_kv, p->head_dim, p->head_dim_v);
    sobre_node node = rig_node(SOBRE_OP_ATTENTION);
    node.p.attention = *p;
    node.p.attention.append = 1;
    node.in[SOBRE_ATTN_Q] = rig_input(&r, SOBRE_DIM_T, n_q);
    node.in[SOBRE_ATTN_K] = rig_input(&r, SOBRE_DIM_T, n_k);
    node.in[SOBRE_ATTN_V] = rig_input(&r, SOBRE_DIM_T, n_v);
    node.in[SOBRE_ATTN_POS] = rig_ints(&r, SOBRE_DIM_T);
    if (c->with_factors)
        node.in[SOBRE_ATTN_FACTORS] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->rope.n_dims / 2, copy.factors);
    if (p->qk_norm.kind != SOBRE_NORM_NONE) {
        node.in[SOBRE_ATTN_Q_NORM] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->head_dim, copy.q_norm);
        node.in[SOBRE_ATTN_K_NORM] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->head_dim, copy.k_norm);
    }
    if (c->with_sinks)
        node.in[SOBRE_ATTN_SINKS] =
            rig_weight(&r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->n_head, copy.sinks);
    node.out[0] = rig_input(&r, SOBRE_DIM_T, n_o);
    rig_add(&r, &node);
    rig_compile(&r);

    int32_t pages[RIG_MAX_SEQS][RIG_PAGES], done[RIG_MAX_SEQS] = {0}, n_pages = 0;
    for (int32_t s = 0; s < n_seqs; s++)
        for (int32_t i = 0; i * SOBRE_KV_PAGE < c->lengths[from + s]; i++)
            pages[s][i] = (n_pages++ * 37 + 11) % RIG_PAGES;
    assert_true(n_pages <= RIG_PAGES);
    int32_t *pos = rig_data(&r, node.in[SOBRE_ATTN_POS]);
    float *out = rig_data(&r, node.out[0]);
    for (int32_t round = 0;; round++) {
        sobre_run_seq seqs[RIG_MAX_SEQS];
        int32_t first_of[RIG_MAX_SEQS], n_cols = 0, n_active = 0, first = 0, n_left = 0;
        for (int32_t s = 0; s < from; s++) first += c->lengths[s];
        for (int32_t s = 0; s < n_seqs; first += c->lengths[from + s], s++) {
            int32_t n = c->lengths[from + s] - done[s];
            n_left += n;
            if (n == 0 || round < s) continue;
            if (chunk && n > chunk) n = chunk;
            first_of[n_active] = first + done[s];
            seqs[n_active++] = (sobre_run_seq){n_cols, n, done[s], pages[s]};
            for (int32_t i = 0; i < n; i++) pos[n_cols + i] = done[s] + i;
            n_cols += n;
            done[s] += n;
        }
        if (n_left == 0) break;
        for (int32_t a = 0; a < n_active; a++) {
            size_t at = (size_t)first_of[a], to = (size_t)seqs[a].col, n = (size_t)seqs[a].n_cols;
            memcpy((float *)rig_data(&r, node.in[SOBRE_ATTN_Q]) + to * (size_t)n_q,
                   d->q + at * (size_t)n_q, n * (size_t)n_q * sizeof(float));
            memcpy((float *)rig_data(&r, node.in[SOBRE_ATTN_K]) + to * (size_t)n_k,
                   d->k + at * (size_t)n_k, n * (size_t)n_k * sizeof(float));
            memcpy((float *)rig_data(&r, node.in[SOBRE_ATTN_V]) + to * (size_t)n_v,
                   d->v + at * (size_t)n_v, n * (size_t)n_v * sizeof(float));
        }
        rig_run(&r, n_cols, 0, seqs, n_active);
        for (int32_t a = 0; a < n_active; a++)
            memcpy(ret + (size_t)first_of[a] * (size_t)n_o, out + (size_t)seqs[a].col * (size_t)n_o,
                   (size_t)seqs[a].n_cols * (size_t)n_o * sizeof(float));
    }
    rig_close(&r);
}

static size_t out_size(const attn_case *c, const attn_data *d)
{
    return (size_t)d->n_cols * (size_t)(c->p.n_head * c->p.head_dim_v);
}

static void matches_the_definition(void **state)
{
    sobre_cpu_isa isa = rig_isa(state);
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *c = &cases[i];
        attn_data d = data_make(c);
        size_t n = out_size(c, &d);
        double *reference = malloc(n * sizeof *reference);
        float *out = malloc(n * sizeof *out);
        assert_true(reference && out);
        for (int32_t s = 0, first = 0; s < c->n_seqs; first += c->lengths[s], s++)
            reference_seq(c, &d, first, c->lengths[s], reference);
        evaluate(c, &d, isa, 2, 0, c->n_seqs, 0, out);
        print_message("  %s\n", c->name);
        rig_close_to(out, reference, (int64_t)n, c->kv_type == SOBRE_KV_F16 ? 1e-3 : 5e-6);
        free(reference);
        free(out);
        data_free(&d);
    }
}

static void has_the_same_bits_however_it_is_cut(void **state)
{
    static const struct {
        int32_t chunk, n_threads;
    } ways[] = {{1, 2}, {7, 1}, {7, 5}, {64, 2}, {0, 1}, {0, 3}};
    sobre_cpu_isa isa = rig_isa(state);
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *c = &cases[i];
        if (!c->p.causal) continue; /* a chunk sees no further than its end */
        attn_data d = data_make(c);
        size_t n = out_size(c, &d);
        float *first = malloc(n * sizeof *first), *out = malloc(n * sizeof *out);
        assert_true(first && out);
        evaluate(c, &d, isa, 2, 0, c->n_seqs, 0, first);
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            memset(out, 0xff, n * sizeof *out);
            evaluate(c, &d, isa, ways[w].n_threads, 0, c->n_seqs, ways[w].chunk, out);
            if (memcmp(out, first, n * sizeof *out) != 0)
                test_fail("%s: other bits with chunks of %d, %d threads", c->name,
                          (int)ways[w].chunk, (int)ways[w].n_threads);
        }
        memset(out, 0xff, n * sizeof *out);
        for (int32_t s = 0; s < c->n_seqs; s++) evaluate(c, &d, isa, 2, s, 1, 7, out);
        if (memcmp(out, first, n * sizeof *out) != 0)
            test_fail("%s: other bits for each sequence alone", c->name);
        free(first);
        free(out);
        data_free(&d);
    }
}

/* All instruction sets but the scalar one sum in the same order. */
static void avx512_has_the_bits_of_avx2(void **state)
{
    rig_isa(state);
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *c = &cases[i];
        attn_data d = data_make(c);
        size_t n = out_size(c, &d);
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
        assert_true(a && b);
        evaluate(c, &d, SOBRE_CPU_AVX2, 2, 0, c->n_seqs, 0, a);
        evaluate(c, &d, SOBRE_CPU_AVX512, 2, 0, c->n_seqs, 0, b);
        assert_memory_equal(a, b, n * sizeof *a);
        free(a);
        free(b);
        data_free(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TESTS(matches_the_definition),
        RIG_TESTS(has_the_same_bits_however_it_is_cut),
        {"avx512_has_the_bits_of_avx2", avx512_has_the_bits_of_avx2, NULL, NULL, &rig_isas[2]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
