#!/bin/sh
# SPDX-License-Identifier: MIT
# check-format.sh SOURCE_DIR: every C file is as clang-format 14 leaves it.
set -eu
cd "$1"
format=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$format" ]; then
    echo "SKIP: clang-format is not installed"
    exit 77
fi
case $("$format" --version) in
*"version 14."*) ;;
*) echo "SKIP: $("$format" --version) may differ from version 14, which the code follows" && exit 77 ;;
esac
find include src backends models cli bench tests examples -name '*.[ch]' -print0 |
    xargs -0 "$format" --dry-run --Werror
