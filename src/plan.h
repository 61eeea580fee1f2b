/* SPDX-License-Identifier: MIT */
/* From a graph to something that runs.
 *
 * lower  rewrites nodes that no device of the placement supports into simpler ones
 * fuse   merges neighbours by a table of rules, each asked of the backend first
 * memplan gives each temp an offset in its device's arena by first and last use
 * plan   slices the nodes by device, adds copies between devices, compiles each slice
 * exec   fills inputs, runs the slices, finds outputs
 */
#ifndef SOBRE_PLAN_H
#define SOBRE_PLAN_H

#include "ops.h"

/* --- graph.c (internals of the public type) */
struct sobre_graph {
    sobre_context *ctx;
    sobre_value *values;
    int32_t n_values, values_capacity;
    sobre_node *nodes;
    int32_t n_nodes, nodes_capacity;
    int32_t layer;
    sobre_status status; /* the first failure, and what was reported of it */
    char message[256];
};
/* Adds a value, or a temp shaped like another; -1 as the public builders. */
int32_t graph_value(sobre_graph *g, const sobre_value *value);
int32_t graph_temp(sobre_graph *g, sobre_op op, const sobre_value *like);
/* Adds a node whose outputs are set. */
sobre_status graph_append(sobre_graph *g, const sobre_node *node);
/* Puts -1 in the slots past n_in and n_out, and drops empty slots at the end. */
void node_trim(sobre_node *node);
sobre_status graph_clone(const sobre_graph *g, sobre_graph **ret_graph);
/* How many nodes read each value (outputs count as one more), and which node makes it (-1: none).
 * Arrays [n_values]. */
void graph_uses(const sobre_graph *g, int32_t *ret_n_uses, int32_t *ret_producer);
/* A copy that takes embeddings where `g` looks token ids up; values keep their indices. UNSUPPORTED
 * if it looks none up. */
sobre_status graph_take_embeddings(const sobre_graph *g, sobre_graph **ret_graph);
/* Drops nodes marked with op SOBRE_N_OPS (graph_uses leaves them out). */
void graph_compact(sobre_graph *g);

/* --- lower.c, fuse.c: in place. `supports` is asked of candidates. */
enum { MAX_PLACED = 8 }; /* devices that one model can be spread over */

typedef struct device_set {
    const device_entry *entries[MAX_PLACED]; /* in order of preference; the CPU last */
    int32_t n;
    int32_t first_layer; /* layers before this one, and the embedding, are the last device's */
} device_set;
/* The first device that may run a node and supports it, -1 if none does: it will run there. */
int32_t devices_pick(const device_set *devices, const sobre_value *values, const sobre_node *node);
sobre_status graph_lower(sobre_graph *g, const device_set *devices);
sobre_status graph_fuse(sobre_graph *g, const device_set *devices);
/* A copy that also samples, where its logits are made; values keep their indices. NULL if there are
 * none, or the device that makes them cannot sample. In graph.c. */
sobre_status graph_take_sampling(const sobre_graph *g, const device_set *devices,
                                 sobre_graph **ret_graph);

/* --- memplan.c */
typedef struct memplan_item {
    uint64_t size;
    int32_t first, last; /* steps, inclusive */
    uint64_t ret_offset;
} memplan_item;
/* Greedy by size: the largest item first, each at the lowest offset that is free during its life.
 */
sobre_status memplan_assign(sobre_context *ctx, memplan_item *items, int32_t n, uint64_t align,
                            uint64_t *ret_size);

/* --- plan.c */
typedef struct plan_options {
    const device_set *devices;
    int32_t n_cols, n_rows, n_seq; /* bounds */
    bool exact;
    const sobre_span *weights; /* [n_values] of the graph; NULL: sizes only, nothing is compiled */
    bool prepare;              /* without weights: devices may begin to compile in the background */
    const sobre_kv_slot *kv_slots; /* without weights their buffers may be missing */
    int32_t n_kv_slots;
    int32_t n_pages; /* the most that a sequence will have; 0: not known, sizes only */
} plan_options;

typedef struct plan_slice {
    int32_t device; /* index in devices */
    int32_t first_node, n_nodes;
    sobre_program program;
    sobre_exec *exec;
    int32_t first_copy, n_copies; /* before the slice runs */
} plan_slice;

typedef struct plan_copy {
    int32_t value, from, to; /* devices */
} plan_copy;

typedef struct plan {
    sobre_context *ctx;
    const sobre_graph *graph; /* lowered and fused; not owned */
    device_set devices;
    int32_t n_cols, n_rows, n_seq;
    bool exact;
    int32_t *node_device;            /* [n_nodes] */
    int32_t *n_uses;                 /* [n_values] */
    sobre_span *spans[MAX_PLACED];   /* per device [n_values] */
    uint64_t arena_size[MAX_PLACED]; /* temps, inputs and outputs */
    uint64_t workspace_size[MAX_PLACED];
    sobre_buffer *arena[MAX_PLACED];
    plan_slice *slices;
    int32_t n_slices;
    plan_copy *copies;
    int32_t n_copies;
    int32_t n_launches; /* of the last run */
    /* Values by role, -1: none. */
    int32_t ids, pos, rows, embd, sampling, logits, picks;
    int32_t logits_device, picks_device;
    void *staging; /* host memory for inputs, copies and outputs that cannot be read in place */
    uint64_t staging_size;
} plan;

sobre_status plan_make(sobre_context *ctx, const sobre_graph *graph, const plan_options *options,
                       plan **ret_plan);
void plan_free(plan *p);

/* --- exec.c */
typedef struct exec_batch {
    int32_t n_cols, n_rows, n_seqs;
    const int32_t *ids, *pos; /* [n_cols] */
    const int32_t *rows;      /* [n_rows] */
    const float *embd;        /* [n_cols, n_embd] instead of ids */
    const int32_t *sampling;  /* [n_rows, SOBRE_SAMPLE_PARAMS_SIZE], for a plan that samples */
    const sobre_run_seq *seqs;
    int (*cancelled)(const void *user);
    const void *cancelled_user;
} exec_batch;
/* Runs the plan and waits. *ret_logits: [n_rows, n_vocab], valid until the plan's next run; may be
 * NULL if n_rows is 0 (nodes after the last GATHER then do no work), or if the plan samples, which
 * leaves it alone. */
sobre_status exec_run(plan *p, const exec_batch *batch, const float **ret_logits);
/* After a run of a plan that samples: its results [n_rows, SOBRE_SAMPLE_RESULT_SIZE], and one row
 * of its logits [n_vocab]. Each is valid until it is asked for again, or the next run. */
sobre_status exec_picks(plan *p, int32_t n_rows, const int32_t **ret_picks);
sobre_status exec_logits(plan *p, int32_t row, const float **ret_logits);

/* --- inspect.c */
typedef struct text_sink {
    void (*write)(void *user, const char *text, size_t size);
    void *user;
} text_sink;
sobre_status inspect_graph(sobre_context *ctx, const sobre_graph *g, const char *title,
                           sobre_dump_format format, const text_sink *sink);
sobre_status inspect_plan(const plan *p, sobre_dump_format format, const text_sink *sink);

#endif
