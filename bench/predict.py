#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tokens a second of GPUs, predicted from what the program counts and what is published of cards.

  predict.py BUILD [-o docs/predictions.md] [--measured GPU.json ...]

BUILD is a build folder. Its `sobre inspect --json` counts, for each model, the bytes, operations
and launches of one token and of a prompt, as a card's plan has them: any OpenCL runtime will do
(OCL_ICD_VENDORS), since nothing runs, and a layer in the loader has a processor claim the local
memory of a card. --measured takes files that bench/gpu.sh wrote; what a card was measured at stands
beside what was predicted for it."""
import argparse
import json
import os
import re
import subprocess
import sys
from collections import namedtuple

SHAPES = ["smollm2-135m", "smollm2-360m", "qwen2.5-0.5b-llama", "tinyllama-1.1b", "llama-3.2-3b"]
QUANTS = ["Q4_0", "Q8_0"]
# As bench/gpu.sh measures: a prompt of 512, and the middle of 128 tokens after a prompt of 8.
N_PROMPT, N_PAST, N_CTX = 512, 72, 576

# --- Assumptions: the aims of the kernels, and launches as others have measured them

STREAM_SHARE = 0.8  # of the bandwidth, that a product reaches
F32_SHARE, INT8_SHARE = 0.5, 0.25  # of the arithmetic, that products for a prompt reach
# Microseconds from one launch to the next, from the fastest to the slowest that was seen.
OPENCL_CARD, OPENCL_INTEGRATED, CUDA_GRAPH = (5, 10), (5, 42), (1.3, 2)

# --- Devices

# bandwidth in GB/s, f32 in TFLOPS, int8 in TOPS of 4-element dot products outside matrix units
# (None: there are none), memory in GB (None: the system's), `match`: what a driver calls it.
Device = namedtuple("Device", "name bandwidth f32 int8 memory launch_us match sources")
DEVICES = [
    Device("RX 580", 256, 6.17, None, 8, OPENCL_CARD, r"RX 580|gfx803",
           "[256 GB/s, 6.175 TFLOPS](https://fpsbench.com/compare/gpu/"
           "amd-radeon-rx-580-vs-intel-iris-xe-max-graphics)"),
    Device("GTX 1650", 128, 2.98, 11.9, 4, OPENCL_CARD, r"GTX 1650",
           "[GDDR5 of 8 Gb/s, 128 bits, 2.984 TFLOPS](https://cputronic.com/gpu/nvidia-geforce-gtx-1650); "
           "int8: four times f32"),
    Device("RTX 3060", 360, 12.7, 25.5, 12, OPENCL_CARD, r"RTX 3060",
           "[360 GB/s, 3584 lanes at 1777 MHz](https://pcpartdb.com/gpus/view/"
           "nvidia-geforce-rtx-3060-12-gb-ga104); int8: by half of the lanes, so twice f32"),
    Device("RX 6600", 224, 8.93, 35.7, 8, OPENCL_CARD, r"RX 6600|gfx1032",
           "[224 GB/s, 8.93 TFLOPS](https://technewsspace.com/amd-unveils-the-radeon-rx-6600-graphics-"
           "card-for-comfortable-gaming-in-full-hd-resolution/); int8: four times f32"),
    Device("Arc B580", 456, 13.7, 54.7, 12, OPENCL_CARD, r"B580",
           "[456 GB/s, 13.67 TFLOPS](https://fpsbench.com/compare/gpu/"
           "intel-arc-b580-vs-intel-uhd-graphics-730); int8: four times f32"),
    Device("Iris Xe, 96 units", 68.3, 2.0, 8.0, None, OPENCL_INTEGRATED, r"Iris.*Xe",
           "[768 lanes at 1.3 GHz](https://www.hardwaremana.net/t/intels-next-gen-iris-xe-graphics/985); "
           "LPDDR4x-4266, 128 bits; int8: four times f32"),
    Device("H200", 4800, 66.9, 134, 141, OPENCL_CARD, r"H200",
           "[4.8 TB/s, 16,896 lanes](https://www.saulelectric.com/nvidia-h200.html) at 1980 MHz; int8: "
           "by half of the lanes, so twice f32"),
    Device("H200, replayed as a graph", 4800, 66.9, 134, 141, CUDA_GRAPH, None, "as above"),
]

# --- Arithmetic

Prediction = namedtuple("Prediction", "slow fast limit")  # tokens a second; what takes most time


def predict(device, cost, n_tokens, ops_per_s):
    """Launches wait for each other; bytes and operations of one overlap. `cost` is what
    `sobre inspect --json` says of one token or a prompt."""
    n_bytes = sum(cost[key] for key in ("weight_bytes", "kv_bytes", "activation_bytes"))
    moving = n_bytes / (device.bandwidth * 1e9 * STREAM_SHARE)
    computing = cost["flop"] / ops_per_s
    rates, spent = [], {"bandwidth": moving, "arithmetic": computing, "launches": 0}
    for microseconds in device.launch_us:
        launching = cost["n_launches"] * microseconds * 1e-6
        rates.append(n_tokens / (launching + max(moving, computing)))
        spent["launches"] += launching / len(device.launch_us)
    return Prediction(min(rates), max(rates), max(spent, key=spent.get))


def predict_all(device, plan):
    """Of one model on one device: one token at a time, a prompt in f32, a prompt in int8."""
    f32 = device.f32 * 1e12 * F32_SHARE
    ret = {"tg": predict(device, plan["per_token"], 1, f32),
           "pp": predict(device, plan["prompt"], plan["prompt"]["n_tokens"], f32)}
    if device.int8:
        ret["pp_int8"] = predict(device, plan["prompt"], plan["prompt"]["n_tokens"],
                                 device.int8 * 1e12 * INT8_SHARE)
    return ret


def fits(device, plan):
    return device.memory is None or plan["memory"]["total_bytes"] <= device.memory * 1e9


def roofline(device, plan):
    """Tokens a second if a token took nothing but its weights and cache, at all of the bandwidth."""
    token = plan["per_token"]
    return device.bandwidth * 1e9 / (token["weight_bytes"] + token["kv_bytes"])


def bytes_over_needed(plan):
    """Bytes that a token reads and writes, in units of its weights and its cache."""
    token = plan["per_token"]
    needed = token["weight_bytes"] + token["kv_bytes"]
    return (needed + token["activation_bytes"]) / needed


# --- What the program counts


def inspect(build, shape, quant):
    env = dict(os.environ)
    env.setdefault("OPENCL_LAYERS", os.path.join(build, "tests", "libmemory_layer.so"))
    command = [os.path.join(build, "sobre"), "inspect", "--shape", shape, "--quant", quant,
               "--device", "opencl:0", "--plugins", build, "--n-ctx", str(N_CTX),
               "--n-past", str(N_PAST), "--json"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: failed; build `programs` and `tests/libmemory_layer.so`, and "
                 "point OCL_ICD_VENDORS to an OpenCL runtime")
    return json.loads(done.stdout)


def read_measured(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            rows += [row for row in json.load(f) if row["program"] == "sobre"]
    return rows


def find_measured(rows, device, shape, quant):
    """The fastest backend's row."""
    found = [row for row in rows if device.match and re.search(device.match, row["device"])
             and (row["shape"], row["quant"]) == (shape, quant)]
    return max(found, key=lambda row: row["decode_ts"].get("1", 0), default=None)


# --- Tables


def table(head, rows):
    yield "| " + " | ".join(head) + " |\n"
    yield "|" + "".join("---|" if i < 2 else "---:|" for i in range(len(head))) + "\n"
    for row in rows:
        yield "| " + " | ".join(row) + " |\n"


def rounded(x):
    """To three digits: no prediction deserves more."""
    return f"{float(f'{x:.3g}'):.0f}"


def span(p):
    return f"{rounded(p.slow)}–{rounded(p.fast)}" if p else ""


def measured_cell(rate):
    return f"**{rate:.0f}**" if rate else ""


def prediction_rows(device, plans, measured):
    for (shape, quant), plan in plans.items():
        if not fits(device, plan):
            yield [shape, quant, "too large", *[""] * 7]
            continue
        p = predict_all(device, plan)
        row = find_measured(measured, device, shape, quant) or {}
        most = roofline(device, plan) / 100
        yield [shape, quant, span(p["tg"]), f"{p['tg'].slow / most:.0f}–{p['tg'].fast / most:.0f} %",
               p["tg"].limit,
               measured_cell(row.get("decode_ts", {}).get("1")), span(p["pp"]), p["pp"].limit,
               span(p.get("pp_int8")), measured_cell(row.get("prefill_ts"))]


def plan_rows(plans):
    for (shape, quant), plan in plans.items():
        token, prompt = plan["per_token"], plan["prompt"]
        yield [shape, quant, f"{token['weight_bytes'] / 1e6:.1f}", f"{token['kv_bytes'] / 1e6:.2f}",
               f"{token['activation_bytes'] / 1e6:.2f}", f"{bytes_over_needed(plan):.3f}",
               f"{token['flop'] / 1e9:.2f}", str(token["n_launches"]), f"{prompt['flop'] / 1e9:.0f}",
               str(prompt["n_launches"])]


def device_rows():
    for d in DEVICES:
        launch = f"{d.launch_us[0]:g}–{d.launch_us[1]:g}"
        yield [d.name, d.sources, f"{d.bandwidth:g}", f"{d.f32:g}", f"{d.int8:g}" if d.int8 else "",
               launch]


INTRO = f"""# Predicted speed

Tokens a second on graphics cards. Nobody has run this program on these cards: **all figures are
predicted**, but for the columns "measured", which stay empty until somebody does. This page is
written by

    python3 bench/predict.py BUILD -o docs/predictions.md --measured bench/results/gpu-*.json

where the last part is there once `bench/gpu.sh` has measured something.

A token takes its launches, one after the other, and the time of its bytes or of its operations,
whichever is longer; a prompt of {N_PROMPT} tokens likewise. Of each pair of figures the first is
with the slowest launches of the table of cards, the second with the fastest. "Limit" is what takes
most of the time. The roofline is weights and cache at all of the bandwidth, and nothing else.
"""

PLANS = f"""
## What a plan does

Counted by `sobre inspect --json`, on the plan that a card would run: weights as they are packed for
it, each read once; the cache, in f16, of {N_PAST} positions; activations as nodes read and write
them. The test `gpu_reads` sees that launches are given just these weights. "All" is all bytes of a
token over those of weights and cache; the bound is 1.05.

"""

CARDS = """
## Cards

Bandwidth and f32 arithmetic are what is published. int8 is what dot products of four elements reach
outside matrix units, derived from how many lanes have them; no kernel uses them yet.

"""

ASSUMED = f"""
## Assumptions

- Products reach {100 * STREAM_SHARE:.0f} % of the bandwidth, and for prompts {100 * F32_SHARE:.0f} % of f32 or
  {100 * INT8_SHARE:.0f} % of int8 arithmetic. These are what the kernels aim at.
- Microseconds from one launch to the next are what others found: 5 to 10 in OpenCL on cards, up to
  42 on Intel's integrated ones, 1.3 in a CUDA graph on an H100, where the aim is 2.
- What groups of a launch share comes from caches. Caches that hold a whole model, clocks that fall
  under load, and the host are left out.
"""


def page(plans, measured):
    head = ["model", "type", "one at a time", "of the roofline", "limit", "measured",
            f"prompt of {N_PROMPT}, f32", "limit", "in int8", "measured"]
    yield INTRO
    for device in DEVICES:
        yield f"\n## {device.name}\n\n"
        yield from table(head, prediction_rows(device, plans, measured))
    yield PLANS
    yield from table(["model", "type", "weights, MB", "cache, MB", "activations, MB", "all",
                      "operations, G", "launches", "a prompt's operations, G", "its launches"],
                     plan_rows(plans))
    yield CARDS
    yield from table(["card", "from", "GB/s", "f32, TFLOPS", "int8, TOPS", "µs a launch"],
                     device_rows())
    yield ASSUMED


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build", help="the build folder")
    parser.add_argument("-o", "--output", help="a file to write; stdout if not given")
    parser.add_argument("--measured", nargs="*", default=[], metavar="FILE",
                        help="JSON that bench/gpu.sh wrote")
    args = parser.parse_args()
    build = os.path.abspath(args.build)
    plans = {(s, q): inspect(build, s, q) for s in SHAPES for q in QUANTS}
    text = "".join(page(plans, read_measured(args.measured)))
    if not args.output:
        sys.stdout.write(text)
        return
    with open(args.output, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
