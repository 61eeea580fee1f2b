/* SPDX-License-Identifier: MIT */
/* What each backend declines: its name, the group of
 * cases, and how their names begin. Such nodes go to the
 * CPU, or are lowered to simpler ones. A case that is refused must be here, and none that runs may
 * be; neither may a line that no case has. */
#ifndef CONF_UNSUPPORTED_H
#define CONF_UNSUPPORTED_H

static const struct {
    const char *backend, *group, *cases;
} conf_unsupported[] = {
    {"cpu", "rows", "embed F64"},
    {"cpu", "products", "matmul F64"},
    {NULL, NULL, NULL},
};

#endif
