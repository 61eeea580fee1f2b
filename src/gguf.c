/* SPDX-License-Identifier: MIT */
/* GGUF files, versions 2 and 3, little endian, whole or split:
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * Every count and length is compared with the bytes that are left in the file before memory is
 * asked for, so that a lie costs nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "container.h"

typedef unsigned long long ull;

enum {
    PIECE = 1 << 18,                          /* read at once */
    MAX_KEY = 65535,                          /* bytes */
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,            /* of the smallest metadata entry */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* of the smallest tensor entry */
    DEFAULT_ALIGNMENT = 32,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 1 << 20,
    MAX_PARTS = 1024,
};

/* --- Reading in order. */

typedef struct cursor {
    container *c;
    reader *r;
    int32_t file;
    uint64_t pos;
    char subject[160]; /* what is being read, for messages */
    uint8_t *buffer;   /* [capacity]: bytes start .. start + filled of the file */
    size_t capacity, filled;
    uint64_t start;
} cursor;

static sobre_status bad(const cursor *at, uint64_t byte, const char *format, ...)
    SOBRE_PRINTF(3, 4);

static sobre_status bad(const cursor *at, uint64_t byte, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fail(at->c->ctx, SOBRE_BAD_FORMAT, "%s: %s at byte %llu: %s", at->r->name, at->subject,
                (ull)byte, text);
}

static uint64_t bytes_left(const cursor *at)
{
    return at->r->size - at->pos;
}

static sobre_status need(const cursor *at, uint64_t size)
{
    if (size <= bytes_left(at)) return SOBRE_OK;
    return bad(at, at->pos,
               "truncated: %llu bytes are needed, but the file ends at byte %llu; copy or download "
               "it again",
               (ull)size, (ull)at->r->size);
}

/* The next `size` bytes, at most `capacity`; valid until the next call. */
static sobre_status take(cursor *at, size_t size, const uint8_t **ret)
{
    TRY(need(at, size));
    const uint8_t *in_place = reader_peek(at->r, at->pos, size);
    if (!in_place) {
        uint64_t end = at->start + at->filled;
        if (at->pos < at->start || at->pos + size > end) {
            size_t fill = bytes_left(at) < at->capacity ? (size_t)bytes_left(at) : at->capacity;
            at->filled = 0;
            TRY(reader_read(at->r, at->pos, at->buffer, fill));
            at->start = at->pos;
            at->filled = fill;
        }
        in_place = at->buffer + (at->pos - at->start);
    }
    at->pos += size;
    *ret = in_place;
    return SOBRE_OK;
}

static uint64_t load(const uint8_t *p, size_t size)
{
    uint64_t v = 0;
    for (size_t i = 0; i < size; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static sobre_status take_int(cursor *at, size_t size, uint64_t *ret)
{
    const uint8_t *p;
    TRY(take(at, size, &p));
    *ret = load(p, size);
    return SOBRE_OK;
}

static sobre_status take_string(cursor *at, meta_string *ret)
{
    uint64_t size;
    size_t length;
    TRY(take_int(at, 8, &size));
    if (size > bytes_left(at) || !checked_size(size, &length)) {
        return bad(at, at->pos - 8,
                   "a string of %llu bytes, but only %llu are left in the file; it is truncated or "
                   "malformed: copy or download it again",
                   (ull)size, (ull)bytes_left(at));
    }
    char *text = container_text(at->c, length);
    if (!text) return SOBRE_OUT_OF_MEMORY;
    if (length > at->capacity) {
        TRY(reader_read(at->r, at->pos, text, length));
        at->pos += length;
    } else {
        const uint8_t *p;
        TRY(take(at, length, &p));
        memcpy(text, p, length);
    }
    *ret = (meta_string){text, length};
    return SOBRE_OK;
}

/* A key's or tensor's name: short, not empty, safe to print. */
static sobre_status take_name(cursor *at, uint64_t max, const char **ret)
{
    const uint8_t *p;
    uint64_t begin = at->pos;
    meta_string name;
    TRY(take(at, 8, &p));
    uint64_t size = load(p, 8);
    if (size == 0 || size > max) {
        return bad(at, begin, "a name of %llu bytes, expected 1 to %llu; the file is malformed",
                   (ull)size, (ull)max);
    }
    at->pos = begin;
    TRY(take_string(at, &name));
    for (size_t i = 0; i < name.size; i++) {
        uint8_t byte = (uint8_t)name.text[i];
        if (byte < 0x20 || byte == 0x7f) {
            return bad(at, begin + 8 + i, "byte %u in a name; the file is malformed",
                       (unsigned)byte);
        }
    }
    *ret = name.text;
    return SOBRE_OK;
}

/* --- Metadata. */

enum { TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

/* By GGUF's number. */
static const struct {
    uint8_t size; /* bytes in the file; at least, for strings */
    uint8_t item; /* bytes in memory */
    meta_type type;
} types[] = {
    {1, 8, META_U64},                      /* u8 */
    {1, 8, META_I64},                      /* i8 */
    {2, 8, META_U64},                      /* u16 */
    {2, 8, META_I64},                      /* i16 */
    {4, 8, META_U64},                      /* u32 */
    {4, 8, META_I64},                      /* i32 */
    {4, 8, META_F64},                      /* f32 */
    {1, sizeof(bool), META_BOOL},          /* bool */
    {8, sizeof(meta_string), META_STRING}, /* u64 length, bytes */
    {0, 0, META_ARRAY},                    /* u32 type, u64 n, items */
    {8, 8, META_U64},                      /* u64 */
    {8, 8, META_I64},                      /* i64 */
    {8, 8, META_F64},                      /* f64 */
};

enum { N_TYPES = sizeof types / sizeof types[0] };

/* Widens a number or boolean; false for a boolean that is neither 0 nor 1. */
static bool widen(uint64_t type, const uint8_t *p, void *to)
{
    size_t size = types[type].size;
    uint64_t u = load(p, size);
    int64_t i;
    double f;
    float single;
    switch (types[type].type) {
    case META_BOOL:
        if (u > 1) return false;
        *(bool *)to = u != 0;
        return true;
    case META_I64:
        i = (int64_t)(u << (64 - 8 * size)) >> (64 - 8 * size);
        memcpy(to, &i, sizeof i);
        return true;
    case META_F64:
        if (size == 4) {
            uint32_t bits = (uint32_t)u;
            memcpy(&single, &bits, sizeof single);
            f = single;
        } else {
            memcpy(&f, &u, sizeof f);
        }
        memcpy(to, &f, sizeof f);
        return true;
    default: memcpy(to, &u, sizeof u); return true;
    }
}

static sobre_status take_scalars(cursor *at, uint64_t type, uint64_t n, void *items)
{
    size_t size = types[type].size, at_once = at->capacity / size;
    char *to = items;
    const uint8_t *p;
    while (n > 0) {
        size_t k = n < at_once ? (size_t)n : at_once;
        TRY(take(at, k * size, &p));
        for (size_t i = 0; i < k; i++, p += size, to += types[type].item) {
            if (widen(type, p, to)) continue;
            return bad(at, at->pos - (k - i) * size,
                       "a boolean of value %u, expected 0 or 1; the file is malformed",
                       (unsigned)*p);
        }
        n -= k;
    }
    return SOBRE_OK;
}

static sobre_status take_array(cursor *at, meta_value *ret)
{
    uint64_t begin = at->pos, type, n;
    TRY(take_int(at, 4, &type));
    TRY(take_int(at, 8, &n));
    if (type >= N_TYPES) {
        return bad(at, begin,
                   "an array of items of type %llu, which is unknown; the file is "
                   "malformed or made for a newer version",
                   (ull)type);
    }
    if (type == TYPE_ARRAY) {
        return bad(at, begin,
                   "an array of arrays, which GGUF has no use for; the file is "
                   "malformed");
    }
    uint64_t room = bytes_left(at) / types[type].size;
    if (n > room) {
        return bad(at, begin + 4,
                   "an array of %llu items, but the file has room for %llu; it is truncated or "
                   "malformed: copy or download it again",
                   (ull)n, (ull)room);
    }
    void *items = container_alloc(at->c, n, types[type].item);
    if (!items) return SOBRE_OUT_OF_MEMORY;
    if (type == TYPE_STRING) {
        meta_string *strings = items;
        for (uint64_t i = 0; i < n; i++) TRY(take_string(at, &strings[i]));
    } else {
        TRY(take_scalars(at, type, n, items));
    }
    ret->item = types[type].type;
    ret->v.array.n = n;
    ret->v.array.items = items;
    return SOBRE_OK;
}

static sobre_status take_entry(cursor *at, meta_entry *ret)
{
    uint64_t type;
    ret->offset = at->pos;
    TRY(take_name(at, MAX_KEY, &ret->key));
    snprintf(at->subject, sizeof at->subject, "key \"%.120s\"", ret->key);
    TRY(take_int(at, 4, &type));
    if (type >= N_TYPES) {
        return bad(at, at->pos - 4,
                   "type %llu is unknown; the file is malformed or made for a newer version",
                   (ull)type);
    }
    ret->value.type = types[type].type;
    if (type == TYPE_ARRAY) return take_array(at, &ret->value);
    if (type == TYPE_STRING) return take_string(at, &ret->value.v.string);
    return take_scalars(at, type, 1, &ret->value.v);
}

/* --- One file. */

typedef struct part {
    meta_entry *meta;
    int32_t n_meta;
    uint64_t alignment;
    uint64_t split_no, split_count, split_tensors; /* count 0: not split; tensors 0: not said */
} part;

/* Keys that matter here. */
static sobre_status notice(const cursor *at, const meta_entry *entry, part *p)
{
    const struct {
        const char *key;
        uint64_t *to, max;
    } keys[] = {
        {"general.alignment", &p->alignment, MAX_ALIGNMENT},
        {"split.no", &p->split_no, MAX_PARTS - 1},
        {"split.count", &p->split_count, MAX_PARTS},
        {"split.tensors.count", &p->split_tensors, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(entry->key, keys[i].key)) continue;
        if (entry->value.type != META_U64 && entry->value.type != META_I64) {
            return bad(at, entry->offset, "expected an integer; the file is malformed");
        }
        /* Below zero is above the maximum. */
        if (entry->value.v.u64 > keys[i].max) {
            return bad(at, entry->offset, "out of range, expected 0 to %llu; the file is malformed",
                       (ull)keys[i].max);
        }
        *keys[i].to = entry->value.v.u64;
    }
    uint64_t align = p->alignment;
    if (align < MIN_ALIGNMENT || (align & (align - 1))) {
        return bad(at, entry->offset,
                   "an alignment of %llu, expected a power of two from %d to %d; the file is "
                   "malformed",
                   (ull)align, MIN_ALIGNMENT, MAX_ALIGNMENT);
    }
    return SOBRE_OK;
}

static sobre_status take_type(const cursor *at, uint64_t type, sobre_dtype *ret)
{
    const dtype_info *info = dtype_get((int64_t)type);
    ull byte = at->pos - 4;
    if (info->name) {
        *ret = (sobre_dtype)type;
        return SOBRE_OK;
    }
    if (info->retired) {
        return fail(at->c->ctx, SOBRE_UNSUPPORTED, "%s: %s at byte %llu: type %s (%llu): %s",
                    at->r->name, at->subject, byte, info->known, (ull)type, info->retired);
    }
    if (info->known) {
        return fail(at->c->ctx, SOBRE_UNSUPPORTED,
                    "%s: %s at byte %llu: type %s is not supported by this version; take the model "
                    "in another quantisation, Q4_K or Q8_0 say",
                    at->r->name, at->subject, byte, info->known);
    }
    return fail(at->c->ctx, SOBRE_UNSUPPORTED,
                "%s: %s at byte %llu: type %llu is unknown; the file is malformed or made for a "
                "newer version",
                at->r->name, at->subject, byte, (ull)type);
}

/* Its offset is still relative to the data's begin. */
static sobre_status take_tensor(cursor *at, tensor_info *ret)
{
    uint64_t rank, dim, type;
    ret->file = at->file;
    TRY(take_name(at, SOBRE_NAME_SIZE - 1, &ret->name));
    snprintf(at->subject, sizeof at->subject, "tensor \"%s\"", ret->name);
    TRY(take_int(at, 4, &rank));
    if (rank < 1 || rank > SOBRE_MAX_RANK) {
        return bad(at, at->pos - 4, "%llu dims, expected 1 to %d; the file is malformed", (ull)rank,
                   SOBRE_MAX_RANK);
    }
    ret->rank = (int32_t)rank;
    for (int32_t i = ret->rank; i-- > 0;) { /* the file has the innermost first */
        TRY(take_int(at, 8, &dim));
        if (dim < 1 || dim > INT64_MAX) {
            return bad(at, at->pos - 8, "a dim of %llu; the file is malformed", (ull)dim);
        }
        ret->dims[i] = (int64_t)dim;
    }
    TRY(take_int(at, 4, &type));
    TRY(take_type(at, type, &ret->dtype));
    return take_int(at, 8, &ret->offset);
}

static sobre_status place_tensor(const cursor *at, uint64_t data_begin, uint64_t align,
                                 tensor_info *t)
{
    if (t->offset % align) {
        return fail(at->c->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"%s\": offset %llu is no multiple of the alignment %llu; the file "
                    "is malformed",
                    at->r->name, t->name, (ull)t->offset, (ull)align);
    }
    if (!checked_add(t->offset, data_begin, &t->offset)) {
        return fail(at->c->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"%s\": offset %llu is beyond any file; the file is malformed",
                    at->r->name, t->name, (ull)t->offset);
    }
    return container_check_tensor(at->c, t);
}

static sobre_status take_header(cursor *at, const char **ret_format, uint64_t *ret_n_tensors,
                                uint64_t *ret_n_meta)
{
    uint64_t magic, version;
    const char *problem = NULL;
    TRY(take_int(at, 4, &magic));
    if (magic != 0x46554747) return bad(at, 0, "no GGUF file"); /* a part of a split one */
    TRY(take_int(at, 4, &version));
    if (version == 0) return bad(at, 4, "version 0; the file is malformed");
    if (version == 1) {
        problem = "GGUF version 1, which was replaced in 2023; convert or download the model anew";
    } else if ((version & 0xffff) == 0) {
        problem = "a big-endian file; convert it to little endian";
    } else if (version > 3) {
        problem = "of a later version of GGUF than 3; update this program, or, if the number is "
                  "nonsense, download the file again";
    }
    if (problem) {
        return fail(at->c->ctx, SOBRE_UNSUPPORTED, "%s: version %llu at byte 4: %s", at->r->name,
                    (ull)version, problem);
    }
    TRY(take_int(at, 8, ret_n_tensors));
    TRY(take_int(at, 8, ret_n_meta));
    uint64_t meta_room = bytes_left(at) / MIN_KEY_BYTES;
    uint64_t tensor_room = bytes_left(at) / MIN_TENSOR_BYTES;
    if (*ret_n_meta > meta_room || *ret_n_meta > INT32_MAX) {
        return bad(at, 16,
                   "%llu metadata keys, but the file has room for %llu; it is truncated or "
                   "malformed: copy or download it again",
                   (ull)*ret_n_meta, (ull)meta_room);
    }
    if (*ret_n_tensors > tensor_room || *ret_n_tensors > INT32_MAX) {
        return bad(at, 8,
                   "%llu tensors, but the file has room for %llu; it is truncated or "
                   "malformed: copy or download it again",
                   (ull)*ret_n_tensors, (ull)tensor_room);
    }
    *ret_format = version == 2 ? "GGUF v2" : "GGUF v3";
    return SOBRE_OK;
}

static sobre_status read_directory(cursor *at, part *ret)
{
    container *c = at->c;
    uint64_t n_tensors = 0, n_meta = 0, begin;
    TRY(take_header(at, &c->format, &n_tensors, &n_meta));
    ret->meta = container_alloc(c, n_meta, sizeof *ret->meta);
    if (!ret->meta) return SOBRE_OUT_OF_MEMORY;
    for (uint64_t i = 0; i < n_meta; i++) {
        snprintf(at->subject, sizeof at->subject, "metadata key %llu of %llu", (ull)i + 1,
                 (ull)n_meta);
        TRY(take_entry(at, &ret->meta[i]));
        TRY(notice(at, &ret->meta[i], ret));
    }
    ret->n_meta = (int32_t)n_meta;

    size_t had = (size_t)c->n_tensors, all = had + (size_t)n_tensors;
    if (all > INT32_MAX) return bad(at, 8, "too many tensors in all parts");
    tensor_info *tensors = mem_grow(c->ctx, c->tensors, had, all, sizeof *tensors);
    if (!tensors) return SOBRE_OUT_OF_MEMORY;
    c->tensors = tensors;
    c->n_tensors = (int32_t)all;
    for (size_t i = had; i < all; i++) {
        snprintf(at->subject, sizeof at->subject, "tensor %llu of %llu", (ull)(i - had) + 1,
                 (ull)n_tensors);
        TRY(take_tensor(at, &tensors[i]));
    }
    if (!checked_round_up(at->pos, ret->alignment, &begin)) begin = at->pos;
    for (size_t i = had; i < all; i++) {
        TRY(place_tensor(at, begin, ret->alignment, &tensors[i]));
    }
    return SOBRE_OK;
}

/* Reads the container's last file; its tensors join the others. */
static sobre_status read_part(container *c, part *ret)
{
    int32_t file = c->n_files - 1;
    cursor at = {.c = c, .r = c->files[file], .file = file, .subject = "header", .capacity = PIECE};
    if (at.capacity > at.r->size) at.capacity = at.r->size < 64 ? 64 : (size_t)at.r->size;
    if (!at.r->data) {
        at.buffer = mem_alloc(c->ctx, 1, at.capacity);
        if (!at.buffer) return SOBRE_OUT_OF_MEMORY;
    }
    *ret = (part){.alignment = DEFAULT_ALIGNMENT};
    sobre_status status = read_directory(&at, ret);
    mem_free(c->ctx, at.buffer);
    return status;
}

/* --- Split files: <prefix>-00002-of-00003.gguf. */

enum { SUFFIX_SIZE = 32 };

static void part_suffix(char *ret, uint64_t no, uint64_t count)
{
    snprintf(ret, SUFFIX_SIZE, "-%05u-of-%05u.gguf", (unsigned)no + 1, (unsigned)count);
}

/* Opens part `no`, given the path of any part. */
static sobre_status open_part(container *c, const char *path, bool map, uint64_t no, uint64_t count)
{
    char suffix[SUFFIX_SIZE];
    reader *r;
    char *name = mem_strdup(c->ctx, path);
    if (!name) return SOBRE_OUT_OF_MEMORY;
    part_suffix(suffix, no, count);
    memcpy(name + strlen(name) - strlen(suffix), suffix, strlen(suffix));
    sobre_status status = reader_open(c->ctx, SOBRE(source, .path = name, .map = map), &r);
    if (status < 0 && status != SOBRE_OUT_OF_MEMORY) {
        fail(c->ctx, status, "%s (part %u of %u of a split model; all parts must be in one folder)",
             sobre_error(c->ctx), (unsigned)no + 1, (unsigned)count);
    }
    mem_free(c->ctx, name);
    return status < 0 ? status : container_add_file(c, r);
}

static sobre_status read_split(container *c, const char *path, bool map, const part *given)
{
    uint64_t count = given->split_count, said = given->split_tensors;
    part p = *given;
    for (uint64_t no = given->split_no == 0; no < count; no++) {
        TRY(open_part(c, path, map, no, count));
        TRY(read_part(c, &p));
        const reader *r = c->files[c->n_files - 1];
        if (p.split_no != no || p.split_count != count) {
            return fail(c->ctx, SOBRE_BAD_FORMAT,
                        "%s: key \"split.no\" or \"split.count\" makes it part %u of %u, but by "
                        "its name it is part %u of %u; take all parts from one download",
                        r->name, (unsigned)p.split_no + 1, (unsigned)p.split_count,
                        (unsigned)no + 1, (unsigned)count);
        }
        if (p.split_tensors != said) {
            return fail(c->ctx, SOBRE_BAD_FORMAT,
                        "%s: key \"split.tensors.count\" is %llu, but %llu in another part; take "
                        "all parts from one download",
                        r->name, (ull)p.split_tensors, (ull)said);
        }
        if (no == 0) {
            c->meta = p.meta;
            c->n_meta = p.n_meta;
        }
    }
    if (said && said != (uint64_t)c->n_tensors) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: key \"split.tensors.count\" is %llu, but the %u parts hold %d tensors; "
                    "take all parts from one download",
                    c->files[0]->name, (ull)said, (unsigned)count, (int)c->n_tensors);
    }
    return SOBRE_OK;
}

sobre_status gguf_read(container *c)
{
    part p;
    char suffix[SUFFIX_SIZE];
    reader *first = c->files[0];
    TRY(read_part(c, &p));
    c->meta = p.meta;
    c->n_meta = p.n_meta;
    if (p.split_count <= 1 && p.split_no == 0) return SOBRE_OK;

    if (p.split_no >= p.split_count) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: key \"split.no\" is %u, but \"split.count\" is %u; the file is malformed",
                    first->name, (unsigned)p.split_no, (unsigned)p.split_count);
    }
    if (!first->has_file) {
        return fail(c->ctx, SOBRE_UNSUPPORTED,
                    "%s: is part %u of %u of a split model; open it by its path", first->name,
                    (unsigned)p.split_no + 1, (unsigned)p.split_count);
    }
    part_suffix(suffix, p.split_no, p.split_count);
    size_t length = strlen(first->path), tail = strlen(suffix);
    if (length < tail || strcmp(first->path + length - tail, suffix)) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: by its metadata it is part %u of %u of a split model, so its name must "
                    "end in \"%s\"; rename it",
                    first->name, (unsigned)p.split_no + 1, (unsigned)p.split_count, suffix);
    }
    if (p.split_no == 0) return read_split(c, first->path, first->mapped, &p);
    /* Begin again with part 1, which has the metadata. */
    c->n_files = 0;
    c->n_tensors = 0;
    sobre_status status = read_split(c, first->path, first->mapped, &p);
    reader_close(first);
    return status;
}
