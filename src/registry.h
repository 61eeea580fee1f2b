/* SPDX-License-Identifier: MIT */
/* The table of backends: built in (backends/registry.c), or plugins. */
#ifndef SOBRE_REGISTRY_H
#define SOBRE_REGISTRY_H

#include "context.h"

typedef struct registry registry;

/* Lists the devices of all backends, or of the one named, loading it if need be. */
sobre_status registry_list(sobre_context *ctx, const char *backend,
                           const device_entry *const **ret_entries, int32_t *ret_n);

#endif
