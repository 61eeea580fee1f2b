/* SPDX-License-Identifier: MIT */
/* Where a model goes and what it takes there. */
#include "fit.h"

#include <math.h>

#include "kv.h"
#include "measure.h"

enum { CPU = 1 }; /* a device's number */
enum { MIB = 1 << 20, DEFAULT_CTX = 4096, DEFAULT_CHUNK = 512, MAX_SEQ = 1024, MAX_CHUNK = 65536 };

/* The device asked for, and the CPU for nodes that it cannot run. */
static sobre_status fit_devices(sobre_context *ctx, int32_t device, device_set *ret_devices)
{
    device_set set = {.n = 0};

    if (device < 0)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "device %d is no device number; they start at 1",
                    (int)device);
    TRY(device_use(ctx, device, &set.entries[set.n++]));
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
    return kv_check_type(ctx, p->kv_type);
}

/* Bytes of the largest plan on each device. */
static sobre_status workspace(sobre_context *ctx, const sobre_graph *fused,
                              const device_set *devices, const cache *c, const sobre_placement *p,
                              uint64_t ret_size[MAX_PLACED])
{
    plan_options o = {.devices = devices,
                      .n_cols = p->n_chunk,
                      .n_rows = 1,
                      .n_seq = p->n_seq < p->n_chunk ? p->n_seq : p->n_chunk,
                      .kv_slots = c->slots,
                      .n_kv_slots = c->n,
                      .n_pages = kv_pages_for(p->n_ctx)};
    plan *sizes = NULL;

    TRY(plan_make(ctx, fused, &o, &sizes));
    for (int32_t d = 0; d < devices->n; d++)
        ret_size[d] = sizes->arena_size[d] + sizes->workspace_size[d];
    plan_free(sizes);
    return SOBRE_OK;
}

/* What may be used of a device: the caller's limit, or what is free less a headroom for others, or,
 * where the driver does not tell, all less a larger one. *ret_is_left (may be NULL): what the model
 * holds there is taken off already. */
static uint64_t allowed_bytes(const device_entry *e, uint64_t limit, bool *ret_is_left)
{
    uint64_t total = 0, left = 0;

    if (!limit) e->backend->mem_info(e->device, &total, &left);
    if (ret_is_left) *ret_is_left = left > 0;
    if (left) return left - left / 16;
    return limit ? limit : total ? total - total / 8 : UINT64_MAX;
}

static sobre_status check_limit(sobre_model *m, const device_entry *e, uint64_t limit,
                                const sobre_placement *p)
{
    uint64_t allowed = allowed_bytes(e, limit, NULL);

    if (p->total_bytes <= allowed) return SOBRE_OK;
    return fail(
        m->ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
        "%s needs %llu MiB on %s (weights %llu, KV cache %llu, workspace %llu), but %llu MiB "
        "may be used; use a smaller n_ctx, fewer sequences, or a smaller quantisation",
        m->file->files[0]->name, (unsigned long long)(p->total_bytes / MIB), e->info.name,
        (unsigned long long)(p->weight_bytes / MIB), (unsigned long long)(p->kv_bytes / MIB),
        (unsigned long long)(p->workspace_bytes / MIB), (unsigned long long)(allowed / MIB));
}

sobre_status fit_cache(sobre_model *m, const cache *c)
{
    const device_entry *e = m->devices.entries[0];
    bool is_left;
    uint64_t allowed = allowed_bytes(e, m->limit, &is_left), held = 0, size = c->size[0];

    if (!is_left) held = m->placement.weight_bytes + atomic_load(&m->cache_bytes);
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

/* One way to place the model: devices->first_layer is chosen. Sizes go to *p, but nothing is
 * compared with what there is. */
static sobre_status place(sobre_model *m, const device_set *devices, sobre_graph **ret_fused,
                          sobre_placement *p)
{
    const int64_t n_pages = (int64_t)p->n_seq * kv_pages_for(p->n_ctx);
    uint64_t packed[MAX_PLACED] = {0}, work[MAX_PLACED] = {0}, others = 0;
    sobre_graph *fused = NULL;
    cache c = {0};
    sobre_status status;

    TRY(graph_for_devices(m->graph, devices, &fused));
    status = cache_open(m->ctx, fused, devices, m->kv, m->n_kv, p->kv_type, n_pages, &c);
    if (status >= 0) status = weights_size(m->ctx, fused, devices, packed);
    if (status >= 0) status = workspace(m->ctx, fused, devices, &c, p, work);
    if (status < 0) {
        cache_close(&c);
        sobre_graph_close(fused);
        return status;
    }
    for (int32_t d = 1; d < devices->n; d++) others += packed[d] + c.size[d] + work[d];
    p->weight_bytes = packed[0];
    p->kv_bytes = c.size[0];
    p->workspace_bytes = work[0];
    p->total_bytes = packed[0] + c.size[0] + work[0];
    p->cpu_bytes = others;
    p->n_layer = m->hp.n_layer - devices->first_layer;
    cache_close(&c);
    *ret_fused = fused;
    return SOBRE_OK;
}

/* The most layers, of at most `most`, that fit; place() was done for `most` and did not. */
static sobre_status place_fewer(sobre_model *m, int32_t most, uint64_t allowed, device_set *devices,
                                sobre_graph **fused, sobre_placement *p)
{
    int32_t fits = 0; /* layers; `most` do not */

    while (most - fits > 1) {
        int32_t half = fits + (most - fits) / 2;
        sobre_graph *tried = NULL;

        devices->first_layer = m->hp.n_layer - half;
        TRY(place(m, devices, &tried, p));
        sobre_graph_close(tried);
        if (p->total_bytes <= allowed)
            fits = half;
        else
            most = half;
    }
    sobre_graph_close(*fused);
    *fused = NULL;
    devices->first_layer = m->hp.n_layer - (fits ? fits : 1); /* one is too many, and says so */
    return place(m, devices, fused, p);
}

/* A way to place the model that fits. */
typedef struct fitted {
    device_set devices;
    sobre_graph *fused;
    sobre_placement placement;
} fitted;

/* The whole of what is asked for on a device, whether it fits or not. */
static sobre_status place_on(sobre_model *m, const sobre_fit_options *o, int32_t device,
                             fitted *ret)
{
    fitted f = {.placement = SOBRE_INIT(placement)};

    TRY(fit_shape(m->ctx, &m->hp, o, &f.placement));
    TRY(fit_devices(m->ctx, device, &f.devices));
    f.placement.device = device;
    if (o->n_layer && o->n_layer < m->hp.n_layer && f.devices.n > 1)
        f.devices.first_layer = m->hp.n_layer - o->n_layer;
    TRY(place(m, &f.devices, &f.fused, &f.placement));
    *ret = f;
    return SOBRE_OK;
}

static sobre_status fit_on(sobre_model *m, const sobre_fit_options *o, int32_t device, fitted *ret)
{
    fitted f;
    sobre_placement *p = &f.placement;

    TRY(place_on(m, o, device, &f));
    const device_entry *e = f.devices.entries[0];
    sobre_status status = check_limit(m, e, o->limit, p);
    if (status == SOBRE_DEVICE_OUT_OF_MEMORY && !o->n_layer && f.devices.n > 1 &&
        m->hp.n_layer > 1) {
        uint64_t allowed = allowed_bytes(e, o->limit, NULL);

        status = place_fewer(m, m->hp.n_layer, allowed, &f.devices, &f.fused, p);
        if (status >= 0) status = check_limit(m, e, o->limit, p);
    }
    if (status < 0) {
        sobre_graph_close(f.fused);
        return status;
    }
    *ret = f;
    return SOBRE_OK;
}

/* Puts a device that decodes faster than *best, which takes *seconds a token, in its place. The
 * CPU, of the speed `cpu`, runs what does not fit there. */
static void try_device(sobre_model *m, const sobre_fit_options *o, const measured_device *device,
                       const sobre_measurement *cpu, fitted *best, double *seconds)
{
    fitted f;

    if (fit_on(m, o, device->device, &f) < 0) {
        log_write(m->ctx, SOBRE_LOG_WARNING, "a faster device is passed over: %s",
                  sobre_error(m->ctx));
        return;
    }
    double taken = measured_seconds(&device->speed, f.placement.weight_bytes, f.fused->n_nodes) +
                   measured_seconds(cpu, f.placement.cpu_bytes, 0);
    if (taken < *seconds) {
        fitted slower = *best;

        *best = f;
        f = slower;
        *seconds = taken;
    }
    sobre_graph_close(f.fused);
}

/* Where decoding should be fastest, by what was measured; the CPU if it was not. */
static sobre_status fit_fastest(sobre_model *m, const sobre_fit_options *o, fitted *ret)
{
    measured_device devices[MAX_MEASURED];
    fitted best;
    int32_t n;

    TRY(place_on(m, o, CPU, &best));
    sobre_status status =
        measured_devices(m->ctx, best.placement.weight_bytes, best.fused->n_nodes, devices, &n);
    if (status >= 0 && n > 0) {
        const sobre_measurement *cpu = &devices[n - 1].speed;
        const sobre_placement *p = &best.placement;
        double seconds = INFINITY; /* where the CPU has too little memory, any device is better */

        if (p->total_bytes <= allowed_bytes(best.devices.entries[0], o->limit, NULL))
            seconds = measured_seconds(cpu, p->weight_bytes, best.fused->n_nodes);
        for (int32_t i = 0; i < n - 1; i++) try_device(m, o, &devices[i], cpu, &best, &seconds);
    }
    if (status >= 0 && best.placement.device == CPU)
        status = check_limit(m, best.devices.entries[0], o->limit, &best.placement);
    if (status < 0) {
        sobre_graph_close(best.fused);
        return status;
    }
    *ret = best;
    return SOBRE_OK;
}

sobre_status fit_make(sobre_model *m, const sobre_fit_options *options, device_set *ret_devices,
                      sobre_graph **ret_fused, sobre_placement *ret_placement)
{
    sobre_fit_options o = SOBRE_INIT(fit_options);
    fitted f;

    TRY(options_copy(m->ctx, "fit_options", options, &o, sizeof o));
    if (o.n_layer < 0)
        return fail(m->ctx, SOBRE_INVALID_ARGUMENT, "n_layer is %d; it must be 0 or more",
                    (int)o.n_layer);
    if (o.device)
        TRY(fit_on(m, &o, o.device, &f));
    else
        TRY(fit_fastest(m, &o, &f));
    *ret_devices = f.devices;
    *ret_fused = f.fused;
    *ret_placement = f.placement;
    return SOBRE_OK;
}

sobre_status fit_prepare(sobre_model *m)
{
    const sobre_placement *p = &m->placement;
    const int32_t n_cols[] = {1, p->n_chunk};
    cache c = {0};
    sobre_status status;

    TRY(cache_open(m->ctx, m->fused, &m->devices, m->kv, m->n_kv, p->kv_type, 1, &c));
    status = SOBRE_OK;
    for (size_t i = 0; i < sizeof n_cols / sizeof *n_cols && status >= 0; i++) {
        plan_options o = {.devices = &m->devices,
                          .n_cols = n_cols[i],
                          .n_rows = 1,
                          .n_seq = 1,
                          .prepare = true,
                          .kv_slots = c.slots,
                          .n_kv_slots = c.n,
                          .n_pages = kv_pages_for(p->n_ctx)};
        plan *made = NULL;

        status = plan_make(m->ctx, m->fused_sample ? m->fused_sample : m->fused, &o, &made);
        plan_free(made);
    }
    cache_close(&c);
    return status;
}
