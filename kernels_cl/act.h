/* SPDX-License-Identifier: MIT */
/* Activations. The numbers are those of sobre_act. */
#ifndef SOBRE_ACT_H
#define SOBRE_ACT_H

#include "portable.h"

#define ACT_NONE      0
#define ACT_SILU      1
#define ACT_GELU_TANH 2
#define ACT_GELU_ERF  3
#define ACT_RELU      4

FN float activate(int act, float x)
{
    if (act == ACT_SILU) return x / (1.0f + EXP(-x));
    if (act == ACT_GELU_TANH)
        return 0.5f * x * (1.0f + TANH(0.7978845608f * (x + 0.044715f * x * x * x)));
    if (act == ACT_GELU_ERF) return 0.5f * x * (1.0f + ERF(0.7071067812f * x));
    if (act == ACT_RELU) return x < 0.0f ? 0.0f : x;
    return x;
}

#endif
