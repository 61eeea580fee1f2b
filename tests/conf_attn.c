/* SPDX-License-Identifier: MIT */
/* Conformance of attention: sequences of different lengths over several pages, against the
 * definition in double precision. */
#include "conf_attn.h"

#include "conf.h"

const attn_case attn_cases[] = {
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
    {.name = "window, head_dim 16",
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
    {.name = "ALiBi, head_dim 16",
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
    {.name = "long, head_dim 16",
     .p = {.n_head = 3,
           .n_head_kv = 1,
           .head_dim = 16,
           .head_dim_v = 16,
           .scale = 0.9f,
           .causal = 1},
     .n_seqs = 1,
     .lengths = {1400}},
    {.name = "window, head_dim 32",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 32,
           .head_dim_v = 32,
           .scale = 0.25f,
           .causal = 1,
           .window = 50},
     .n_seqs = 2,
     .lengths = {400, 49}},
    {.name = "softcap, head_dim 40",
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 40,
           .head_dim_v = 40,
           .scale = 2.0f,
           .causal = 1,
           .softcap = 5.0f},
     .n_seqs = 2,
     .lengths = {90, 10}},
    {.name = "ALiBi, head_dim 32",
     .p = {.n_head = 6,
           .n_head_kv = 6,
           .head_dim = 32,
           .head_dim_v = 32,
           .scale = 0.25f,
           .causal = 1,
           .max_alibi_bias = 8.0f},
     .n_seqs = 1,
     .lengths = {130}},
    {.name = "long, head_dim 64, f16",
     .p = {.n_head = 9,
           .n_head_kv = 3,
           .head_dim = 64,
           .head_dim_v = 64,
           .scale = 0.4f,
           .causal = 1},
     .kv_type = SOBRE_KV_F16,
     .n_seqs = 2,
     .lengths = {1100, 300}},
    {.name = "head_dim 128, f16, groups of 8",
     .p = {.n_head = 16,
           .n_head_kv = 2,
           .head_dim = 128,
           .head_dim_v = 128,
           .scale = 0.088f,
           .causal = 1,
           .rope = {SOBRE_ROPE_HALVES, 128, 10000.0f, 1.0f}},
     .kv_type = SOBRE_KV_F16,
     .n_seqs = 3,
     .lengths = {70, 17, 1}},
    {.name = "head_dim 256",
     .p = {.n_head = 4,
           .n_head_kv = 1,
           .head_dim = 256,
           .head_dim_v = 256,
           .scale = 0.0625f,
           .causal = 1,
           .qk_norm = {SOBRE_NORM_RMS, 1e-6f}},
     .n_seqs = 2,
     .lengths = {67, 20}},
    {.name = "head_dim 96, f16",
     .p = {.n_head = 2,
           .n_head_kv = 2,
           .head_dim = 96,
           .head_dim_v = 96,
           .scale = 0.1f,
           .causal = 1,
           .rope = {SOBRE_ROPE_PAIRS, 96, 10000.0f, 1.0f}},
     .kv_type = SOBRE_KV_F16,
     .n_seqs = 1,
     .lengths = {65}},
    {.name = "bf16, groups of 7",
     .p = {.n_head = 14,
           .n_head_kv = 2,
           .head_dim = 64,
           .head_dim_v = 64,
           .scale = 0.125f,
           .causal = 1,
           .rope = {SOBRE_ROPE_HALVES, 64, 10000.0f, 1.0f}},
     .kv_type = SOBRE_KV_BF16,
     .n_seqs = 3,
     .lengths = {300, 33, 1}},
    {.name = "bf16, odd sizes",
     .p = {.n_head = 4, .n_head_kv = 2, .head_dim = 7, .head_dim_v = 5, .scale = 0.4f, .causal = 1},
     .kv_type = SOBRE_KV_BF16,
     .n_seqs = 2,
     .lengths = {131, 1}},
    {.name = "q8_0, groups of 3",
     .p = {.n_head = 9,
           .n_head_kv = 3,
           .head_dim = 64,
           .head_dim_v = 64,
           .scale = 0.125f,
           .causal = 1,
           .rope = {SOBRE_ROPE_HALVES, 64, 10000.0f, 1.0f}},
     .kv_type = SOBRE_KV_Q8_0,
     .n_seqs = 2,
     .lengths = {1100, 300}},
    {.name = "q8_0, no whole groups of dims",
     .p = {.n_head = 3,
           .n_head_kv = 3,
           .head_dim = 80,
           .head_dim_v = 72,
           .scale = 0.11f,
           .causal = 1,
           .window = 50},
     .kv_type = SOBRE_KV_Q8_0,
     .n_seqs = 2,
     .lengths = {64, 129}},
    {.name = "q8_0, odd sizes",
     .p = {.n_head = 37,
           .n_head_kv = 1,
           .head_dim = 7,
           .head_dim_v = 5,
           .scale = 0.35f,
           .causal = 1},
     .kv_type = SOBRE_KV_Q8_0,
     .n_seqs = 2,
     .lengths = {66, 3}},
    {.name = "tiny",
     .is_tiny = true,
     .p = {.n_head = 4,
           .n_head_kv = 2,
           .head_dim = 32,
           .head_dim_v = 32,
           .scale = 0.18f,
           .causal = 1,
           .rope = {SOBRE_ROPE_HALVES, 32, 10000.0f, 1.0f}},
     .n_seqs = 2,
     .lengths = {67, 3}},
    {.name = "tiny, f16",
     .is_tiny = true,
     .p = {.n_head = 2,
           .n_head_kv = 1,
           .head_dim = 64,
           .head_dim_v = 64,
           .scale = 0.125f,
           .causal = 1,
           .rope = {SOBRE_ROPE_PAIRS, 64, 10000.0f, 1.0f},
           .qk_norm = {SOBRE_NORM_RMS, 1e-6f}},
     .kv_type = SOBRE_KV_F16,
     .n_seqs = 2,
     .lengths = {18, 5}},
};
const int32_t attn_n_cases = sizeof attn_cases / sizeof attn_cases[0];

static float *random_rows(int64_t n, uint32_t seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    rig_fill(x, n, seed);
    return x;
}

attn_data attn_data_make(const attn_case *c)
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

void attn_data_free(attn_data *d)
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

void attn_reference(const attn_case *c, const attn_data *d, int32_t first, int32_t length,
                    int32_t from, double *ret)
{
    const sobre_attention_params *p = &c->p;
    double *keys = malloc(sizeof *keys * (size_t)(length * p->head_dim)), q[256];
    double *w = malloc(sizeof *w * (size_t)length);
    assert_true(keys && w);
    for (int32_t h = 0; h < p->n_head; h++) {
        int32_t g = h / (p->n_head / p->n_head_kv);
        for (int32_t i = 0; i < length && h % (p->n_head / p->n_head_kv) == 0; i++)
            turned(c, d, d->k + ((first + i) * p->n_head_kv + g) * p->head_dim, d->k_norm, i,
                   keys + i * p->head_dim);
        for (int32_t t = from; t < length; t++) {
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
            for (int32_t j = 0; j < p->head_dim_v; j++) out[j] = 0;
            for (int32_t i = begin; i < end; i++) {
                const float *v = d->v + ((first + i) * p->n_head_kv + g) * p->head_dim_v;
                w[i] /= total;
                for (int32_t j = 0; j < p->head_dim_v; j++) out[j] += w[i] * v[j];
            }
        }
    }
    free(keys);
    free(w);
}

/* --- The device */

/* --- The device */

int32_t attn_cols(const attn_case *c, const attn_cut *cut)
{
    int32_t n = 0;
    for (int32_t s = 0; s < cut->n_seqs; s++)
        n += cut->chunk ? cut->chunk : c->lengths[cut->first_seq + s];
    return n;
}

sobre_node attn_build(rig *r, const attn_case *c, attn_data *d)
{
    const sobre_attention_params *p = &c->p;
    rig_cache(r, c->kv_type ? c->kv_type : SOBRE_KV_F32, p->n_head_kv, p->head_dim, p->head_dim_v);
    sobre_node node = rig_node(SOBRE_OP_ATTENTION);
    node.p.attention = *p;
    node.p.attention.append = 1;
    node.in[SOBRE_ATTN_Q] = rig_input(r, SOBRE_DIM_T, p->n_head * p->head_dim);
    node.in[SOBRE_ATTN_K] = rig_input(r, SOBRE_DIM_T, p->n_head_kv * p->head_dim);
    node.in[SOBRE_ATTN_V] = rig_input(r, SOBRE_DIM_T, p->n_head_kv * p->head_dim_v);
    node.in[SOBRE_ATTN_POS] = rig_ints(r, SOBRE_DIM_T);
    if (c->with_factors)
        node.in[SOBRE_ATTN_FACTORS] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->rope.n_dims / 2, d->factors);
    if (p->qk_norm.kind != SOBRE_NORM_NONE) {
        node.in[SOBRE_ATTN_Q_NORM] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->head_dim, d->q_norm);
        node.in[SOBRE_ATTN_K_NORM] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->head_dim, d->k_norm);
    }
    if (c->with_sinks)
        node.in[SOBRE_ATTN_SINKS] =
            rig_weight(r, SOBRE_F32, SOBRE_WEIGHT_VECTOR, 0, p->n_head, d->sinks);
    node.out[0] = rig_input(r, SOBRE_DIM_T, p->n_head * p->head_dim_v);
    rig_add(r, &node);
    return node;
}

/* The columns that a sequence brings next. */
static int32_t next_cols(const attn_cut *cut, int32_t left)
{
    int32_t n = left > cut->tail ? left - cut->tail : 1;
    return cut->chunk && n > cut->chunk ? cut->chunk : n;
}

void attn_eval(rig *r, const attn_case *c, const attn_data *d, const sobre_node *node,
               const attn_cut *cut, float *ret, attn_last *last)
{
    const sobre_attention_params *p = &c->p;
    const uint64_t n_q = (uint64_t)(p->n_head * p->head_dim),
                   n_k = (uint64_t)(p->n_head_kv * p->head_dim),
                   n_v = (uint64_t)(p->n_head_kv * p->head_dim_v),
                   n_o = (uint64_t)(p->n_head * p->head_dim_v);
    attn_last own, *l = last ? last : &own;
    int32_t done[RIG_MAX_SEQS] = {0}, n_pages = 0;
    uint64_t n_most = (uint64_t)r->n_cols;
    float *q = rig_alloc(n_most * n_q * 4), *k = rig_alloc(n_most * n_k * 4);
    float *v = rig_alloc(n_most * n_v * 4), *out = rig_alloc(n_most * n_o * 4);
    int32_t *pos = rig_alloc(n_most * 4);
    for (int32_t s = 0; s < cut->n_seqs; s++)
        for (int32_t i = 0; i * SOBRE_KV_PAGE < c->lengths[cut->first_seq + s]; i++)
            l->pages[s][i] = (n_pages++ * 37 + 11) % RIG_PAGES;
    assert_true(n_pages <= RIG_PAGES);
    for (int32_t round = 0;; round++) {
        int32_t first = 0, n_left = 0, n_cols = 0, n_active = 0, first_of[RIG_MAX_SEQS];
        for (int32_t s = 0; s < cut->first_seq; s++) first += c->lengths[s];
        for (int32_t s = 0; s < cut->n_seqs; first += c->lengths[cut->first_seq + s], s++) {
            int32_t left = c->lengths[cut->first_seq + s] - done[s];
            n_left += left;
            if (left == 0 || round < s) continue;
            int32_t n = next_cols(cut, left);
            const size_t at = (size_t)(first + done[s]), to = (size_t)n_cols, size = (size_t)n;
            first_of[n_active] = first + done[s];
            l->seqs[n_active++] = (sobre_run_seq){n_cols, n, done[s], l->pages[s]};
            for (int32_t i = 0; i < n; i++) pos[n_cols + i] = done[s] + i;
            memcpy(q + to * n_q, d->q + at * n_q, size * n_q * 4);
            memcpy(k + to * n_k, d->k + at * n_k, size * n_k * 4);
            memcpy(v + to * n_v, d->v + at * n_v, size * n_v * 4);
            n_cols += n;
            done[s] += n;
        }
        if (n_left == 0) break;
        if (n_active == 0) continue; /* the next one begins later */
        const uint64_t n = (uint64_t)n_cols;
        rig_write(r, node->in[SOBRE_ATTN_Q], q, n * n_q * 4);
        rig_write(r, node->in[SOBRE_ATTN_K], k, n * n_k * 4);
        rig_write(r, node->in[SOBRE_ATTN_V], v, n * n_v * 4);
        rig_write(r, node->in[SOBRE_ATTN_POS], pos, n * 4);
        l->n_seqs = n_active;
        l->n_cols = n_cols;
        rig_run(r, n_cols, 0, l->seqs, n_active);
        rig_read(r, node->out[0], out, n * n_o * 4);
        for (int32_t a = 0; a < n_active; a++)
            memcpy(ret + (size_t)first_of[a] * n_o, out + (size_t)l->seqs[a].col * n_o,
                   (size_t)l->seqs[a].n_cols * n_o * 4);
    }
    free(q);
    free(k);
    free(v);
    free(out);
    free(pos);
}

/* --- Cases */

/* By what the definition takes to evaluate. */
static conf_size attn_size(const attn_case *a)
{
    const int64_t small = 1 << 25;
    int64_t work = 0;
    for (int32_t s = 0; s < a->n_seqs; s++) work += (int64_t)a->lengths[s] * a->lengths[s];
    work *= (int64_t)a->p.n_head * (a->p.head_dim + a->p.head_dim_v);
    return a->is_tiny ? CONF_TINY : work <= small ? CONF_SMALL : CONF_USUAL;
}

static void attn_check(conf *c, const attn_case *a, const attn_cut *cut)
{
    attn_last last;
    if (!conf_begin(c, attn_size(a), attn_cols(a, cut), 0, "attention %s, %s", a->name,
                    cut->tail    ? "then one by one"
                    : cut->chunk ? "in chunks"
                                 : "at once"))
        return;
    attn_data d = attn_data_make(a);
    int64_t n = (int64_t)d.n_cols * a->p.n_head * a->p.head_dim_v;
    sobre_node node = attn_build(&c->rig, a, &d);
    if (conf_compile(c)) {
        double *reference = rig_alloc((uint64_t)n * 8), *tolerance = rig_alloc((uint64_t)n * 8);
        static const double relative_of[] = {[SOBRE_KV_DEFAULT] = 5e-6, /* the cases' f32 */
                                             [SOBRE_KV_F32] = 5e-6,
                                             [SOBRE_KV_F16] = 1e-3,
                                             [SOBRE_KV_BF16] = 8e-3,
                                             [SOBRE_KV_Q8_0] = 1e-2};
        double most = 0, relative = relative_of[a->kv_type];
        float *out = rig_alloc((uint64_t)n * 4);
        for (int32_t s = 0, first = 0; s < a->n_seqs; first += a->lengths[s], s++)
            attn_reference(a, &d, first, a->lengths[s], 0, reference);
        for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(reference[i]));
        for (int64_t i = 0; i < n; i++) tolerance[i] = relative * most;
        attn_eval(&c->rig, a, &d, &node, cut, out, &last);
        conf_compare(c, out, n, reference, tolerance);
        conf_ran(c, last.n_cols, 0, last.seqs, last.n_seqs);
        free(reference);
        free(tolerance);
        free(out);
    }
    conf_end(c);
    attn_data_free(&d);
}

static void attention_family(conf *c)
{
    for (int32_t i = 0; i < attn_n_cases; i++) {
        const attn_case *a = &attn_cases[i];
        attn_check(c, a, &(attn_cut){0, a->n_seqs, 0, 0});
        if (!a->p.causal) continue; /* a chunk sees no further than its end */
        attn_check(c, a, &(attn_cut){0, a->n_seqs, 0, 3});
        if (!a->is_tiny) attn_check(c, a, &(attn_cut){0, a->n_seqs, 33, 0});
    }
}

const conf_family conf_attn_families[] = {
    {"attention", attention_family},
    {NULL, NULL},
};
