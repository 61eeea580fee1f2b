#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the version that include/sobre/version.h holds.
sed -n 's/^#define SOBRE_VERSION_[A-Z]* \([0-9]*\)$/\1/p' "$(dirname "$0")/../include/sobre/version.h" | paste -sd.
