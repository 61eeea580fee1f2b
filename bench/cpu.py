#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures the CPU backend: prompts and generation, as shares of what the machine does at most, and
in turns with llama-bench on the same files.

usage: cpu.py [options] MODEL...

MODEL is a GGUF file, or SHAPE:TYPE as in `sobre bench --shape list` (qwen2.5-0.5b-llama:Q4_0): a file
with random weights, made in the build folder. The build folder is brought up to date first.

Writes bench/results/cpu-NAME.json, with every run, and cpu-NAME.md. Method: docs/benchmark.md.
"""
import argparse
import collections
import datetime
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
FLOATS = ["F32", "F16", "BF16"]  # multiplied in f32
MOST_DIVERGENCE, MOST_MEAN_DIVERGENCE = 2, 1.15  # of the peer's, see docs/numerics.md


# --- Arithmetic

def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def mean_of_probes(before, after):
    """Figures of the probes around a run; names are the same."""
    return {key: value if isinstance(value, str) else (value + after[key]) / 2
            for key, value in before.items()}


def shares(model, speeds, probe):
    """Prefill as a share of the products that the machine does in the same time, decode as a share
    of the bytes that it reads. A prompt's products are twice its tokens times the weights; those
    of the output count for one token, the others' logits are not computed."""
    peak = probe["f32_gflops" if model["quantization"] in FLOATS else "int8_gops"]
    result = {}
    for test, rate in speeds.items():
        if test.startswith("pp"):
            gops = model["prompt_ops"] * rate / model["n_prompt"] / 1e9
            result[test] = gops / peak
        elif "x" not in test:  # several sequences share what is read
            result[test] = model["token_bytes"] * rate / 1e9 / probe["read_gbs"]
    return result


def ratios(ours, peers):
    return {test: rate / peers[test] for test, rate in ours.items() if test in peers}


def batch_gains(speeds):
    """tg128x8 over tg128."""
    return {test: rate / speeds[test.split("x")[0]] for test, rate in speeds.items()
            if "x" in test and test.split("x")[0] in speeds}


def summarise(pairs):
    """Medians over all pairs: of speeds, and of ratios and shares that are taken pair by pair."""
    result = {}
    for key in ["sobre", "peer", "ratio", "share", "batch_gain"]:
        rows = [pair[key] for pair in pairs if key in pair]
        if rows:
            result[key] = {test: median([row[test] for row in rows]) for test in rows[0]}
    result["over_file_bytes"] = median([pair["over_file_bytes"] for pair in pairs])
    return result


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def divergence(reference, logits):
    """Kullback-Leibler divergence of two rows of logits, in nats."""
    def log_sum(row):
        most = max(row)
        return most + math.log(sum(math.exp(x - most) for x in row))
    a, b = log_sum(reference), log_sum(logits)
    return sum(math.exp(x - a) * (x - a - y + b) for x, y in zip(reference, logits))


# --- Programs

def busy_seconds():
    """Of all processors since the start, what a host took from virtual ones included."""
    with open("/proc/stat", encoding="ascii") as f:
        ticks = list(map(int, f.readline().split()[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # but idle and iowait


# What a program printed, its peak memory in bytes, and how many processors others kept busy.
Run = collections.namedtuple("Run", "text memory others")


def run(command):
    start, busy = time.monotonic(), busy_seconds()
    # Files, not pipes: wait4() has the usage, and nothing has to be read meanwhile.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed\n{out.read()}{err.read()}")
        others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        return Run(out.read(), usage.ru_maxrss * 1024,
                   max(0, others / (time.monotonic() - start)))


def run_json(*command):
    return json.loads(run([str(word) for word in command]).text)


def test_name(row):
    name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return name + (f"x{row['n_seq']}" if row.get("n_seq", 1) > 1 else "")


def speeds(text):
    """Rows of either program; each is the median of its samples."""
    return {test_name(row): median(row["samples_ts"]) for row in json.loads(text)}


class Bench:
    def __init__(self, args):
        self.args = args
        self.peer = None  # its name, once it has run
        self.sobre = os.path.join(args.build, "sobre")
        self.bench_cpu = os.path.join(args.build, "bench-cpu")

    def model_file(self, model):
        if os.path.exists(model) or ":" not in model:
            return model
        shape, quant = model.split(":")
        path = os.path.join(self.args.build, "models", f"{shape}-{quant}.gguf")
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            run([self.sobre, "bench", "--shape", shape, "--quant", quant, "--write", path])
        return path

    def probe(self, n_threads):
        return run_json(self.bench_cpu, "--threads", n_threads, "--isa", self.args.isa)

    def numbers(self, n_threads):
        a = self.args
        return ["-p", str(a.n_prompt), "-n", str(a.n_gen), "-r", str(a.repeats), "-t",
                str(n_threads), "-o", "json"]

    def run_sobre(self, path, n_threads, *options):
        done = run([self.sobre, "bench", path, "--device", "cpu", "--isa", self.args.isa,
                    *self.numbers(n_threads), *options])
        return speeds(done.text), done

    def run_peer(self, path, n_threads):
        done = run([self.args.peer, "-m", path, *self.numbers(n_threads),
                    *self.args.peer_args.split()])
        self.peer = f"llama.cpp {json.loads(done.text)[0]['build_commit']}"
        return {"peer": speeds(done.text), "others_at_peer": done.others}

    def run_batches(self, path, n_threads):
        """Apart, since their caches are memory too; beside one sequence in the same process."""
        rates, _ = self.run_sobre(path, n_threads, "-p", "0", "--n-seq", "1," + self.args.n_seq)
        return {test: rate for test, rate in rates.items() if "x" in test}, batch_gains(rates)

    def pair(self, path, model, n_threads, peer_first):
        pair = {}
        if self.args.peer and peer_first:
            pair.update(self.run_peer(path, n_threads))
        pair["probe_before"] = self.probe(n_threads)
        pair["sobre"], done = self.run_sobre(path, n_threads)
        pair["probe_after"] = self.probe(n_threads)
        if self.args.peer and not peer_first:
            pair.update(self.run_peer(path, n_threads))
        if self.args.peer:
            pair["ratio"] = ratios(pair["sobre"], pair["peer"])
        pair["share"] = shares(model, pair["sobre"],
                               mean_of_probes(pair["probe_before"], pair["probe_after"]))
        if self.args.n_seq:
            batches, pair["batch_gain"] = self.run_batches(path, n_threads)
            pair["sobre"].update(batches)
        pair["others"] = done.others
        pair["over_file_bytes"] = done.memory - model["file_bytes"] - model["kv_bytes"]
        return pair

    def measure(self, path, n_threads):
        a = self.args
        model = run_json(self.bench_cpu, "--model", path, "-p", a.n_prompt or 1, "-n", a.n_gen or 1)
        model["file_bytes"] = os.path.getsize(path)
        name = os.path.basename(path)
        pairs = []
        for i in range(a.rounds):
            pairs.append(self.pair(path, model, n_threads, i % 2 == 0))
            print(f"{name}, {n_threads} threads, {i + 1} of {a.rounds}: {line(pairs[-1])}",
                  file=sys.stderr, flush=True)
        return {"model": name, "n_threads": n_threads, **model, "pairs": pairs,
                "median": summarise(pairs)}

    def accuracy(self, path, folder):
        """How far logits are from exact ones, in units of the peer's distance, text by text."""
        with open(os.path.join(folder, "prompts.json"), encoding="utf-8") as f:
            prompts = json.load(f)
        result = {}
        for name, prompt in prompts.items():
            with tempfile.TemporaryDirectory() as temporary:
                out = os.path.join(temporary, "out.npy")
                run([self.sobre, "logits", path, "--device", "cpu", "--isa", self.args.isa, "--ids",
                     ",".join(map(str, prompt["ids"])), "-o", out])
                logits = read_npy(out)
            reference = read_npy(os.path.join(folder, name + ".npy"))
            distances = [divergence(row, logits[at])
                         for row, at in zip(reference, prompt["positions"])]
            result[name] = sum(distances) / len(distances) / prompt["llama_cpp_mean_kld"]
        return result


def read_npy(path):
    """Rows of a file of float16 or float32."""
    with open(path, "rb") as f:
        data = f.read()
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:begin].decode()
    kind = {"<f2": "e", "<f4": "f"}[re.search(r"'descr': '([^']*)'", header)[1]]
    n_rows, n_cols = map(int, re.search(r"\((\d+), (\d+)\)", header).groups())
    size = n_cols * struct.calcsize(kind)
    return [struct.unpack_from(f"<{n_cols}{kind}", data, begin + i * size) for i in range(n_rows)]


# --- Results

def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def percent(value):
    return f"{100 * value:.0f} %"


def line(pair):
    """A pair in a line."""
    parts = []
    for test, rate in pair["sobre"].items():
        parts.append(f"{test} {number(rate)}")
        if test in pair.get("ratio", {}):
            parts[-1] += f" = {pair['ratio'][test]:.2f} x peer"
        if test in pair["share"]:
            parts[-1] += f", {percent(pair['share'][test])} of peak"
        if test in pair.get("batch_gain", {}):
            parts[-1] += f" = {pair['batch_gain'][test]:.2f} x one"
    return "; ".join(parts)


def spread(pairs, key, test, form):
    """The median of a figure and, in brackets, its range."""
    values = [pair[key][test] for pair in pairs if test in pair.get(key, {})]
    if not values:
        return ""
    return f"{form(median(values))} ({form(min(values))} to {form(max(values))})"


def times(value):
    return f"{value:.2f}"


def markdown(results):
    """Tables: medians with their range, then every pair."""
    def row(*cells):
        return "| " + " | ".join(map(str, cells)) + " |\n"

    def header(names, n_text=1):
        return row(*names) + row(*["---"] * n_text, *["---:"] * (len(names) - n_text))

    pp, tg = f"pp{results['n_prompt']}", f"tg{results['n_gen']}"
    has_peer = results["peer"] is not None
    first = results["runs"][0]["pairs"][0]["probe_before"]
    text = [f"# {first['cpu']}\n\n"
            f"{results['date']}, sobre {results['sobre']}, {first['isa']}"
            f"{', ' + results['peer'] if has_peer else ''}; written by bench/cpu.py, method: "
            "docs/benchmark.md. Tokens a second; medians of all pairs, ranges in brackets. A "
            f"prompt's share is of {first['int8']} (float weights: of f32), generation's of plain "
            "reads. Memory: peak beyond the file and the KV pages in use.\n\n"]
    text.append(header(["model", "threads", f"{pp}", "x llama.cpp", "share", f"{tg}", "x llama.cpp",
                        "share", "memory"]))
    for r in results["runs"]:
        cells = []
        for test in [pp, tg]:
            cells += [spread(r["pairs"], "sobre", test, number),
                      spread(r["pairs"], "ratio", test, times),
                      spread(r["pairs"], "share", test, percent)]
        text.append(row(r["model"], r["n_threads"], *cells,
                        f"{r['median']['over_file_bytes'] / 1e6:.0f} MB"))
    batches = [(r, test) for r in results["runs"] for test in r["median"].get("batch_gain", {})]
    if batches:
        text.append("\nGeneration of several sequences at once, tokens of all, and as a multiple of "
                    "one sequence:\n\n" + header(["model", "threads", "test", "tokens/s", "x one"]))
        for r, test in batches:
            text.append(row(r["model"], r["n_threads"], test,
                            spread(r["pairs"], "sobre", test, number),
                            spread(r["pairs"], "batch_gain", test, times)))
    if results["accuracy"]:
        values = results["accuracy"].values()
        text.append(f"\nDistance of {results['runs'][0]['model']}'s logits from exact ones, the "
                    f"peer's being 1: {geometric_mean(values):.2f} (geometric mean), at most {max(values):.2f}.\n")
    for r in results["runs"]:
        text.append(f"\n## {r['model']}, {r['n_threads']} thread{'s' * (r['n_threads'] > 1)}\n\n"
                    "Every pair; peaks before and after (int8 GOPS, f32 GFLOPS, GB/s read); "
                    "processors that others kept busy during our run and the peer's.\n\n")
        columns = [(test, program) for test in r["pairs"][0]["sobre"]
                   for program in ["sobre", "peer"] if test in r["pairs"][0].get(program, {})]
        names = [test if program == "sobre" else "llama.cpp" for test, program in columns]
        text.append(header([*names, "int8", "f32", "read", "others"], 0))
        for pair in r["pairs"]:
            rates = [number(pair[program][test]) for test, program in columns]
            peaks = [f"{number(pair['probe_before'][key])}, {number(pair['probe_after'][key])}"
                     for key in ["int8_gops", "f32_gflops", "read_gbs"]]
            others = [times(pair[key]) for key in ["others", "others_at_peer"] if key in pair]
            text.append(row(*rates, *peaks, ", ".join(others)))
    return "".join(text)


def write(results, folder, name):
    cpu = results["runs"][0]["pairs"][0]["probe_before"]["cpu"]
    slug = re.sub(r"[^a-z0-9]+", "-", (name or cpu).lower()).strip("-")
    os.makedirs(folder, exist_ok=True)
    out = os.path.join(folder, f"cpu-{slug}")
    with open(out + ".json", "w", encoding="utf-8") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    with open(out + ".md", "w", encoding="utf-8") as f:
        f.write(markdown(results))


def main():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+", metavar="MODEL")
    a.add_argument("--peer", metavar="FILE", help="llama-bench; without it only ours are measured")
    a.add_argument("--peer-args", default="", metavar="TEXT", help="more arguments for it")
    a.add_argument("-t", "--threads", default="2", metavar="N,N", help="threads; default 2")
    a.add_argument("-p", "--n-prompt", type=int, default=512, metavar="N")
    a.add_argument("-n", "--n-gen", type=int, default=128, metavar="N")
    a.add_argument("--n-seq", metavar="N,N", help="also generate for so many sequences at once")
    a.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of runs; default 5")
    a.add_argument("-r", "--repeats", type=int, default=3, metavar="N",
                   help="measurements in each run, of which the median counts; default 3")
    a.add_argument("--isa", default="best", help="instruction set, as `sobre bench --isa`")
    a.add_argument("--golden", metavar="DIR",
                   help="exact logits (CONTRIBUTING.md) to compare the first MODEL's with")
    a.add_argument("--build", default=os.path.join(HERE, "..", "build"), metavar="DIR",
                   help="build folder; default build")
    a.add_argument("--results", default=os.path.join(HERE, "results"), metavar="DIR")
    a.add_argument("--name", help="of the results; the processor's if not given")
    args = a.parse_args()
    if args.rounds < 1 or args.repeats < 1 or args.n_prompt + args.n_gen < 1:
        a.error("there is nothing to measure")
    run(["ninja", "-C", args.build, "sobre", "bench-cpu"])
    bench = Bench(args)
    paths = [bench.model_file(model) for model in args.models]
    results = {"date": datetime.date.today().isoformat(),
               "sobre": run([bench.sobre, "--version"]).text.split()[-1],
               "n_prompt": args.n_prompt, "n_gen": args.n_gen, "repeats": args.repeats,
               "accuracy": bench.accuracy(paths[0], args.golden) if args.golden else None,
               "runs": []}
    for path in paths:
        for n_threads in args.threads.split(","):
            results["runs"].append(bench.measure(path, int(n_threads)))
            results["peer"] = bench.peer
            write(results, args.results, args.name)  # each time: the whole may take an hour
    print(markdown(results), end="")
    far = results["accuracy"] and (max(results["accuracy"].values()) > MOST_DIVERGENCE or
                                   geometric_mean(results["accuracy"].values()) >
                                   MOST_MEAN_DIVERGENCE)
    if far:
        sys.exit(f"logits are too far from exact ones: {results['accuracy']}")


if __name__ == "__main__":
    main()
