#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of the `sobre` program, as its users call it.

usage: test_cli.py SOBRE TINY_MODEL [REAL_MODEL]     REAL_MODEL: SmolLM2-135M-Instruct, for real text
"""
import json
import os
import signal
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
from program import Program, REAL_MODEL, SOBRE, Terminal, pty, read_npy

COMMANDS = ["run", "tokenize", "logits", "bench", "inspect", "devices", "doctor"]


class Usage(Program):
    def test_version(self):
        self.assertRegex(self.out("--version"), r"^sobre \d+\.\d+\.\d+\n$")

    def test_help(self):
        text = self.out("--help")
        for command in COMMANDS:
            self.assertIn(f"  {command} ", text)
        for args in [["help"], ["help", "--help"], ["help", "-h"], ["help", "help"]]:
            self.assertEqual(self.out(*args), text)

    def test_help_of_commands(self):
        for command in COMMANDS:
            text = self.out(command, "--help")
            self.assertTrue(text.startswith(f"usage: sobre {command} "))
            for part in ["options:", "examples:", "exit codes:", "130  interrupted"]:
                self.assertIn(part, text)
            self.assertEqual(self.out("help", command), text)
            self.assertEqual(self.out(command, "-h"), text)
            self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_help_tells_defaults(self):
        text = " ".join(self.out("run", "--help").split())
        for part in ["0, the default, is greedy", "1, the default: from all",
                     "f16, with --exact f32"]:
            self.assertIn(part, text)
        self.assertGreaterEqual(text.count("the default"), 10)

    def test_mistakes(self):
        for args, text in [
            ([], "a command is missing"),
            (["rnu"], "did you mean run?"),
            (["run"], "MODEL is missing"),
            (["run", "m", "--tmp", "1"], "did you mean --temp?"),
            (["run", "m", "--temperature=1"], "did you mean --temp?"),
            (["run", "m", "--xyzzy"], "no option --xyzzy"),
            (["run", "m", "-X"], "no option -X"),
            (["run", "m", "-n"], "wants a value"),
            (["run", "m", "-n", "1.5"], "whole number"),
            (["run", "m", "-n", " 1"], "whole number"),
            (["run", "m", "-n", "99999999999999999999"], "whole number"),
            (["run", "m", "--temp", "0,5"], "wants a number"),
            (["run", "m", "--temp", "nan"], "wants a number"),
            (["run", "m", "--temp", "0x1"], "wants a number"),
            (["run", "m", "--top-p", "1.5"], "from 0 to 1"),
            (["run", "m", "--seed", "-1"], "whole number"),
            (["run", "m", "--limit", "5X"], "wants bytes"),
            (["run", "m", "--isa", "mmx"], "one of best|scalar"),
            (["run", "m", "--json=1"], "takes no value"),
            (["run", "m", "word"], "one argument too many"),
            (["run", "m", "--ids", "1,,2"], "number 2"),
            (["run", "m", "--ids", "1", "-p", "x"], "--ids is the whole prompt"),
            (["run", "m", "--logprobs", "2", "-p", "x"], "--logprobs needs --json"),
            (["run", "m", "-p", "x", "--keep", "0"], "--keep needs --full shift"),
            (["run", "m", "-p", "x", "--exact", "--kv-type", "f16"], "leave out --kv-type f16"),
            (["run", self.models["whole"]], "there is no prompt"),
            (["run", self.models["whole"], "-p", "x", "--logit-bias", "7"], "--logit-bias wants"),
            (["tokenize", "m"], "TEXT is missing"),
            (["tokenize", "m", "x", "--stdin"], "not both"),
            (["tokenize", "m", "x", "--text", "--json"], "leave out --text"),
            (["logits", "m", "-o", "x"], "either --ids or -p"),
            (["logits", "m", "--ids", "1"], "with -o"),
            (["logits", "m", "--ids", "1", "-o", "x", "--chunk", "0"], "--chunk wants"),
            (["bench"], "MODEL is missing"),
            (["bench", "m", "-p", "0", "-n", "0"], "nothing to measure"),
            (["bench", "m", "--quant", "Q4_0"], "block type of --shape"),
            (["bench", "m", "--write", "file"], "--write is for --shape"),
            (["bench", "m", "--n-seq", "0"], "--n-seq"),
            (["bench", "m", "--json", "-o", "table"], "--json is -o json"),
            (["bench", "m", "-o", "csv", "--json"], "--json is -o json"),
            (["bench", "--shape", "none"], "smollm2-135m"),
            (["devices", "--all"], "no option --all"),
            (["devices", "--timeout", "0"], "from 1 to 3600"),
            (["devices", "--backend", "metal"], "cpu, opencl or cuda"),
            (["run", "m", "-p", "x", "--layers", "2"], "--layers needs a --device"),
            (["run", "m", "-p", "x", "--layers", "2", "--device", "cpu"], "--layers needs"),
            (["bench", "m", "--blas", "maybe"], "one of auto|never|always"),
            (["run", "m", "--blas", "never"], "no option --blas"),
            (["inspect"], "MODEL is missing"),
            (["inspect", "m", "--shape", "tinyllama-1.1b"], "not both"),
            (["inspect", "--shape", "huge"], "no --shape huge"),
            (["inspect", "m", "--dot"], "--dot needs"),
            (["inspect", "m", "--graph", "--fit"], "one at a time"),
            (["inspect", "m", "--plan", "--built"], "--built needs --graph"),
            (["inspect", "m", "--graph", "--n-cols", "0"], "--n-cols needs --plan"),
        ]:
            out, err = self.sobre(*args, code=2)
            self.assertEqual(out, "", args)
            self.assertTrue(err.startswith("sobre: "), err)
            self.assertIn(text, err)

    def test_options_after_dashes_are_text(self):
        self.assertEqual(self.out("tokenize", "--", self.models["whole"], "--help"),
                         self.out("tokenize", self.models["whole"], "--stdin", text="--help"))


class Models(Program):
    def test_names_in_the_cache(self):
        ids = self.out("tokenize", self.models["whole"], "hello")
        for name in ["little-one", "little-one.gguf", "little-o", "other"]:
            self.assertEqual(self.out("tokenize", name, "hello"), ids)

    def test_ambiguous_name(self):
        err = self.err("tokenize", "little", "hello", code=3)
        self.assertIn("little-one.gguf", err)
        self.assertIn("little-two.gguf", err)
        self.assertNotIn("other", err)

    def test_unknown_name(self):
        err = self.err("tokenize", "big", "hello", code=3)
        self.assertIn("no model of that name", err)
        self.assertIn("little-one.gguf", err)
        self.assertNotIn("00002-of", err)

    def test_no_cache(self):
        environment = {**self.environment, "XDG_CACHE_HOME": self.path("nowhere")}
        self.assertIn("nowhere", self.err("tokenize", "big", "x", code=3, env=environment))
        environment = {k: v for k, v in self.environment.items()
                       if k not in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")}
        self.assertIn("HOME", self.err("tokenize", "big", "x", code=3, env=environment))

    def test_bad_files(self):
        with open(self.models["whole"], "rb") as file:
            whole = file.read()
        for name, data in [("empty", b""), ("text", b"hello\n" * 100), ("cut", whole[:5000]),
                           ("short", whole[:-1000])]:
            with open(self.path(name), "wb") as file:
                file.write(data)
            err = self.err("run", self.path(name), "-p", "x", "-n", 1, code=3)
            self.assertIn(self.path(name), err)
        self.assertIn("/no/such", self.err("run", "/no/such/model.gguf", "-p", "x", code=3))
        self.sobre("run", self.folder, "-p", "x", code=3)


class Tokenize(Program):
    def test_ids(self):
        whole = self.models["whole"]
        out = self.out("tokenize", whole, "x\ny", "--no-bos")
        self.assertEqual(out, "[120, 10, 121]\n")
        self.assertEqual(self.out("tokenize", whole, "--stdin", "--no-bos", text="x\ny"), out)
        self.assertEqual(self.out("tokenize", whole, "", "--no-bos"), "[]\n")

    def test_special_tokens(self):
        whole = self.models["whole"]
        self.assertEqual(self.out("tokenize", whole, "<|im_end|>", "--no-bos"), "[258]\n")
        plain = json.loads(self.out("tokenize", whole, "<|im_end|>", "--no-bos", "--no-special"))
        self.assertNotIn(258, plain)

    def test_pieces(self):
        whole = self.models["whole"]
        out = self.json("tokenize", whole, "x\u00e9\U0001f600", "--no-bos", "--json")
        self.assertEqual(out["n"], len(out["ids"]))
        self.assertEqual(len(out["pieces"]), len(out["ids"]))
        self.assertEqual(out["pieces"][0], "x")
        lines = self.out("tokenize", whole, "x\n", "--no-bos", "--text").splitlines()
        self.assertEqual(lines, ["120\t\"x\"", "10\t\"\\n\""])

    def test_not_utf8(self):
        self.assertEqual(self.out("tokenize", self.models["whole"], "--stdin", "--no-bos",
                                  text=b"\xff\x80"), "[255, 128]\n")

    def test_without_tensors(self):
        self.assertEqual(self.out("tokenize", self.models["no-tensors"], "xy"),
                         self.out("tokenize", self.models["whole"], "xy"))

    def test_without_tokenizer(self):
        self.assertIn("tokenizer", self.err("tokenize", self.models["no-tokenizer"], "x", code=3))


class Logits(Program):
    IDS = "1,50,3,200,7,7,120,9,44,260"

    def logits(self, name, *args):
        path = self.path(name)
        self.sobre("logits", *args, "-o", path)
        self.assertFalse(os.path.exists(path + ".part"))
        return read_npy(path)

    def test_shape_and_values(self):
        shape, values = self.logits("a.npy", self.models["whole"], "--ids", self.IDS)
        self.assertEqual(shape, (10, 300))
        self.assertEqual(len(values), 3000)
        self.assertTrue(all(abs(x) < 1e4 for x in values))
        self.assertGreater(len(set(values)), 1000)

    def test_chunks_and_threads_change_no_bit(self):
        files = [self.logits("chunk.npy", self.models["whole"], "--ids", self.IDS, "--exact",
                             "--chunk", chunk, "--threads", threads)
                 for chunk, threads in [(1, 1), (7, 1), (64, 2), ("all", 3)]]
        for file in files[1:]:
            self.assertEqual(file, files[0])

    def test_text_is_the_ids_of_tokenize(self):
        whole = self.models["whole"]
        ids = ",".join(map(str, self.json("tokenize", whole, "hello world")))
        self.assertEqual(self.logits("text.npy", whole, "-p", "hello world"),
                         self.logits("ids.npy", whole, "--ids", ids))

    def test_without_tokenizer(self):
        self.logits("ids.npy", self.models["no-tokenizer"], "--ids", "1,2")

    def test_standard_output(self):
        done = subprocess.run([SOBRE, "logits", self.models["whole"], "--ids", "1,2", "-o", "-"],
                              stdout=subprocess.PIPE, env=self.environment, check=True)
        self.assertEqual(len(done.stdout), 128 + 2 * 300 * 4)

    def test_failures_leave_no_file(self):
        path = self.path("failed.npy")
        whole = self.models["whole"]
        self.assertIn("300", self.err("logits", whole, "--ids", "1,300", "-o", path, code=2))
        self.sobre("logits", whole, "--ids", "1,2,3", "--n-ctx", 2, "-o", path, code=6)
        self.sobre("logits", self.models["no-tensors"], "--ids", "1", "-o", path, code=3)
        self.assertEqual([f for f in os.listdir(self.folder) if f.startswith("failed")], [])
        self.assertIn("/no/such", self.err("logits", whole, "--ids", "1", "-o", "/no/such/x.npy",
                                           code=1))

    def test_output_that_is_a_folder(self):
        err = self.err("logits", self.models["whole"], "--ids", "1", "-o", self.folder, code=1)
        self.assertIn(self.folder + " is a folder", err)

    def test_instruction_sets(self):
        args = [self.models["whole"], "--ids", self.IDS, "--exact"]
        best = self.logits("best.npy", *args)[1]
        names = {"scalar": "scalar", "avx2": "AVX2", "avx512": "AVX-512", "avxvnni": "AVX-VNNI",
                 "dotprod": "DOTPROD", "i8mm": "I8MM"}
        for isa, name in names.items():
            try:
                values = self.logits(isa + ".npy", *args, "--isa", isa)[1]
            except AssertionError: # the processor lacks it
                self.assertNotEqual(isa, "scalar")
                err = self.err("logits", *args, "--isa", isa, "-o", self.path("none.npy"), code=4)
                self.assertIn(name + " was asked for", err)
                continue
            error = sum((a - b) ** 2 for a, b in zip(best, values))
            self.assertLess(error, 1e-8 * sum(b * b for b in values))


class Run(Program):
    def run_json(self, *args, model="whole", **options):
        return self.json("run", self.models[model], "--json", "-n", 12, *args, **options)

    def test_streamed_text_is_the_json_text(self):
        out, err = self.sobre("run", self.models["whole"], "-p", "hello", "-n", 12)
        answer = self.run_json("-p", "hello")
        self.assertEqual(out.rstrip("\n"), answer["text"].rstrip("\n"))
        self.assertTrue(out.endswith("\n"))
        self.assertRegex(err, r"\d+ tokens prompt at [\d.]+ tokens/s, \d+ tokens( at [\d.]+ "
                              r"tokens/s)?, first token after [\d.]+ s\n")
        self.assertEqual(self.err("run", self.models["whole"], "-p", "hello", "-n", 12, "-q"), "")

    def test_json(self):
        answer = self.run_json("-p", "hello", "--ignore-eos")
        self.assertEqual(answer["finish"], "length")
        self.assertEqual(len(answer["ids"]), 12)
        self.assertEqual(answer["n_tokens"], 12)
        self.assertGreater(answer["n_prompt"], 5)
        self.assertGreater(answer["timings"]["first_token_s"], 0)
        self.assertEqual(self.run_json("-p", "hello", "--ignore-eos")["ids"], answer["ids"])

    def test_prompt_from_standard_input(self):
        want = self.run_json("-p", "hello")["ids"]
        self.assertEqual(self.run_json(text="hello\n")["ids"], want)
        self.assertEqual(self.run_json("--stdin", text="hello")["ids"], want)
        both = self.run_json("-p", "hello\n\nworld")["ids"]
        self.assertEqual(self.run_json("-p", "hello", text="world\n")["ids"], both)
        with open(self.path("world"), "w+") as file:
            file.write("world")
            file.seek(0)
            self.assertEqual(self.run_json("-p", "hello", stdin=file)["ids"], both)

    def test_silent_pipe_does_not_hang(self):
        reader, writer = os.pipe()
        try:
            out, err = self.sobre("run", self.models["whole"], "-p", "hello", "-n", 2,
                                  stdin=reader)
            self.assertIn("--stdin", err)
        finally:
            os.close(reader)
            os.close(writer)

    def test_raw_and_ids(self):
        whole = self.models["whole"]
        ids = ",".join(map(str, self.json("tokenize", whole, "hello")))
        self.assertEqual(self.run_json("-p", "hello", "--raw")["ids"],
                         self.run_json("--ids", ids)["ids"])
        self.assertNotEqual(self.run_json("-p", "hello", "--raw")["n_prompt"],
                            self.run_json("-p", "hello")["n_prompt"])

    def test_without_template(self):
        out, err = self.sobre("run", self.models["no-template"], "-p", "hello", "-n", 4)
        self.assertIn("no chat format", err)
        raw, err = self.sobre("run", self.models["no-template"], "-p", "hello", "-n", 4, "--raw")
        self.assertEqual(out, raw)
        self.assertNotIn("no chat format", err)
        self.sobre("run", self.models["no-template"], "-p", "hello", "--system", "x", code=2)

    def test_without_tokenizer(self):
        model = self.models["no-tokenizer"]
        answer = self.run_json("--ids", "1,2,3", "--ignore-eos", model="no-tokenizer")
        out = self.out("run", model, "--ids", "1,2,3", "-n", 12)
        self.assertEqual(out.split(), list(map(str, answer["ids"])))
        self.assertIn("tokenizer", self.err("run", model, "-p", "x", "--raw", code=3))

    def test_system(self):
        self.assertGreater(self.run_json("-p", "hello", "--system", "word " * 20)["n_prompt"],
                           self.run_json("-p", "hello", "--system", "word")["n_prompt"])

    def test_sampling(self):
        args = ["-p", "hello", "--temp", 2, "--ignore-eos"]
        one = self.run_json(*args, "--seed", 1)
        self.assertEqual(one["seed"], 1)
        self.assertEqual(self.run_json(*args, "--seed", 1)["ids"], one["ids"])
        self.assertNotEqual(self.run_json(*args, "--seed", 2)["ids"], one["ids"])
        unseeded = self.run_json(*args)
        self.assertEqual(self.run_json(*args, "--seed", unseeded["seed"])["ids"], unseeded["ids"])
        greedy = self.run_json("-p", "hello", "--ignore-eos")["ids"]
        self.assertEqual(self.run_json(*args, "--top-k", 1)["ids"], greedy)
        self.assertEqual(self.run_json(*args, "--min-p", 1)["ids"], greedy)

    def test_bias_and_penalties(self):
        free = self.run_json("-p", "hello", "--ignore-eos")["ids"]
        self.assertNotIn(free[0], self.run_json("-p", "hello", "--ignore-eos", "--logit-bias",
                                                f"{free[0]}=-inf")["ids"])
        self.assertEqual(self.run_json("-p", "hello", "--ignore-eos", "--logit-bias",
                                       "77=1000")["ids"], [77] * 12)
        answer = self.run_json("-p", "hello", "--ignore-eos", "--presence-penalty", 100)
        self.assertEqual(len(set(answer["ids"])), 12)
        self.sobre("run", self.models["whole"], "-p", "x", "--logit-bias", "300=1", code=2)

    def test_stop(self):
        answer = self.run_json("-p", "hello", "--ignore-eos", "--logit-bias", "120=1000",
                               "--stop", "y", "--stop", "xxx")
        self.assertEqual((answer["text"], answer["finish"]), ("", "string"))

    def test_logprobs(self):
        answer = self.run_json("-p", "hello", "--logprobs", 3)
        for id, token in zip(answer["ids"], answer["logprobs"]):
            self.assertEqual(token["id"], id)
            self.assertEqual(token["top"][0]["id"], id)
            self.assertEqual(len(token["top"]), 3)
            self.assertLess(token["logprob"], 0)

    def test_context_full(self):
        whole = self.models["whole"]
        args = ["run", whole, "-p", "hello", "--ignore-eos"]
        out, err = self.sobre(*args, "--n-ctx", 32, code=6)
        self.assertIn("context", err)
        self.assertNotEqual(out, "")
        for part in ["--n-ctx", "--full shift"]:
            self.assertIn(part, err)
        for more in [[], ["--full", "shift"]]:
            err = self.err(*args, "--n-ctx", 4, *more, code=6)
            self.assertIn("the prompt does not fit", err)
            self.assertIn("--n-ctx", err)
            self.assertNotIn("--full", err)
        self.sobre(*args, "--n-ctx", 32, "--full", "shift", "-n", 100)

    def test_one_token(self):
        err = self.err("run", self.models["whole"], "--ids", "5", "-n", 1)
        self.assertRegex(err, "^1 token prompt at .*, 1 token[ ,]")

    def test_devices(self):
        want = self.run_json("-p", "hello")["ids"]
        self.assertEqual(self.run_json("-p", "hello", "--device", "cpu")["ids"], want)
        self.assertEqual(self.run_json("-p", "hello", "--device", "cpu:0")["ids"], want)
        for name in ["cpu:1", "nonsense"]:
            self.assertIn("sobre devices", self.err("run", self.models["whole"], "-p", "x",
                                                    "--device", name, code=4))
        self.sobre("run", self.models["whole"], "-p", "x", "--device", "cpu:x", code=2)

    def test_limit(self):
        self.sobre("run", self.models["whole"], "-p", "x", "--limit", "1K", code=5)

    def test_interrupt_keeps_the_text(self):
        process = subprocess.Popen([SOBRE, "run", self.models["slow"], "-p", "hello",
                                    "--ignore-eos", "--n-ctx", "4096", "--logit-bias", "120=1000"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=self.environment)
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130, err)
        self.assertRegex((first + rest).decode(), r"^x+\n$")

    def test_closed_output(self):
        process = subprocess.Popen([SOBRE, "run", self.models["whole"], "-p", "hello",
                                    "--ignore-eos"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        self.assertIn(process.wait(30), [-signal.SIGPIPE, 141])
        self.assertNotIn(b"sobre:", err)

    @unittest.skipUnless(os.path.exists("/dev/full"), "/dev/full is missing")
    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([SOBRE, "run", self.models["whole"], "-p", "hello", "-n", "3"],
                                  stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                                  env=self.environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write", done.stderr)


@unittest.skipIf(pty is None, "there are no pseudo-terminals here")
class Chat(Terminal):
    def test_conversation(self):
        self.start("run", self.models["whole"], "-n", 4, "--logit-bias", "120=1000", NO_COLOR="1")
        self.assertIn("/help", self.until(">>> "))
        self.type("hello\n")
        self.assertIn("\r\nxxxx\r\n", self.until(">>> "))
        self.type("one\\\n")
        self.until(r"\.\.\. ")
        self.type("two\n")
        self.until("xxxx\r\n>>> ")
        self.type('"""\n')
        self.until(r"\.\.\. ")
        self.type('three\nfour"""\n')
        self.until("xxxx\r\n>>> ")
        self.type("/reset\n")
        self.until("anew")
        self.type("/nonsense\n")
        self.until("no /nonsense")
        self.type("hello\n")
        self.assertNotIn("\033", self.until("xxxx\r\n>>> "))
        self.type("\x04")
        self.assertEqual(self.end(), 0)
        self.assertRegex(self.seen, r"tokens prompt at .* 16 tokens at")

    def test_interrupts(self):
        self.start("run", self.models["slow"], "--ignore-eos", "--n-ctx", 4096, "--logit-bias",
                   "120=1000")
        self.until(r"\033\[1m>>> ")
        self.type("hello\n")
        self.until("xx")
        self.type("\x03")
        self.until(">>> ")
        self.type("\x03")
        self.until("leaves")
        self.until(">>> ")
        self.type("\x03")
        self.assertEqual(self.end(), 130)

    def test_context_full(self):
        self.start("run", self.models["whole"], "--ignore-eos", "--n-ctx", 48, "--logit-bias",
                   "120=1000", NO_COLOR="1")
        self.until(">>> ")
        self.type("word " * 40 + "\n")
        self.assertNotIn("/reset", self.until("prompt does not fit") + self.until(">>> "))
        self.type("a\n")
        self.until("context is full; --n-ctx makes it larger, --full shift")
        self.until("/reset begins")
        self.until(">>> ")
        self.type("b\n")
        self.until("context is full")
        self.until("/reset begins")
        self.until(">>> ")
        self.type("/quit\n")
        self.assertEqual(self.end(), 0)

    def test_quit(self):
        self.start("run", self.models["whole"], "-q")
        self.until(">>> ")
        self.type("/quit\n")
        self.assertEqual(self.end(), 0)

    def test_json_needs_a_prompt(self):
        self.start("run", self.models["whole"], "--json")
        self.until("--json goes with -p")
        self.assertEqual(self.end(), 2)

    def test_control_characters_stay_away_from_the_terminal(self):
        self.start("run", self.models["whole"], "-p", "x", "-n", 3, "--ignore-eos", "--logit-bias",
                   "27=1000", NO_COLOR="1")
        self.end()
        self.assertNotIn("\033", self.seen)


class Bench(Program):
    FIELDS = ["model_filename", "model_type", "model_size", "model_n_params", "backend", "device",
              "n_threads", "n_prompt", "n_gen", "n_seq", "avg_ts", "stddev_ts", "samples_ts",
              "launches_per_token"]
    ARGS = ["-p", "16,32", "-n", "4", "-r", "3"]

    def test_json(self):
        rows = self.json("bench", self.models["whole"], *self.ARGS, "-o", "json", "-t", 1)
        self.assertEqual([row["test"] for row in rows], ["pp16", "pp32", "tg4"])
        for row in rows:
            for field in self.FIELDS:
                self.assertIn(field, row)
            self.assertEqual(len(row["samples_ts"]), 3)
            self.assertAlmostEqual(row["avg_ts"], sum(row["samples_ts"]) / 3, delta=1e-3 *
                                   row["avg_ts"])
            self.assertGreater(row["launches_per_token"], 0)
            self.assertEqual(row["backend"], "cpu")
            self.assertEqual(row["n_threads"], 1)
        self.assertEqual((rows[0]["n_prompt"], rows[0]["n_gen"]), (16, 0))
        self.assertEqual((rows[2]["n_prompt"], rows[2]["n_gen"]), (0, 4))
        file_size = os.path.getsize(self.models["whole"])
        self.assertTrue(0.8 * file_size < rows[0]["model_size"] < file_size)

    def test_other_forms(self):
        whole = self.models["whole"]
        table = self.out("bench", whole, *self.ARGS).splitlines()
        self.assertEqual(len(table), 4)
        self.assertRegex(table[3], r"llama .* tg4 +[\d.]+ \+- [\d.]+$")
        md = self.out("bench", whole, *self.ARGS, "-o", "md").splitlines()
        self.assertTrue(all(line.startswith("| ") and line.endswith(" |") for line in md))
        csv = self.out("bench", whole, *self.ARGS, "-o", "csv").splitlines()
        self.assertEqual(len(csv), 4)
        self.assertIn("avg_ts", csv[0])
        self.assertEqual(len({line.count(",") for line in csv}), 1)

    def test_only_one_kind(self):
        rows = self.json("bench", self.models["whole"], "-p", 0, "-n", 2, "-r", 1, "--json")
        self.assertEqual([row["test"] for row in rows], ["tg2"])

    def test_several_sequences(self):
        rows = self.json("bench", self.models["whole"], "-p", 8, "-n", "2,3", "--n-seq", "1,8", "-r",
                         2, "--json")
        self.assertEqual([row["test"] for row in rows], ["pp8", "tg2", "tg2x8", "tg3", "tg3x8"])
        self.assertEqual([row["n_seq"] for row in rows], [1, 1, 8, 1, 8])
        for row in rows:  # the tokens of all sequences
            tokens = (row["n_prompt"] + row["n_gen"]) * row["n_seq"]
            for ns, rate in zip(row["samples_ns"], row["samples_ts"]):
                self.assertAlmostEqual(tokens * 1e9 / ns, rate, delta=1e-6 * rate)
        single, batched = rows[1], rows[2]  # as many evaluations, for eight times the tokens
        self.assertAlmostEqual(single["launches_per_token"] / 8, batched["launches_per_token"], 6)

    def test_shapes(self):
        self.assertIn("tinyllama-1.1b", self.out("bench", "--shape", "list"))
        for quant in ["Q4_0", "Q6_K"]:
            rows = self.json("bench", "--shape", "smollm2-135m", "--quant", quant, "-p", 8, "-n",
                             0, "-r", 1, "--json")
            self.assertEqual(rows[0]["model_n_params"], 134515008)
            self.assertEqual(rows[0]["model_filename"], "shape:smollm2-135m")

    def test_shapes_as_files(self):
        path = self.path("shape.gguf")
        self.out("bench", "--shape", "smollm2-135m", "--quant", "Q4_K", "--write", path)
        rows = self.json("bench", path, "-p", 1, "-n", 0, "-r", 1, "--json")
        self.assertEqual(rows[0]["model_n_params"], 134515008)
        self.assertLess(os.path.getsize(path) - rows[0]["model_size"], 1 << 15)
        os.remove(path)
        self.sobre("bench", "--shape", "none", "--write", path, code=2)
        self.sobre("bench", "--shape", "smollm2-135m", "--write", self.folder, code=1)
        self.assertFalse(os.path.exists(path))


class Inspect(Program):
    def test_text(self):
        out = self.out("inspect", self.models["whole"])
        for part in ["architecture", "llama", "general.architecture = llama", "chatml",
                     "KV cache when full"]:
            self.assertIn(part, out)

    def test_json(self):
        out = self.json("inspect", self.models["whole"], "--json", "--n-ctx", 128)
        self.assertEqual(out["n_layer"], 2)
        self.assertEqual(out["n_vocab"], 300)
        self.assertEqual(out["metadata"]["general.architecture"], "llama")
        memory = out["memory"]
        self.assertEqual(memory["n_ctx"], 128)
        self.assertGreaterEqual(memory["total_bytes"], memory["weight_bytes"] + memory["kv_bytes"])

    def test_work(self):
        def work(*args):
            out = self.json("inspect", self.models["whole"], "--json", "--n-ctx", 128, *args)
            return out["per_token"], out["prompt"], out["memory"]
        token, prompt, memory = work()
        later = work("--n-past", 100)[0]
        self.assertEqual((token["n_past"], later["n_past"], prompt["n_tokens"]), (0, 100, 128))
        self.assertLessEqual(token["weight_bytes"], 1.05 * memory["weight_bytes"])
        self.assertEqual(later["kv_bytes"], 51 * token["kv_bytes"])  # one is written, not read
        self.assertGreater(prompt["flop"], 50 * token["flop"])
        self.assertGreater(token["n_launches"], 10)
        out = self.out("inspect", self.models["whole"], "--n-past", 100)
        for part in ["one token after 100\n", "a prompt of 256 tokens\n", "launches "]:
            self.assertIn(part, out)
        self.sobre("inspect", self.models["whole"], "--n-past", 1000, code=2)

    def test_shape(self):
        out = self.json("inspect", "--shape", "llama-3.2-3b", "--quant", "Q4_0", "--json",
                        "--n-ctx", 256)
        self.assertEqual(out["n_layer"], 28)
        self.assertGreater(out["per_token"]["weight_bytes"], 1.8e9)
        self.assertIn("tinyllama-1.1b", self.out("inspect", "--shape", "list"))

    def test_fit(self):
        out = self.out("inspect", self.models["whole"], "--fit", "--kv-type", "f32")
        self.assertRegex(out, r"in all +\d+ ")
        self.assertIn("f32", out)
        self.sobre("inspect", self.models["whole"], "--fit", "--limit", "1K", code=5)

    def test_graph_and_plan(self):
        whole = self.models["whole"]
        graph = self.out("inspect", whole, "--graph")
        built = self.out("inspect", whole, "--graph", "--built")
        self.assertTrue(graph.startswith(built))
        self.assertGreater(len(graph), len(built) + 100)
        for part in ["rope", "attention", "matmul", "blk.1.ffn_down.weight"]:
            self.assertIn(part, graph)
        plan = self.out("inspect", whole, "--plan", "--n-cols", 8)
        self.assertIn("cpu", plan)
        dots = set()
        for what in [["--graph"], ["--graph", "--built"], ["--plan"]]:
            dot = self.out("inspect", whole, *what, "--dot")
            dots.add(dot)
            self.assertTrue(dot.startswith("digraph"), dot[:80])
            self.assertEqual(dot.count("digraph"), 1)
            self.assertEqual(dot.count("{"), dot.count("}"))
        self.assertEqual(len(dots), 3)

    def test_without_tensors(self):
        self.assertNotIn("memory\n", self.out("inspect", self.models["no-tensors"]))


class Machine(Program):
    def test_devices(self):
        devices = self.json("devices", "--json")
        self.assertEqual(devices[0]["backend"], "cpu")
        self.assertTrue(devices[0]["usable"])
        self.assertTrue(all(device["kind"] != "null" for device in devices))
        self.assertTrue(all(device["usable"] or device["reason"] for device in devices))
        self.assertRegex(self.out("devices"), r"^cpu +\S")

    def test_doctor(self):
        findings = self.json("doctor", "--json")
        self.assertEqual({f["verdict"] for f in findings} - {"ok", "warn"}, set())
        models = [f["text"] for f in findings if f["check"] == "model"]
        self.assertEqual(len(models), 3)
        out = self.out("doctor")
        self.assertRegex(out, r"(?m)^ok +processor ")

    def test_doctor_makes_no_folders(self):
        cache = self.path("not-there")
        out = self.out("doctor", env={**self.environment, "XDG_CACHE_HOME": cache})
        self.assertRegex(out, r"(?m)^ok +cache .*not-there.* can be written")
        self.assertFalse(os.path.exists(cache))
        with open(self.path("a-file"), "w"):
            pass
        cache = self.path("a-file")
        out = self.out("doctor", env={**self.environment, "XDG_CACHE_HOME": cache})
        self.assertRegex(out, r"(?m)^warn +cache .* cannot be written")

    def test_doctor_finds_a_broken_model(self):
        cache = self.path("broken")
        os.makedirs(os.path.join(cache, "sobre", "models"))
        with open(os.path.join(cache, "sobre", "models", "broken.gguf"), "wb") as file:
            file.write(b"GGUF")
        out = self.out("doctor", code=1, env={**self.environment, "XDG_CACHE_HOME": cache})
        self.assertRegex(out, r"fail +model .*broken\.gguf")


@unittest.skipUnless(REAL_MODEL, "no real model was given")
class Real(Program):
    def test_capital(self):
        out = self.out("run", REAL_MODEL, "-p", "What is the capital of France?")
        self.assertEqual(out, "The capital of France is Paris.\n")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
