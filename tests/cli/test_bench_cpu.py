#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of bench/cpu.py: its arithmetic, its tables, and what it asks programs for.

usage: test_bench_cpu.py CPU_PY [SOBRE BENCH_CPU TINY_MODEL]
"""
import argparse
import importlib.util
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("cpu", sys.argv[1])
cpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cpu)

PROBE = {"cpu": "A processor", "isa": "AVX2", "int8": "vpmaddubsw", "f32": "vfmadd", "n_threads": 2,
         "int8_gops": 600, "f32_gflops": 200.0, "read_gbs": 40.0}
MODEL = {"quantization": "Q4_0", "n_prompt": 512, "prompt_ops": 102.4e9, "token_bytes": 100 * 10**6,
         "file_bytes": 100, "kv_bytes": 10}


def pair(sobre, peer, read=40.0):
    probe = {**PROBE, "read_gbs": read}
    return {"peer": peer, "probe_before": probe, "sobre": sobre, "probe_after": probe,
            "ratio": cpu.ratios(sobre, peer), "share": cpu.shares(MODEL, sobre, probe),
            "batch_gain": cpu.batch_gains(sobre), "over_file_bytes": 20 * 10**6, "others": 0.01,
            "others_at_peer": 1.5}


PAIRS = [pair({"pp512": 1000, "tg128": 200, "tg128x8": 900}, {"pp512": 500, "tg128": 50}),
         pair({"pp512": 900, "tg128": 300, "tg128x8": 900}, {"pp512": 100, "tg128": 150}),
         pair({"pp512": 800, "tg128": 100, "tg128x8": 600}, {"pp512": 200, "tg128": 100}, 20.0)]


class Arithmetic(unittest.TestCase):
    def test_median(self):
        self.assertEqual(cpu.median([5, 1, 3]), 3)
        self.assertEqual(cpu.median([4, 1, 3, 2]), 2.5)

    def test_probes(self):
        mean = cpu.mean_of_probes(PROBE, {**PROBE, "int8_gops": 500.0, "read_gbs": 20.0})
        self.assertEqual((mean["int8_gops"], mean["read_gbs"], mean["isa"]), (550, 30, "AVX2"))

    def test_shares(self):
        speeds = {"pp512": 1500, "tg128": 300, "tg128x8": 1000}
        shares = cpu.shares(MODEL, speeds, PROBE)
        self.assertEqual(list(shares), ["pp512", "tg128"])
        self.assertAlmostEqual(shares["pp512"], 0.5)  # 0.2 G operations a token
        self.assertAlmostEqual(shares["tg128"], 0.75)
        shares = cpu.shares({**MODEL, "quantization": "F16"}, {"pp512": 500}, PROBE)
        self.assertAlmostEqual(shares["pp512"], 0.5)

    def test_medians_are_of_ratios(self):
        medians = cpu.summarise(PAIRS)
        self.assertEqual(medians["sobre"], {"pp512": 900, "tg128": 200, "tg128x8": 900})
        self.assertEqual(medians["ratio"], {"pp512": 4, "tg128": 2})  # of the medians: 4.5 and 2
        self.assertEqual(medians["batch_gain"], {"tg128x8": 4.5})
        self.assertAlmostEqual(medians["share"]["tg128"], 0.5)

    def test_without_a_peer(self):
        alone = [{key: p[key] for key in p if key not in ["peer", "ratio"]} for p in PAIRS]
        self.assertNotIn("ratio", cpu.summarise(alone))

    def test_divergence(self):
        self.assertAlmostEqual(cpu.divergence([1, 2, 3], [11, 12, 13]), 0)
        a, b = [math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)]
        self.assertAlmostEqual(cpu.divergence(a, b), 0.5 * math.log(2) + 0.5 * math.log(2 / 3))
        self.assertAlmostEqual(cpu.geometric_mean([0.5, 2, 8]), 2)

    def test_npy(self):
        with tempfile.TemporaryDirectory() as folder:
            for kind, letter in [("<f2", "e"), ("<f4", "f")]:
                header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (2, 3), }}"
                header = header.ljust(117) + "\n"
                path = os.path.join(folder, letter)
                with open(path, "wb") as f:
                    f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
                    f.write(struct.pack(f"<6{letter}", *range(6)))
                self.assertEqual(cpu.read_npy(path), [(0, 1, 2), (3, 4, 5)])


class Tables(unittest.TestCase):
    def results(self, pairs):
        return {"date": "2026-01-01", "sobre": "0.1.0", "peer": "llama.cpp 123", "n_prompt": 512,
                "n_gen": 128, "accuracy": {"en": 0.5, "fr": 2.0},
                "runs": [{"model": "a.gguf", "n_threads": 2, **MODEL, "pairs": pairs,
                          "median": cpu.summarise(pairs)}]}

    def columns(self, text):
        """Lines of a table, all of the same width."""
        for block in text.split("\n\n"):
            lines = block.splitlines()
            if lines[0].startswith("|"):
                self.assertEqual(len({line.count("|") for line in lines}), 1, block)
                yield [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    def test_every_pair_is_shown(self):
        text = cpu.markdown(self.results(PAIRS))
        overview, batches, pairs = self.columns(text)
        self.assertEqual(overview[2][:5], ["a.gguf", "2", "900 (800 to 1000)",
                                           "4.00 (2.00 to 9.00)", "30 % (27 % to 33 %)"])
        self.assertEqual(overview[2][-1], "20 MB")
        self.assertEqual(batches[2][2:], ["tg128x8", "900 (600 to 900)", "4.50 (3.00 to 6.00)"])
        self.assertEqual([line[:5] for line in pairs[2:]],
                         [["1000", "500", "200", "50.0", "900"], ["900", "100", "300", "150", "900"],
                          ["800", "200", "100", "100", "600"]])
        self.assertEqual([line[-2] for line in pairs[2:]], ["40.0, 40.0", "40.0, 40.0", "20.0, 20.0"])
        self.assertEqual(pairs[2][-1], "0.01, 1.50")
        self.assertIn("1.00 (geometric mean), at most 2.00", text)

    def test_only_generation(self):
        alone = [{**p, "peer": {}, "ratio": {}, "batch_gain": {}, "sobre": {"tg128": 1.0},
                  "share": {"tg128": 0.5}} for p in PAIRS]
        overview, pairs = self.columns(cpu.markdown(self.results(alone)))
        self.assertEqual(overview[2][2:8], ["", "", "", "1.0 (1.0 to 1.0)", "", "50 % (50 % to 50 %)"])
        self.assertEqual(pairs[0][0], "tg128")


class Programs(unittest.TestCase):
    """Without its peaks, which take a quiet machine and memory."""

    def setUp(self):
        if len(sys.argv) < 5:
            self.skipTest("the program or bench-cpu is not built")
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.model = os.path.join(self.folder.name, "tiny.gguf")
        subprocess.run([sys.argv[4], "whole", self.model], check=True)

    def bench(self):
        bench = cpu.Bench(argparse.Namespace(
            build=self.folder.name, isa="best", n_prompt=8, n_gen=2, repeats=2, n_seq="4",
            rounds=2, peer=self.peer(), peer_args="--same"))
        bench.sobre, bench.bench_cpu = sys.argv[2:4]
        bench.probe = lambda n_threads: {**PROBE, "n_threads": n_threads}
        return bench

    def peer(self):
        """A program that answers like llama-bench, and keeps what it was asked."""
        path = os.path.join(self.folder.name, "peer.py")
        rows = [{"build_commit": "abc", "n_prompt": 8, "n_gen": 0, "samples_ts": [1, 2, 3]},
                {"build_commit": "abc", "n_prompt": 0, "n_gen": 2, "samples_ts": [4, 5, 6]}]
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"#!{sys.executable}\nimport sys\nopen({path + '.asked'!r}, 'w').write("
                    f"' '.join(sys.argv[1:]))\nprint({json.dumps(rows)!r})\n")
        os.chmod(path, 0o755)
        return path

    def test_a_model(self):
        bench = self.bench()
        run = bench.measure(self.model, 1)
        self.assertEqual(len(run["pairs"]), 2)
        for p in run["pairs"]:
            self.assertEqual(list(p["sobre"]), ["pp8", "tg2", "tg2x4"])
            self.assertEqual(list(p["batch_gain"]), ["tg2x4"])
            self.assertGreaterEqual(p["others"], 0)
            self.assertEqual(p["peer"], {"pp8": 2, "tg2": 5})
            self.assertAlmostEqual(p["ratio"]["tg2"], p["sobre"]["tg2"] / 5)
        self.assertEqual(list(run["pairs"][0])[0], "peer")  # who is first takes turns
        self.assertEqual(list(run["pairs"][1])[0], "probe_before")
        with open(bench.args.peer + ".asked", encoding="utf-8") as f:
            self.assertEqual(f.read(), f"-m {self.model} -p 8 -n 2 -r 2 -t 1 -o json --same")
        self.assertEqual(bench.peer, "llama.cpp abc")

    def test_counts(self):
        """Products of all tokens, but of one for the logits."""
        def ops(n):
            return cpu.run_json(sys.argv[3], "--model", self.model, "-p", n)["prompt_ops"]
        a_token, logits = ops(2) - ops(1), 2 * ops(1) - ops(2)
        self.assertAlmostEqual(ops(100), 100 * a_token + logits)
        info = cpu.run_json(sys.argv[2], "inspect", self.model, "--json")
        self.assertEqual(logits, 2 * info["n_vocab"] * info["n_embd"])
        counts = cpu.run_json(sys.argv[3], "--model", self.model, "-p", 8, "-n", 8)
        row = 8 * info["n_embd"]  # of the embedding, which is the output too; padded
        self.assertTrue(0 < counts["token_bytes"] <= counts["weight_bytes"] + row)

    def test_bench_cpu_mistakes(self):
        for args in [["--threads"], ["--threads", "x"], ["--isa", "none"], ["x", "y"]]:
            done = subprocess.run([sys.argv[3], *args], stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"usage:", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
