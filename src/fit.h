/* SPDX-License-Identifier: MIT */
/* Where a model goes and what it takes there. */
#ifndef SOBRE_FIT_H
#define SOBRE_FIT_H

#include "cache.h"
#include "model.h"

/* Choices and exact sizes for a model; nothing is allocated on a device. The fused graph is the
 * caller's to close. */
sobre_status fit_make(sobre_model *m, const sobre_fit_options *options, device_set *ret_devices,
                      sobre_graph **ret_fused, sobre_placement *ret_placement);
/* The lowered and fused graph for these devices. */
sobre_status graph_for_devices(const sobre_graph *g, const device_set *devices,
                               sobre_graph **ret_fused);

/* DEVICE_OUT_OF_MEMORY if a session's cache of this size would pass the limit that the model was
 * loaded with, or what is free. */
sobre_status fit_cache(sobre_model *m, const cache *c);
/* Lets devices begin what a placed model's first runs will need. */
sobre_status fit_prepare(sobre_model *m);

#endif
