/* SPDX-License-Identifier: MIT */
/* The option parser, and --help from the same tables. */
#include "args.h"

#include <stdlib.h>
#include <string.h>

#include <sobre/sobre.h>

#include "out.h"

#define AT(member) offsetof(common_args, member)

/* CHOICE values below are the enums' numbers. */
static const struct {
    uint32_t takes; /* 0: every subcommand */
    option option;
} common_options[] = {
    {TAKES_DEVICE,
     {"device", 0, OPTION_TEXT, AT(device), "NAME",
      "cpu; a device of `sobre devices`; or auto, the default: the GPU that is faster for this "
      "model, if there is one, else the CPU",
      0, 0}},
    {TAKES_DEVICE,
     {"layers", 0, OPTION_INT, AT(n_layer), "N",
      "layers of the model on the device, the CPU runs the others; 0, the default: as many as fit",
      0, 1 << 20}},
    {TAKES_DEVICE,
     {"fallback", 0, OPTION_FLAG, AT(falls_back), NULL,
      "go on with the CPU if the device cannot be used or fails; --device auto implies it", 0, 0}},
    {TAKES_DEVICE | TAKES_PLUGINS,
     {"plugins", 0, OPTION_TEXT, AT(plugins), "FOLDER",
      "where the backends' plugins are; if not given, beside the program, or where it was "
      "installed",
      0, 0}},
    {TAKES_DEVICE,
     {"threads", 't', OPTION_INT, AT(n_threads), "N", "threads of the CPU; 0: one a physical core",
      0, 256}},
    {TAKES_DEVICE,
     {"isa", 0, OPTION_CHOICE, AT(isa), "best|scalar|avx2|avx512|avxvnni|dotprod|i8mm",
      "instruction set of the CPU, for comparing", 0, 0}},
    {TAKES_CONTEXT,
     {"n-ctx", 'c', OPTION_INT, AT(n_ctx), "N",
      "tokens that fit in the context; 0: the model's, at most 4096", 0, 1 << 24}},
    {TAKES_CONTEXT,
     {"kv-type", 0, OPTION_CHOICE, AT(kv_type), "default|f32|f16|bf16|q8_0",
      "numbers in the KV cache; by default f16, with --exact f32; bf16 and q8_0 on the CPU only", 0,
      0}},
    {TAKES_LIMIT,
     {"limit", 0, OPTION_BYTES, AT(limit), "BYTES",
      "memory that may be used on the device, such as 500M; what is free if not given", 0, 0}},
    {TAKES_BLAS,
     {"blas", 0, OPTION_CHOICE, AT(blas), "auto|never|always",
      "give large dense products on a GPU to a BLAS library, for comparing", 0, 0}},
    {TAKES_EXACT,
     {"exact", 0, OPTION_FLAG, AT(exact), NULL, "f32 activations and KV cache: slower, exact", 0,
      0}},
    {TAKES_JSON, {"json", 0, OPTION_FLAG, AT(json), NULL, "JSON on standard output", 0, 0}},
    {TAKES_QUIET,
     {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no progress, warnings or statistics", 0, 0}},
    {TAKES_QUIET,
     {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL, "the library's log on standard error", 0, 0}},
    {0, {"help", 'h', OPTION_FLAG, AT(help), NULL, "this text", 0, 0}},
};
enum { N_COMMON = sizeof common_options / sizeof *common_options };

/* The i-th option of a subcommand, its own before the shared ones; NULL past the last. */
static const option *option_at(const command *c, size_t i)
{
    if (i < c->n_options) return &c->options[i];
    i -= c->n_options;
    for (size_t k = 0; k < N_COMMON; k++) {
        const uint32_t takes = common_options[k].takes;
        if (takes && !(c->takes & takes)) continue;
        if (i-- == 0) return &common_options[k].option;
    }
    return NULL;
}

static const option *find_long(const command *c, const char *name, size_t size)
{
    const option *o;
    for (size_t i = 0; (o = option_at(c, i)); i++)
        if (strlen(o->name) == size && memcmp(o->name, name, size) == 0) return o;
    return NULL;
}

static const option *find_letter(const command *c, char letter)
{
    const option *o;
    for (size_t i = 0; (o = option_at(c, i)); i++)
        if (o->letter == letter) return o;
    return NULL;
}

static int unknown_option(const command *c, const char *given, size_t size)
{
    enum { MAX_NAMES = 64 };
    const char *names[MAX_NAMES];
    char word[40] = "";
    size_t n = 0;
    const option *o;

    for (size_t i = 0; (o = option_at(c, i)) && n < MAX_NAMES; i++) names[n++] = o->name;
    if (size < sizeof word) memcpy(word, given, size);
    const char *near = word[0] ? nearest_word(word, names, n) : NULL;
    if (near)
        complain("there is no option --%.*s; did you mean --%s?", (int)size, given, near);
    else
        complain("there is no option --%.*s; `sobre %s --help` lists them", (int)size, given,
                 c->name);
    return CODE_USAGE;
}

static bool choose(const char *words, const char *value, int32_t *ret)
{
    int32_t index = 0;
    for (const char *w = words;; index++) {
        const size_t size = strcspn(w, "|");
        if (strlen(value) == size && memcmp(w, value, size) == 0) {
            *ret = index;
            return true;
        }
        if (!w[size]) return false;
        w += size + 1;
    }
}

/* Stores the value of an option; an exit code after a message, or -1. */
static int store(const option *o, const char *value, char *args)
{
    void *to = args + o->offset;
    int64_t whole;
    double real;

    switch (o->kind) {
    case OPTION_FLAG: *(bool *)to = true; return -1;
    case OPTION_INT:
        if (parse_int(value, (int64_t)o->min, (int64_t)o->max, &whole)) {
            *(int32_t *)to = (int32_t)whole;
            return -1;
        }
        complain("--%s wants a whole number from %.0f to %.0f, not \"%s\"", o->name, o->min, o->max,
                 value);
        return CODE_USAGE;
    case OPTION_REAL:
        if (parse_real(value, &real) && real >= o->min && real <= o->max) {
            *(float *)to = (float)real;
            return -1;
        }
        complain("--%s wants a number from %g to %g, not \"%s\"", o->name, o->min, o->max, value);
        return CODE_USAGE;
    case OPTION_U64:
        if (parse_u64(value, &((u64_arg *)to)->value)) {
            ((u64_arg *)to)->given = true;
            return -1;
        }
        complain("--%s wants a whole number, not \"%s\"", o->name, value);
        return CODE_USAGE;
    case OPTION_BYTES:
        if (parse_bytes(value, to)) return -1;
        complain("--%s wants bytes, such as 500M or 2G, not \"%s\"", o->name, value);
        return CODE_USAGE;
    case OPTION_TEXT: *(const char **)to = value; return -1;
    case OPTION_TEXTS: {
        texts_arg *texts = to;
        if (texts->n < MAX_TEXTS) {
            texts->items[texts->n++] = value;
            return -1;
        }
        complain("--%s may be given %d times at most", o->name, MAX_TEXTS);
        return CODE_USAGE;
    }
    case OPTION_CHOICE:
        if (choose(o->value, value, to)) return -1;
        complain("--%s is one of %s, not \"%s\"", o->name, o->value, value);
        return CODE_USAGE;
    }
    return CODE_FAILED;
}

/* One argument that begins with a dash; *at moves on over a value that is an argument of its own.
 */
static int parse_option(const command *c, int argc, char **argv, int *at, char *args)
{
    const char *arg = argv[*at], *value = NULL;
    const option *o;

    if (arg[1] == '-') {
        const char *name = arg + 2;
        const size_t size = strcspn(name, "=");
        o = find_long(c, name, size);
        if (!o) return unknown_option(c, name, size);
        if (name[size]) value = name + size + 1;
        if (o->kind == OPTION_FLAG && value) {
            complain("--%s takes no value", o->name);
            return CODE_USAGE;
        }
    } else {
        o = find_letter(c, arg[1]);
        if (!o && strlen(arg) > 2) return unknown_option(c, arg + 1, strcspn(arg + 1, "="));
        if (!o) {
            complain("there is no option -%c; `sobre %s --help` lists them", arg[1], c->name);
            return CODE_USAGE;
        }
        if (o->kind == OPTION_FLAG) {
            /* Flags may share a dash: -qv. */
            for (const char *letter = arg + 1; *letter; letter++) {
                o = find_letter(c, *letter);
                if (!o || o->kind != OPTION_FLAG) {
                    complain("\"%s\": -%c is no option without a value", arg, *letter);
                    return CODE_USAGE;
                }
                store(o, NULL, args);
            }
            return -1;
        }
        if (arg[2]) value = arg + 2 + (arg[2] == '=');
    }
    if (o->kind != OPTION_FLAG && !value) {
        if (*at + 1 >= argc) {
            complain("--%s wants a value: %s", o->name, o->value);
            return CODE_USAGE;
        }
        value = argv[++*at];
    }
    return store(o, value, args);
}

const char *args_kv_name(int32_t type)
{
    static const char *const names[] = {"default", "f32", "f16", "bf16", "q8_0"};
    return names[type];
}

int args_parse(const command *c, int argc, char **argv, void *args)
{
    common_args *common = args;
    bool only_positional = false;

    common->positional = argv;
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (!only_positional && strcmp(arg, "--") == 0) {
            only_positional = true;
        } else if (!only_positional && arg[0] == '-' && arg[1]) {
            const int code = parse_option(c, argc, argv, &i, args);
            if (code >= 0) return code;
        } else if (common->n_positional < c->n_positional) {
            argv[common->n_positional++] = arg;
        } else {
            complain("\"%s\" is one argument too many; text with spaces needs quotes", arg);
            return CODE_USAGE;
        }
        if (common->help) {
            args_print_help(c, stdout);
            return out_finish();
        }
    }
    if (common->exact && common->kv_type != SOBRE_KV_DEFAULT && common->kv_type != SOBRE_KV_F32) {
        complain("--exact keeps the KV cache in f32: leave out --kv-type %s",
                 args_kv_name(common->kv_type));
        return CODE_USAGE;
    }
    if (common->n_layer > 0 && (!common->device || strcmp(common->device, "cpu") == 0)) {
        complain("--layers needs a --device beside the CPU, such as opencl");
        return CODE_USAGE;
    }
    if (common->n_positional < c->n_required) {
        complain("%s is missing; `sobre %s --help` shows how", c->positional[common->n_positional],
                 c->name);
        return CODE_USAGE;
    }
    return -1;
}

/* Prints words from `column` on, indenting the lines that follow; a newline stays. */
static void print_wrapped(FILE *to, const char *text, int indent, int column)
{
    const int width = out_columns();
    const char *c = text;

    while (*c) {
        const size_t size = strcspn(c, " \n");
        if (column > indent && column + 1 + (int)size > width) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putc(' ', to);
            column++;
        }
        fprintf(to, "%.*s", (int)size, c);
        column += (int)size;
        c += size;
        if (*c == '\n') {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
        }
        if (*c) c++;
    }
    putc('\n', to);
}

static void print_option(const option *o, FILE *to)
{
    enum { COLUMN = 26 };
    char left[80];
    int n = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "      --%s", o->name);

    if (o->kind != OPTION_FLAG)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s",
                      o->kind == OPTION_CHOICE ? "WHICH" : o->value);
    fprintf(to, "%s", left);
    if (n >= COLUMN) {
        putc('\n', to);
        n = 0;
    }
    fprintf(to, "%*s", COLUMN - n, "");
    if (o->kind == OPTION_CHOICE) {
        char help[200];
        snprintf(help, sizeof help, "%s: %s", o->value, o->help);
        print_wrapped(to, help, COLUMN, COLUMN);
    } else {
        print_wrapped(to, o->help, COLUMN, COLUMN);
    }
}

void args_print_exit_codes(FILE *to)
{
#define X(name, code, meaning) fprintf(to, "  %3d  %s\n", code, meaning);
    EXIT_CODES(X)
#undef X
}

void args_print_help(const command *c, FILE *to)
{
    const option *o;

    for (const char *line = c->synopsis; *line;) {
        const size_t size = strcspn(line, "\n");
        fprintf(to, "%s sobre %s %.*s\n", line == c->synopsis ? "usage:" : "      ", c->name,
                (int)size, line);
        line += size + (line[size] != 0);
    }
    putc('\n', to);
    print_wrapped(to, c->summary, 0, 0);
    if (c->details) {
        putc('\n', to);
        print_wrapped(to, c->details, 0, 0);
    }
    fprintf(to, "\noptions:\n");
    for (size_t i = 0; (o = option_at(c, i)); i++) print_option(o, to);
    fprintf(to, "\nexamples:\n%s", c->examples);
    fprintf(to, "\nexit codes:\n");
    args_print_exit_codes(to);
}
