/* SPDX-License-Identifier: MIT */
/* UTF-8, one step at a time. Well-formed is what table 3-7 of the Unicode standard allows: no
 * surrogates, no overlong forms, nothing above U+10FFFF. */
#ifndef SOBRE_UTF8_H
#define SOBRE_UTF8_H

#include <stddef.h>

typedef enum utf8_kind {
    UTF8_CHAR, /* a whole character */
    UTF8_BAD,  /* the longest start of a character that what follows rules out; or a stray byte */
    UTF8_CUT,  /* the start of a character, and the text ends there */
} utf8_kind;

/* What `text` begins with, and how many bytes that takes. size is at least 1. */
utf8_kind utf8_next(const char *text, size_t size, size_t *ret_n);
/* How many bytes at the start are well-formed. */
size_t utf8_valid(const char *text, size_t size);

/* Streaming decode: how many of the first `size` bytes are whole characters. An unfinished
 * character at the end (up to 3 bytes) is left for later; bytes that can never become one count as
 * done and are to be replaced by U+FFFD. */
size_t utf8_whole(const char *text, size_t size);
/* Copies text replacing what is not UTF-8 by U+FFFD; `to` holds 3 * size bytes. Returns the bytes
 * written. */
size_t utf8_repair(const char *text, size_t size, char *to);

#endif
