/* SPDX-License-Identifier: MIT */
/* What a run of a plan does, counted instead of run. */
#ifndef SOBRE_COST_H
#define SOBRE_COST_H

#include "cache.h"

/* Counts for the lowered and fused graph `g`, whose caches are laid out in `c`: a run that brings
 * n_cols columns to a sequence of n_past positions, and wants the last one's row. */
sobre_status cost_count(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                        const cache *c, int32_t n_cols, int32_t n_past, sobre_cost *ret_cost);

#endif
