/* SPDX-License-Identifier: MIT */
/* Block types whose integers come from code books; a row of the table in quant.c. */
#ifndef SOBRE_QUANT_IQ_H
#define SOBRE_QUANT_IQ_H

#include "quant.h"

void split_iq3_s(const uint8_t *block, quant_parts *ret);

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

#endif
