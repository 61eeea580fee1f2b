#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints a number that include/sobre/version.h holds: the version, or with --api the API's number.
header=$(dirname "$0")/../include/sobre/version.h
case ${1:-} in
--api) sed -n 's/^#define SOBRE_API_VERSION \([0-9]*\)$/\1/p' "$header" ;;
*) sed -n 's/^#define SOBRE_VERSION_[A-Z]* \([0-9]*\)$/\1/p' "$header" | paste -sd. ;;
esac
