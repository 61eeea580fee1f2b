/* SPDX-License-Identifier: MIT */
/* sobre run: text from a model; one answer, or a conversation on the terminal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "cmds.h"
#include "os.h"
#include "sys.h"

typedef struct run_args {
    common_args common;
    const char *prompt, *ids, *system;
    bool from_stdin, raw, ignore_eos;
    int32_t n_tokens, top_k, penalty_last_n, logprobs, full;
    int32_t n_keep; /* -1: not given */
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    u64_arg seed;
    texts_arg stop, bias;
} run_args;

#define AT(member) offsetof(run_args, member)

static const option options[] = {
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "what to say to the model", 0, 0},
    {"stdin", 0, OPTION_FLAG, AT(from_stdin), NULL,
     "standard input belongs to the prompt, however long it takes to come", 0, 0},
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "token ids as the prompt, taken as they are", 0, 0},
    {"system", 0, OPTION_TEXT, AT(system), "TEXT", "a system message before the prompt", 0, 0},
    {"raw", 0, OPTION_FLAG, AT(raw), NULL, "the prompt as it is, without the chat template", 0, 0},
    {"n-tokens", 'n', OPTION_INT, AT(n_tokens), "N",
     "tokens at most; 0, the default: until the model stops or the context is full", 0, 1 << 24},
    {"temp", 0, OPTION_REAL, AT(temperature), "F",
     "temperature; 0, the default, is greedy: always the most likely token", 0, 100},
    {"top-k", 0, OPTION_INT, AT(top_k), "N",
     "draw from the N most likely tokens; 0, the default: from all", 0, 1 << 24},
    {"top-p", 0, OPTION_REAL, AT(top_p), "F",
     "draw from the most likely tokens that sum up to F; 1, the default: from all", 0, 1},
    {"min-p", 0, OPTION_REAL, AT(min_p), "F",
     "draw from tokens at least F times as likely as the most likely; 0, the default: from all", 0,
     1},
    {"repeat-penalty", 0, OPTION_REAL, AT(repeat_penalty), "F",
     "make tokens that occurred less likely; 1, the default: off", 0, 100},
    {"presence-penalty", 0, OPTION_REAL, AT(presence_penalty), "F",
     "subtracted from the logit of a token that occurred; 0, the default: off", -100, 100},
    {"frequency-penalty", 0, OPTION_REAL, AT(frequency_penalty), "F",
     "subtracted for each time it occurred; 0, the default: off", -100, 100},
    {"penalty-last-n", 0, OPTION_INT, AT(penalty_last_n), "N",
     "tokens that the penalties look back; -1: all; 0, the default: 64", -1, 1 << 24},
    {"seed", 0, OPTION_U64, AT(seed), "N", "repeats a draw; without it, each run draws anew", 0, 0},
    {"stop", 0, OPTION_TEXTS, AT(stop), "TEXT", "ends the answer before this text; repeatable", 0,
     0},
    {"logit-bias", 0, OPTION_TEXTS, AT(bias), "ID=F",
     "added to a token's logit; -inf forbids it; repeatable", 0, 0},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "go on where the model would stop", 0, 0},
    {"full", 0, OPTION_CHOICE, AT(full), "error|shift",
     "when the context is full, stop, which is the default, or drop the older half", 0, 0},
    {"keep", 0, OPTION_INT, AT(n_keep), "N",
     "tokens at the beginning that --full shift keeps; 0 if not given", 0, 1 << 24},
    {"logprobs", 0, OPTION_INT, AT(logprobs), "N",
     "with --json: each token's log-probability, and the N most likely ones", 0, 64},
};
static const char *const positional[] = {"MODEL"};

static int parse_bias(const texts_arg *texts, sobre_logit_bias *bias)
{
    for (size_t i = 0; i < texts->n; i++) {
        const char *text = texts->items[i], *equals = strchr(text, '=');
        char id[16] = "";
        int64_t whole;
        double value = 0;

        if (equals && (size_t)(equals - text) < sizeof id)
            memcpy(id, text, (size_t)(equals - text));
        const bool forbids = equals && strcmp(equals + 1, "-inf") == 0;
        if (!parse_int(id, 0, INT32_MAX, &whole) || (!forbids && !parse_real(equals + 1, &value))) {
            complain("--logit-bias wants a token id and a number, such as 42=-1.5, not \"%s\"",
                     text);
            return CODE_USAGE;
        }
        bias[i] = (sobre_logit_bias){(int32_t)whole, forbids ? -INFINITY : (float)value};
    }
    return -1;
}

/* Without --seed a draw differs from run to run; --json tells the seed. */
static uint64_t choose_seed(const run_args *args)
{
    if (args->seed.given || args->temperature == 0) return args->seed.value;
    return (os_now_ns() ^ os_process_id() << 40) & 0xffffffffffff;
}

static int set_sampling(app *a, const run_args *args, uint64_t seed)
{
    sobre_logit_bias bias[MAX_TEXTS];
    const int code = parse_bias(&args->bias, bias);
    if (code >= 0) return code;

    const sobre_status status = sobre_session_sampling(
        a->session, 0,
        SOBRE(sampling, .temperature = args->temperature, .top_k = args->top_k,
              .top_p = args->top_p, .min_p = args->min_p,
              .repetition_penalty = args->repeat_penalty,
              .presence_penalty = args->presence_penalty,
              .frequency_penalty = args->frequency_penalty, .penalty_last_n = args->penalty_last_n,
              .seed = seed, .bias = bias, .n_bias = args->bias.n, .stop = args->stop.items,
              .n_stop = args->stop.n, .max_tokens = args->n_tokens, .n_top = args->logprobs,
              .ignore_eos = args->ignore_eos));
    return status < 0 ? app_fail(a, status) : -1;
}

/* -p, then what comes from standard input: a file, all of it; a pipe without --stdin only if it
 * begins soon, because a program started by another may have inherited one that stays silent. */
static int read_prompt(const run_args *args, text_buffer *text)
{
    enum { PATIENCE_MS = 1000 };
    const sys_input kind = sys_stdin_kind();
    bool reads = args->from_stdin || !args->prompt;

    if (args->prompt) text_add(text, args->prompt, strlen(args->prompt));
    if (!reads && kind == SYS_INPUT_FILE) reads = true;
    if (!reads && kind == SYS_INPUT_STREAM) {
        reads = sys_stdin_ready(PATIENCE_MS);
        if (!reads && !args->common.quiet)
            warn("nothing comes from standard input, so the prompt is -p alone; --stdin waits, "
                 "</dev/null spares this second");
    }
    if (reads) {
        text_buffer input = {0};
        const int code = read_stdin(&input);
        if (code >= 0) {
            text_free(&input);
            return code;
        }
        /* The end of a last line is not meant for the model, unless --raw says so. */
        if (!args->raw && input.size > 0 && input.data[input.size - 1] == '\n') input.size--;
        if (!args->raw && input.size > 0 && input.data[input.size - 1] == '\r') input.size--;
        if (text->size > 0 && input.size > 0 && !args->raw) text_add(text, "\n\n", 2);
        text_add(text, input.data, input.size);
        text_free(&input);
    }
    text_add(text, "", 0);
    if (text->failed) return out_of_memory();
    if (text->size == 0) {
        complain("there is no prompt: give one with -p, or on standard input");
        return CODE_USAGE;
    }
    return -1;
}

static int start(app *a, const run_args *args, const text_buffer *text, const int32_t *ids,
                 size_t n_ids)
{
    const sobre_message messages[] = {{"system", args->system}, {"user", text->data}};
    const int skip = !args->system;
    const sobre_status status =
        ids         ? sobre_session_prompt_ids(a->session, 0, ids, n_ids)
        : args->raw ? sobre_session_prompt(a->session, 0, text->data, text->size, 0)
                    : sobre_session_chat(a->session, 0, messages + skip, (size_t)(2 - skip));
    return status < 0 ? answer_fail(a, status) : -1;
}

static int print_json(const app *a, answer *r, uint64_t seed)
{
    const double prompt_rate = r->prompt_seconds > 0 ? (double)r->n_prompt / r->prompt_seconds : 0;
    const double rate = r->decode_seconds > 0 ? (double)r->n_decode / r->decode_seconds : 0;
    json_t *path = json_text(a->path, strlen(a->path));
    json_t *text = json_text(r->text.data, r->text.size);
    json_t *object = json_pack(
        "{s:o,s:s,s:o,s:O,s:s,s:I,s:I,s:I,s:{s:f,s:f,s:f,s:f,s:f,s:f}}", "model", path, "backend",
        a->device_info ? a->device_info->backend : "", "text", text, "ids", r->ids, "finish",
        answer_finish_name(r), "n_prompt", (json_int_t)r->n_prompt, "n_tokens",
        (json_int_t)r->n_tokens, "seed", (json_int_t)seed, "timings", "load_s", a->load_seconds,
        "first_token_s", r->first_seconds, "prompt_s", r->prompt_seconds, "decode_s",
        r->decode_seconds, "prompt_tokens_per_s", prompt_rate, "tokens_per_s", rate);
    if (object && r->logprobs) json_object_set(object, "logprobs", r->logprobs);
    return out_json(object, JSON_COMPACT);
}

static int one_answer(app *a, const run_args *args, uint64_t seed, const text_buffer *text,
                      const int32_t *ids, size_t n_ids)
{
    const uint64_t start_ns = os_now_ns();
    answer r;
    int code = start(a, args, text, ids, n_ids);

    if (code >= 0) return code;
    code = answer_run(a, start_ns, args->common.json, args->logprobs > 0, &r);
    if (args->common.json && (r.status >= 0 || r.status == SOBRE_CANCELLED)) {
        const int printed = print_json(a, &r, seed);
        if (code == CODE_OK) code = printed;
    }
    if (!args->common.quiet && !args->common.json && code != CODE_PIPE) answer_print_statistics(&r);
    answer_free(&r);
    return code;
}

static int open_and_run(app *a, run_args *args, bool chats, text_buffer *text, const int32_t *ids,
                        size_t n_ids)
{
    const uint64_t seed = choose_seed(args);
    int code;

    if ((code = app_open(a, &args->common)) >= 0 ||
        (code = app_open_model(a, args->common.positional[0])) >= 0)
        return code;
    if (!ids && !args->raw && !a->info->chat_format) {
        if (!args->common.quiet)
            warn("no chat format is recognised in this model, so it gets the text as it is; --raw "
                 "asks for that");
        args->raw = true;
    }
    if (args->raw && args->system) {
        complain("--system needs the chat template: leave out --raw, or put the text into the "
                 "prompt");
        return CODE_USAGE;
    }
    const sobre_fit_options fit = app_fit_options(a);
    sobre_session_options session = app_session_options(a);
    session.full = (sobre_full_policy)args->full;
    session.n_keep = args->n_keep < 0 ? 0 : args->n_keep;
    if ((code = app_load(a, &fit)) >= 0 || (code = app_open_session(a, &session)) >= 0 ||
        (code = set_sampling(a, args, seed)) >= 0)
        return code;
    if (chats) return chat_run(a, args->system, args->raw);
    if (!ids && (code = read_prompt(args, text)) >= 0) return code;
    return one_answer(a, args, seed, text, ids, n_ids);
}

static int run(const command *self, int argc, char **argv)
{
    run_args args = {.n_keep = -1};
    app a = {0};
    text_buffer text = {0};
    int32_t *ids = NULL;
    size_t n_ids = 0;
    int code = args_parse(self, argc, argv, &args);

    if (code >= 0) return code;
    const bool chats =
        !args.prompt && !args.ids && !args.from_stdin && sys_stdin_kind() == SYS_INPUT_TERMINAL;
    if (args.ids && (args.prompt || args.from_stdin || args.system)) {
        complain("--ids is the whole prompt: it goes with no -p, --stdin or --system");
        return CODE_USAGE;
    }
    if (chats && args.common.json) {
        complain("--json goes with -p or a prompt on standard input, not with a conversation");
        return CODE_USAGE;
    }
    if (args.logprobs > 0 && !args.common.json) {
        complain("--logprobs needs --json");
        return CODE_USAGE;
    }
    if (args.n_keep >= 0 && args.full != SOBRE_FULL_SHIFT) {
        complain("--keep needs --full shift");
        return CODE_USAGE;
    }
    if (args.ids && (code = parse_ints("--ids", args.ids, 0, INT32_MAX, &ids, &n_ids)) >= 0)
        return code;
    code = open_and_run(&a, &args, chats, &text, ids, n_ids);
    app_close(&a);
    text_free(&text);
    free(ids);
    return code;
}

const command cmd_run = {
    .name = "run",
    .summary = "Write text with a model.",
    .synopsis = "MODEL -p TEXT [options]\n"
                "MODEL [options] < FILE\n"
                "MODEL [options]",
    .details =
        "With -p the model answers once. Without it the prompt is all of standard input, or, on a "
        "terminal, a conversation begins. With both, standard input comes after the prompt. MODEL "
        "is a GGUF file, or the beginning of a name in the cache folder, "
        "~/.cache/sobre/models.\nThe answer streams to standard output, speed follows on standard "
        "error. --json prints one object at the end instead.",
    .examples = "  sobre run smollm2 -p \"What is the capital of France?\"\n"
                "  sobre run smollm2 -p \"Summarise this:\" < letter.txt\n"
                "  sobre run smollm2 --temp 0.7 --top-p 0.9 --seed 1 -n 64 -p \"Tell a story.\"\n"
                "  sobre run smollm2 --raw -p \"Once upon a time\" --stop \".\" --json\n"
                "  sobre run smollm2\n",
    .takes = TAKES_DEVICE | TAKES_CONTEXT | TAKES_EXACT | TAKES_JSON | TAKES_QUIET | TAKES_LIMIT,
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .positional = positional,
    .n_positional = 1,
    .n_required = 1,
    .run = run,
};
