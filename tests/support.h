/* SPDX-License-Identifier: MIT */
/* What several tests need: an allocator that counts and fails on demand, and whole models in a few
 * words. cmocka's assertions end the test that calls these. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sobre/sobre.h>

#include "gguf_make.h"

/* cmocka's macro of this name would hide context.h's function. */
#undef fail

/* Ends the test with a message. */
#define test_fail(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))
/* Fails the test with the context's message unless the status is fine. */
#define assert_ok(ctx, expr)                                                                     \
    do {                                                                                         \
        sobre_status assert_status_ = (expr);                                                    \
        if (assert_status_ < 0)                                                                  \
            test_fail("%s: %s: %s", #expr, sobre_status_name(assert_status_), sobre_error(ctx)); \
    } while (0)

/* An allocator on malloc. The `fail_at`th call (from 1; 0: none) and, with `for_good`, all later
 * ones return NULL. */
typedef struct test_memory {
    atomic_llong n_calls, n_live, largest;
    long long fail_at;
    int for_good;
} test_memory;
sobre_allocator test_allocator(test_memory *memory);

/* Where the larger test data lie, from the build options `model` and `golden_dir`; if they are not
 * set the test is skipped, saying so. `name` is relative to the golden folder. */
const char *test_model_path(void);
const char *test_golden_path(const char *name, char *path, size_t size);

/* A model from bytes or a file, loaded for the CPU. */
typedef struct test_model {
    sobre_context *ctx;
    sobre_model *model;
    void *bytes; /* freed with it; may be NULL */
} test_model;
/* Takes over `g`. NULL options are defaults. */
test_model test_model_make(gguf_make *g, const sobre_context_options *co,
                           const sobre_fit_options *fo);
test_model test_model_file(const char *path, const sobre_context_options *co,
                           const sobre_fit_options *fo);
/* On the device that SOBRE_TEST_DEVICES names first ("opencl:0"; the CPU if it is not set), whose
 * plugin is in the folder SOBRE_TEST_PLUGINS. */
test_model test_model_device(const char *path, const sobre_fit_options *fo);
/* Is that device the CPU? */
int test_on_cpu(void);
void test_model_close(test_model *t);

/* Logits [n_ids, n_vocab] of one sequence, malloc'd: `chunk` columns at a time (0: all at once). */
float *test_logits(const test_model *t, const sobre_session_options *so, const int32_t *ids,
                   int32_t n_ids, int32_t chunk);
/* Sum of squared differences over sum of squares. */
double test_nmse(const float *x, const double *reference, size_t n);
/* n pseudo-random ids below n_vocab. */
void test_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint32_t seed);

#endif
