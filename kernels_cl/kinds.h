/* SPDX-License-Identifier: MIT */
/* Kinds of norms and activations, numbered as in sobre/graph.h. */
#ifndef SOBRE_KINDS_H
#define SOBRE_KINDS_H

#define NORM_NONE  0
#define NORM_RMS   1
#define NORM_LAYER 2

#define ACT_NONE      0
#define ACT_SILU      1
#define ACT_GELU_TANH 2
#define ACT_GELU_ERF  3
#define ACT_RELU      4

#if defined(KERNEL)

/* GELU: Hendrycks & Gimpel 2016, arXiv:1606.08415, both its forms. */
FN float activate(int act, float x)
{
    switch (act) {
    case ACT_SILU: return x / (1.0f + EXP(-x));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + TANH(0.79788456f * FMA(0.044715f * x * x, x, x)));
    case ACT_GELU_ERF: return 0.5f * x * (1.0f + ERF(0.70710678f * x));
    case ACT_RELU: return FMAX(x, 0.0f);
    default: return x;
    }
}

#endif

#endif
