#!/bin/sh
# SPDX-License-Identifier: MIT
# gpu.sh COMMAND [OPTION...]: builds, checks and measures on a machine with an NVIDIA GPU. The
# machine needs the CUDA toolkit, a C compiler, ninja and Python 3, and no network.
#
#   carry DIR   on a Debian machine with a network: collects Meson and the libraries in DIR
#   build       builds everything with what this machine has, or else what --parts has
#   check       operations against their definition on each device; golden texts with --model
#   bench       speed of the shapes in bench_shape.c
#   peer        the same models in llama.cpp, from --tree (needs CMake) or --bin
#
#   --parts DIR       what `carry` has collected
#   --build DIR       build folder; build-gpu if not given
#   --results DIR     where the figures go; bench/results if not given
#   --devices "D D"   cuda:0, and opencl:0 if NVIDIA's driver for it is there, if not given
#   --archs 90,120    compute capabilities; if not given that of the card, else the usual ones
#   --shapes "S S" --quants "Q Q" --repeats N --prompt N --gen N --batches N,N
#   --model FILE --golden DIR   for golden texts
#   --tree DIR        llama.cpp's sources; --bin DIR: its programs, built already
#   --cpu             the peer without a GPU, to try this script
#
# Each command but `carry` ends after 8 minutes at most; `build` and `peer` go on where they stopped.
set -eu

case ${1:-} in
carry | build | check | bench | peer) ;;
*) sed -n '3,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" && exit 2 ;;
esac
if [ "$1" != carry ] && [ -z "${GPU_SH_TIMED:-}" ]; then
    GPU_SH_TIMED=1 exec timeout 475 "$0" "$@"
fi

here=$(cd "$(dirname "$0")/.." && pwd)
command=$1
shift
parts='' build=$here/build-gpu results=$here/bench/results devices='' archs='' model='' golden=''
tree='' bin='' cpu='' repeats=3 prompt=512 gen=128 batches=1,8,32
shapes='smollm2-135m qwen2.5-0.5b-llama tinyllama-1.1b' quants='Q4_0 Q8_0 F16'
folder=''
[ "$command" != carry ] || { folder=${1:?DIR is missing} && shift; }
while [ $# -gt 0 ]; do
    case $1 in
    --cpu) cpu=1 && shift && continue ;;
    --parts | --build | --results | --devices | --archs | --shapes | --quants | --repeats | \
        --prompt | --gen | --batches | --model | --golden | --tree | --bin) ;;
    *) echo "gpu.sh: there is no option $1" >&2 && exit 2 ;;
    esac
    [ $# -ge 2 ] || { echo "gpu.sh: $1 wants a value" >&2 && exit 2; }
    eval "${1#--}=\$2"
    shift 2
done
absolute() { case $1 in /* | '') echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
parts=$(absolute "$parts") build=$(absolute "$build") results=$(absolute "$results")
tree=$(absolute "$tree") bin=$(absolute "$bin") golden=$(absolute "$golden") model=$(absolute "$model")

# --- What a bare machine lacks

# Libraries with their headers, and pkg-config for finding them.
packages='libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 libjansson-dev libjansson4
libcmocka-dev libcmocka0 ocl-icd-opencl-dev ocl-icd-libopencl1 opencl-c-headers libclblast-dev
libclblast1 pkgconf-bin libpkgconf3'

carry() {
    mkdir -p "$folder"
    cd "$folder"
    # apt's own user may not write here: then it says so, and goes on as this one.
    apt-get -q download $packages
    python3 -m pip -q download --no-deps --only-binary :all: meson
    du -sh .
}

# Unpacks the parts and makes them known; later commands only make them known.
use_parts() {
    [ -n "$parts" ] || [ -d "$build/parts" ] || return 0
    root=$build/parts
    if [ -n "$parts" ] && [ ! -f "$root/done" ]; then
        rm -rf "$root"
        mkdir -p "$root/meson"
        for package in "$parts"/*.deb; do dpkg -x "$package" "$root"; done
        for wheel in "$parts"/meson-*.whl; do python3 -m zipfile -e "$wheel" "$root/meson"; done
        # Their places are those below this folder.
        find "$root" -name '*.pc' -exec sed -i "s|=/usr|=$root/usr|" {} +
        touch "$root/done"
    fi
    libraries=$(dirname "$(find "$root/usr/lib" -name 'libpcre2-8.so')")
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export PKG_CONFIG_PATH="$libraries/pkgconfig:$root/usr/share/pkgconfig"
    command -v pkg-config >/dev/null || export PKG_CONFIG="$root/usr/bin/pkgconf"
}

run_meson() {
    if command -v meson >/dev/null; then
        meson "$@"
    else
        PYTHONPATH="$build/parts/meson" python3 -m mesonbuild.mesonmain "$@"
    fi
}

has_card() { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }

card_archs() {
    has_card || return 0
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d '. ' | sort -un | paste -sd,
}

build() {
    mkdir -p "$build"
    use_parts
    PATH=$PATH:/usr/local/cuda/bin
    : "${archs:=$(card_archs)}"
    if [ ! -f "$build/build.ninja" ]; then
        run_meson setup "$build" "$here" -Dcuda=enabled -Dtests=enabled \
            ${archs:+"-Dnvcc_archs=$archs"} ${model:+"-Dmodel=$model"} \
            ${golden:+"-Dgolden_dir=$golden"}
    fi
    start=$(date +%s)
    ninja -C "$build" programs cuda bench-gpu tests/test_ops tests/test_smollm2
    echo "built in $(($(date +%s) - start)) s"
}

# --- Devices

# NVIDIA's OpenCL: as it is installed, or by its library alone.
find_icd() {
    if ls /etc/OpenCL/vendors/nvidia*.icd >/dev/null 2>&1; then
        echo /etc/OpenCL/vendors/
        return
    fi
    library=$({ ldconfig -p 2>/dev/null | sed -n 's/.*libnvidia-opencl\.so\.1.* => //p'
        ls /usr/local/nvidia/lib*/libnvidia-opencl.so.1 /usr/lib/*/libnvidia-opencl.so.1 2>/dev/null; } |
        head -n 1)
    [ -n "$library" ] || return 0
    mkdir -p "$build/icd"
    echo "$library" >"$build/icd/nvidia.icd"
    echo "$build/icd"
}

choose_devices() {
    use_parts
    icd=$(find_icd)
    if [ -n "$icd" ]; then export OCL_ICD_VENDORS="${OCL_ICD_VENDORS:-$icd}"; fi
    if [ -z "$devices" ]; then
        devices=cuda:0
        if [ -z "$icd" ]; then
            echo "NVIDIA's OpenCL driver is not here: CUDA only" >&2
        elif [ ! -f "$build/libsobre-opencl.so" ]; then
            echo "the OpenCL backend was not built: CUDA only" >&2
        else
            devices='cuda:0 opencl:0'
        fi
    fi
    mkdir -p "$results"
}

# --- Commands

check() {
    choose_devices
    log=$results/check.txt failed=0
    { date -u +%F && "$build/sobre" devices --plugins "$build"; } >"$log" 2>&1 || true
    for device in $devices; do
        tests='rows products attention'
        [ -z "$model" ] || tests="$tests golden"
        for name in $tests; do
            case $name in golden) set -- test_smollm2 ;; *) set -- test_ops "$name" ;; esac
            program=$build/tests/$1
            shift
            if SOBRE_TEST_DEVICES=$device SOBRE_TEST_PLUGINS=$build SOBRE_TEST_MODEL=$model \
                SOBRE_TEST_GOLDEN=$golden "$program" "$@" >"$build/check.log" 2>&1; then
                verdict=ok
            else
                verdict=FAILED failed=1
            fi
            echo "$device $name: $verdict, $(grep -c '\[       OK' "$build/check.log" || true) tests" |
                tee -a "$log"
            [ $verdict = ok ] || { cat "$build/check.log" >>"$log" && tail -n 30 "$build/check.log"; }
        done
    done
    return $failed
}

# Runs PROGRAM... for each model; its output is a row.
each_model() {
    for shape in $shapes; do
        for quant in $quants; do "$@" || echo "$shape $quant: failed" >&2; done
    done
}

one_bench() {
    for device in $devices; do
        echo "$device $shape $quant" >&2
        timeout 100 "$build/bench-gpu" "$device" "$shape" "$quant" --plugins "$build" -r "$repeats" \
            -p "$prompt" -n "$gen" -b "$batches" >>"$build/bench.rows" ||
            echo "$device $shape $quant: failed" >&2
    done
}

bench() {
    choose_devices
    rm -f "$build/bench.rows"
    each_model one_bench
    python3 "$here/bench/gpu_table.py" sobre "$build/bench.rows" "$results"
}

one_peer() {
    file=$build/models/$shape-$quant.gguf
    [ -f "$file" ] || "$build/bench-gpu" --write "$shape" "$quant" "$file"
    echo "llama.cpp $shape $quant" >&2
    layers=99
    [ -z "$cpu" ] || layers=0
    timeout 100 "$bin/llama-bench" -m "$file" -p "$prompt" -n "$gen" -r "$repeats" -ngl "$layers" \
        -fa 1 -o json >"$build/peer.json" 2>"$build/peer.log" || { tail -n 5 "$build/peer.log" && return 1; }
    : >"$build/peer-batch.txt"
    if [ -x "$bin/llama-batched-bench" ]; then
        timeout 100 "$bin/llama-batched-bench" -m "$file" -c 8192 -npp 8 -ntg "$gen" \
            -npl "$batches" -ngl "$layers" -fa 1 >"$build/peer-batch.txt" 2>"$build/peer.log" ||
            tail -n 5 "$build/peer.log"
    fi
    python3 "$here/bench/gpu_table.py" row "$shape" "$quant" "$build/peer.json" \
        "$build/peer-batch.txt" >>"$build/peer.rows"
}

peer() {
    use_parts
    mkdir -p "$build/models" "$results"
    if [ -z "$bin" ]; then
        [ -n "$tree" ] || { echo "gpu.sh: peer wants --tree or --bin" >&2 && exit 2; }
        : "${archs:=$(card_archs)}"
        cmake -S "$tree" -B "$build/peer" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
            -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF \
            -DGGML_CUDA="$([ -n "$cpu" ] && echo OFF || echo ON)" ${archs:+"-DCMAKE_CUDA_ARCHITECTURES=$(echo "$archs" | tr , ';')"}
        cmake --build "$build/peer" --target llama-bench llama-batched-bench
        bin=$build/peer/bin
    fi
    rm -f "$build/peer.rows"
    each_model one_peer
    python3 "$here/bench/gpu_table.py" peer "$build/peer.rows" "$results"
}

"$command"
