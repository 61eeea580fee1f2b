/* SPDX-License-Identifier: MIT */
/* Builds the graph of a decoder from a table of facts. A family is one short file with its facts;
 * what only one family needs becomes a new fact here. */
#ifndef SOBRE_DECODER_H
#define SOBRE_DECODER_H

#include "model.h"

typedef struct decoder_facts {
    sobre_norm_kind norm;
    sobre_rope_kind rope;
    sobre_act act; /* of the gated feed-forward */
} decoder_facts;

/* family->facts is a decoder_facts. */
sobre_status decoder_build(sobre_model *m, const family *f);

#endif
