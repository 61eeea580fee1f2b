#!/bin/sh
# SPDX-License-Identifier: MIT
# check-install.sh MESON SOURCE_DIR BUILD_DIR [MODEL]: installs into a temporary folder, builds
# examples/hello.c there by pkg-config, against the shared and the static library, and runs both.
set -eu
meson=$1 source=$2 build=$3 model=${4:-}
if [ -z "$meson" ]; then
    echo "SKIP: no meson on the path to install with"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$meson" install -C "$build" --no-rebuild --quiet --destdir "$dir/root"
pc=$(find "$dir/root" -name sobre.pc)
libdir=${pc%/pkgconfig/*}
prefix=$(pkg-config --variable=prefix "$pc")
export PKG_CONFIG_PATH="$libdir/pkgconfig"
query() { pkg-config --define-variable=prefix="$dir/root$prefix" "$@" sobre; }
cc="${CC:-cc} -std=c11 -Wall -Wextra -Werror"

$cc "$source/examples/hello.c" -o "$dir/hello-shared" $(query --cflags --libs)
mkdir "$dir/static" # where the linker finds only the static library
cp "$libdir/libsobre.a" "$dir/static"
$cc "$source/examples/hello.c" -o "$dir/hello-static" -L"$dir/static" $(query --static --cflags --libs)

objdump -p "$dir/hello-shared" | grep 'NEEDED.*libsobre\.so\.[0-9]'
if objdump -p "$dir/hello-static" | grep 'NEEDED.*libsobre'; then
    echo "hello-static needs the shared library"
    exit 1
fi
"$dir/root$prefix/bin/sobre" --help >/dev/null
export LD_LIBRARY_PATH="$libdir"
for hello in "$dir/hello-shared" "$dir/hello-static"; do
    if "$hello" 2>/dev/null || "$hello" /dev/null 2>"$dir/error" || ! [ -s "$dir/error" ]; then
        echo "$hello: a file that is no model was not refused with a message"
        exit 1
    fi
    if [ -n "$model" ]; then "$hello" "$model" "Hello"; fi
done
[ -n "$model" ] || echo "SKIP: no model was given, so hello was not run to its end"
