/* SPDX-License-Identifier: MIT */
/* What each backend declines: its name ("gpu": all that share backends/gpu/), the group of
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
    {"gpu", "products", "matmul* glu * Q8_0+F16*"},
    /* Equal heads of 32 to 256, multiples of 8. */
    {"gpu", "attention", "attention no grouping, f16,*"},
    {"gpu", "attention", "attention one KV head for many,*"},
    {"gpu", "attention", "attention partial RoPE by pairs, odd sizes,*"},
    {"gpu", "attention", "attention window, head_dim 16,*"},
    {"gpu", "attention", "attention ALiBi, head_dim 16,*"},
    {"gpu", "attention", "attention long, head_dim 16,*"},
    {"gpu", "attention", "attention softcap and sinks,*"},
    /* Caches of f32 and f16. */
    {"gpu", "attention", "attention bf16*"},
    {"gpu", "attention", "attention q8_0*"},
    {"null", "attention", "attention bf16*"},
    {"null", "attention", "attention q8_0*"},
    {NULL, NULL, NULL},
};

/* Types of weights that a backend rounds to f16, since it has no form of its own for them. */
static const struct {
    const char *backend;
    sobre_dtype dtype;
} conf_rounded[] = {
    {"gpu", SOBRE_Q5_1},  {"gpu", SOBRE_Q2_K}, {"gpu", SOBRE_Q3_K},  {"gpu", SOBRE_Q4_K},
    {"gpu", SOBRE_Q5_K},  {"gpu", SOBRE_Q6_K}, {"gpu", SOBRE_IQ3_S}, {"gpu", SOBRE_IQ4_XS},
    {"gpu", SOBRE_MXFP4}, {NULL, SOBRE_F32},
};

#endif
