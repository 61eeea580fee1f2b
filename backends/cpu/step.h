/* SPDX-License-Identifier: MIT */
/* Programs on the CPU: a list of steps whose pointers were all resolved when it was compiled. The
 * threads of the pool walk it together. */
#ifndef SOBRE_CPU_STEP_H
#define SOBRE_CPU_STEP_H

#include "context.h"
#include "mm.h"
#include "vec.h"

struct sobre_device {
    const sobre_host *host;
    sobre_context *ctx;
    sobre_cpu_isa isa;
    const struct mm_kernels *mm;
    const vec_kernels *vec;
};

struct sobre_buffer {
    sobre_context *ctx;
    uint8_t *data;
    size_t size;
    bool imported; /* the memory is the caller's */
};

/* How a weight of a graph lies in its span when it is used in products or as a table. */
sobre_weight weight_of_value(const sobre_value *value, uint32_t uses);

sobre_status step_workspace_size(sobre_device *device, const sobre_program *program,
                                 uint64_t *ret_size);
sobre_status step_compile(sobre_device *device, const sobre_program *program,
                          sobre_exec **ret_exec);
void step_free(sobre_exec *exec);
sobre_status step_run(sobre_exec *exec, const sobre_run *run);
int32_t step_count(const sobre_exec *exec);

#endif
