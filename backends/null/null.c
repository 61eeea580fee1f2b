/* SPDX-License-Identifier: MIT */
/* The null backend, slot by slot. What each slot must do is said in backend.h; the comments here
 * say what a real device would do in its place. */
#include "null.h"

#include <string.h>

#include "checked.h"
#include "context.h"
#include "dtype.h"
#include "ops.h"

enum { DEFAULT_ALIGN = 256, POISON = 0xff /* floats of these bytes are NaN */ };

struct sobre_device { /* a real one holds its queue and its compiled kernels */
    const sobre_host *host;
    null_control *control;
    _Atomic uint64_t ticket; /* of the last fence */
    _Atomic int32_t n_polls; /* that answered AGAIN since */
};

struct sobre_buffer {
    sobre_device *device;
    uint64_t size;
    uint8_t *data;
};

struct sobre_exec {
    sobre_device *device;
    const sobre_program *program;
};

const char *null_call_name(null_call call)
{
    static const char *const names[] = {
#define X(id, name) name,
        NULL_CALLS(X)
#undef X
    };
    return call >= 0 && call < NULL_N_CALLS ? names[call] : "?";
}

/* Notes a call, and fails it if it is the one. */
static sobre_status enter(const sobre_host *host, null_control *control, null_call call)
{
    int64_t n = atomic_fetch_add(&control->n_calls, 1) + 1;
    if (n <= NULL_LOG_SIZE) control->log[n - 1] = call;
    if (n == control->fail_at)
        return host->fail(host->context, control->fail_status,
                          "null device: call %lld, %s, fails as told", (long long)n,
                          null_call_name(call));
    return SOBRE_OK;
}

static sobre_status enter_device(sobre_device *device, null_call call)
{
    return enter(device->host, device->control, call);
}

static null_control *control_of(const sobre_host *host)
{
    return context_null_control(host->context);
}

/* --- Devices. A real backend loads its driver in device_count(), once, and says in `reason` why a
 * device cannot be used. */

static sobre_status device_count(const sobre_host *host, int32_t *ret_n)
{
    null_control *control = control_of(host);
    if (control) TRY(enter(host, control, NULL_CALL_DEVICE_COUNT));
    *ret_n = control ? 1 : 0;
    return SOBRE_OK;
}

static sobre_status device_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    null_control *control = control_of(host);
    TRY(enter(host, control, NULL_CALL_DEVICE_INFO));
    ret_info->kind = SOBRE_DEVICE_NULL;
    ret_info->backend = "null";
    ret_info->name = "null device";
    ret_info->detail = "computes nothing";
    ret_info->reason = control->reason;
    ret_info->memory_bytes = ret_info->memory_free = control->memory_size;
    ret_info->n_units = 1;
    return SOBRE_OK;
}

static sobre_status device_open(const sobre_host *host, int32_t index, sobre_device **ret_device)
{
    null_control *control = control_of(host);
    TRY(enter(host, control, NULL_CALL_DEVICE_OPEN));
    if (control->reason) return host->fail(host->context, SOBRE_UNAVAILABLE, "%s", control->reason);
    sobre_device *d = host->alloc(host->context, sizeof *d, _Alignof(sobre_device));
    if (!d) return SOBRE_OUT_OF_MEMORY;
    d->host = host;
    d->control = control;
    control->n_devices++;
    *ret_device = d;
    return SOBRE_OK;
}

static void device_close(sobre_device *device)
{
    device->control->n_devices--;
    device->host->free(device->host->context, device);
}

static void mem_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free)
{
    uint64_t size = device->control->memory_size, used = device->control->used;
    *ret_total = size;
    *ret_free = used < size && !device->control->hides_free ? size - used : 0;
}

static uint64_t alignment(sobre_device *device)
{
    return device->control->alignment ? device->control->alignment : DEFAULT_ALIGN;
}

static uint64_t max_buffer(sobre_device *device)
{
    return device->control->max_buffer ? device->control->max_buffer : UINT64_MAX;
}

/* --- Buffers. Fresh memory is poisoned, so that a test notices what nobody wrote. */

static sobre_status buffer_alloc(sobre_device *device, uint64_t size, sobre_buffer_use use,
                                 sobre_buffer **ret_buffer)
{
    const sobre_host *host = device->host;
    null_control *control = device->control;
    size_t host_size;
    TRY(enter_device(device, NULL_CALL_BUFFER_ALLOC));
    if (!checked_size(size, &host_size) ||
        (control->memory_size && size > control->memory_size - control->used))
        return host->fail(host->context, SOBRE_DEVICE_OUT_OF_MEMORY,
                          "null device: no room for %llu bytes", (unsigned long long)size);
    sobre_buffer *b = host->alloc(host->context, sizeof *b, _Alignof(sobre_buffer));
    if (!b) return SOBRE_OUT_OF_MEMORY;
    b->data = host->alloc(host->context, host_size, DEFAULT_ALIGN);
    if (!b->data) {
        host->free(host->context, b);
        return SOBRE_OUT_OF_MEMORY;
    }
    memset(b->data, POISON, host_size);
    b->device = device;
    b->size = size;
    control->n_buffers++;
    control->used += size;
    *ret_buffer = b;
    return SOBRE_OK;
}

static void buffer_free(sobre_buffer *buffer)
{
    if (!buffer) return;
    const sobre_host *host = buffer->device->host;
    buffer->device->control->n_buffers--;
    buffer->device->control->used -= buffer->size;
    host->free(host->context, buffer->data);
    host->free(host->context, buffer);
}

static sobre_status buffer_write(sobre_buffer *buffer, uint64_t offset, const void *data,
                                 uint64_t size)
{
    TRY(enter_device(buffer->device, NULL_CALL_WRITE));
    memcpy(buffer->data + offset, data, (size_t)size);
    return SOBRE_OK;
}

static sobre_status buffer_read(sobre_buffer *buffer, uint64_t offset, void *ret_data,
                                uint64_t size)
{
    TRY(enter_device(buffer->device, NULL_CALL_READ));
    memcpy(ret_data, buffer->data + offset, (size_t)size);
    return SOBRE_OK;
}

static sobre_status buffer_copy(sobre_buffer *to, uint64_t to_offset, sobre_buffer *from,
                                uint64_t from_offset, uint64_t size)
{
    TRY(enter_device(to->device, NULL_CALL_COPY));
    memmove(to->data + to_offset, from->data + from_offset, (size_t)size);
    return SOBRE_OK;
}

static void *host_pointer(sobre_buffer *buffer)
{
    return buffer->device->control->host_visible ? buffer->data : NULL;
}

/* --- Nodes. A real backend looks at shapes and types, and answers alike for a node each time. */

static bool is_fused(const sobre_node *node)
{
    if (node->op == SOBRE_OP_MATMUL)
        return node->p.matmul.n_weights > 1 || node->p.matmul.norm.kind != SOBRE_NORM_NONE ||
               node->p.matmul.glu != SOBRE_ACT_NONE ||
               (node->n_in > SOBRE_MATMUL_RESIDUAL && node->in[SOBRE_MATMUL_RESIDUAL] >= 0) ||
               (node->n_in > SOBRE_MATMUL_B0 && node->in[SOBRE_MATMUL_B0] >= 0);
    if (node->op == SOBRE_OP_ATTENTION)
        return node->p.attention.rope.kind != SOBRE_ROPE_NONE ||
               node->p.attention.qk_norm.kind != SOBRE_NORM_NONE;
    return false;
}

static int supports(sobre_device *device, const sobre_value *values, const sobre_node *node)
{
    const null_control *control = device->control;
    if (control->unsupported >> node->op & 1) return 0;
    if (node->op == SOBRE_OP_SAMPLE) return control->samples;
    return !control->simple_only || !is_fused(node);
}

/* --- Weights keep the file's layout here; a real backend brings them into its kernels' order. */

static sobre_status row_size(sobre_device *device, const sobre_weight *weight, uint64_t *ret_size)
{
    if (!dtype_row_size(weight->dtype, weight->n_cols, ret_size))
        return device->host->fail(device->host->context, SOBRE_BAD_FORMAT,
                                  "tensor '%s': rows of %lld are no whole blocks", weight->name,
                                  (long long)weight->n_cols);
    return SOBRE_OK;
}

static sobre_status weight_size(sobre_device *device, const sobre_weight *weight,
                                uint64_t *ret_size)
{
    uint64_t size = 0;
    TRY(enter_device(device, NULL_CALL_WEIGHT_SIZE));
    TRY(row_size(device, weight, &size));
    if (!checked_mul(size, (uint64_t)weight->n_rows, &size))
        return device->host->fail(device->host->context, SOBRE_BAD_FORMAT,
                                  "tensor '%s': its size overflows", weight->name);
    *ret_size = size;
    return SOBRE_OK;
}

static sobre_status weight_pack(sobre_device *device, const sobre_weight *weight,
                                const sobre_span *to, int64_t row, int64_t n_rows, const void *data)
{
    uint64_t size = 0;
    TRY(enter_device(device, NULL_CALL_WEIGHT_PACK));
    TRY(row_size(device, weight, &size));
    memcpy(to->buffer->data + to->offset + (uint64_t)row * size, data,
           (size_t)((uint64_t)n_rows * size));
    return SOBRE_OK;
}

static sobre_status kv_page_size(sobre_device *device, const sobre_kv_desc *desc,
                                 uint64_t *ret_size)
{
    TRY(enter_device(device, NULL_CALL_KV_PAGE_SIZE));
    if (desc->type != SOBRE_KV_F32 && desc->type != SOBRE_KV_F16)
        return device->host->fail(device->host->context, SOBRE_UNSUPPORTED,
                                  "KV cache: kv_type %d is none of f32 and f16, which this device "
                                  "has; use one of them, or the CPU",
                                  (int)desc->type);
    uint64_t item = desc->type == SOBRE_KV_F16 ? 2 : 4, align = alignment(device);
    uint64_t size = (uint64_t)desc->n_head_kv * SOBRE_KV_PAGE * item *
                    ((uint64_t)desc->head_dim + (uint64_t)desc->head_dim_v);
    *ret_size = (size + align - 1) / align * align;
    return SOBRE_OK;
}

/* --- Programs. A real backend turns nodes into launches here, with every argument resolved, and
 * allocates what they need beyond the plan's arena. */

static sobre_status workspace_size(sobre_device *device, const sobre_program *program,
                                   uint64_t *ret_size)
{
    TRY(enter_device(device, NULL_CALL_WORKSPACE_SIZE));
    *ret_size = 0;
    return SOBRE_OK;
}

static sobre_status compile(sobre_device *device, const sobre_program *program,
                            sobre_exec **ret_exec)
{
    const sobre_host *host = device->host;
    TRY(enter_device(device, NULL_CALL_COMPILE));
    sobre_exec *e = host->alloc(host->context, sizeof *e, _Alignof(sobre_exec));
    if (!e) return SOBRE_OUT_OF_MEMORY;
    e->device = device;
    e->program = program;
    device->control->n_execs++;
    *ret_exec = e;
    return SOBRE_OK;
}

static void exec_free(sobre_exec *exec)
{
    if (!exec) return;
    const sobre_host *host = exec->device->host;
    exec->device->control->n_execs--;
    host->free(host->context, exec);
}

static uint8_t *data_of(const sobre_program *p, int32_t value)
{
    return p->spans[value].buffer->data + p->spans[value].offset;
}

/* Zeros are token 0, but some rows are the host's. */
static void leave_rows(const sobre_program *p, const sobre_node *node, int32_t n_rows)
{
    const int32_t *params = (const int32_t *)data_of(p, node->in[SOBRE_SAMPLE_PARAMS]);
    int32_t *result = (int32_t *)data_of(p, node->out[0]);
    for (int32_t i = 0; i < n_rows; i++)
        if (params[i * SOBRE_SAMPLE_PARAMS_SIZE + SOBRE_SAMPLE_MODE] == SOBRE_SAMPLE_MODE_HOST)
            result[i * SOBRE_SAMPLE_RESULT_SIZE + SOBRE_SAMPLE_STATUS] = SOBRE_SAMPLE_UNDETERMINED;
}

/* Every output becomes zeros. */
static sobre_status run(sobre_exec *exec, const sobre_run *run)
{
    const sobre_program *p = exec->program;
    null_control *control = exec->device->control;
    TRY(enter_device(exec->device, NULL_CALL_RUN));
    for (int32_t n = 0; n < p->n_nodes; n++) {
        const sobre_node *node = &p->nodes[n];
        control->n_ops[node->op]++;
        for (int32_t i = 0; i < node->n_out; i++) {
            int64_t elements = value_elements(&p->values[node->out[i]], run->n_cols, run->n_rows);
            memset(data_of(p, node->out[i]), 0, (size_t)elements * 4); /* f32 or i32 */
        }
        if (node->op == SOBRE_OP_SAMPLE) leave_rows(p, node, run->n_rows);
    }
    control->n_runs++;
    control->n_cols = run->n_cols;
    control->n_rows = run->n_rows;
    control->n_seqs = run->n_seqs;
    return SOBRE_OK;
}

/* --- Waiting. A real backend puts an event into its queue. */

static sobre_status fence(sobre_device *device, uint64_t *ret_ticket)
{
    TRY(enter_device(device, NULL_CALL_FENCE));
    device->n_polls = 0;
    *ret_ticket = ++device->ticket;
    return SOBRE_OK;
}

static sobre_status poll(sobre_device *device, uint64_t ticket)
{
    TRY(enter_device(device, NULL_CALL_POLL));
    return ticket == device->ticket && device->n_polls++ < device->control->n_again ? SOBRE_AGAIN
                                                                                    : SOBRE_OK;
}

static sobre_status wait(sobre_device *device, uint64_t ticket)
{
    return enter_device(device, NULL_CALL_WAIT);
}

static int32_t n_launches(const sobre_exec *exec)
{
    return exec->program->n_nodes;
}

static const sobre_backend backend = {
    .struct_size = sizeof(sobre_backend),
    .name = "null",
    .device_count = device_count,
    .device_info = device_info,
    .device_open = device_open,
    .device_close = device_close,
    .mem_info = mem_info,
    .alignment = alignment,
    .max_buffer = max_buffer,
    .buffer_alloc = buffer_alloc,
    .buffer_import = NULL, /* no memory of others */
    .buffer_free = buffer_free,
    .write = buffer_write,
    .read = buffer_read,
    .copy = buffer_copy,
    .host_pointer = host_pointer,
    .supports = supports,
    .weight_size = weight_size,
    .weight_pack = weight_pack,
    .kv_page_size = kv_page_size,
    .workspace_size = workspace_size,
    .compile = compile,
    .exec_free = exec_free,
    .run = run,
    .fence = fence,
    .poll = poll,
    .wait = wait,
    .n_launches = n_launches,
};

/* A plugin exports this as sobre_backend_entry(). */
const sobre_backend *null_backend(const sobre_host *host)
{
    return &backend;
}
