#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""check-kernels.py [--all] [--update] [--targets A,B] [FILE...]: compiles every kernel of
kernels_cl/variants.tsv for GPUs whose compiler is installed, and compares what it needs with
kernels_cl/resources.tsv.

  --all          for all targets instead of one of each kind
  --update       the same, and writes the table anew; what was not compiled stays as it is
  --targets A,B  for these only (gfx1100, dg2, sm_90; amd, intel and nvidia stand for all theirs)
  FILE...        only kernels of these files (gemv.cl)

Fails on a kernel that does not compile, a spill, an array in memory, registers up by more than 15 %
and 8, dot instructions or SIMD lanes lost, more than 32 KiB of local memory, and a variant that is
in one of the tables only. What the columns mean, and how occupancy is estimated, is in
docs/kernels.md. Exit status 77: there is no compiler at all.
"""
import argparse
import concurrent.futures
import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KERNELS = os.path.join(ROOT, "kernels_cl")
VARIANTS = os.path.join(KERNELS, "variants.tsv")
TABLE = os.path.join(KERNELS, "resources.tsv")
MAX_VARIANTS = 60
MAX_LOCAL = 32 * 1024
CL_OPTIONS = ["-cl-std=CL1.2"]


class Variant(NamedTuple):
    file: str
    entry: str
    group: int
    defines: str
    where: str  # "any", or what devices that ask for it have
    phase: str  # "decode": runs for each token; "prefill"
    purpose: str

    @property
    def key(self):
        return self.file, self.entry, str(self.group), self.defines

    @property
    def macros(self):
        return [f"-DWG={self.group}"] + [f"-D{define}" for define in self.defines.split()]

    def check_group(self, text, pattern):
        """The size of group in a compiler's output must be the one in the list."""
        found = re.search(pattern, text)
        if not found or int(found[1]) != self.group:
            raise Failure(f"it is built for {found[1] if found else 'any number of'} work-items a "
                          f"group, and variants.tsv says {self.group}")

    def __str__(self):
        return f"{self.file} {self.entry} {self.group} [{self.defines}]"


class Resources(NamedTuple):
    lanes: int  # work-items that run in step
    registers: int
    scalars: int  # AMD's scalar registers; -1: there are none
    local: int  # bytes a group
    spill: int  # bytes
    stack: int  # bytes of private memory, spills not counted where that is known
    dot: int  # instructions that multiply 4x8 bits
    occupancy: int  # % of the most waves that a unit can hold


COLUMNS = ["file", "entry", "group", "defines", "target", *Resources._fields]


class Unit(NamedTuple):
    """What a group runs on: a CU or WGP, a (dual) subslice or Xe core, an SM."""
    waves: int  # the most
    groups: int  # the most
    local: int  # bytes
    reserved: int  # bytes of local memory that each group costs besides its own
    registers: int  # per lane, that the waves of one of its SIMDs share; 0: each has its own
    granule: int  # registers are dealt out in multiples of this


class Target(NamedTuple):
    name: str
    vendor: str
    builtins: str  # AMD: libclc's name of it
    unit: Unit


# Figures from LLVM's AMDGPU subtarget descriptions, NVIDIA's CUDA programming guide (compute
# capabilities) and Intel's architecture guides.
N_SIMDS = 4  # that a unit of AMD or NVIDIA has
GCN = Unit(40, 40, 65536, 0, 256, 4)
TARGETS = [
    Target("gfx803", "amd", "fiji", GCN),
    Target("gfx906", "amd", "gfx906", GCN),
    Target("gfx1010", "amd", "gfx1010", Unit(80, 80, 131072, 0, 1024, 8)),
    Target("gfx1030", "amd", "gfx1030", Unit(64, 64, 131072, 0, 1024, 16)),
    Target("gfx1100", "amd", "gfx1100", Unit(64, 64, 131072, 0, 1536, 24)),
    Target("gfx1200", "amd", "gfx1200", Unit(64, 64, 131072, 0, 1536, 24)),
    Target("skl", "intel", "", Unit(56, 16, 65536, 0, 0, 0)),
    Target("tgllp", "intel", "", Unit(112, 32, 131072, 0, 0, 0)),
    Target("dg2", "intel", "", Unit(128, 64, 131072, 0, 0, 0)),
    Target("sm_75", "nvidia", "", Unit(32, 16, 65536, 0, 512, 8)),
    Target("sm_86", "nvidia", "", Unit(48, 16, 102400, 1024, 512, 8)),
    Target("sm_89", "nvidia", "", Unit(48, 24, 102400, 1024, 512, 8)),
    Target("sm_90", "nvidia", "", Unit(64, 32, 233472, 1024, 512, 8)),
    Target("sm_120", "nvidia", "", Unit(48, 24, 102400, 1024, 512, 8)),
]
ALL = ["amd", "intel", "nvidia"]
QUICK = "gfx803,gfx1100,dg2,sm_75"  # old and new, waves of 64, 32 and fewer


class Failure(Exception):
    pass


def command(args, folder=None):
    """What a compiler says, both streams."""
    done = subprocess.run(args, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=600, check=False)
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Failure(f"exit status {done.returncode}\n{text.strip()}")
    return text


def read(path, mode="r"):
    with open(path, mode) as f:
        return f.read()


def occupancy(target, group, lanes, registers, local, waves_by_scalars):
    unit = target.unit
    waves_a_group = -(-group // lanes)
    waves = min(unit.waves, waves_by_scalars)
    if unit.registers:
        granules = -(-max(registers, 1) // unit.granule)
        waves = min(waves, N_SIMDS * (unit.registers // (granules * unit.granule)))
    groups = min(unit.groups, waves // waves_a_group)
    if local:
        groups = min(groups, unit.local // (local + unit.reserved))
    return 100 * groups * waves_a_group // unit.waves


class Amd:
    """clang for amdgcn, with the built-in functions of libclc."""
    folders = ["/usr/lib/clc", "/usr/share/clc", "/usr/local/share/clc"]

    def __init__(self):
        self.clang = shutil.which("clang-19")
        self.builtins = next(filter(os.path.isdir, self.folders), None)
        self.missing = None
        if not self.clang or not self.builtins:
            self.missing = "clang-19 or libclc-19 is not installed"

    def version(self):
        return re.search(r"version (\S+)", command([self.clang, "--version"]))[1]

    def compile(self, variant, targets, folder):
        for target in targets:
            out = os.path.join(folder, "out.s")
            library = os.path.join(self.builtins, f"{target.builtins}-amdgcn-mesa-mesa3d.bc")
            command([self.clang, "-x", "cl", *CL_OPTIONS, "-O3", "--target=amdgcn-amd-amdhsa",
                     "-nogpulib", f"-mcpu={target.name}", "-Wno-linker-warnings", "-Werror",
                     "-Xclang", "-mlink-builtin-bitcode", "-Xclang", library, "-I", KERNELS,
                     *variant.macros, "-S", "-o", out, os.path.join(KERNELS, variant.file)])
            text = read(out)
            # The metadata at the end has one entry a kernel, whose keys are in alphabetical order.
            for entry in text[text.index(".amdgpu_metadata"):].split("  - .args:")[1:]:
                get = functools.partial(self.field, entry)
                if get("name", str) == variant.entry:
                    break
            else:
                raise Failure(f"no kernel {variant.entry} in the assembly")
            variant.check_group(entry, r"reqd_workgroup_size:\s+- (\d+)")
            code = re.search(rf"^{variant.entry}:.*?^\.Lfunc_end", text, re.MULTILINE | re.DOTALL)
            registers, scalars, lanes = get("vgpr_count"), get("sgpr_count"), get("wavefront_size")
            local, spill = get("group_segment_fixed_size"), 4 * get("vgpr_spill_count")
            # Before gfx10, the waves of a SIMD share 800 scalar registers.
            by_scalars = N_SIMDS * (800 // max(scalars, 80)) if lanes == 64 else target.unit.waves
            yield target, Resources(
                lanes, registers, scalars, local, spill,
                get("private_segment_fixed_size") - spill,
                len(re.findall(r"^\s+v_dot4", code[0], re.MULTILINE)),
                occupancy(target, variant.group, lanes, registers, local, by_scalars))

    @staticmethod
    def field(entry, name, kind=int):
        return kind(re.search(rf"^    \.{name}: +(\S+)$", entry, re.MULTILINE)[1])


class Intel:
    """ocloc; resources stand in the binary's .ze_info, a YAML text."""

    def __init__(self):
        self.ocloc = shutil.which("ocloc")
        self.missing = None if self.ocloc else "ocloc is not installed (intel-opencl-icd)"

    def version(self):
        with tempfile.TemporaryDirectory() as folder:
            command([self.ocloc, "query", "OCL_DRIVER_VERSION"], folder)
            return read(os.path.join(folder, "OCL_DRIVER_VERSION")).strip("\0 \n")

    def compile(self, variant, targets, folder):
        options = " ".join([*CL_OPTIONS, "-Werror", "-I", KERNELS, *variant.macros])
        for target in targets:
            log = command([self.ocloc, "compile", "-file", os.path.join(KERNELS, variant.file),
                           "-device", target.name, "-options", options, "-internal_options",
                           "-cl-intel-allow-zebin", "-out_dir", folder, "-output", "out",
                           "-output_no_suffix"], folder)
            sections = self.sections(read(os.path.join(folder, "out"), "rb"))
            for entry in sections[".ze_info"].decode().split("  - name: ")[1:]:
                if entry.split(None, 1)[0] == variant.entry and "grf_count" in entry:
                    break
            else:
                raise Failure(f"no kernel {variant.entry} in the binary\n{log}")
            variant.check_group(entry, r"required_work_group_size: \[ (\d+),")
            lanes, local = self.field(entry, "simd_size", 8), self.field(entry, "slm_size", 0)
            memory = dict.fromkeys(["spill", "stack"], 0)
            for usage, size in re.findall(r"usage: +(\w+)\s+size: +(\d+)", entry):
                memory["stack" if usage == "private_space" else "spill"] += int(size)
            yield target, Resources(
                lanes, self.field(entry, "grf_count", 128), -1, local, memory["spill"],
                memory["stack"], self.count_dots(target, sections[".text." + variant.entry]),
                occupancy(target, variant.group, lanes, 0, local, target.unit.waves))

    @staticmethod
    def field(entry, name, default):
        found = re.search(rf"^ +{name}: +(\d+)$", entry, re.MULTILINE)
        return int(found[1]) if found else default

    @staticmethod
    def sections(elf):
        """Names and contents of an ELF64's sections."""
        table, = struct.unpack_from("<Q", elf, 40)
        n, names = struct.unpack_from("<HH", elf, 60)
        heads = [struct.unpack_from("<IIQQQQ", elf, table + 64 * i) for i in range(n)]
        strings = elf[heads[names][4]:][:heads[names][5]]
        return {strings[h[0]:strings.index(b"\0", h[0])].decode(): elf[h[4]:h[4] + h[5]]
                for h in heads}

    @staticmethod
    def count_dots(target, code):
        """Instructions are 16 bytes, 8 where bit 29 says so; the opcode is in the low 7 bits."""
        if target.name == "skl":
            return 0  # Gen9 has none
        n, at = 0, 0
        while at + 4 <= len(code):
            word, = struct.unpack_from("<I", code, at)
            n += word & 0x7f == 0x58
            at += 8 if word >> 29 & 1 else 16
        return n


class Nvidia:
    """nvcc makes PTX once; ptxas makes each target's code of it."""

    def __init__(self):
        self.nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
        self.missing = None if self.nvcc else "nvcc is not installed"
        if self.nvcc:
            folder = os.path.dirname(os.path.realpath(self.nvcc))
            self.ptxas = shutil.which("ptxas", path=folder) or shutil.which("ptxas")
            if not self.ptxas:
                self.missing = "ptxas is not installed"

    def version(self):
        return re.search(r"V([\d.]+)", command([self.nvcc, "--version"]))[1]

    def compile(self, variant, targets, folder):
        ptx = os.path.join(folder, "out.ptx")
        command([self.nvcc, "-x", "cu", "-ptx", "-arch=compute_75", "-Werror", "all-warnings",
                 "-diag-suppress", "177", "-I", KERNELS, *variant.macros, "-o", ptx,
                 os.path.join(KERNELS, variant.file)])
        text = read(ptx)
        code = text[text.index(f".entry {variant.entry}("):]
        code = code[:code.index("\n}")]
        variant.check_group(code, r"\.maxntid (\d+)")
        for target in targets:
            log = command([self.ptxas, "-v", f"-arch={target.name}", ptx, "-o",
                           os.path.join(folder, "out.cubin")])
            log = log[log.index(f"Compiling entry function '{variant.entry}'"):]
            registers = self.field(log, r"Used (\d+) registers")
            local = self.field(log, r"(\d+) bytes smem")
            stack = self.field(log, r"(\d+) bytes stack frame")
            spill = self.field(log, r"(\d+) bytes spill stores")
            yield target, Resources(
                32, registers, -1, local, spill, max(stack - spill, 0),
                len(re.findall(r"\bdp4a\.", code)),
                occupancy(target, variant.group, 32, registers, local, target.unit.waves))

    @staticmethod
    def field(log, pattern):
        found = re.search(pattern, log.split("Compile time", 1)[0])
        return int(found[1]) if found else 0


def read_rows(path):
    """Rows as lists of cells, and what stands in '# compiler VENDOR VERSION' lines."""
    rows, compilers = [], {}
    for line in read(path).splitlines():
        if line.startswith("# compiler "):
            vendor, version = line.split()[2:4]
            compilers[vendor] = version
        elif line and not line.startswith("#"):
            rows.append(line.split("\t"))
    return rows[1:], compilers


def read_variants():
    variants = [Variant(file, entry, int(group), *rest)
                for file, entry, group, *rest in read_rows(VARIANTS)[0]]
    if len({v.key for v in variants}) != len(variants) or len(variants) > MAX_VARIANTS:
        sys.exit(f"{VARIANTS}: {len(variants)} rows, with some twice or more than {MAX_VARIANTS}")
    return variants


def read_table():
    if not os.path.exists(TABLE):
        return {}, {}
    rows, compilers = read_rows(TABLE)
    return {tuple(row[:5]): Resources(*map(int, row[5:])) for row in rows}, compilers


def write_table(results, compilers, variants):
    with open(TABLE, "w", encoding="utf-8") as f:
        f.write("# SPDX-License-Identifier: MIT\n"
                "# What kernels need on each GPU, as its compiler says. Written by\n"
                "# scripts/check-kernels.py --update; see docs/kernels.md.\n")
        for vendor, version in sorted(compilers.items()):
            f.write(f"# compiler {vendor} {version}\n")
        f.write("\t".join(COLUMNS) + "\n")
        for variant in variants:
            for target in TARGETS:
                key = (*variant.key, target.name)
                if key in results:
                    f.write("\t".join(map(str, [*key, *results[key]])) + "\n")


def compare(now, old, same_compiler):
    """What is wrong with a kernel's resources."""
    if now.local > MAX_LOCAL:
        yield f"{now.local} bytes of local memory, more than {MAX_LOCAL}"
    if now.spill:
        yield f"spills {now.spill} bytes"
    if now.stack and same_compiler:
        yield f"{now.stack} bytes of arrays are in memory"
    if not old:
        return
    percent, least = (15, 8) if same_compiler else (40, 16)
    if now.registers > old.registers + max(least, old.registers * percent / 100):
        yield f"registers {old.registers} -> {now.registers}"
    for name in ["lanes", "dot"]:
        if getattr(now, name) < getattr(old, name):
            yield f"{name} {getattr(old, name)} -> {getattr(now, name)}"


def compile_all(jobs):
    """Runs jobs (compiler, variant, targets) on all cores; returns results and failures."""
    local = threading.local()
    results, failures = {}, []

    def work(compiler, variant, targets):
        if not hasattr(local, "folder"):
            local.folder = tempfile.mkdtemp(dir=scratch)
        done, why = {}, None
        try:
            for target, resources in compiler.compile(variant, targets, local.folder):
                done[(*variant.key, target.name)] = resources
        except (Failure, subprocess.TimeoutExpired) as error:
            why = error
        except (KeyError, TypeError, ValueError) as error:
            why = f"its compiler's output is not as expected: {error!r}"
        if why:
            target = next(t for t in targets if (*variant.key, t.name) not in done)
            return done, f"{variant} for {target.name}: {why}"
        return done, None

    with tempfile.TemporaryDirectory() as scratch:
        n_threads = len(os.sched_getaffinity(0))
        with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
            for done, failure in pool.map(lambda job: work(*job), jobs):
                results.update(done)
                if failure:
                    failures.append(failure)
    return results, failures


def compare_lists(variants, table):
    """What is in one of variants.tsv and resources.tsv only."""
    for key in table:
        if key[:4] not in variants:
            yield f"{' '.join(key)}: in resources.tsv, but not in variants.tsv"
    for key, variant in variants.items():
        absent = [t.name for t in TARGETS if (*key, t.name) not in table]
        if absent:
            where = ", ".join(absent) if len(absent) < len(TARGETS) else "any target"
            yield f"{variant}: not in resources.tsv for {where}"


def report(problems):
    """One line each; of a file that does not compile, a compiler's words once."""
    told = set()
    for problem in problems:
        head, *log = problem.splitlines()
        print(head)
        kind = head.split()[0]
        if log and kind not in told:
            told.add(kind)
            print("\n".join("    " + line for line in log[:12]))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--targets")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    wanted = set((args.targets or (",".join(ALL) if args.all or args.update else QUICK)).split(","))
    variants = read_variants()
    table, recorded = read_table()

    jobs, versions, n_missing = [], {}, 0
    for vendor, compiler in [("amd", Amd()), ("intel", Intel()), ("nvidia", Nvidia())]:
        targets = [t for t in TARGETS if t.vendor == vendor and wanted & {t.name, vendor}]
        if not targets:
            continue
        if compiler.missing:
            n_missing += len(targets)
            print(f"SKIP: {', '.join(t.name for t in targets)}: {compiler.missing}")
            continue
        versions[vendor] = compiler.version()
        if vendor in recorded and versions[vendor] != recorded[vendor] and not args.update:
            print(f"{vendor}: the table is of {recorded[vendor]}, here is {versions[vendor]}, so "
                  "registers may differ by 40 % and 16, and arrays may be in memory")
        jobs += [(compiler, variant, targets) for variant in variants
                 if not args.files or variant.file in args.files]
    if not jobs:
        return 77
    results, problems = compile_all(jobs)

    if args.update:
        write_table({**table, **results}, {**recorded, **versions}, variants)
    vendors = {t.name: t.vendor for t in TARGETS}
    by_key = {v.key: v for v in variants}
    n_changed = 0
    for (*key, target), now in results.items():
        variant, old = by_key[tuple(key)], table.get((*key, target))
        same = args.update or recorded.get(vendors[target]) == versions[vendors[target]]
        n_changed += now != old
        found = list(compare(now, now if args.update else old, same))
        problems += [f"{variant} for {target}: {problem}" for problem in found]
    if not args.update:
        problems += compare_lists(by_key, table)
    report(problems)
    print(f"{len(results)} of {len(variants)} x {len(TARGETS)} compiled, {n_changed} unlike the "
          f"table, {n_missing} targets without a compiler, {len(problems)} problems")
    if problems:
        print("what is meant goes into the table by scripts/check-kernels.py --update")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
