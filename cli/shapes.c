/* SPDX-License-Identifier: MIT */
/* --shape and --quant. */
#include "shapes.h"

#include "args.h"
#include "out.h"

int shapes_check(const char *shape, const char *quant, bool has_model)
{
    if (!shape == !has_model) {
        complain(shape ? "give either MODEL or --shape, not both"
                       : "MODEL is missing; or give --shape");
        return CODE_USAGE;
    }
    if (quant && !shape) {
        complain("--quant is the block type of --shape; a file has its own");
        return CODE_USAGE;
    }
    return -1;
}

void shapes_print(FILE *to)
{
    fprintf(to, "shapes:");
    for (size_t i = 0; shape_name(i); i++) fprintf(to, " %s", shape_name(i));
    fprintf(to, "\ntypes: ");
    for (size_t i = 0; shape_quant_name(i); i++) fprintf(to, " %s", shape_quant_name(i));
    putc('\n', to);
}

int shapes_open(const char *shape, const char *quant, shape_model **ret_made,
                sobre_source *ret_source)
{
    if (!quant) quant = "Q4_0";
    const sobre_status status = shape_model_open(shape, quant, ret_made, ret_source);

    if (status == SOBRE_OUT_OF_MEMORY) return out_of_memory();
    if (status >= 0) return -1;
    complain("there is no --shape %s --quant %s", shape, quant);
    shapes_print(stderr);
    return CODE_USAGE;
}
