/* SPDX-License-Identifier: MIT */
/* The elementwise kernels in the vocabulary of vmath_*.h. The including file defines
 * vf_swap_pairs() and VEC_KERNELS, the table's name. Sums run in 16 lanes whatever the width of a
 * vector, and tails go through the same arithmetic, so every instruction set gives the same bits.
 */
#include <stdbool.h>
#include <string.h>

#include "vec.h"

enum { SUM_LANES = 16, SUM_VF = SUM_LANES / VF_N };

typedef struct vec_sum {
    vf lane[SUM_VF];
} vec_sum;

static inline float sum_lanes(const vec_sum *s)
{
    float a[SUM_LANES];
    for (int i = 0; i < SUM_VF; i++) vf_store(a + i * VF_N, s->lane[i]);
    for (int n = SUM_LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) a[i] += a[i + n];
    return a[0];
}

static inline int lanes_left(int64_t n, int64_t i)
{
    return n - i < VF_N ? (int)(n - i) : VF_N;
}

static inline vf load_upto(const float *from, int n)
{
    return n == VF_N ? vf_load(from) : vf_load_n(from, n);
}

static inline void store_upto(float *to, vf a, int n)
{
    if (n == VF_N) {
        vf_store(to, a);
    } else {
        vf_store_n(to, a, n);
    }
}

/* Sum of x, or of (x - mean)^2; lanes past the end add nothing. */
static inline float row_sum(const float *x, int64_t n, bool squares, float mean)
{
    vec_sum s;
    for (int v = 0; v < SUM_VF; v++) s.lane[v] = vf_zero();
    vf centre = vf_set1(mean);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        for (int v = 0; v < SUM_VF && i + v * VF_N < n; v++) {
            int left = lanes_left(n, i + v * VF_N);
            vf a = load_upto(x + i + v * VF_N, left);
            if (!squares) {
                s.lane[v] = vf_add(s.lane[v], a);
                continue;
            }
            vf d = vf_sub(a, centre);
            if (left < VF_N) { /* empty lanes would be -mean */
                float tail[VF_N] = {0};
                vf_store_n(tail, d, left);
                d = vf_load(tail);
            }
            s.lane[v] = vf_fma(d, d, s.lane[v]);
        }
    }
    return sum_lanes(&s);
}

static void norm(sobre_norm_params params, const float *x, const float *w, const float *b,
                 int64_t n, float *ret)
{
    float mean = 0.0f;
    if (params.kind == SOBRE_NORM_LAYER) mean = row_sum(x, n, false, 0.0f) / (float)n;
    float squares = row_sum(x, n, true, mean);
    vf inverse = vf_div(vf_set1(1.0f), vf_sqrt(vf_set1(squares / (float)n + params.eps)));
    vf centre = vf_set1(mean);
    for (int64_t i = 0; i < n; i += VF_N) {
        int left = lanes_left(n, i);
        vf y = vf_mul(vf_sub(load_upto(x + i, left), centre), inverse);
        if (w) y = vf_mul(y, load_upto(w + i, left));
        if (b) y = vf_add(y, load_upto(b + i, left));
        store_upto(ret + i, y, left);
    }
}

static inline vf rotate(vf x, vf partner, const float *cosine, const float *sine, int left)
{
    return vf_fma(partner, load_upto(sine, left), vf_mul(x, load_upto(cosine, left)));
}

static void rope(sobre_rope_kind kind, int32_t n_dims, const float *table, const float *x,
                 int32_t n_head, int32_t head_dim, float *ret)
{
    const float *cosine = table, *sine = table + n_dims;
    int32_t half = n_dims / 2;
    for (int32_t h = 0; h < n_head; h++, x += head_dim, ret += head_dim) {
        if (kind == SOBRE_ROPE_PAIRS) {
            for (int32_t i = 0; i < n_dims; i += VF_N) {
                int left = lanes_left(n_dims, i);
                vf a = load_upto(x + i, left);
                store_upto(ret + i, rotate(a, vf_swap_pairs(a), cosine + i, sine + i, left), left);
            }
        } else {
            for (int32_t i = 0, j = half; i < half; i += VF_N, j += VF_N) {
                int left = lanes_left(half, i);
                vf a = load_upto(x + i, left), b = load_upto(x + j, left);
                store_upto(ret + i, rotate(a, b, cosine + i, sine + i, left), left);
                store_upto(ret + j, rotate(b, a, cosine + j, sine + j, left), left);
            }
        }
        if (ret != x) memcpy(ret + n_dims, x + n_dims, (size_t)(head_dim - n_dims) * sizeof(float));
    }
}

/* ret[i] = expr of a = x[i] and b = y[i] */
#define VEC_MAP(expr)                                      \
    for (int64_t i = 0; i < n; i += VF_N) {                \
        int left = lanes_left(n, i);                       \
        vf a = load_upto(x + i, left);                     \
        vf b = y ? load_upto(y + i, left) : vf_set1(1.0f); \
        (void)b;                                           \
        store_upto(ret + i, expr, left);                   \
    }

static void add(const float *x, const float *y, int64_t n, float *ret)
{
    VEC_MAP(vf_add(a, b))
}

static void mul(const float *x, const float *y, int64_t n, float *ret)
{
    VEC_MAP(vf_mul(a, b))
}

static void scale(const float *x, float factor, int64_t n, float *ret)
{
    const float *y = NULL;
    VEC_MAP(vf_mul(a, vf_set1(factor)))
}

static void softcap(const float *x, float cap, int64_t n, float *ret)
{
    const float *y = NULL;
    VEC_MAP(vf_mul(vf_set1(cap), vf_tanh(vf_div(a, vf_set1(cap)))))
}

/* With y: times y. The maximum of (0, a) is a where a is NaN. */
static void glu(sobre_act act, const float *x, const float *y, int64_t n, float *ret)
{
    switch (act) {
    case SOBRE_ACT_SILU: VEC_MAP(vf_mul(vf_silu(a), b)) break;
    case SOBRE_ACT_GELU_TANH: VEC_MAP(vf_mul(vf_gelu_tanh(a), b)) break;
    case SOBRE_ACT_GELU_ERF: VEC_MAP(vf_mul(vf_gelu_erf(a), b)) break;
    case SOBRE_ACT_RELU: VEC_MAP(vf_mul(vf_max(vf_zero(), a), b)) break;
    case SOBRE_ACT_NONE: VEC_MAP(vf_mul(a, b)) break;
    }
}

static void act(sobre_act act, const float *x, int64_t n, float *ret)
{
    glu(act, x, NULL, n, ret);
}

static int32_t argmax(const float *x, int64_t n)
{
    /* The largest value first, then where it stands. */
    vf most = vf_set1(x[0]);
    int64_t i = 0;
    for (; i + VF_N <= n; i += VF_N) most = vf_max(vf_load(x + i), most);
    float lanes[VF_N], best;
    vf_store(lanes, most);
    best = lanes[0];
    for (int l = 1; l < VF_N; l++) best = lanes[l] > best ? lanes[l] : best;
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    for (i = 0; i < n; i++)
        if (x[i] == best) return (int32_t)i;
    return 0;
}

const vec_kernels VEC_KERNELS = {
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
