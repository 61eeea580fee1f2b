/* SPDX-License-Identifier: MIT */
/* What a model file holds, whatever its format: metadata and a tensor directory. gguf.c fills it;
 * everything in it is validated: names are unique, every tensor lies inside its file, sizes match
 * shapes. */
#ifndef SOBRE_CONTAINER_H
#define SOBRE_CONTAINER_H

#include "dtype.h"
#include "reader.h"

typedef enum meta_type {
    META_U64,
    META_I64,
    META_F64,
    META_BOOL,
    META_STRING,
    META_ARRAY
} meta_type;

typedef struct meta_string {
    const char *text; /* zero-terminated too */
    size_t size;
} meta_string;

typedef struct meta_value {
    meta_type type; /* integers and floats of all widths are widened */
    meta_type item; /* META_ARRAY: type of the items, no nested arrays */
    union {
        uint64_t u64;
        int64_t i64;
        double f64;
        bool boolean;
        meta_string string;
        struct {
            uint64_t n;
            const void *items; /* uint64_t, int64_t, double, bool or meta_string [n] */
        } array;
    } v;
} meta_value;

typedef struct meta_entry {
    const char *key;
    meta_value value;
    uint64_t offset; /* in the file, for messages */
} meta_entry;

typedef struct tensor_info {
    const char *name;
    sobre_dtype dtype;
    int32_t rank;
    int64_t dims[SOBRE_MAX_RANK]; /* outermost first */
    uint64_t offset;              /* absolute, in files[file] */
    uint64_t size;
    int32_t file;
} tensor_info;

typedef struct container {
    sobre_context *ctx;
    const char *format; /* "GGUF v3" */
    reader **files;
    int32_t n_files;
    meta_entry *meta; /* of the first file, sorted as in the file */
    int32_t n_meta;
    tensor_info *tensors; /* of all files */
    int32_t n_tensors;
    void *index; /* names in order, private */
    void *arena; /* storage of strings and arrays, private */
} container;

/* Opens any known format (GGUF now; the seam for others is here). */
sobre_status container_open(sobre_context *ctx, const sobre_source *source,
                            container **ret_container);
void container_close(container *c);

/* NULL if absent. */
const meta_entry *container_entry(const container *c, const char *key);
const meta_value *container_meta(const container *c, const char *key);
/* -1 if absent. */
int32_t container_tensor(const container *c, const char *name);

/* Typed look-ups for model families. Absent: *ret is left alone and *ret_found (may be NULL) is
 * false, unless `must`, which is BAD_FORMAT naming file and key. A wrong type, or a value outside
 * [min, max], is BAD_FORMAT. */
sobre_status meta_get_i32(const container *c, const char *key, bool must, int32_t min, int32_t max,
                          int32_t *ret, bool *ret_found);
sobre_status meta_get_f32(const container *c, const char *key, bool must, float *ret,
                          bool *ret_found);
sobre_status meta_get_bool(const container *c, const char *key, bool must, bool *ret,
                           bool *ret_found);
sobre_status meta_get_string(const container *c, const char *key, bool must, meta_string *ret,
                             bool *ret_found);

/* --- For the formats: gguf.c fills an empty container. */

/* Reads files[0], and adds further files; on failure the caller closes the container. */
sobre_status gguf_read(container *c);

/* n * size zeroed bytes that live as long as the container; NULL after OUT_OF_MEMORY. The caller
 * has checked n against what the file can hold. */
void *container_alloc(container *c, uint64_t n, size_t size);
/* The same for a string: size + 1 zeroed bytes. */
char *container_text(container *c, size_t size);
/* Takes `r` over, on failure too. */
sobre_status container_add_file(container *c, reader *r);
/* Adds up the bytes of a tensor's shape, checks that its file holds them, and sets t->size. */
sobre_status container_check_tensor(const container *c, tensor_info *t);
/* Last: orders names, and refuses duplicates and tensors that overlap. */
sobre_status container_finish(container *c);

#endif
