/* SPDX-License-Identifier: MIT */
/* A layer between the OpenCL loader and a driver that counts calls, fails the one it is told to,
 * and counts objects that are alive. The loader loads it when OPENCL_LAYERS names it; a test gets
 * at its control by opening the same file. Layers: OpenCL ICD loader, "cl_layer.h". */
#ifndef FAULT_LAYER_H
#define FAULT_LAYER_H

#include <stdatomic.h>
#include <stdbool.h>

typedef enum fault_object {
    FAULT_CONTEXT,
    FAULT_QUEUE,
    FAULT_MEM,
    FAULT_PROGRAM,
    FAULT_KERNEL,
    FAULT_EVENT,
    FAULT_N_OBJECTS
} fault_object;

enum { FAULT_MAX_CALLS = 40 };

typedef struct fault_control {
    atomic_llong n_calls; /* that can fail, so far */
    atomic_llong fail_at; /* this one, from 1, fails; 0: none */
    atomic_int for_good;  /* all after it fail, too */
    atomic_int error;     /* with this code */
    struct {
        const char *name;   /* NULL: the end */
        atomic_bool spared; /* neither counted nor made to fail */
        atomic_bool failed;
    } calls[FAULT_MAX_CALLS];
    atomic_llong n_live[FAULT_N_OBJECTS];
} fault_control;

/* The layer's one symbol beside those of the loader's interface. */
typedef fault_control *(*fault_control_fn)(void);

#endif
