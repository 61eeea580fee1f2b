/* SPDX-License-Identifier: MIT */
/*
 * What every GPU backend shares: how weights and the cache lie in memory, which kernels a node
 * becomes, with which arguments and in how many groups. A driver adds devices, memory, compilation
 * and launches.
 *
 * A program becomes a list of launches whose arguments are set once. What changes from run to run,
 * that is columns, positions and block tables, stands in the run table (kernels_cl/run.h), and in
 * the number of groups.
 */
#ifndef SOBRE_GPU_H
#define SOBRE_GPU_H

#include <stdbool.h>

#include <sobre/backend.h>

/* Passes a failure on. */
#define GPU_TRY(expr)                            \
    do {                                         \
        sobre_status try_status_ = (expr);       \
        if (try_status_ < 0) return try_status_; \
    } while (0)

/* --- The driver. */

typedef struct gpu_mem gpu_mem;       /* device memory; the driver's own */
typedef struct gpu_kernel gpu_kernel; /* a kernel with its arguments; the driver's own */

enum { GPU_MAX_ARGS = 48, GPU_DEFINES_SIZE = 96 };

/* One compiled form of a kernel. Every form that can be asked for stands in
 * kernels_cl/variants.tsv. A file's entries compile together, once for each set of defines. */
typedef struct gpu_variant {
    const char *file;               /* "gemv.cl" in kernels_cl/; static */
    const char *entry;              /* "gemv"; static */
    int32_t group;                  /* work-items a group: the kernel is built for just this many */
    char defines[GPU_DEFINES_SIZE]; /* "WTYPE=1 NC=4" */
} gpu_variant;

typedef struct gpu_arg {
    enum { GPU_ARG_MEM, GPU_ARG_INT, GPU_ARG_FLOAT } kind;
    union {
        gpu_mem *mem;
        int32_t i;
        float f;
    } u;
} gpu_arg;

typedef struct gpu_caps {
    uint64_t max_buffer; /* bytes of the largest buffer */
    uint32_t alignment;  /* of offsets, bytes */
    uint32_t local_size; /* bytes of local memory a group may have; at least 32 KiB */
    uint32_t max_group;  /* work-items a group may have; at least 256 */
    uint32_t n_units;    /* compute units */
    bool flat_memory;    /* a processor, whose local memory is no faster than the rest */
} gpu_caps;

/* C[m, n] = A[m, k] * B[n, k]^T, all row-major f32; offsets and leading dims in elements. */
typedef struct gpu_gemm {
    int32_t m, n, k;
    gpu_mem *a, *b, *c, *work;
    uint64_t a_at, b_at, c_at, work_at;
    int32_t lda, ldb, ldc;
} gpu_gemm;

/* All work of a device is done in the order in which it was asked for. Failures name the driver's
 * call. Functions may be called from several threads at once. */
typedef struct gpu_driver {
    /* *ret_host: where the host can use the memory in place, else NULL. */
    sobre_status (*mem_alloc)(sobre_device *device, uint64_t size, sobre_buffer_use use,
                              gpu_mem **ret_mem, void **ret_host);
    void (*mem_free)(sobre_device *device, gpu_mem *mem);
    /* `data` is free to change on return. */
    sobre_status (*mem_write)(sobre_device *device, gpu_mem *mem, uint64_t offset, const void *data,
                              uint64_t size);
    /* Waits for the data. */
    sobre_status (*mem_read)(sobre_device *device, gpu_mem *mem, uint64_t offset, void *ret_data,
                             uint64_t size);
    sobre_status (*mem_copy)(sobre_device *device, gpu_mem *to, uint64_t to_offset, gpu_mem *from,
                             uint64_t from_offset, uint64_t size);
    /* Begins to compile in the background; problems show in kernel_make(). */
    void (*kernel_prepare)(sobre_device *device, const gpu_variant *variant);
    /* Compiles if need be, and sets the arguments. */
    sobre_status (*kernel_make)(sobre_device *device, const gpu_variant *variant,
                                const gpu_arg *args, int32_t n_args, gpu_kernel **ret_kernel);
    void (*kernel_free)(sobre_device *device, gpu_kernel *kernel);
    sobre_status (*launch)(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                           uint32_t n_groups_y);
    /* Dense products by a library; all three NULL where there is none. */
    bool (*blas_use)(sobre_device *device); /* is it right, faster and wanted? Cheap. */
    sobre_status (*blas_work_size)(sobre_device *device, const gpu_gemm *gemm, uint64_t *ret_size);
    sobre_status (*blas_gemm)(sobre_device *device, const gpu_gemm *gemm);
} gpu_driver;

/* A driver's device begins with this. */
struct sobre_device {
    const sobre_host *host;
    const gpu_driver *driver;
    gpu_caps caps;
};

struct sobre_buffer {
    sobre_device *device;
    gpu_mem *mem;
    uint64_t size;
    void *host;
};

/* --- Building launches (exec.c). */

/* What a number of groups is counted in. */
typedef enum gpu_count { GPU_ONE, GPU_COLS, GPU_ROWS, GPU_SEQS, GPU_TILES } gpu_count;

/* ceil(count * times / per) groups; none: the launch is left out. */
typedef struct gpu_extent {
    gpu_count count;
    int32_t times, per;
} gpu_extent;

/* Conditions of a launch; all must hold. */
typedef enum gpu_when {
    GPU_WHEN_DECODE = 1,  /* every sequence of the run brings one column */
    GPU_WHEN_PREFILL = 2, /* some bring more */
    GPU_WHEN_BLAS = 4,    /* blas_use() says so, and there are at least GPU_BLAS_COLS columns */
    GPU_WHEN_NO_BLAS = 8,
    GPU_WHEN_SHORT = 16, /* as DECODE, and no sequence has more than GPU_SHORT_PAGES pages */
    GPU_WHEN_NOT_SHORT = 32,
} gpu_when;
enum { GPU_BLAS_COLS = 256, GPU_SHORT_PAGES = 64 };

typedef struct gpu_launch {
    gpu_kernel *kernel; /* NULL: gemm */
    gpu_gemm gemm;      /* its m follows the run */
    gpu_count gemm_m;
    gpu_extent x, y;
    uint32_t when;
    int32_t layer;
} gpu_launch;

/* The same walk over a program's nodes serves three purposes. */
typedef enum gpu_mode {
    GPU_MEASURE, /* bytes of workspace, number of launches */
    GPU_PREPARE, /* the driver hears of each variant */
    GPU_COMPILE, /* kernels are made */
} gpu_mode;

/* A value that is not made in some runs: what it would be made of stays in the workspace, and the
 * next node, a product, puts it together while it stages its x. See kernels_cl/attn_parts.h. */
typedef struct gpu_parts {
    int32_t value; /* -1: there are none */
    int32_t n_splits, head_dim;
    uint64_t sums_at, scores_at; /* in the workspace */
    uint32_t when, otherwise;    /* runs that leave parts; those that make the value, 0: none do */
} gpu_parts;

enum { GPU_MAX_VARIANTS = 64 }; /* that a program uses; kernels_cl/variants.tsv has fewer */

typedef struct gpu_builder {
    sobre_device *device;
    const sobre_program *program;
    gpu_mode mode;
    const sobre_node *node; /* that is being built */
    sobre_exec *exec;       /* COMPILE only */
    sobre_status status;    /* of the first failure; later calls do nothing */
    int32_t n_launches;
    uint32_t hold;                 /* conditions that hold in a run whose launches are counted */
    int32_t n_held;                /* launches of such a run */
    uint64_t work_used, work_size; /* bytes: of the node that is being built, of the largest */
    uint64_t work_kept;            /* bytes that the next node must leave alone */
    gpu_parts parts;               /* that the node before left */
    uint8_t *consts;               /* host's copy of what gpu_const() was given */
    uint64_t consts_used, consts_capacity;
    gpu_variant prepared[GPU_MAX_VARIANTS]; /* PREPARE: what the driver has heard of */
    int32_t n_prepared;
} gpu_builder;

typedef struct gpu_args {
    gpu_arg a[GPU_MAX_ARGS];
    int32_t n;
} gpu_args;

/* Each piece of memory is two arguments: the memory, and an int, its offset in elements of `unit`
 * bytes; the offset of what is missing is -1. */
void gpu_arg_int(gpu_args *args, int32_t i);
void gpu_arg_float(gpu_args *args, float f);
void gpu_arg_run(gpu_args *args, const gpu_builder *b); /* the run table: one argument, no offset */
void gpu_arg_span(gpu_args *args, gpu_builder *b, const sobre_span *span, uint32_t unit);
/* An activation or a vector (f32), or i32; value -1: missing. */
void gpu_arg_value(gpu_args *args, gpu_builder *b, int32_t value);
/* Scratch memory, from gpu_work(). */
void gpu_arg_work(gpu_args *args, gpu_builder *b, uint64_t at, uint32_t unit);
/* From gpu_const(). */
void gpu_arg_const(gpu_args *args, gpu_builder *b, uint64_t at, uint32_t unit);
/* A weight as table or matrix, three arguments: its buffer; where its quants begin, in units of 16
 * bytes (uint4); where its scales begin, in units of 2 bytes (ushort), -1 if it has none. Both
 * count from the begin of the buffer, through one pointer. */
void gpu_arg_weight(gpu_args *args, gpu_builder *b, int32_t value);

/* Takes scratch memory that lasts to the end of this node; returns its offset in bytes. */
uint64_t gpu_work(gpu_builder *b, uint64_t size);
/* The same, to the end of the next node. */
uint64_t gpu_work_kept(gpu_builder *b, uint64_t size);
/* Brings data of the host into the device's memory for as long as the exec lives; returns its
 * offset in bytes. The same data is stored once. */
uint64_t gpu_const(gpu_builder *b, const void *data, uint64_t size);
/* The frequencies of rotary positions as gpu_const(): f32 [n_dims / 2, 2], see kernels_cl/rope.h.
 * `rope->scale` is in them. */
uint64_t gpu_rope_const(gpu_builder *b, const sobre_rope_params *rope);
/* `defines` is a printf format. */
gpu_variant gpu_variant_of(const char *file, const char *entry, int32_t group, const char *defines,
                           ...);
void gpu_add(gpu_builder *b, const sobre_node *node, const gpu_variant *variant,
             const gpu_args *args, gpu_extent x, gpu_extent y, uint32_t when);
/* Adds a product by the library; m, the rows of A and C, are `m` of the run. */
void gpu_add_gemm(gpu_builder *b, const sobre_node *node, const gpu_gemm *gemm, gpu_count m,
                  uint32_t when);
void gpu_fail(gpu_builder *b, sobre_status status, const char *format, ...);

/* Node's input in a slot, -1 if there is none. */
int32_t gpu_in(const sobre_node *node, int32_t slot);
/* What dims[0] of a value counts: GPU_COLS or GPU_ROWS; and its index in the run table. */
gpu_count gpu_count_of(const gpu_builder *b, int32_t value);
int32_t gpu_run_index(gpu_count count);
/* The most that dims[0] can be in a run. */
int32_t gpu_most(const gpu_builder *b, int32_t value);
/* The next node, if it is the only reader of what this one makes; else NULL. */
const sobre_node *gpu_sole_reader(const gpu_builder *b, const sobre_node *node);

/* --- Nodes. One function a kind says if it can, one builds. */
bool gpu_rows_supports(const sobre_device *device, const sobre_value *values,
                       const sobre_node *node); /* rows.c: all but the three below */
void gpu_rows_build(gpu_builder *b, const sobre_node *node);
/* Launches that write norm(x) as f32 rows [T or R, width] into the workspace at work_at, which came
 * from gpu_work(). w and bias, values, are -1 where they are missing. */
void gpu_norm_build(gpu_builder *b, const sobre_node *node, int32_t x, int32_t w, int32_t bias,
                    const sobre_norm_params *p, int64_t width, uint64_t work_at);
bool gpu_mm_supports(const sobre_device *device, const sobre_value *values,
                     const sobre_node *node); /* mm.c */
void gpu_mm_build(gpu_builder *b, const sobre_node *node);
/* Will the product behind this node, which is an attention, take its result in parts? */
bool gpu_mm_takes_parts(const gpu_builder *b, const sobre_node *node);
/* Will the product behind this node, which is a gather, pick the rows itself? */
bool gpu_mm_takes_rows(const gpu_builder *b, const sobre_node *node);
bool gpu_attn_supports(const sobre_device *device, const sobre_value *values,
                       const sobre_node *node); /* attn.c */
void gpu_attn_build(gpu_builder *b, const sobre_node *node);
bool gpu_sample_supports(const sobre_device *device, const sobre_value *values,
                         const sobre_node *node); /* sample.c */
void gpu_sample_build(gpu_builder *b, const sobre_node *node);
sobre_status gpu_kv_page_size(sobre_device *device, const sobre_kv_desc *desc, uint64_t *ret_size);

/* --- Weights (weights.c). */
typedef struct gpu_layout {
    int32_t type;         /* W_Q4_0 and so on; -1: a vector of f32 */
    int64_t n_blocks;     /* of a row */
    uint64_t quants_size; /* bytes, without padding */
    uint64_t scales_at;   /* bytes; 0: there are none */
    uint64_t size;
} gpu_layout;
/* False if the type has no layout, or it is too large to be addressed. */
bool gpu_layout_of(const sobre_weight *weight, gpu_layout *ret_layout);
sobre_weight gpu_weight_of(const sobre_value *value, uint32_t uses);
sobre_status gpu_weight_size(sobre_device *device, const sobre_weight *weight, uint64_t *ret_size);
sobre_status gpu_weight_pack(sobre_device *device, const sobre_weight *weight, const sobre_span *to,
                             int64_t row, int64_t n_rows, const void *data);

/* --- The slots of a backend's table that do not depend on the driver (backend.c, exec.c). */
uint64_t gpu_alignment(sobre_device *device);
uint64_t gpu_max_buffer(sobre_device *device);
sobre_status gpu_buffer_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                              sobre_buffer **ret_buffer);
void gpu_buffer_free(sobre_buffer *buffer);
sobre_status gpu_write(sobre_buffer *buffer, uint64_t offset, const void *data, uint64_t size);
sobre_status gpu_read(sobre_buffer *buffer, uint64_t offset, void *ret_data, uint64_t size);
sobre_status gpu_copy(sobre_buffer *to, uint64_t to_offset, sobre_buffer *from,
                      uint64_t from_offset, uint64_t size);
void *gpu_host_pointer(sobre_buffer *buffer);
int gpu_supports(sobre_device *device, const sobre_value *values, const sobre_node *node);
sobre_status gpu_workspace_size(sobre_device *device, const sobre_program *program,
                                uint64_t *ret_size);
void gpu_prepare(sobre_device *device, const sobre_program *program);
sobre_status gpu_compile(sobre_device *device, const sobre_program *program, sobre_exec **ret_exec);
void gpu_exec_free(sobre_exec *exec);
sobre_status gpu_run(sobre_exec *exec, const sobre_run *run);
/* Of the last run; before it, of one that decodes short sequences and wants rows. */
int32_t gpu_n_launches(const sobre_exec *exec);
/* Of a run of short sequences, without the library's. */
sobre_status gpu_count_launches(sobre_device *device, const sobre_program *program, int32_t *ret_n);

#endif
