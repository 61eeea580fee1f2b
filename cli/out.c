/* SPDX-License-Identifier: MIT */
#include "out.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "sys.h"

/* --- Messages */

static void message(out_style style, const char *kind, const char *format, va_list list)
{
    fflush(stdout); /* so that both come in order on a terminal */
    fprintf(stderr, "%ssobre:%s %s", out_style_on(stderr, style), out_style_off(stderr), kind);
    vfprintf(stderr, format, list);
    putc('\n', stderr);
}

void complain(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    message(STYLE_BAD, "", format, list);
    va_end(list);
}

void warn(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    message(STYLE_WARN, "warning: ", format, list);
    va_end(list);
}

int out_of_memory(void)
{
    complain("out of memory");
    return CODE_MEMORY;
}

/* --- Standard output */

int out_finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return CODE_OK;
    if (errno == EPIPE) return CODE_PIPE;
    complain("cannot write to standard output: %s", strerror(errno));
    return CODE_FAILED;
}

/* Plain bytes of a piece of text up to the next that is one of the C0 or C1 controls, newline and
 * tab apart; those drive a terminal. */
static size_t plain_span(const char *text, size_t size, size_t *ret_skip)
{
    *ret_skip = 0;
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            *ret_skip = 1;
        else if (c == 0xc2 && i + 1 < size && (unsigned char)text[i + 1] < 0xa0)
            *ret_skip = 2;
        if (*ret_skip) return i;
    }
    return size;
}

void out_text(FILE *to, const char *text, size_t size)
{
    if (!sys_is_terminal(to)) {
        fwrite(text, 1, size, to);
        return;
    }
    while (size > 0) {
        size_t skip;
        const size_t n = plain_span(text, size, &skip);
        fwrite(text, 1, n, to);
        text += n + skip;
        size -= n + skip;
    }
}

void out_line_text(FILE *to, const char *text)
{
    while (*text) {
        const size_t n = strcspn(text, "\r\n\t");
        out_text(to, text, n);
        text += n;
        if (*text) {
            putc(' ', to);
            text++;
        }
    }
}

static bool takes_styles(FILE *to)
{
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    if ((no_color && no_color[0]) || (terminal && strcmp(terminal, "dumb") == 0)) return false;
    return sys_is_terminal(to);
}

const char *out_style_on(FILE *to, out_style style)
{
    static const char *const codes[] = {"", "\033[1m", "\033[32m", "\033[33m", "\033[1;31m"};
    return style != STYLE_PLAIN && takes_styles(to) ? codes[style] : "";
}

const char *out_style_off(FILE *to)
{
    return takes_styles(to) ? "\033[0m" : "";
}

int out_columns(void)
{
    const char *text = getenv("COLUMNS");
    int64_t n;

    if (!text || !parse_int(text, 1, 10000, &n)) n = sys_columns(stdout);
    if (n <= 0) n = 80;
    return n < 60 ? 60 : n > 100 ? 100 : (int)n;
}

static const char *human(double value, const char *const units[], char buffer[HUMAN_SIZE])
{
    int unit = 0;
    while (value >= 999.5 && units[unit + 1]) {
        value /= 1000;
        unit++;
    }
    snprintf(buffer, HUMAN_SIZE, "%.*f %s", unit > 0 && value < 99.95, value, units[unit]);
    return buffer;
}

const char *human_bytes(uint64_t bytes, char buffer[HUMAN_SIZE])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", NULL};
    return human((double)bytes, units, buffer);
}

const char *human_count(uint64_t n, char buffer[HUMAN_SIZE])
{
    static const char *const units[] = {"", "K", "M", "B", "T", NULL};
    return human((double)n, units, buffer);
}

/* --- Bytes that grow */

void text_add(text_buffer *b, const char *text, size_t size)
{
    if (b->failed) return;
    if (b->capacity - b->size <= size) {
        size_t capacity = b->capacity ? b->capacity : 256;
        while (capacity - b->size <= size && capacity <= SIZE_MAX / 2) capacity *= 2;
        char *data = capacity - b->size > size ? realloc(b->data, capacity) : NULL;
        if (!data) {
            b->failed = true;
            return;
        }
        b->data = data;
        b->capacity = capacity;
    }
    if (size > 0) memcpy(b->data + b->size, text, size);
    b->size += size;
    b->data[b->size] = 0;
}

void text_free(text_buffer *b)
{
    free(b->data);
    *b = (text_buffer){0};
}

int read_stdin(text_buffer *b)
{
    char chunk[16384];
    size_t n;

    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0) text_add(b, chunk, n);
    text_add(b, "", 0);
    if (b->failed) return out_of_memory();
    if (!ferror(stdin)) return -1;
    if (errno == EINTR) return CODE_INTERRUPTED;
    complain("cannot read standard input: %s", strerror(errno));
    return CODE_FAILED;
}

/* --- JSON */

/* Bytes of the well-formed UTF-8 character at `text`, 0 if it is none (RFC 3629). */
static size_t utf8_character(const unsigned char *text, size_t size)
{
    static const struct {
        unsigned char first, last, low, high, n; /* first byte's range, second's, bytes in all */
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (text[0] < forms[f].first || text[0] > forms[f].last) continue;
        if (size < forms[f].n) return 0;
        if (forms[f].n > 1 && (text[1] < forms[f].low || text[1] > forms[f].high)) return 0;
        for (size_t i = 2; i < forms[f].n; i++)
            if ((text[i] & 0xc0) != 0x80) return 0;
        return forms[f].n;
    }
    return 0;
}

json_t *json_text(const char *text, size_t size)
{
    text_buffer repaired = {0};
    json_t *value = json_stringn(text ? text : "", size);

    if (value) return value;
    for (size_t i = 0; i < size;) {
        const size_t n = utf8_character((const unsigned char *)text + i, size - i);
        text_add(&repaired, n ? text + i : "\xef\xbf\xbd", n ? n : 3);
        i += n ? n : 1;
    }
    if (!repaired.failed) value = json_stringn(repaired.data, repaired.size);
    text_free(&repaired);
    return value;
}

int out_json(json_t *value, size_t flags)
{
    if (!value) return out_of_memory();
    const int failed = json_dumpf(value, stdout, flags | JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
    json_decref(value);
    if (!failed) putc('\n', stdout);
    return out_finish();
}

/* --- Files */

/* `path`: what could not be written, NULL for standard output. */
static int out_file_fail(out_file *f, const char *path)
{
    const int error = errno;
    if (!path && error == EPIPE) return CODE_PIPE;
    complain("cannot write %s: %s", path ? path : "to standard output", strerror(error));
    out_file_discard(f);
    return CODE_FAILED;
}

int out_file_open(const char *path, out_file *ret_file)
{
    out_file f = {.file = stdout, .path = path};

    if (strcmp(path, "-") != 0) {
        if (sys_is_folder(path)) {
            complain("%s is a folder; give the file to write", path);
            return CODE_FAILED;
        }
        f.part = malloc(strlen(path) + sizeof ".part");
        if (!f.part) return out_of_memory();
        strcat(strcpy(f.part, path), ".part");
        f.file = sys_open(f.part, "wb");
        if (!f.file) return out_file_fail(&f, f.part);
    }
    *ret_file = f;
    return -1;
}

int out_file_write(out_file *f, const void *data, size_t size)
{
    return fwrite(data, 1, size, f->file) == size ? -1 : out_file_fail(f, f->part);
}

int out_file_finish(out_file *f)
{
    if (!f->part) return out_finish();
    const bool closed = fclose(f->file) == 0;
    f->file = NULL;
    if (!closed) return out_file_fail(f, f->part);
    if (!sys_replace(f->part, f->path)) return out_file_fail(f, f->path);
    free(f->part);
    *f = (out_file){0};
    return CODE_OK;
}

void out_file_discard(out_file *f)
{
    if (!f->part) return;
    if (f->file) fclose(f->file);
    sys_remove(f->part);
    free(f->part);
    *f = (out_file){0};
}

int npy_open(const char *path, uint64_t n_rows, uint64_t n_cols, out_file *ret_file)
{
    static const uint16_t one = 1;
    const char order = *(const unsigned char *)&one ? '<' : '>'; /* of this machine's bytes */
    unsigned char header[128];
    int code;

    /* Magic, version 1.0, the length of what follows; padded so that data starts at 128. */
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    const int n = snprintf((char *)header + 10, sizeof header - 10,
                           "{'descr': '%cf4', 'fortran_order': False, 'shape': (%llu, %llu), }",
                           order, (unsigned long long)n_rows, (unsigned long long)n_cols);
    header[10 + n] = ' ';
    header[sizeof header - 1] = '\n';

    if ((code = out_file_open(path, ret_file)) >= 0) return code;
    return out_file_write(ret_file, header, sizeof header);
}
