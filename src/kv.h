/* SPDX-License-Identifier: MIT */
/* The paged KV cache's book-keeping: which pages a sequence has, and who shares them. The pages
 * themselves lie in buffers of the devices; this file knows only their numbers. */
#ifndef SOBRE_KV_H
#define SOBRE_KV_H

#include "context.h"

typedef struct kv_seq {
    int32_t length; /* positions in use */
    int32_t n_pages;
    int32_t *pages; /* [max_pages] */
} kv_seq;

typedef struct kv_table {
    sobre_context *ctx;
    int32_t n_seq, n_ctx;
    int32_t n_pages, max_pages; /* pages in all; pages a sequence can have */
    kv_seq *seqs;
    uint16_t *refs; /* [n_pages] */
    int32_t *free_list;
    int32_t n_free;
} kv_table;

/* INVALID_ARGUMENT, and which there are, if there is no such type. */
sobre_status kv_check_type(sobre_context *ctx, sobre_kv_type type);
int32_t kv_pages_for(int32_t length); /* pages that so many positions take */
sobre_status kv_open(sobre_context *ctx, int32_t n_seq, int32_t n_ctx, kv_table *ret_kv);
void kv_close(kv_table *kv);
/* Makes room for `n` more positions: takes pages, and splits a shared last page (then *ret_from and
 * *ret_to name the pages whose contents must be copied; else -1). CONTEXT_FULL leaves all as it
 * was. */
sobre_status kv_reserve(kv_table *kv, int32_t seq, int32_t n, int32_t *ret_from, int32_t *ret_to);
/* Takes a split back, if the copy failed. */
void kv_unsplit(kv_table *kv, int32_t seq, int32_t from, int32_t to);
/* Counts `n` reserved positions as used. */
void kv_advance(kv_table *kv, int32_t seq, int32_t n);
/* Cuts to `length`, giving back pages past it (reserved ones too). */
void kv_truncate(kv_table *kv, int32_t seq, int32_t length);
/* `to` shares all of `from`'s pages; the last partial one is split by the next kv_reserve of
 * either. */
void kv_fork(kv_table *kv, int32_t from, int32_t to);
int32_t kv_pages_used(const kv_table *kv);

#endif
