/* SPDX-License-Identifier: MIT */
/* hello MODEL.gguf [TEXT]: streams a model's answer; Ctrl-C ends it. */
#include <signal.h>
#include <stdio.h>
#include <sobre/sobre.h>

static sobre_session *session;

static void on_interrupt(int sig)
{
    (void)sig;
    sobre_session_cancel(session);
}

int main(int argc, char **argv)
{
    sobre_context *ctx = NULL;
    sobre_model *model = NULL;
    const sobre_event *event;
    const sobre_message message = {"user", argc > 2 ? argv[2] : "Hello!"};
    sobre_status st = argc > 1 ? sobre_context_open(NULL, &ctx) : SOBRE_INVALID_ARGUMENT;

    if (st < 0 || (st = sobre_model_open(ctx, SOBRE(source, .path = argv[1]), &model)) < 0 ||
        (st = sobre_model_load(model, NULL, NULL)) < 0 ||
        (st = sobre_session_open(model, NULL, &session)) < 0 ||
        (st = sobre_session_chat(session, 0, &message, 1)) < 0)
        goto out;
    signal(SIGINT, on_interrupt);
    while ((st = sobre_session_next(session, -1, &event)) == SOBRE_OK) {
        fwrite(event->text, 1, event->text_size, stdout); /* whole characters */
        fflush(stdout);
    }
    signal(SIGINT, SIG_DFL);
out:
    if (st < 0)
        fprintf(stderr, "\n%s\n", argc > 1 ? sobre_error(ctx) : "usage: hello MODEL.gguf [TEXT]");
    sobre_session_close(session), sobre_model_close(model), sobre_context_close(ctx);
    return st < 0;
}
