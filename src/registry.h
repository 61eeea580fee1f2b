/* SPDX-License-Identifier: MIT */
/* The devices of a context: those of the built-in backends, numbered as they are found. Device 1 is
 * the CPU; a backend is asked for its devices only when someone asks for all, or for it by name. */
#ifndef SOBRE_REGISTRY_H
#define SOBRE_REGISTRY_H

#include "context.h"

typedef struct registry registry;

sobre_status registry_open(sobre_context *ctx, registry **ret_registry);
/* Closes devices. */
void registry_close(registry *r);

/* Leaves a backend alone, for a reason that becomes its devices': whoever asks for them gets it.
 * Before it is asked for the first time. */
sobre_status registry_shun(sobre_context *ctx, const char *backend, const char *reason);

/* What is known of a device that was found; NULL: none has this number yet. Asks nobody. */
const sobre_device_info *registry_device_info(sobre_context *ctx, int32_t number);

/* The file that a backend would be loaded from; `folder` as in sobre_context_options.plugin_dir.
 * False: there is none. Loads nothing. */
bool plugin_find(const char *folder, const char *backend, char *ret_path, size_t size);

#endif
