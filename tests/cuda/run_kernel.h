/* SPDX-License-Identifier: MIT */
/* Runs a kernel on a processor: groups one after the other, the threads of a group in turn, each
 * from one barrier to the next. */
#ifndef RUN_KERNEL_H
#define RUN_KERNEL_H

#include <stdbool.h>

enum { RUN_MAX_THREADS = 1024 };

typedef struct run_index {
    unsigned x, y;
} run_index;

extern run_index threadIdx, blockIdx, gridDim;
void __syncthreads(void);

/* A kernel that takes its arguments from where these point to. */
typedef void (*run_entry)(void **parameters);

/* False: some threads of a group came to a barrier that others passed by. */
typedef bool (*run_kernel_fn)(run_entry entry, void **parameters, unsigned n_groups_x,
                              unsigned n_groups_y, unsigned n_threads);

#endif
