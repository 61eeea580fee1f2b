/* SPDX-License-Identifier: MIT */
/* The context from inside: memory, errors, log, threads, devices. */
#ifndef SOBRE_CONTEXT_H
#define SOBRE_CONTEXT_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <sobre/backend.h>

#include "os.h"

#if defined(__MINGW32__)
#define SOBRE_PRINTF(nth, args) __attribute__((format(gnu_printf, nth, args)))
#elif defined(__GNUC__)
#define SOBRE_PRINTF(nth, args) __attribute__((format(printf, nth, args)))
#else
#define SOBRE_PRINTF(nth, args)
#endif

/* Passes a failure on. */
#define TRY(expr)                                \
    do {                                         \
        sobre_status try_status_ = (expr);       \
        if (try_status_ < 0) return try_status_; \
    } while (0)

void context_ref(sobre_context *ctx);
void context_unref(sobre_context *ctx);

/* --- Memory: all of it counted, limited, and from the caller's allocator. Failure is reported
 * (OUT_OF_MEMORY). */
void *mem_alloc(sobre_context *ctx, size_t n,
                size_t size); /* n * size zeroed bytes; checked; n 0 is 1 */
void *mem_alloc_aligned(sobre_context *ctx, size_t size, size_t align); /* zeroed */
void *mem_grow(sobre_context *ctx, void *ptr, size_t old_n, size_t n,
               size_t size); /* NULL leaves ptr as it was */
char *mem_strdup(sobre_context *ctx, const char *text);
char *mem_strndup(sobre_context *ctx, const char *text, size_t size);
void mem_free(sobre_context *ctx, void *ptr); /* NULL is fine */
/* Large memory: pages of the system (committed as they are touched), or the caller's allocator if
 * there is one. */
void *mem_pages_alloc(sobre_context *ctx, size_t size, bool huge);
void mem_pages_free(sobre_context *ctx, void *pages, size_t size);

/* --- Errors and log. Messages: what was wrong, where, what to do; no full stop, no newline. */
sobre_status fail(sobre_context *ctx, sobre_status status, const char *format, ...)
    SOBRE_PRINTF(3, 4);
void log_write(sobre_context *ctx, sobre_log_level level, const char *format, ...)
    SOBRE_PRINTF(3, 4);

/* Copies an options struct of the caller, of any version, over defaults of `size` bytes; NULL
 * leaves them. INVALID_ARGUMENT, naming the struct, if its struct_size is not set. */
sobre_status options_copy(sobre_context *ctx, const char *name, const void *options, void *ret,
                          size_t size);

/* --- Parts */
struct pool;
/* Started on first use. */
sobre_status context_pool(sobre_context *ctx, struct pool **ret_pool);
sobre_cpu_isa context_cpu_isa(const sobre_context *ctx);
/* Threads that context_pool() would start, the caller's included. */
int32_t context_n_threads(const sobre_context *ctx);
/* A copy of a text that lives as long as the context; NULL when out of memory. */
const char *context_text(sobre_context *ctx, const char *text);
const sobre_host *context_host(sobre_context *ctx);
const char *context_plugin_dir(const sobre_context *ctx); /* the caller's, or NULL */
/* The allocator's seam for PCRE2 and others: plain malloc-like calls on the context. */
void *mem_plain_alloc(size_t size, void *ctx);
void mem_plain_free(void *ptr, void *ctx);

/* What the null backend should do; NULL (no null devices) unless a test sets it. */
void context_null_control_set(sobre_context *ctx, void *control);
void *context_null_control(const sobre_context *ctx);

/* --- Devices (backends/registry.c) */
typedef struct device_entry {
    const sobre_backend *backend;
    int32_t index; /* of the backend's devices */
    sobre_device_info info;
    sobre_device *device; /* NULL until opened */
} device_entry;

/* The opened device of this number; UNAVAILABLE with the reason if it cannot be used. */
sobre_status device_use(sobre_context *ctx, int32_t number, const device_entry **ret_entry);
struct registry;
struct registry *context_registry(sobre_context *ctx);

#endif
