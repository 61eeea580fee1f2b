/* SPDX-License-Identifier: MIT */
/*
 * Matrix products on the CPU: packed weights, prepared activations, and the product with its
 * prologue and epilogue.
 *
 * Weights are packed into panels of 16 rows, so that lane = row everywhere: one layout for every
 * instruction set, for prefill and for decode. Each output is one chain of fused multiply-adds over
 * k in ascending order, refined blocks last (mm_kernels.h), so its bits do not depend on the number
 * of columns, on tiles, or on threads.
 */
#ifndef SOBRE_CPU_MM_H
#define SOBRE_CPU_MM_H

#include <stdatomic.h>
#include <stdbool.h>

#include <sobre/backend.h>

enum { MM_PANEL = 16 };

/* How a file's type lies in panels (mm_kernels.h): X(kind, name in functions). */
/* clang-format off */
#define MM_QUANT_KINDS(X)                                                            \
    X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q8_0, q8_0)            \
    X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k)            \
    X(IQ4_NL, iq4_nl) X(IQ4_XS, iq4_xs) X(IQ3_S, iq3_s) X(MXFP4, mxfp4) X(TQ, tq)
/* clang-format on */
#define MM_FLOAT_KINDS(X) X(F16, f16) X(BF16, bf16) X(F32, f32)

typedef enum mm_kind {
#define X(kind, name) MM_KIND_##kind,
    MM_QUANT_KINDS(X) MM_N_QUANT_KINDS,
    MM_BEFORE_FLOATS = MM_N_QUANT_KINDS - 1,
    MM_FLOAT_KINDS(X) MM_N_KINDS
#undef X
} mm_kind;

typedef struct mm_weight {
    sobre_dtype dtype;
    mm_kind kind;
    int64_t n_rows, n_cols;
    uint64_t panel_size; /* bytes of 16 rows */
    const uint8_t *data; /* NULL while only sizes are asked */
} mm_weight;

/* Layout of a weight that is used in products or as a table. */
sobre_status mm_layout(const sobre_host *host, const sobre_weight *weight, mm_weight *ret_w,
                       uint64_t *ret_size);
/* Packs rows (see weight_pack in backend.h) to `to`, where the whole weight begins. BAD_FORMAT: a
 * scale is not finite. */
sobre_status mm_pack(const sobre_host *host, const mm_weight *w, const char *name, uint8_t *to,
                     int64_t row, int64_t n_rows, const void *data);
/* Row `row` as f32 [n_cols], for embeddings: exactly what the file's block type decodes to. */
void mm_unpack_row(const mm_weight *w, int64_t row, float *ret);

/* Activations prepared for products: int8 in blocks of 32 with f32 scales, or f32 when `exact` or
 * the weights are floats. One preparation serves every weight that shares the input and the
 * representation. */
typedef enum mm_act { MM_ACT_Q8, MM_ACT_F32 } mm_act;

struct mm_kernels; /* the instruction set's inner loops; mm_kernels.h */

mm_act mm_act_for(const mm_weight *w, bool exact);
uint64_t mm_act_size(mm_act act, int64_t n_cols_in,
                     int32_t n_tokens); /* n_cols_in: the length of a row of x */

typedef struct mm_prologue {
    sobre_norm_params norm;     /* kind NONE: as it is */
    const float *weight, *bias; /* [k] or NULL */
} mm_prologue;

/* Normalises and converts rows [begin, end) of x [n_tokens, k]. Rows are independent: any split
 * gives the same. */
void mm_act_prepare(const struct mm_kernels *kernels, mm_act act, const mm_prologue *prologue,
                    const float *x, int64_t k, int32_t n_tokens, int32_t begin, int32_t end,
                    void *ret_act);

/* How far threads are with a thread's share of a product. One product after another uses the same
 * cursors, which begin as zeros. */
typedef struct mm_cursor {
    _Alignas(64) atomic_uint_least64_t at;
} mm_cursor;

typedef struct mm_job {
    const struct mm_kernels *kernels;
    int32_t n_tokens;
    int32_t n_weights; /* 1 to 4 */
    bool exact;        /* act[i] is of kind mm_act_for(&w[i], exact), prepared for n_tokens */
    mm_weight w[4];
    const void *act[4];    /* prepared input in the representation that w[i] wants; may be shared */
    const float *bias[4];  /* [w.n_rows] or NULL */
    float *out[4];         /* [n_tokens, w[i].n_rows]; with glu only out[0] */
    sobre_act glu;         /* not NONE: out[0] = act(w[0] x + bias[0]) * (w[1] x + bias[1]) */
    const float *residual; /* [n_tokens, n_rows of out[0]] or NULL: added to out[0], which may be
                              the same memory */
    atomic_int next;       /* task counter: set to 0 before every run */
    mm_cursor *cursors;    /* [n_threads]; NULL: each thread does its own share */
    uint32_t number;       /* with cursors: another one than in the product before */
} mm_job;

/* Up to here a product streams the weights, and thread `thread` may use copies of the job that
 * differ in where the prepared input is; with more tokens threads share `next`. */
enum { MM_FEW_TOKENS = 8 };

/* Starts to fetch what the thread will read first if tokens are few. */
void mm_fetch_ahead(const mm_job *job, int32_t thread, int32_t n_threads);
/* Thread `thread`'s part of the job. All threads call it; the caller puts a barrier behind. */
void mm_run(mm_job *job, int32_t thread, int32_t n_threads);

/* The best kernels of an instruction set; NULL if this build or processor lacks it. */
const struct mm_kernels *mm_kernels_get(sobre_cpu_isa isa);

#endif
