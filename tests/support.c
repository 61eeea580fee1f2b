/* SPDX-License-Identifier: MIT */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

static void *counted_alloc(void *user, size_t size, size_t align)
{
    test_memory *m = user;
    long long n = atomic_fetch_add(&m->n_calls, 1) + 1, largest = atomic_load(&m->largest);
    void *p;

    if (m->fail_at && (m->for_good ? n >= m->fail_at : n == m->fail_at)) return NULL;
    while ((long long)size > largest &&
           !atomic_compare_exchange_weak(&m->largest, &largest, (long long)size)) {
    }
    p = os_aligned_alloc(size, align);
    if (p) {
        atomic_fetch_add(&m->n_live, 1);
        memset(p, 0xa5, size); /* whoever relies on zeroes must ask for them */
    }
    return p;
}

static void counted_free(void *user, void *ptr)
{
    test_memory *m = user;

    atomic_fetch_sub(&m->n_live, 1);
    os_aligned_free(ptr);
}

sobre_allocator test_allocator(test_memory *memory)
{
    return (sobre_allocator){memory, counted_alloc, counted_free};
}

static const char *needed(const char *variable, const char *option)
{
    const char *value = getenv(variable);

    if (!value || !*value) {
        print_message("SKIP: the build option %s is not set\n", option);
        skip();
    }
    return value;
}

const char *test_model_path(void)
{
    return needed("SOBRE_TEST_MODEL", "model");
}

const char *test_golden_path(const char *name, char *path, size_t size)
{
    int n = snprintf(path, size, "%s/%s", needed("SOBRE_TEST_GOLDEN", "golden_dir"), name);

    assert_in_range(n, 1, size - 1);
    return path;
}

static test_model model_open(const sobre_source *source, void *bytes,
                             const sobre_context_options *co, const sobre_fit_options *fo)
{
    test_model t = {.bytes = bytes};

    assert_int_equal(sobre_context_open(co, &t.ctx), SOBRE_OK);
    assert_ok(t.ctx, sobre_model_open(t.ctx, source, &t.model));
    assert_ok(t.ctx, sobre_model_load(t.model, fo, NULL));
    return t;
}

test_model test_model_make(gguf_make *g, const sobre_context_options *co,
                           const sobre_fit_options *fo)
{
    size_t size;
    void *bytes = gguf_make_bytes(g, &size);

    gguf_make_free(g);
    return model_open(SOBRE(source, .data = bytes, .data_size = size), bytes, co, fo);
}

test_model test_model_file(const char *path, const sobre_context_options *co,
                           const sobre_fit_options *fo)
{
    return model_open(SOBRE(source, .path = path), NULL, co, fo);
}

static const char *first_device(void)
{
    const char *devices = getenv("SOBRE_TEST_DEVICES");

    return devices && *devices ? devices : "cpu";
}

int test_on_cpu(void)
{
    return strncmp(first_device(), "cpu", 3) == 0;
}

test_model test_model_device(const char *path, const sobre_fit_options *fo)
{
    const char *device = first_device(), *colon = strchr(device, ':');
    sobre_fit_options options = SOBRE_INIT(fit_options);
    char backend[16];
    test_model t = {0};

    if (fo) options = *fo;
    snprintf(backend, sizeof backend, "%.*s", (int)strcspn(device, ":,"), device);
    assert_int_equal(
        sobre_context_open(SOBRE(context_options, .plugin_dir = getenv("SOBRE_TEST_PLUGINS")),
                           &t.ctx),
        SOBRE_OK);
    assert_ok(t.ctx,
              sobre_device_get(t.ctx, backend, colon ? atoi(colon + 1) : 0, &options.device, NULL));
    assert_ok(t.ctx, sobre_model_open(t.ctx, SOBRE(source, .path = path), &t.model));
    assert_ok(t.ctx, sobre_model_load(t.model, &options, NULL));
    return t;
}

void test_model_close(test_model *t)
{
    sobre_model_close(t->model);
    sobre_context_close(t->ctx);
    free(t->bytes);
    memset(t, 0, sizeof *t);
}

float *test_logits(const test_model *t, const sobre_session_options *so, const int32_t *ids,
                   int32_t n_ids, int32_t chunk)
{
    size_t n_vocab = (size_t)sobre_model_info_get(t->model)->n_vocab;
    float *all = malloc((size_t)n_ids * n_vocab * sizeof *all);
    sobre_session *s;

    assert_non_null(all);
    assert_ok(t->ctx, sobre_session_open(t->model, so, &s));
    if (!chunk) chunk = n_ids;
    for (int32_t i = 0; i < n_ids; i += chunk) {
        int32_t n = n_ids - i < chunk ? n_ids - i : chunk;
        sobre_entry e = {.pos = i, .n_tokens = n, .want = SOBRE_WANT_ALL, .ids = ids + i};

        assert_ok(t->ctx, sobre_session_eval(s, SOBRE(batch, .entries = &e, .n_entries = 1)));
        assert_int_equal(sobre_session_n_logits(s), n);
        for (int32_t k = 0; k < n; k++) {
            const float *row;

            assert_ok(t->ctx, sobre_session_logits(s, (size_t)k, &row));
            memcpy(all + (size_t)(i + k) * n_vocab, row, n_vocab * sizeof *row);
        }
    }
    sobre_session_close(s);
    return all;
}

double test_nmse(const float *x, const double *reference, size_t n)
{
    double wrong = 0, whole = 0;

    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - reference[i];

        wrong += d * d;
        whole += reference[i] * reference[i];
    }
    return wrong / whole;
}

void test_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;

    for (int32_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
        ids[i] = (int32_t)((state >> 8) % (uint32_t)n_vocab);
    }
}
