/* SPDX-License-Identifier: MIT */
/* Every model family; families.c puts them into one table. */
#ifndef SOBRE_FAMILIES_H
#define SOBRE_FAMILIES_H

#include "decoder.h"

extern const family family_llama;

#endif
