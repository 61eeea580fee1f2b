#!/bin/sh
# SPDX-License-Identifier: MIT
# build.sh BUILD_DIR TARGET [MESON_OPTION...]: sets up the build folder if need be, and builds.
# A folder that Meson can no longer use, because it is another Meson's, is set up anew.
set -eu
cd "$(dirname "$0")/.."
dir=$1 target=$2
shift 2
log=$(mktemp)
trap 'rm -f "$log"' EXIT

set_up() {
    echo "setting up $dir" >&2
    rm -rf "$dir/meson-private" "$dir/meson-info" "$dir/build.ninja"
    meson setup "$dir" "$@" >"$log" 2>&1
}
fail() {
    tail -n 60 "$log" >&2
    echo "$1" >&2
    exit 1
}

if [ ! -f "$dir/build.ninja" ]; then
    set_up "$@" || fail "meson could not set up $dir"
elif [ $# -gt 0 ]; then
    meson setup --reconfigure "$dir" "$@" >"$log" 2>&1 || set_up "$@" ||
        fail "meson could not set up $dir"
fi
echo "building $dir" >&2
if ! ninja -C "$dir" "$target" >"$log" 2>&1; then
    grep -q 'generated with Meson version' "$log" && set_up "$@" &&
        ninja -C "$dir" "$target" >"$log" 2>&1 || fail "$dir could not be built"
fi
grep -A 3 'warning:' "$log" >&2 || true
