/* SPDX-License-Identifier: MIT */
/* The OpenCL driver without the rest of the library: a host that counts, kernels of the test's own,
 * a folder for cached files. */
#ifndef TEST_CL_RIG_H
#define TEST_CL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cl.h"

typedef struct cl_rig {
    sobre_host host;      /* its context is this rig */
    atomic_int n_held;    /* allocations */
    char error[1200];     /* the last one reported */
    char folder[64];      /* host.cache_dir */
    sobre_device *device; /* the first that can be used; NULL if there is none */
    int32_t index;
} cl_rig;

void cl_rig_open(cl_rig *rig);
/* Opens the first device that can be used; skips the test, saying why, if there is none. */
void cl_rig_device(cl_rig *rig);
void cl_rig_close_device(cl_rig *rig);
void cl_rig_close(cl_rig *rig); /* everything was given back; the folder goes */

/* The one entry in the folder: its path, or fails if there are not `n`. */
void cl_rig_entry(cl_rig *rig, int n, char *ret_path, size_t size);

#endif
