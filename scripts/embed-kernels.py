#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""embed-kernels.py OUT.c FILE...: writes a C file with the kernels' sources as strings.

A file's own headers (#include "x.h") are put in their place, so that each source stands alone."""
import os
import re
import sys

INCLUDE = re.compile(r'^#include "([^"]+)"$')


def read(path, seen):
    folder = os.path.dirname(path)
    for line in open(path, encoding="utf-8"):
        found = INCLUDE.match(line.rstrip("\n"))
        if not found:
            yield line
        elif found[1] not in seen:
            seen.add(found[1])
            yield from read(os.path.join(folder, found[1]), seen)


def quote(line):
    text = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"')
    return f'    "{text}\\n"\n'


def main():
    out, files = sys.argv[1], sys.argv[2:]
    with open(out, "w", encoding="utf-8") as f:
        f.write('#pragma GCC diagnostic ignored "-Woverlength-strings"\n')
        f.write('#include "kernel_sources.h"\n\nconst kernel_source kernel_sources[] = {\n')
        for path in sorted(files):
            f.write(f'{{"{os.path.basename(path)}",\n')
            f.writelines(quote(line) for line in read(path, set()))
            f.write("},\n")
        f.write("{0, 0}};\n")


main()
