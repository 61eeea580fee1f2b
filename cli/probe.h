/* SPDX-License-Identifier: MIT */
/* What devices there are. Asking drivers can hang or crash, so a child process does it first, one
 * for each backend and under a time limit; what it found is kept in the cache folder until
 * something changes that drivers depend on. */
#ifndef SOBRE_CLI_PROBE_H
#define SOBRE_CLI_PROBE_H

#include "app.h"
#include "out.h"

enum { PROBE_SECONDS = 20 };

/* Each returns an exit code after a message, or -1. Devices are an array, as `sobre devices --json`
 * prints it; `only` is a backend, NULL: all. */

/* As this process sees them: every driver is loaded. */
int probe_here(app *a, const char *only, bool measures, json_t **ret_devices);
/* What children see, asked anew. */
int probe_run(app *a, const char *only, int seconds, bool measures, json_t **ret_devices);
/* What was kept, else what children see, without the CPU; GPUs are measured on the way. A backend
 * whose drivers do harm has no devices in the app's context from now on. Where there is no plugin
 * or no driver there is nothing to ask. `keeps` false leaves the cache folder as it is. */
int probe_get(app *a, const char *only, bool keeps, json_t **ret_devices);
bool probe_has_gpu(const json_t *devices);
/* Why a backend that works has no devices. */
extern const char probe_no_driver[];
/* Why the library has no devices of a backend, without the backend's name. */
const char *probe_reason(const app *a, const char *backend);

/* What to do about a backend's drivers; all but `broken` are sentences. */
typedef struct probe_advice {
    const char *backend;
    const char *broken;  /* they hang or crash */
    const char *absent;  /* there are none */
    const char *useless; /* there are some, and no device */
    const char *unbuilt; /* there are some, and no plugin */
} probe_advice;
const probe_advice *probe_advice_on(const char *backend);

#endif
