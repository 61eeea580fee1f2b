/* SPDX-License-Identifier: MIT */
/*
 * Int8 products with VNNI, for both widths of vectors: kernels of every kind. Beside the vocabulary
 * of vmath_*.h and the tile (mm_vf.h) the including file defines
 *     vnni_broadcast(from)         4 bytes in every lane
 *     vnni_dpbusd(sum, w, from)    sum + dot products of 4 unsigned bytes and the 4 signed ones
 *     vnni_madd16(a, b)            dot products of 2 signed words
 *     vnni_mul16, vnni_sub16       of words
 *     vnni_merge(a, mask, b)       a & mask | b
 *     vnni_table(from)             16 bytes in each part of 128 bits
 *     vnni_lookup(table, index)    bytes of a table
 *     vnni_load_i8(from)           bytes as dwords
 *
 * A panel's weights are widened to bytes a few blocks at a time, for all tokens. Per token and
 * block there remain 8 dot products, a conversion, a multiplication and a fused one, and 1 to 5
 * more where there are minima or codes.
 */
#ifndef SOBRE_MM_VNNI_H
#define SOBRE_MM_VNNI_H

static inline vi vnni_bytes(int value)
{
    return vi_set1((int32_t)(0x01010101u * (uint8_t)value));
}

static inline vi vnni_words(int value)
{
    return vi_set1((int32_t)(0x00010001u * (uint16_t)value));
}

/* Shifted right, or left by -n. The instructions hold their n, which unrolled loops make constants,
 * but not in every build. */
static inline MM_INLINED vi vnni_shift(vi a, int n)
{
    switch (n) {
    case -4: return vi_sll(a, 4);
    case -3: return vi_sll(a, 3);
    case -2: return vi_sll(a, 2);
    case -1: return vi_sll(a, 1);
    case 1: return vi_srl(a, 1);
    case 2: return vi_srl(a, 2);
    case 3: return vi_srl(a, 3);
    case 4: return vi_srl(a, 4);
    case 5: return vi_srl(a, 5);
    case 6: return vi_srl(a, 6);
    default: return a;
    }
}

/* Two numbers of a lane as its words. */
static inline vi vnni_pair(vi low, vi high)
{
    return vnni_merge(low, vi_set1(0xffff), vi_sll(high, 16));
}

/* What all tokens share of a block, or of 8 rows of one. */
typedef struct vnni_block {
    vi w[MM_STEPS]; /* unsigned */
    vf d, m, code[2];
    vi sums_by, minima; /* words, for a block's two sums of activations */
} vnni_block;

/* What is left of a kind once it is widened. */
typedef struct vnni_form {
    int bias;   /* 0, or which of a block's offsets undoes it */
    bool coded; /* the sums of groups have factors */
    bool pairs; /* two groups; sums_by undoes their bias */
    bool has_min, coded_min;
} vnni_form;

/* Where weights have few bits, they are multiplied with their codes, and need no more than one sum
 * of the whole block. */
static inline MM_INLINED bool vnni_folds(const mm_kind_info *kind)
{
    return kind->codes && kind->group < MM_BLOCK && kind->largest < 8;
}

static inline MM_INLINED vnni_form vnni_form_of(const mm_kind_info *kind)
{
    const bool coded = kind->codes && !vnni_folds(kind);
    const bool pairs = coded && kind->group < MM_BLOCK;
    return (vnni_form){.bias = pairs ? 0 : kind->bias,
                       .coded = coded,
                       .pairs = pairs,
                       .has_min = kind->has_min,
                       .coded_min = kind->has_min && kind->codes};
}

/* Weights of a step as they are stored. */
static inline MM_INLINED vi vnni_weights(const mm_kind_info *kind, const uint8_t *unit,
                                         const int block, const int step, const int row)
{
    enum { WORD = 4 * MM_PANEL };
    const uint8_t *low = unit + kind->low_at + block * kind->low * WORD + 4 * row;
    const uint8_t *high = unit + kind->high_at + block * kind->high * WORD + 4 * row;
    const vi mask = vnni_bytes((1 << kind->low) - 1);
    vi w = vi_load(low + step % kind->low * WORD);
    if (kind->low == 8) return w;
    w = vnni_shift(w, step / kind->low * kind->low);
    if (kind->high == 0) {
        w = vi_and(w, mask);
    } else {
        const int up = kind->low - step / kind->high * kind->high;
        const int bits = ((1 << kind->high) - 1) << kind->low;
        const vi more = vnni_shift(vi_load(high + step % kind->high * WORD), -up);
        w = vnni_merge(w, mask, vi_and(more, vnni_bytes(bits)));
    }
    return kind->levels ? vnni_lookup(vnni_table(kind->levels), w) : w;
}

/* Weights times codes: u * code, or with a bias 128 - (u - bias) * code. As words of two bytes,
 * whose products fit into bytes, so that nothing is carried. */
typedef struct vnni_fold {
    vi code, first;
} vnni_fold;

static inline MM_INLINED vnni_fold vnni_fold_load(const mm_kind_info *kind, const uint8_t *codes)
{
    vi code = vnni_load_i8(codes);
    if (kind->codes == MM_CODES_MIN_HALF) code = vi_and(code, vi_set1(15));
    code = vnni_pair(code, code);
    const vi first = vnni_sub16(vnni_mul16(code, vnni_words(kind->bias)), vnni_words(-128));
    return (vnni_fold){code, vnni_mul16(first, vnni_words(0x101))};
}

static inline MM_INLINED vi vnni_fold_apply(const mm_kind_info *kind, vnni_fold fold, vi w)
{
    w = vnni_mul16(w, fold.code);
    return kind->bias ? vnni_sub16(fold.first, w) : w;
}

/* Words that make the sum over a block's groups of byte * sum of activations. */
static inline MM_INLINED vi vnni_group_words(const mm_kind_info *kind, const uint8_t *bytes)
{
    const vi a = vnni_load_i8(bytes);
    return vnni_pair(a, kind->group == MM_BLOCK ? a : vnni_load_i8(bytes + MM_PANEL));
}

/* Rows from `row` on of block `block` of a unit, with the bias of `form`. */
static inline MM_INLINED void vnni_widen(const mm_kind_info *kind, const vnni_form form,
                                         const uint8_t *unit, const int block, const int row,
                                         vnni_block *ret)
{
    const int n_groups = MM_BLOCK / kind->group, n_steps = kind->group / 4;
    const int at = block * n_groups * MM_PANEL + row;
    const uint8_t *codes = unit + kind->codes_at + at, *minima = unit + kind->minima_at + at;
    const uint8_t *scales = unit + ((kind->codes ? 0 : block) * MM_PANEL + row) * 2;
    const bool folds = vnni_folds(kind);
    MM_UNROLL(2)
    for (int g = 0; g < n_groups; g++) {
        vnni_fold fold;
        if (folds) fold = vnni_fold_load(kind, codes + g * MM_PANEL);
        if (form.coded) ret->code[g] = vf_from_vi(vnni_load_i8(codes + g * MM_PANEL));
        MM_UNROLL(8)
        for (int s = g * n_steps; s < (g + 1) * n_steps; s++) {
            vi w = vnni_weights(kind, unit, block, s, row);
            if (folds) w = vnni_fold_apply(kind, fold, w);
            if (!folds && form.bias > kind->bias) {
                w = vi_add(w, vnni_bytes(form.bias - kind->bias));
            }
            ret->w[s] = w;
        }
    }
    if (form.pairs) {
        ret->sums_by = vnni_mul16(vnni_group_words(kind, codes), vnni_words(-kind->bias));
    }
    ret->d = kind->wide_scale ? vf_load_bf16((const uint16_t *)scales)
                              : vf_load_f16((const uint16_t *)scales);
    if (folds && kind->bias > 0) ret->d = vf_sub(vf_zero(), ret->d);
    if (!form.has_min) return;
    ret->m = vf_load_f16((const uint16_t *)(scales + kind->m_at));
    if (!form.coded_min) return;
    ret->minima = vnni_group_words(kind, minima);
    if (kind->codes == MM_CODES_MIN_HALF) {
        ret->minima = vi_and(vi_srl(ret->minima, 4), vnni_words(15));
    }
}

/* acc += a block times n tokens; x is theirs from that block on. */
static inline MM_INLINED void vnni_multiply(const vnni_form form, const int n, const vnni_block *b,
                                            const mm_act_block *x, int64_t x_stride, vf *acc)
{
    const int n_groups = form.pairs ? 2 : 1, n_steps = MM_STEPS / n_groups;
    vi dot[MM_TILE];
    vf value[MM_TILE];
    MM_UNROLL(2)
    for (int g = 0; g < n_groups; g++) {
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const mm_act_block *xt = &x[t * x_stride];
            dot[t] = form.bias == 0    ? vi_set1(0)
                     : form.bias == 8  ? vnni_broadcast(&xt->offset_8)
                     : form.bias == 16 ? vnni_broadcast(&xt->offset_16)
                                       : vnni_broadcast(&xt->offset_128);
        }
        MM_UNROLL(8)
        for (int s = g * n_steps; s < (g + 1) * n_steps; s++) {
            MM_UNROLL(8)
            for (int t = 0; t < n; t++) {
                dot[t] = vnni_dpbusd(dot[t], b->w[s], x[t * x_stride].q + 4 * s);
            }
        }
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const vf part = vf_from_vi(dot[t]);
            if (!form.coded) {
                value[t] = part;
                continue;
            }
            /* Exact: all are integers below 2^24. */
            if (g == 0 && form.pairs) {
                const vi sums = vnni_broadcast(x[t * x_stride].halves);
                value[t] = vf_from_vi(vnni_madd16(b->sums_by, sums));
            }
            value[t] = form.pairs ? vf_fma(b->code[g], part, value[t]) : vf_mul(b->code[0], part);
        }
    }
    MM_UNROLL(8)
    for (int t = 0; t < n; t++) {
        const mm_act_block *xt = &x[t * x_stride];
        const vf dx = vf_set1(xt->d);
        acc[t] = vf_fma(vf_mul(b->d, dx), value[t], acc[t]);
        if (form.coded_min) {
            const vi sum = vnni_madd16(b->minima, vnni_broadcast(xt->halves));
            acc[t] = vf_fma(vf_mul(b->m, dx), vf_from_vi(sum), acc[t]);
        } else if (form.has_min) {
            acc[t] = vf_fma(b->m, vf_set1(xt->scaled_sum), acc[t]);
        }
    }
}

enum { VNNI_VECTORS = MM_PANEL / VF_N, VNNI_CHUNK = 16 /* blocks that the first cache holds */ };

/* acc [n][16] += n_blocks times n tokens. */
static inline MM_INLINED void vnni_tile(const vnni_form form, const int n, const vnni_block *b,
                                        int64_t n_blocks, const mm_act_block *x, int64_t x_stride,
                                        float *acc)
{
    for (int v = 0; v < VNNI_VECTORS; v++) {
        vf sum[MM_TILE];
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) sum[t] = vf_load(acc + t * MM_PANEL + v * VF_N);
        for (int64_t i = 0; i < n_blocks; i++) {
            vnni_multiply(form, n, &b[i * VNNI_VECTORS + v], x + i, x_stride, sum);
        }
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) vf_store(acc + t * MM_PANEL + v * VF_N, sum[t]);
    }
}

typedef void vnni_tile_fn(const vnni_block *b, int64_t n_blocks, const mm_act_block *x,
                          int64_t x_stride, int32_t n_tokens, float *acc);

/* name, bias, coded, pairs, has_min, coded_min */
#define VNNI_FORMS(X)                             \
    X(plain, 128, false, false, false, false)     \
    X(minima, 0, false, false, true, false)       \
    X(codes, 128, true, false, false, false)      \
    X(codes_minima, 0, true, false, true, true)   \
    X(folded_minima, 0, false, false, true, true) \
    X(pairs, 0, true, true, false, false)

#define TILE_CASE(n)                                       \
    case n:                                                \
        vnni_tile(form, n, b, n_blocks, x, x_stride, acc); \
        return;
#define X(name, ...)                                                                      \
    static void tile_##name(const vnni_block *b, int64_t n_blocks, const mm_act_block *x, \
                            int64_t x_stride, int32_t n_tokens, float *acc)               \
    {                                                                                     \
        const vnni_form form = {__VA_ARGS__};                                             \
        switch (n_tokens) {                                                               \
            MM_TILE_SIZES(TILE_CASE)                                                      \
        }                                                                                 \
    }
VNNI_FORMS(X)
#undef X
#undef TILE_CASE
#undef VNNI_FORMS

static inline MM_INLINED vnni_tile_fn *vnni_tile_of(const vnni_form form)
{
    if (form.pairs) return tile_pairs;
    if (form.coded) return form.has_min ? tile_codes_minima : tile_codes;
    if (form.coded_min) return tile_folded_minima;
    return form.has_min ? tile_minima : tile_plain;
}

/* Panels lie one behind the other: one stream, fetched further ahead than processors do by
 * themselves, and on into the panels that come next. */
static inline MM_INLINED void vnni_fetch(const mm_kind_info *kind, const uint8_t *panel,
                                         int64_t block)
{
    enum { LINE = 64, AHEAD = 20 * LINE };
    const int size = kind->unit_size * MM_BLOCK / kind->unit;
    for (int at = 0; at < size; at += LINE) __builtin_prefetch(panel + block * size + AHEAD + at);
}

static inline MM_INLINED void vnni_widen_rows(const mm_kind_info *kind, const uint8_t *panel,
                                              int64_t block, vnni_block *ret)
{
    const int per_unit = kind->unit / MM_BLOCK;
    const uint8_t *unit = panel + block / per_unit * kind->unit_size;
    vnni_form form = vnni_form_of(kind);
    if (form.bias > 0) form.bias = 128; /* as tile_*() have it */
    MM_UNROLL(2)
    for (int v = 0; v < VNNI_VECTORS; v++) {
        vnni_widen(kind, form, unit, (int)(block % per_unit), v * VF_N, &ret[v]);
    }
}

/* A panel times n_tokens: blocks are widened a chunk at a time, then used for all tiles. */
static inline MM_INLINED void vnni_tokens(const mm_kind_info *kind, const uint8_t *panel,
                                          int64_t n_units, const mm_act_block *x, int64_t x_stride,
                                          int32_t n_tokens, const mm_fine_tile *fine, float *ret)
{
    enum { FOURS = (1 << MM_TILE / 4) - 1 };
    vnni_block wide[VNNI_CHUNK * VNNI_VECTORS];
    vnni_tile_fn *const tile = vnni_tile_of(vnni_form_of(kind));
    const int64_t n_blocks = n_units * (kind->unit / MM_BLOCK);
    memset(ret, 0, (size_t)n_tokens * MM_PANEL * sizeof(float));
    for (int64_t b = 0; b < n_blocks + fine->n;) {
        /* All blocks, then refined ones one by one, for those tiles that have them. */
        const bool refined = b >= n_blocks;
        const int64_t left = refined ? 1 : n_blocks - b, n = left < VNNI_CHUNK ? left : VNNI_CHUNK;
        const int64_t first = refined ? fine->block[b - n_blocks] : b;
        const int fours = refined ? fine->fours[b - n_blocks] : -1;
        const mm_act_block *xb = (refined ? fine->rest : x) + first;
        for (int64_t i = 0; i < n; i++) {
            vnni_fetch(kind, panel, first + i);
            vnni_widen_rows(kind, panel, first + i, &wide[i * VNNI_VECTORS]);
        }
        for (int32_t t = 0; t < n_tokens; t += MM_TILE, xb += MM_TILE * x_stride) {
            const int32_t n_tile = n_tokens - t < MM_TILE ? n_tokens - t : MM_TILE;
            if (!(fours >> t / 4 & FOURS)) continue;
            tile(wide, n, xb, x_stride, n_tile, ret + t * MM_PANEL);
        }
        b += n;
    }
}

/* One token and neighbouring panels, whose weights stay in registers. */
static inline MM_INLINED void vnni_stream(const mm_kind_info *kind, const uint8_t *panels,
                                          int32_t n_panels, int64_t n_units, const mm_act_block *x,
                                          const mm_fine_tile *fine, float *ret, int64_t ret_stride)
{
    const int per_unit = kind->unit / MM_BLOCK;
    const int64_t n_blocks = n_units * per_unit;
    vnni_form form = vnni_form_of(kind);
    if (form.bias > 0 && form.bias != 8 && form.bias != 16) form.bias = 128; /* offsets there are */
    for (int32_t p = 0; p < n_panels; p++, panels += n_units * kind->unit_size, ret += ret_stride) {
        vf acc[VNNI_VECTORS];
        for (int v = 0; v < VNNI_VECTORS; v++) acc[v] = vf_zero();
        for (int64_t i = 0; i < n_blocks + fine->n; i++) {
            const int64_t b = i < n_blocks ? i : fine->block[i - n_blocks];
            const mm_act_block *xb = (i < n_blocks ? x : fine->rest) + b;
            const uint8_t *unit = panels + b / per_unit * kind->unit_size;
            const int block = (int)(b % per_unit);
            vnni_fetch(kind, panels, b);
            MM_UNROLL(2)
            for (int v = 0; v < VNNI_VECTORS; v++) {
                vnni_block wide;
                vnni_widen(kind, form, unit, block, v * VF_N, &wide);
                vnni_multiply(form, 1, &wide, xb, 0, &acc[v]);
            }
        }
        for (int v = 0; v < VNNI_VECTORS; v++) vf_store(ret + v * VF_N, acc[v]);
    }
}

#define X(id, name)                                                                                \
    static void q8_##name(const uint8_t *panel, int64_t n_units, const mm_act_block *x,            \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,            \
                          float *ret)                                                              \
    {                                                                                              \
        vnni_tokens(&mm_kinds[MM_KIND_##id], panel, n_units, x, x_stride, n_tokens, fine, ret);    \
    }                                                                                              \
    static void q8_stream_##name(const uint8_t *panels, int32_t n_panels, int64_t n_units,         \
                                 const mm_act_block *x, const mm_fine_tile *fine, float *ret,      \
                                 int64_t ret_stride)                                               \
    {                                                                                              \
        vnni_stream(&mm_kinds[MM_KIND_##id], panels, n_panels, n_units, x, fine, ret, ret_stride); \
    }
MM_QUANT_KINDS(X)
#undef X

#endif
