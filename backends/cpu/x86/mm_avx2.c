/* SPDX-License-Identifier: MIT */
/* Products with AVX2, FMA and F16C. A single token is multiplied with panels as they are, at the
 * speed of memory. For more tokens a chunk of a panel is widened to bytes once, then goes through
 * all of them in tiles of 16 rows by 4 tokens, from the first cache. */
#include <math.h>
#include <string.h>

#include "mm_kernels.h"
#include "vmath_avx2.h"

#include "mm_avx2.h"

#define MM_ISA           SOBRE_CPU_AVX2
#define MM_ISA_KERNELS   mm_kernels_avx2
#define MM_TILE          4
#define MM_ISA_TOKENS    MM_MAX_TOKENS
#define MM_COLUMNS       columns
#define MM_TILE_SIZES(X) X(1) X(2) X(3) X(4)

/* sum + more, in place: compilers would gather products in registers that they do not have, and
 * move sums about. */
static inline __m256i add16(__m256i sum, __m256i more)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(more));
    return sum;
}

static inline __m256i add32(__m256i sum, __m256i more)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(more));
    return sum;
}

static inline __m256i broadcast4(const void *from)
{
    int32_t v;
    memcpy(&v, from, sizeof(v));
    return _mm256_set1_epi32(v);
}

/* Columns 4 step .. 4 step + 3 of 8 rows of a block, with their bias. */
static inline MM_INLINED __m256i columns(const mm_kind_info *kind, const uint8_t *unit, int block,
                                         int step, int lane)
{
    const int low = kind->low, high = kind->high, shift = step / low * low;
    const uint8_t *from = unit + kind->low_at + block * low * MM_PANEL * 4;
    __m256i w = vi_load(from + (step % low * MM_PANEL + lane) * 4);
    if (shift > 0) w = _mm256_srli_epi16(w, shift);
    if (low < 8) w = _mm256_and_si256(w, _mm256_set1_epi8((char)((1 << low) - 1)));
    if (high > 0) {
        const int up = low - step / high * high;
        from = unit + kind->high_at + block * high * MM_PANEL * 4;
        __m256i h = vi_load(from + (step % high * MM_PANEL + lane) * 4);
        h = up > 0 ? _mm256_slli_epi16(h, up) : _mm256_srli_epi16(h, -up);
        h = _mm256_and_si256(h, _mm256_set1_epi8((char)(((1 << high) - 1) << low)));
        w = _mm256_or_si256(w, h);
    }
    if (kind->levels) {
        const __m128i levels = _mm_loadu_si128((const __m128i *)kind->levels);
        w = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), w);
    }
    return w;
}

/*
 * Products of bytes come in pairs as 16-bit sums that saturate, so what is stored decides how:
 * - small values: as many steps as surely fit are added in 16 bits before they are widened;
 * - bytes of all sizes (0): the weights' signs go over to the activations, each step is widened.
 */
static inline int fold_of(const mm_kind_info *kind)
{
    const int fits = INT16_MAX / (2 * 127 * kind->largest), n_steps = kind->group / 4;
    return fits < n_steps ? fits / 2 * 2 : n_steps;
}

/* A block of a panel as tiles of tokens want it. Codes are pairs for 16-bit products. */
typedef struct wide_block {
    _Alignas(64) uint8_t w[MM_STEPS][MM_PANEL * 4]; /* signed where the fold is 0 */
    float d[MM_PANEL], m[MM_PANEL];
    int32_t codes[2][MM_PANEL]; /* of the two groups of 16; of the one of 32: [0] */
    int32_t pair[MM_PANEL];     /* times the sums of the two halves: what is added to c, or c' */
} wide_block;

/* What multiplies 8 rows of a block. */
typedef struct block_scales {
    __m256 d, m;
    __m256i codes[2], pair;
} block_scales;

/* (first, second) as 16-bit integers. */
static inline __m256i pairs(__m256i first, __m256i second)
{
    return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
}

static inline __m256i widen_bytes(const uint8_t *from, bool has_sign)
{
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)from);
    return has_sign ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
}

static inline MM_INLINED block_scales scales_of(const mm_kind_info *kind, const uint8_t *unit,
                                                int block, int lane)
{
    block_scales ret;
    const uint16_t *d = (const uint16_t *)unit + (kind->codes ? 0 : block) * MM_PANEL + lane;
    ret.d = kind->wide_scale ? vf_load_bf16(d) : vf_load_f16(d);
    ret.m = kind->has_min ? vf_load_f16(d + kind->m_at / 2) : vf_zero();
    ret.codes[0] = ret.codes[1] = ret.pair = _mm256_set1_epi16(1);
    if (!kind->codes) return ret;
    const int n_groups = MM_BLOCK / kind->group;
    const bool half = kind->codes == MM_CODES_MIN_HALF;
    __m256i c[2], m[2];
    for (int g = 0; g < n_groups; g++) {
        const int at = (block * n_groups + g) * MM_PANEL + lane;
        c[g] = widen_bytes(unit + kind->codes_at + at, !half);
        if (half) {
            m[g] = _mm256_srli_epi32(c[g], 4);
            c[g] = _mm256_and_si256(c[g], _mm256_set1_epi32(15));
        } else if (kind->has_min) {
            m[g] = widen_bytes(unit + kind->minima_at + at, false);
        } else {
            m[g] = _mm256_mullo_epi16(c[g], _mm256_set1_epi32(-kind->bias & 0xffff));
        }
        ret.codes[g] = pairs(c[g], c[g]);
    }
    ret.pair = pairs(m[0], m[n_groups - 1]);
    return ret;
}

static inline MM_INLINED void widen(const mm_kind_info *kind, const uint8_t *unit, int block,
                                    wide_block *ret)
{
    const __m256i flip = _mm256_set1_epi8((char)-128);
    MM_UNROLL(8)
    for (int s = 0; s < MM_STEPS; s++) {
        MM_UNROLL(2)
        for (int lane = 0; lane < MM_PANEL; lane += 8) {
            __m256i w = columns(kind, unit, block, s, lane);
            if (fold_of(kind) == 0) w = _mm256_xor_si256(w, flip);
            _mm256_storeu_si256((__m256i *)(ret->w[s] + lane * 4), w);
        }
    }
    MM_UNROLL(2)
    for (int lane = 0; lane < MM_PANEL; lane += 8) {
        const block_scales scales = scales_of(kind, unit, block, lane);
        vf_store(ret->d + lane, scales.d);
        if (kind->has_min) vf_store(ret->m + lane, scales.m);
        if (!kind->codes) continue;
        for (int g = 0; g < MM_BLOCK / kind->group; g++) {
            _mm256_storeu_si256((__m256i *)(ret->codes[g] + lane), scales.codes[g]);
        }
        _mm256_storeu_si256((__m256i *)(ret->pair + lane), scales.pair);
    }
}

/* What the scales make of a block's dots. */
static inline MM_INLINED __m256 add_block(const mm_kind_info *kind, __m256 d, __m256 m,
                                          __m256i pair, const mm_act_block *x, __m256i dot,
                                          __m256 acc)
{
    const bool biased = kind->bias > 0 && fold_of(kind) > 0;
    const __m256 dx = _mm256_set1_ps(x->d);
    __m256i more = dot;
    if (kind->codes) {
        more = _mm256_madd_epi16(pair, broadcast4(x->halves));
    } else if (biased) {
        more = broadcast4(kind->bias == 8 ? &x->offset_8 : &x->offset_16);
    }
    if (biased) dot = _mm256_add_epi32(dot, more);
    acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), acc);
    if (!kind->has_min) return acc;
    if (!kind->codes) return _mm256_fmadd_ps(m, _mm256_set1_ps(x->scaled_sum), acc);
    return _mm256_fmadd_ps(_mm256_mul_ps(m, dx), _mm256_cvtepi32_ps(more), acc);
}

/* A block that tiles go through, and where its activations are in a row. */
typedef struct tile_block {
    const wide_block *w;
    int64_t at;
} tile_block;

/* acc [n][16] += n_blocks blocks times n tokens. */
static inline MM_INLINED void tile_dots(const mm_kind_info *kind, const int n,
                                        const tile_block *blocks, int32_t n_blocks,
                                        const mm_act_block *const *tokens, float *acc)
{
    const int fold = fold_of(kind), per_group = kind->group / 4;
    const int n_v = fold == MM_STEPS || fold == 0 ? 2 : 1; /* row halves that registers hold */
    const __m256i ones = _mm256_set1_epi16(1);
    for (int32_t i = 0; i < n_blocks; i++) {
        const wide_block *w = blocks[i].w;
        const mm_act_block *x[MM_TILE];
        MM_UNROLL(4)
        for (int t = 0; t < n; t++) x[t] = tokens[t] + blocks[i].at;
        MM_UNROLL(2)
        for (int v0 = 0; v0 < 2; v0 += n_v) {
            __m256i dot[MM_TILE][2], narrow[MM_TILE][2];
            MM_UNROLL(8)
            for (int s = 0; s < MM_STEPS; s++) {
                __m256i ws[2], sign[2], factor[2];
                MM_UNROLL(2)
                for (int v = 0; v < n_v; v++) {
                    const int lane = 8 * (v0 + v);
                    ws[v] = vi_load(w->w[s] + lane * 4);
                    factor[v] = kind->codes ? vi_load(w->codes[s / per_group] + lane) : ones;
                    if (fold > 0) continue;
                    sign[v] = ws[v];
                    ws[v] = _mm256_abs_epi8(ws[v]);
                }
                MM_UNROLL(4)
                for (int t = 0; t < n; t++) {
                    const __m256i xt = broadcast4(x[t]->q + 4 * s);
                    MM_UNROLL(2)
                    for (int v = 0; v < n_v; v++) {
                        __m256i sum;
                        if (fold > 0) {
                            sum = _mm256_maddubs_epi16(ws[v], xt);
                            if (s % fold > 0) sum = add16(narrow[t][v], sum);
                            narrow[t][v] = sum;
                            if (s % fold < fold - 1) continue;
                        } else {
                            sum = _mm256_maddubs_epi16(ws[v], _mm256_sign_epi8(xt, sign[v]));
                        }
                        sum = _mm256_madd_epi16(sum, factor[v]);
                        dot[t][v] = s < fold || s == 0 ? sum : add32(dot[t][v], sum);
                    }
                }
            }
            MM_UNROLL(2)
            for (int v = 0; v < n_v; v++) {
                const int lane = 8 * (v0 + v);
                const __m256 d = vf_load(w->d + lane), m = kind->has_min ? vf_load(w->m + lane) : d;
                const __m256i pair = kind->codes ? vi_load(w->pair + lane) : ones;
                MM_UNROLL(4)
                for (int t = 0; t < n; t++) {
                    float *at = acc + t * MM_PANEL + lane;
                    vf_store(at, add_block(kind, d, m, pair, x[t], dot[t][v], vf_load(at)));
                }
            }
        }
    }
}

typedef void (*tile_fn)(const tile_block *blocks, int32_t n_blocks,
                        const mm_act_block *const *tokens, float *acc);

/* n <= 4 tokens: two kernels, of 2 and 4, do for all n. */
static void run_tile(const tile_fn *tiles, const tile_block *blocks, int32_t n_blocks,
                     const mm_act_block *x, int64_t x_stride, int32_t n, float *acc)
{
    const mm_act_block *tokens[MM_TILE];
    for (int t = 0; t < MM_TILE; t++) tokens[t] = x + (t < n ? t : n - 1) * x_stride;
    if (n % 2 == 0) {
        tiles[n == 4](blocks, n_blocks, tokens, acc);
        return;
    }
    float part[MM_TILE * MM_PANEL] = {0};
    memcpy(part, acc, (size_t)n * MM_PANEL * sizeof(float));
    tiles[n > 2](blocks, n_blocks, tokens, part);
    memcpy(acc, part, (size_t)n * MM_PANEL * sizeof(float));
}

enum { CHUNK = 24 }; /* blocks of a panel that stay in the first cache */

/* A panel is widened chunk by chunk, refined blocks last, and each chunk goes through all tokens.
 */
static inline MM_INLINED void q8_tokens(const mm_kind_info *kind, const tile_fn *tiles,
                                        const uint8_t *panel, int64_t n_units,
                                        const mm_act_block *x, int64_t x_stride, int32_t n_tokens,
                                        const mm_fine_tile *fine, float *ret)
{
    wide_block wide[CHUNK];
    tile_block blocks[CHUNK], chosen[CHUNK];
    const int per_unit = kind->unit / MM_BLOCK;
    const int64_t n_blocks = n_units * per_unit, n_chunks = (n_blocks + CHUNK - 1) / CHUNK;
    const int64_t chunk = (n_blocks + n_chunks - 1) / n_chunks;
    memset(ret, 0, (size_t)n_tokens * MM_PANEL * sizeof(float));
    for (int64_t begin = 0, end; begin < n_blocks + fine->n; begin = end) {
        const int64_t refined = begin - n_blocks,
                      limit = refined < 0 ? n_blocks : n_blocks + fine->n;
        end = begin + chunk < limit ? begin + chunk : limit;
        const int32_t n = (int32_t)(end - begin);
        for (int32_t i = 0; i < n; i++) {
            const int64_t b = refined < 0 ? begin + i : fine->block[refined + i];
            widen(kind, panel + b / per_unit * kind->unit_size, (int)(b % per_unit), &wide[i]);
            blocks[i] = chosen[i] = (tile_block){&wide[i], b};
        }
        for (int32_t t = 0; t < n_tokens; t += MM_TILE) {
            const mm_act_block *xt = (refined < 0 ? x : fine->rest) + t * x_stride;
            int32_t n_chosen = n;
            if (refined >= 0) {
                n_chosen = 0;
                for (int32_t i = 0; i < n; i++) {
                    if (fine->fours[refined + i] >> t / 4 & 1) chosen[n_chosen++] = blocks[i];
                }
                if (n_chosen == 0) continue;
            }
            run_tile(tiles, chosen, n_chosen, xt, x_stride,
                     n_tokens - t < MM_TILE ? n_tokens - t : MM_TILE, ret + t * MM_PANEL);
        }
    }
}

/* A block of 8 rows times one token, straight from the panel. */
static inline MM_INLINED __m256 stream_block(const mm_kind_info *kind, const uint8_t *unit,
                                             int block, int lane, const mm_act_block *x, __m256 acc)
{
    const int fold = fold_of(kind), per_group = kind->group / 4;
    const __m256i flip = _mm256_set1_epi8((char)-128);
    const block_scales scales = scales_of(kind, unit, block, lane);
    __m256i dot = _mm256_setzero_si256(), narrow = dot;
    MM_UNROLL(8)
    for (int s = 0; s < MM_STEPS; s++) {
        const __m256i xs = broadcast4(x->q + 4 * s);
        __m256i w = columns(kind, unit, block, s, lane), sum;
        if (fold > 0) {
            sum = _mm256_maddubs_epi16(w, xs);
            if (s % fold > 0) sum = _mm256_add_epi16(sum, narrow);
            narrow = sum;
            if (s % fold < fold - 1) continue;
        } else {
            w = _mm256_xor_si256(w, flip);
            sum = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
        }
        sum = _mm256_madd_epi16(sum, scales.codes[s / per_group]);
        dot = s < fold || s == 0 ? sum : _mm256_add_epi32(dot, sum);
    }
    return add_block(kind, scales.d, scales.m, scales.pair, x, dot, acc);
}

/* One token and panels that lie one behind the other. Memory is read as one stream, further ahead
 * than processors fetch by themselves, and on into the panels that come next. */
static inline MM_INLINED void q8_panels(const mm_kind_info *kind, const uint8_t *panel,
                                        int32_t n_panels, int64_t n_units, const mm_act_block *x,
                                        const mm_fine_tile *fine, float *ret, int64_t ret_stride)
{
    enum { LINE = 64 };
    /* The high plane of a large unit is far behind what else a block reads. */
    const int behind = kind->high > 0 && kind->unit > MM_UNIT ? kind->unit_size / LINE * LINE : 0;
    const int ahead = 20 * LINE + behind;
    const int per_unit = kind->unit / MM_BLOCK;
    for (int32_t p = 0; p < n_panels; p++, ret += ret_stride) {
        const uint8_t *unit = panel;
        const mm_act_block *xu = x;
        __m256 acc[2] = {vf_zero(), vf_zero()};
        for (int64_t u = 0; u < n_units; u++, unit += kind->unit_size, xu += per_unit) {
            MM_UNROLL(1) /* processors learn strides from few loads, not from many */
            for (int b = 0; b < per_unit; b++) {
                const int begin = kind->unit_size * b / per_unit / LINE * LINE;
                const int end = kind->unit_size * (b + 1) / per_unit / LINE * LINE;
                for (int at = begin; at < end; at += LINE) __builtin_prefetch(unit + ahead + at);
                MM_UNROLL(2)
                for (int v = 0; v < 2; v++) {
                    acc[v] = stream_block(kind, unit, b, 8 * v, xu + b, acc[v]);
                }
            }
        }
        for (int32_t i = 0; i < fine->n; i++) {
            const int32_t b = fine->block[i];
            const uint8_t *of = panel + b / per_unit * kind->unit_size;
            for (int v = 0; v < 2; v++) {
                acc[v] = stream_block(kind, of, b % per_unit, 8 * v, fine->rest + b, acc[v]);
            }
        }
        for (int v = 0; v < 2; v++) vf_store(ret + 8 * v, acc[v]);
        panel = unit;
    }
}

#define X(id, name)                                                                              \
    static void tile2_##name(const tile_block *blocks, int32_t n_blocks,                         \
                             const mm_act_block *const *tokens, float *acc)                      \
    {                                                                                            \
        tile_dots(&mm_kinds[MM_KIND_##id], 2, blocks, n_blocks, tokens, acc);                    \
    }                                                                                            \
    static void tile4_##name(const tile_block *blocks, int32_t n_blocks,                         \
                             const mm_act_block *const *tokens, float *acc)                      \
    {                                                                                            \
        tile_dots(&mm_kinds[MM_KIND_##id], 4, blocks, n_blocks, tokens, acc);                    \
    }                                                                                            \
    static void q8_##name(const uint8_t *panel, int64_t n_units, const mm_act_block *x,          \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,          \
                          float *ret)                                                            \
    {                                                                                            \
        static const tile_fn tiles[] = {tile2_##name, tile4_##name};                             \
        q8_tokens(&mm_kinds[MM_KIND_##id], tiles, panel, n_units, x, x_stride, n_tokens, fine,   \
                  ret);                                                                          \
    }                                                                                            \
    static void q8_stream_##name(const uint8_t *panels, int32_t n_panels, int64_t n_units,       \
                                 const mm_act_block *x, const mm_fine_tile *fine, float *ret,    \
                                 int64_t ret_stride)                                             \
    {                                                                                            \
        q8_panels(&mm_kinds[MM_KIND_##id], panels, n_panels, n_units, x, fine, ret, ret_stride); \
    }
MM_QUANT_KINDS(X)
#undef X

#include "mm_vf.h"
