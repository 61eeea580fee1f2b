#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures process start to first token, and peak memory: what a user waits for and pays.

usage: start.py SOBRE MODEL.gguf [-r RUNS] [-n TOKENS] [-t THREADS] [--n-ctx N] [--device DEVICE]

Each run but the first is counted. It is a new process with a prompt of 8 tokens (in SmolLM2's
vocabulary); the file is in the page cache, and a device's kernels are in their cache on disk. Prints
one JSON object: medians, and each run's time to the first token.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

PROMPT = "The quick brown fox jumps over the lazy"


def once(args):
    cmd = [args.sobre, "run", args.model, "--raw", "-p", PROMPT, "-n", str(args.n), "--temp", "0",
           "--device", args.device, "--n-ctx", str(args.n_ctx), "--ignore-eos"]
    if args.t:
        cmd += ["-t", str(args.t)]
    start = time.monotonic()
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    os.read(p.stdout.fileno(), 1)
    first = time.monotonic() - start
    p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(cmd)} failed")
    return first, time.monotonic() - start, usage.ru_maxrss * 1024


def main():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("sobre")
    a.add_argument("model")
    a.add_argument("-r", type=int, default=7)
    a.add_argument("-n", type=int, default=64)
    a.add_argument("-t", type=int, default=0)
    a.add_argument("--n-ctx", type=int, default=2048)
    a.add_argument("--device", default="cpu")
    args = a.parse_args()
    with open(args.model, "rb") as f:  # into the page cache
        while f.read(1 << 24):
            pass
    once(args)
    runs = [once(args) for _ in range(args.r)]
    first, whole, peak = zip(*runs)
    size = os.path.getsize(args.model)
    print(json.dumps({
        "model": os.path.basename(args.model), "device": args.device, "n_gen": args.n,
        "n_ctx": args.n_ctx,
        "file_mb": round(size / 1e6, 1),
        "first_token_s": round(statistics.median(first), 3),
        "process_s": round(statistics.median(whole), 3),
        "peak_mb": round(statistics.median(peak) / 1e6, 1),
        "peak_over_file_mb": round((statistics.median(peak) - size) / 1e6, 1),
        "samples_first_token_s": [round(x, 3) for x in first],
    }))


if __name__ == "__main__":
    main()
