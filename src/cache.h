/* SPDX-License-Identifier: MIT */
/* The KV cache's memory: for each layer's cache, the device that runs its attention, its place
 * there, and copies of pages. Which sequence has which page is kv.h's. */
#ifndef SOBRE_CACHE_H
#define SOBRE_CACHE_H

#include "plan.h"

typedef struct cache {
    sobre_context *ctx;
    device_set devices;
    int32_t n;                 /* caches, one a layer that has attention */
    uint64_t n_pages;          /* of each */
    sobre_kv_slot *slots;      /* [n] */
    int32_t *device;           /* [n], index in devices */
    uint64_t size[MAX_PLACED]; /* bytes on each device */
} cache;

/* Lays out `n` caches of n_pages pages each for the fused graph `g`; nothing is allocated on a
 * device. */
sobre_status cache_open(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                        const sobre_kv_desc *kv, int32_t n, sobre_kv_type type, int64_t n_pages,
                        cache *ret_cache);
/* Allocates the buffers; a failure leaves none. */
sobre_status cache_alloc(cache *c);
/* Copies page `from` over page `to` in every layer. */
sobre_status cache_copy(cache *c, int32_t from, int32_t to);
uint64_t cache_page_size(const cache *c); /* bytes of a page in all layers together */
uint64_t cache_total(const cache *c);     /* bytes on all devices */
/* Frees buffers and layout; an all-zero cache is fine. */
void cache_close(cache *c);

#endif
