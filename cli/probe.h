/* SPDX-License-Identifier: MIT */
/* What devices there are. Asking drivers can hang or crash, so a child process does it first, under
 * a time limit; what it found is kept in the cache folder until something changes that drivers
 * depend on. */
#ifndef SOBRE_CLI_PROBE_H
#define SOBRE_CLI_PROBE_H

#include "app.h"
#include "out.h"

enum { PROBE_SECONDS = 20 };

typedef struct probe {
    json_t *devices; /* as `sobre devices --json` prints them */
    char *fault;     /* why drivers must not be loaded; NULL: they may */
    bool measured;   /* or tried in vain */
} probe;

/* Each returns an exit code after a message, or -1. */

/* The devices, as this process sees them: every driver is loaded. */
int probe_here(app *a, bool measures, json_t **ret_devices);
/* What a child sees, asked anew. */
int probe_run(app *a, int seconds, bool measures, probe *ret_probe);
/* What was kept, else probe_run(); GPUs are measured on the way. Where there is no plugin or no
 * driver no child is needed: `devices` is NULL then. `keeps` false leaves the cache folder as it
 * is. */
int probe_get(app *a, bool keeps, probe *ret_probe);
/* Why a backend that works has no devices. */
extern const char probe_no_driver[];
/* Why the library has no devices of a backend, without the backend's name. */
const char *probe_reason(const app *a, const char *backend);
bool probe_has_gpu(const probe *p);
void probe_free(probe *p);

#endif
