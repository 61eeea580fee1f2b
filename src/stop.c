/* SPDX-License-Identifier: MIT */
/* One automaton a stop string (Knuth, Morris and Pratt 1977): its state is the length of the
 * longest prefix of the string that the bytes so far end with, so the largest state is how much
 * must be held back. */
#include "stop.h"

#include <string.h>

#include "tok.h"

typedef struct automaton {
    const char *text;
    size_t size, state;
    size_t *borders; /* [size]: longest proper prefix of text[0..i] that it also ends with */
} automaton;

struct stop_matcher {
    sobre_context *ctx;
    automaton *strings;
    size_t n_strings;
    size_t *borders; /* of all strings */
    char *bytes;     /* not taken yet */
    size_t n_bytes, capacity;
    char *text; /* [capacity * MAX_REPAIR]: what the last take returned */
    bool matched;
};

enum { FIRST_CAPACITY = 256, MAX_REPAIR = 3 /* bytes of U+FFFD for one bad byte */ };

static void find_borders(automaton *a)
{
    size_t k = 0;
    for (size_t i = 1; i < a->size; i++) {
        while (k && a->text[i] != a->text[k]) k = a->borders[k - 1];
        if (a->text[i] == a->text[k]) k++;
        a->borders[i] = k;
    }
}

sobre_status stop_open(sobre_context *ctx, const char *const *strings, size_t n_strings,
                       stop_matcher **ret_matcher)
{
    stop_matcher *m = mem_alloc(ctx, 1, sizeof *m);
    size_t n_borders = 0;

    if (!m) return SOBRE_OUT_OF_MEMORY;
    m->ctx = ctx;
    m->n_strings = n_strings;
    for (size_t i = 0; i < n_strings; i++) n_borders += strlen(strings[i]);
    m->capacity = FIRST_CAPACITY + n_borders;
    m->strings = mem_alloc(ctx, n_strings, sizeof *m->strings);
    m->borders = mem_alloc(ctx, n_borders, sizeof *m->borders);
    m->bytes = mem_alloc(ctx, m->capacity, 1);
    m->text = mem_alloc(ctx, m->capacity, MAX_REPAIR);
    if (!m->strings || !m->borders || !m->bytes || !m->text) {
        stop_close(m);
        return SOBRE_OUT_OF_MEMORY;
    }
    size_t *borders = m->borders;
    for (size_t i = 0; i < n_strings; i++) {
        automaton *a = &m->strings[i];
        *a = (automaton){.text = strings[i], .size = strlen(strings[i]), .borders = borders};
        borders += a->size;
        find_borders(a);
    }
    *ret_matcher = m;
    return SOBRE_OK;
}

void stop_close(stop_matcher *m)
{
    if (!m) return;
    mem_free(m->ctx, m->strings);
    mem_free(m->ctx, m->borders);
    mem_free(m->ctx, m->bytes);
    mem_free(m->ctx, m->text);
    mem_free(m->ctx, m);
}

static void forget_prefixes(stop_matcher *m)
{
    for (size_t i = 0; i < m->n_strings; i++) m->strings[i].state = 0;
}

void stop_reset(stop_matcher *m)
{
    forget_prefixes(m);
    m->n_bytes = 0;
    m->matched = false;
}

/* Steps every automaton by one byte; returns the length of the longest string that ends here. */
static size_t step(stop_matcher *m, char byte)
{
    size_t longest = 0;
    for (size_t i = 0; i < m->n_strings; i++) {
        automaton *a = &m->strings[i];
        while (a->state && a->text[a->state] != byte) a->state = a->borders[a->state - 1];
        if (a->text[a->state] == byte) a->state++;
        if (a->state == a->size && a->size > longest) longest = a->size;
    }
    return longest;
}

/* Room for `size` more bytes, and for all of them as text. */
static sobre_status make_room(stop_matcher *m, size_t size)
{
    size_t want = m->n_bytes + size;
    if (want <= m->capacity) return SOBRE_OK;
    want += want / 2;
    char *text = mem_alloc(m->ctx, want, MAX_REPAIR);
    char *bytes = text ? mem_grow(m->ctx, m->bytes, m->n_bytes, want, 1) : NULL;
    if (!bytes) {
        mem_free(m->ctx, text);
        return SOBRE_OUT_OF_MEMORY;
    }
    mem_free(m->ctx, m->text);
    m->bytes = bytes;
    m->text = text;
    m->capacity = want;
    return SOBRE_OK;
}

sobre_status stop_push(stop_matcher *m, const char *bytes, size_t size, bool *ret_matched)
{
    if (!m->matched) {
        TRY(make_room(m, size));
        for (size_t i = 0; i < size && !m->matched; i++) {
            m->bytes[m->n_bytes++] = bytes[i];
            size_t match = step(m, bytes[i]);
            if (match) {
                m->n_bytes -= match;
                m->matched = true;
            }
        }
    }
    *ret_matched = m->matched;
    return SOBRE_OK;
}

void stop_take(stop_matcher *m, bool all, const char **ret_text, size_t *ret_size)
{
    size_t size = m->n_bytes;

    if (m->matched) all = true; /* what is left stands before the stop string */
    if (!all) {
        size_t hold = 0;
        for (size_t i = 0; i < m->n_strings; i++)
            if (m->strings[i].state > hold) hold = m->strings[i].state;
        size = utf8_whole(m->bytes, size - hold);
    }
    *ret_size = utf8_repair(m->bytes, size, m->text);
    *ret_text = m->text;
    m->n_bytes -= size;
    memmove(m->bytes, m->bytes + size, m->n_bytes);
    if (all) forget_prefixes(m);
}

const char *stop_held(const stop_matcher *m, size_t *ret_size)
{
    *ret_size = m->n_bytes;
    return m->bytes;
}
