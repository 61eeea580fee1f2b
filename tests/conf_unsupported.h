/* SPDX-License-Identifier: MIT */
/* What each backend declines: its name, the group of
 * cases, and their names, where a star stands for any text. Such nodes go to the
 * CPU, or are lowered to simpler ones. A case that is refused must be here, and none that runs may
 * be; neither may a line that no case has. */
#ifndef CONF_UNSUPPORTED_H
#define CONF_UNSUPPORTED_H

static const struct {
    const char *backend, *group, *cases;
} conf_unsupported[] = {
    {"cpu", "rows", "embed F64*"},
    {"cpu", "products", "matmul F64*"},
    /* A work-item computes gate and up in one loop. */
    {"opencl", "products", "matmul* glu * Q8_0+F16*"},
    /* Equal heads of 32 to 256, multiples of 8. */
    {"opencl", "attention", "attention no grouping, f16,*"},
    {"opencl", "attention", "attention one KV head for many,*"},
    {"opencl", "attention", "attention partial RoPE by pairs, odd sizes,*"},
    {"opencl", "attention", "attention window, head_dim 16,*"},
    {"opencl", "attention", "attention ALiBi, head_dim 16,*"},
    {"opencl", "attention", "attention long, head_dim 16,*"},
    {"opencl", "attention", "attention softcap and sinks,*"},
    {NULL, NULL, NULL},
};

/* Types of weights that a backend rounds to f16, since it has no form of its own for them. */
static const struct {
    const char *backend;
    sobre_dtype dtype;
} conf_rounded[] = {
    {"opencl", SOBRE_Q5_1},  {"opencl", SOBRE_Q2_K},   {"opencl", SOBRE_Q3_K},
    {"opencl", SOBRE_Q4_K},  {"opencl", SOBRE_Q5_K},   {"opencl", SOBRE_Q6_K},
    {"opencl", SOBRE_IQ3_S}, {"opencl", SOBRE_IQ4_XS}, {"opencl", SOBRE_MXFP4},
    {NULL, SOBRE_F32},
};

#endif
