/* SPDX-License-Identifier: MIT */
/* The KV cache's pages: reserve, split, truncate, fork, and a random walk against a plain model. */
#include "kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static sobre_context *ctx;

static int setup(void **state)
{
    return sobre_context_open(NULL, &ctx) != SOBRE_OK;
}

static int teardown(void **state)
{
    sobre_context_close(ctx);
    return 0;
}

static void add(kv_table *kv, int32_t seq, int32_t n)
{
    int32_t from, to;
    assert_int_equal(kv_reserve(kv, seq, n, &from, &to), SOBRE_OK);
    kv_advance(kv, seq, n);
}

static void test_sizes(void **state)
{
    kv_table kv;
    assert_int_equal(kv_open(ctx, 0, 64, &kv), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(kv_open(ctx, 1, 0, &kv), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(kv_open(ctx, 1024, INT32_MAX, &kv), SOBRE_INVALID_ARGUMENT);
    assert_int_equal(kv_open(ctx, 3, 65, &kv), SOBRE_OK);
    assert_int_equal(kv.n_pages, 6);
    assert_int_equal(kv_pages_used(&kv), 0);
    kv_close(&kv);
    kv_close(&kv);
}

static void test_reserve(void **state)
{
    kv_table kv;
    int32_t from = 7, to = 7;
    assert_int_equal(kv_open(ctx, 2, 100, &kv), SOBRE_OK);
    assert_int_equal(kv_reserve(&kv, 0, 101, &from, &to), SOBRE_CONTEXT_FULL);
    assert_non_null(strstr(sobre_error(ctx), "100"));
    assert_int_equal(from, 7);
    assert_int_equal(kv_pages_used(&kv), 0);
    assert_int_equal(kv_reserve(&kv, 0, 64, &from, &to), SOBRE_OK);
    assert_int_equal(from, -1);
    assert_int_equal(to, -1);
    assert_int_equal(kv_pages_used(&kv), 1);
    /* Reserving again before the positions are used takes nothing more. */
    assert_int_equal(kv_reserve(&kv, 0, 64, &from, &to), SOBRE_OK);
    assert_int_equal(kv_pages_used(&kv), 1);
    kv_advance(&kv, 0, 64);
    add(&kv, 0, 36);
    assert_int_equal(kv.seqs[0].length, 100);
    assert_int_equal(kv_pages_used(&kv), 2);
    /* Position 100 fits the page but not the context. */
    assert_int_equal(kv_reserve(&kv, 0, 1, &from, &to), SOBRE_CONTEXT_FULL);
    kv_truncate(&kv, 0, 64);
    assert_int_equal(kv_pages_used(&kv), 1);
    /* A reservation that is not used is given back. */
    assert_int_equal(kv_reserve(&kv, 0, 10, &from, &to), SOBRE_OK);
    assert_int_equal(kv_pages_used(&kv), 2);
    kv_truncate(&kv, 0, 64);
    assert_int_equal(kv_pages_used(&kv), 1);
    kv_close(&kv);
}

static void test_fork_splits(void **state)
{
    kv_table kv;
    int32_t from, to;
    assert_int_equal(kv_open(ctx, 3, 192, &kv), SOBRE_OK);
    add(&kv, 0, 70);
    kv_fork(&kv, 0, 1);
    kv_fork(&kv, 0, 2);
    assert_int_equal(kv.seqs[1].length, 70);
    assert_int_equal(kv_pages_used(&kv), 2);
    int32_t shared = kv.seqs[0].pages[1];

    assert_int_equal(kv_reserve(&kv, 1, 1, &from, &to), SOBRE_OK);
    assert_int_equal(from, shared);
    assert_int_equal(to, kv.seqs[1].pages[1]);
    assert_int_not_equal(to, shared);
    assert_int_equal(kv_pages_used(&kv), 3);
    kv_unsplit(&kv, 1, from, to);
    assert_int_equal(kv.seqs[1].pages[1], shared);
    assert_int_equal(kv.refs[shared], 3);
    assert_int_equal(kv_pages_used(&kv), 2);

    assert_int_equal(kv_reserve(&kv, 1, 1, &from, &to), SOBRE_OK);
    kv_advance(&kv, 1, 1);
    assert_int_equal(kv_reserve(&kv, 0, 1, &from, &to), SOBRE_OK);
    assert_int_equal(from, shared);
    /* The last owner writes in place. */
    assert_int_equal(kv_reserve(&kv, 2, 1, &from, &to), SOBRE_OK);
    assert_int_equal(from, -1);
    assert_int_equal(kv.seqs[2].pages[1], shared);
    /* The full page is still everybody's. */
    assert_int_equal(kv.refs[kv.seqs[0].pages[0]], 3);
    kv_truncate(&kv, 0, 0);
    kv_truncate(&kv, 1, 0);
    kv_truncate(&kv, 2, 0);
    assert_int_equal(kv_pages_used(&kv), 0);
    kv_close(&kv);
}

static void test_truncate_into_shared_page(void **state)
{
    kv_table kv;
    int32_t from, to;
    assert_int_equal(kv_open(ctx, 2, 128, &kv), SOBRE_OK);
    add(&kv, 0, 128);
    kv_fork(&kv, 0, 1);
    kv_truncate(&kv, 1, 10);
    assert_int_equal(kv_reserve(&kv, 1, 1, &from, &to), SOBRE_OK);
    assert_int_equal(from, kv.seqs[0].pages[0]);
    /* Cut at a page's end nothing needs a copy. */
    kv_fork(&kv, 0, 1);
    kv_truncate(&kv, 1, 64);
    assert_int_equal(kv_reserve(&kv, 1, 1, &from, &to), SOBRE_OK);
    assert_int_equal(from, -1);
    kv_close(&kv);
}

/* Every position holds a number in a made-up cache; forks, cuts and writes must never change what
 * another sequence reads. */
static void test_random_walk(void **state)
{
    enum { N_SEQ = 5, N_CTX = 200 };
    kv_table kv;
    static int32_t cache[N_SEQ * 4][SOBRE_KV_PAGE], want[N_SEQ][N_CTX];
    int32_t counter = 0;
    uint32_t random = 1;
    assert_int_equal(kv_open(ctx, N_SEQ, N_CTX, &kv), SOBRE_OK);
    assert_int_equal(kv.n_pages, N_SEQ * 4);
    for (int round = 0; round < 5000; round++) {
        random = random * 1664525u + 1013904223u;
        int32_t seq = (int32_t)(random >> 8) % N_SEQ, other = (int32_t)(random >> 12) % N_SEQ;
        int32_t length = kv.seqs[seq].length;
        switch (random >> 30) {
        case 0:
            kv_fork(&kv, seq, other);
            if (other != seq) memcpy(want[other], want[seq], sizeof want[0]);
            break;
        case 1:
            kv_truncate(&kv, seq, length ? (int32_t)((random >> 16) % (uint32_t)length) : 0);
            break;
        default: {
            int32_t n = 1 + (int32_t)((random >> 16) % 90), from, to;
            sobre_status st = kv_reserve(&kv, seq, n, &from, &to);
            assert_int_equal(st, length + n > N_CTX ? SOBRE_CONTEXT_FULL : SOBRE_OK);
            if (st < 0) break;
            if (from >= 0) memcpy(cache[to], cache[from], sizeof cache[0]);
            for (int32_t p = length; p < length + n; p++)
                cache[kv.seqs[seq].pages[p / SOBRE_KV_PAGE]][p % SOBRE_KV_PAGE] = want[seq][p] =
                    ++counter;
            kv_advance(&kv, seq, n);
        }
        }
        for (int32_t q = 0; q < N_SEQ; q++)
            for (int32_t p = 0; p < kv.seqs[q].length; p++)
                if (cache[kv.seqs[q].pages[p / SOBRE_KV_PAGE]][p % SOBRE_KV_PAGE] != want[q][p])
                    fail_msg("round %d: sequence %d reads another's position %d", round, q, p);
    }
    for (int32_t q = 0; q < N_SEQ; q++) kv_truncate(&kv, q, 0);
    assert_int_equal(kv_pages_used(&kv), 0);
    kv_close(&kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_fork_splits), cmocka_unit_test(test_truncate_into_shared_page),
        cmocka_unit_test(test_random_walk),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
