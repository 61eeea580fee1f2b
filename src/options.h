/* SPDX-License-Identifier: MIT */
/* Options structs from callers, who may have been built against an older or a newer header. */
#ifndef SOBRE_OPTIONS_H
#define SOBRE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Copies what both sides know of `from` (NULL: nothing) over `to`, whose other fields are zeroed.
 * False if struct_size cannot be, or a field that this version does not know is not zero. */
static inline bool options_read(void *to, size_t to_size, const void *from)
{
    size_t size = 0;

    memset(to, 0, to_size);
    if (from) {
        memcpy(&size, from, sizeof size);
        if (size < sizeof size) return false;
        for (size_t i = to_size; i < size; i++)
            if (((const unsigned char *)from)[i]) return false;
        memcpy(to, from, size < to_size ? size : to_size);
    }
    memcpy(to, &to_size, sizeof to_size);
    return true;
}

#endif
