/* SPDX-License-Identifier: MIT */
/* Pages of the KV cache: a free list, a count of owners a page, a block table a sequence. There are
 * as many pages as all sequences can hold when none is shared, so taking a page never fails: shared
 * pages only leave more of them free. */
#include "kv.h"

#include <assert.h>
#include <string.h>

sobre_status kv_check_type(sobre_context *ctx, sobre_kv_type type)
{
    if (type >= SOBRE_KV_F32 && type <= SOBRE_KV_Q8_0) return SOBRE_OK;
    return fail(ctx, SOBRE_INVALID_ARGUMENT,
                "kv_type %d is none of f32 (1), f16 (2), bf16 (3), q8_0 (4)", (int)type);
}

int32_t kv_pages_for(int32_t length)
{
    return length / SOBRE_KV_PAGE + (length % SOBRE_KV_PAGE != 0);
}

sobre_status kv_open(sobre_context *ctx, int32_t n_seq, int32_t n_ctx, kv_table *ret_kv)
{
    kv_table kv = {.ctx = ctx, .n_seq = n_seq, .n_ctx = n_ctx};
    if (n_seq < 1 || n_seq > UINT16_MAX || n_ctx < 1)
        return fail(
            ctx, SOBRE_INVALID_ARGUMENT,
            "a KV cache of %d sequences with %d positions each cannot be; give at least one "
            "of both, and at most %d sequences",
            n_seq, n_ctx, UINT16_MAX);
    kv.max_pages = kv_pages_for(n_ctx);
    if (kv.max_pages > INT32_MAX / n_seq)
        return fail(ctx, SOBRE_INVALID_ARGUMENT,
                    "%d sequences of %d positions need more pages than can be counted; lower n_seq "
                    "or n_ctx",
                    n_seq, n_ctx);
    kv.n_pages = n_seq * kv.max_pages;

    kv.seqs = mem_alloc(ctx, (size_t)n_seq, sizeof *kv.seqs);
    kv.refs = mem_alloc(ctx, (size_t)kv.n_pages, sizeof *kv.refs);
    kv.free_list = mem_alloc(ctx, (size_t)kv.n_pages, sizeof *kv.free_list);
    /* One block for all tables; seqs[0].pages is its start. */
    int32_t *tables = mem_alloc(ctx, (size_t)kv.n_pages, sizeof *tables);
    if (!kv.seqs || !kv.refs || !kv.free_list || !tables) {
        mem_free(ctx, kv.seqs);
        mem_free(ctx, kv.refs);
        mem_free(ctx, kv.free_list);
        mem_free(ctx, tables);
        return SOBRE_OUT_OF_MEMORY;
    }
    for (int32_t i = 0; i < n_seq; i++) kv.seqs[i].pages = tables + (size_t)i * kv.max_pages;
    /* The lowest page is taken first, so that a lazily committed cache stays compact. */
    for (int32_t i = 0; i < kv.n_pages; i++) kv.free_list[i] = kv.n_pages - 1 - i;
    kv.n_free = kv.n_pages;
    *ret_kv = kv;
    return SOBRE_OK;
}

void kv_close(kv_table *kv)
{
    if (!kv->seqs) return;
    mem_free(kv->ctx, kv->seqs[0].pages);
    mem_free(kv->ctx, kv->seqs);
    mem_free(kv->ctx, kv->refs);
    mem_free(kv->ctx, kv->free_list);
    memset(kv, 0, sizeof *kv);
}

static int32_t page_take(kv_table *kv)
{
    assert(kv->n_free > 0);
    int32_t page = kv->free_list[--kv->n_free];
    kv->refs[page] = 1;
    return page;
}

static void page_drop(kv_table *kv, int32_t page)
{
    assert(kv->refs[page] > 0);
    if (--kv->refs[page] == 0) kv->free_list[kv->n_free++] = page;
}

sobre_status kv_reserve(kv_table *kv, int32_t seq, int32_t n, int32_t *ret_from, int32_t *ret_to)
{
    kv_seq *q = &kv->seqs[seq];
    if (n > kv->n_ctx - q->length)
        return fail(kv->ctx, SOBRE_CONTEXT_FULL,
                    "sequence %d holds %d of %d positions, so %d more have no room; truncate it or "
                    "open a session with a larger n_ctx",
                    seq, q->length, kv->n_ctx, n);
    int32_t from = -1, to = -1;
    if (n > 0 && q->length % SOBRE_KV_PAGE) {
        int32_t *last = &q->pages[q->length / SOBRE_KV_PAGE];
        if (kv->refs[*last] > 1) {
            from = *last;
            to = page_take(kv);
            page_drop(kv, from);
            *last = to;
        }
    }
    for (int32_t want = kv_pages_for(q->length + n); q->n_pages < want; q->n_pages++)
        q->pages[q->n_pages] = page_take(kv);
    *ret_from = from;
    *ret_to = to;
    return SOBRE_OK;
}

void kv_unsplit(kv_table *kv, int32_t seq, int32_t from, int32_t to)
{
    kv_seq *q = &kv->seqs[seq];
    int32_t *last = &q->pages[q->length / SOBRE_KV_PAGE];
    assert(*last == to && kv->refs[to] == 1 && kv->refs[from] > 0);
    kv->refs[from]++;
    page_drop(kv, to);
    *last = from;
}

void kv_advance(kv_table *kv, int32_t seq, int32_t n)
{
    kv_seq *q = &kv->seqs[seq];
    assert(n >= 0 && kv_pages_for(q->length + n) <= q->n_pages);
    q->length += n;
}

void kv_truncate(kv_table *kv, int32_t seq, int32_t length)
{
    kv_seq *q = &kv->seqs[seq];
    assert(length >= 0 && length <= q->length);
    q->length = length;
    for (int32_t keep = kv_pages_for(length); q->n_pages > keep;)
        page_drop(kv, q->pages[--q->n_pages]);
}

void kv_fork(kv_table *kv, int32_t from, int32_t to)
{
    if (from == to) return;
    const kv_seq *a = &kv->seqs[from];
    kv_seq *b = &kv->seqs[to];
    kv_truncate(kv, to, 0);
    b->length = a->length;
    b->n_pages = kv_pages_for(a->length); /* pages that are only reserved are not shared */
    for (int32_t i = 0; i < b->n_pages; i++) {
        b->pages[i] = a->pages[i];
        kv->refs[a->pages[i]]++;
    }
}

int32_t kv_pages_used(const kv_table *kv)
{
    return kv->n_pages - kv->n_free;
}
