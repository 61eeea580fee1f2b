#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Figures of bench/gpu.sh as JSON and as a table.

  gpu_table.py compare A.npy B.npy                       how far logits are from each other
  gpu_table.py row SHAPE QUANT BENCH.json BATCHED.txt    llama.cpp's figures of a model, on a line
  gpu_table.py sobre|peer ROWS RESULTS                   adds rows, one JSON object a line, to what
                                                         RESULTS has of the same device

RESULTS gets gpu-DEVICE.json, a list of rows, and gpu-DEVICE.md. Rows of the same program, backend
and model are replaced."""
import array
import json
import os
import re
import sys

BATCHES = ["1", "8", "32"]
MOST_ERROR = 1e-8  # of logits that are computed in another order


def read_npy(path):
    """The values of a file that `sobre logits` wrote."""
    with open(path, "rb") as f:
        data = f.read()
    values = array.array("f")
    values.frombytes(data[10 + int.from_bytes(data[8:10], "little"):])
    return values


def compare(a, b):
    """Fails if the squared error is too large a share."""
    a, b = read_npy(a), read_npy(b)
    error = sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a)
    print(f"{len(a)} logits, squared error {error:.2g} of their squares")
    if len(a) != len(b) or not error < MOST_ERROR:
        sys.exit(f"more than {MOST_ERROR}")


def peer_row(shape, quant, bench, batched):
    """llama-bench writes a list of tests; llama-batched-bench a table whose columns have names."""
    with open(bench, encoding="utf-8") as f:
        tests = json.load(f)
    row = {"device": tests[0].get("gpu_info") or tests[0]["cpu_info"], "backend": tests[0]["backends"],
           "shape": shape, "quant": quant, "build": tests[0]["build_commit"],
           "n_prompt": max(t["n_prompt"] for t in tests), "n_gen": max(t["n_gen"] for t in tests),
           "decode_ts": {}}
    for test in tests:
        if test["n_gen"]:
            row["decode_ts"]["1"] = test["avg_ts"]
        else:
            row["prefill_ts"] = test["avg_ts"]
    names = None
    with open(batched, encoding="utf-8") as f:
        for line in f:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if "S_TG t/s" in cells:
                names = cells
            elif names and len(cells) == len(names) and cells[0].isdigit():
                found = dict(zip(names, cells))
                row["decode_ts"].setdefault(found["B"], float(found["S_TG t/s"]))
    return row


def key(row):
    return [row[k] for k in ("program", "backend", "shape", "quant")]


def cell(value, form="{:.0f}"):
    return form.format(value) if value else ""


def table(rows):
    head = ["program", "backend", "shape", "type", "prefill", *[f"decode, {b} at once" for b in BATCHES],
            "share of copy", "launches", "ns a launch", "first token, ms", "cold, s"]
    yield head
    yield ["---"] * 4 + ["---:"] * (len(head) - 4)
    for r in rows:
        yield [r["program"], r["backend"], r["shape"], r["quant"], cell(r.get("prefill_ts")),
               *[cell(r["decode_ts"].get(b)) for b in BATCHES],
               cell(100 * r.get("copy_share", 0), "{:.0f} %"), cell(r.get("launches_per_token")),
               cell(r.get("ns_per_launch")), cell(r.get("first_token_ms"), "{:.2f}"),
               cell(r.get("cold_first_token_s"), "{:.2f}")]


def merge(program, path, results):
    with open(path, encoding="utf-8") as f:
        new = [{"program": program, **json.loads(line)} for line in f if line.strip()]
    if not new:
        sys.exit(f"{path}: no rows")
    for device in dict.fromkeys(row["device"] for row in new):
        mine = [row for row in new if row["device"] == device]
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        out = os.path.join(results, f"gpu-{slug}")
        old = []
        if os.path.exists(out + ".json"):
            with open(out + ".json", encoding="utf-8") as f:
                old = json.load(f)
        keys = [key(row) for row in mine]
        rows = sorted([row for row in old if key(row) not in keys] + mine,
                      key=lambda r: (r["shape"], r["quant"], r["program"] != "sobre", r["backend"]))
        with open(out + ".json", "w", encoding="utf-8") as f:
            json.dump(rows, f, indent=1)
            f.write("\n")
        with open(out + ".md", "w", encoding="utf-8") as f:
            f.write(f"# {device}\n\nTokens a second, random weights; written by bench/gpu.sh.\n\n")
            f.writelines("| " + " | ".join(line) + " |\n" for line in table(rows))
        print(f"{out}.json, {out}.md: {len(rows)} rows")


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(*sys.argv[2:])
    elif sys.argv[1] == "row":
        print(json.dumps(peer_row(*sys.argv[2:])))
    else:
        merge(*sys.argv[1:])
