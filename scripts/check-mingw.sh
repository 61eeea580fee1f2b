#!/bin/sh
# SPDX-License-Identifier: MIT
# check-mingw.sh SOURCE_DIR BUILD_DIR: the library, the backends and the program compile for
# 64-bit Windows. Objects only; of the libraries their plain headers are enough. (-Wno-format: the
# printf attribute means Microsoft's formats there, while the code is built to use the standard's.)
set -eu
source=$1 objects=$2/mingw
cc=x86_64-w64-mingw32-gcc
if ! command -v $cc >/dev/null; then
    echo "SKIP: $cc is not installed"
    exit 77
fi
rm -rf "$objects"
mkdir -p "$objects/include"
for library in libpcre2-8:pcre2.h libutf8proc:utf8proc.h jansson:jansson.h jansson:jansson_config.h; do
    dir=$(pkg-config --variable=includedir "${library%%:*}")
    header=$(find "$dir" "$dir/$(${CC:-cc} -print-multiarch)" -maxdepth 1 -name "${library#*:}" | head -n 1)
    cp "$header" "$objects/include" # alone, so that no header of this system's libc comes along
done
# OpenCL's backend only where its headers are.
skipped=backends/opencl
if pkg-config --exists OpenCL clblast; then
    cp -r "$(pkg-config --variable=includedir OpenCL)/CL" "$objects/include"
    cp "$(pkg-config --variable=includedir clblast)"/clblast*.h "$objects/include"
    skipped=none
fi
cd "$source"
avx2='-mavx2 -mfma -mf16c'
avx512="$avx2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"
compile() {
    case $1 in
    *_avx2.c) isa=$avx2 ;;
    *_avxvnni.c) isa="$avx2 -mavxvnni" ;;
    *_avx512.c) isa=$avx512 ;;
    *) isa= ;;
    esac
    case $1 in # before the CPU's, since two headers have the same name
    backends/opencl/* | backends/cuda/* | backends/gpu/*)
        folders="-Ikernels_cl -Ibackends/gpu -I${1%/*} -DCL_TARGET_OPENCL_VERSION=120"
        ;;
    *) folders= ;;
    esac
    $cc -std=c11 -O0 -ffp-contract=off $isa $folders -DSOBRE_BUILD -DPCRE2_STATIC -DUTF8PROC_STATIC \
        -DSOBRE_PLUGIN_DIR='""' -D_GNU_SOURCE -D__USE_MINGW_ANSI_STDIO=1 -Wall -Wextra -Wno-unused-parameter -Wno-format \
        -Werror -Iinclude -Isrc -Imodels -Ibackends -Ibackends/cpu -Ibackends/null -Icli -Ibench \
        -I"$objects/include" -c "$1" -o "$objects/$(echo "$1" | tr / _).o"
}
status=0
for file in $(find src backends models cli bench -name '*.c' ! -name '*_posix*.c' ! -path 'backends/cpu/arm/*' \
    ! -path "$skipped/*" | sort); do
    compile "$file" || { echo "$file does not compile for Windows" && status=1; }
done
echo "$(find "$objects" -name '*.o' | wc -l) objects"
exit $status
