/* SPDX-License-Identifier: MIT */
/* Where every layer's KV cache lies. On devices without a bound on buffers all caches share one, so
 * that a cache that is committed as it is touched stays one range; elsewhere each has its own. */
#include "cache.h"

#include "checked.h"

static uint64_t max_buffer(const device_entry *e)
{
    return e->backend->max_buffer(e->device);
}

/* The device of each cache is that of its attention. */
static sobre_status find_devices(cache *c, const sobre_graph *g)
{
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const sobre_node *node = &g->nodes[i];
        const sobre_attention_params *p = &node->p.attention;

        if (node->op != SOBRE_OP_ATTENTION || p->kv < 0 || p->kv >= c->n) continue;
        int32_t d = devices_pick(&c->devices, g->values, node);
        if (d < 0 || (c->device[p->kv] >= 0 && c->device[p->kv] != d))
            return fail(c->ctx, SOBRE_UNSUPPORTED,
                        "layer %d: its attention shares a KV cache with a layer on another device, "
                        "or no device can run it; use one device for all layers",
                        (int)node->layer);
        c->device[p->kv] = d;
    }
    return SOBRE_OK;
}

static sobre_status lay_out(cache *c, const sobre_kv_desc *kv, sobre_kv_type type)
{
    for (int32_t i = 0; i < c->n; i++) {
        const device_entry *e;
        sobre_kv_slot *slot = &c->slots[i];
        uint64_t size, *total;

        slot->desc = kv[i];
        slot->desc.type = type;
        if (c->device[i] < 0) continue; /* no node uses it */
        e = c->devices.entries[c->device[i]];
        total = &c->size[c->device[i]];
        TRY(e->backend->kv_page_size(e->device, &slot->desc, &slot->page_size));
        if (max_buffer(e) == UINT64_MAX) slot->offset = *total;
        if (!checked_mul(slot->page_size, c->n_pages, &size) || size > max_buffer(e) ||
            !checked_add(*total, size, total) ||
            !checked_round_up(*total, e->backend->alignment(e->device), total))
            return fail(c->ctx, SOBRE_DEVICE_OUT_OF_MEMORY,
                        "%llu pages of KV cache for %d layers are more than %s can address; use a "
                        "smaller n_ctx or n_seq",
                        (unsigned long long)c->n_pages, (int)c->n, e->info.name);
    }
    return SOBRE_OK;
}

sobre_status cache_open(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                        const sobre_kv_desc *kv, int32_t n, sobre_kv_type type, int64_t n_pages,
                        cache *ret_cache)
{
    cache c = {.ctx = ctx, .devices = *devices, .n = n, .n_pages = (uint64_t)n_pages};
    sobre_status status = SOBRE_OK;

    c.slots = mem_alloc(ctx, (size_t)n, sizeof *c.slots);
    c.device = mem_alloc(ctx, (size_t)n, sizeof *c.device);
    if (!c.slots || !c.device) status = SOBRE_OUT_OF_MEMORY;
    for (int32_t i = 0; i < n && status >= 0; i++) c.device[i] = -1;
    if (status >= 0) status = find_devices(&c, g);
    if (status >= 0) status = lay_out(&c, kv, type);
    if (status < 0)
        cache_close(&c);
    else
        *ret_cache = c;
    return status;
}

static void free_buffers(cache *c)
{
    for (int32_t i = 0; c->slots && c->device && i < c->n; i++) {
        sobre_buffer *buffer = c->slots[i].buffer;

        if (!buffer) continue;
        c->devices.entries[c->device[i]]->backend->buffer_free(buffer);
        for (int32_t k = i; k < c->n; k++)
            if (c->slots[k].buffer == buffer) c->slots[k].buffer = NULL;
    }
}

sobre_status cache_alloc(cache *c)
{
    sobre_buffer *shared[MAX_PLACED] = {NULL};
    sobre_status status = SOBRE_OK;

    for (int32_t i = 0; i < c->n && status >= 0; i++) {
        int32_t d = c->device[i];
        const device_entry *e;
        bool own;

        if (d < 0) continue;
        e = c->devices.entries[d];
        own = max_buffer(e) != UINT64_MAX;
        if (own || !shared[d]) {
            uint64_t size = own ? c->slots[i].page_size * c->n_pages : c->size[d];

            status = e->backend->buffer_alloc(e->device, size, SOBRE_BUFFER_KV, &shared[d]);
        }
        if (status >= 0) c->slots[i].buffer = shared[d];
    }
    if (status < 0) free_buffers(c);
    return status;
}

sobre_status cache_copy(cache *c, int32_t from, int32_t to)
{
    for (int32_t i = 0; i < c->n; i++) {
        const sobre_kv_slot *slot = &c->slots[i];

        if (!slot->buffer) continue;
        TRY(c->devices.entries[c->device[i]]->backend->copy(
            slot->buffer, slot->offset + (uint64_t)to * slot->page_size, slot->buffer,
            slot->offset + (uint64_t)from * slot->page_size, slot->page_size));
    }
    return SOBRE_OK;
}

uint64_t cache_page_size(const cache *c)
{
    uint64_t size = 0;

    for (int32_t i = 0; i < c->n; i++) size += c->slots[i].page_size;
    return size;
}

uint64_t cache_total(const cache *c)
{
    uint64_t size = 0;

    for (int32_t i = 0; i < MAX_PLACED; i++) size += c->size[i];
    return size;
}

void cache_close(cache *c)
{
    free_buffers(c);
    mem_free(c->ctx, c->slots);
    mem_free(c->ctx, c->device);
    *c = (cache){0};
}
