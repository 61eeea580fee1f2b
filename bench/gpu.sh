#!/bin/sh
# SPDX-License-Identifier: MIT
# gpu.sh COMMAND [OPTION...]: builds, checks and measures on a machine with an NVIDIA GPU. The
# machine needs the CUDA toolkit, a C compiler, ninja and Python 3, and no network.
#
#   carry DIR   on a Debian machine with a network: collects Meson and the libraries in DIR, and
#               with --tree what the peer needs of llama.cpp
#   build       builds everything with what this machine has, or else what --parts has
#   check       on each device: operations against their definition, a model against the CPU;
#               golden texts with --model
#   bench       speed of the shapes in bench_shape.c
#   peer        the same models in llama.cpp: carried, from --tree (both need CMake), or --bin
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
# `bench` and `peer` leave out models for which no time is left.
set -eu

case ${1:-} in
carry | build | check | bench | peer) ;;
*) sed -n '3,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" && exit 2 ;;
esac
if [ "$1" != carry ] && [ -z "${GPU_SH_TIMED:-}" ]; then
    GPU_SH_TIMED=1 exec timeout 475 "$0" "$@"
fi

here=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/local/cuda/bin
deadline=$(($(date +%s) + 450))
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
folder=$(absolute "$folder") tree=$(absolute "$tree") bin=$(absolute "$bin") golden=$(absolute "$golden") model=$(absolute "$model")

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
    [ -z "$tree" ] || trim_peer
    du -sh .
}

# The sources of llama-bench and llama-batched-bench, for CUDA and the CPU.
trim_peer() {
    rm -rf peer
    mkdir -p peer/ggml/src peer/tools
    (cd "$tree" && cp -r CMakeLists.txt LICENSE cmake common include src vendor "$folder/peer" &&
        cd ggml && cp -r CMakeLists.txt cmake include "$folder/peer/ggml" &&
        cd src && cp -r ./*.* ggml-cpu ggml-cuda "$folder/peer/ggml/src" &&
        cd ../../tools && cp -r llama-bench batched-bench "$folder/peer/tools")
    cat >peer/tools/CMakeLists.txt <<'END'
find_package(Threads REQUIRED)
llama_add_compile_flags()
add_subdirectory(llama-bench)
add_subdirectory(batched-bench)
END
    tar -czf peer.tar.gz peer
    rm -r peer
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
        [ ! -f "$parts/peer.tar.gz" ] || tar -xzf "$parts/peer.tar.gz" -C "$root"
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

# The model's logits in f32 are the CPU's.
whole_model() {
    file=$build/models/smollm2-135m-Q4_0.gguf
    set -- "$build/sobre" logits "$file" --exact --chunk 16 --plugins "$build" \
        --ids "$(seq -s, 1 1231 49000)"
    make_model smollm2-135m Q4_0 && "$@" --device cpu -o "$build/cpu.npy" &&
        "$@" --device "$device" -o "$build/device.npy" &&
        python3 "$here/bench/gpu_table.py" compare "$build/cpu.npy" "$build/device.npy"
}

check() {
    choose_devices
    log=$results/check.txt failed=0
    { date -u +%F && "$build/sobre" devices --plugins "$build"; } >"$log" 2>&1 || true
    for device in $devices; do
        tests='rows products attention model'
        [ -z "$model" ] || tests="$tests golden"
        for name in $tests; do
            case $name in
            golden) set -- "$build/tests/test_smollm2" ;;
            model) set -- whole_model ;;
            *) set -- "$build/tests/test_ops" "$name" ;;
            esac
            verdict=ok
            (
                export SOBRE_TEST_DEVICES="$device" SOBRE_TEST_PLUGINS="$build"
                export SOBRE_TEST_MODEL="$model" SOBRE_TEST_GOLDEN="$golden"
                "$@"
            ) >"$build/check.log" 2>&1 || verdict=FAILED failed=1
            case $name in
            model) what=$(tail -n 1 "$build/check.log") ;;
            *) what="$(grep -c '\[       OK' "$build/check.log" || true) tests" ;;
            esac
            echo "$device $name: $verdict, $what" | tee -a "$log"
            [ $verdict = ok ] || { cat "$build/check.log" >>"$log" && tail -n 30 "$build/check.log"; }
        done
    done
    return $failed
}

# Seconds left, 100 at most.
left() {
    seconds=$((deadline - $(date +%s)))
    echo $((seconds < 100 ? seconds : 100))
}

# Runs a command for each model that there is time for; it adds rows.
each_model() {
    for shape in $shapes; do
        for quant in $quants; do
            if [ "$(left)" -lt 20 ]; then
                echo "$shape $quant: no time is left; ask for it by --shapes and --quants" >&2
            else
                "$@" || echo "$shape $quant: failed" >&2
            fi
        done
    done
}

make_model() {
    mkdir -p "$build/models"
    [ -f "$build/models/$1-$2.gguf" ] ||
        { "$build/sobre" bench --shape "$1" --quant "$2" --write "$build/models/new" &&
            mv "$build/models/new" "$build/models/$1-$2.gguf"; }
}

one_bench() {
    for device in $devices; do
        echo "$device $shape $quant" >&2
        timeout "$(left)" "$build/bench-gpu" "$device" "$shape" "$quant" --plugins "$build" -r "$repeats" \
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
    make_model "$shape" "$quant"
    echo "llama.cpp $shape $quant" >&2
    layers=99
    [ -z "$cpu" ] || layers=0
    timeout "$(left)" "$bin/llama-bench" -m "$file" -p "$prompt" -n "$gen" -r "$repeats" -ngl "$layers" \
        -fa 1 -o json >"$build/peer.json" 2>"$build/peer.log" || { tail -n 5 "$build/peer.log" && return 1; }
    : >"$build/peer-batch.txt"
    if [ -x "$bin/llama-batched-bench" ]; then
        timeout "$(left)" "$bin/llama-batched-bench" -m "$file" -c 8192 -npp 8 -ntg "$gen" \
            -npl "$batches" -ngl "$layers" -fa 1 >"$build/peer-batch.txt" 2>"$build/peer.log" ||
            tail -n 5 "$build/peer.log"
    fi
    python3 "$here/bench/gpu_table.py" row "$shape" "$quant" "$build/peer.json" \
        "$build/peer-batch.txt" >>"$build/peer.rows"
}

peer() {
    use_parts
    mkdir -p "$results"
    if [ -z "$bin" ]; then
        [ -n "$tree" ] || [ ! -d "$build/parts/peer" ] || tree=$build/parts/peer
        [ -n "$tree" ] || { echo "gpu.sh: peer wants --tree or --bin" >&2 && exit 2; }
        : "${archs:=$(card_archs)}"
        cmake -S "$tree" -B "$build/peer" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
            -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF \
            -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
            -DLLAMA_BUILD_IS_DEV=OFF -DLLAMA_BUILD_COMMIT=carried -DLLAMA_BUILD_NUMBER=0 \
            -DGGML_CUDA="$([ -n "$cpu" ] && echo OFF || echo ON)" ${archs:+"-DCMAKE_CUDA_ARCHITECTURES=$(echo "$archs" | tr , ';')"}
        cmake --build "$build/peer" --target llama-bench llama-batched-bench
        bin=$build/peer/bin
    fi
    rm -f "$build/peer.rows"
    each_model one_peer
    python3 "$here/bench/gpu_table.py" peer "$build/peer.rows" "$results"
}

"$command"
