/* SPDX-License-Identifier: MIT */
/* Where a model goes and what it takes there. */
#include "fit.h"

#include <stdio.h>
#include <string.h>

#include "checked.h"

enum { MIB = 1 << 20, DEFAULT_CTX = 4096, DEFAULT_CHUNK = 512, MAX_SEQ = 1024, MAX_CHUNK = 65536 };

/* The device asked for, and the CPU for nodes that it cannot run. */
static sobre_status fit_devices(sobre_context *ctx, int32_t device, device_set *ret_devices)
{
    enum { CPU = 1 };
    device_set set = {.n = 0};

    if (device < 0)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "device %d is no device number; they start at 1",
                    (int)device);
    TRY(device_use(ctx, device ? device : CPU, &set.entries[set.n++]));
    if (device > CPU) TRY(device_use(ctx, CPU, &set.entries[set.n++]));
    *ret_devices = set;
    return SOBRE_OK;
}

static sobre_status check_range(sobre_context *ctx, const char *name, int64_t value, int64_t max)
{
    if (value >= 1 && value <= max) return SOBRE_OK;
    return fail(ctx, SOBRE_INVALID_ARGUMENT, "%s is %lld; it must be 1 to %lld", name,
                (long long)value, (long long)max);
}

static sobre_status fit_shape(sobre_context *ctx, const hparams *hp, const sobre_fit_options *o,
                              sobre_placement *p)
{
    p->n_ctx = o->n_ctx ? o->n_ctx : hp->n_ctx < DEFAULT_CTX ? hp->n_ctx : DEFAULT_CTX;
    p->n_seq = o->n_seq ? o->n_seq : 1;
    p->n_chunk = o->n_chunk ? o->n_chunk : DEFAULT_CHUNK;
    p->kv_type = o->kv_type ? o->kv_type : SOBRE_KV_F16;
    TRY(check_range(ctx, "n_ctx", p->n_ctx, hp->n_ctx));
    TRY(check_range(ctx, "n_seq", p->n_seq, MAX_SEQ));
    TRY(check_range(ctx, "n_chunk", p->n_chunk, MAX_CHUNK));
    if (p->kv_type != SOBRE_KV_F16 && p->kv_type != SOBRE_KV_F32)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "kv_type %d is none of f32, f16", (int)p->kv_type);
    return SOBRE_OK;
}

sobre_status fit_kv(sobre_context *ctx, const device_set *devices, const sobre_kv_desc *kv,
                    int32_t n_kv, sobre_kv_type type, int64_t n_pages, sobre_kv_slot *ret_slots,
                    uint64_t *ret_size)
{
    const device_entry *e = devices->entries[0];
    uint64_t align = e->backend->alignment(e->device), at = 0;

    for (int32_t i = 0; i < n_kv; i++) {
        sobre_kv_slot slot = {.desc = kv[i], .offset = at};
        uint64_t size;

        slot.desc.type = type;
        TRY(e->backend->kv_page_size(e->device, &slot.desc, &slot.page_size));
        if (!checked_mul(slot.page_size, (uint64_t)n_pages, &size) || !checked_add(at, size, &at) ||
            !checked_round_up(at, align, &at))
            return fail(
                ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
                "%lld pages of KV cache for %d layers are more bytes than can be counted; use a "
                "smaller n_ctx or n_seq",
                (long long)n_pages, (int)n_kv);
        if (ret_slots) ret_slots[i] = slot;
    }
    *ret_size = at;
    return SOBRE_OK;
}

static sobre_status workspace(sobre_model *m, const sobre_graph *fused, const device_set *devices,
                              const sobre_placement *p, uint64_t *ret_size)
{
    plan_options o = {.devices = devices, .n_cols = p->n_chunk, .n_rows = 1, .n_seq = p->n_seq};
    plan *sizes = NULL;
    uint64_t total = 0;

    TRY(plan_make(m->ctx, fused, &o, &sizes));
    for (int32_t d = 0; d < devices->n; d++)
        total += sizes->arena_size[d] + sizes->workspace_size[d];
    plan_free(sizes);
    *ret_size = total;
    return SOBRE_OK;
}

/* What may be used of a device: the caller's limit, or what is free less a headroom for others. */
static uint64_t allowed_bytes(const device_entry *e, uint64_t limit)
{
    uint64_t total = 0, left = 0;

    if (limit) return limit;
    e->backend->mem_info(e->device, &total, &left);
    return left ? left - left / 16 : UINT64_MAX;
}

static sobre_status check_limit(sobre_model *m, const device_entry *e, uint64_t limit,
                                const sobre_placement *p)
{
    uint64_t allowed = allowed_bytes(e, limit);

    if (p->total_bytes <= allowed) return SOBRE_OK;
    return fail(
        m->ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
        "%s needs %llu MiB on %s (weights %llu, KV cache %llu, workspace %llu), but %llu MiB "
        "may be used; use a smaller n_ctx, fewer sequences, or a smaller quantisation",
        m->file->files[0]->name, (unsigned long long)(p->total_bytes / MIB), e->info.name,
        (unsigned long long)(p->weight_bytes / MIB), (unsigned long long)(p->kv_bytes / MIB),
        (unsigned long long)(p->workspace_bytes / MIB), (unsigned long long)(allowed / MIB));
}

sobre_status fit_cache(sobre_model *m, uint64_t size)
{
    const device_entry *e = m->devices.entries[0];
    uint64_t allowed = allowed_bytes(e, m->limit), held = 0;

    /* What is free has the weights and older caches taken off already. */
    if (m->limit) held = m->placement.weight_bytes + atomic_load(&m->cache_bytes);
    if (held <= allowed && size <= allowed - held) return SOBRE_OK;
    return fail(
        m->ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
        "the session's KV cache needs %llu MiB on %s, but %llu MiB may be used; use a smaller "
        "n_ctx or fewer sequences",
        (unsigned long long)(size / MIB), e->info.name,
        (unsigned long long)((held < allowed ? allowed - held : 0) / MIB));
}

sobre_status graph_for_devices(const sobre_graph *g, const device_set *devices,
                               sobre_graph **ret_fused)
{
    sobre_graph *fused = NULL;
    sobre_status status;

    TRY(graph_clone(g, &fused));
    status = graph_lower(fused, devices);
    if (status >= 0) status = graph_fuse(fused, devices);
    if (status < 0) {
        sobre_graph_close(fused);
        return status;
    }
    *ret_fused = fused;
    return SOBRE_OK;
}

sobre_status fit_make(sobre_model *m, const sobre_fit_options *options, device_set *ret_devices,
                      sobre_graph **ret_fused, sobre_placement *ret_placement)
{
    sobre_fit_options o = SOBRE_INIT(fit_options);
    sobre_placement p = SOBRE_INIT(placement);
    sobre_graph *fused = NULL;
    device_set devices;
    sobre_status status;
    int64_t n_pages;

    TRY(options_copy(m->ctx, "fit_options", options, &o, sizeof o));
    TRY(fit_shape(m->ctx, &m->hp, &o, &p));
    TRY(fit_devices(m->ctx, o.device, &devices));
    p.device = o.device ? o.device : 1;
    n_pages = (int64_t)p.n_seq * ((p.n_ctx + SOBRE_KV_PAGE - 1) / SOBRE_KV_PAGE);
    TRY(fit_kv(m->ctx, &devices, m->kv, m->n_kv, p.kv_type, n_pages, NULL, &p.kv_bytes));
    TRY(graph_for_devices(m->graph, &devices, &fused));
    status = weights_size(m->ctx, fused, &devices, &p.weight_bytes);
    if (status >= 0) status = workspace(m, fused, &devices, &p, &p.workspace_bytes);
    p.total_bytes = p.weight_bytes + p.kv_bytes + p.workspace_bytes;
    if (status >= 0) status = check_limit(m, devices.entries[0], o.limit, &p);
    if (status < 0) {
        sobre_graph_close(fused);
        return status;
    }
    *ret_devices = devices;
    *ret_fused = fused;
    *ret_placement = p;
    return SOBRE_OK;
}
