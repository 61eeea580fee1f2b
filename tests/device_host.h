/* SPDX-License-Identifier: MIT */
/* A program that runs a model in memory on one device after another, for tests of drivers that
 * fail. */
#ifndef DEVICE_HOST_H
#define DEVICE_HOST_H

#include "support.h"

typedef struct host {
    test_memory memory;
    sobre_context *ctx;
    sobre_model *model;
} host;

/* Opens a context with these options, but for the allocator, and the model; no device is asked for
 * before host_load(). */
void host_open_with(host *h, const sobre_context_options *options, const void *model, size_t size);
sobre_status host_load(host *h, const char *backend);
/* A session with a prompt of 10 tokens. */
sobre_status host_start(host *h, const sobre_session_options *options, sobre_session **ret_session);
/* Tokens up to n_wanted; *n_tokens says how many there are already. tokens: NULL: not kept. */
sobre_status host_go_on(sobre_session *session, int32_t n_wanted, int32_t *tokens,
                        int32_t *n_tokens);

#endif
