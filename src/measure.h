/* SPDX-License-Identifier: MIT */
/* How fast devices are: measured once, kept in the cache folder, and what device 0 goes by. */
#ifndef SOBRE_MEASURE_H
#define SOBRE_MEASURE_H

#include "context.h"

enum { MAX_MEASURED = 32 }; /* that are kept; the oldest make room */

typedef struct measured_device {
    int32_t device; /* its number */
    sobre_measurement speed;
} measured_device;

/* What decoding one token should take: each packed byte is streamed once, each node launched. */
double measured_seconds(const sobre_measurement *speed, uint64_t weight_bytes, int32_t n_nodes);

/* The devices that should decode faster than the CPU, the fastest first, and the CPU as the last;
 * none if the CPU was not measured. Drivers are loaded only for those that were faster. */
sobre_status measured_devices(sobre_context *ctx, uint64_t weight_bytes, int32_t n_nodes,
                              measured_device ret_devices[MAX_MEASURED], int32_t *ret_n);

#endif
