/* SPDX-License-Identifier: MIT */
/* Offsets in an arena for items that live from one step to another. Greedy by size, after
 * Pisarchyk and Lee 2020, arXiv:2001.03288. */
#include <string.h>

#include "checked.h"
#include "plan.h"

static bool is_larger(const memplan_item *items, int32_t a, int32_t b)
{
    return items[a].size != items[b].size ? items[a].size > items[b].size : a < b;
}

/* Heap sort: largest first, no memory, the same order everywhere. */
static void sift(const memplan_item *items, int32_t *order, int32_t root, int32_t n)
{
    for (int32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && is_larger(items, order[child], order[child + 1])) child++;
        if (is_larger(items, order[child], order[root])) return;
        int32_t swap = order[root];
        order[root] = order[child];
        order[child] = swap;
    }
}

static void sort_by_size(const memplan_item *items, int32_t *order, int32_t n)
{
    for (int32_t i = n / 2 - 1; i >= 0; i--) sift(items, order, i, n);
    for (int32_t last = n - 1; last > 0; last--) {
        int32_t swap = order[0];
        order[0] = order[last];
        order[last] = swap;
        sift(items, order, 0, last);
    }
}

sobre_status memplan_assign(sobre_context *ctx, memplan_item *items, int32_t n, uint64_t align,
                            uint64_t *ret_size)
{
    int32_t *order = mem_alloc(ctx, (size_t)n, 2 * sizeof *order);
    if (!order) return SOBRE_OUT_OF_MEMORY;
    int32_t *placed = order + n, n_placed = 0; /* by offset */
    uint64_t size = 0;
    bool fits = true;
    for (int32_t i = 0; i < n; i++) order[i] = i;
    sort_by_size(items, order, n);
    for (int32_t i = 0; i < n && fits; i++) {
        memplan_item *item = &items[order[i]];
        uint64_t offset = 0, end = 0;
        int32_t at = 0;
        fits = checked_add(offset, item->size, &end);
        for (int32_t k = 0; k < n_placed && fits; k++) {
            const memplan_item *other = &items[placed[k]];
            if (other->last < item->first || item->last < other->first) continue;
            if (end <= other->ret_offset) break; /* the gap before it is wide enough */
            uint64_t other_end = other->ret_offset + other->size;
            if (other_end > offset)
                fits = checked_round_up(other_end, align, &offset) &&
                       checked_add(offset, item->size, &end);
        }
        if (!fits) break;
        item->ret_offset = offset;
        if (item->size == 0) continue;
        while (at < n_placed && items[placed[at]].ret_offset <= offset) at++;
        memmove(&placed[at + 1], &placed[at], (size_t)(n_placed - at) * sizeof *placed);
        placed[at] = order[i];
        n_placed++;
        if (end > size) size = end;
    }
    mem_free(ctx, order);
    if (!fits || !checked_round_up(size, align, &size))
        return fail(ctx, SOBRE_OUT_OF_MEMORY,
                    "memory plan: the activations of this graph need more than 2^64 bytes");
    *ret_size = size;
    return SOBRE_OK;
}
