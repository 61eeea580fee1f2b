/* SPDX-License-Identifier: MIT */
/* The memory plan: nothing overlaps that lives at the same time, and little is wasted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#undef fail /* the library has a function of this name */

#include "plan.h"

enum { ALIGN = 64, MAX_ITEMS = 120 };

static int open_context(void **state)
{
    sobre_context *ctx;
    if (sobre_context_open(NULL, &ctx) < 0) return -1;
    *state = ctx;
    return 0;
}

static int close_context(void **state)
{
    sobre_context_close(*state);
    return 0;
}

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static uint64_t rounded(uint64_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* The most bytes that live at one step: no plan can be smaller. */
static uint64_t max_live(const memplan_item *items, int32_t n, int32_t n_steps)
{
    uint64_t most = 0;
    for (int32_t t = 0; t < n_steps; t++) {
        uint64_t live = 0;
        for (int32_t i = 0; i < n; i++)
            if (items[i].first <= t && t <= items[i].last) live += rounded(items[i].size);
        if (live > most) most = live;
    }
    return most;
}

static void assert_plan(const memplan_item *items, int32_t n, uint64_t size)
{
    for (int32_t i = 0; i < n; i++) {
        const memplan_item *a = &items[i];
        assert_int_equal(a->ret_offset % ALIGN, 0);
        assert_true(a->ret_offset + a->size <= size);
        for (int32_t k = 0; k < i; k++) {
            const memplan_item *b = &items[k];
            bool lives_with = a->first <= b->last && b->first <= a->last;
            bool overlaps =
                a->ret_offset < b->ret_offset + b->size && b->ret_offset < a->ret_offset + a->size;
            if (lives_with) assert_false(overlaps);
        }
    }
}

static void test_random(void **state)
{
    uint32_t seed = 1;
    double worst = 1;
    for (int round = 0; round < 300; round++) {
        memplan_item items[MAX_ITEMS];
        int32_t n = 1 + (int32_t)(next_random(&seed) % MAX_ITEMS), n_steps = 60;
        uint64_t size = 0;
        for (int32_t i = 0; i < n; i++) {
            int32_t first = (int32_t)(next_random(&seed) % 50);
            items[i] = (memplan_item){.size = next_random(&seed) % 5000,
                                      .first = first,
                                      .last = first + (int32_t)(next_random(&seed) % 10)};
        }
        assert_int_equal(memplan_assign(*state, items, n, ALIGN, &size), SOBRE_OK);
        assert_plan(items, n, size);
        uint64_t bound = max_live(items, n, n_steps);
        assert_true(size >= bound);
        if (bound && (double)size / (double)bound > worst) worst = (double)size / (double)bound;
    }
    assert_true(worst < 1.5);
}

/* A chain with a residual, as in a model: the plan meets the bound exactly. */
static void test_chain(void **state)
{
    memplan_item items[64];
    int32_t n = 0;
    for (int32_t layer = 0; layer < 16; layer++) {
        int32_t t = layer * 4;
        items[n++] = (memplan_item){.size = 576 * 4, .first = t, .last = t + 4}; /* residual */
        items[n++] = (memplan_item){.size = 960 * 4, .first = t + 1, .last = t + 2};
        items[n++] = (memplan_item){.size = 1536 * 4, .first = t + 3, .last = t + 4};
    }
    uint64_t size = 0;
    assert_int_equal(memplan_assign(*state, items, n, ALIGN, &size), SOBRE_OK);
    assert_plan(items, n, size);
    assert_int_equal(size, max_live(items, n, 70));
}

static void test_edges(void **state)
{
    uint64_t size = 77;
    assert_int_equal(memplan_assign(*state, NULL, 0, ALIGN, &size), SOBRE_OK);
    assert_int_equal(size, 0);
    memplan_item empty[] = {{.size = 0, .first = 0, .last = 3}, {.size = 5, .first = 1, .last = 1}};
    assert_int_equal(memplan_assign(*state, empty, 2, ALIGN, &size), SOBRE_OK);
    assert_int_equal(size, ALIGN);
    memplan_item huge[] = {{.size = UINT64_MAX - 10, .first = 0, .last = 3},
                           {.size = 100, .first = 1, .last = 1}};
    assert_int_equal(memplan_assign(*state, huge, 2, ALIGN, &size), SOBRE_OUT_OF_MEMORY);
    assert_int_equal(size, ALIGN);
    assert_non_null(strstr(sobre_error(*state), "2^64"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
