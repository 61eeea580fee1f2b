/* SPDX-License-Identifier: MIT */
/* sobre bench: how fast a model is on a device. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "os.h"
#include "out.h"
#include "shapes.h"

enum {
    MAX_REPEATS = 1000,
    MAX_TOKENS = 1 << 20,
    MAX_THREADS = 256,
    MAX_SEQ = 1024,
    WRITE_SIZE = 1 << 20
};

typedef struct bench_args {
    common_args common;
    const char *n_prompt, *n_gen, *n_seq, *shape, *quant, *write;
    int32_t repeats, output, n_chunk;
} bench_args;

#define AT(member) offsetof(bench_args, member)

enum {
    OUTPUT_UNSET = -1,
    OUTPUT_TABLE,
    OUTPUT_JSON,
    OUTPUT_CSV,
    OUTPUT_MD
}; /* the option's list */

static const option options[] = {
    {"n-prompt", 'p', OPTION_TEXT, AT(n_prompt), "N,N",
     "prompts of so many tokens, evaluated at once; 0: none; 512 if not given", 0, 0},
    {"n-gen", 'n', OPTION_TEXT, AT(n_gen), "N,N",
     "so many tokens, evaluated one after the other; 0: none; 128 if not given", 0, 0},
    {"n-seq", 0, OPTION_TEXT, AT(n_seq), "N,N",
     "generate for so many sequences at once, each with its own cache; 1 if not given", 0, 0},
    {"repeats", 'r', OPTION_INT, AT(repeats), "N", "measurements of each; 5 if not given", 1,
     MAX_REPEATS},
    {"output", 'o', OPTION_CHOICE, AT(output), "table|json|csv|md",
     "the form of the results; a table if not given", 0, 0},
    {"n-chunk", 0, OPTION_INT, AT(n_chunk), "N",
     "tokens that the device takes at once; 512 if not given", 0, MAX_TOKENS},
    {"shape", 0, OPTION_TEXT, AT(shape), "NAME",
     "instead of MODEL: a published model's shape, with random weights; `list` lists them", 0, 0},
    {"quant", 0, OPTION_TEXT, AT(quant), "TYPE", "the block type of --shape; Q4_0 if not given", 0,
     0},
    {"write", 0, OPTION_TEXT, AT(write), "FILE",
     "write --shape as a GGUF file, for other programs, and measure nothing", 0, 0},
};
static const char *const positional[] = {"MODEL"};

/* One row: a test and its measurements. */
typedef struct result {
    char test[32];
    int32_t n_prompt, n_gen; /* of each sequence */
    int32_t n_seq;
    int32_t n_samples;
    uint64_t *samples_ns; /* [n_samples] */
    double avg_ns, stddev_ns, avg_ts, stddev_ts, launches_per_token;
} result;

/* What all rows share. */
typedef struct bench {
    app app;
    shape_model *made;
    const bench_args *args;
    int32_t n_threads;
    char *name;
    char type[64];
} bench;

/* --- Measuring */

/* Tokens of one sample, of all sequences. */
static int32_t n_tokens(const result *r)
{
    return (r->n_prompt + r->n_gen) * r->n_seq;
}

/* What a test evaluates, again and again. */
typedef struct workload {
    int32_t *ids;         /* [n_seq, n_prompt + n_gen] */
    sobre_entry *entries; /* [n_seq] */
} workload;

static void workload_close(workload *w)
{
    free(w->ids);
    free(w->entries);
}

/* Random tokens; false: no memory. */
static bool workload_open(const result *r, int32_t n_vocab, workload *ret_w)
{
    const int32_t n = n_tokens(r);
    workload w = {malloc((size_t)n * sizeof *w.ids), calloc((size_t)r->n_seq, sizeof *w.entries)};
    uint64_t random = 1;

    if (!w.ids || !w.entries) {
        workload_close(&w);
        return false;
    }
    for (int32_t i = 0; i < n; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        w.ids[i] = (int32_t)((random >> 33) % (uint64_t)n_vocab);
    }
    *ret_w = w;
    return true;
}

/* `n` tokens of every sequence in one batch, from position `pos`. */
static sobre_status evaluate(bench *b, const result *r, const workload *w, int32_t pos, int32_t n)
{
    for (int32_t s = 0; s < r->n_seq; s++)
        w->entries[s] = (sobre_entry){.seq = s,
                                      .pos = pos,
                                      .n_tokens = n,
                                      .want = SOBRE_WANT_LAST,
                                      .ids = w->ids + s * (r->n_prompt + r->n_gen) + pos};
    return wait_batch(&b->app, SOBRE(batch, .entries = w->entries, .n_entries = (size_t)r->n_seq));
}

/* From empty sequences: prompts at once, or tokens one by one. */
static sobre_status run_once(bench *b, const result *r, const workload *w, uint64_t *ret_ns)
{
    sobre_status status = SOBRE_OK;

    for (int32_t s = 0; s < r->n_seq && status == SOBRE_OK; s++)
        status = sobre_seq_truncate(b->app.session, s, 0);
    const uint64_t start = os_now_ns();
    if (status == SOBRE_OK && r->n_prompt > 0) status = evaluate(b, r, w, 0, r->n_prompt);
    for (int32_t i = 0; i < r->n_gen && status == SOBRE_OK; i++) status = evaluate(b, r, w, i, 1);
    *ret_ns = os_now_ns() - start;
    return status;
}

static void summarise(result *r)
{
    const double n = r->n_samples, tokens = n_tokens(r);
    double ns = 0, ts = 0, ns_square = 0, ts_square = 0;

    for (int32_t i = 0; i < r->n_samples; i++) {
        ns += (double)r->samples_ns[i];
        ts += tokens * 1e9 / (double)r->samples_ns[i];
    }
    r->avg_ns = ns / n;
    r->avg_ts = ts / n;
    for (int32_t i = 0; i < r->n_samples; i++) {
        const double d_ns = (double)r->samples_ns[i] - r->avg_ns;
        const double d_ts = tokens * 1e9 / (double)r->samples_ns[i] - r->avg_ts;
        ns_square += d_ns * d_ns;
        ts_square += d_ts * d_ts;
    }
    r->stddev_ns = n > 1 ? sqrt(ns_square / (n - 1)) : 0;
    r->stddev_ts = n > 1 ? sqrt(ts_square / (n - 1)) : 0;
}

static int measure(bench *b, result *r)
{
    sobre_stats before = SOBRE_INIT(stats), after = SOBRE_INIT(stats);
    workload w;
    uint64_t warm_up;

    r->samples_ns = calloc((size_t)b->args->repeats, sizeof *r->samples_ns);
    if (!r->samples_ns || !workload_open(r, b->app.info->n_vocab, &w)) return out_of_memory();
    sobre_status status = run_once(b, r, &w, &warm_up);
    for (int32_t i = 0; i < b->args->repeats && status == SOBRE_OK; i++) {
        sobre_session_stats(b->app.session, &before);
        status = run_once(b, r, &w, &r->samples_ns[i]);
        sobre_session_stats(b->app.session, &after);
        /* A clock can be too coarse for a tiny model. */
        if (r->samples_ns[i] == 0) r->samples_ns[i] = 1;
        r->n_samples = i + 1;
    }
    workload_close(&w);
    if (status < 0) return app_fail(&b->app, status);
    r->launches_per_token =
        (double)after.n_launches * (double)(after.n_evals - before.n_evals) / n_tokens(r);
    summarise(r);
    return -1;
}

/* --- Printing */

static json_t *to_json(const bench *b, const result *r)
{
    const app *a = &b->app;
    const char *device = a->device_info && a->device_info->name ? a->device_info->name : "";
    json_t *ns = json_array(), *ts = json_array();

    for (int32_t i = 0; i < r->n_samples; i++) {
        json_array_append_new(ns, json_integer((json_int_t)r->samples_ns[i]));
        json_array_append_new(ts, json_real(n_tokens(r) * 1e9 / (double)r->samples_ns[i]));
    }
    json_t *row = json_pack(
        "{s:s,s:o,s:s,s:I,s:I,s:s,s:o,s:i,s:b,s:s,s:i,s:i,s:i}", "build_version", sobre_version(),
        "model_filename", json_text(b->name, strlen(b->name)), "model_type", b->type, "model_size",
        (json_int_t)a->info->tensor_bytes, "model_n_params", (json_int_t)a->info->n_params,
        "backend", a->device_info ? a->device_info->backend : "", "device",
        json_text(device, strlen(device)), "n_threads", (int)b->n_threads, "exact",
        (int)a->args->exact, "test", r->test, "n_prompt", (int)r->n_prompt, "n_gen", (int)r->n_gen,
        "n_seq", (int)r->n_seq);
    json_t *rates =
        json_pack("{s:f,s:f,s:f,s:f,s:o,s:o,s:f}", "avg_ns", r->avg_ns, "stddev_ns", r->stddev_ns,
                  "avg_ts", r->avg_ts, "stddev_ts", r->stddev_ts, "samples_ns", ns, "samples_ts",
                  ts, "launches_per_token", r->launches_per_token);
    json_object_update(row, rates);
    json_decref(rates);
    return row;
}

static int print_json(const bench *b, const result *results, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(array, to_json(b, &results[i]));
    return out_json(array, JSON_INDENT(2));
}

/* The same fields as JSON, but for the lists. */
static int print_csv(const bench *b, const result *results, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_t *row = to_json(b, &results[i]), *value;
        const char *key;
        bool first = true;

        for (int header = i == 0; header >= 0; header--) {
            first = true;
            json_object_foreach(row, key, value)
            {
                if (json_is_array(value)) continue;
                if (!first) putchar(',');
                first = false;
                if (header)
                    printf("%s", key);
                else if (json_is_string(value)) {
                    putchar('"');
                    for (const char *c = json_string_value(value); *c; c++)
                        printf(*c == '"' ? "\"\"" : "%c", *c);
                    putchar('"');
                } else
                    json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
            }
            putchar('\n');
        }
        json_decref(row);
    }
    return out_finish();
}

enum { N_COLUMNS = 7, CELL_SIZE = 96 };

/* A table for people: aligned, or in Markdown. */
static int print_table(const bench *b, const result *results, size_t n, bool markdown)
{
    static const char *const headers[N_COLUMNS] = {"model",   "size", "parameters", "backend",
                                                   "threads", "test", "tokens/s"};
    static const bool right[N_COLUMNS] = {false, true, true, false, true, true, true};
    const sobre_device_info *device = b->app.device_info;
    const sobre_model_info *info = b->app.info;
    char(*cells)[N_COLUMNS][CELL_SIZE] = calloc(n + 1, sizeof *cells);
    int width[N_COLUMNS] = {0};

    if (!cells) return out_of_memory();
    for (size_t c = 0; c < N_COLUMNS; c++) snprintf(cells[0][c], CELL_SIZE, "%s", headers[c]);
    for (size_t i = 1; i <= n; i++) {
        const result *r = &results[i - 1];
        char text[HUMAN_SIZE];
        snprintf(cells[i][0], CELL_SIZE, "%s", b->type);
        snprintf(cells[i][1], CELL_SIZE, "%s", human_bytes(info->tensor_bytes, text));
        snprintf(cells[i][2], CELL_SIZE, "%s", human_count(info->n_params, text));
        snprintf(cells[i][3], CELL_SIZE, "%s", device ? device->backend : "");
        snprintf(cells[i][4], CELL_SIZE, "%d", (int)b->n_threads);
        snprintf(cells[i][5], CELL_SIZE, "%s", r->test);
        snprintf(cells[i][6], CELL_SIZE, "%.2f +- %.2f", r->avg_ts, r->stddev_ts);
    }
    for (size_t i = 0; i <= n; i++)
        for (size_t c = 0; c < N_COLUMNS; c++)
            if ((int)strlen(cells[i][c]) > width[c]) width[c] = (int)strlen(cells[i][c]);
    for (size_t i = 0; i <= n; i++) {
        for (size_t c = 0; c < N_COLUMNS; c++)
            printf("%s%*s",
                   markdown ? c ? " | " : "| "
                   : c      ? "  "
                            : "",
                   right[c] ? width[c] : -width[c], cells[i][c]);
        puts(markdown ? " |" : "");
        for (size_t c = 0; markdown && i == 0 && c < N_COLUMNS; c++) {
            printf("| ");
            for (int k = 0; k < width[c]; k++) putchar(right[c] && k == width[c] - 1 ? ':' : '-');
            printf(c == N_COLUMNS - 1 ? " |\n" : " ");
        }
    }
    free(cells);
    return out_finish();
}

static int print_results(const bench *b, const result *results, size_t n)
{
    switch (b->args->output) {
    case OUTPUT_JSON: return print_json(b, results, n);
    case OUTPUT_CSV: return print_csv(b, results, n);
    default: return print_table(b, results, n, b->args->output == OUTPUT_MD);
    }
}

/* --- The command */

static int write_shape(bench *b, const char *path)
{
    sobre_source source;
    out_file file;
    int code;

    if ((code = shapes_open(b->args->shape, b->args->quant, &b->made, &source)) >= 0) return code;
    uint8_t *piece = malloc(WRITE_SIZE);
    if (!piece) return out_of_memory();
    code = out_file_open(path, &file);
    for (uint64_t at = 0; code < 0 && at < source.read_size; at += WRITE_SIZE) {
        const uint64_t left = source.read_size - at;
        const size_t n = left < WRITE_SIZE ? (size_t)left : WRITE_SIZE;

        source.read(source.read_user, at, piece, n); /* in bounds, so that it cannot fail */
        code = out_file_write(&file, piece, n);
    }
    free(piece);
    return code < 0 ? out_file_finish(&file) : code;
}

static int open_model(bench *b)
{
    const bench_args *args = b->args;
    const char *given = args->shape ? args->shape : args->common.positional[0];
    sobre_source source;
    char count[HUMAN_SIZE];
    int code;

    if (args->shape) {
        if ((code = shapes_open(args->shape, args->quant, &b->made, &source)) >= 0) return code;
        code = app_open_source(&b->app, &source, given);
    } else {
        code = app_open_model(&b->app, given);
    }
    if (code >= 0) return code;
    b->name = malloc(strlen(b->app.path) + sizeof "shape:");
    if (!b->name) return out_of_memory();
    strcat(strcpy(b->name, args->shape ? "shape:" : ""), b->app.path);
    snprintf(b->type, sizeof b->type, "%s %s %s", b->app.info->architecture,
             human_count(b->app.info->n_params, count), b->app.info->quantization);
    return -1;
}

static int open_session(bench *b, int32_t n_ctx, int32_t n_seq)
{
    sobre_fit_options fit = app_fit_options(&b->app);
    const sobre_session_options session = app_session_options(&b->app);
    int code;

    fit.n_ctx = n_ctx;
    fit.n_seq = n_seq;
    fit.n_chunk = b->args->n_chunk;
    if ((code = app_load(&b->app, &fit)) >= 0) return code;
    return app_open_session(&b->app, &session);
}

static int run_all(bench *b, result *results, size_t n)
{
    int32_t n_ctx = 1, n_seq = 1;
    int code;

    for (size_t i = 0; i < n; i++) {
        const int32_t length = results[i].n_prompt + results[i].n_gen;
        if (length > n_ctx) n_ctx = length;
        if (results[i].n_seq > n_seq) n_seq = results[i].n_seq;
    }
    if ((code = app_open(&b->app, &b->args->common)) >= 0 || (code = open_model(b)) >= 0 ||
        (code = open_session(b, n_ctx, n_seq)) >= 0)
        return code;
    for (size_t i = 0; i < n; i++)
        if ((code = measure(b, &results[i])) >= 0) return code;
    return print_results(b, results, n);
}

/* Numbers of an option. */
typedef struct numbers {
    int32_t *items;
    size_t n;
} numbers;

static void add_result(result *results, size_t *n, int32_t n_prompt, int32_t n_gen, int32_t n_seq)
{
    result *r = &results[*n];

    if (n_prompt + n_gen == 0) return;
    *r = (result){.n_prompt = n_prompt, .n_gen = n_gen, .n_seq = n_seq};
    const int end = snprintf(r->test, sizeof r->test, "%s%d", n_gen ? "tg" : "pp",
                             (int)(n_gen ? n_gen : n_prompt));
    if (n_seq > 1) snprintf(r->test + end, sizeof r->test - (size_t)end, "x%d", (int)n_seq);
    ++*n;
}

/* A row for every length that is not 0: prompts, then generation by each number of sequences. */
static size_t plan_results(const numbers *n_prompt, const numbers *n_gen, const numbers *n_seq,
                           result *results)
{
    size_t n = 0;

    for (size_t i = 0; i < n_prompt->n; i++) add_result(results, &n, n_prompt->items[i], 0, 1);
    for (size_t i = 0; i < n_gen->n; i++)
        for (size_t k = 0; k < n_seq->n; k++)
            add_result(results, &n, 0, n_gen->items[i], n_seq->items[k]);
    return n;
}

static int run_lists(bench *b)
{
    numbers n_prompt = {0}, n_gen = {0}, n_seq = {0};
    const struct {
        const char *option, *text;
        int32_t min, max;
        numbers *to;
    } lists[] = {
        {"--n-prompt", b->args->n_prompt, 0, MAX_TOKENS, &n_prompt},
        {"--n-gen", b->args->n_gen, 0, MAX_TOKENS, &n_gen},
        {"--n-seq", b->args->n_seq, 1, MAX_SEQ, &n_seq},
    };
    enum { N_LISTS = sizeof lists / sizeof *lists };
    result *results = NULL;
    size_t n = 0;
    int code = -1;

    for (int i = 0; i < N_LISTS && code < 0; i++)
        code = parse_ints(lists[i].option, lists[i].text, lists[i].min, lists[i].max,
                          &lists[i].to->items, &lists[i].to->n);
    if (code < 0) {
        results = calloc(n_prompt.n + n_gen.n * n_seq.n, sizeof *results);
        n = results ? plan_results(&n_prompt, &n_gen, &n_seq, results) : 0;
        if (!results) {
            code = out_of_memory();
        } else if (n == 0) {
            complain("-p and -n are both 0: there is nothing to measure");
            code = CODE_USAGE;
        } else {
            code = run_all(b, results, n);
        }
    }
    for (size_t i = 0; i < n; i++) free(results[i].samples_ns);
    free(results);
    for (int i = 0; i < N_LISTS; i++) free(lists[i].to->items);
    return code;
}

static int run(const command *self, int argc, char **argv)
{
    bench_args args = {
        .n_prompt = "512", .n_gen = "128", .n_seq = "1", .repeats = 5, .output = OUTPUT_UNSET};
    bench b = {.args = &args};
    static int cpus[MAX_THREADS];
    int n_cores = 1, code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    if (args.common.json && args.output != OUTPUT_UNSET && args.output != OUTPUT_JSON) {
        complain("--json is -o json: leave out one of --json and -o");
        return CODE_USAGE;
    }
    if (args.common.json) args.output = OUTPUT_JSON;
    if ((code = shapes_check(args.shape, args.quant, args.common.n_positional > 0)) >= 0)
        return code;
    if (args.shape && strcmp(args.shape, "list") == 0) {
        shapes_print(stdout);
        return out_finish();
    }
    if (args.write && !args.shape) {
        complain("--write is for --shape; a file is there already");
        return CODE_USAGE;
    }
    /* The library's own choice, made here so that the results can say it. */
    if (args.common.n_threads == 0 && os_cpus(cpus, MAX_THREADS, &n_cores) > 0)
        args.common.n_threads = n_cores;
    b.n_threads = args.common.n_threads;
    code = args.write ? write_shape(&b, args.write) : run_lists(&b);
    app_close(&b.app);
    shape_model_close(b.made);
    free(b.name);
    return code;
}

const command cmd_bench = {
    .name = "bench",
    .summary = "Measure prompt and generation speed.",
    .synopsis = "MODEL [options]\n--shape NAME [--quant TYPE] [options]",
    .details =
        "Rows are named pp512 (a prompt of 512 tokens at once) and tg128 (128 tokens one after the "
        "other), each warmed up once, then measured --repeats times from an empty sequence, with "
        "random tokens; in tg128x8 eight sequences generate 128 tokens each, and all of these "
        "count. The figures are the mean and the standard deviation. --shape makes a model in "
        "memory, so nothing needs to be fetched.",
    .examples = "  sobre bench smollm2\n"
                "  sobre bench smollm2 -p 128,512 -n 0 -t 4 -r 10 -o md\n"
                "  sobre bench smollm2 -p 0 -n 128 --n-seq 1,2,4,8,16,32\n"
                "  sobre bench --shape tinyllama-1.1b --quant Q8_0 -o json\n"
                "  sobre bench --shape tinyllama-1.1b --quant Q8_0 --write tinyllama.gguf\n",
    .takes = TAKES_DEVICE | TAKES_EXACT | TAKES_JSON | TAKES_QUIET | TAKES_LIMIT | TAKES_BLAS,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .positional = positional,
    .n_positional = 1,
    .n_required = 0,
    .run = run,
};
