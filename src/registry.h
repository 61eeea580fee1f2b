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

#endif
