/* SPDX-License-Identifier: MIT */
/*
 * Rotary positions. Angles reach thousands of turns, where f32 has lost the fraction, so they are
 * counted in turns and kept as the sum of two floats until whole turns are taken away.
 *
 * A frequency is two floats, high and low part, in turns a position: f32 [n_dims / 2, 2], written
 * by gpu_rope_const() in backends/gpu/rows.c.
 */
#ifndef SOBRE_ROPE_H
#define SOBRE_ROPE_H

#include "portable.h"

/* Cosine (x) and sine (y) of the angle of a pair; `factor` divides its frequency, 1: none. Right to
 * 3e-7 for positions below 2^24. */
FN float2 rope_angle(int pos, float freq_hi, float freq_lo, float factor)
{
    float2 r;
    /* hi + lo = (freq_hi + freq_lo) / factor; the quotient's error is made up for in lo. */
    float hi = freq_hi / factor;
    float lo = (FMA(-hi, factor, freq_hi) + freq_lo) / factor;
    float p = (float)pos;
    float turns = p * hi;
    float rest = FMA(p, hi, -turns) + p * lo;
    float angle = 6.283185307f * ((turns - RINT(turns)) + rest);
    r.x = COS(angle);
    r.y = SIN(angle);
    return r;
}

#endif
