/* SPDX-License-Identifier: MIT */
/* An OpenCL driver that never answers. */
#include <unistd.h>

__attribute__((constructor)) static void hang(void)
{
    for (;;) pause();
}
