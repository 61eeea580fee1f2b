/* SPDX-License-Identifier: MIT */
/*
 * Small results on disk that may be lost at any time: compiled programs, verdicts of measurements.
 *
 * An entry is one file in host->cache_dir/opencl. Its name is a hash of all that the content
 * depends on; it says how long it is and carries a checksum. What is missing, damaged, of another
 * format or cannot be written is no failure, only work to be done again.
 */
#ifndef SOBRE_CL_CACHE_H
#define SOBRE_CL_CACHE_H

#include <stdbool.h>

#include <sobre/backend.h>

/* 128 bits: not against attackers, but no two inputs will ever share it by chance. */
typedef struct cl_hash {
    uint64_t h[2];
} cl_hash;

cl_hash cl_hash_bytes(cl_hash hash, const void *data, size_t size); /* an all-zero hash begins */
cl_hash cl_hash_text(cl_hash hash, const char *text);               /* with its end */

/* *ret_data is the caller's, to be freed by host->free. */
bool cl_cache_load(const sobre_host *host, cl_hash key, void **ret_data, size_t *ret_size);
void cl_cache_store(const sobre_host *host, cl_hash key, const void *data, size_t size);

#endif
