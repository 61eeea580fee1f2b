#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of the `sobre` program with devices that work, fail, are slow or cannot be had.

usage: test_cli_devices.py SOBRE TINY_MODEL
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
from program import Program, SOBRE, Terminal, pty, read_npy

CARD = os.environ.get("SOBRE_TEST_CARD_FOLDER")  # where the plugins of card.c are
DRIVERS = os.environ.get("SOBRE_TEST_DRIVERS_FOLDER")  # where those of tests/icd/ are


class CardProgram(Program):
    """Plugins whose drivers do what a test says (card.c), with a cache folder of their own."""

    cards = ["opencl"]
    plugins = CARD

    def setUp(self):
        self.home = tempfile.mkdtemp(dir=self.folder)
        self.kept = os.path.join(self.home, "sobre", "devices.json")
        self.measured = os.path.join(self.home, "sobre", "measured.txt")
        self.icd = os.path.join(self.home, "card.icd")
        with open(self.icd, "w"):
            pass
        self.environment = {**self.environment, "XDG_CACHE_HOME": self.home,
                            "OCL_ICD_VENDORS": self.icd}
        for name in ["SOBRE_TEST_CARD", "SOBRE_TEST_CARD_CUDA"]:
            self.environment.pop(name, None)

    def card(self, command, *args, does="", cuda_does="", **options):
        return self.sobre(command, *args, "--plugins", self.plugins,
                          env={**self.environment, "SOBRE_TEST_CARD": does,
                               "SOBRE_TEST_CARD_CUDA": cuda_does}, **options)

    def devices(self, *args, **options):
        """The CPU and the cards, whatever other backends there are."""
        found = json.loads(self.card("devices", "--json", *args, **options)[0])
        devices = [device for device in found if device["backend"] in ["cpu", *self.cards]]
        self.assertEqual([device["backend"] for device in devices], ["cpu", *self.cards])
        return devices

    def answer(self, *args, **options):
        out, err = self.card("run", self.models["whole"], "-p", "hello", "-n", 8, "--ignore-eos",
                             "--json", *args, **options)
        return json.loads(out), err

    def keep(self, **rates):
        """Measurements of backends, in bytes/s."""
        os.makedirs(os.path.dirname(self.measured), exist_ok=True)
        version = self.out("--version").split()[1]
        with open(self.measured, "w") as file:
            file.write(f"sobre {version}\n")
            for device in self.devices():
                kind = 1 if device["kind"] == "cpu" else 2
                file.write(f"{device['backend']}\t{kind}\t0\t{rates[device['backend']]}\t1\t1\t"
                           f"{device['name']}\t{device['detail']}\n")
        with open(self.kept) as file:
            kept = json.load(file)
        with open(self.kept, "w") as file:
            json.dump({name: {**record, "measured": True} for name, record in kept.items()}, file)


@unittest.skipUnless(CARD, "plugins are not tested on this system")
class Card(CardProgram):
    def test_list(self):
        cpu, card = self.devices()
        self.assertEqual((cpu["backend"], cpu["option"], cpu["usable"]), ("cpu", "cpu", True))
        self.assertEqual((card["backend"], card["option"], card["kind"], card["usable"]),
                         ("opencl", "opencl", "gpu", True))
        self.assertEqual(os.stat(self.kept).st_mode & 0o777, 0o600)
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.kept))), ["devices.json"])
        here = self.devices("--in-process")
        here[0]["memory_free"] = cpu["memory_free"]
        self.assertEqual(here, [cpu, card])

    def test_measure(self):
        for device in self.devices("--measure"):
            self.assertGreater(device["measurement"]["bytes_per_s"], 0)
        self.assertEqual(os.stat(self.measured).st_mode & 0o777, 0o600)
        self.assertIn("GFLOP/s", self.card("devices", "--measure")[0])

    def test_faults(self):
        for does, text in [("crash", "drivers crash (Aborted)"), ("exit", "(exit code 7)"),
                           ("hang", "did not answer within 1 s")]:
            cpu, card = self.devices("--timeout", 1, does=does)
            self.assertTrue(cpu["usable"])
            self.assertFalse(card["usable"])
            self.assertIn(text, card["reason"])
            self.assertIn("OCL_ICD_VENDORS", card["reason"])
            # What was found is remembered, and no driver is loaded.
            answer, err = self.answer(does=does)
            self.assertEqual((answer["backend"], err), ("cpu", ""))
            err = self.card("run", self.models["whole"], "-p", "x", "--device", "opencl", code=4,
                            does=does)[1]
            self.assertIn(text, err)
            self.assertIn("`sobre devices` tries again", err)
            self.assertIn(text, self.card("doctor", does=does)[0])
            answer, err = self.answer("--device", "opencl", "--fallback", does=does)
            self.assertEqual(answer["backend"], "cpu")
            self.assertIn(text, err)
        self.assertTrue(self.devices()[1]["usable"])
        self.assertEqual(self.answer("--device", "opencl")[0]["backend"], "opencl")

    def test_a_card_that_cannot_be_used(self):
        self.assertIn("its fan is missing", self.devices(does="broken")[1]["reason"])
        err = self.card("run", self.models["whole"], "-p", "x", "--device", "opencl", code=4,
                        does="broken")[1]
        self.assertIn("its fan is missing", err)
        self.assertEqual(self.answer(does="broken")[0]["backend"], "cpu")

    def test_no_plugin(self):
        self.environment["OCL_ICD_VENDORS"] = self.path("no-drivers")
        err = self.err("run", self.models["whole"], "-p", "x", "--device", "opencl", "--plugins",
                       self.path("no-drivers"), code=4)
        self.assertIn("its plugin, libsobre-opencl.so, is not in", err)
        self.assertIn("--fallback", err)

    def test_the_cpu_asks_nobody(self):
        self.assertEqual(self.answer("--device", "cpu", does="hang")[0]["backend"], "cpu")
        self.environment["OCL_ICD_VENDORS"] = self.path("no-drivers")
        self.assertEqual(self.answer(does="hang")[0]["backend"], "cpu")
        self.assertFalse(os.path.exists(self.kept))

    def test_auto_measures_once(self):
        self.assertEqual(self.answer()[0]["backend"], "opencl")  # it computes nothing, very fast
        self.assertTrue(os.path.exists(self.measured))
        stamp = os.stat(self.kept).st_mtime_ns, os.stat(self.measured).st_mtime_ns
        self.assertEqual(self.answer("-t", 1)[0]["backend"], "opencl")
        self.assertEqual((os.stat(self.kept).st_mtime_ns, os.stat(self.measured).st_mtime_ns),
                         stamp)

    def test_auto_goes_by_what_was_measured(self):
        self.keep(opencl=10**9, cpu=10**8)
        self.assertEqual(self.answer()[0]["backend"], "opencl")
        self.keep(opencl=10**8, cpu=10**9)
        self.assertEqual(self.answer(does="hang")[0]["backend"], "cpu")  # loads no driver
        self.assertEqual(self.answer("--device", "opencl")[0]["backend"], "opencl")

    def test_what_is_kept_is_made_anew(self):
        self.devices()
        with open(self.kept) as file:
            kept = file.read()
        for damage in ["", "{", "[]", '{"key": 1}', kept[:-20], kept.replace('"gpu"', "7"),
                       "\0" + kept, kept.replace('"devices": [', '"devices": {"a": [') + "}"]:
            with open(self.kept, "w") as file:
                file.write(damage)
            self.answer()
            self.answer("--device", "opencl")
        # Another driver, plugin folder or environment is another question.
        for change in [{"LD_LIBRARY_PATH": "/nowhere"}, {"OPENCL_LAYERS": "/nowhere"},
                       {"RUSTICL_ENABLE": "radeonsi"}]:
            self.devices(does="crash")
            self.environment |= change
            self.assertEqual(self.answer("--device", "opencl")[0]["backend"], "opencl")
        self.devices(does="crash")
        with open(self.icd, "w") as file:
            file.write("changed")
        self.assertEqual(self.answer("--device", "opencl")[0]["backend"], "opencl")

    def test_a_cache_folder_that_cannot_be_written(self):
        with open(os.path.join(self.home, "file"), "w"):
            pass
        self.environment["XDG_CACHE_HOME"] = os.path.join(self.home, "file")
        self.assertTrue(self.devices()[1]["usable"])
        self.assertEqual(self.answer("--device", "opencl")[0]["backend"], "opencl")

    def test_fallback_loses_nothing(self):
        """The card is lost at any call; until then all of its tokens are 0."""
        want = self.answer("--device", "cpu")[0]["ids"]
        said = set()
        for n in [*range(1, 130, 9), *range(130, 200, 3)]:
            answer, err = self.answer("--device", "opencl", "--fallback", does=f"lost:{n}")
            ids, card = answer["ids"], answer["backend"] == "opencl"
            n_zero = next((i for i, id in enumerate(ids) if id != 0), len(ids))
            self.assertEqual((len(ids), answer["finish"]), (8, "length"))
            if n_zero == 0:
                self.assertEqual(ids, want)
            self.assertEqual(card, not err, err)
            if not card:
                self.assertRegex(err, r"Test card: null device: call \d+, .*; the CPU goes on")
            said.add((n_zero > 0, card))
        self.assertEqual(said, {(False, False), (True, False), (True, True)})

    def test_without_fallback_the_device_fails(self):
        whole = self.models["whole"]
        for n in [5, 60, 150]:
            out, err = self.card("run", whole, "-p", "x", "-n", 9, "--device", "opencl", code=4,
                                 does=f"lost:{n}")
            self.assertIn("null device: call", err)
        # --device auto implies it.
        self.keep(opencl=10**12, cpu=10**8)
        for n in [1, 60, 150]:
            answer, err = self.answer(does=f"lost:{n}")
            self.assertEqual(answer["backend"], "cpu")
            self.assertIn("warning", err)

    def test_logits_fall_back(self):
        path = self.path("fallback.npy")
        args = ["logits", self.models["whole"], "--ids", "1,2,3,4,5", "-o", path]
        self.sobre(*args, "--device", "cpu")
        want = read_npy(path)
        for n in [20, 60]:
            err = self.card(*args, "--device", "opencl", "--fallback", does=f"lost:{n}")[1]
            self.assertIn("the CPU goes on", err)
            self.assertEqual(read_npy(path), want)

    def test_layers(self):
        memory = [json.loads(self.card("inspect", self.models["whole"], "--json", "--device",
                                       "opencl", "--layers", n)[0])["memory"] for n in [1, 2]]
        self.assertEqual([m["n_layer"] for m in memory], [1, 2])
        self.assertGreater(memory[0]["cpu_bytes"], memory[1]["cpu_bytes"])
        self.assertLess(memory[0]["weight_bytes"], memory[1]["weight_bytes"])
        self.assertEqual(memory[0]["backend"], "opencl")

    def test_bench_names_the_device(self):
        args = ["bench", self.models["whole"], "-p", 8, "-n", 2, "-r", 1, "--blas", "never"]
        row = json.loads(self.card(*args, "--device", "opencl", "--json")[0])[0]
        self.assertEqual((row["backend"], row["device"]), ("opencl", "Test card"))
        self.assertIn(" opencl ", self.card(*args, "--device", "opencl")[0])
        row = json.loads(self.card(*args, "--device", "opencl", "--fallback", "--json",
                                   does="lost:20")[0])[0]
        self.assertEqual(row["backend"], "cpu")

    def test_doctor(self):
        out = self.card("doctor")[0]
        self.assertRegex(out, r"(?m)^ok +plugin +opencl: .*libsobre-opencl")
        self.assertRegex(out, r"(?m)^ok +device +opencl: Test card")
        self.assertFalse(os.path.exists(self.kept))
        out = self.sobre("doctor", "--plugins", self.folder)[0]
        self.assertRegex(out, r"(?m)^warn +plugin +opencl: not installed")

    def test_a_program_that_is_interrupted_ends_its_child(self):
        child = subprocess.Popen([SOBRE, "devices", "--plugins", CARD], start_new_session=True,
                                 env={**self.environment, "SOBRE_TEST_CARD": "hang"})
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(30), 130)
        self.assertFalse(os.path.exists(self.kept))


@unittest.skipUnless(CARD, "plugins are not tested on this system")
class TwoCards(CardProgram):
    """One card with drivers for OpenCL and for CUDA; either may be broken."""

    cards = ["opencl", "cuda"]

    def setUp(self):
        super().setUp()
        self.plugins = os.path.join(self.home, "plugins")
        self.library = os.path.join(self.home, "lib", "libcuda.so.1")
        for path, target in [("libsobre-opencl.so", "libsobre-opencl.so"),
                             ("libsobre-cuda.so", "libcard_cuda.so")]:
            os.makedirs(self.plugins, exist_ok=True)
            os.symlink(os.path.join(CARD, target), os.path.join(self.plugins, path))
        os.makedirs(os.path.dirname(self.library))
        with open(self.library, "w"):
            pass
        self.environment["LD_LIBRARY_PATH"] = os.path.dirname(self.library)

    def test_list(self):
        devices = self.devices("--measure")
        self.assertEqual([device["device"] for device in devices], [1, 2, 3])
        self.assertTrue(all(device["measurement"]["bytes_per_s"] > 0 for device in devices))
        self.assertEqual(self.devices("--in-process")[1:],
                         [{k: v for k, v in device.items() if k != "measurement"}
                          for device in devices[1:]])
        only = json.loads(self.card("devices", "--json", "--backend", "cuda")[0])
        self.assertEqual([device["backend"] for device in only], ["cuda"])

    def test_a_broken_driver_leaves_the_other_backend_alone(self):
        for broken, works, advice in [("opencl", "cuda", "OCL_ICD_VENDORS"),
                                      ("cuda", "opencl", "nvidia-smi")]:
            for does, text in [("crash", "drivers crash"), ("hang", "did not answer within 1 s")]:
                options = {"does" if broken == "opencl" else "cuda_does": does}
                found = {device["backend"]: device
                         for device in self.devices("--timeout", 1, **options)}
                self.assertTrue(found[works]["usable"])
                self.assertIn(text, found[broken]["reason"])
                self.assertIn(advice, found[broken]["reason"])
                for args in [[], ["--device", works]]:
                    answer, err = self.answer(*args, **options)
                    self.assertEqual((answer["backend"], err), (works, ""))
                err = self.card("run", self.models["whole"], "-p", "x", "--device", broken, code=4,
                                **options)[1]
                self.assertIn(text, err)
                self.assertIn(advice, err)
                out = self.card("doctor", **options)[0]
                self.assertRegex(out, f"(?m)^ok +device +{works}: Test card")
                self.assertRegex(out, f"(?m)^warn +device +{broken}: .*{text}")

    def test_a_fault_outlives_what_was_measured(self):
        self.keep(cpu=10**8, opencl=10**10, cuda=10**9)
        self.devices("--timeout", 1, does="hang")
        self.assertEqual(self.answer(does="hang")[0]["backend"], "cuda")

    def test_a_named_backend_is_asked_alone(self):
        self.assertEqual(self.answer("--device", "cuda", does="hang")[0]["backend"], "cuda")
        with open(self.kept) as file:
            self.assertEqual(list(json.load(file)), ["cuda"])

    def test_auto_takes_what_was_measured_to_be_faster(self):
        for fast, slow in [("cuda", "opencl"), ("opencl", "cuda")]:
            self.keep(**{"cpu": 10**8, slow: 10**9, fast: 2 * 10**9})
            self.assertEqual(self.answer()[0]["backend"], fast)
            self.assertEqual(self.answer("--device", slow)[0]["backend"], slow)

    def test_cuda_alone(self):
        """No OpenCL driver is installed: the usual container."""
        self.environment["OCL_ICD_VENDORS"] = self.path("no-drivers")
        self.assertEqual(self.answer(does="hang")[0]["backend"], "cuda")
        self.assertTrue(os.path.exists(self.measured))
        out = self.card("doctor")[0]
        self.assertRegex(out, r"(?m)^ok +device +cuda: Test card")
        self.assertRegex(out, r"(?m)^ok +plugin +opencl: .*, but there is no driver\n.*OpenCL driver")

    def test_another_driver_is_another_question(self):
        self.assertIn("drivers crash", self.devices(cuda_does="crash")[2]["reason"])
        self.assertNotEqual(self.answer()[0]["backend"], "cuda")
        with open(self.library, "w") as file:
            file.write("changed")
        self.assertEqual(self.answer("--device", "cuda")[0]["backend"], "cuda")

    def test_doctor_names_each_backend_s_driver(self):
        os.remove(os.path.join(self.plugins, "libsobre-cuda.so"))
        self.assertRegex(self.card("doctor")[0],
                         r"(?m)^warn +plugin +cuda: not installed, and there are drivers for it\n"
                         r".*nvcc")


@unittest.skipIf(pty is None, "there are no pseudo-terminals here")
@unittest.skipUnless(CARD, "plugins are not tested on this system")
class SlowCard(Terminal, CardProgram):
    def test_a_terminal_shows_that_the_device_is_slow_to_begin(self):
        notice = r"\rwaiting for the device, [12] s: at first use its driver compiles kernels"
        model, n = self.models["whole"], 3
        out = self.path("logits.npy")
        for args in [["run", model, "-p", "x", "-n", n, "--ignore-eos"],
                     ["logits", model, "-p", "x", "-o", out],
                     ["bench", model, "-p", n, "-n", 0, "-r", 1]]:
            args += ["--device", "opencl", "--plugins", CARD]
            self.start(*args, SOBRE_TEST_CARD="slow:2")
            self.until(notice + "\r +\r")
            self.assertEqual(self.end(), 0)
        self.start(*args, "--quiet", SOBRE_TEST_CARD="slow:2")
        self.assertEqual(self.end(), 0)
        self.assertNotIn("waiting", self.seen)
        for seconds in [2, 7]:  # without a terminal, once
            err = self.card(*args[:-2], does=f"slow:{seconds}")[1]
            self.assertEqual(err.count("driver compiles kernels"), seconds == 7)

    def test_what_waits_for_a_slow_device_can_be_interrupted(self):
        self.start("run", self.models["whole"], "-p", "x", "--device", "opencl", "--plugins", CARD,
                   SOBRE_TEST_CARD="slow:2")
        self.until("waiting for the device")
        os.write(self.terminal, b"\x03")
        self.assertEqual(self.end(), 130)


@unittest.skipUnless(DRIVERS, "the OpenCL backend was not built")
class Drivers(Program):
    """The OpenCL backend itself, with drivers that are missing or broken."""

    def check(self, library, reason, finding):
        """`library` is what the one .icd file names, if there is one; `finding` is `doctor`'s."""
        home = tempfile.mkdtemp(dir=self.folder)
        vendors = os.path.join(home, "vendors")
        os.makedirs(vendors)
        if library:
            with open(os.path.join(vendors, "driver.icd"), "w") as file:
                file.write(library + "\n")
        # LeakSanitizer crashes in the child once OpenCL's loader has been unloaded without a driver.
        env = {**self.environment, "XDG_CACHE_HOME": home, "OCL_ICD_VENDORS": vendors,
               "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        devices = {device["backend"]: device
                   for device in self.json("devices", "--json", "--timeout", 3, env=env)}
        self.assertTrue(devices["cpu"]["usable"])
        self.assertFalse(devices["opencl"]["usable"])
        self.assertRegex(devices["opencl"]["reason"], reason)
        run = ["run", self.models["whole"], "-p", "hello", "-n", 4, "--ignore-eos", "--json"]
        answer = self.json(*run, env=env)
        self.assertEqual((answer["backend"], len(answer["ids"])), ("cpu", 4))
        self.assertRegex(self.err(*run, "--device", "opencl", code=4, env=env), reason)
        out, err = self.sobre(*run, "--device", "opencl", "--fallback", env=env)
        self.assertEqual(json.loads(out)["ids"], answer["ids"])
        self.assertRegex(err, reason)
        self.assertRegex(self.out("doctor", env=env), finding)

    def test_none(self):
        self.check(None, "no driver is installed", "opencl: .*there is no driver")

    def test_a_library_that_is_not_there(self):
        self.check(self.path("no-such-driver.so"), "no driver is installed, or none of them has",
                   "(?s)opencl: cannot be used: none of its drivers can be loaded.*install the driver "
                   "anew")

    def test_one_that_hangs(self):
        reason = "did not answer within 3 s"
        self.check(os.path.join(DRIVERS, "libicd_hang.so"), reason, f"opencl: .*{reason}")

    def test_one_that_crashes(self):
        reason = "drivers crash"
        self.check(os.path.join(DRIVERS, "libicd_crash.so"), reason, f"opencl: .*{reason}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
