/* SPDX-License-Identifier: MIT */
/*
 * Single nodes on any device, through the backend's table only: values in one arena, weights packed
 * in their buffers, and for attention a cache whose pages are handed out in no order. Everything is
 * full of NaN before it is written, and what lies behind a value must stay so.
 *
 * The devices to test are named by the environment: SOBRE_TEST_DEVICES ("cpu,null,opencl:0"; "cpu"
 * is each instruction set, "cpu:2" the third), SOBRE_TEST_PLUGINS (the folder of plugins).
 */
#ifndef RIG_H
#define RIG_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#include "context.h"
#include "isas.h"
#include "null.h"
#include "random_weights.h"

enum {
    RIG_VALUES = 32,
    RIG_NODES = 8,
    RIG_MAX_SEQS = 8,
    RIG_PAGES = 80,
    RIG_MAX_DEVICES = 12,
    RIG_GUARD = 256, /* bytes behind each value that nobody may write */
};

typedef struct rig_device {
    char name[48]; /* "cpu AVX2", "null", "opencl:0" */
    char backend[16];
    int32_t index, n_threads;
    sobre_cpu_isa isa;
    sobre_blas blas;
    null_control null;
    sobre_context *ctx; /* NULL until it is opened */
    const device_entry *entry;
} rig_device;

/* The devices that the environment names. */
int32_t rig_devices(rig_device devices[RIG_MAX_DEVICES]);
/* The CPU with one instruction set. */
rig_device rig_cpu(sobre_cpu_isa isa, int32_t n_threads);
/* Has the processor the instruction set? rig_device_need() skips the test, saying so, if not. */
bool rig_is_possible(const rig_device *device);
void rig_device_need(const rig_device *device);
void rig_device_open(rig_device *device);
void rig_device_close(rig_device *device);
bool rig_is_null(const rig_device *device);
/* Are there results to look at? Not the null backend's, nor with SOBRE_TEST_BLIND, for drivers that
 * play. */
bool rig_computes(const rig_device *device);

extern const sobre_cpu_isa rig_isas[N_ISAS]; /* the scalar one first */

/* A CPU test once for each instruction set. */
#define RIG_TEST(f, isa, name) {#f ", " name, f, NULL, NULL, (void *)(uintptr_t)(isa)},
#define RIG_TESTS(f)           ISAS(RIG_TEST, f)
/* The instruction set that a test of RIG_TESTS is for. */
sobre_cpu_isa rig_isa(void **state);

typedef struct rig {
    rig_device *on;
    sobre_context *ctx;
    const sobre_backend *b;
    sobre_device *device;
    sobre_buffer *arena, *kv, *own[RIG_VALUES]; /* of values that have one of their own */
    uint64_t arena_size;
    sobre_value values[RIG_VALUES];
    sobre_span spans[RIG_VALUES];
    struct rig_packed { /* weights, until they are packed */
        sobre_weight weight;
        uint8_t *file;
    } packed[RIG_VALUES];
    int32_t n_values, n_uses[RIG_VALUES];
    sobre_node nodes[RIG_NODES];
    int32_t n_nodes;
    int32_t n_cols, n_rows; /* the most of a run */
    bool exact;
    bool no_poison; /* for a simulator that sees what nobody wrote: each value has a buffer */
    bool no_cache;  /* the device has none of the kind that is asked for */
    sobre_kv_slot slot;
    sobre_program program;
    sobre_exec *exec;
} rig;

/* Opens the device if that was not done yet; it stays open. */
void rig_open(rig *r, rig_device *on, int32_t n_cols, int32_t n_rows);
void rig_close(rig *r);

/* -- Values, before rig_compile(). */

/* An activation f32 [rows (may be T or R), n]. */
int32_t rig_input(rig *r, int64_t rows, int64_t n);
/* i32 [rows]. */
int32_t rig_ints(rig *r, int64_t rows);
/* A weight [rows, n] (rows 0: a vector [n]); x [rows * n] becomes what the type can hold of it. */
int32_t rig_weight(rig *r, sobre_dtype dtype, uint32_t uses, int64_t rows, int64_t n, float *x);
/* The same of data as in a file, which are copied. */
int32_t rig_weight_file(rig *r, sobre_dtype dtype, uint32_t uses, int64_t rows, int64_t n,
                        const void *data);
/* A cache of RIG_PAGES pages. */
void rig_cache(rig *r, sobre_kv_type type, int32_t n_head_kv, int32_t head_dim, int32_t head_dim_v);

/* -- Nodes. */

/* One with all slots empty. */
sobre_node rig_node(sobre_op op);
void rig_add(rig *r, const sobre_node *node);
/* Can the device run all of them? */
bool rig_supported(const rig *r);
/* Allocates, packs and compiles. */
void rig_compile(rig *r);

/* -- Runs. */
void rig_write(rig *r, int32_t value, const void *data, uint64_t size);
void rig_read(rig *r, int32_t value, void *ret_data, uint64_t size);
/* Waits, too. NULL seqs: all columns are one sequence. */
void rig_run(rig *r, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs);
/* Has anything been written behind a value? Fails the test if so. */
void rig_check_guards(rig *r);

#endif
