/* SPDX-License-Identifier: MIT */
/* What --shape and --quant name: models of published shapes, without files. */
#ifndef SOBRE_CLI_SHAPES_H
#define SOBRE_CLI_SHAPES_H

#include <stdbool.h>
#include <stdio.h>

#include "bench_shape.h"

/* Is what a command was given either a model or a shape? An exit code after a message, or -1. */
int shapes_check(const char *shape, const char *quant, bool has_model);
/* The names of all. */
void shapes_print(FILE *to);
/* `quant` NULL: Q4_0. An exit code after a message, or -1; *ret_made is to be closed. */
int shapes_open(const char *shape, const char *quant, shape_model **ret_made,
                sobre_source *ret_source);

#endif
