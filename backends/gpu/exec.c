/* SPDX-License-Identifier: MIT */
/* From a program to launches, and runs of them. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "gpu.h"
#include "run.h"

/* Pieces of the workspace and of the constants begin at multiples of this at least. */
enum { WORK_ALIGN = 256 };

/* Conditions that hold when short sequences are decoded without the library. */
static const uint32_t decode_holds = GPU_WHEN_DECODE | GPU_WHEN_SHORT | GPU_WHEN_NO_BLAS;

struct sobre_exec {
    sobre_device *device;
    gpu_launch *launches;
    int32_t n_launches, n_measured;
    int32_t n_launched;          /* by the last run */
    int32_t n_before_rows;       /* launches of a run that wants no rows */
    sobre_buffer *work, *consts; /* NULL: there are none */
    sobre_buffer *table;         /* the run table */
    int32_t *run;                /* its next content */
    int32_t run_size;            /* integers */
    bool has_pages;              /* something reads page ids */
};

/* --- Arguments */

static gpu_arg *next_arg(gpu_args *args)
{
    /* Kernels' signatures are fixed: the tables of arguments cannot grow with a model. */
    return &args->a[args->n < GPU_MAX_ARGS ? args->n++ : GPU_MAX_ARGS - 1];
}

static void arg_mem(gpu_args *args, const sobre_buffer *buffer)
{
    *next_arg(args) = (gpu_arg){.kind = GPU_ARG_MEM, .u = {.mem = buffer ? buffer->mem : NULL}};
}

/* Memory, and an offset of whole units in it. */
static void arg_at(gpu_args *args, gpu_builder *b, const sobre_buffer *buffer, uint64_t offset,
                   uint32_t unit)
{
    if (offset % unit != 0 || offset / unit > INT32_MAX)
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "its data begin %llu bytes into a buffer, and a kernel can address %lld units of "
                 "%u bytes; use a smaller batch or context",
                 (unsigned long long)offset, (long long)INT32_MAX, (unsigned)unit);
    arg_mem(args, buffer);
    gpu_arg_int(args, (int32_t)(offset / unit));
}

static void arg_missing(gpu_args *args, const gpu_builder *b)
{
    gpu_arg_run(args, b);
    gpu_arg_int(args, -1);
}

void gpu_arg_int(gpu_args *args, int32_t i)
{
    *next_arg(args) = (gpu_arg){.kind = GPU_ARG_INT, .u = {.i = i}};
}

void gpu_arg_float(gpu_args *args, float f)
{
    *next_arg(args) = (gpu_arg){.kind = GPU_ARG_FLOAT, .u = {.f = f}};
}

void gpu_arg_run(gpu_args *args, const gpu_builder *b)
{
    arg_mem(args, b->exec ? b->exec->table : NULL);
}

void gpu_arg_span(gpu_args *args, gpu_builder *b, const sobre_span *span, uint32_t unit)
{
    arg_at(args, b, span->buffer, span->offset, unit);
}

/* Of activations and scratch memory kernels count elements from the begin of a buffer. */
static void check_end(gpu_builder *b, uint64_t end)
{
    const uint64_t most = (uint64_t)INT32_MAX * sizeof(float);
    if (end > most)
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "its data end %llu bytes into a buffer, of which kernels can address %llu; use a "
                 "smaller batch",
                 (unsigned long long)end, (unsigned long long)most);
}

void gpu_arg_value(gpu_args *args, gpu_builder *b, int32_t value)
{
    if (value < 0) {
        arg_missing(args, b);
        return;
    }
    const sobre_span *span = &b->program->spans[value];
    gpu_arg_span(args, b, span, 4);
    check_end(b, span->offset + span->size);
}

void gpu_arg_work(gpu_args *args, gpu_builder *b, uint64_t at, uint32_t unit)
{
    arg_at(args, b, b->exec ? b->exec->work : NULL, at, unit);
}

void gpu_arg_const(gpu_args *args, gpu_builder *b, uint64_t at, uint32_t unit)
{
    arg_at(args, b, b->exec ? b->exec->consts : NULL, at, unit);
}

void gpu_arg_weight(gpu_args *args, gpu_builder *b, int32_t value)
{
    enum { QUANTS_UNIT = 16, SCALES_UNIT = 2 };
    const sobre_span *span = &b->program->spans[value];
    sobre_weight weight = gpu_weight_of(&b->program->values[value], SOBRE_WEIGHT_MATMUL);
    gpu_layout layout = {0};
    if (!gpu_layout_of(&weight, &layout))
        gpu_fail(b, SOBRE_UNSUPPORTED, "the weight '%s' has no layout here", weight.name);
    uint64_t scales = (span->offset + layout.scales_at) / SCALES_UNIT;
    if (scales > INT32_MAX)
        gpu_fail(b, SOBRE_UNSUPPORTED, "the weight '%s' is too large for this device", weight.name);
    gpu_arg_span(args, b, span, QUANTS_UNIT);
    gpu_arg_int(args, layout.scales_at > 0 ? (int32_t)scales : -1);
}

/* --- Building */

void gpu_fail(gpu_builder *b, sobre_status status, const char *format, ...)
{
    if (b->status < 0) return;
    b->status = status;
    if (b->mode == GPU_PREPARE) return; /* compile() will find it again, and report it */
    const sobre_host *host = b->device->host;
    char what[320];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (b->node)
        (void)host->fail(host->context, status, "%s: %s", b->program->values[b->node->out[0]].name,
                         what);
    else
        (void)host->fail(host->context, status, "%s", what);
}

/* A failure that was reported already. */
static void keep_failure(gpu_builder *b, sobre_status status)
{
    if (b->status >= 0 && status < 0) b->status = status;
}

/* Builders must do the same in each mode: what they ask for when kernels are made was measured. */
static bool was_measured(gpu_builder *b, bool is_there)
{
    if (!b->exec || is_there) return true;
    gpu_fail(b, SOBRE_INTERNAL, "its launches are not those that were measured");
    return false;
}

/* Room for `size` bytes at the next aligned place. */
static bool place(gpu_builder *b, uint64_t size, uint64_t *used, uint64_t *ret_at)
{
    uint64_t align = b->device->caps.alignment, at, end;
    if (align < WORK_ALIGN) align = WORK_ALIGN;
    if (!checked_round_up(*used, align, &at) || !checked_add(at, size, &end)) {
        gpu_fail(b, SOBRE_OUT_OF_MEMORY, "its workspace is too large; use a smaller batch");
        return false;
    }
    *used = end;
    *ret_at = at;
    return true;
}

uint64_t gpu_work(gpu_builder *b, uint64_t size)
{
    uint64_t at = 0;
    if (!place(b, size, &b->work_used, &at)) return 0;
    check_end(b, b->work_used);
    if (b->work_used <= b->work_size) return at;
    if (was_measured(b, false)) b->work_size = b->work_used;
    return at;
}

uint64_t gpu_work_kept(gpu_builder *b, uint64_t size)
{
    uint64_t at = gpu_work(b, size);
    b->work_kept = b->work_used;
    return at;
}

/* Where the same bytes are already, at a place that place() could give; false: nowhere. */
static bool find_const(const gpu_builder *b, const void *data, uint64_t size, uint64_t *ret_at)
{
    uint64_t align = b->device->caps.alignment;
    if (align < WORK_ALIGN) align = WORK_ALIGN;
    for (uint64_t at = 0; at + size <= b->consts_used; at += align) {
        if (memcmp(b->consts + at, data, (size_t)size) == 0) {
            *ret_at = at;
            return true;
        }
    }
    return false;
}

static bool grow_consts(gpu_builder *b, uint64_t size)
{
    const sobre_host *host = b->device->host;
    uint64_t capacity = b->consts_capacity ? b->consts_capacity : 4096;
    size_t bytes;
    if (size <= b->consts_capacity) return true;
    while (capacity < size && checked_mul(capacity, 2, &capacity)) {
    }
    uint8_t *grown = capacity >= size && checked_size(capacity, &bytes)
                         ? host->alloc(host->context, bytes, _Alignof(max_align_t))
                         : NULL;
    if (!grown) {
        keep_failure(b, SOBRE_OUT_OF_MEMORY);
        return false;
    }
    if (b->consts_used > 0) memcpy(grown, b->consts, (size_t)b->consts_used);
    host->free(host->context, b->consts);
    b->consts = grown;
    b->consts_capacity = capacity;
    return true;
}

uint64_t gpu_const(gpu_builder *b, const void *data, uint64_t size)
{
    uint64_t at = 0, used = b->consts_used;
    if (b->status < 0 || find_const(b, data, size, &at)) return at;
    if (!was_measured(b, false) || !place(b, size, &used, &at) || !grow_consts(b, used)) return 0;
    memcpy(b->consts + at, data, (size_t)size);
    b->consts_used = used;
    return at;
}

gpu_variant gpu_variant_of(const char *file, const char *entry, int32_t group, const char *defines,
                           ...)
{
    gpu_variant v = {.file = file, .entry = entry, .group = group};
    va_list args;
    va_start(args, defines);
    vsnprintf(v.defines, sizeof v.defines, defines, args);
    va_end(args);
    return v;
}

static bool is_same(const gpu_variant *a, const gpu_variant *b)
{
    return a->group == b->group && strcmp(a->file, b->file) == 0 &&
           strcmp(a->entry, b->entry) == 0 && strcmp(a->defines, b->defines) == 0;
}

static void prepare(gpu_builder *b, const gpu_variant *variant)
{
    for (int32_t i = 0; i < b->n_prepared; i++)
        if (is_same(&b->prepared[i], variant)) return;
    if (b->n_prepared < GPU_MAX_VARIANTS) b->prepared[b->n_prepared++] = *variant;
    b->device->driver->kernel_prepare(b->device, variant);
}

static bool can_add(gpu_builder *b)
{
    return b->status >= 0 && was_measured(b, b->exec && b->exec->n_launches < b->exec->n_measured);
}

static void add_launch(gpu_builder *b, const gpu_launch *launch)
{
    if (b->exec) b->exec->launches[b->exec->n_launches++] = *launch;
    b->n_launches++;
    if ((launch->when & ~b->hold) == 0) b->n_held++;
}

void gpu_add(gpu_builder *b, const sobre_node *node, const gpu_variant *variant,
             const gpu_args *args, gpu_extent x, gpu_extent y, uint32_t when)
{
    gpu_launch launch = {.x = x, .y = y, .when = when, .layer = node->layer};
    if (!can_add(b)) return;
    if (b->mode == GPU_PREPARE) prepare(b, variant);
    if (b->exec) {
        keep_failure(b, b->device->driver->kernel_make(b->device, variant, args->a, args->n,
                                                       &launch.kernel));
        if (b->status < 0) return;
    }
    add_launch(b, &launch);
}

void gpu_add_gemm(gpu_builder *b, const sobre_node *node, const gpu_gemm *gemm, gpu_count m,
                  uint32_t when)
{
    gpu_launch launch = {.gemm = *gemm, .gemm_m = m, .when = when, .layer = node->layer};
    if (can_add(b)) add_launch(b, &launch);
}

int32_t gpu_in(const sobre_node *node, int32_t slot)
{
    return slot < node->n_in ? node->in[slot] : -1;
}

gpu_count gpu_count_of(const gpu_builder *b, int32_t value)
{
    return b->program->values[value].dims[0] == SOBRE_DIM_R ? GPU_ROWS : GPU_COLS;
}

int32_t gpu_run_index(gpu_count count)
{
    static const int32_t index[] = {[GPU_ONE] = -1,
                                    [GPU_COLS] = RUN_N_COLS,
                                    [GPU_ROWS] = RUN_N_ROWS,
                                    [GPU_SEQS] = RUN_N_SEQS,
                                    [GPU_TILES] = RUN_N_TILES};
    return index[count];
}

int32_t gpu_most(const gpu_builder *b, int32_t value)
{
    return gpu_count_of(b, value) == GPU_ROWS ? b->program->n_rows : b->program->n_cols;
}

const sobre_node *gpu_sole_reader(const gpu_builder *b, const sobre_node *node)
{
    const sobre_program *p = b->program;
    const sobre_node *next = node + 1;
    int32_t value = node->out[0];
    if (next == p->nodes + p->n_nodes || !p->n_uses || p->n_uses[value] != 1) return NULL;
    for (int32_t i = 0; i < next->n_in; i++)
        if (next->in[i] == value) return next;
    return NULL;
}

static void build(gpu_builder *b, const sobre_node *node)
{
    switch (node->op) {
    case SOBRE_OP_MATMUL: gpu_mm_build(b, node); break;
    case SOBRE_OP_ATTENTION: gpu_attn_build(b, node); break;
    case SOBRE_OP_SAMPLE: gpu_sample_build(b, node); break;
    default: gpu_rows_build(b, node);
    }
}

static sobre_status walk(gpu_builder *b)
{
    b->parts.value = -1;
    for (int32_t i = 0; i < b->program->n_nodes && b->status >= 0; i++) {
        const sobre_node *node = &b->program->nodes[i];
        b->node = node;
        b->work_used = b->work_kept;
        b->work_kept = 0;
        /* What follows only serves rows that are wanted. */
        if (b->exec && b->exec->n_before_rows < 0 && gpu_count_of(b, node->out[0]) == GPU_ROWS)
            b->exec->n_before_rows = b->exec->n_launches;
        build(b, node);
        if (node->op != SOBRE_OP_ATTENTION) b->parts.value = -1;
    }
    b->work_kept = 0;
    b->node = NULL;
    return b->status;
}

/* --- Compiling */

static void builder_free(gpu_builder *b)
{
    const sobre_host *host = b->device->host;
    host->free(host->context, b->consts);
}

/* Integers of the largest run table. A tile has at least one column. */
static bool run_table_size(const sobre_program *p, int32_t *ret_n)
{
    uint64_t n = RUN_HEAD_SIZE + (uint64_t)p->n_seq * RUN_SEQ_SIZE +
                 (uint64_t)p->n_cols * (1 + RUN_TILE_SIZE) +
                 (uint64_t)p->n_seq * (uint64_t)p->n_pages;
    if (n > INT32_MAX / sizeof(int32_t)) return false;
    *ret_n = (int32_t)n;
    return true;
}

/* What compile() allocates on the device, from a builder that has measured. */
static sobre_status measure(gpu_builder *b, int32_t *ret_run_size)
{
    GPU_TRY(walk(b));
    if (!run_table_size(b->program, ret_run_size)) {
        gpu_fail(b, SOBRE_UNSUPPORTED,
                 "block tables for %d sequences of %d pages are too large for this device; use "
                 "fewer sequences or a smaller context",
                 (int)b->program->n_seq, (int)b->program->n_pages);
        return b->status;
    }
    return SOBRE_OK;
}

sobre_status gpu_workspace_size(sobre_device *device, const sobre_program *program,
                                uint64_t *ret_size)
{
    gpu_builder b = {.device = device, .program = program, .mode = GPU_MEASURE};
    int32_t run_size = 0;
    sobre_status status = measure(&b, &run_size);
    builder_free(&b);
    if (status < 0) return status;
    *ret_size = b.work_size + b.consts_used + (uint64_t)run_size * sizeof(int32_t);
    return SOBRE_OK;
}

void gpu_prepare(sobre_device *device, const sobre_program *program)
{
    gpu_builder b = {.device = device, .program = program, .mode = GPU_PREPARE};
    (void)walk(&b);
    builder_free(&b);
}

static sobre_status alloc_exec(const gpu_builder *b, sobre_exec *e)
{
    const sobre_host *host = b->device->host;
    e->n_measured = b->n_launches;
    if (b->n_launches > 0) {
        e->launches = host->alloc(host->context, (size_t)b->n_launches * sizeof *e->launches,
                                  _Alignof(gpu_launch));
        if (!e->launches) return SOBRE_OUT_OF_MEMORY;
    }
    uint64_t table_size = (uint64_t)e->run_size * sizeof *e->run;
    e->run = host->alloc(host->context, (size_t)table_size, _Alignof(int32_t));
    if (!e->run) return SOBRE_OUT_OF_MEMORY;
    GPU_TRY(gpu_buffer_alloc(e->device, table_size, SOBRE_BUFFER_ARENA, &e->table));
    if (b->work_size > 0)
        GPU_TRY(gpu_buffer_alloc(e->device, b->work_size, SOBRE_BUFFER_ARENA, &e->work));
    if (b->consts_used > 0) {
        GPU_TRY(gpu_buffer_alloc(e->device, b->consts_used, SOBRE_BUFFER_ARENA, &e->consts));
        GPU_TRY(gpu_write(e->consts, 0, b->consts, b->consts_used));
    }
    return SOBRE_OK;
}

static sobre_status compile(gpu_builder *b, sobre_exec *e)
{
    GPU_TRY(measure(b, &e->run_size));
    GPU_TRY(alloc_exec(b, e));
    b->mode = GPU_COMPILE;
    b->exec = e;
    GPU_TRY(walk(b));
    e->has_pages = b->program->n_pages > 0;
    if (e->n_before_rows < 0) e->n_before_rows = e->n_launches;
    for (int32_t i = 0; i < e->n_launches; i++)
        if ((e->launches[i].when & ~decode_holds) == 0) e->n_launched++;
    return SOBRE_OK;
}

sobre_status gpu_compile(sobre_device *device, const sobre_program *program, sobre_exec **ret_exec)
{
    const sobre_host *host = device->host;
    sobre_exec *e = host->alloc(host->context, sizeof *e, _Alignof(sobre_exec));
    if (!e) return SOBRE_OUT_OF_MEMORY;
    e->device = device;
    e->n_before_rows = -1;
    gpu_builder b = {.device = device, .program = program, .mode = GPU_MEASURE};
    sobre_status status = compile(&b, e);
    builder_free(&b);
    if (status < 0) {
        gpu_exec_free(e);
        return status;
    }
    *ret_exec = e;
    return SOBRE_OK;
}

void gpu_exec_free(sobre_exec *exec)
{
    if (!exec) return;
    const sobre_device *d = exec->device;
    for (int32_t i = 0; i < exec->n_launches; i++)
        if (exec->launches[i].kernel)
            d->driver->kernel_free(exec->device, exec->launches[i].kernel);
    gpu_buffer_free(exec->work);
    gpu_buffer_free(exec->consts);
    gpu_buffer_free(exec->table);
    d->host->free(d->host->context, exec->run);
    d->host->free(d->host->context, exec->launches);
    d->host->free(d->host->context, exec);
}

int32_t gpu_n_launches(const sobre_exec *exec)
{
    return exec->n_launched;
}

sobre_status gpu_count_launches(sobre_device *device, const sobre_program *program, int32_t *ret_n)
{
    gpu_builder b = {.device = device, .program = program, .mode = GPU_MEASURE};
    b.hold = program->n_cols > 1 ? GPU_WHEN_PREFILL | GPU_WHEN_NOT_SHORT | GPU_WHEN_NO_BLAS
                                 : decode_holds;
    sobre_status status = walk(&b);
    builder_free(&b);
    if (status >= 0) *ret_n = b.n_held;
    return status;
}

/* --- Running */

static int32_t pages_of(const sobre_run_seq *q)
{
    return (int32_t)(((int64_t)q->pos + q->n_cols + RUN_PAGE - 1) / RUN_PAGE);
}

/* The table of a run: returns how many integers it has; 0: this exec was not made for so much. */
static int32_t fill_table(sobre_exec *e, const sobre_run *run)
{
    int64_t n_pages = 0, n_tiles = 0;
    for (int32_t s = 0; s < run->n_seqs; s++) {
        const sobre_run_seq *q = &run->seqs[s];
        n_tiles += (q->n_cols + RUN_TILE_COLS - 1) / RUN_TILE_COLS;
        if (e->has_pages) n_pages += pages_of(q);
    }
    int64_t seq_at = RUN_HEAD_SIZE, col_at = seq_at + (int64_t)run->n_seqs * RUN_SEQ_SIZE;
    int64_t tile_at = col_at + run->n_cols, page_at = tile_at + n_tiles * RUN_TILE_SIZE;
    if (page_at + n_pages > e->run_size) return 0;
    int32_t *t = e->run;
    t[RUN_N_COLS] = run->n_cols;
    t[RUN_N_ROWS] = run->n_rows;
    t[RUN_N_SEQS] = run->n_seqs;
    t[RUN_N_TILES] = (int32_t)n_tiles;
    t[RUN_SEQ_AT] = (int32_t)seq_at;
    t[RUN_COL_AT] = (int32_t)col_at;
    t[RUN_TILE_AT] = (int32_t)tile_at;
    t[RUN_PAGE_AT] = (int32_t)page_at;
    int32_t *seq = t + seq_at, *tile = t + tile_at, *page = t + page_at;
    for (int32_t s = 0; s < run->n_seqs; s++, seq += RUN_SEQ_SIZE) {
        const sobre_run_seq *q = &run->seqs[s];
        seq[RUN_SEQ_COL] = q->col;
        seq[RUN_SEQ_N_COLS] = q->n_cols;
        seq[RUN_SEQ_POS] = q->pos;
        seq[RUN_SEQ_PAGES] = (int32_t)(page - (t + page_at));
        for (int32_t i = 0; i < q->n_cols; i++) t[col_at + q->col + i] = s;
        for (int32_t i = 0; i < q->n_cols; i += RUN_TILE_COLS, tile += RUN_TILE_SIZE) {
            tile[RUN_TILE_SEQ] = s;
            tile[RUN_TILE_FIRST] = i;
        }
        if (!e->has_pages) continue;
        int32_t n = pages_of(q);
        memcpy(page, q->pages, (size_t)n * sizeof *page);
        page += n;
    }
    return (int32_t)(page_at + n_pages);
}

static int32_t count_in(const int32_t *table, gpu_count count)
{
    return count == GPU_ONE ? 1 : table[gpu_run_index(count)];
}

static uint32_t groups_in(const int32_t *table, gpu_extent extent)
{
    int64_t n = (int64_t)count_in(table, extent.count) * extent.times;
    return (uint32_t)((n + extent.per - 1) / extent.per);
}

/* The conditions that hold in this run. */
static uint32_t conditions(sobre_device *d, const sobre_run *run)
{
    bool decode = true, is_short = true;
    for (int32_t s = 0; s < run->n_seqs; s++) {
        if (run->seqs[s].n_cols != 1) decode = false;
        if (pages_of(&run->seqs[s]) > GPU_SHORT_PAGES) is_short = false;
    }
    bool blas = run->n_cols >= GPU_BLAS_COLS && d->driver->blas_use && d->driver->blas_use(d);
    return (decode ? GPU_WHEN_DECODE : GPU_WHEN_PREFILL) |
           (decode && is_short ? GPU_WHEN_SHORT : GPU_WHEN_NOT_SHORT) |
           (blas ? GPU_WHEN_BLAS : GPU_WHEN_NO_BLAS);
}

/* Left out if it has nothing to do. */
static sobre_status launch(sobre_exec *e, const gpu_launch *l)
{
    sobre_device *d = e->device;
    if (!l->kernel) {
        gpu_gemm gemm = l->gemm;
        gemm.m = count_in(e->run, l->gemm_m);
        if (gemm.m == 0) return SOBRE_OK;
        e->n_launched++;
        return d->driver->blas_gemm(d, &gemm);
    }
    uint32_t x = groups_in(e->run, l->x), y = groups_in(e->run, l->y);
    if (x == 0 || y == 0) return SOBRE_OK;
    e->n_launched++;
    return d->driver->launch(d, l->kernel, x, y);
}

static sobre_status check_cancelled(const sobre_host *host, const sobre_run *run)
{
    if (!run->cancelled || !run->cancelled(run->cancelled_user)) return SOBRE_OK;
    return host->fail(host->context, SOBRE_CANCELLED, "cancelled; the tokens so far stay");
}

sobre_status gpu_run(sobre_exec *exec, const sobre_run *run)
{
    sobre_device *d = exec->device;
    const sobre_host *host = d->host;
    GPU_TRY(check_cancelled(host, run));
    int32_t n = fill_table(exec, run);
    if (n == 0)
        return host->fail(host->context, SOBRE_INVALID_ARGUMENT,
                          "run: %d columns of %d sequences do not fit this plan; make a larger one",
                          (int)run->n_cols, (int)run->n_seqs);
    GPU_TRY(gpu_write(exec->table, 0, exec->run, (uint64_t)n * sizeof *exec->run));
    uint32_t hold = conditions(d, run);
    exec->n_launched = 0;
    int32_t n_launches = run->n_rows == 0 ? exec->n_before_rows : exec->n_launches;
    for (int32_t i = 0; i < n_launches; i++) {
        const gpu_launch *l = &exec->launches[i];
        if (i > 0 && l->layer != l[-1].layer) GPU_TRY(check_cancelled(host, run));
        if ((l->when & ~hold) == 0) GPU_TRY(launch(exec, l));
    }
    return SOBRE_OK;
}
