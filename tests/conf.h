/* SPDX-License-Identifier: MIT */
/*
 * Conformance: cases written once and run by every backend. A case is a function that builds a few
 * nodes on a rig, runs them and says what the outputs should be, with a tolerance that follows from
 * the length of sums and the representation of what is summed. The same case times its nodes when
 * asked.
 *
 *     if (!conf_begin(c, CONF_USUAL, T, R, "scale [%d, %d]", T, n)) return;
 *     ... rig_input(), rig_weight(), rig_add() on &c->rig ...
 *     if (conf_compile(c)) {
 *         ... rig_write() ...
 *         conf_run(c, T, R, NULL, 0);
 *         conf_expect(c, out, T * n, reference, tolerance);
 *     }
 *     conf_end(c);
 */
#ifndef CONF_H
#define CONF_H

#include "rig.h"

/* Which cases run: the smallest, for simulators; small ones, for emulated processors; usual ones;
 * all, which are timed. */
typedef enum conf_size { CONF_TINY, CONF_SMALL, CONF_USUAL, CONF_LARGE } conf_size;

enum { CONF_NAME_SIZE = 160 };

typedef struct conf {
    rig_device *device;
    rig_device *blas;  /* the same with products given to a library; NULL: has none */
    const char *group; /* "rows", "products", "attention", "chains" */
    conf_size size;
    const char *filter; /* only cases whose names contain this; NULL: all */
    rig rig;
    char name[CONF_NAME_SIZE]; /* of the running case */
    int32_t n_cases, n_refused;
    uint64_t lines_met;               /* of the list of what is not supported */
    sobre_run_seq seqs[RIG_MAX_SEQS]; /* of the last run */
    int32_t n_cols, n_rows, n_seqs;
} conf;

typedef struct conf_family {
    const char *name;
    void (*run)(conf *c);
} conf_family;

/* conf_rows.c, conf_mm.c, conf_attn.c, conf_chain.c: families end with a NULL name. */
extern const conf_family conf_rows_families[], conf_mm_families[], conf_attn_families[],
    conf_chain_families[];

/* Is a case of this name among those to run? */
bool conf_wants(const conf *c, conf_size size, const char *name);
/* Begins a case for at most n_cols columns and n_rows rows; false if it is not among those to run.
 */
bool conf_begin(conf *c, conf_size size, int32_t n_cols, int32_t n_rows, const char *format, ...)
    SOBRE_PRINTF(5, 6);
/* Compiles what the rig holds; false if the device refuses it, as its list of what it does not
 * support says. A list that is wrong fails the test. */
bool conf_compile(conf *c);
/* Notes a run that was made without conf_run(), for the times. */
void conf_ran(conf *c, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs);
/* With pages that stay valid to the end of the case. */
void conf_run(conf *c, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs);
/* Compares an output's first n elements; `tolerance` [n] is absolute. On a device that computes
 * nothing, only that they were written. */
void conf_expect(conf *c, int32_t value, int64_t n, const double *reference,
                 const double *tolerance);
/* The same where every bit must be right. */
void conf_expect_exact(conf *c, int32_t value, int64_t n, const float *reference);
void conf_expect_ints(conf *c, int32_t value, int64_t n, const int32_t *reference);
void conf_compare(const conf *c, const float *x, int64_t n, const double *reference,
                  const double *tolerance);
/* Times the last run if asked, checks what lies between values, and frees everything. */
void conf_end(conf *c);

/* The smallest normal number, and rounding to nearest. Numbers below the former may become 0. */
#define CONF_TINIEST 1.2e-38
#define CONF_EPS     0x1p-24

/* Fails the test if a line of the device's list met no case, after all have run. */
void conf_check_list(const conf *c);

/* --- The definitions (conf_rows.c). */
double conf_act(sobre_act act, double x);
/* One row; ret_size [n] gets magnitudes that rounding is relative to. */
void conf_norm(sobre_norm_params p, const float *x, const float *w, const float *b, int64_t n,
               double *ret, double *ret_size);

/* A row of weights as the device holds them. */
void conf_decode(const conf *c, sobre_dtype dtype, const void *row, int64_t n, float *ret);

/* Values of a kind, in -1 .. 1 times a scale. */
typedef enum conf_kind { CONF_NORMAL, CONF_DENORMAL, CONF_HUGE } conf_kind;
const char *conf_kind_name(conf_kind kind);
void conf_fill(conf_kind kind, double huge, float *x, int64_t n, uint32_t seed);

#endif
