/* SPDX-License-Identifier: MIT */
/* What most subcommands begin with: a context, a device, a model, a session; and the end of it. */
#ifndef SOBRE_CLI_APP_H
#define SOBRE_CLI_APP_H

#include <sobre/sobre.h>

#include "args.h"

typedef struct app {
    const common_args *args;
    sobre_context *context;
    sobre_model *model;
    sobre_session *session;
    const sobre_model_info *info;
    const sobre_device_info *device_info; /* NULL: not known yet */
    int32_t device;                       /* 0: not settled yet */
    sobre_fit_options fit;                /* as it was loaded */
    bool loaded, has_worked;              /* the device, since it was loaded */
    char *path;                           /* of the model */
    bool shifts;                          /* the session drops old text when it is full */
    double load_seconds;
} app;

/* Each returns an exit code after a message, or -1 to go on. */
int app_open(app *a, const common_args *args);
/* A path or a name in the cache. */
int app_open_model(app *a, const char *name);
int app_open_source(app *a, const sobre_source *source, const char *name);
/* Says what loading will take and settles the device. */
int app_fit(app *a, const sobre_fit_options *fit, sobre_placement *ret_placement);
/* After a failure: whether to try again, since the model has moved from its device to the CPU. Says
 * so. Sessions go on by themselves. Otherwise *status is to be reported. */
bool app_fall_back(app *a, sobre_status *status);
int app_load(app *a, const sobre_fit_options *fit);
int app_open_session(app *a, const sobre_session_options *options);
void app_close(app *a);

/* From the options that all share. For --device auto this looks for a GPU. */
sobre_fit_options app_fit_options(app *a);
sobre_session_options app_session_options(const app *a);

/* Prints the context's error; the exit code that fits the status. */
int app_fail(const app *a, sobre_status status);
int app_exit_code(sobre_status status);
bool app_is_backend(const char *name);

/* Text to malloc'ed ids. */
int app_tokenize(app *a, const char *text, size_t size, uint32_t flags, int32_t **ret_ids,
                 size_t *ret_n);

/* --- wait.c: sobre_session_next(session, -1, ...) and sobre_session_eval(), which say so if a
 * device takes long to begin. */
sobre_status wait_event(app *a, const sobre_event **ret_event);
sobre_status wait_batch(app *a, const sobre_batch *batch);

/* --- interrupt.c: Ctrl-C cancels what a session does; a second one ends the program. */
void interrupt_install(void);
void interrupt_watch(sobre_session *session); /* NULL before the session is closed */
bool interrupt_pending(void);
void interrupt_forget(void);

/* --- models.c: the cache. */
/* The folder for a kind of thing ("models"; NULL: the cache itself), malloc'ed; NULL: none. */
char *cache_folder(const char *kind);
/* A malloc'ed path; an exit code after a message that lists what there is, or -1. */
int model_resolve(const char *name, char **ret_path);
typedef struct model_list {
    struct model_file {
        char *name;
        uint64_t size;
    } * items; /* by name */
    size_t n;
} model_list;
/* Models in the cache whose names begin so ("" for all); of a split one, the first part. */
bool model_list_get(const char *prefix, model_list *ret_list);
void model_list_free(model_list *list);

#endif
