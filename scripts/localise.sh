#!/bin/sh
# SPDX-License-Identifier: MIT
# localise.sh OUT.a IN.a OBJCOPY AR CC...
# Makes a static library of one object in which only sobre_* is global, so that the short names
# inside cannot clash with those of the program that links it.
set -eu
out=$1 in=$2 objcopy=$3 ar=$4
shift 4
object=${out%.a}.o
"$@" -r -nostdlib -o "$object" -Wl,--whole-archive "$in" -Wl,--no-whole-archive
"$objcopy" --wildcard --keep-global-symbol='sobre_*' "$object"
rm -f "$out"
"$ar" rcs "$out" "$object"
rm -f "$object"
