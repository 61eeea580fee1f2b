#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the folder of Intel's OpenCL runtime for CPUs (any x86-64 one) in the user's cache: in it
# vendors/ for OCL_ICD_VENDORS and lib/ for LD_LIBRARY_PATH. Fetches it first if it is not there.
#
# Only for tests, and only if asked for: the runtime is under Intel's End User License Agreement for
# Developer Tools (and the Intel Simplified Software License). It comes in Python packages, through
# pip and whatever index pip is set up with, pinned by their SHA-256. Where it cannot be had, says
# why and exits with 77.
set -eu
skip() {
    echo "no OpenCL runtime of Intel's: $1" >&2
    exit 77
}
[ "$(uname -sm)" = 'Linux x86_64' ] || skip "it is for Linux on x86-64"
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
[ -n "$cache" ] || skip "neither HOME nor XDG_CACHE_HOME is set, so there is no place for it"
folder=$cache/sobre/opencl/intel-2026.2.0

if [ ! -f "$folder/vendors/intel.icd" ]; then
    python3 -m pip --version >/dev/null 2>&1 || skip "pip for Python 3 is missing"
    mkdir -p "${folder%/*}" || skip "$folder cannot be made"
    work=$(mktemp -d "$folder.XXXXXX") || skip "$folder cannot be made"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "fetching Intel's OpenCL runtime for CPUs (276 MB, once) into $folder" >&2
    cat >"$work/requirements.txt" <<'END'
intel-opencl-rt==2026.2.0 --hash=sha256:6b6215a420598b4999ee01caca6d5cbe106aa4155c46c52377619c5aafce9f67
intel-cmplr-lib-rt==2026.2.0 --hash=sha256:9f713083073a820d2496a6da8e8d4f3482aba6640f74521d25ea48dcebe72748
tbb==2023.2.0 --hash=sha256:7d80615b6e970f11671fa05b6eaa9483ac864fbfe525ac280271a78b37870b7c
tcmlib==1.6.0 --hash=sha256:46c2491988bfd18c4733eeb08aca6a386706a497b92cc51d155f37ddea003c14
END
    python3 -m pip --disable-pip-version-check download --retries 2 --no-cache-dir --no-deps \
        --only-binary :all: --require-hashes -r "$work/requirements.txt" -d "$work/wheels" >&2 ||
        skip "its Python packages could not be fetched"
    # All libraries into one folder, but for an ICD loader, which would come before the system's.
    python3 - "$work" <<'END' || skip "its Python packages could not be unpacked"
import pathlib, shutil, sys, zipfile
work = pathlib.Path(sys.argv[1])
(work / "lib").mkdir()
(work / "vendors").mkdir()
for wheel in work.glob("wheels/*.whl"):
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            path = pathlib.PurePath(name)
            if path.parent.match("*.data/data/lib") and not path.name.startswith("libOpenCL."):
                with files.open(name) as source, open(work / "lib" / path.name, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
END
    echo "$folder/lib/libintelocl.so" >"$work/vendors/intel.icd"
    rm -rf "$work/wheels" "$work/requirements.txt"
    chmod 755 "$work"
    mv -T "$work" "$folder" 2>/dev/null || [ -f "$folder/vendors/intel.icd" ] ||
        skip "$folder could not be written"
fi
echo "$folder"
