/* SPDX-License-Identifier: MIT */
/* sobre inspect: what a model file holds, what it computes, what it takes. */
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "out.h"
#include "shapes.h"

typedef struct inspect_args {
    common_args common;
    bool graph, built, plan, fit, dot;
    int32_t n_cols; /* -1: not given */
    int32_t n_seq, n_chunk, n_past;
    const char *shape, *quant;
} inspect_args;

#define AT(member) offsetof(inspect_args, member)

static const option options[] = {
    {"graph", 0, OPTION_FLAG, AT(graph), NULL,
     "nodes, as built and as fused for the device; with --dot only as fused", 0, 0},
    {"built", 0, OPTION_FLAG, AT(built), NULL, "--graph only as the model family built it", 0, 0},
    {"plan", 0, OPTION_FLAG, AT(plan), NULL, "steps, device, buffers and bytes", 0, 0},
    {"fit", 0, OPTION_FLAG, AT(fit), NULL, "what loading takes, byte by byte", 0, 0},
    {"dot", 0, OPTION_FLAG, AT(dot), NULL, "--graph or --plan for Graphviz", 0, 0},
    {"n-cols", 0, OPTION_INT, AT(n_cols), "N", "tokens at once in --plan; 1 if not given", 0,
     1 << 20},
    {"n-seq", 0, OPTION_INT, AT(n_seq), "N", "sequences at once; 1 if not given", 0, 1024},
    {"n-chunk", 0, OPTION_INT, AT(n_chunk), "N", "tokens at once in prefill; 512 if not given", 0,
     1 << 20},
    {"n-past", 0, OPTION_INT, AT(n_past), "N",
     "positions before the one token whose bytes and launches are counted; 0 if not given", 0,
     1 << 30},
    {"shape", 0, OPTION_TEXT, AT(shape), "NAME",
     "instead of MODEL: a published model's shape; `list` lists them", 0, 0},
    {"quant", 0, OPTION_TEXT, AT(quant), "TYPE", "the block type of --shape; Q4_0 if not given", 0,
     0},
};
static const char *const positional[] = {"MODEL"};

static void write_stdout(void *user, const char *text, size_t size)
{
    (void)user;
    out_text(stdout, text, size);
}

/* The numbers of sobre_model_info and sobre_placement, for text and JSON alike. */
typedef struct row {
    const char *key, *label;
    uint64_t value;
    enum { ROW_PLAIN, ROW_COUNT, ROW_BYTES } kind;
} row;
enum { MAX_ROWS = 12 };

static size_t info_rows(const sobre_model_info *m, row rows[MAX_ROWS])
{
    const row all[] = {
        {"n_params", "parameters", m->n_params, ROW_COUNT},
        {"tensor_bytes", "weights in file", m->tensor_bytes, ROW_BYTES},
        {"n_layer", "layers", (uint64_t)m->n_layer, ROW_PLAIN},
        {"n_embd", "embedding", (uint64_t)m->n_embd, ROW_PLAIN},
        {"n_ff", "feed-forward", (uint64_t)m->n_ff, ROW_PLAIN},
        {"n_head", "heads", (uint64_t)m->n_head, ROW_PLAIN},
        {"n_head_kv", "KV heads", (uint64_t)m->n_head_kv, ROW_PLAIN},
        {"head_dim", "head size", (uint64_t)m->head_dim, ROW_PLAIN},
        {"n_vocab", "vocabulary", (uint64_t)m->n_vocab, ROW_PLAIN},
        {"n_ctx", "trained context", (uint64_t)m->n_ctx, ROW_PLAIN},
    };
    memcpy(rows, all, sizeof all);
    return sizeof all / sizeof *all;
}

static size_t placement_rows(const sobre_placement *p, row rows[MAX_ROWS])
{
    const row all[] = {
        {"n_ctx", "context", (uint64_t)p->n_ctx, ROW_PLAIN},
        {"n_seq", "sequences", (uint64_t)p->n_seq, ROW_PLAIN},
        {"n_chunk", "tokens at once", (uint64_t)p->n_chunk, ROW_PLAIN},
        {"weight_bytes", "weights, packed", p->weight_bytes, ROW_BYTES},
        {"kv_bytes", "KV cache when full", p->kv_bytes, ROW_BYTES},
        {"workspace_bytes", "workspace", p->workspace_bytes, ROW_BYTES},
        {"total_bytes", "in all", p->total_bytes, ROW_BYTES},
        {"n_layer", "layers on the device", (uint64_t)p->n_layer, ROW_PLAIN},
        {"cpu_bytes", "on the CPU beside it", p->cpu_bytes, ROW_BYTES},
    };
    memcpy(rows, all, sizeof all);
    return sizeof all / sizeof *all;
}

/* What evaluating does: one token, and a prompt as long as the device takes at once. */
typedef struct work {
    int32_t n_past, n_prompt;
    sobre_cost token, prompt;
} work;

static size_t cost_rows(const sobre_cost *c, row rows[MAX_ROWS])
{
    const row all[] = {
        {"weight_bytes", "weights read", c->weight_bytes, ROW_BYTES},
        {"kv_bytes", "KV cache", c->kv_bytes, ROW_BYTES},
        {"activation_bytes", "activations", c->activation_bytes, ROW_BYTES},
        {"flop", "operations", c->flop, ROW_COUNT},
        {"n_launches", "launches", (uint64_t)c->n_launches, ROW_PLAIN},
    };
    memcpy(rows, all, sizeof all);
    return sizeof all / sizeof *all;
}

static int count_work(app *a, const inspect_args *args, const sobre_placement *p, work *ret_work)
{
    work w = {args->n_past, p->n_chunk < p->n_ctx ? p->n_chunk : p->n_ctx, SOBRE_INIT(cost),
              SOBRE_INIT(cost)};
    sobre_status status = sobre_model_cost(a->model, &a->fit, 1, w.n_past, &w.token);

    if (status >= 0) status = sobre_model_cost(a->model, &a->fit, w.n_prompt, 0, &w.prompt);
    if (status < 0) return app_fail(a, status);
    *ret_work = w;
    return -1;
}

static void print_rows(const row *rows, size_t n, bool exact_bytes)
{
    char text[HUMAN_SIZE];

    for (size_t i = 0; i < n; i++) {
        const unsigned long long value = rows[i].value;
        printf("  %-22s", rows[i].label);
        if (rows[i].kind == ROW_BYTES && exact_bytes)
            printf("%15llu  %s\n", value, human_bytes(value, text));
        else if (rows[i].kind == ROW_BYTES)
            printf("%s\n", human_bytes(value, text));
        else if (rows[i].kind == ROW_COUNT)
            printf("%s\n", human_count(value, text));
        else
            printf(exact_bytes ? "%15llu\n" : "%llu\n", value);
    }
}

static void add_rows(json_t *object, const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        json_object_set_new(object, rows[i].key, json_integer((json_int_t)rows[i].value));
}

static void print_text_row(const char *label, const char *text)
{
    printf("  %-22s", label);
    out_line_text(stdout, text);
    putchar('\n');
}

static void print_device(const app *a, const sobre_placement *p)
{
    printf("  %-22s", "device");
    if (a->device_info) {
        printf("%s, ", a->device_info->backend);
        out_line_text(stdout, a->device_info->name ? a->device_info->name : "");
        putchar('\n');
    } else {
        printf("%d\n", (int)p->device);
    }
    print_text_row("KV type", args_kv_name(p->kv_type));
}

/* Metadata on one line each, long values cut. */
static void print_metadata(app *a)
{
    enum { WIDTH = 72 };
    const char *key;

    for (int32_t i = 0; (key = sobre_model_meta_key(a->model, i)); i++) {
        const char *value = sobre_model_meta(a->model, key);
        char cut[WIDTH + 4];

        if (!value) value = "(of a type that is not shown)";
        if (strlen(value) > WIDTH) {
            size_t n = WIDTH;
            while (n > 0 && ((unsigned char)value[n] & 0xc0) == 0x80) n--; /* whole characters */
            snprintf(cut, sizeof cut, "%.*s...", (int)n, value);
            value = cut;
        }
        printf("  ");
        out_line_text(stdout, key);
        printf(" = ");
        out_line_text(stdout, value);
        putchar('\n');
    }
}

static void print_heading(const char *text)
{
    printf("%s%s%s\n", out_style_on(stdout, STYLE_BOLD), text, out_style_off(stdout));
}

static void print_work(const work *w)
{
    row rows[MAX_ROWS];
    char title[64];

    snprintf(title, sizeof title, "one token after %d", (int)w->n_past);
    print_heading(title);
    print_rows(rows, cost_rows(&w->token, rows), false);
    snprintf(title, sizeof title, "a prompt of %d tokens", (int)w->n_prompt);
    print_heading(title);
    print_rows(rows, cost_rows(&w->prompt, rows), false);
}

/* Without a placement there is no work either. */
static int print_text(app *a, const inspect_args *args, const sobre_placement *placement,
                      const work *w)
{
    const sobre_model_info *m = a->info;
    row rows[MAX_ROWS];

    if (!args->fit) {
        print_heading("model");
        print_text_row("file", a->path);
        print_text_row("name", m->name);
        print_text_row("architecture", m->architecture);
        print_text_row("quantization", m->quantization);
        print_rows(rows, info_rows(m, rows), false);
        print_text_row("tokenizer", m->has_tokenizer ? "yes" : "no: runs on ids only");
        print_text_row("chat format", m->chat_format ? m->chat_format : "none recognised");
        if (m->n_warnings > 0) print_heading("warnings");
        for (int32_t i = 0; i < m->n_warnings; i++) {
            printf("  ");
            out_line_text(stdout, m->warnings[i]);
            putchar('\n');
        }
        print_heading("metadata");
        print_metadata(a);
    }
    if (placement) {
        print_heading("memory");
        print_device(a, placement);
        print_rows(rows, placement_rows(placement, rows), args->fit);
        if (!args->fit) print_work(w);
    }
    return out_finish();
}

static void add_cost(json_t *object, const char *key, const char *n_key, int32_t n,
                     const sobre_cost *c)
{
    json_t *cost = json_object();
    row rows[MAX_ROWS];

    json_object_set_new(cost, n_key, json_integer(n));
    add_rows(cost, rows, cost_rows(c, rows));
    json_object_set_new(object, key, cost);
}

static int print_json(app *a, const sobre_placement *placement, const work *w)
{
    const sobre_model_info *m = a->info;
    const char *const texts[][2] = {{"file", a->path},
                                    {"name", m->name},
                                    {"architecture", m->architecture},
                                    {"quantization", m->quantization},
                                    {"chat_format", m->chat_format}};
    json_t *object = json_object(), *warnings = json_array(), *metadata = json_object();
    row rows[MAX_ROWS];
    const char *key;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        json_object_set_new(object, texts[i][0],
                            texts[i][1] ? json_text(texts[i][1], strlen(texts[i][1]))
                                        : json_null());
    add_rows(object, rows, info_rows(m, rows));
    json_object_set_new(object, "has_tokenizer", json_boolean(m->has_tokenizer));
    for (int32_t i = 0; i < m->n_warnings; i++)
        json_array_append_new(warnings, json_text(m->warnings[i], strlen(m->warnings[i])));
    json_object_set_new(object, "warnings", warnings);
    for (int32_t i = 0; (key = sobre_model_meta_key(a->model, i)); i++) {
        const char *value = sobre_model_meta(a->model, key);
        json_object_set_new(metadata, key, value ? json_text(value, strlen(value)) : json_null());
    }
    json_object_set_new(object, "metadata", metadata);
    if (placement) {
        json_t *memory = json_object();
        json_object_set_new(memory, "device", json_integer(placement->device));
        if (a->device_info)
            json_object_set_new(memory, "backend", json_string(a->device_info->backend));
        json_object_set_new(memory, "kv_type", json_string(args_kv_name(placement->kv_type)));
        add_rows(memory, rows, placement_rows(placement, rows));
        json_object_set_new(object, "memory", memory);
        add_cost(object, "per_token", "n_past", w->n_past, &w->token);
        add_cost(object, "prompt", "n_tokens", w->n_prompt, &w->prompt);
    }
    return out_json(object, JSON_INDENT(2));
}

static int dump(app *a, const inspect_args *args, const sobre_fit_options *fit)
{
    const bool wanted[] = {
        [SOBRE_DUMP_GRAPH] = args->graph && (args->built || !args->dot),
        [SOBRE_DUMP_FUSED] = args->graph && !args->built,
        [SOBRE_DUMP_PLAN] = args->plan,
    };
    const sobre_dump_format format = args->dot ? SOBRE_DUMP_DOT : SOBRE_DUMP_TEXT;
    const int32_t n_cols = args->n_cols < 0 ? 0 : args->n_cols;
    sobre_status status = SOBRE_OK;

    for (int what = SOBRE_DUMP_GRAPH; what <= SOBRE_DUMP_PLAN && status == SOBRE_OK; what++)
        if (wanted[what])
            status = sobre_model_dump(a->model, fit, (sobre_dump)what, format, n_cols, write_stdout,
                                      NULL);
    return status < 0 ? app_fail(a, status) : out_finish();
}

static int open_model(app *a, const inspect_args *args, shape_model **ret_made)
{
    sobre_source source;
    int code;

    if (!args->shape) return app_open_model(a, args->common.positional[0]);
    if ((code = shapes_open(args->shape, args->quant, ret_made, &source)) >= 0) return code;
    return app_open_source(a, &source, args->shape);
}

static int inspect(app *a, const inspect_args *args, shape_model **ret_made)
{
    sobre_placement placement;
    work w = {0};
    int code;

    if ((code = app_open(a, &args->common)) >= 0 || (code = open_model(a, args, ret_made)) >= 0)
        return code;
    sobre_fit_options fit = app_fit_options(a);
    fit.n_seq = args->n_seq;
    fit.n_chunk = args->n_chunk;
    if (args->graph || args->plan) return dump(a, args, &fit);
    /* A file with a tokenizer only has nothing to load. */
    const bool loads = a->info->tensor_bytes > 0 || args->fit;
    if (loads && (code = app_fit(a, &fit, &placement)) >= 0) return code;
    if (loads && (code = count_work(a, args, &placement, &w)) >= 0) return code;
    return args->common.json ? print_json(a, loads ? &placement : NULL, &w)
                             : print_text(a, args, loads ? &placement : NULL, &w);
}

static int run(const command *self, int argc, char **argv)
{
    inspect_args args = {.n_cols = -1};
    app a = {0};
    shape_model *made = NULL;
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0 ||
        (code = shapes_check(args.shape, args.quant, args.common.n_positional > 0)) >= 0)
        return code;
    if (args.shape && strcmp(args.shape, "list") == 0) {
        shapes_print(stdout);
        return out_finish();
    }
    if (args.graph + args.plan + args.fit > 1) {
        complain("--graph, --plan and --fit go one at a time");
        return CODE_USAGE;
    }
    if ((args.graph || args.plan) && args.common.json) {
        complain("--graph and --plan are text, or with --dot Graphviz, not JSON");
        return CODE_USAGE;
    }
    if (args.dot && !args.graph && !args.plan) {
        complain("--dot needs --graph or --plan");
        return CODE_USAGE;
    }
    if (args.built && !args.graph) {
        complain("--built needs --graph");
        return CODE_USAGE;
    }
    if (args.n_cols >= 0 && !args.plan) {
        complain("--n-cols needs --plan");
        return CODE_USAGE;
    }
    args.common.quiet |= !args.common.verbose; /* the warnings are part of what is printed */
    code = inspect(&a, &args, &made);
    app_close(&a);
    shape_model_close(made);
    return code;
}

const command cmd_inspect = {
    .name = "inspect",
    .summary = "Show what a model file holds, computes and takes.",
    .synopsis = "MODEL [options]\n--shape NAME [--quant TYPE] [options]\nMODEL --graph [--built] "
                "[--dot] [options]\nMODEL --plan [--dot] "
                "[options]\nMODEL --fit [options]",
    .details = "Reads the header only; no weights are loaded. What one token and a prompt take is "
               "counted, not measured: bytes read and written, operations, launches.",
    .examples = "  sobre inspect smollm2\n"
                "  sobre inspect smollm2 --json | jq .memory.total_bytes\n"
                "  sobre inspect --shape tinyllama-1.1b --device opencl --n-past 1000\n"
                "  sobre inspect smollm2 --fit --n-ctx 2048 --kv-type f32\n"
                "  sobre inspect smollm2 --plan --n-cols 32\n"
                "  sobre inspect smollm2 --graph --dot | dot -Tsvg > graph.svg\n",
    .takes = TAKES_DEVICE | TAKES_CONTEXT | TAKES_EXACT | TAKES_JSON | TAKES_QUIET | TAKES_LIMIT,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .positional = positional,
    .n_positional = 1,
    .n_required = 0,
    .run = run,
};
