/* SPDX-License-Identifier: MIT */
/* sobre logits: the model's raw predictions at every position, for comparing numbers. */
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "out.h"

enum { DEFAULT_CHUNK = 64 };

typedef struct logits_args {
    common_args common;
    const char *ids, *prompt, *output, *chunk;
    bool no_bos, no_special;
} logits_args;

#define AT(member) offsetof(logits_args, member)

static const option options[] = {
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "token ids, taken as they are: no BOS is added", 0,
     0},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "a text to tokenize instead", 0, 0},
    {"no-bos", 0, OPTION_FLAG, AT(no_bos), NULL, "with -p: add no BOS, EOS, [CLS] or [SEP]", 0, 0},
    {"no-special", 0, OPTION_FLAG, AT(no_special), NULL,
     "with -p: read special tokens in the text as plain text", 0, 0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "where to write; - is standard output", 0, 0},
    {"chunk", 0, OPTION_TEXT, AT(chunk), "N", "tokens evaluated at once, or all; 64 if not given",
     0, 0},
};
static const char *const positional[] = {"MODEL"};

/* Evaluates `n` more tokens and writes their rows. */
static int evaluate(app *a, out_file *npy, const int32_t *ids, size_t at, size_t n)
{
    const sobre_entry entry = {
        .pos = (int32_t)at, .n_tokens = (int32_t)n, .want = SOBRE_WANT_ALL, .ids = ids + at};
    sobre_status status;

    do {
        status = wait_batch(a, SOBRE(batch, .entries = &entry, .n_entries = 1));
    } while (status < 0 && app_fall_back(a, &status));
    for (size_t i = 0; i < n && status == SOBRE_OK; i++) {
        const float *row;
        status = sobre_session_logits(a->session, i, &row);
        if (status < 0) break;
        const int code = out_file_write(npy, row, (size_t)a->info->n_vocab * sizeof *row);
        if (code >= 0) return code;
    }
    return status < 0 ? app_fail(a, status) : -1;
}

static int write_logits(app *a, const logits_args *args, const int32_t *ids, size_t n, size_t chunk)
{
    sobre_fit_options fit = app_fit_options(a);
    const sobre_session_options session = app_session_options(a);
    out_file npy = {0};
    int code;

    if (fit.n_ctx == 0) fit.n_ctx = (int32_t)n;
    fit.n_chunk = (int32_t)chunk;
    if ((code = app_load(a, &fit)) >= 0 || (code = app_open_session(a, &session)) >= 0 ||
        (code = npy_open(args->output, n, (uint64_t)a->info->n_vocab, &npy)) >= 0)
        return code;
    for (size_t at = 0; at < n; at += chunk) {
        code = evaluate(a, &npy, ids, at, n - at < chunk ? n - at : chunk);
        if (code >= 0) {
            out_file_discard(&npy);
            return code;
        }
    }
    return out_file_finish(&npy);
}

static int open_and_write(app *a, const logits_args *args, int64_t chunk)
{
    const uint32_t flags = (args->no_bos ? SOBRE_TOKENIZE_NO_BOS : 0) |
                           (args->no_special ? SOBRE_TOKENIZE_NO_SPECIAL : 0);
    int32_t *ids = NULL;
    size_t n = 0;
    int code;

    if (args->ids && (code = parse_ints("--ids", args->ids, 0, INT32_MAX, &ids, &n)) >= 0)
        return code;
    if ((code = app_open(a, &args->common)) < 0 &&
        (code = app_open_model(a, args->common.positional[0])) < 0 && args->prompt)
        code = app_tokenize(a, args->prompt, strlen(args->prompt), flags, &ids, &n);
    if (code < 0 && n == 0) {
        complain("there are no tokens to evaluate: the text is empty");
        code = CODE_USAGE;
    }
    if (code < 0)
        code = write_logits(a, args, ids, n, chunk == 0 || (size_t)chunk > n ? n : (size_t)chunk);
    free(ids);
    return code;
}

static int run(const command *self, int argc, char **argv)
{
    logits_args args = {0};
    app a = {0};
    int64_t chunk = DEFAULT_CHUNK;
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if (!args.ids == !args.prompt) {
        complain("give either --ids or -p");
        return CODE_USAGE;
    }
    if (!args.output) {
        complain("give the file to write with -o");
        return CODE_USAGE;
    }
    if (args.chunk && strcmp(args.chunk, "all") == 0) {
        chunk = 0;
    } else if (args.chunk && !parse_int(args.chunk, 1, 1 << 20, &chunk)) {
        complain("--chunk wants a number of tokens, or all, not \"%s\"", args.chunk);
        return CODE_USAGE;
    }
    code = open_and_write(&a, &args, chunk);
    app_close(&a);
    return code;
}

const command cmd_logits = {
    .name = "logits",
    .summary = "Write the logits of every position to a NumPy file.",
    .synopsis = "MODEL --ids 1,2,3 -o OUT.npy [options]\nMODEL -p TEXT -o OUT.npy [options]",
    .details = "The file holds float32 [n_tokens, n_vocab]. It appears under its name only when it "
               "is whole. With --exact the bits do not depend on --chunk or --threads.",
    .examples = "  sobre logits smollm2 --ids 504,3575,282 -o logits.npy\n"
                "  sobre logits smollm2 -p \"The capital of\" --exact --chunk 1 -o logits.npy\n",
    .takes = TAKES_DEVICE | TAKES_CONTEXT | TAKES_EXACT | TAKES_QUIET | TAKES_LIMIT | TAKES_BLAS,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .positional = positional,
    .n_positional = 1,
    .n_required = 1,
    .run = run,
};
