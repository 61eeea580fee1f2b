#!/bin/sh
# SPDX-License-Identifier: MIT
# check.sh: sets up, builds and tests everything: a release build, one with the address and
# undefined-behaviour sanitizers, what has threads with the thread sanitizer, and the CPU backend for
# 64-bit Arm, emulated. The last line is "N passed, N failed, N skipped" over all of them; a build
# that fails counts as a failure.
# GOLDEN=folder: the tests also use the full golden data there.
# INTEL_OPENCL=1: the OpenCL backend is tested on Intel's runtime, too, which is fetched and is under
# Intel's licence (docs/testing.md).
set -eu
cd "$(dirname "$0")/.."
./scripts/setup.sh build fetch test
model=$(./scripts/fetch-model.sh)
golden=${GOLDEN:+$(cd "$GOLDEN" && pwd)}
options="-Dtests=enabled -Dmodel=$model -Dgolden_dir=$golden"
runtimes=-Dopencl_runtimes=$(./scripts/opencl-runtimes.sh build/opencl)
sanitized="-Dbuildtype=debugoptimized -Db_lundef=false"
status=0

# build BUILD_DIR TARGET [MESON_OPTION...]: forgets what an earlier run came to.
build() {
    rm -f "$1/meson-logs/testlog.json"
    ./scripts/build.sh "$@"
}

# run BUILD_DIR [TEST...]
run() {
    dir=$1
    shift
    meson test -C "$dir" --no-rebuild --print-errorlogs --timeout-multiplier 3 "$@"
}

# Some kernels lay out memory in a way that the thread sanitizer of older compilers cannot work in.
tsan_works() {
    file=$(mktemp)
    echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -fsanitize=thread -o "$file" - && "$file"
    works=$?
    rm -f "$file"
    return $works
}

build build all $options "$runtimes" && run build || status=1
export ASAN_OPTIONS=detect_leaks=1:halt_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
build build-san all $options "$runtimes" $sanitized -Db_sanitize=address,undefined &&
    run build-san || status=1

set -- build build-san
if tsan_works >/dev/null 2>&1; then
    export TSAN_OPTIONS=halt_on_error=1
    build build-tsan thread-tests $options $sanitized -Db_sanitize=thread &&
        run build-tsan pool mm_team session model || status=1
    set -- "$@" build-tsan
else
    set -- "$@" --skip "build-tsan: the thread sanitizer does not work here"
fi

# What the instruction sets of 64-bit Arm have a part in, emulated; elsewhere build/ is for them.
if [ "$(uname -m)" != aarch64 ]; then
    failure=0
    cross=$(./scripts/arm64-sysroot.sh) || failure=$?
    if [ $failure = 77 ]; then
        set -- "$@" --skip "build-arm64: $cross"
    else
        rm -f build-arm64/meson-logs/testlog.json
        [ $failure = 0 ] && build build-arm64 cpu-tests -Dtests=enabled -Dcli=false \
            -Dopencl=disabled -Dcuda=disabled --cross-file "$cross" &&
            run build-arm64 os quant mm cpu pool kv session model \
                ops_rows ops_products ops_attention || status=1
        set -- "$@" build-arm64
    fi
fi
python3 scripts/summarise.py "$@" || status=1
exit $status
