/* SPDX-License-Identifier: MIT */
/* clang-format off */
/*
 * The inner loops of products, one table an instruction set, and the layouts that they share.
 *
 * Packed weights: panels of 16 rows, a panel a sequence of units of 64 columns, or of 256 where the
 * type has super blocks. A unit of a quantised kind is
 *     d      [scales][16]                   2 bytes each: one a group, or one a unit for kinds
 *                                           with codes
 *     m      [scales][16]                   only kinds with a minimum; its sign is such that it is
 *                                           added
 *     codes  [groups][16]                   what d is multiplied with: signed bytes. Q2_K has
 *                                           nibbles instead, the high one for m
 *     minima [groups][16]                   bytes for m: Q4_K and Q5_K
 *     low    [blocks of 32 columns][words]
 *     high   [blocks][words]                what the low plane has no room for
 * where a word holds 4 bytes of each of the 16 rows: byte row * 4 + j. A plane of p bits has p
 * words a block, and columns 4s .. 4s + 3 of the block (step s of 8) are in word s % p, at bit
 * s / p * p of its four bytes. An element is u = low | high << bits of low, then q = u - bias, or
 * for kinds with levels q = levels[u] - bias: unsigned, what byte-wise dot products want. Columns
 * beyond the last have d = m = 0. A float kind is just [n_cols][16].
 *
 * Numbers: an int8 product goes block by block of 32 columns in ascending order, refined blocks
 * (below) last. Without codes acc = fma(d * d_x, dot, acc), then with a minimum
 * acc = fma(m, d_x * sum, acc). With codes acc = fma(d * d_x, c, acc), where c is the sum of code *
 * dot over the block's groups, then with a minimum acc = fma(m * d_x, c', acc), where c' is the sum
 * of minimum * sum of the group's activations. Dots, sums, c and c' are integers below 2^24, so
 * there is one result however they are found. An f32 product is acc = fma(w, x, acc) column by
 * column, w decoded as the block type says: (d * code) * q + m * minimum, each operation rounded.
 * So an output's bits depend on nothing but its row and its column of activations, and int8
 * products and prepared activations have the same bits on every instruction set. The scalar f32
 * product rounds after the multiplication too (a fused one is a slow call where the processor lacks
 * it), so there the bits differ.
 */
/* clang-format on */
#ifndef SOBRE_MM_KERNELS_H
#define SOBRE_MM_KERNELS_H

#include "mm.h"

enum {
    MM_UNIT = 64,        /* columns: what activations are padded to */
    MM_BLOCK = 32,       /* columns that share an activation scale */
    MM_STREAM_PANELS = 4 /* panels that a single token's product runs through together */
};

/* For the bodies that kernels are made from: their constants must be seen, and short loops spread
 * out. Not where speed is no matter: that would only make the compiler slow. */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(SOBRE_SIMDE)
#define MM_PRAGMA(x) _Pragma(#x)
#define MM_UNROLL(n) MM_PRAGMA(GCC unroll n)
#define MM_INLINED   __attribute__((always_inline))
#else
#define MM_UNROLL(n)
#define MM_INLINED
#endif

enum { MM_STEPS = 8 }; /* of 4 columns in a block */

typedef enum mm_codes {
    MM_NO_CODES,
    MM_CODES,         /* bytes */
    MM_CODES_MIN,     /* bytes, and bytes for m */
    MM_CODES_MIN_HALF /* nibbles, the high one for m */
} mm_codes;

typedef struct mm_kind_info {
    int32_t low, high; /* bits an element in the planes */
    int32_t group;     /* 0 for floats */
    int32_t unit;      /* columns */
    mm_codes codes;
    bool has_min;
    bool wide_scale;       /* d is bfloat16, not f16 */
    int32_t bias, largest; /* of levels[u], or of u */
    const uint8_t *levels; /* [16], or NULL */
    /* Bytes into a unit, and its size. */
    int32_t m_at, codes_at, minima_at, low_at, high_at, unit_size;
} mm_kind_info;

static const uint8_t mm_levels_iq4[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t mm_levels_fp4[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                          16, 15, 14, 13, 12, 10, 8,  4};

/* Here, so that kernels made for one kind see constants. */
#define MM_SCALES(group_, unit_, codes_) ((codes_) ? 1 : (unit_) / (group_))
#define MM_CODE_BYTES(group_, unit_, codes_) \
    ((codes_) == MM_NO_CODES ? 0 : ((codes_) == MM_CODES_MIN ? 2 : 1) * (unit_) / (group_)*MM_PANEL)
#define MM_LOW_AT(group_, unit_, codes_, min_)                        \
    ((1 + (min_)) * MM_SCALES(group_, unit_, codes_) * MM_PANEL * 2 + \
     MM_CODE_BYTES(group_, unit_, codes_))
#define MM_QUANT_KIND(low_, high_, group_, unit_, codes_, min_, bias_, largest_, ...)           \
    {                                                                                           \
        .low = low_, .high = high_, .group = group_, .unit = unit_, .codes = codes_,            \
        .has_min = min_, .bias = bias_, .largest = largest_,                                    \
        .m_at = MM_SCALES(group_, unit_, codes_) * MM_PANEL * 2,                                \
        .codes_at = (1 + (min_)) * MM_SCALES(group_, unit_, codes_) * MM_PANEL * 2,             \
        .minima_at = (1 + (min_)) * MM_SCALES(group_, unit_, codes_) * MM_PANEL * 2 +           \
                     ((codes_) == MM_CODES_MIN ? (unit_) / (group_)*MM_PANEL : 0),              \
        .low_at = MM_LOW_AT(group_, unit_, codes_, min_),                                       \
        .high_at = MM_LOW_AT(group_, unit_, codes_, min_) + (unit_)*MM_PANEL * (low_) / 8,      \
        .unit_size =                                                                            \
            MM_LOW_AT(group_, unit_, codes_, min_) + (unit_)*MM_PANEL * ((low_) + (high_)) / 8, \
        __VA_ARGS__                                                                             \
    }
#define MM_FLOAT_KIND(bits_)                                                       \
    {                                                                              \
        .low = bits_, .unit = MM_UNIT, .unit_size = MM_UNIT * MM_PANEL * bits_ / 8 \
    }

static const mm_kind_info mm_kinds[MM_N_KINDS] = {
    /* low, high, group, unit, codes, minimum, bias, largest */
    [MM_KIND_Q4_0] = MM_QUANT_KIND(4, 0, 32, 64, MM_NO_CODES, false, 8, 15, ),
    [MM_KIND_Q4_1] = MM_QUANT_KIND(4, 0, 32, 64, MM_NO_CODES, true, 0, 15, ),
    [MM_KIND_Q5_0] = MM_QUANT_KIND(4, 1, 32, 64, MM_NO_CODES, false, 16, 31, ),
    [MM_KIND_Q5_1] = MM_QUANT_KIND(4, 1, 32, 64, MM_NO_CODES, true, 0, 31, ),
    [MM_KIND_Q8_0] = MM_QUANT_KIND(8, 0, 32, 64, MM_NO_CODES, false, 128, 255, ),
    [MM_KIND_Q2_K] = MM_QUANT_KIND(2, 0, 16, 256, MM_CODES_MIN_HALF, true, 0, 3, ),
    [MM_KIND_Q3_K] = MM_QUANT_KIND(2, 1, 16, 256, MM_CODES, false, 4, 7, ),
    [MM_KIND_Q4_K] = MM_QUANT_KIND(4, 0, 32, 256, MM_CODES_MIN, true, 0, 15, ),
    [MM_KIND_Q5_K] = MM_QUANT_KIND(4, 1, 32, 256, MM_CODES_MIN, true, 0, 31, ),
    [MM_KIND_Q6_K] = MM_QUANT_KIND(4, 2, 16, 256, MM_CODES, false, 32, 63, ),
    [MM_KIND_IQ4_NL] =
        MM_QUANT_KIND(4, 0, 32, 64, MM_NO_CODES, false, 128, 241, .levels = mm_levels_iq4),
    [MM_KIND_IQ4_XS] =
        MM_QUANT_KIND(4, 0, 32, 256, MM_CODES, false, 128, 241, .levels = mm_levels_iq4),
    [MM_KIND_IQ3_S] = MM_QUANT_KIND(4, 1, 32, 256, MM_CODES, false, 16, 31, ),
    [MM_KIND_MXFP4] = MM_QUANT_KIND(4, 0, 32, 64, MM_NO_CODES, false, 16, 28,
                                    .levels = mm_levels_fp4, .wide_scale = true),
    [MM_KIND_TQ] = MM_QUANT_KIND(2, 0, 32, 256, MM_CODES, false, 1, 3, ),
    [MM_KIND_F16] = MM_FLOAT_KIND(16),
    [MM_KIND_BF16] = MM_FLOAT_KIND(16),
    [MM_KIND_F32] = MM_FLOAT_KIND(32),
};
#undef MM_SCALES
#undef MM_CODE_BYTES
#undef MM_LOW_AT
#undef MM_QUANT_KIND
#undef MM_FLOAT_KIND

/* Int8 activations of one token, 32 columns: a cache line. */
typedef struct mm_act_block {
    int8_t q[MM_BLOCK]; /* within -127 .. 127 */
    float d;            /* x = d * q */
    float scaled_sum;   /* d * sum of q */
    int32_t offset_8, offset_16,
        offset_128;    /* -8 times the sum and so on: undo the bias of weights */
    int32_t half[2];   /* sums of q over 16 columns each */
    int16_t halves[2]; /* the same */
} mm_act_block;

/* A block whose largest value is below this is zero: its inverse scale would overflow. */
#define MM_ACT_TINY 1e-36f

/*
 * A few channels of a normalised row are often much larger than all others, and the coarse steps of
 * their blocks make most of the row's error. So a block that would make an MM_FINE_SHARE th of it
 * or more is refined: what its int8 values leave over is quantised too, and the product adds both.
 * That leaves less than half of the error for a few per cent more work.
 *
 * The row of a token: its blocks, then a line that lists the refined ones. What they leave over is
 * in rows of the same length behind those of all tokens; other blocks are zero there. Zeros add
 * nothing, so a token's bits do not depend on what its neighbours in a tile refine.
 */
enum { MM_FINE_SHARE = 8, MM_MAX_FINE = MM_FINE_SHARE, MM_MAX_TOKENS = 64 };

typedef struct mm_act_fine {
    int32_t n, block[MM_MAX_FINE]; /* ascending; 0 beyond the n-th */
    int32_t unused[7];
} mm_act_fine;

/* The blocks that any token of a product refines, ascending, which fours of tokens do (bits), and
 * what they leave over: the row of the first token. */
typedef struct mm_fine_tile {
    const mm_act_block *rest;
    int32_t n, block[MM_MAX_FINE * MM_MAX_TOKENS];
    uint16_t fours[MM_MAX_FINE * MM_MAX_TOKENS];
} mm_fine_tile;

static inline int64_t mm_act_main(int64_t k) /* blocks of a row */
{
    return (k + MM_UNIT - 1) / MM_UNIT * 2;
}

/* Which blocks of a row to refine. */
void mm_act_choose(const mm_act_block *row, int64_t n_blocks, mm_act_fine *ret);

static inline void mm_act_sums(mm_act_block *block, int32_t first_half, int32_t second_half)
{
    int32_t sum = first_half + second_half;
    block->scaled_sum = block->d * (float)sum;
    block->offset_8 = -8 * sum;
    block->offset_16 = -16 * sum;
    block->offset_128 = -128 * sum;
    block->half[0] = first_half;
    block->half[1] = second_half;
    block->halves[0] = (int16_t)first_half;
    block->halves[1] = (int16_t)second_half;
}

/* Distance of tokens. An odd number of lines, so that tokens fall into different cache sets. */
static inline int64_t mm_act_blocks(int64_t k)
{
    return mm_act_main(k) + 1;
}
static inline int64_t mm_act_floats(int64_t k)
{
    return (k + MM_UNIT - 1) / MM_UNIT * MM_UNIT + 16;
}

/* What becomes of a tile of sums, [n_tokens][16] for 16 rows, of which the first n_rows exist. */
typedef struct mm_finish {
    sobre_act glu;
    const float *bias[2];  /* of the tile's rows, or NULL; [1] is glu's second operand */
    const float *residual; /* of the tile's first output, or NULL; laid out as out */
    float *out;
    int64_t out_stride; /* floats from token to token */
    int32_t n_rows, n_tokens;
} mm_finish;

uint64_t mm_act_stride(mm_act act, int64_t k); /* bytes from token to token */

/* Panels [begin, end) of entry `entry` (a weight, or the two of a GLU) times tokens [token, token +
 * n_tokens), finished. */
void mm_run_panels(const mm_job *job, int32_t entry, int64_t begin, int64_t end, int32_t token,
                   int32_t n_tokens);

typedef struct mm_kernels {
    sobre_cpu_isa isa;
    int32_t tile;     /* tokens that an f32 product takes at most: a power of two */
    int32_t n_tokens; /* and an int8 product: at most MM_MAX_TOKENS */

    /* One panel of n_units of the kind's times n_tokens columns: ret [n_tokens][16] is
     * overwritten. A NULL in the tables of quantised kinds: the scalar kernel is used. */
    void (*q8[MM_N_QUANT_KINDS])(const uint8_t *panel, int64_t n_units, const mm_act_block *x,
                                 int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,
                                 float *ret);
    /* Neighbouring panels times one token, panel i to ret + i * ret_stride; may be NULL. */
    void (*q8_stream[MM_N_QUANT_KINDS])(const uint8_t *panels, int32_t n_panels, int64_t n_units,
                                        const mm_act_block *x, const mm_fine_tile *fine, float *ret,
                                        int64_t ret_stride);
    /* n_cols <= 64 columns of a panel from `col` on, a multiple of 64, to f32: ret [n_cols][16].
     * Quantised units are whole: then 64 columns may be written. NULL for F32, which is used in
     * place. */
    void (*decode[MM_N_KINDS])(const uint8_t *panel, int64_t col, int32_t n_cols, float *ret);
    /* acc [n_tokens][16] += w [k][16] times n_tokens <= tile columns. */
    void (*f32_tokens)(const float *w, int32_t k, const float *x, int64_t x_stride,
                       int32_t n_tokens, float *acc);
    /* acc += k columns of MM_STREAM_PANELS panels of a float kind times one token; panel i's sums
     * are at acc + i * acc_stride. May be NULL but for F32. */
    void (*f32_stream[MM_N_KINDS])(const uint8_t *const *panels, int64_t k, const float *x,
                                   float *acc, int64_t acc_stride);

    /* One row: normalised, converted, padded with zeros to whole units. */
    void (*prepare_q8)(const mm_prologue *prologue, const float *x, int64_t k, mm_act_block *ret,
                       mm_act_block *rest);
    void (*prepare_f32)(const mm_prologue *prologue, const float *x, int64_t k, float *ret);
    /* b: the second operand of glu. */
    void (*finish)(const mm_finish *f, const float *a, const float *b);
} mm_kernels;

extern const mm_kernels mm_kernels_scalar;
#if defined(__x86_64__)
extern const mm_kernels mm_kernels_avx2, mm_kernels_avxvnni, mm_kernels_avx512;
#elif defined(__aarch64__)
extern const mm_kernels mm_kernels_dotprod, mm_kernels_i8mm;
#endif

#endif
