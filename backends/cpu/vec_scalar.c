/* SPDX-License-Identifier: MIT */
/* Elementwise kernels: the scalar reference, and what all instruction sets share. */
#include "vec.h"

#include <math.h>
#include <string.h>

static float activate(sobre_act act, float x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return x / (1.0f + expf(-x));
    case SOBRE_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case SOBRE_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(0.7071067812f * x));
    case SOBRE_ACT_RELU: return x > 0.0f || x != x ? x : 0.0f;
    case SOBRE_ACT_NONE: break;
    }
    return x;
}

static void norm(sobre_norm_params params, const float *x, const float *w, const float *b,
                 int64_t n, float *ret)
{
    float mean = 0.0f, squares = 0.0f;
    if (params.kind == SOBRE_NORM_LAYER) {
        for (int64_t i = 0; i < n; i++) mean += x[i];
        mean /= (float)n;
    }
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    float inverse = 1.0f / sqrtf(squares / (float)n + params.eps);
    for (int64_t i = 0; i < n; i++) {
        float y = (x[i] - mean) * inverse;
        if (w) y *= w[i];
        if (b) y += b[i];
        ret[i] = y;
    }
}

static void rope(sobre_rope_kind kind, int32_t n_dims, const float *table, const float *x,
                 int32_t n_head, int32_t head_dim, float *ret)
{
    const float *cosine = table, *sine = table + n_dims;
    int32_t step = kind == SOBRE_ROPE_PAIRS ? 2 : 1;
    int32_t distance = kind == SOBRE_ROPE_PAIRS ? 1 : n_dims / 2;
    for (int32_t h = 0; h < n_head; h++, x += head_dim, ret += head_dim) {
        for (int32_t p = 0; p < n_dims / 2; p++) {
            int32_t i = p * step, j = i + distance;
            float a = x[i], b = x[j];
            ret[i] = a * cosine[i] + b * sine[i];
            ret[j] = b * cosine[j] + a * sine[j];
        }
        if (ret != x) memcpy(ret + n_dims, x + n_dims, (size_t)(head_dim - n_dims) * sizeof(float));
    }
}

static void add(const float *a, const float *b, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = a[i] + b[i];
}

static void mul(const float *a, const float *b, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = a[i] * b[i];
}

static void scale(const float *x, float factor, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = x[i] * factor;
}

static void softcap(const float *x, float cap, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = cap * tanhf(x[i] / cap);
}

static void act(sobre_act act, const float *x, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = activate(act, x[i]);
}

static void glu(sobre_act act, const float *gate, const float *up, int64_t n, float *ret)
{
    for (int64_t i = 0; i < n; i++) ret[i] = activate(act, gate[i]) * up[i];
}

static int32_t argmax(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

const vec_kernels vec_kernels_scalar = {
    .norm = norm,
    .rope = rope,
    .add = add,
    .mul = mul,
    .scale = scale,
    .softcap = softcap,
    .act = act,
    .glu = glu,
    .argmax = argmax,
};

const vec_kernels *vec_kernels_get(sobre_cpu_isa isa)
{
    switch (isa) {
    case SOBRE_CPU_SCALAR: return &vec_kernels_scalar;
#if defined(__x86_64__)
    case SOBRE_CPU_AVX2:
    case SOBRE_CPU_AVXVNNI: return &vec_kernels_avx2;
    case SOBRE_CPU_AVX512: return &vec_kernels_avx512;
#elif defined(__aarch64__)
    case SOBRE_CPU_DOTPROD:
    case SOBRE_CPU_I8MM: return &vec_kernels_neon;
#endif
    default: return NULL;
    }
}

void rope_frequencies(const sobre_rope_params *rope, double *ret_frequency)
{
    for (int32_t i = 0; i < rope->n_dims / 2; i++)
        ret_frequency[i] = rope->scale * pow(rope->base, -2.0 * i / rope->n_dims);
}

/* Angles reach thousands of turns, so they are computed in double and rounded once, at the end. */
void rope_table(sobre_rope_kind kind, int32_t n_dims, const double *frequency, const float *factors,
                int32_t pos, float *ret_table)
{
    float *cosine = ret_table, *sine = ret_table + n_dims;
    int32_t step = kind == SOBRE_ROPE_PAIRS ? 2 : 1;
    int32_t distance = kind == SOBRE_ROPE_PAIRS ? 1 : n_dims / 2;
    for (int32_t p = 0; p < n_dims / 2; p++) {
        double angle = pos * frequency[p];
        if (factors) angle /= factors[p];
        int32_t i = p * step, j = i + distance;
        cosine[i] = cosine[j] = (float)cos(angle);
        sine[j] = (float)sin(angle);
        sine[i] = -sine[j];
    }
}
