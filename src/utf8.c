/* SPDX-License-Identifier: MIT */
/* UTF-8: validation, and repair for streamed text. */
#include "utf8.h"

#include <stdint.h>
#include <string.h>

#include "tok.h"

utf8_kind utf8_next(const char *text, size_t size, size_t *ret_n)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t lead = p[0], low = 0x80, high = 0xBF; /* range of the second byte */
    size_t need, i;

    *ret_n = 1;
    if (lead < 0x80) return UTF8_CHAR;
    if (lead < 0xC2 || lead > 0xF4) return UTF8_BAD;
    need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead == 0xE0) low = 0xA0;  /* below: overlong */
    if (lead == 0xED) high = 0x9F; /* above: surrogates */
    if (lead == 0xF0) low = 0x90;  /* below: overlong */
    if (lead == 0xF4) high = 0x8F; /* above: past U+10FFFF */
    for (i = 1; i < need; i++) {
        *ret_n = i;
        if (i == size) return UTF8_CUT;
        if (p[i] < low || p[i] > high) return UTF8_BAD;
        low = 0x80;
        high = 0xBF;
    }
    *ret_n = need;
    return UTF8_CHAR;
}

size_t utf8_valid(const char *text, size_t size)
{
    size_t at = 0, n;

    while (at < size) {
        if ((uint8_t)text[at] < 0x80) {
            at++;
            continue;
        }
        if (utf8_next(text + at, size - at, &n) != UTF8_CHAR) break;
        at += n;
    }
    return at;
}

size_t utf8_whole(const char *text, size_t size)
{
    size_t back, n;

    /* Only a character's first three bytes can be unfinished. */
    for (back = 1; back <= 3 && back <= size; back++) {
        if (((uint8_t)text[size - back] & 0xC0) == 0x80) continue;
        return utf8_next(text + size - back, back, &n) == UTF8_CUT && n == back ? size - back
                                                                                : size;
    }
    return size;
}

size_t utf8_repair(const char *text, size_t size, char *to)
{
    static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */
    size_t at = 0, written = 0, n;

    while (at < size) {
        if (utf8_next(text + at, size - at, &n) == UTF8_CHAR) {
            memcpy(to + written, text + at, n);
            written += n;
        } else {
            memcpy(to + written, replacement, 3);
            written += 3;
        }
        at += n;
    }
    return written;
}
