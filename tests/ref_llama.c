/* SPDX-License-Identifier: MIT */
#include "ref_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "quant.h"

typedef struct ref {
    container *file;
    int32_t n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff, n_vocab, n_ids;
    double eps, base;
} ref;

static void *need(void *p)
{
    if (p) return p;
    fprintf(stderr, "ref_llama: no memory\n");
    exit(1);
}

static double *zeros(size_t n)
{
    return need(calloc(n ? n : 1, sizeof(double)));
}

/* A tensor as doubles, NULL if it is not there. */
static double *load(const ref *r, const char *name)
{
    int32_t i = container_tensor(r->file, name);
    const tensor_info *t;
    size_t n = 1;
    void *raw;
    float *f;
    double *d;

    if (i < 0) return NULL;
    t = &r->file->tensors[i];
    for (int32_t k = 0; k < t->rank; k++) n *= (size_t)t->dims[k];
    raw = need(malloc(t->size));
    f = need(malloc(n * sizeof *f));
    d = zeros(n);
    if (reader_read(r->file->files[t->file], t->offset, raw, t->size) < 0) exit(1);
    dtype_decode(t->dtype, raw, (int64_t)n, f);
    for (size_t k = 0; k < n; k++) d[k] = (double)f[k];
    free(f);
    free(raw);
    return d;
}

static double *load_layer(const ref *r, int32_t layer, const char *part)
{
    char name[64];

    snprintf(name, sizeof name, "blk.%d.%s", (int)layer, part);
    return load(r, name);
}

/* y [n_ids, n_out] = x [n_ids, n_in] W^T + b; frees W and b. */
static double *linear(const ref *r, const double *x, double *w, double *b, int32_t n_out,
                      int32_t n_in)
{
    double *y = zeros((size_t)r->n_ids * (size_t)n_out);

    for (int32_t t = 0; t < r->n_ids; t++)
        for (int32_t o = 0; o < n_out; o++) {
            double sum = b ? b[o] : 0;

            for (int32_t i = 0; i < n_in; i++)
                sum += w[(size_t)o * (size_t)n_in + (size_t)i] * x[t * n_in + i];
            y[(size_t)t * (size_t)n_out + (size_t)o] = sum;
        }
    free(w);
    free(b);
    return y;
}

static double *rms_norm(const ref *r, const double *x, double *w)
{
    double *y = zeros((size_t)r->n_ids * (size_t)r->n_embd);

    for (int32_t t = 0; t < r->n_ids; t++) {
        double sum = 0;

        for (int32_t i = 0; i < r->n_embd; i++) sum += x[t * r->n_embd + i] * x[t * r->n_embd + i];
        for (int32_t i = 0; i < r->n_embd; i++)
            y[t * r->n_embd + i] = x[t * r->n_embd + i] / sqrt(sum / r->n_embd + r->eps) * w[i];
    }
    free(w);
    return y;
}

static void rope(const ref *r, double *x, int32_t n_head, const double *factors)
{
    for (int32_t t = 0; t < r->n_ids; t++)
        for (int32_t h = 0; h < n_head; h++)
            for (int32_t i = 0; i < r->head_dim / 2; i++) {
                double *pair = x + ((size_t)t * (size_t)n_head + (size_t)h) * (size_t)r->head_dim +
                               2 * (size_t)i;
                double angle =
                    t * pow(r->base, -2.0 * i / r->head_dim) / (factors ? factors[i] : 1);
                double a = pair[0], b = pair[1];

                pair[0] = a * cos(angle) - b * sin(angle);
                pair[1] = a * sin(angle) + b * cos(angle);
            }
}

static double *attend(const ref *r, const double *q, const double *k, const double *v)
{
    int32_t n_q = r->n_head * r->head_dim, n_kv = r->n_head_kv * r->head_dim;
    double *y = zeros((size_t)r->n_ids * (size_t)n_q), *p = zeros((size_t)r->n_ids);

    for (int32_t t = 0; t < r->n_ids; t++)
        for (int32_t h = 0; h < r->n_head; h++) {
            int32_t g = h / (r->n_head / r->n_head_kv);
            double most = -INFINITY, sum = 0;

            for (int32_t s = 0; s <= t; s++) {
                p[s] = 0;
                for (int32_t i = 0; i < r->head_dim; i++)
                    p[s] += q[t * n_q + h * r->head_dim + i] * k[s * n_kv + g * r->head_dim + i];
                p[s] /= sqrt(r->head_dim);
                most = fmax(most, p[s]);
            }
            for (int32_t s = 0; s <= t; s++) sum += p[s] = exp(p[s] - most);
            for (int32_t s = 0; s <= t; s++)
                for (int32_t i = 0; i < r->head_dim; i++)
                    y[t * n_q + h * r->head_dim + i] +=
                        p[s] / sum * v[s * n_kv + g * r->head_dim + i];
        }
    free(p);
    return y;
}

static void add(const ref *r, double *x, double *y)
{
    for (int32_t i = 0; i < r->n_ids * r->n_embd; i++) x[i] += y[i];
    free(y);
}

static void layer(const ref *r, int32_t l, double *x, const double *factors)
{
    int32_t n_q = r->n_head * r->head_dim, n_kv = r->n_head_kv * r->head_dim;
    double *h = rms_norm(r, x, load_layer(r, l, "attn_norm.weight"));
    double *q = linear(r, h, load_layer(r, l, "attn_q.weight"), load_layer(r, l, "attn_q.bias"),
                       n_q, r->n_embd);
    double *k = linear(r, h, load_layer(r, l, "attn_k.weight"), load_layer(r, l, "attn_k.bias"),
                       n_kv, r->n_embd);
    double *v = linear(r, h, load_layer(r, l, "attn_v.weight"), load_layer(r, l, "attn_v.bias"),
                       n_kv, r->n_embd);
    double *a, *gate, *up;

    rope(r, q, r->n_head, factors);
    rope(r, k, r->n_head_kv, factors);
    a = attend(r, q, k, v);
    add(r, x,
        linear(r, a, load_layer(r, l, "attn_output.weight"), load_layer(r, l, "attn_output.bias"),
               r->n_embd, n_q));
    free(h), free(q), free(k), free(v), free(a);
    h = rms_norm(r, x, load_layer(r, l, "ffn_norm.weight"));
    gate = linear(r, h, load_layer(r, l, "ffn_gate.weight"), load_layer(r, l, "ffn_gate.bias"),
                  r->n_ff, r->n_embd);
    up = linear(r, h, load_layer(r, l, "ffn_up.weight"), load_layer(r, l, "ffn_up.bias"), r->n_ff,
                r->n_embd);
    for (int32_t i = 0; i < r->n_ids * r->n_ff; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    add(r, x,
        linear(r, gate, load_layer(r, l, "ffn_down.weight"), load_layer(r, l, "ffn_down.bias"),
               r->n_embd, r->n_ff));
    free(h), free(gate), free(up);
}

static int32_t key(const ref *r, const char *name, int32_t otherwise)
{
    int32_t value = otherwise;

    if (meta_get_i32(r->file, name, false, 1, 1 << 20, &value, NULL) < 0) exit(1);
    return value;
}

double *ref_llama(const void *gguf, size_t size, const int32_t *ids, int32_t n_ids,
                  int32_t *ret_n_vocab)
{
    ref r = {.n_ids = n_ids};
    sobre_context *ctx;
    double *table, *x, *h, *factors, *head, *logits;
    float f = 1e-5f;

    if (sobre_context_open(NULL, &ctx) < 0 ||
        container_open(ctx, SOBRE(source, .data = gguf, .data_size = size), &r.file) < 0)
        exit(1);
    r.n_embd = key(&r, "llama.embedding_length", 0);
    r.n_layer = key(&r, "llama.block_count", 0);
    r.n_head = key(&r, "llama.attention.head_count", 0);
    r.n_head_kv = key(&r, "llama.attention.head_count_kv", r.n_head);
    r.head_dim = key(&r, "llama.attention.key_length", r.n_embd / r.n_head);
    r.n_ff = key(&r, "llama.feed_forward_length", 0);
    r.n_vocab = (int32_t)r.file->tensors[container_tensor(r.file, "token_embd.weight")].dims[0];
    meta_get_f32(r.file, "llama.attention.layer_norm_rms_epsilon", true, &f, NULL);
    r.eps = (double)f;
    f = 10000;
    meta_get_f32(r.file, "llama.rope.freq_base", false, &f, NULL);
    r.base = (double)f;
    table = load(&r, "token_embd.weight");
    factors = load(&r, "rope_freqs.weight");
    x = zeros((size_t)n_ids * (size_t)r.n_embd);
    for (int32_t t = 0; t < n_ids; t++)
        memcpy(x + t * r.n_embd, table + (size_t)ids[t] * (size_t)r.n_embd,
               (size_t)r.n_embd * sizeof *x);
    for (int32_t l = 0; l < r.n_layer; l++) layer(&r, l, x, factors);
    h = rms_norm(&r, x, load(&r, "output_norm.weight"));
    head = load(&r, "output.weight");
    if (!head) head = table, table = NULL;
    logits = linear(&r, h, head, NULL, r.n_vocab, r.n_embd);
    free(h), free(x), free(factors), free(table);
    container_close(r.file);
    sobre_context_close(ctx);
    *ret_n_vocab = r.n_vocab;
    return logits;
}
