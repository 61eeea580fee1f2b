/* SPDX-License-Identifier: MIT */
/* A plugin for the tests of the program: the null backend in the guise of a GPU's, which is called
 * CARD_BACKEND. What its driver does is in the environment, CARD_VARIABLE:
 *   hang, crash, exit   when it is loaded
 *   broken              it lists a card that cannot be used
 *   lost:N              the N-th call after the card is opened says that it is gone
 *   slow:N              its first run takes N seconds, as if kernels were compiled */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "null/null.h"

static null_control control; /* the tests have one context a process */
static sobre_backend card;

static sobre_status card_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    TRY(null_backend(host)->device_info(host, index, ret_info));
    ret_info->kind = SOBRE_DEVICE_GPU;
    ret_info->name = "Test card";
    return SOBRE_OK;
}

static sobre_status card_open(const sobre_host *host, int32_t index, sobre_device **ret_device)
{
    const char *does = getenv(CARD_VARIABLE);

    TRY(null_backend(host)->device_open(host, index, ret_device));
    if (does && strncmp(does, "lost:", 5) == 0) {
        control.fail_status = SOBRE_DEVICE_LOST;
        control.fail_at = control.n_calls + atoi(does + 5);
    }
    return SOBRE_OK;
}

static sobre_status card_run_slowly(sobre_exec *exec, const sobre_run *run)
{
    if (control.n_runs == 0) sleep((unsigned)atoi(getenv(CARD_VARIABLE) + strlen("slow:")));
    return null_backend(NULL)->run(exec, run);
}

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);

const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    const char *does = getenv(CARD_VARIABLE);

    if (!does) does = "";
    while (strcmp(does, "hang") == 0) pause();
    if (strcmp(does, "crash") == 0) abort();
    if (strcmp(does, "exit") == 0) _exit(7);
    if (strcmp(does, "broken") == 0) control.reason = "its fan is missing";
    context_null_control_set(host->context, &control);
    card = *null_backend(host);
    card.name = CARD_BACKEND;
    card.device_info = card_info;
    card.device_open = card_open;
    if (strncmp(does, "slow:", 5) == 0) card.run = card_run_slowly;
    return &card;
}
