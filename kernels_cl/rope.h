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
 * 1e-7 for positions below 2^24. */
FN float2 rope_angle(int pos, float freq_hi, float freq_lo, float factor)
{
    float2 r;
    /* hi + lo = (freq_hi + freq_lo) / factor; the quotient's error is made up for in lo. */
    float hi = freq_hi / factor;
    float lo = (FMA(-hi, factor, freq_hi) + freq_lo) / factor;
    float p = (float)pos;
    float turns = p * hi;
    float rest = FMA(p, hi, -turns) + p * lo;
    float part = turns - RINT(turns);
    float quarter = RINT(4.0f * (part + rest));
    int q = (int)quarter & 3;
    /* What is left is within an eighth of a turn, where Taylor's series are short; the library's
     * functions would be ready for angles of any size. */
    float a = 6.283185307f * ((part - 0.25f * quarter) + rest);
    float s = a * a;
    float sine = 1.0f / 362880.0f;
    float cosine = -1.0f / 3628800.0f;
    sine = FMA(sine, s, -1.0f / 5040.0f);
    sine = FMA(sine, s, 1.0f / 120.0f);
    sine = FMA(sine, s, -1.0f / 6.0f);
    sine = FMA(sine * s, a, a);
    cosine = FMA(cosine, s, 1.0f / 40320.0f);
    cosine = FMA(cosine, s, -1.0f / 720.0f);
    cosine = FMA(cosine, s, 1.0f / 24.0f);
    cosine = FMA(cosine, s, -0.5f);
    cosine = FMA(cosine, s, 1.0f);
    r.x = (q & 1) ? sine : cosine;
    r.y = (q & 1) ? cosine : sine;
    if (q == 1 || q == 2) r.x = -r.x;
    if (q >= 2) r.y = -r.y;
    return r;
}

#endif
