/* SPDX-License-Identifier: MIT */
/* The Llama family's mathematics in double precision, as plainly as it can be written: the oracle
 * for whole models. Shares nothing with the library but the file reader and the block decoder. */
#ifndef REF_LLAMA_H
#define REF_LLAMA_H

#include <stddef.h>
#include <stdint.h>

/* Logits [n_ids, n_vocab] of a GGUF file in memory, allocated with malloc. Ends the test program if
 * it cannot. */
double *ref_llama(const void *gguf, size_t size, const int32_t *ids, int32_t n_ids,
                  int32_t *ret_n_vocab);

#endif
