/* SPDX-License-Identifier: MIT */
/* Attention as tests run it: cases, their data, and their evaluation on any device, cut in any way.
 */
#ifndef CONF_ATTN_H
#define CONF_ATTN_H

#include "rig.h"

typedef struct attn_case {
    const char *name;
    bool is_tiny; /* small enough for a simulator */
    sobre_attention_params p;
    sobre_kv_type kv_type;
    bool with_factors, with_sinks;
    int32_t n_seqs;
    int32_t lengths[RIG_MAX_SEQS];
} attn_case;

/* What all sequences are made of: [column][...] with a sequence's columns one after the other. */
typedef struct attn_data {
    float *q, *k, *v;
    float q_norm[256], k_norm[256], factors[128], sinks[64];
    int32_t n_cols;
} attn_data;

/* How sequences [first_seq, first_seq + n_seqs) are cut: `chunk` columns at a time (0: whole), the
 * last `tail` of each one by one; sequence i begins in run i. */
typedef struct attn_cut {
    int32_t first_seq, n_seqs, chunk, tail;
} attn_cut;

extern const attn_case attn_cases[];
extern const int32_t attn_n_cases;

attn_data attn_data_make(const attn_case *c);
void attn_data_free(attn_data *d);
/* The definition: columns from `from` on of a sequence whose first one is `first`. ret [all
 * columns] [n_head * head_dim_v]. */
void attn_reference(const attn_case *c, const attn_data *d, int32_t first, int32_t length,
                    int32_t from, double *ret);
/* Adds cache, node and its inputs to a rig opened for attn_cols() columns; returns the node. */
int32_t attn_cols(const attn_case *c, const attn_cut *cut);
sobre_node attn_build(rig *r, const attn_case *c, attn_data *d);
/* Runs what was built and compiled. ret [all columns][n_head * head_dim_v]. `last` (may be NULL)
 * gets the last run's sequences and columns. */
typedef struct attn_last {
    sobre_run_seq seqs[RIG_MAX_SEQS];
    int32_t n_seqs, n_cols, pages[RIG_MAX_SEQS][RIG_PAGES];
} attn_last;
void attn_eval(rig *r, const attn_case *c, const attn_data *d, const sobre_node *node,
               const attn_cut *cut, float *ret, attn_last *last);

#endif
