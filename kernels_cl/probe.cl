/* SPDX-License-Identifier: MIT */
/* How fast the device is, for judging libraries by. */
#include "portable.h"

#define PROBE_GROUP 256
#define PROBE_STEPS 1024

/*
 * Each work-item runs 8 chains of PROBE_STEPS multiply-adds that do not depend on each other: what
 * the arithmetic can do when memory does not hold it up. out [groups * 256], so that nothing is
 * left out.
 */
KERNEL(PROBE_GROUP) probe_fma(GLOBAL float *RESTRICT out, float a, float b)
{
    int i = GROUP_X * PROBE_GROUP + LOCAL_ID;
    float x0 = (float)i, x1 = x0 + 1.0f, x2 = x0 + 2.0f, x3 = x0 + 3.0f;
    float x4 = x0 + 4.0f, x5 = x0 + 5.0f, x6 = x0 + 6.0f, x7 = x0 + 7.0f;
    for (int step = 0; step < PROBE_STEPS; step++) {
        x0 = FMA(x0, a, b);
        x1 = FMA(x1, a, b);
        x2 = FMA(x2, a, b);
        x3 = FMA(x3, a, b);
        x4 = FMA(x4, a, b);
        x5 = FMA(x5, a, b);
        x6 = FMA(x6, a, b);
        x7 = FMA(x7, a, b);
    }
    out[i] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
