/* SPDX-License-Identifier: MIT */
/* Command-line options: a table a subcommand drives the parser and --help alike. */
#ifndef SOBRE_CLI_ARGS_H
#define SOBRE_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* X(name, code, meaning). Documented in every --help. */
#define EXIT_CODES(X)                                                   \
    X(OK, 0, "everything went well")                                    \
    X(FAILED, 1, "something failed; the message says what")             \
    X(USAGE, 2, "the command line is wrong")                            \
    X(MODEL, 3, "the model is missing, malformed or not supported")     \
    X(DEVICE, 4, "the device is unavailable or failed")                 \
    X(MEMORY, 5, "out of memory, on the host or the device")            \
    X(FULL, 6, "the context is full")                                   \
    X(INTERRUPTED, 130, "interrupted (Ctrl-C); what was printed stays") \
    X(PIPE, 141, "whoever read the output closed it")

enum {
#define X(name, code, meaning) CODE_##name = code,
    EXIT_CODES(X)
#undef X
};

typedef enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_INT,    /* int32_t */
    OPTION_REAL,   /* float */
    OPTION_U64,    /* u64_arg */
    OPTION_BYTES,  /* uint64_t, with K, M, G (powers of 1024) */
    OPTION_TEXT,   /* const char * */
    OPTION_TEXTS,  /* texts_arg: may be given several times */
    OPTION_CHOICE, /* int32_t: which of the words in `value`, "a|b|c" */
} option_kind;

typedef struct u64_arg {
    bool given;
    uint64_t value;
} u64_arg;

enum { MAX_TEXTS = 64 };
typedef struct texts_arg {
    const char *items[MAX_TEXTS];
    size_t n;
} texts_arg;

typedef struct option {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    option_kind kind;
    size_t offset;     /* in the subcommand's struct */
    const char *value; /* what --help calls the value */
    const char *help;
    double min, max; /* of INT and REAL */
} option;

/* Options that several subcommands share; a subcommand's struct begins with this. */
typedef struct common_args {
    const char *device;
    int32_t n_threads;
    int32_t n_ctx;
    int32_t kv_type; /* sobre_kv_type */
    int32_t isa;     /* sobre_cpu_isa */
    int32_t blas;    /* sobre_blas */
    int32_t n_layer; /* on the device; 0: as many as fit */
    uint64_t limit;
    const char *plugins; /* their folder; NULL: the library's own */
    bool falls_back;
    bool exact, json, quiet, verbose, help;
    char **positional;
    int n_positional;
} common_args;

/* Which of them a subcommand takes. */
enum {
    TAKES_DEVICE = 1, /* and layers, fallback, threads, instruction set */
    TAKES_CONTEXT = 2,
    TAKES_EXACT = 4,
    TAKES_JSON = 8,
    TAKES_QUIET = 16,
    TAKES_LIMIT = 32,
    TAKES_BLAS = 64,
    TAKES_PLUGINS = 128, /* who takes a device takes them anyway */
};

typedef struct command {
    const char *name;
    const char *summary;  /* one line for `sobre --help` */
    const char *synopsis; /* after "sobre NAME", one form a line */
    const char *details;  /* paragraphs, wrapped when printed; NULL: none */
    const char *examples; /* printed as they are */
    uint32_t takes;
    const option *options;
    size_t n_options;
    const char *const *positional; /* names, for messages */
    int n_positional, n_required;
    int (*run)(const struct command *command, int argc, char **argv);
} command;

/* A sobre_kv_type as --kv-type has it. */
const char *args_kv_name(int32_t type);
/* -1: go on. Otherwise the exit code: after --help, or a message. Positional arguments are moved to
 * the front of argv. */
int args_parse(const command *command, int argc, char **argv, void *args);
void args_print_help(const command *command, FILE *to);
void args_print_exit_codes(FILE *to);

/* The nearest of n words if it is near enough to have been meant, else NULL. */
const char *nearest_word(const char *word, const char *const *words, size_t n);

/* Numbers, whole and strict: no spaces, no locale, nothing after them. */
bool parse_int(const char *text, int64_t min, int64_t max, int64_t *ret);
bool parse_u64(const char *text, uint64_t *ret);
bool parse_real(const char *text, double *ret);
bool parse_bytes(const char *text, uint64_t *ret);
/* "1,2,3" to malloc'ed ids; says what is wrong with `what` and returns an exit code, or -1. */
int parse_ints(const char *what, const char *text, int64_t min, int64_t max, int32_t **ret_items,
               size_t *ret_n);

#endif
