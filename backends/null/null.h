/* SPDX-License-Identifier: MIT */
/* The null backend: a device that computes nothing. It records what it is asked to do and fails
 * where a test tells it to; a new backend begins as a copy of it. */
#ifndef SOBRE_NULL_H
#define SOBRE_NULL_H

#include <stdatomic.h>
#include <stdbool.h>

#include <sobre/backend.h>

/* The slots that can fail, in the order of sobre_backend. */
#define NULL_CALLS(X)                   \
    X(DEVICE_COUNT, "device_count")     \
    X(DEVICE_INFO, "device_info")       \
    X(DEVICE_OPEN, "device_open")       \
    X(BUFFER_ALLOC, "buffer_alloc")     \
    X(WRITE, "write")                   \
    X(READ, "read")                     \
    X(COPY, "copy")                     \
    X(WEIGHT_SIZE, "weight_size")       \
    X(WEIGHT_PACK, "weight_pack")       \
    X(KV_PAGE_SIZE, "kv_page_size")     \
    X(WORKSPACE_SIZE, "workspace_size") \
    X(COMPILE, "compile")               \
    X(RUN, "run")                       \
    X(FENCE, "fence")                   \
    X(POLL, "poll")                     \
    X(WAIT, "wait")

typedef enum null_call {
#define X(id, name) NULL_CALL_##id,
    NULL_CALLS(X)
#undef X
        NULL_N_CALLS
} null_call;

/* "write". Static. */
const char *null_call_name(null_call call);

enum { NULL_LOG_SIZE = 4096 };

/* What a test wants, and what it may look at afterwards. context_null_control_set() attaches it
 * before the context lists devices; without one the null backend has no devices. All zero: one
 * working device of unlimited memory that the host cannot touch. */
typedef struct null_control {
    const char *reason;       /* not NULL: the device is listed, but cannot be used */
    uint32_t unsupported;     /* bit i: nodes of op i */
    bool simple_only;         /* nodes with a prologue or an epilogue are unsupported too */
    bool samples;             /* SAMPLE is supported: the token is 0, unless the host is to pick */
    bool host_visible;        /* host_pointer() gives the memory */
    uint64_t alignment;       /* 0: 256 */
    uint64_t memory_size;     /* 0: no limit */
    bool hides_free;          /* how much of it is free is not known */
    uint64_t max_buffer;      /* 0: no limit, and weights share a buffer */
    int32_t n_again;          /* times that poll() answers AGAIN for a ticket before OK */
    int64_t fail_at;          /* this call, from 1, fails; 0: none does */
    sobre_status fail_status; /* how */

    atomic_llong n_calls;                          /* of slots that can fail */
    null_call log[NULL_LOG_SIZE];                  /* the first of them */
    int64_t n_ops[SOBRE_N_OPS];                    /* nodes that ran */
    int32_t n_runs, n_cols, n_rows, n_seqs;        /* runs; of the last run */
    _Atomic int32_t n_devices, n_buffers, n_execs; /* that are open */
    _Atomic uint64_t used;                         /* bytes of open buffers */
} null_control;

const sobre_backend *null_backend(const sobre_host *host);

#endif
