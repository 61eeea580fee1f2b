/* SPDX-License-Identifier: MIT */
/* Llama 2 and 3.x, TinyLlama, Mistral, SmolLM2: pre-norm, rotary positions, grouped queries,
 * SwiGLU. Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783. GGUF
 * stores the rows of q and k so that a rotated pair is (2i, 2i + 1). */
#include "families.h"

static const decoder_facts facts = {
    .norm = SOBRE_NORM_RMS,
    .rope = SOBRE_ROPE_PAIRS,
    .act = SOBRE_ACT_SILU,
};

const family family_llama = {"llama", decoder_build, &facts};
