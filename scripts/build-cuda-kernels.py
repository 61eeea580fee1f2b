#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Kernels of kernels_cl/ as C files for the CUDA backend (backends/cuda/cu_kernels.h).

  image NVCC ARCHS OUT.c DEPS FILE GROUP DEFINES   a file's entries, compiled by nvcc
  index TOOLKIT ARCHS OUT.c VARIANTS.tsv           the table of the rows of variants.tsv
  stubs OUT.c VARIANTS.tsv                         the table with images that only say what would
                                                   be in them, for tests without nvcc
  texts OUTDIR VARIANTS.tsv                        a C file for each image of `stubs`, with what is
                                                   in it, for a processor (tests/cuda/cuda_c.h)

Rows are left out that only devices with flat memory or a library for dense products ask for.
ARCHS is a list such as 75,90: machine code for each, and PTX for the first. TOOLKIT is nvcc's
version."""
import os
import re
import struct
import subprocess
import sys
import tempfile

HEAD = "/* Made by scripts/build-cuda-kernels.py. */\n"


def name_of(file, group, defines):
    return re.sub(r"\W+", "_", f"cu_image_{os.path.splitext(file)[0]}_{group}_{defines}").rstrip("_")


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(HEAD + text)


def image(nvcc, archs, out, deps, source, group, defines):
    """PTX is made once, for the oldest architecture; machine code for all comes of it."""
    archs = archs.split(",")
    codes = ",".join([f"sm_{a}" for a in archs] + [f"compute_{archs[0]}"])
    with tempfile.TemporaryDirectory() as folder:
        fatbin = os.path.join(folder, "out.fatbin")
        done = subprocess.run(
            [nvcc, "-x", "cu", "-fatbin", "-gencode", f"arch=compute_{archs[0]},code=[{codes}]",
             "-Xfatbin=-compress-all", "-diag-suppress", "177", "-MD", "-MF", deps, "-MT", out,
             f"-DWG={group}", *[f"-D{d}" for d in defines.split()], "-o", fatbin, source],
            check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)
        with open(fatbin, "rb") as f:
            data = f.read()
    data += bytes(-len(data) % 8)
    words = [f"0x{word:x}," for word, in struct.iter_unpack("<Q", data)]
    lines = "\n".join(" ".join(words[i:i + 5]) for i in range(0, len(words), 5))
    name = name_of(os.path.basename(source), group, defines)
    write(out, "#include <stdint.h>\n\n"  # fatbins lie at multiples of 8 bytes
          f"extern const uint64_t {name}[];\nconst uint64_t {name}[] = {{\n{lines}\n}};\n")


def read_variants(path):
    """(file, entry, group, defines) of each row that is for any device."""
    with open(path, encoding="utf-8") as f:
        rows = [line.split("\t") for line in f if not line.startswith("#")]
    return [row[:4] for row in rows if row[4] == "any"]


def parameters(folder, file, entry, cache={}):
    """A kernel's parameters, a letter each."""
    if file not in cache:
        with open(os.path.join(folder, file), encoding="utf-8") as f:
            cache[file] = dict(re.findall(r"^KERNEL\(\w+\)\s*(\w+)\(([^)]*)\)", f.read(), re.MULTILINE))
    letters = ""
    for text in cache[file][entry].split(","):
        words = text.split()
        letters += "p" if "*" in text else {"int": "i", "uint": "i", "float": "f"}[words[0]]
    return letters


def table(variants, driver, arch, image_of):
    """The index, where image_of gives an image's expression."""
    folder, rows = os.path.dirname(variants), []
    for file, entry, group, defines in read_variants(variants):
        params = parameters(folder, file, entry)
        image = image_of(file, entry, group, defines, params)
        rows.append(f'    {{"{file}", "{entry}", {group}, "{defines}", "{params}", {image}}},\n')
    return (f"\nconst int32_t cu_kernels_driver = {driver}, cu_kernels_arch = {arch};\n"
            "const cu_kernel cu_kernels[] = {\n" + "".join(rows) + "    {0, 0, 0, 0, 0, 0},\n};\n")


def index(toolkit, archs, out, variants):
    """A driver runs what any toolkit of its major version has made."""
    names = []

    def image_of(file, entry, group, defines, params):
        names.append(name_of(file, group, defines))
        return names[-1]

    rows = table(variants, 1000 * int(toolkit.split(".")[0]), archs.split(",")[0], image_of)
    externs = "".join(f"extern const uint64_t {name}[];\n" for name in dict.fromkeys(names))
    write(out, f'#include "cu_kernels.h"\n\n{externs}{rows}')


def stubs(out, variants):
    """An image is a text: "stub", its name, then for each entry its name, group and parameters."""
    texts = {}
    for file, entry, group, defines in read_variants(variants):
        params = parameters(os.path.dirname(variants), file, entry)
        name = name_of(file, group, defines)
        texts[name] = texts.get(name, f"stub {name}") + f" {entry} {group} {params}"
    images = "".join(f'static const char {name}[] = "{text}";\n' for name, text in texts.items())
    rows = table(variants, 12000, 75,
                 lambda file, entry, group, defines, params: name_of(file, group, defines))
    write(out, f'#include "cu_kernels.h"\n\n{images}{rows}')


def flatten(folder, file, seen):
    """A kernel's text with our headers in it, each once."""
    with open(os.path.join(folder, file), encoding="utf-8") as f:
        text = f.read()

    def include(match):
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return flatten(folder, match[1], seen)

    return re.sub(r'^#include "(\w+\.h)"$', include, text, flags=re.MULTILINE)


def texts(out, variants):
    """As nvcc sees them, but for what is C++ or assembly; IMAGE__ENTRY() unpacks the arguments."""
    folder, entries = os.path.dirname(variants), {}
    for file, entry, group, defines in read_variants(variants):
        entries.setdefault((file, group, defines), []).append(entry)
    for (file, group, defines), names in entries.items():
        text = flatten(folder, file, set()).replace('extern "C" ', "")
        text = re.sub(r'asm\("([\w.]+) %0, %1;" : "=\w"\((.*)\) : "\w"\((.*)\)\);',
                      lambda m: f"{m[2]} = {m[1].replace('.', '_')}({m[3]});", text)
        macros = "".join(f"#define {d.replace('=', ' ')}\n" for d in [f"WG={group}", *defines.split()])
        calls = ""
        for name in names:
            types = {"p": "void *", "i": "int", "f": "float"}
            values = [f"*({types[letter]} *)p[{i}]"
                      for i, letter in enumerate(parameters(folder, file, name))]
            symbol = f"{name_of(file, group, defines)}__{name}"
            calls += (f'\n__attribute__((visibility("default"))) void {symbol}(void **p);\n'
                      f"void {symbol}(void **p)\n{{\n    {name}({', '.join(values)});\n}}\n")
        write(os.path.join(out, name_of(file, group, defines) + ".c"),
              f'#include "cuda_c.h"\n{macros}{text}{calls}')


if __name__ == "__main__":
    {"image": image, "index": index, "stubs": stubs, "texts": texts}[sys.argv[1]](*sys.argv[2:])
