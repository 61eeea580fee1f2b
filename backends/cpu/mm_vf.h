/* SPDX-License-Identifier: MIT */
/*
 * The parts of products that vector instruction sets share, in the vocabulary of vmath_*.h:
 * decoding, the f32 product, preparing activations, finishing tiles, and the table. The including
 * file defines MM_ISA, MM_ISA_KERNELS    the instruction set and the name of its table MM_TILE
 * tokens in a tile MM_TILE_SIZES(X)          X(1) ... X(MM_TILE) group_dots()              a
 * group's part of an int8 product, for one panel and n tokens vi_largest(vi)            the largest
 * lane store_block(q, to, halves)  32 integers within -128 .. 127 as bytes, and the sums of 16 each
 */

enum { ROW_VECTORS = MM_PANEL / VF_N, BLOCK_VECTORS = MM_BLOCK / VF_N };

/* --- Decoding */

static void decode_f16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    const uint16_t *from = (const uint16_t *)panel + col * MM_PANEL;
    for (int32_t i = 0; i < n_cols * MM_PANEL; i += VF_N) {
        vf_store(ret + i, vf_load_f16(from + i));
    }
}

static void decode_bf16(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret)
{
    const uint16_t *from = (const uint16_t *)panel + col * MM_PANEL;
    for (int32_t i = 0; i < n_cols * MM_PANEL; i += VF_N) {
        vf_store(ret + i, vf_load_bf16(from + i));
    }
}

/* --- Products */

/* One block's part, with activations from the row's block 0 on. */
static inline MM_INLINED void block_dots(const mm_kind_info *kind, const int n,
                                         const uint8_t *panel, int32_t block, const mm_act_block *x,
                                         int64_t x_stride, vf (*acc)[ROW_VECTORS])
{
    const int n_groups = MM_BLOCK / kind->group;
    const uint8_t *unit = panel + block / 2 * kind->unit_size;
    MM_UNROLL(2)
    for (int g = 0; g < n_groups; g++) {
        group_dots(kind, n, unit, block % 2 * n_groups + g, x + block / 2 * 2, x_stride, acc);
    }
}

static inline MM_INLINED void q8_tile(const mm_kind kind_id, const int n, const uint8_t *panel,
                                      int64_t n_units, const mm_act_block *x, int64_t x_stride,
                                      const mm_fine_tile *fine, float *ret)
{
    const mm_kind_info *kind = &mm_kinds[kind_id];
    vf acc[MM_TILE][ROW_VECTORS];
    for (int t = 0; t < n; t++) {
        for (int v = 0; v < ROW_VECTORS; v++) acc[t][v] = vf_zero();
    }
    for (int64_t u = 0; u < n_units; u++, x += 2) {
        const uint8_t *unit = panel + u * kind->unit_size;
        MM_UNROLL(4)
        for (int g = 0; g < MM_UNIT / kind->group; g++) {
            group_dots(kind, n, unit, g, x, x_stride, acc);
        }
    }
    for (int32_t i = 0; i < fine->n; i++) {
        block_dots(kind, n, panel, fine->block[i], fine->rest, x_stride, acc);
    }
    for (int t = 0; t < n; t++) {
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(ret + t * MM_PANEL + v * VF_N, acc[t][v]);
    }
}

/* One token and panels that lie one behind the other. Memory is read as one stream, further ahead
 * than processors fetch by themselves, and on into the panels that come next. */
static inline MM_INLINED void q8_panels(const mm_kind kind_id, const uint8_t *const *panels,
                                        int64_t n_units, const mm_act_block *x,
                                        const mm_fine_tile *fine, float *ret, int64_t ret_stride)
{
    enum { LINE = 64, AHEAD = 20 * LINE };
    const mm_kind_info *kind = &mm_kinds[kind_id];
    const int n_groups = MM_UNIT / kind->group;
    for (int p = 0; p < MM_STREAM_PANELS; p++, ret += ret_stride) {
        const uint8_t *unit = panels[p];
        vf acc[1][ROW_VECTORS];
        for (int v = 0; v < ROW_VECTORS; v++) acc[0][v] = vf_zero();
        for (int64_t u = 0; u < n_units; u++, unit += kind->unit_size) {
            MM_UNROLL(4)
            for (int g = 0; g < n_groups; g++) {
                const int begin = kind->unit_size * g / n_groups / LINE * LINE;
                const int end = kind->unit_size * (g + 1) / n_groups / LINE * LINE;
                for (int at = begin; at < end; at += LINE) __builtin_prefetch(unit + AHEAD + at);
                group_dots(kind, 1, unit, g, x + 2 * u, 0, acc);
            }
        }
        for (int32_t i = 0; i < fine->n; i++) {
            block_dots(kind, 1, panels[p], fine->block[i], fine->rest, 0, acc);
        }
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(ret + v * VF_N, acc[0][v]);
    }
}

#define Q8_CASE(n)                                                \
    case n:                                                       \
        q8_tile(kind, n, panel, n_units, x, x_stride, fine, ret); \
        return;
#define Q8(NAME, KIND)                                                                        \
    static void q8_##NAME(const uint8_t *panel, int64_t n_units, const mm_act_block *x,       \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,       \
                          float *ret)                                                         \
    {                                                                                         \
        const mm_kind kind = KIND;                                                            \
        switch (n_tokens) {                                                                   \
            MM_TILE_SIZES(Q8_CASE)                                                            \
        }                                                                                     \
    }                                                                                         \
    static void q8_stream_##NAME(const uint8_t *const *panels, int64_t n_units,               \
                                 const mm_act_block *x, const mm_fine_tile *fine, float *ret, \
                                 int64_t ret_stride)                                          \
    {                                                                                         \
        q8_panels(KIND, panels, n_units, x, fine, ret, ret_stride);                           \
    }
Q8(q4_0, MM_KIND_Q4_0)
Q8(q4_1, MM_KIND_Q4_1)
Q8(q8_0, MM_KIND_Q8_0)
#undef Q8
#undef Q8_CASE

/* acc [n_tokens][16] += w times x for n tokens of one panel. */
static inline MM_INLINED void f32_tile(const int n, const float *w, int32_t k, const float *x,
                                       int64_t x_stride, float *acc)
{
    vf sum[MM_TILE][ROW_VECTORS];
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        MM_UNROLL(2)
        for (int v = 0; v < ROW_VECTORS; v++) sum[t][v] = vf_load(acc + t * MM_PANEL + v * VF_N);
    }
    for (int32_t i = 0; i < k; i++, w += MM_PANEL) {
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const vf xt = vf_set1(x[t * x_stride + i]);
            MM_UNROLL(2)
            for (int v = 0; v < ROW_VECTORS; v++) {
                sum[t][v] = vf_fma(vf_load(w + v * VF_N), xt, sum[t][v]);
            }
        }
    }
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        MM_UNROLL(2)
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(acc + t * MM_PANEL + v * VF_N, sum[t][v]);
    }
}

#define F32_CASE(n) \
    case n: f32_tile(n, w, k, x, x_stride, acc); return;
static void f32_tokens(const float *w, int32_t k, const float *x, int64_t x_stride,
                       int32_t n_tokens, float *acc)
{
    switch (n_tokens) {
        MM_TILE_SIZES(F32_CASE)
    }
}
#undef F32_CASE

static inline MM_INLINED vf load_weights(const mm_kind kind, const uint8_t *panel, int64_t at)
{
    switch (kind) {
    case MM_KIND_F16: return vf_load_f16((const uint16_t *)panel + at);
    case MM_KIND_BF16: return vf_load_bf16((const uint16_t *)panel + at);
    default: return vf_load((const float *)panel + at);
    }
}

/* The same for one token and several panels: enough chains to hide the latency of each. */
static inline MM_INLINED void f32_panels(const mm_kind kind, const uint8_t *const *panels,
                                         int64_t k, const float *x, float *acc, int64_t acc_stride)
{
    vf sum[MM_STREAM_PANELS][ROW_VECTORS];
    MM_UNROLL(4)
    for (int p = 0; p < MM_STREAM_PANELS; p++) {
        MM_UNROLL(2)
        for (int v = 0; v < ROW_VECTORS; v++) sum[p][v] = vf_load(acc + p * acc_stride + v * VF_N);
    }
    for (int64_t i = 0; i < k; i++) {
        const vf xi = vf_set1(x[i]);
        MM_UNROLL(4)
        for (int p = 0; p < MM_STREAM_PANELS; p++) {
            MM_UNROLL(2)
            for (int v = 0; v < ROW_VECTORS; v++) {
                vf w = load_weights(kind, panels[p], i * MM_PANEL + v * VF_N);
                sum[p][v] = vf_fma(w, xi, sum[p][v]);
            }
        }
    }
    MM_UNROLL(4)
    for (int p = 0; p < MM_STREAM_PANELS; p++) {
        MM_UNROLL(2)
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(acc + p * acc_stride + v * VF_N, sum[p][v]);
    }
}

#define STREAM(NAME, KIND)                                                                 \
    static void f32_stream_##NAME(const uint8_t *const *panels, int64_t k, const float *x, \
                                  float *acc, int64_t acc_stride)                          \
    {                                                                                      \
        f32_panels(KIND, panels, k, x, acc, acc_stride);                                   \
    }
STREAM(f16, MM_KIND_F16)
STREAM(bf16, MM_KIND_BF16)
STREAM(f32, MM_KIND_F32)
#undef STREAM

/* --- Preparing activations */

/* Sums in the order of every instruction set: 16 lanes, then halved. */
static float fold(const vf *lanes)
{
    float sum[MM_PANEL];
    for (int v = 0; v < ROW_VECTORS; v++) vf_store(sum + v * VF_N, lanes[v]);
    for (int n = MM_PANEL / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) sum[i] += sum[i + n];
    }
    return sum[0];
}

/* Lanes of a vector that starts `left` elements before the end. */
static inline int lanes_left(int64_t left)
{
    return left <= 0 ? 0 : left < VF_N ? (int)left : VF_N;
}

typedef struct norm {
    sobre_norm_kind kind;
    vf mean, scale;
} norm;

static norm norm_of(const sobre_norm_params *params, const float *x, int64_t k)
{
    norm n = {params->kind, vf_zero(), vf_set1(1.0f)};
    vf sum[ROW_VECTORS];
    if (n.kind == SOBRE_NORM_NONE) return n;
    if (n.kind == SOBRE_NORM_LAYER) {
        for (int v = 0; v < ROW_VECTORS; v++) sum[v] = vf_zero();
        for (int64_t i = 0; i < k; i += MM_PANEL) {
            for (int v = 0; v < ROW_VECTORS; v++) {
                int64_t at = i + v * VF_N;
                if (at < k) sum[v] = vf_add(sum[v], vf_load_n(x + at, lanes_left(k - at)));
            }
        }
        n.mean = vf_set1(fold(sum) / (float)k);
    }
    for (int v = 0; v < ROW_VECTORS; v++) sum[v] = vf_zero();
    for (int64_t i = 0; i < k; i += MM_PANEL) {
        for (int v = 0; v < ROW_VECTORS; v++) {
            int64_t at = i + v * VF_N;
            if (at >= k) continue;
            vf c = vf_sub(at + VF_N <= k ? vf_load(x + at) : vf_load_n(x + at, lanes_left(k - at)),
                          n.mean);
            if (at + VF_N > k) {
                float kept[VF_N];
                vf_store(kept, c);
                c = vf_load_n(kept, lanes_left(k - at));
            }
            sum[v] = vf_fma(c, c, sum[v]);
        }
    }
    n.scale = vf_set1(1.0f / sqrtf(fold(sum) / (float)k + params->eps));
    return n;
}

/* A vector of a normalised row; zeros beyond its end. */
static inline vf normalised(const mm_prologue *prologue, const norm *n, const float *x, int64_t at,
                            int64_t k)
{
    const float *weight = prologue->weight, *bias = prologue->bias;
    const int left = lanes_left(k - at);
    if (left == 0) return vf_zero();
    vf y = left == VF_N ? vf_load(x + at) : vf_load_n(x + at, left);
    if (n->kind == SOBRE_NORM_NONE) return y;
    y = vf_mul(vf_sub(y, n->mean), n->scale);
    if (left == VF_N) {
        if (weight) y = vf_mul(y, vf_load(weight + at));
        if (bias) y = vf_add(y, vf_load(bias + at));
        return y;
    }
    if (weight) y = vf_mul(y, vf_load_n(weight + at, left));
    if (bias) y = vf_add(y, vf_load_n(bias + at, left));
    float kept[VF_N];
    vf_store(kept, y);
    return vf_load_n(kept, left);
}

static void prepare_f32(const mm_prologue *prologue, const float *x, int64_t k, float *ret)
{
    norm n = norm_of(&prologue->norm, x, k);
    for (int64_t at = 0; at < mm_act_floats(k); at += VF_N) {
        vf_store(ret + at, normalised(prologue, &n, x, at, k));
    }
}

static inline void quantise(const vf *y, mm_act_block *ret)
{
    /* Compared as integers, so that NaN wins and spoils d. */
    const vi magnitude = vi_set1(0x7fffffff);
    vi most = vi_and(vi_bits_of(y[0]), magnitude);
    for (int v = 1; v < BLOCK_VECTORS; v++) {
        most = vi_max(most, vi_and(vi_bits_of(y[v]), magnitude));
    }
    const int32_t bits = vi_largest(most);
    float largest;
    memcpy(&largest, &bits, sizeof(largest));
    memset(ret, 0, sizeof(*ret));
    if (largest < MM_ACT_TINY) return;
    ret->d = largest / 127.0f;
    if (!isfinite(largest)) return;

    const vf inverse = vf_set1(127.0f / largest);
    vi q[BLOCK_VECTORS];
    for (int v = 0; v < BLOCK_VECTORS; v++) q[v] = vi_from_vf(vf_mul(y[v], inverse));
    int32_t halves[2];
    store_block(q, ret->q, halves);
    mm_act_sums(ret, halves[0], halves[1]);
}

static void normalised_block(const mm_prologue *prologue, const norm *n, const float *x, int64_t k,
                             int64_t b, vf *ret)
{
    for (int v = 0; v < BLOCK_VECTORS; v++) {
        ret[v] = normalised(prologue, n, x, b * MM_BLOCK + v * VF_N, k);
    }
}

static void prepare_q8(const mm_prologue *prologue, const float *x, int64_t k, mm_act_block *ret,
                       mm_act_block *rest)
{
    vf y[BLOCK_VECTORS];
    norm n = norm_of(&prologue->norm, x, k);
    const int64_t n_blocks = mm_act_main(k);
    mm_act_fine *fine = (mm_act_fine *)&ret[n_blocks];
    for (int64_t b = 0; b < n_blocks; b++) {
        normalised_block(prologue, &n, x, k, b, y);
        quantise(y, &ret[b]);
    }
    mm_act_choose(ret, n_blocks, fine);
    memset(rest, 0, (size_t)n_blocks * sizeof(*rest));
    for (int32_t f = 0; f < fine->n; f++) {
        const int32_t b = fine->block[f];
        const vf step = vf_set1(-ret[b].d);
        normalised_block(prologue, &n, x, k, b, y);
        for (int v = 0; v < BLOCK_VECTORS; v++) {
            int32_t q[VF_N];
            for (int i = 0; i < VF_N; i++) q[i] = ret[b].q[v * VF_N + i];
            y[v] = vf_fma(step, vf_from_vi(vi_load((const uint8_t *)q)), y[v]);
        }
        quantise(y, &rest[b]);
    }
}

/* --- Finishing tiles */

static inline vf activate(sobre_act act, vf x)
{
    switch (act) {
    case SOBRE_ACT_SILU: return vf_silu(x);
    case SOBRE_ACT_GELU_TANH: return vf_gelu_tanh(x);
    case SOBRE_ACT_GELU_ERF: return vf_gelu_erf(x);
    case SOBRE_ACT_RELU: return vf_max(vf_zero(), x); /* keeps NaN */
    default: return x;
    }
}

/* One vector of rows of every token; `n` of its lanes exist. */
static inline void finish_rows(const mm_finish *f, const float *a, const float *b, int row, int n)
{
    const bool glu = f->glu != SOBRE_ACT_NONE;
    const vf bias_a = f->bias[0] ? vf_load_n(f->bias[0] + row, n) : vf_zero();
    const vf bias_b = glu && f->bias[1] ? vf_load_n(f->bias[1] + row, n) : vf_zero();
    for (int32_t t = 0; t < f->n_tokens; t++) {
        const int64_t at = t * f->out_stride + row;
        vf y = vf_load(a + t * MM_PANEL + row);
        if (f->bias[0]) y = vf_add(y, bias_a);
        if (glu) {
            vf up = vf_load(b + t * MM_PANEL + row);
            if (f->bias[1]) up = vf_add(up, bias_b);
            y = vf_mul(activate(f->glu, y), up);
        }
        if (n == VF_N) {
            if (f->residual) y = vf_add(y, vf_load(f->residual + at));
            vf_store(f->out + at, y);
        } else {
            if (f->residual) y = vf_add(y, vf_load_n(f->residual + at, n));
            vf_store_n(f->out + at, y, n);
        }
    }
}

static void finish(const mm_finish *f, const float *a, const float *b)
{
    for (int row = 0; row < f->n_rows; row += VF_N) {
        finish_rows(f, a, b, row, lanes_left(f->n_rows - row));
    }
}

const mm_kernels MM_ISA_KERNELS = {
    .isa = MM_ISA,
    .tile = MM_TILE,
    .q8 = {[MM_KIND_Q4_0] = q8_q4_0, [MM_KIND_Q4_1] = q8_q4_1, [MM_KIND_Q8_0] = q8_q8_0},
    .q8_stream = {[MM_KIND_Q4_0] = q8_stream_q4_0,
                  [MM_KIND_Q4_1] = q8_stream_q4_1,
                  [MM_KIND_Q8_0] = q8_stream_q8_0},
    .decode = {[MM_KIND_F16] = decode_f16, [MM_KIND_BF16] = decode_bf16},
    .f32_tokens = f32_tokens,
    .f32_stream = {[MM_KIND_F16] = f32_stream_f16,
                   [MM_KIND_BF16] = f32_stream_bf16,
                   [MM_KIND_F32] = f32_stream_f32},
    .prepare_q8 = prepare_q8,
    .prepare_f32 = prepare_f32,
    .finish = finish,
};
