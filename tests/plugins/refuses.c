/* SPDX-License-Identifier: MIT */
/* A plugin that cannot work here. */
#include <sobre/backend.h>

SOBRE_EXPORT const sobre_backend *sobre_backend_entry(const sobre_host *host);
const sobre_backend *sobre_backend_entry(const sobre_host *host)
{
    host->fail(host->context, SOBRE_UNAVAILABLE, "the driver is on holiday");
    return NULL;
}
