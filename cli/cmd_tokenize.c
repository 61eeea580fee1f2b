/* SPDX-License-Identifier: MIT */
/* sobre tokenize: text to token ids. */
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "out.h"

typedef struct tokenize_args {
    common_args common;
    bool from_stdin, no_bos, no_special, pieces;
} tokenize_args;

#define AT(member) offsetof(tokenize_args, member)

static const option options[] = {
    {"stdin", 0, OPTION_FLAG, AT(from_stdin), NULL, "the text is all of standard input", 0, 0},
    {"no-bos", 0, OPTION_FLAG, AT(no_bos), NULL, "add no BOS, EOS, [CLS] or [SEP]", 0, 0},
    {"no-special", 0, OPTION_FLAG, AT(no_special), NULL,
     "read special tokens in the text as plain text", 0, 0},
    {"text", 0, OPTION_FLAG, AT(pieces), NULL, "a line for each token: its id and its text", 0, 0},
};
static const char *const positional[] = {"MODEL", "TEXT"};

/* The text of a token as a JSON string, which also shows spaces and line ends. */
static json_t *piece(const app *a, int32_t id)
{
    const char *text = NULL;
    size_t size = 0;
    return sobre_token_text(a->model, id, 1, &text, &size) < 0 ? json_null()
                                                               : json_text(text, size);
}

static int print_json(const app *a, const int32_t *ids, size_t n)
{
    json_t *list = json_array(), *pieces = json_array();

    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(ids[i]));
        json_array_append_new(pieces, piece(a, ids[i]));
    }
    return out_json(json_pack("{s:I,s:o,s:o}", "n", (json_int_t)n, "ids", list, "pieces", pieces),
                    JSON_COMPACT);
}

static int print_pieces(const app *a, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_t *text = piece(a, ids[i]);
        printf("%d\t", (int)ids[i]);
        json_dumpf(text, stdout, JSON_ENCODE_ANY);
        json_decref(text);
        putchar('\n');
    }
    return out_finish();
}

static int print_ids(const int32_t *ids, size_t n)
{
    putchar('[');
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? ", " : "", (int)ids[i]);
    puts("]");
    return out_finish();
}

static int tokenize(app *a, const tokenize_args *args, text_buffer *text)
{
    const uint32_t flags = (args->no_bos ? SOBRE_TOKENIZE_NO_BOS : 0) |
                           (args->no_special ? SOBRE_TOKENIZE_NO_SPECIAL : 0);
    int32_t *ids = NULL;
    size_t n = 0;
    int code;

    if (args->from_stdin) {
        if ((code = read_stdin(text)) >= 0) return code;
    } else {
        text_add(text, args->common.positional[1], strlen(args->common.positional[1]));
        if (text->failed) return out_of_memory();
    }
    if ((code = app_open(a, &args->common)) >= 0 ||
        (code = app_open_model(a, args->common.positional[0])) >= 0 ||
        (code = app_tokenize(a, text->data, text->size, flags, &ids, &n)) >= 0)
        return code;
    code = args->common.json ? print_json(a, ids, n)
           : args->pieces    ? print_pieces(a, ids, n)
                             : print_ids(ids, n);
    free(ids);
    return code;
}

static int run(const command *self, int argc, char **argv)
{
    tokenize_args args = {0};
    app a = {0};
    text_buffer text = {0};
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if (args.from_stdin == (args.common.n_positional == 2)) {
        complain(args.from_stdin ? "give either TEXT or --stdin, not both"
                                 : "TEXT is missing: give it after MODEL, or use --stdin");
        return CODE_USAGE;
    }
    if (args.pieces && args.common.json) {
        complain("--json already tells the texts: leave out --text");
        return CODE_USAGE;
    }
    code = tokenize(&a, &args, &text);
    app_close(&a);
    text_free(&text);
    return code;
}

const command cmd_tokenize = {
    .name = "tokenize",
    .summary = "Print the token ids of a text.",
    .synopsis = "MODEL TEXT [options]\nMODEL --stdin [options]",
    .details =
        "Prints one JSON array of ids on a line. A GGUF file without tensors will do. --json "
        "prints an object with the ids and their texts.",
    .examples = "  sobre tokenize smollm2 \"Hello, world!\"\n"
                "  sobre tokenize smollm2 --stdin --no-bos < letter.txt\n"
                "  sobre tokenize smollm2 --text \"Hello, world!\"\n",
    .takes = TAKES_JSON | TAKES_QUIET,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .positional = positional,
    .n_positional = 2,
    .n_required = 1,
    .run = run,
};
