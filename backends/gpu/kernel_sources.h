/* SPDX-License-Identifier: MIT */
/* The sources of kernels_cl/, generated into the plugin by scripts/embed-kernels.py. */
#ifndef SOBRE_KERNEL_SOURCES_H
#define SOBRE_KERNEL_SOURCES_H

typedef struct kernel_source {
    const char *file; /* "gemv.cl"; NULL ends the list */
    const char *text; /* whole: headers are in place */
} kernel_source;

extern const kernel_source kernel_sources[];

#endif
