/* SPDX-License-Identifier: MIT */
/* Block types whose integers come from code books. Each function unpacks one block, as the rows of
 * the table in quant.c do. */
#ifndef SOBRE_QUANT_IQ_H
#define SOBRE_QUANT_IQ_H

#include <stdint.h>

void unpack_iq4_nl(const uint8_t *block, int8_t *q, float *d, float *m);
void unpack_iq4_xs(const uint8_t *block, int8_t *q, float *d, float *m);
void unpack_iq3_s(const uint8_t *block, int8_t *q, float *d, float *m);
void unpack_mxfp4(const uint8_t *block, int8_t *q, float *d, float *m);

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

#endif
