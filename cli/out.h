/* SPDX-License-Identifier: MIT */
/* Output: data on standard output, messages on standard error; text, JSON, NPY. */
#ifndef SOBRE_CLI_OUT_H
#define SOBRE_CLI_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#if defined(__MINGW32__)
#define OUT_PRINTF(nth, args) __attribute__((format(gnu_printf, nth, args)))
#elif defined(__GNUC__)
#define OUT_PRINTF(nth, args) __attribute__((format(printf, nth, args)))
#else
#define OUT_PRINTF(nth, args)
#endif

/* --- Messages: "sobre: ..." on standard error. */
void complain(const char *format, ...) OUT_PRINTF(1, 2);
void warn(const char *format, ...) OUT_PRINTF(1, 2);
int out_of_memory(void); /* says so; CODE_MEMORY */

/* --- Standard output */
/* Flushes; CODE_OK, or after a message CODE_FAILED, or quietly CODE_PIPE. */
int out_finish(void);
/* Text that came from a model or a file: what could drive the terminal is left out there. */
void out_text(FILE *to, const char *text, size_t size);
/* A line-shaped piece of it: newlines and tabs become spaces. */
void out_line_text(FILE *to, const char *text);

typedef enum out_style { STYLE_PLAIN, STYLE_BOLD, STYLE_GOOD, STYLE_WARN, STYLE_BAD } out_style;
/* The escape sequence, or "" if the stream takes none (no terminal, NO_COLOR, TERM=dumb). */
const char *out_style_on(FILE *to, out_style style);
const char *out_style_off(FILE *to);
int out_columns(void); /* of the terminal; 80 where there is none; 60 to 100 */

/* "98.4 MB", "134.5 M": three or four figures. */
enum { HUMAN_SIZE = 24 };
const char *human_bytes(uint64_t bytes, char buffer[HUMAN_SIZE]);
const char *human_count(uint64_t n, char buffer[HUMAN_SIZE]);

/* --- Bytes that grow */
typedef struct text_buffer {
    char *data;
    size_t size, capacity;
    bool failed; /* no memory; the rest was dropped */
} text_buffer;
void text_add(text_buffer *b, const char *text, size_t size);
void text_free(text_buffer *b);
/* All of standard input; an exit code after a message, or -1. */
int read_stdin(text_buffer *b);

/* --- JSON */
/* A string of any bytes; what is not UTF-8 becomes U+FFFD. */
json_t *json_text(const char *text, size_t size);
/* Prints a value on lines of its own and drops it; an exit code. */
int out_json(json_t *value, size_t flags);

/* --- Files: written next to their place and renamed at the end. "-" is standard output. Each
 * returns an exit code after a message, or -1 to go on. */
typedef struct out_file {
    FILE *file;
    const char *path;
    char *part; /* NULL: standard output */
} out_file;
int out_file_open(const char *path, out_file *ret_file);
int out_file_write(out_file *f, const void *data, size_t size);
int out_file_finish(out_file *f);   /* CODE_OK if all went well */
void out_file_discard(out_file *f); /* after a failure: removes what was written */
/* Begins a file of float32 [n_rows, n_cols]. Kern et al., NumPy enhancement proposal 1. */
int npy_open(const char *path, uint64_t n_rows, uint64_t n_cols, out_file *ret_file);

#endif
