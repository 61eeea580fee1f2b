/* SPDX-License-Identifier: MIT */
/*
 * Backends: what a kind of device must provide. The library reaches a device only through this
 * table.
 *
 * A backend is a const table of functions. Built-in ones stand in backends/registry.c; a plugin, a
 * shared library called libsobre-<name>, exports one function, sobre_backend_entry().
 *
 * Arguments were validated by the caller: sizes fit, spans lie inside their buffers, nodes have
 * checked shapes. Every slot that can fail returns a status and reports through host->fail.
 *
 * Sessions on several threads use a device at once. Calls on one buffer or one exec are serialised
 * by the caller (but weight_pack, which comes for disjoint rows from several threads); all others
 * may run concurrently, so a device locks what its buffers and execs share.
 */
#ifndef SOBRE_BACKEND_H
#define SOBRE_BACKEND_H

#include <sobre/graph.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sobre_device sobre_device; /* the backend's own */
typedef struct sobre_buffer sobre_buffer; /* memory on a device; the backend's own */
typedef struct sobre_exec sobre_exec;     /* a compiled program; the backend's own */

/* What the library gives to a backend. Outlives every device. */
typedef struct sobre_host {
    size_t struct_size;
    sobre_context *context;
    void *(*alloc)(sobre_context *context, size_t size,
                   size_t align); /* zeroed; reports its own failure */
    void (*free)(sobre_context *context, void *ptr);
    void (*log)(sobre_context *context, sobre_log_level level, const char *format, ...);
    sobre_status (*fail)(sobre_context *context, sobre_status status, const char *format,
                         ...); /* returns status */
    const char *cache_dir;     /* NULL: cache nothing */
    const char *(*text)(sobre_context *context,
                        const char *text); /* a copy that lives as long as the context */
    sobre_blas blas;                       /* as the context was opened */
} sobre_host;

enum { SOBRE_KV_PAGE = 64 }; /* positions a page */

typedef enum sobre_buffer_use {
    SOBRE_BUFFER_WEIGHTS, /* written once, streamed */
    SOBRE_BUFFER_KV,      /* large, should be committed as it is touched */
    SOBRE_BUFFER_ARENA,   /* activations, inputs, outputs */
} sobre_buffer_use;

typedef struct sobre_span {
    sobre_buffer *buffer;
    uint64_t offset, size; /* bytes; offset is a multiple of the device's alignment */
} sobre_span;

/* How a weight is used; a tied embedding is both. */
enum { SOBRE_WEIGHT_MATMUL = 1, SOBRE_WEIGHT_TABLE = 2, SOBRE_WEIGHT_VECTOR = 4 };

typedef struct sobre_weight {
    const char *name; /* for messages */
    sobre_dtype dtype;
    uint32_t uses;
    int64_t n_rows, n_cols; /* a vector has one row */
} sobre_weight;

typedef struct sobre_kv_desc {
    sobre_kv_type type;
    int32_t n_head_kv, head_dim, head_dim_v;
} sobre_kv_desc;

/* One KV cache (a layer's): page p starts at offset + p * page_size. */
typedef struct sobre_kv_slot {
    sobre_kv_desc desc;
    sobre_buffer *buffer; /* NULL: on another device, or only sizes are asked */
    uint64_t offset, page_size;
} sobre_kv_slot;

/* What a device is to run: a slice of a plan. What it points to stays valid as long as the exec is
 * run; exec_free() must not look at it, since the model may have been unloaded by then. */
typedef struct sobre_program {
    size_t struct_size;
    const sobre_value *values; /* all of the graph */
    int32_t n_values;
    const sobre_node *nodes; /* of this device only, in order */
    int32_t n_nodes;
    const sobre_span
        *spans; /* [n_values]: where each value lies; buffer NULL: not on this device */
    int32_t n_cols, n_rows, n_seq; /* the most that a run will have */
    int32_t n_pages;               /* the most that a sequence will have */
    const sobre_kv_slot *kv_slots; /* by sobre_attention_params.kv */
    int32_t n_kv_slots;
    int32_t exact; /* f32 activations in products */
    /* [n_values]: how often nodes on any device read a value, or the host does. NULL: not known. */
    const int32_t *n_uses;
} sobre_program;

/* One sequence's share of a run. */
typedef struct sobre_run_seq {
    int32_t col, n_cols;  /* its columns in the batch */
    int32_t pos;          /* position of its first column = positions already cached */
    const int32_t *pages; /* block table: page ids for positions 0 .. pos + n_cols - 1 */
} sobre_run_seq;

typedef struct sobre_run {
    size_t struct_size;
    int32_t n_cols, n_rows, n_seqs;
    const sobre_run_seq *seqs;
    int (*cancelled)(
        const void *user); /* asked at least once a layer; non-zero: return CANCELLED soon */
    const void *cancelled_user;
} sobre_run;

typedef struct sobre_backend {
    size_t struct_size;
    const char *name;

    /* Devices, counted once; those that cannot be used have a reason. */
    sobre_status (*device_count)(const sobre_host *host, int32_t *ret_n);
    sobre_status (*device_info)(const sobre_host *host, int32_t index, sobre_device_info *ret_info);
    sobre_status (*device_open)(const sobre_host *host, int32_t index, sobre_device **ret_device);
    void (*device_close)(sobre_device *device);
    /* 0 where not known. */
    void (*mem_info)(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free);
    /* Offsets inside buffers are multiples of this, a power of two. */
    uint64_t (*alignment)(sobre_device *device);
    /* The largest buffer. Where it is not UINT64_MAX, each weight and each KV cache gets a buffer
     * of its own, else all weights share one, and so do all caches. */
    uint64_t (*max_buffer)(sobre_device *device);

    sobre_status (*buffer_alloc)(sobre_device *device, uint64_t size, sobre_buffer_use use,
                                 sobre_buffer **ret_buffer);
    /* Wraps memory of the host program; `kind` is the backend's. NULL slot: UNSUPPORTED. */
    sobre_status (*buffer_import)(sobre_device *device, int32_t kind, void *handle, uint64_t size,
                                  sobre_buffer **ret_buffer);
    void (*buffer_free)(sobre_buffer *buffer);
    sobre_status (*write)(sobre_buffer *buffer, uint64_t offset, const void *data, uint64_t size);
    sobre_status (*read)(sobre_buffer *buffer, uint64_t offset, void *ret_data, uint64_t size);
    sobre_status (*copy)(sobre_buffer *to, uint64_t to_offset, sobre_buffer *from,
                         uint64_t from_offset, uint64_t size);
    /* The buffer's memory if the host can use it in place, else NULL. */
    void *(*host_pointer)(sobre_buffer *buffer);

    /* Can this node, in this graph, run here? Asked of fused candidates too. */
    int (*supports)(sobre_device *device, const sobre_value *values, const sobre_node *node);

    /* Bytes of a packed weight. */
    sobre_status (*weight_size)(sobre_device *device, const sobre_weight *weight,
                                uint64_t *ret_size);
    /* Packs rows [row, row + n_rows), `data` as in the file. `row`
     * is a multiple of 16, and so is n_rows but at the end. Rejects scales that are not finite:
     * BAD_FORMAT with the row. */
    sobre_status (*weight_pack)(sobre_device *device, const sobre_weight *weight,
                                const sobre_span *to, int64_t row, int64_t n_rows,
                                const void *data);
    sobre_status (*kv_page_size)(sobre_device *device, const sobre_kv_desc *desc,
                                 uint64_t *ret_size);

    /* Bytes that compile() will allocate on the device. Spans may be missing. */
    sobre_status (*workspace_size)(sobre_device *device, const sobre_program *program,
                                   uint64_t *ret_size);
    /* A program like this one, whose spans have no buffers yet, will be compiled soon: the device
     * may begin in the background. May be NULL. The program is not valid after the call. */
    void (*prepare)(sobre_device *device, const sobre_program *program);
    sobre_status (*compile)(sobre_device *device, const sobre_program *program,
                            sobre_exec **ret_exec);
    void (*exec_free)(sobre_exec *exec);
    /* Starts a run; may return before it is done. Reads of outputs come after wait(). */
    sobre_status (*run)(sobre_exec *exec, const sobre_run *run);
    /* A ticket for everything started so far. */
    sobre_status (*fence)(sobre_device *device, uint64_t *ret_ticket);
    sobre_status (*poll)(sobre_device *device, uint64_t ticket); /* AGAIN while it runs */
    sobre_status (*wait)(sobre_device *device, uint64_t ticket);
    /* Steps or kernels that the last run of this exec launched; before the first one, that a run
     * which decodes a token will. */
    int32_t (*n_launches)(const sobre_exec *exec);
    /* The same of a program whose buffers may be missing, without compiling it: for a run in which
     * one sequence brings n_cols columns and wants n_rows rows. NULL: one a node. */
    sobre_status (*count_launches)(sobre_device *device, const sobre_program *program,
                                   int32_t *ret_n);
} sobre_backend;

/* The plugin's one symbol. NULL, after host->fail, if it cannot work here. */
typedef const sobre_backend *(*sobre_backend_entry_fn)(const sobre_host *host);

#ifdef __cplusplus
}
#endif

#endif
