/* SPDX-License-Identifier: MIT */
/* Model files of any format: storage, look-up by name, typed metadata. */
#include "container.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checked.h"

typedef unsigned long long ull;

/* --- Storage: blocks that grow, freed together. */

typedef struct arena_block {
    struct arena_block *next;
    size_t used, size;
    max_align_t data[];
} arena_block;

enum { ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20, ARENA_OWN_BLOCK = 1 << 16 };

static void *arena_take(container *c, size_t size, size_t align)
{
    arena_block *head = c->arena;
    if (head) {
        size_t start = (head->used + align - 1) & ~(align - 1);
        if (start <= head->size && size <= head->size - start) {
            head->used = start + size;
            return (char *)head->data + start;
        }
    }
    size_t capacity = head ? 2 * head->size : ARENA_FIRST;
    if (capacity > ARENA_LARGEST) capacity = ARENA_LARGEST;
    bool own_block = size > ARENA_OWN_BLOCK || size > capacity;
    if (own_block) capacity = size;
    arena_block *block;
    size_t total = capacity < SIZE_MAX - sizeof *block ? capacity + sizeof *block : SIZE_MAX;
    block = mem_alloc(c->ctx, 1, total);
    if (!block) return NULL;
    block->size = capacity;
    block->used = size;
    if (own_block && head) { /* the room left in the first block stays in use */
        block->next = head->next;
        head->next = block;
    } else {
        block->next = head;
        c->arena = block;
    }
    return block->data;
}

void *container_alloc(container *c, uint64_t n, size_t size)
{
    uint64_t total;
    size_t bytes;
    if (!checked_mul(n, size, &total) || !checked_size(total, &bytes)) bytes = SIZE_MAX;
    return arena_take(c, bytes, _Alignof(max_align_t));
}

char *container_text(container *c, size_t size)
{
    return arena_take(c, size < SIZE_MAX ? size + 1 : size, 1);
}

sobre_status container_add_file(container *c, reader *r)
{
    reader **files =
        mem_grow(c->ctx, c->files, (size_t)c->n_files, (size_t)c->n_files + 1, sizeof *files);
    if (!files) {
        reader_close(r);
        return SOBRE_OUT_OF_MEMORY;
    }
    c->files = files;
    c->files[c->n_files++] = r;
    return SOBRE_OK;
}

/* --- Order. Heapsort, because its worst case on a hostile file is its usual one, and it allocates
 * nothing. */

typedef int (*compare_fn)(const container *c, int32_t a, int32_t b);

static int compare_keys(const container *c, int32_t a, int32_t b)
{
    return strcmp(c->meta[a].key, c->meta[b].key);
}

static int compare_names(const container *c, int32_t a, int32_t b)
{
    return strcmp(c->tensors[a].name, c->tensors[b].name);
}

static int compare_places(const container *c, int32_t a, int32_t b)
{
    const tensor_info *s = &c->tensors[a], *t = &c->tensors[b];
    if (s->file != t->file) return s->file < t->file ? -1 : 1;
    return s->offset < t->offset ? -1 : s->offset > t->offset;
}

static void sift(const container *c, int32_t *items, int64_t at, int64_t n, compare_fn compare)
{
    int32_t item = items[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && compare(c, items[child], items[child + 1]) < 0) child++;
        if (compare(c, item, items[child]) >= 0) break;
        items[at] = items[child];
    }
    items[at] = item;
}

/* Fills items[n] with 0 .. n - 1, ordered. */
static void order(const container *c, int32_t *items, int32_t n, compare_fn compare)
{
    for (int32_t i = 0; i < n; i++) items[i] = i;
    for (int64_t i = n / 2; i-- > 0;) sift(c, items, i, n, compare);
    for (int64_t last = n - 1; last > 0; last--) {
        int32_t largest = items[0];
        items[0] = items[last];
        items[last] = largest;
        sift(c, items, 0, last, compare);
    }
}

typedef struct name_index {
    int32_t *meta, *tensors; /* [n_meta], [n_tensors]: by name */
} name_index;

static sobre_status check_unique(const container *c, const name_index *index)
{
    for (int32_t i = 1; i < c->n_meta; i++) {
        const meta_entry *a = &c->meta[index->meta[i - 1]], *b = &c->meta[index->meta[i]];
        if (strcmp(a->key, b->key)) continue;
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: key \"%.100s\" occurs twice, at bytes %llu and %llu; the file is "
                    "malformed",
                    c->files[0]->name, a->key, (ull)(a->offset < b->offset ? a->offset : b->offset),
                    (ull)(a->offset < b->offset ? b->offset : a->offset));
    }
    for (int32_t i = 1; i < c->n_tensors; i++) {
        const tensor_info *a = &c->tensors[index->tensors[i - 1]];
        const tensor_info *b = &c->tensors[index->tensors[i]];
        if (strcmp(a->name, b->name)) continue;
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"%s\" occurs twice, with data at bytes %llu and %llu%s%s; the "
                    "file is malformed",
                    c->files[a->file]->name, a->name, (ull)a->offset, (ull)b->offset,
                    a->file == b->file ? "" : " of ",
                    a->file == b->file ? "" : c->files[b->file]->name);
    }
    return SOBRE_OK;
}

static sobre_status check_apart(const container *c)
{
    sobre_status status = SOBRE_OK;
    int32_t *places = mem_alloc(c->ctx, (size_t)c->n_tensors, sizeof *places);
    if (!places) return SOBRE_OUT_OF_MEMORY;
    order(c, places, c->n_tensors, compare_places);
    for (int32_t i = 1; i < c->n_tensors && status == SOBRE_OK; i++) {
        const tensor_info *a = &c->tensors[places[i - 1]], *b = &c->tensors[places[i]];
        if (a->file != b->file || a->offset + a->size <= b->offset) continue;
        status = fail(c->ctx, SOBRE_BAD_FORMAT,
                      "%s: tensors \"%s\" and \"%s\" overlap at byte %llu; the file is malformed",
                      c->files[a->file]->name, a->name, b->name, (ull)b->offset);
    }
    mem_free(c->ctx, places);
    return status;
}

sobre_status container_finish(container *c)
{
    name_index *index = container_alloc(c, 1, sizeof *index);
    if (!index) return SOBRE_OUT_OF_MEMORY;
    index->meta = container_alloc(c, (uint64_t)c->n_meta, sizeof *index->meta);
    if (!index->meta) return SOBRE_OUT_OF_MEMORY;
    index->tensors = container_alloc(c, (uint64_t)c->n_tensors, sizeof *index->tensors);
    if (!index->tensors) return SOBRE_OUT_OF_MEMORY;
    order(c, index->meta, c->n_meta, compare_keys);
    order(c, index->tensors, c->n_tensors, compare_names);
    TRY(check_unique(c, index));
    TRY(check_apart(c));
    c->index = index;
    return SOBRE_OK;
}

sobre_status container_check_tensor(const container *c, tensor_info *t)
{
    const reader *r = c->files[t->file];
    const dtype_info *info = dtype_get(t->dtype);
    int64_t n_cols = t->dims[t->rank - 1];
    uint64_t size;
    if (n_cols % info->block) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"%s\": rows of %lld elements are no multiple of the %d in a block "
                    "of %s; the file is malformed",
                    r->name, t->name, (long long)n_cols, (int)info->block, info->name);
    }
    bool fits = dtype_row_size(t->dtype, n_cols, &size);
    for (int32_t i = 0; i < t->rank - 1 && fits; i++) {
        fits = checked_mul(size, (uint64_t)t->dims[i], &size);
    }
    if (!fits || size > INT64_MAX) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"%s\": its dims give more bytes than any file has; the file is "
                    "malformed",
                    r->name, t->name);
    }
    if (t->offset > r->size || size > r->size - t->offset) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: truncated: tensor \"%s\" has %llu bytes at byte %llu, but the file ends "
                    "at byte %llu; copy or download it again",
                    r->name, t->name, (ull)size, (ull)t->offset, (ull)r->size);
    }
    t->size = size;
    return SOBRE_OK;
}

/* --- Open and close. */

static const struct {
    char magic[5];
    sobre_status (*read)(container *c); /* NULL: not a format of ours */
    const char *what;
} formats[] = {
    {"GGUF", gguf_read, NULL},
    {"FUGG", NULL, "a big-endian GGUF file; convert it to little endian"},
    {"lmgg", NULL, "a GGML file from before GGUF; convert it to GGUF, or download it as GGUF"},
    {"fmgg", NULL, "a GGML file from before GGUF; convert it to GGUF, or download it as GGUF"},
    {"tjgg", NULL, "a GGML file from before GGUF; convert it to GGUF, or download it as GGUF"},
    {"PK\3\4", NULL, "a ZIP archive, perhaps of PyTorch; convert it to GGUF"},
    {"vers", NULL, "perhaps a Git LFS pointer; fetch the file itself with git lfs pull"},
    {"<!DO", NULL, "a web page; the download went wrong"},
    {"<htm", NULL, "a web page; the download went wrong"},
};

static sobre_status read_any(container *c)
{
    reader *r = c->files[0];
    char magic[4];
    TRY(reader_read(r, 0, magic, sizeof magic));
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (memcmp(magic, formats[i].magic, sizeof magic)) continue;
        if (formats[i].read) return formats[i].read(c);
        return fail(c->ctx, SOBRE_UNSUPPORTED, "%s: is no GGUF file but %s", r->name,
                    formats[i].what);
    }
    return fail(c->ctx, SOBRE_BAD_FORMAT,
                "%s: is no GGUF file: it starts with bytes %02x %02x %02x %02x, not \"GGUF\"",
                r->name, (uint8_t)magic[0], (uint8_t)magic[1], (uint8_t)magic[2],
                (uint8_t)magic[3]);
}

sobre_status container_open(sobre_context *ctx, const sobre_source *source,
                            container **ret_container)
{
    reader *r;
    TRY(reader_open(ctx, source, &r));
    container *c = mem_alloc(ctx, 1, sizeof *c);
    if (!c) {
        reader_close(r);
        return SOBRE_OUT_OF_MEMORY;
    }
    c->ctx = ctx;
    sobre_status status = container_add_file(c, r);
    if (status >= 0) status = read_any(c);
    if (status >= 0) status = container_finish(c);
    if (status < 0) {
        container_close(c);
        return status;
    }
    *ret_container = c;
    return SOBRE_OK;
}

void container_close(container *c)
{
    if (!c) return;
    sobre_context *ctx = c->ctx;
    for (int32_t i = 0; i < c->n_files; i++) reader_close(c->files[i]);
    mem_free(ctx, c->files);
    mem_free(ctx, c->tensors);
    for (arena_block *block = c->arena, *next; block; block = next) {
        next = block->next;
        mem_free(ctx, block);
    }
    mem_free(ctx, c);
}

/* --- Look-up. */

const meta_entry *container_entry(const container *c, const char *key)
{
    const int32_t *by_name = ((const name_index *)c->index)->meta;
    for (int32_t low = 0, high = c->n_meta; low < high;) {
        int32_t middle = low + (high - low) / 2;
        const meta_entry *entry = &c->meta[by_name[middle]];
        int side = strcmp(key, entry->key);
        if (side == 0) return entry;
        if (side < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

const meta_value *container_meta(const container *c, const char *key)
{
    const meta_entry *entry = container_entry(c, key);
    return entry ? &entry->value : NULL;
}

int32_t container_tensor(const container *c, const char *name)
{
    const int32_t *by_name = ((const name_index *)c->index)->tensors;
    for (int32_t low = 0, high = c->n_tensors; low < high;) {
        int32_t middle = low + (high - low) / 2;
        int side = strcmp(name, c->tensors[by_name[middle]].name);
        if (side == 0) return by_name[middle];
        if (side < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return -1;
}

/* --- Typed metadata. */

static const char *const type_names[] = {
    [META_U64] = "an integer", [META_I64] = "an integer",  [META_F64] = "a float",
    [META_BOOL] = "a boolean", [META_STRING] = "a string", [META_ARRAY] = "an array",
};

static sobre_status get(const container *c, const char *key, bool must, meta_type type,
                        const meta_entry **ret_entry, bool *ret_found)
{
    const meta_entry *entry = container_entry(c, key);
    if (!entry && must) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: key \"%s\" is missing; the file is malformed or of another kind",
                    c->files[0]->name, key);
    }
    if (entry && strcmp(type_names[entry->value.type], type_names[type])) {
        return fail(c->ctx, SOBRE_BAD_FORMAT,
                    "%s: key \"%s\" at byte %llu is %s, expected %s; the file is malformed",
                    c->files[0]->name, key, (ull)entry->offset, type_names[entry->value.type],
                    type_names[type]);
    }
    if (ret_found) *ret_found = entry != NULL;
    *ret_entry = entry;
    return SOBRE_OK;
}

sobre_status meta_get_i32(const container *c, const char *key, bool must, int32_t min, int32_t max,
                          int32_t *ret, bool *ret_found)
{
    const meta_entry *entry;
    bool found;
    TRY(get(c, key, must, META_I64, &entry, &found));
    if (found) {
        int64_t value = entry->value.v.i64; /* of an unsigned one: the same bits */
        bool huge = entry->value.type == META_U64 && value < 0;
        if (huge || value < min || value > max) {
            char text[32];
            if (huge) {
                snprintf(text, sizeof text, "%llu", (ull)value);
            } else {
                snprintf(text, sizeof text, "%lld", (long long)value);
            }
            return fail(c->ctx, SOBRE_BAD_FORMAT,
                        "%s: key \"%s\" at byte %llu is %s, expected %d to %d; the file is "
                        "malformed",
                        c->files[0]->name, key, (ull)entry->offset, text, (int)min, (int)max);
        }
        *ret = (int32_t)value;
    }
    if (ret_found) *ret_found = found;
    return SOBRE_OK;
}

sobre_status meta_get_f32(const container *c, const char *key, bool must, float *ret,
                          bool *ret_found)
{
    const meta_entry *entry;
    bool found;
    TRY(get(c, key, must, META_F64, &entry, &found));
    if (found) {
        float value = (float)entry->value.v.f64;
        if (!isfinite(value)) {
            return fail(c->ctx, SOBRE_BAD_FORMAT,
                        "%s: key \"%s\" at byte %llu is %g, expected a finite number; the file is "
                        "malformed",
                        c->files[0]->name, key, (ull)entry->offset, entry->value.v.f64);
        }
        *ret = value;
    }
    if (ret_found) *ret_found = found;
    return SOBRE_OK;
}

sobre_status meta_get_bool(const container *c, const char *key, bool must, bool *ret,
                           bool *ret_found)
{
    const meta_entry *entry;
    TRY(get(c, key, must, META_BOOL, &entry, ret_found));
    if (entry) *ret = entry->value.v.boolean;
    return SOBRE_OK;
}

sobre_status meta_get_string(const container *c, const char *key, bool must, meta_string *ret,
                             bool *ret_found)
{
    const meta_entry *entry;
    TRY(get(c, key, must, META_STRING, &entry, ret_found));
    if (entry) *ret = entry->value.v.string;
    return SOBRE_OK;
}
