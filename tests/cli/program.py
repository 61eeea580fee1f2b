# SPDX-License-Identifier: MIT
"""The `sobre` program for tests: run with pipes, or on a terminal.

usage of each test: test_NAME.py SOBRE TINY_MODEL [REAL_MODEL]
"""
import array
import ast
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import pty
except ImportError:  # Windows
    pty = None

SOBRE, TINY_MODEL = sys.argv[1:3]
REAL_MODEL = sys.argv[3] if len(sys.argv) > 3 else ""


class Program(unittest.TestCase):
    """One folder with models for all tests; a cache folder that holds two of them."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="sobre-cli-")
        cls.models = {}
        for kind in ["whole", "no-tokenizer", "no-template", "no-tensors", "slow"]:
            cls.models[kind] = os.path.join(cls.folder, kind + ".gguf")
            subprocess.run([TINY_MODEL, kind, cls.models[kind]], check=True)
        cls.cache = os.path.join(cls.folder, "cache")
        cache_models = os.path.join(cls.cache, "sobre", "models")
        os.makedirs(cache_models)
        for name in ["little-one", "little-two", "other-00001-of-00002", "other-00002-of-00002"]:
            shutil.copy(cls.models["whole"], os.path.join(cache_models, name + ".gguf"))
        no_drivers = os.path.join(cls.folder, "no-drivers")
        os.makedirs(no_drivers)
        cls.environment = {**os.environ, "XDG_CACHE_HOME": cls.cache, "NO_COLOR": "",
                           "OCL_ICD_VENDORS": no_drivers, "CUDA_VISIBLE_DEVICES": "-1"}
        cls.environment.pop("COLUMNS", None)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def sobre(self, *args, code=0, text=None, **options):
        """Runs the program; standard output and standard error as text."""
        options.setdefault("env", self.environment)
        if text is None:
            options.setdefault("stdin", subprocess.DEVNULL)
        else:
            options["input"] = text.encode() if isinstance(text, str) else text
        done = subprocess.run([SOBRE, *map(str, args)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120, **options)
        out, err = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, code, f"{args}\n{out}\n{err}")
        return out, err

    def out(self, *args, **options):
        return self.sobre(*args, **options)[0]

    def err(self, *args, **options):
        return self.sobre(*args, **options)[1]

    def json(self, *args, **options):
        return json.loads(self.out(*args, **options))

    def path(self, name):
        return os.path.join(self.folder, name)


class Terminal(Program):
    """The program on a terminal."""

    def start(self, *args, **environment):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execve(SOBRE, [SOBRE, *map(str, args)],
                      {**self.environment, "TERM": "xterm", **environment})
        self.seen = ""

    def until(self, pattern):
        """What the terminal shows up to a pattern."""
        end = time.time() + 60
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.time()))
            self.assertTrue(ready, f"no {pattern!r} in {self.seen!r}")
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                data = b""
            self.assertTrue(data, f"it ended without {pattern!r}: {self.seen!r}")
            self.seen += data.decode("utf-8", "replace")
        at = re.search(pattern, self.seen).end()
        text, self.seen = self.seen[:at], self.seen[at:]
        return text

    def type(self, text):
        os.write(self.terminal, text.encode())

    def end(self):
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                data = b""
            if not data:
                break
            self.seen += data.decode("utf-8", "replace")
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def read_npy(path):
    """The shape and the values of a version 1.0 file of little-endian float32."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    size = 10 + int.from_bytes(data[8:10], "little")
    assert size % 64 == 0
    header = ast.literal_eval(data[10:size].decode())
    assert header["descr"] == "<f4" and not header["fortran_order"]
    values = array.array("f")
    values.frombytes(data[size:])
    assert len(values) == header["shape"][0] * header["shape"][1]
    return header["shape"], values
