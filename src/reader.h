/* SPDX-License-Identifier: MIT */
/* Bytes of a model: a file, memory, the caller's function, or a mapping. */
#ifndef SOBRE_READER_H
#define SOBRE_READER_H

#include "context.h"

typedef struct reader {
    sobre_context *ctx;
    char *name; /* for messages: the path's end, or "(memory)", "(reader)" */
    char *path; /* NULL if there is none */
    uint64_t size;
    os_file file;
    bool has_file;
    const uint8_t *data; /* memory or mapping; else NULL */
    bool mapped;
    int32_t (*read)(void *user, uint64_t offset, void *buffer, size_t size);
    void *read_user;
    os_mutex mutex; /* around `read`: the caller's function is not asked by two threads at once */
    bool has_mutex;
} reader;

/* Checks that exactly one of path, data, read is given. */
sobre_status reader_open(sobre_context *ctx, const sobre_source *source, reader **ret_reader);
void reader_close(reader *r);
/* Exactly `size` bytes; IO or BAD_FORMAT (truncated) with name and byte. Any thread. */
sobre_status reader_read(reader *r, uint64_t offset, void *buffer, size_t size);
/* The bytes in place if they are in memory, else NULL. */
const void *reader_peek(reader *r, uint64_t offset, uint64_t size);

#endif
