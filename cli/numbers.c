/* SPDX-License-Identifier: MIT */
/* Numbers on the command line, and the word that a mistyped one was meant to be. The program never
 * calls setlocale(), so strtod() reads points, not commas. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "out.h"

bool parse_u64(const char *text, uint64_t *ret)
{
    uint64_t value = 0;

    if (!*text) return false;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9') return false;
        const unsigned digit = (unsigned)(*c - '0');
        if (value > (UINT64_MAX - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *ret = value;
    return true;
}

bool parse_int(const char *text, int64_t min, int64_t max, int64_t *ret)
{
    const bool negative = *text == '-';
    uint64_t magnitude;

    if (!parse_u64(text + negative, &magnitude) || magnitude > INT64_MAX) return false;
    const int64_t value = negative ? -(int64_t)magnitude : (int64_t)magnitude;
    if (value < min || value > max) return false;
    *ret = value;
    return true;
}

bool parse_real(const char *text, double *ret)
{
    char *end;

    /* strtod() also takes spaces, hexadecimal, "inf" and "nan". */
    if (!*text || text[strspn(text, "0123456789+-.eE")]) return false;
    errno = 0;
    const double value = strtod(text, &end);
    if (*end || errno == ERANGE) return false;
    *ret = value;
    return true;
}

bool parse_bytes(const char *text, uint64_t *ret)
{
    static const char units[] = "KMGT";
    char digits[24];
    const size_t n = strspn(text, "0123456789");
    uint64_t value;
    unsigned shift = 0;

    if (n == 0 || n >= sizeof digits) return false;
    memcpy(digits, text, n);
    digits[n] = 0;
    if (!parse_u64(digits, &value)) return false;
    if (text[n]) {
        const char *unit = strchr(units, toupper((unsigned char)text[n]));
        if (!unit || text[n + 1]) return false;
        shift = (unsigned)(unit - units + 1) * 10;
    }
    if (value > UINT64_MAX >> shift) return false;
    *ret = value << shift;
    return true;
}

int parse_ints(const char *what, const char *text, int64_t min, int64_t max, int32_t **ret_items,
               size_t *ret_n)
{
    size_t n = 1, i = 0;

    for (const char *c = text; *c; c++) n += *c == ',';
    int32_t *items = malloc(n * sizeof *items);
    if (!items) return out_of_memory();
    for (const char *c = text; i < n; i++) {
        const size_t size = strcspn(c, ",");
        char word[24] = "";
        int64_t value;

        if (size < sizeof word) memcpy(word, c, size);
        if (!parse_int(word, min, max, &value)) {
            free(items);
            complain("%s wants whole numbers from %lld to %lld with commas between them, "
                     "and number %d is \"%.*s\"",
                     what, (long long)min, (long long)max, (int)i + 1, (int)(size < 40 ? size : 40),
                     c);
            return CODE_USAGE;
        }
        items[i] = (int32_t)value;
        c += size + 1;
    }
    *ret_items = items;
    *ret_n = n;
    return -1;
}

/* Edits (insert, delete, replace, swap neighbours) from one short word to another; the optimal
 * string alignment distance. */
static size_t distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    const size_t n = strlen(a), m = strlen(b);
    size_t d[MAX + 1][MAX + 1];

    if (n > MAX || m > MAX) return SIZE_MAX;
    for (size_t i = 0; i <= n; i++) d[i][0] = i;
    for (size_t j = 0; j <= m; j++) d[0][j] = j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *nearest_word(const char *word, const char *const *words, size_t n)
{
    const char *best = NULL;
    size_t best_distance = strlen(word) / 3 + 1;

    for (size_t i = 0; i < n; i++) {
        const size_t d = distance(word, words[i]);
        if (d <= best_distance && (!best || d < best_distance)) {
            best = words[i];
            best_distance = d;
        }
        /* "temperature" for "temp" and the other way round */
        const size_t k = strlen(words[i]);
        if (!best && k >= 3 && strlen(word) >= 3 &&
            strncmp(word, words[i], k < strlen(word) ? k : strlen(word)) == 0)
            best = words[i];
    }
    return best;
}
