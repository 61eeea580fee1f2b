/* SPDX-License-Identifier: MIT */
/* The context: counted memory, the last error of each thread, log, thread pool. */
#include "context.h"

#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "pool.h"
#include "registry.h"
#include "utf8.h"

enum { N_ERRORS = 16, ERROR_SIZE = 512, MAX_THREADS = 256 };

typedef struct kept_text {
    struct kept_text *next;
    char text[];
} kept_text;

typedef struct error_slot {
    uint64_t thread; /* 0: free */
    uint64_t stamp;  /* of its last failure, to give up the oldest */
    char text[ERROR_SIZE];
} error_slot;

struct sobre_context {
    atomic_int refs;
    sobre_allocator allocator;
    bool own_allocator; /* the caller gave it */
    void (*log)(void *user, sobre_log_level level, const char *message);
    void *log_user;
    char *cache_dir, *plugin_dir;
    int32_t n_threads;
    sobre_cpu_isa cpu_isa;
    uint64_t host_limit;
    atomic_uint_least64_t bytes, peak_bytes, n_allocations;
    os_mutex mutex; /* guards what follows */
    error_slot errors[N_ERRORS];
    uint64_t stamp;
    pool *pool;
    registry *registry;
    kept_text *texts;
    void *null_control;
    sobre_host host;
};

/* --- Memory. Each block is preceded by its size and its distance to the start of the allocation.
 */

typedef struct block_head {
    size_t size; /* of the whole allocation */
    size_t distance;
} block_head;

static void *system_alloc(void *user, size_t size, size_t align)
{
    return os_aligned_alloc(size, align);
}

static void system_free(void *user, void *ptr)
{
    os_aligned_free(ptr);
}

/* Asks for room under the limit; memory_taken() once the allocation was made. */
static bool memory_take(sobre_context *ctx, uint64_t size)
{
    uint64_t now = atomic_fetch_add(&ctx->bytes, size) + size;

    if (!ctx->host_limit || now <= ctx->host_limit) return true;
    atomic_fetch_sub(&ctx->bytes, size);
    return false;
}

static void memory_taken(sobre_context *ctx)
{
    uint64_t now = atomic_load(&ctx->bytes), peak = atomic_load(&ctx->peak_bytes);

    while (now > peak && !atomic_compare_exchange_weak(&ctx->peak_bytes, &peak, now)) {
    }
    atomic_fetch_add(&ctx->n_allocations, 1);
}

static void memory_give(sobre_context *ctx, uint64_t size)
{
    atomic_fetch_sub(&ctx->bytes, size);
}

static void *out_of_memory(sobre_context *ctx, uint64_t size)
{
    uint64_t held = atomic_load(&ctx->bytes);

    if (ctx->host_limit &&
        size > ctx->host_limit - (held < ctx->host_limit ? held : ctx->host_limit))
        fail(ctx, SOBRE_OUT_OF_MEMORY,
             "%llu more bytes would pass the host memory limit of %llu (%llu are held); raise the "
             "limit, or use a smaller model or context",
             (unsigned long long)size, (unsigned long long)ctx->host_limit,
             (unsigned long long)held);
    else
        fail(ctx, SOBRE_OUT_OF_MEMORY,
             "no memory for %llu bytes (%llu are held); close something, or use a smaller model or "
             "context",
             (unsigned long long)size, (unsigned long long)held);
    return NULL;
}

void *mem_alloc_aligned(sobre_context *ctx, size_t size, size_t align)
{
    uint64_t total;
    size_t distance;
    uint8_t *base, *block;

    if (align < _Alignof(max_align_t)) align = _Alignof(max_align_t);
    distance = align > sizeof(block_head) ? align : sizeof(block_head);
    if (!checked_add(size ? size : 1, distance, &total) || total > SIZE_MAX / 2)
        return out_of_memory(ctx, size);
    if (!memory_take(ctx, total)) return out_of_memory(ctx, total);
    base = ctx->allocator.alloc(ctx->allocator.user, (size_t)total, align);
    if (!base) {
        memory_give(ctx, total);
        return out_of_memory(ctx, total);
    }
    memory_taken(ctx);
    block = base + distance;
    memset(block, 0, (size_t)total - distance);
    ((block_head *)block)[-1] = (block_head){(size_t)total, distance};
    return block;
}

void *mem_alloc(sobre_context *ctx, size_t n, size_t size)
{
    uint64_t total;

    if (!checked_mul(n, size, &total) || total > SIZE_MAX / 2)
        return out_of_memory(ctx, UINT64_MAX);
    return mem_alloc_aligned(ctx, (size_t)total, _Alignof(max_align_t));
}

void mem_free(sobre_context *ctx, void *ptr)
{
    block_head head;

    if (!ptr) return;
    head = ((block_head *)ptr)[-1];
    ctx->allocator.free(ctx->allocator.user, (uint8_t *)ptr - head.distance);
    memory_give(ctx, head.size);
}

void *mem_grow(sobre_context *ctx, void *ptr, size_t old_n, size_t n, size_t size)
{
    void *grown = mem_alloc(ctx, n, size);

    if (!grown) return NULL;
    if (ptr) memcpy(grown, ptr, (old_n < n ? old_n : n) * size);
    mem_free(ctx, ptr);
    return grown;
}

char *mem_strndup(sobre_context *ctx, const char *text, size_t size)
{
    char *copy = size < SIZE_MAX ? mem_alloc(ctx, size + 1, 1) : NULL;

    if (copy && size) memcpy(copy, text, size);
    return copy;
}

char *mem_strdup(sobre_context *ctx, const char *text)
{
    return mem_strndup(ctx, text, strlen(text));
}

void *mem_plain_alloc(size_t size, void *ctx)
{
    return mem_alloc(ctx, 1, size);
}

void mem_plain_free(void *ptr, void *ctx)
{
    mem_free(ctx, ptr);
}

void *mem_pages_alloc(sobre_context *ctx, size_t size, bool huge)
{
    void *pages;

    if (ctx->own_allocator) return mem_alloc_aligned(ctx, size, 4096);
    if (!memory_take(ctx, size)) return out_of_memory(ctx, size);
    pages = os_pages_alloc(size ? size : 1, huge);
    if (!pages) {
        memory_give(ctx, size);
        return out_of_memory(ctx, size);
    }
    memory_taken(ctx);
    return pages;
}

void mem_pages_free(sobre_context *ctx, void *pages, size_t size)
{
    if (!pages) return;
    if (ctx->own_allocator) {
        mem_free(ctx, pages);
        return;
    }
    os_pages_free(pages, size ? size : 1);
    memory_give(ctx, size);
}

/* --- Errors and log. */

static error_slot *error_slot_of(sobre_context *ctx, uint64_t thread)
{
    error_slot *oldest = &ctx->errors[0];

    for (int i = 0; i < N_ERRORS; i++) {
        if (ctx->errors[i].thread == thread) return &ctx->errors[i];
        if (ctx->errors[i].stamp < oldest->stamp) oldest = &ctx->errors[i];
    }
    return oldest;
}

/* Messages quote files: nothing of those may drive a terminal, and what is cut is cut between
 * characters. */
static void format_message(char text[ERROR_SIZE], const char *format, va_list args)
{
    int n = vsnprintf(text, ERROR_SIZE, format, args);

    if (n >= ERROR_SIZE) text[utf8_whole(text, ERROR_SIZE - 1)] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 32 || *c == 127) *c = '?';
}

sobre_status fail(sobre_context *ctx, sobre_status status, const char *format, ...)
{
    uint64_t thread = os_thread_id();
    char text[ERROR_SIZE]; /* formatted apart: an argument may be the last error itself */
    error_slot *slot;
    va_list args;

    va_start(args, format);
    format_message(text, format, args);
    va_end(args);
    os_mutex_lock(&ctx->mutex);
    slot = error_slot_of(ctx, thread);
    slot->thread = thread;
    slot->stamp = ++ctx->stamp;
    memcpy(slot->text, text, sizeof text);
    os_mutex_unlock(&ctx->mutex);
    log_write(ctx, SOBRE_LOG_ERROR, "%s", text);
    return status;
}

const char *sobre_error(const sobre_context *context)
{
    sobre_context *ctx = (sobre_context *)context; /* the mutex is no visible state */
    uint64_t thread = os_thread_id();
    const char *text = "";

    if (!ctx)
        return "no context: its options are wrong (struct_size, n_threads 0 to 256, cpu_isa, "
               "blas, allocator without alloc or free), or memory is short";
    os_mutex_lock(&ctx->mutex);
    for (int i = 0; i < N_ERRORS; i++)
        if (ctx->errors[i].thread == thread) text = ctx->errors[i].text;
    os_mutex_unlock(&ctx->mutex);
    return text;
}

void log_write(sobre_context *ctx, sobre_log_level level, const char *format, ...)
{
    char text[ERROR_SIZE];
    va_list args;

    if (!ctx->log) return;
    va_start(args, format);
    format_message(text, format, args);
    va_end(args);
    ctx->log(ctx->log_user, level, text);
}

/* What both sides know of `options`; a field that only the caller knows must be zero. */
static sobre_status options_read(const void *options, void *ret, size_t size)
{
    const uint8_t *bytes = options;
    size_t given;

    memcpy(&given, options, sizeof given); /* struct_size comes first in each */
    if (given < sizeof given) return SOBRE_INVALID_ARGUMENT;
    for (size_t i = size; i < given; i++)
        if (bytes[i]) return SOBRE_UNSUPPORTED;
    memcpy(ret, options, given < size ? given : size);
    memcpy(ret, &size, sizeof size);
    return SOBRE_OK;
}

sobre_status options_copy(sobre_context *ctx, const char *name, const void *options, void *ret,
                          size_t size)
{
    sobre_status status = options ? options_read(options, ret, size) : SOBRE_OK;

    if (status == SOBRE_INVALID_ARGUMENT)
        return fail(ctx, status,
                    "sobre_%s.struct_size is not set; write SOBRE(%s, ...) or set it to the "
                    "struct's size",
                    name, name);
    if (status == SOBRE_UNSUPPORTED)
        return fail(ctx, status,
                    "sobre_%s has a field that this version (%s) does not know; update the "
                    "library, or leave the field zero",
                    name, sobre_version());
    return status;
}

/* --- Opening and closing. */

static bool options_valid(const sobre_context_options *o)
{
    return o->n_threads >= 0 && o->n_threads <= MAX_THREADS && o->cpu_isa >= SOBRE_CPU_BEST &&
           o->cpu_isa <= SOBRE_CPU_I8MM && o->blas >= SOBRE_BLAS_AUTO &&
           o->blas <= SOBRE_BLAS_ALWAYS &&
           (!o->allocator || (o->allocator->alloc && o->allocator->free));
}

static sobre_status context_fill(sobre_context *ctx, const sobre_context_options *o)
{
    if (o->cache_dir && !(ctx->cache_dir = mem_strdup(ctx, o->cache_dir)))
        return SOBRE_OUT_OF_MEMORY;
    if (o->plugin_dir && !(ctx->plugin_dir = mem_strdup(ctx, o->plugin_dir)))
        return SOBRE_OUT_OF_MEMORY;
    ctx->host = (sobre_host){
        .struct_size = sizeof(sobre_host),
        .context = ctx,
        .alloc = mem_alloc_aligned,
        .free = mem_free,
        .log = log_write,
        .fail = fail,
        .cache_dir = ctx->cache_dir,
        .text = context_text,
        .blas = o->blas,
    };
    return registry_open(ctx, &ctx->registry);
}

sobre_status sobre_context_open(const sobre_context_options *options, sobre_context **ret_context)
{
    sobre_context_options o = SOBRE_INIT(context_options);
    sobre_allocator allocator = {NULL, system_alloc, system_free};
    sobre_context *ctx;
    sobre_status status;

    if (!ret_context) return SOBRE_INVALID_ARGUMENT;
    if (options) {
        status = options_read(options, &o, sizeof o);
        if (status < 0) return status;
        if (!options_valid(&o)) return SOBRE_INVALID_ARGUMENT;
    }
    if (o.allocator) allocator = *o.allocator;
    ctx = allocator.alloc(allocator.user, sizeof *ctx, _Alignof(max_align_t));
    if (!ctx) return SOBRE_OUT_OF_MEMORY;
    memset(ctx, 0, sizeof *ctx);
    atomic_init(&ctx->refs, 1);
    ctx->allocator = allocator;
    ctx->own_allocator = o.allocator != NULL;
    ctx->log = o.log;
    ctx->log_user = o.log_user;
    ctx->n_threads = o.n_threads;
    ctx->cpu_isa = o.cpu_isa;
    ctx->host_limit = o.host_limit;
    if (!os_mutex_init(&ctx->mutex)) {
        allocator.free(allocator.user, ctx);
        return SOBRE_OUT_OF_MEMORY;
    }
    status = context_fill(ctx, &o);
    if (status < 0) {
        context_unref(ctx);
        return status;
    }
    *ret_context = ctx;
    return SOBRE_OK;
}

void context_ref(sobre_context *ctx)
{
    atomic_fetch_add(&ctx->refs, 1);
}

void context_unref(sobre_context *ctx)
{
    sobre_allocator allocator;

    if (!ctx || atomic_fetch_sub(&ctx->refs, 1) != 1) return;
    registry_close(ctx->registry);
    pool_close(ctx->pool);
    while (ctx->texts) {
        kept_text *t = ctx->texts;
        ctx->texts = t->next;
        mem_free(ctx, t);
    }
    mem_free(ctx, ctx->cache_dir);
    mem_free(ctx, ctx->plugin_dir);
    os_mutex_destroy(&ctx->mutex);
    allocator = ctx->allocator;
    allocator.free(allocator.user, ctx);
}

void sobre_context_close(sobre_context *context)
{
    context_unref(context);
}

sobre_status sobre_context_usage(const sobre_context *context, sobre_usage *ret_usage)
{
    sobre_usage usage;
    size_t size;

    if (!context || !ret_usage || ret_usage->struct_size < sizeof(size_t))
        return SOBRE_INVALID_ARGUMENT;
    size = ret_usage->struct_size;
    usage = (sobre_usage){
        .struct_size = size,
        .host_bytes = atomic_load(&context->bytes),
        .host_peak_bytes = atomic_load(&context->peak_bytes),
        .n_allocations = atomic_load(&context->n_allocations),
    };
    memcpy(ret_usage, &usage, size < sizeof usage ? size : sizeof usage);
    return SOBRE_OK;
}

/* --- Parts. */

sobre_status context_pool(sobre_context *ctx, pool **ret_pool)
{
    sobre_status status = SOBRE_OK;
    pool *made = NULL;

    os_mutex_lock(&ctx->mutex);
    made = ctx->pool;
    os_mutex_unlock(&ctx->mutex);
    if (!made) { /* opened unlocked, since a failure reports itself; a loser of the race closes its
                    own */
        status = pool_open(ctx, ctx->n_threads, &made);
        if (status < 0) return status;
        os_mutex_lock(&ctx->mutex);
        if (!ctx->pool) {
            ctx->pool = made;
            made = NULL;
        }
        os_mutex_unlock(&ctx->mutex);
        pool_close(made);
    }
    *ret_pool = ctx->pool;
    return SOBRE_OK;
}

sobre_cpu_isa context_cpu_isa(const sobre_context *ctx)
{
    return ctx->cpu_isa;
}

int32_t context_n_threads(const sobre_context *ctx)
{
    int cpus[MAX_THREADS], n_cores = 0;

    if (ctx->n_threads > 0) return ctx->n_threads;
    os_cpus(cpus, MAX_THREADS, &n_cores);
    return n_cores > 0 ? n_cores : 1;
}

const char *context_text(sobre_context *ctx, const char *text)
{
    size_t size = strlen(text) + 1;
    kept_text *t = mem_alloc(ctx, 1, sizeof *t + size);

    if (!t) return NULL;
    memcpy(t->text, text, size);
    os_mutex_lock(&ctx->mutex);
    t->next = ctx->texts;
    ctx->texts = t;
    os_mutex_unlock(&ctx->mutex);
    return t->text;
}

const char *context_plugin_dir(const sobre_context *ctx)
{
    return ctx->plugin_dir;
}

const sobre_host *context_host(sobre_context *ctx)
{
    return &ctx->host;
}

registry *context_registry(sobre_context *ctx)
{
    return ctx->registry;
}

void context_null_control_set(sobre_context *ctx, void *control)
{
    ctx->null_control = control;
}

void *context_null_control(const sobre_context *ctx)
{
    return ctx->null_control;
}
