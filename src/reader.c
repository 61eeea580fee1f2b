/* SPDX-License-Identifier: MIT */
/* Bytes of a model: a file, memory, the caller's function, or a mapping. */
#include "reader.h"

#include <string.h>

typedef unsigned long long ull;

static sobre_status open_path(reader *r, bool map)
{
    char cause[256];
    const void *data;
    if (!os_file_open(r->path, &r->file)) {
        return fail(r->ctx, SOBRE_IO, "%s: cannot be opened: %s", r->name,
                    os_error_text(cause, sizeof cause));
    }
    r->has_file = true;
    if (!os_file_size(r->file, &r->size)) {
        return fail(r->ctx, SOBRE_IO, "%s: its size cannot be told: %s", r->name,
                    os_error_text(cause, sizeof cause));
    }
    if (!map || r->size == 0) return SOBRE_OK;
    if (!os_file_map(r->file, r->size, &data)) {
        return fail(r->ctx, SOBRE_IO, "%s: cannot be mapped: %s; open it without `map`", r->name,
                    os_error_text(cause, sizeof cause));
    }
    r->data = data;
    r->mapped = true;
    return SOBRE_OK;
}

/* A path as messages show it: of a long one the end, so that there is room for what was wrong. */
static char *short_name(sobre_context *ctx, const char *path)
{
    enum { SHOWN = 160 };
    size_t size = strlen(path);
    char *name;
    if (size <= SHOWN) return mem_strdup(ctx, path);
    path += size - SHOWN;
    while ((*path & 0xC0) == 0x80) path++; /* to the start of a character */
    name = mem_alloc(ctx, strlen(path) + 4, 1);
    if (name) memcpy((char *)memcpy(name, "...", 3) + 3, path, strlen(path));
    return name;
}

static sobre_status open_source(reader *r, const sobre_source *source)
{
    if (source->path && !(r->path = mem_strdup(r->ctx, source->path))) return SOBRE_OUT_OF_MEMORY;
    r->name = r->path ? short_name(r->ctx, r->path)
                      : mem_strdup(r->ctx, source->data ? "(memory)" : "(reader)");
    if (!r->name) return SOBRE_OUT_OF_MEMORY;
    if (source->path) {
        TRY(open_path(r, source->map));
    } else if (source->data) {
        r->data = source->data;
        r->size = source->data_size;
    } else {
        if (!os_mutex_init(&r->mutex))
            return fail(r->ctx, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
        r->has_mutex = true;
        r->read = source->read;
        r->read_user = source->read_user;
        r->size = source->read_size;
    }
    if (r->size == 0) {
        return fail(r->ctx, SOBRE_BAD_FORMAT, "%s: is empty; copy or download it again", r->name);
    }
    return SOBRE_OK;
}

sobre_status reader_open(sobre_context *ctx, const sobre_source *source, reader **ret_reader)
{
    sobre_source s = SOBRE_INIT(source);
    TRY(options_copy(ctx, "source", source, &s, sizeof s));
    if ((s.path != NULL) + (s.data != NULL) + (s.read != NULL) != 1) {
        return fail(ctx, SOBRE_INVALID_ARGUMENT,
                    "sobre_source: exactly one of path, data and read must be given");
    }
    reader *r = mem_alloc(ctx, 1, sizeof *r);
    if (!r) return SOBRE_OUT_OF_MEMORY;
    r->ctx = ctx;
    sobre_status status = open_source(r, &s);
    if (status < 0) {
        reader_close(r);
        return status;
    }
    *ret_reader = r;
    return SOBRE_OK;
}

void reader_close(reader *r)
{
    if (!r) return;
    if (r->mapped) os_file_unmap(r->data, r->size);
    if (r->has_file) os_file_close(r->file);
    if (r->has_mutex) os_mutex_destroy(&r->mutex);
    mem_free(r->ctx, r->name);
    mem_free(r->ctx, r->path);
    mem_free(r->ctx, r);
}

static bool in_range(const reader *r, uint64_t offset, uint64_t size)
{
    return offset <= r->size && size <= r->size - offset;
}

sobre_status reader_read(reader *r, uint64_t offset, void *buffer, size_t size)
{
    char cause[256];
    uint64_t size_now;
    if (!in_range(r, offset, size)) {
        return fail(r->ctx, SOBRE_BAD_FORMAT,
                    "%s: truncated: %llu bytes are needed at byte %llu, but it ends at byte %llu; "
                    "copy or download it again",
                    r->name, (ull)size, (ull)offset, (ull)r->size);
    }
    if (size == 0) return SOBRE_OK;
    if (r->data) {
        memcpy(buffer, r->data + offset, size);
        return SOBRE_OK;
    }
    if (r->read) {
        os_mutex_lock(&r->mutex);
        int32_t code = r->read(r->read_user, offset, buffer, size);
        os_mutex_unlock(&r->mutex);
        if (code == 0) return SOBRE_OK;
        return fail(r->ctx, SOBRE_IO,
                    "%s: the caller's read function gave %d for %llu bytes at byte %llu", r->name,
                    (int)code, (ull)size, (ull)offset);
    }
    if (os_file_read_at(r->file, offset, buffer, size)) return SOBRE_OK;
    os_error_text(cause, sizeof cause);
    if (os_file_size(r->file, &size_now) && size_now < r->size) {
        return fail(r->ctx, SOBRE_BAD_FORMAT,
                    "%s: truncated while it was read: it had %llu bytes and now has %llu, and %llu "
                    "bytes are needed at byte %llu; put it back and open it again",
                    r->name, (ull)r->size, (ull)size_now, (ull)size, (ull)offset);
    }
    return fail(r->ctx, SOBRE_IO, "%s: reading %llu bytes at byte %llu failed: %s", r->name,
                (ull)size, (ull)offset, cause);
}

const void *reader_peek(reader *r, uint64_t offset, uint64_t size)
{
    return r->data && in_range(r, offset, size) ? r->data + offset : NULL;
}
