/* SPDX-License-Identifier: MIT */
#include "device_host.h"

void host_open_with(host *h, const sobre_context_options *options, const void *model, size_t size)
{
    sobre_context_options o = *options;
    sobre_allocator allocator;

    *h = (host){.memory = {0}};
    allocator = test_allocator(&h->memory);
    o.allocator = &allocator;
    assert_int_equal(sobre_context_open(&o, &h->ctx), SOBRE_OK);
    assert_ok(h->ctx,
              sobre_model_open(h->ctx, SOBRE(source, .data = model, .data_size = size), &h->model));
}

sobre_status host_load(host *h, const char *backend)
{
    int32_t device = 0;

    sobre_status status = sobre_device_get(h->ctx, backend, 0, &device, NULL);
    if (status < 0) return status;
    return sobre_model_load(
        h->model, SOBRE(fit_options, .device = device, .n_ctx = 128, .n_seq = 2, .n_chunk = 32),
        NULL);
}

sobre_status host_start(host *h, const sobre_session_options *options, sobre_session **ret_session)
{
    static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};

    sobre_status status = sobre_session_open(h->model, options, ret_session);
    return status < 0 ? status : sobre_session_prompt_ids(*ret_session, 0, prompt, 10);
}

sobre_status host_go_on(sobre_session *session, int32_t n_wanted, int32_t *tokens,
                        int32_t *n_tokens)
{
    while (*n_tokens < n_wanted) {
        const sobre_event *event;
        sobre_status status = sobre_session_next(session, -1, &event);

        if (status != SOBRE_OK) return status;
        if (tokens) tokens[*n_tokens] = event->token;
        ++*n_tokens;
    }
    return SOBRE_OK;
}
