/* SPDX-License-Identifier: MIT */
/* The CPU backend's table: one device, whose memory is the host's. */
#include "cpu.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attn.h"
#include "checked.h"
#include "quant.h"
#include "step.h"

enum { ALIGN = 64 };

/* --- The device */

static sobre_status device_count(const sobre_host *host, int32_t *ret_n)
{
    *ret_n = 1;
    return SOBRE_OK;
}

static void lacks_text(sobre_context *ctx, const char *processor, char *text, size_t size)
{
    snprintf(text, size, "%s was asked for, but this processor (%s) or this build lacks it",
             cpu_isa_name(context_cpu_isa(ctx)), processor);
}

static sobre_status device_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    sobre_context *ctx = host->context;
    char name[64], detail[64], reason[192] = "";
    int32_t n_threads = context_n_threads(ctx);
    sobre_cpu_isa isa = context_cpu_isa(ctx);
    int cpus[256], n_cores = 0;
    os_cpus(cpus, 256, &n_cores);
    cpu_model_name(name, sizeof name);
    if (!cpu_isa_resolve(isa, &isa)) lacks_text(ctx, name, reason, sizeof reason);
    snprintf(detail, sizeof detail, "%s, %d %s", cpu_isa_name(isa), (int)n_threads,
             n_threads == 1 ? "thread" : "threads");

    sobre_device_info info = *ret_info;
    info.kind = SOBRE_DEVICE_CPU;
    info.backend = "cpu";
    info.name = context_text(ctx, name);
    info.detail = context_text(ctx, detail);
    info.reason = reason[0] ? context_text(ctx, reason) : NULL;
    info.n_units = n_cores;
    if (!info.name || !info.detail || (reason[0] && !info.reason)) return SOBRE_OUT_OF_MEMORY;
    os_memory_info(&info.memory_bytes, &info.memory_free);
    *ret_info = info;
    return SOBRE_OK;
}

static sobre_status device_open(const sobre_host *host, int32_t index, sobre_device **ret_device)
{
    sobre_context *ctx = host->context;
    sobre_cpu_isa isa;
    if (!cpu_isa_resolve(context_cpu_isa(ctx), &isa)) {
        char name[64], reason[192];
        cpu_model_name(name, sizeof name);
        lacks_text(ctx, name, reason, sizeof reason);
        return fail(ctx, SOBRE_UNAVAILABLE, "%s", reason);
    }
    sobre_device *d = mem_alloc(ctx, 1, sizeof *d);
    if (!d) return SOBRE_OUT_OF_MEMORY;
    d->host = host;
    d->ctx = ctx;
    d->isa = isa;
    d->mm = mm_kernels_get(isa);
    d->vec = vec_kernels_get(isa);
    *ret_device = d;
    return SOBRE_OK;
}

static void device_close(sobre_device *device)
{
    mem_free(device->ctx, device);
}

static void mem_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free)
{
    os_memory_info(ret_total, ret_free);
}

static uint64_t alignment(sobre_device *device)
{
    return ALIGN;
}

static uint64_t max_buffer(sobre_device *device)
{
    return UINT64_MAX;
}

/* --- Buffers */

static sobre_status buffer_make(sobre_device *device, uint8_t *data, size_t size, bool imported,
                                sobre_buffer **ret_buffer)
{
    sobre_buffer *b = mem_alloc(device->ctx, 1, sizeof *b);
    if (!b) return SOBRE_OUT_OF_MEMORY;
    *b = (sobre_buffer){device->ctx, data, size, imported};
    *ret_buffer = b;
    return SOBRE_OK;
}

static sobre_status buffer_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                                 sobre_buffer **ret_buffer)
{
    size_t host_size;
    if (!checked_size(size, &host_size))
        return fail(device->ctx, SOBRE_OUT_OF_MEMORY,
                    "a buffer of %llu bytes is larger than the address space",
                    (unsigned long long)size);
    /* Streaming from huge pages is much faster; the cache must not be committed before its use. */
    uint8_t *data = mem_pages_alloc(device->ctx, host_size, use == SOBRE_BUFFER_WEIGHTS);
    if (!data) return SOBRE_OUT_OF_MEMORY;
    sobre_status status = buffer_make(device, data, host_size, false, ret_buffer);
    if (status < 0) mem_pages_free(device->ctx, data, host_size);
    return status;
}

/* `handle` is memory of the host; there is one kind, 0. */
static sobre_status buffer_import(sobre_device *device, int32_t kind, void *handle, uint64_t size,
                                  sobre_buffer **ret_buffer)
{
    if (kind != 0)
        return fail(device->ctx, SOBRE_INVALID_ARGUMENT,
                    "the CPU imports memory as kind 0; there is no kind %d", (int)kind);
    if (!handle || (uintptr_t)handle % ALIGN != 0 || size > SIZE_MAX)
        return fail(device->ctx, SOBRE_INVALID_ARGUMENT,
                    "memory to import must begin at a multiple of %d bytes", ALIGN);
    return buffer_make(device, handle, (size_t)size, true, ret_buffer);
}

static void buffer_free(sobre_buffer *buffer)
{
    if (!buffer) return;
    if (!buffer->imported) mem_pages_free(buffer->ctx, buffer->data, buffer->size);
    mem_free(buffer->ctx, buffer);
}

static sobre_status buffer_write(sobre_buffer *buffer, uint64_t offset, const void *data,
                                 uint64_t size)
{
    memcpy(buffer->data + offset, data, (size_t)size);
    return SOBRE_OK;
}

static sobre_status buffer_read(sobre_buffer *buffer, uint64_t offset, void *ret_data,
                                uint64_t size)
{
    memcpy(ret_data, buffer->data + offset, (size_t)size);
    return SOBRE_OK;
}

static sobre_status buffer_copy(sobre_buffer *to, uint64_t to_offset, sobre_buffer *from,
                                uint64_t from_offset, uint64_t size)
{
    memmove(to->data + to_offset, from->data + from_offset, (size_t)size);
    return SOBRE_OK;
}

static void *host_pointer(sobre_buffer *buffer)
{
    return buffer->data;
}

/* --- Nodes and weights */

static bool is_matrix(const sobre_value *values, int32_t value)
{
    const sobre_value *v = &values[value];
    return v->kind == SOBRE_VALUE_WEIGHT && (quant_form_get(v->dtype) || v->dtype == SOBRE_F32 ||
                                             v->dtype == SOBRE_F16 || v->dtype == SOBRE_BF16);
}

static bool has_input(const sobre_node *node, int32_t slot)
{
    return slot < node->n_in && node->in[slot] >= 0;
}

static int supports(sobre_device *device, const sobre_value *values, const sobre_node *node)
{
    switch (node->op) {
    case SOBRE_OP_EMBED: return is_matrix(values, node->in[SOBRE_EMBED_TABLE]);
    case SOBRE_OP_MATMUL:
        for (int32_t i = 0; i < node->p.matmul.n_weights; i++)
            if (!is_matrix(values, node->in[SOBRE_MATMUL_W0 + 2 * i])) return 0;
        return 1;
    case SOBRE_OP_ATTENTION: /* over the cache only, without a bias */
        return node->p.attention.kv >= 0 && !has_input(node, SOBRE_ATTN_BIAS) &&
               (node->p.attention.append || !has_input(node, SOBRE_ATTN_K));
    case SOBRE_OP_GATHER:
    case SOBRE_OP_NORM:
    case SOBRE_OP_ROPE:
    case SOBRE_OP_GLU:
    case SOBRE_OP_ACTIVATION:
    case SOBRE_OP_ADD:
    case SOBRE_OP_MUL:
    case SOBRE_OP_SCALE:
    case SOBRE_OP_SOFTCAP:
    case SOBRE_OP_ARGMAX: return 1;
    case SOBRE_OP_SAMPLE: /* the host reads the logits in place */
    case SOBRE_N_OPS: break;
    }
    return 0;
}

static bool is_vector(const sobre_weight *weight)
{
    return !(weight->uses & (SOBRE_WEIGHT_MATMUL | SOBRE_WEIGHT_TABLE));
}

static sobre_status weight_size(sobre_device *device, const sobre_weight *weight,
                                uint64_t *ret_size)
{
    mm_weight w;
    uint64_t n;
    if (!is_vector(weight)) return mm_layout(device->host, weight, &w, ret_size);
    if (!checked_mul((uint64_t)weight->n_rows, (uint64_t)weight->n_cols, &n) ||
        !checked_mul(n, sizeof(float), &n))
        return fail(device->ctx, SOBRE_BAD_FORMAT, "tensor '%s': its size overflows", weight->name);
    *ret_size = n;
    return SOBRE_OK;
}

static sobre_status vector_pack(sobre_device *device, const sobre_weight *weight, float *to,
                                int64_t row, int64_t n_rows, const void *data)
{
    uint64_t row_size = 0;
    if (!dtype_row_size(weight->dtype, weight->n_cols, &row_size))
        return fail(device->ctx, SOBRE_BAD_FORMAT, "tensor '%s': rows of %lld are no whole blocks",
                    weight->name, (long long)weight->n_cols);
    for (int64_t r = 0; r < n_rows; r++) {
        float *ret = to + (row + r) * weight->n_cols;
        dtype_decode(weight->dtype, (const uint8_t *)data + (uint64_t)r * row_size, weight->n_cols,
                     ret);
        for (int64_t i = 0; i < weight->n_cols; i++)
            if (!isfinite(ret[i]))
                return fail(device->ctx, SOBRE_BAD_FORMAT,
                            "tensor '%s': element %lld of row %lld is not finite; the file is "
                            "damaged or was converted wrongly",
                            weight->name, (long long)i, (long long)(row + r));
    }
    return SOBRE_OK;
}

static sobre_status weight_pack(sobre_device *device, const sobre_weight *weight,
                                const sobre_span *to, int64_t row, int64_t n_rows, const void *data)
{
    uint8_t *target = to->buffer->data + to->offset;
    if (is_vector(weight)) return vector_pack(device, weight, (float *)target, row, n_rows, data);
    mm_weight w;
    uint64_t size;
    TRY(mm_layout(device->host, weight, &w, &size));
    return mm_pack(device->host, &w, weight->name, target, row, n_rows, data);
}

static sobre_status kv_page_size(sobre_device *device, const sobre_kv_desc *desc,
                                 uint64_t *ret_size)
{
    if (!attn_page_size(desc, ret_size))
        return fail(device->ctx, SOBRE_UNSUPPORTED,
                    "a KV cache of type %d with %d heads of %d and %d is more than the CPU can do",
                    (int)desc->type, (int)desc->n_head_kv, (int)desc->head_dim,
                    (int)desc->head_dim_v);
    return SOBRE_OK;
}

/* --- Runs end before run() returns. */

static sobre_status fence(sobre_device *device, uint64_t *ret_ticket)
{
    *ret_ticket = 0;
    return SOBRE_OK;
}

static sobre_status done(sobre_device *device, uint64_t ticket)
{
    return SOBRE_OK;
}

static const sobre_backend backend = {
    .struct_size = sizeof(sobre_backend),
    .name = "cpu",
    .device_count = device_count,
    .device_info = device_info,
    .device_open = device_open,
    .device_close = device_close,
    .mem_info = mem_info,
    .alignment = alignment,
    .max_buffer = max_buffer,
    .buffer_alloc = buffer_alloc,
    .buffer_import = buffer_import,
    .buffer_free = buffer_free,
    .write = buffer_write,
    .read = buffer_read,
    .copy = buffer_copy,
    .host_pointer = host_pointer,
    .supports = supports,
    .weight_size = weight_size,
    .weight_pack = weight_pack,
    .kv_page_size = kv_page_size,
    .workspace_size = step_workspace_size,
    .compile = step_compile,
    .exec_free = step_free,
    .run = step_run,
    .fence = fence,
    .poll = done,
    .wait = done,
    .n_launches = step_count,
};

const sobre_backend *cpu_backend(const sobre_host *host)
{
    return &backend;
}
