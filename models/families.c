/* SPDX-License-Identifier: MIT */
/* The table of model families. */
#include "families.h"

#include <string.h>

static const family *const families[] = {&family_llama};

enum { N_FAMILIES = sizeof families / sizeof *families };

const family *family_at(size_t i)
{
    return i < N_FAMILIES ? families[i] : NULL;
}

const family *family_find(const char *architecture)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i]->architecture, architecture)) return families[i];
    return NULL;
}
