/* SPDX-License-Identifier: MIT */
/* Version numbers. Meson reads them from this file, so they are written once. */
#ifndef SOBRE_VERSION_H
#define SOBRE_VERSION_H

#define SOBRE_VERSION_MAJOR 0
#define SOBRE_VERSION_MINOR 1
#define SOBRE_VERSION_PATCH 0

/* Counts incompatible changes of the API; the soname follows it. */
#define SOBRE_API_VERSION 0

#endif
