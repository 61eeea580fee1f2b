/* SPDX-License-Identifier: MIT */
/*
 * A block's part of int8 products with VNNI, for both widths of vectors. Beside the vocabulary of
 * vmath_*.h the including file defines MM_TILE and
 *     vnni_dpbusd(sum, w, x)       sum + the dot products of 4 unsigned and 4 signed bytes
 *     vnni_dpwssd(sum, a, b)       sum + the dot products of 2 signed words
 *     vnni_mul16, vnni_sub16       of words
 *     vnni_merge(a, mask, b)       a & mask | b
 *     vnni_table(from)             16 bytes in each part of 128 bits
 *     vnni_lookup(table, index)    bytes of a table
 *     vnni_load_i8(from)           bytes as dwords
 *
 * What is done to weights is done once for all tokens of a tile. Per token there remain 8 dot
 * products, a conversion, a multiplication and a fused one; more where there are minima and codes.
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

static inline vi vnni_broadcast(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return vi_set1(v);
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

/* Where weights have few bits, they are multiplied with their codes, and need no more than a dot
 * product of the whole block. */
static inline bool vnni_folds(const mm_kind_info *kind)
{
    return kind->codes && kind->group < MM_BLOCK && kind->largest < 8;
}

/* Weights of a step, unsigned. Offsets of activations undo a bias of 8, 16 or 128; of others, that
 * of whole blocks becomes 128 here. */
static inline MM_INLINED vi vnni_weights(const mm_kind_info *kind, const uint8_t *unit,
                                         const int block, const int step, const int row)
{
    enum { WORD = 4 * MM_PANEL };
    const uint8_t *low = unit + kind->low_at + block * kind->low * WORD + 4 * row;
    const uint8_t *high = unit + kind->high_at + block * kind->high * WORD + 4 * row;
    vi w = vi_load(low + step % kind->low * WORD);
    if (kind->low == 8) return w;
    w = vnni_shift(w, step / kind->low * kind->low);
    const vi mask = vnni_bytes((1 << kind->low) - 1);
    if (kind->high == 0) {
        w = vi_and(w, mask);
    } else {
        const int up = kind->low - step / kind->high * kind->high;
        const vi more = vnni_shift(vi_load(high + step % kind->high * WORD), -up);
        const int bits = ((1 << kind->high) - 1) << kind->low;
        w = vnni_merge(w, mask, vi_and(more, vnni_bytes(bits)));
    }
    if (kind->levels) w = vnni_lookup(vnni_table(kind->levels), w);
    if (kind->bias == 1) w = vi_add(w, vnni_bytes(128 - 1));
    return w;
}

/* Weights (u - bias) * code: code * u, or with a bias 128 - (u - bias) * code, which is at least 0.
 * As words: a product of bytes that fits into a byte, so that nothing is carried. */
typedef struct vnni_fold {
    vi code, first;
} vnni_fold;

static inline MM_INLINED vnni_fold vnni_fold_load(const mm_kind_info *kind, const uint8_t *codes)
{
    const vi code = vnni_load_i8(codes);
    vnni_fold f;
    if (kind->bias == 0) {
        const vi low = vi_and(code, vi_set1(15));
        return (vnni_fold){vnni_pair(low, low), low};
    }
    f.code = vnni_pair(code, code);
    f.first = vnni_mul16(vnni_words(kind->bias), f.code);
    f.first = vnni_mul16(vnni_words(257), vnni_sub16(f.first, vnni_words(-128)));
    return f;
}

static inline MM_INLINED vi vnni_fold_apply(const mm_kind_info *kind, vnni_fold f, vi w)
{
    w = vnni_mul16(w, f.code);
    return kind->bias ? vnni_sub16(f.first, w) : w;
}

/* Words which, multiplied with a block's two sums of activations, give the sum over groups of code
 * * sum; `minima` or codes. */
static inline MM_INLINED vi vnni_group_words(const mm_kind_info *kind, const uint8_t *codes)
{
    const vi a = vnni_load_i8(codes);
    if (kind->group == MM_BLOCK) return vnni_pair(a, a);
    return vnni_pair(a, vnni_load_i8(codes + MM_PANEL));
}

/* acc [n][16 rows] += block `block` of a unit times n tokens; x is theirs from that block on. */
static inline MM_INLINED void vnni_block(const mm_kind_info *kind, const int n, const uint8_t *unit,
                                         const int block, const mm_act_block *x, int64_t x_stride,
                                         vf (*acc)[MM_PANEL / VF_N])
{
    const int n_groups = MM_BLOCK / kind->group, n_steps = kind->group / 4;
    const bool folds = vnni_folds(kind), coded = kind->codes && !folds;
    /* A bias is undone in integers where a dot starts, or by what the groups' sums add up to. */
    const bool late = coded && n_groups == 2 && kind->bias > 0;
    const bool offset = kind->bias > 0 && !late;
    MM_UNROLL(2)
    for (int v = 0; v < MM_PANEL / VF_N; v++) {
        const int row = v * VF_N;
        const uint8_t *codes = unit + kind->codes_at + block * n_groups * MM_PANEL + row;
        const uint8_t *minima = unit + kind->minima_at + block * n_groups * MM_PANEL + row;
        const uint8_t *scales = unit + ((kind->codes ? 0 : block) * MM_PANEL + row) * 2;
        vi dot[MM_TILE];
        vf value[MM_TILE];
        if (late) {
            const vi w = vnni_mul16(vnni_group_words(kind, codes), vnni_words(-kind->bias));
            MM_UNROLL(8)
            for (int t = 0; t < n; t++) {
                const vi sums = vnni_broadcast(x[t * x_stride].halves);
                value[t] = vf_from_vi(vnni_dpwssd(vi_set1(0), w, sums));
            }
        }
        MM_UNROLL(2)
        for (int g = 0; g < n_groups; g++) {
            const int n_starts = g == 0 || coded ? n : 0;
            MM_UNROLL(8)
            for (int t = 0; t < n_starts; t++) {
                const mm_act_block *xt = &x[t * x_stride];
                dot[t] = !offset            ? vi_set1(0)
                         : kind->bias == 8  ? vnni_broadcast(&xt->offset_8)
                         : kind->bias == 16 ? vnni_broadcast(&xt->offset_16)
                                            : vnni_broadcast(&xt->offset_128);
            }
            vnni_fold fold;
            if (folds) fold = vnni_fold_load(kind, codes + g * MM_PANEL);
            MM_UNROLL(8)
            for (int s = g * n_steps; s < (g + 1) * n_steps; s++) {
                vi w = vnni_weights(kind, unit, block, s, row);
                if (folds) w = vnni_fold_apply(kind, fold, w);
                MM_UNROLL(8)
                for (int t = 0; t < n; t++) {
                    dot[t] = vnni_dpbusd(dot[t], w, vnni_broadcast(x[t * x_stride].q + 4 * s));
                }
            }
            if (!coded) continue;
            /* Exact: all are integers below 2^24. */
            const vf code = vf_from_vi(vnni_load_i8(codes + g * MM_PANEL));
            MM_UNROLL(8)
            for (int t = 0; t < n; t++) {
                const vf part = vf_from_vi(dot[t]);
                value[t] = late || g > 0 ? vf_fma(code, part, value[t]) : vf_mul(code, part);
            }
        }
        const vf d = kind->wide_scale ? vf_load_bf16((const uint16_t *)scales)
                                      : vf_load_f16((const uint16_t *)scales);
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const vf by = vf_mul(d, vf_set1(x[t * x_stride].d));
            if (!coded) value[t] = vf_from_vi(dot[t]);
            acc[t][v] = folds && offset ? vf_fnma(by, value[t], acc[t][v])
                                        : vf_fma(by, value[t], acc[t][v]);
        }
        if (!kind->has_min) continue;
        const vf m = vf_load_f16((const uint16_t *)(scales + kind->m_at));
        vi w = vi_set1(0);
        if (kind->codes) {
            w = vnni_group_words(kind, minima);
            if (kind->codes == MM_CODES_MIN_HALF) w = vi_and(vi_srl(w, 4), vnni_words(15));
        }
        MM_UNROLL(8)
        for (int t = 0; t < n; t++) {
            const mm_act_block *xt = &x[t * x_stride];
            if (kind->codes) {
                const vi sum = vnni_dpwssd(vi_set1(0), w, vnni_broadcast(xt->halves));
                acc[t][v] = vf_fma(vf_mul(m, vf_set1(xt->d)), vf_from_vi(sum), acc[t][v]);
            } else {
                acc[t][v] = vf_fma(m, vf_set1(xt->scaled_sum), acc[t][v]);
            }
        }
    }
}

#endif
