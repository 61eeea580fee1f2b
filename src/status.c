/* SPDX-License-Identifier: MIT */
/* Names of statuses and the version. */
#include <sobre/sobre.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *sobre_status_name(sobre_status status)
{
    switch (status) {
    case SOBRE_OK: return "OK";
    case SOBRE_DONE: return "DONE";
    case SOBRE_AGAIN: return "AGAIN";
    case SOBRE_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case SOBRE_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case SOBRE_DEVICE_OUT_OF_MEMORY: return "DEVICE_OUT_OF_MEMORY";
    case SOBRE_IO: return "IO";
    case SOBRE_BAD_FORMAT: return "BAD_FORMAT";
    case SOBRE_UNSUPPORTED: return "UNSUPPORTED";
    case SOBRE_UNAVAILABLE: return "UNAVAILABLE";
    case SOBRE_DEVICE: return "DEVICE";
    case SOBRE_DEVICE_LOST: return "DEVICE_LOST";
    case SOBRE_BUFFER_TOO_SMALL: return "BUFFER_TOO_SMALL";
    case SOBRE_CONTEXT_FULL: return "CONTEXT_FULL";
    case SOBRE_CANCELLED: return "CANCELLED";
    case SOBRE_NOT_FINITE: return "NOT_FINITE";
    case SOBRE_INTERNAL: return "INTERNAL";
    }
    return "UNKNOWN";
}

const char *sobre_version(void)
{
    return TEXT(SOBRE_VERSION_MAJOR) "." TEXT(SOBRE_VERSION_MINOR) "." TEXT(SOBRE_VERSION_PATCH);
}
