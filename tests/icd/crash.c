/* SPDX-License-Identifier: MIT */
/* An OpenCL driver that kills the process which loads it. */
#include <stdlib.h>

__attribute__((constructor)) static void crash(void)
{
    abort();
}
