#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of bench/predict.py: its arithmetic, its tables, and what it asks the program for.

usage: test_predict.py PREDICT_PY SOBRE
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("predict", sys.argv[1])
predict = importlib.util.module_from_spec(spec)
spec.loader.exec_module(predict)

# 100 GB/s, of which 80 are reached; 10 to 20 microseconds a launch.
CARD = predict.Device("A card", 100, 1.0, 4.0, 1, (10, 20), "Card", "nowhere")
COST = {"weight_bytes": 70 * 10**6, "kv_bytes": 8 * 10**6, "activation_bytes": 2 * 10**6,
        "flop": 10**8, "n_launches": 50}
PROMPT = {**COST, "n_tokens": 512, "flop": 10**11, "n_launches": 60}
PLAN = {"per_token": COST, "prompt": PROMPT, "memory": {"total_bytes": 10**8}}
ROW = {"program": "sobre", "device": "Some Card 2", "shape": "s", "quant": "Q4_0",
       "prefill_ts": 777.4, "decode_ts": {"1": 555.4, "8": 9}}


class Arithmetic(unittest.TestCase):
    def test_launches_and_bytes_add_up(self):
        p = predict.predict(CARD, COST, 1, 1e12)
        self.assertAlmostEqual(p.fast, 1 / (0.0005 + 0.001))  # 80 MB at 80 GB/s
        self.assertAlmostEqual(p.slow, 1 / (0.0010 + 0.001))
        self.assertEqual(p.limit, "bandwidth")

    def test_operations_overlap_with_bytes(self):
        p = predict.predict(CARD, PROMPT, 512, 0.5e12)
        self.assertAlmostEqual(p.fast, 512 / (0.0006 + 0.2))
        self.assertEqual(p.limit, "arithmetic")

    def test_more_launches_take_longer(self):
        few = predict.predict(CARD, COST, 1, 1e12)
        many = predict.predict(CARD, {**COST, "n_launches": 500}, 1, 1e12)
        self.assertLess(many.fast, few.slow)
        self.assertEqual(many.limit, "launches")

    def test_int8_is_for_prompts_and_cards_that_have_it(self):
        p = predict.predict_all(CARD, PLAN)
        self.assertAlmostEqual(p["pp"].fast, 512 / (0.0006 + 0.2))
        self.assertAlmostEqual(p["pp_int8"].fast, 512 / (0.0006 + 0.1))
        self.assertNotIn("pp_int8", predict.predict_all(CARD._replace(int8=None), PLAN))

    def test_bounds(self):
        self.assertAlmostEqual(predict.roofline(CARD, PLAN), 100e9 / 78e6)
        self.assertAlmostEqual(predict.bytes_over_needed(PLAN), 80 / 78)
        self.assertTrue(predict.fits(CARD, PLAN))
        self.assertFalse(predict.fits(CARD, {**PLAN, "memory": {"total_bytes": 2 * 10**9}}))


class Tables(unittest.TestCase):
    def test_measured_stand_beside_predicted(self):
        plans = {("s", "Q4_0"): PLAN, ("s", "Q8_0"): PLAN}
        rows = list(predict.prediction_rows(CARD, plans, [ROW]))
        self.assertEqual(rows[0][:6],
                         ["s", "Q4_0", "500–667", "39–52 %", "bandwidth", "**555**"])
        self.assertEqual(rows[0][-1], "**777**")
        self.assertEqual((rows[1][5], rows[1][-1]), ("", ""))
        others = CARD._replace(match="Another")
        self.assertEqual(next(predict.prediction_rows(others, plans, [ROW]))[5], "")

    def test_three_digits(self):
        self.assertEqual([predict.rounded(x) for x in (12535.2, 654.4, 48.4)],
                         ["12500", "654", "48"])

    def test_too_large(self):
        plans = {("s", "Q4_0"): {**PLAN, "memory": {"total_bytes": 2 * 10**9}}}
        self.assertIn("too large", next(predict.prediction_rows(CARD, plans, [])))

    def test_page(self):
        text = "".join(predict.page({("s", "Q4_0"): PLAN}, []))
        self.assertIn("**all figures are\npredicted**", text)
        for device in predict.DEVICES:
            self.assertIn(f"## {device.name}\n", text)
        heads = 0
        for block in text.split("\n\n"):
            lines = block.strip().split("\n")
            if lines[0].startswith("|"):
                heads += 1
                self.assertEqual(len({line.count("|") for line in lines}), 1, block)
        self.assertEqual(heads, len(predict.DEVICES) + 2)

    def test_only_our_rows_are_read(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "gpu.json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump([ROW, {**ROW, "program": "llama.cpp"}], f)
            self.assertEqual(predict.read_measured([path]), [ROW])


class Program(unittest.TestCase):
    def test_what_is_counted(self):
        for shape in predict.SHAPES[:2]:
            done = subprocess.run([sys.argv[2], "inspect", "--shape", shape, "--quant", "Q8_0",
                                   "--device", "cpu", "--n-ctx", str(predict.N_CTX), "--n-past",
                                   str(predict.N_PAST), "--json"],
                                  stdout=subprocess.PIPE, check=True)
            plan = json.loads(done.stdout)
            self.assertEqual(plan["per_token"]["n_past"], predict.N_PAST)
            self.assertEqual(plan["prompt"]["n_tokens"], predict.N_PROMPT)
            self.assertLess(predict.bytes_over_needed(plan), 1.05)
            self.assertGreater(predict.predict_all(CARD, plan)["tg"].fast, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
