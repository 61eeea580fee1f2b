/* SPDX-License-Identifier: MIT */
/*
 * The inner loops of products, one table an instruction set, and the layouts that they share.
 *
 * Packed weights: panels of 16 rows, a panel a sequence of units of 64 columns. A unit of a
 * quantised kind is
 *     d  [64 / group][16]    f16 for the 4-bit kinds and Q8, f32 for the wide ones
 *     m  [64 / group][16]    only kinds with a minimum
 *     w  [2 blocks of 32 columns][words]
 * where a word holds 4 bytes of each of the 16 rows: byte row * 4 + j. Word i of a 4-bit block has
 * columns 4i + j in its low nibbles and 16 + 4i + j in its high ones (4 words, 256 bytes); of an
 * 8-bit block columns 4i + j (8 words, 512 bytes). Bytes and nibbles are unsigned, what the
 * byte-wise dot products want: q + bias. Columns beyond the last have d = m = 0. A float kind is
 * just [n_cols][16].
 *
 * Numbers: an int8 product is acc = fma(d_w * d_x, dot, acc), then with a minimum
 * acc = fma(m_w, d_x * sum, acc), group by group in ascending order, refined blocks (below) last;
 * dots and sums are exact integers. An f32 product is acc = fma(w, x, acc) column by column, w
 * decoded as the block type says. So an output's bits depend on nothing but its row and its column
 * of activations, and int8 products and prepared activations have the same bits on every
 * instruction set. The scalar f32 product rounds after the multiplication too (a fused one is a
 * slow call where the processor lacks it), so there the bits differ.
 */
#ifndef SOBRE_MM_KERNELS_H
#define SOBRE_MM_KERNELS_H

#include "mm.h"

enum {
    MM_UNIT = 64,        /* columns */
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

/* A form with its group: what a kernel is made for. */
typedef enum mm_kind {
    MM_KIND_Q4,
    MM_KIND_Q4_MIN,
    MM_KIND_Q8,
    MM_KIND_W32,
    MM_KIND_W32_MIN,
    MM_KIND_W16,
    MM_KIND_W16_MIN,
    MM_N_QUANT_KINDS,
    MM_KIND_F16 = MM_N_QUANT_KINDS,
    MM_KIND_BF16,
    MM_KIND_F32,
    MM_N_KINDS
} mm_kind;

typedef struct mm_kind_info {
    mm_form form;
    int32_t bits;       /* an element */
    int32_t group;      /* 0 for floats */
    int32_t scale_size; /* bytes of a d or m */
    bool has_min;
    int32_t bias;    /* stored minus real value */
    int32_t largest; /* stored value */
    /* Bytes into a unit, and its size. */
    int32_t m_at, w_at, unit_size;
} mm_kind_info;

/* Here, so that kernels made for one kind see constants. */
#define MM_QUANT_KIND(form_, bits_, group_, scale_, min_, bias_, largest_)                     \
    {                                                                                          \
        .form = form_, .bits = bits_, .group = group_, .scale_size = scale_, .has_min = min_,  \
        .bias = bias_, .largest = largest_, .m_at = MM_UNIT / group_ * MM_PANEL * scale_,      \
        .w_at = (1 + min_) * MM_UNIT / group_ * MM_PANEL * scale_,                             \
        .unit_size =                                                                           \
            (1 + min_) * MM_UNIT / group_ * MM_PANEL * scale_ + MM_UNIT * MM_PANEL * bits_ / 8 \
    }
#define MM_FLOAT_KIND(form_, bits_)                                               \
    {                                                                             \
        .form = form_, .bits = bits_, .unit_size = MM_UNIT * MM_PANEL * bits_ / 8 \
    }

static const mm_kind_info mm_kinds[MM_N_KINDS] = {
    [MM_KIND_Q4] = MM_QUANT_KIND(MM_Q4, 4, 32, 2, false, 8, 15),
    [MM_KIND_Q4_MIN] = MM_QUANT_KIND(MM_Q4_MIN, 4, 32, 2, true, 0, 15),
    [MM_KIND_Q8] = MM_QUANT_KIND(MM_Q8, 8, 32, 2, false, 128, 255),
    [MM_KIND_W32] = MM_QUANT_KIND(MM_WIDE, 8, 32, 4, false, 128, 255),
    [MM_KIND_W32_MIN] = MM_QUANT_KIND(MM_WIDE_MIN, 8, 32, 4, true, 0, 31),
    [MM_KIND_W16] = MM_QUANT_KIND(MM_WIDE, 8, 16, 4, false, 32, 63),
    [MM_KIND_W16_MIN] = MM_QUANT_KIND(MM_WIDE_MIN, 8, 16, 4, true, 0, 31),
    [MM_KIND_F16] = MM_FLOAT_KIND(MM_F16, 16),
    [MM_KIND_BF16] = MM_FLOAT_KIND(MM_BF16, 16),
    [MM_KIND_F32] = MM_FLOAT_KIND(MM_F32, 32),
};
#undef MM_QUANT_KIND
#undef MM_FLOAT_KIND

mm_kind mm_kind_of(const mm_weight *w);

/* Int8 activations of one token, 32 columns: a cache line. */
typedef struct mm_act_block {
    int8_t q[MM_BLOCK];           /* within -127 .. 127 */
    float d;                      /* x = d * q */
    float scaled_sum;             /* d * sum of q */
    int32_t offset_8, offset_128; /* -8 and -128 times the sum: undoes the bias of weights */
    float half_sum[2];            /* sums of q over 16 columns each */
    float unused[2];
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
enum { MM_FINE_SHARE = 8, MM_MAX_FINE = MM_FINE_SHARE, MM_MAX_TILE = 8 };

typedef struct mm_act_fine {
    int32_t n, block[MM_MAX_FINE]; /* ascending; 0 beyond the n-th */
    int32_t unused[7];
} mm_act_fine;

/* The blocks that any token of a tile refines, ascending, and what they leave over: the row of the
 * tile's first token. */
typedef struct mm_fine_tile {
    const mm_act_block *rest;
    int32_t n, block[MM_MAX_FINE * MM_MAX_TILE];
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
    block->offset_128 = -128 * sum;
    block->half_sum[0] = (float)first_half;
    block->half_sum[1] = (float)second_half;
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
    int32_t tile; /* tokens that a product takes at most: a power of two */

    /* One panel times n_tokens <= tile columns: ret [n_tokens][16] is overwritten. */
    void (*q8[MM_N_QUANT_KINDS])(const uint8_t *panel, int64_t n_units, const mm_act_block *x,
                                 int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,
                                 float *ret);
    /* MM_STREAM_PANELS panels times one token, panel i to ret + i * ret_stride; may be NULL. */
    void (*q8_stream[MM_N_QUANT_KINDS])(const uint8_t *const *panels, int64_t n_units,
                                        const mm_act_block *x, const mm_fine_tile *fine, float *ret,
                                        int64_t ret_stride);
    /* n_cols <= 64 columns of a panel to f32: ret [n_cols][16]. Quantised units are whole. NULL for
     * F32, which is used in place. */
    void (*decode[MM_N_KINDS])(const uint8_t *unit, int32_t n_cols, float *ret);
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
extern const mm_kernels mm_kernels_avx2, mm_kernels_avx512;
#endif

#endif
