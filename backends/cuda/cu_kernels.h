/* SPDX-License-Identifier: MIT */
/* The compiled kernels of kernels_cl/, generated into the plugin by scripts/build-cuda-kernels.py.
 */
#ifndef SOBRE_CU_KERNELS_H
#define SOBRE_CU_KERNELS_H

#include <stdint.h>

/* A row of kernels_cl/variants.tsv. */
typedef struct cu_kernel {
    const char *file, *entry; /* file NULL ends the list */
    int32_t group;
    const char *defines;
    const char *params; /* a letter each: p, a pointer; i, an int; f, a float */
    const void *image;  /* a fatbin: machine code of several architectures, and PTX */
} cu_kernel;

extern const cu_kernel cu_kernels[];
extern const int32_t cu_kernels_driver; /* the least that cuDriverGetVersion() must say: 13000 */
extern const int32_t cu_kernels_arch;   /* the least compute capability: 75 */

#endif
