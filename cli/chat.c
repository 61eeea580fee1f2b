/* SPDX-License-Identifier: MIT */
/* A conversation on the terminal. The terminal itself edits the line; prompts and remarks go to
 * standard error, so that standard output holds the answers only. */
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "os.h"
#include "sys.h"

static const char help[] = "  /reset   forget the conversation\n"
                           "  /help    this text\n"
                           "  /quit    leave; so does Ctrl-D\n"
                           "A line that ends with \\ goes on in the next; \"\"\" begins and ends a "
                           "text of several lines.\n"
                           "Ctrl-C stops an answer.\n";

static void print_prompt(const char *text)
{
    fprintf(stderr, "%s%s%s", out_style_on(stderr, STYLE_BOLD), text, out_style_off(stderr));
    fflush(stderr);
}

/* Reads one message into `text`. */
static sys_line read_message(text_buffer *text)
{
    static const char quotes[] = "\"\"\"";
    bool quoted = false, more = true;

    text->size = 0;
    text_add(text, "", 0);
    print_prompt(">>> ");
    for (bool first = true; more; first = false) {
        char *line, *rest;

        if (!first) print_prompt("... ");
        const sys_line result = sys_read_line(interrupt_pending, &line);
        if (result != SYS_LINE) return result;
        rest = line;
        if (first && strncmp(rest, quotes, 3) == 0) {
            quoted = true;
            rest += 3;
        }
        size_t size = strlen(rest);
        if (quoted) {
            char *end = strstr(rest, quotes);
            more = !end;
            if (end) size = (size_t)(end - rest);
        } else {
            more = size > 0 && rest[size - 1] == '\\';
            size -= more;
        }
        text_add(text, rest, size);
        /* A text that begins on the line after the quotes begins there. */
        if (more && !(first && quoted && size == 0)) text_add(text, "\n", 1);
        free(line);
    }
    return SYS_LINE;
}

/* The conversation's next turn; `system` goes before the first one. */
static int say(app *a, const char *system, bool raw, const text_buffer *text, answer *total)
{
    const bool begins = sobre_seq_length(a->session, 0) == 0;
    const sobre_message messages[] = {{"system", system}, {"user", text->data}};
    const int skip = !(begins && system);
    const uint64_t start_ns = os_now_ns();
    answer r;

    interrupt_forget();
    const sobre_status status =
        raw ? sobre_session_prompt(a->session, 0, text->data, text->size,
                                   begins ? 0 : SOBRE_TOKENIZE_NO_BOS)
            : sobre_session_chat(a->session, 0, messages + skip, (size_t)(2 - skip));
    if (status < 0) return answer_fail(a, status);
    const int code = answer_run(a, start_ns, false, false, &r);
    if (total->n_tokens == 0) total->first_seconds = r.first_seconds;
    total->n_prompt += r.n_prompt;
    total->n_tokens += r.n_tokens;
    total->n_decode += r.n_decode;
    total->prompt_seconds += r.prompt_seconds;
    total->decode_seconds += r.decode_seconds;
    answer_free(&r);
    return code;
}

/* What begins with a slash; false: leave. */
static bool obey(app *a, const char *word)
{
    if (strcmp(word, "/quit") == 0 || strcmp(word, "/exit") == 0) return false;
    if (strcmp(word, "/reset") == 0) {
        const sobre_status status = sobre_seq_truncate(a->session, 0, 0);
        if (status < 0)
            app_fail(a, status);
        else
            fprintf(stderr, "The conversation begins anew.\n");
    } else {
        if (strcmp(word, "/help") != 0 && strcmp(word, "/?") != 0)
            fprintf(stderr, "There is no %s.\n", word);
        fputs(help, stderr);
    }
    return true;
}

int chat_run(app *a, const char *system, bool raw)
{
    text_buffer text = {0};
    answer total = {0};
    int code = CODE_OK, n_interrupts = 0;

    if (!a->args->quiet)
        fprintf(stderr, "%s, %s. /help tells what can be typed; Ctrl-D leaves.\n",
                a->info->name[0] ? a->info->name : a->path, a->info->quantization);
    while (code != CODE_PIPE) {
        const sys_line line = read_message(&text);
        if (line == SYS_LINE_INTERRUPTED) {
            interrupt_forget();
            fprintf(stderr, "\n");
            if (++n_interrupts == 2) {
                code = CODE_INTERRUPTED;
                break;
            }
            fprintf(stderr, "Ctrl-D or a second Ctrl-C leaves.\n");
            continue;
        }
        n_interrupts = 0;
        if (line == SYS_LINE_END) {
            fprintf(stderr, "\n");
            code = CODE_OK;
            break;
        }
        if (text.failed) {
            code = out_of_memory();
            break;
        }
        if (strspn(text.data, " \t\n") == text.size) continue;
        if (text.data[0] == '/' && !strchr(text.data, '\n')) {
            if (!obey(a, text.data)) {
                code = CODE_OK;
                break;
            }
            continue;
        }
        /* A failed turn is not the end: the context may be full, and /reset empties it. */
        code = say(a, system, raw, &text, &total);
        if (code == CODE_FULL && sobre_seq_length(a->session, 0) > 0)
            fprintf(stderr, "/reset begins a new conversation.\n");
        if (code == CODE_DEVICE) break;
        interrupt_forget();
    }
    if (!a->args->quiet) answer_print_statistics(&total);
    text_free(&text);
    return code;
}
