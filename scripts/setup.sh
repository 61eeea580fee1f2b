#!/bin/sh
# SPDX-License-Identifier: MIT
# setup.sh GROUP...: makes sure that what building (build), OpenCL (opencl), fetching the model
# (fetch) and testing (test) need is there. Installs what is missing on Debian and its relatives, as
# root or by sudo; elsewhere says what to install.
set -eu

# group | how to tell that it is there | Debian package | what it is, for other systems.
# A line whose group ends in "?" is installed where that can be done by itself, and not missed
# elsewhere.
needs() {
    cat <<'END'
build|compiles|gcc libc6-dev|a C compiler
build|meson_ok|meson|Meson 1.0 or newer
build|has ninja|ninja-build|ninja
build|has pkg-config|pkg-config|pkg-config
build|library libpcre2-8|libpcre2-dev|PCRE2 (8 bit)
build|library libutf8proc|libutf8proc-dev|utf8proc
build|library jansson|libjansson-dev|Jansson
build?|library OpenCL|ocl-icd-opencl-dev|the OpenCL headers and ICD loader
build?|library clblast|libclblast-dev|CLBlast
opencl|has_device|pocl-opencl-icd|an OpenCL driver that finds a device, such as PoCL
fetch|has python3|python3|Python 3
fetch|python3 -m pip --version|python3-pip|pip for Python 3
test|has python3|python3|Python 3
test|library cmocka|libcmocka-dev|cmocka
test|has g++|g++|a C++ compiler
test?|has x86_64-w64-mingw32-gcc|gcc-mingw-w64-x86-64|MinGW-w64
test?|has aarch64-linux-gnu-gcc|gcc-aarch64-linux-gnu|a compiler for 64-bit Arm
test?|has qemu-aarch64|qemu-user|QEMU for programs
test?|has clang-format|clang-format|clang-format 14
test?|header simde/x86/avx512.h|libsimde-dev|SIMDe
test?|ls /etc/OpenCL/vendors/pocl.icd|pocl-opencl-icd|PoCL
test?|has oclgrind|oclgrind|oclgrind
test?|has clang-19|clang-19|clang 19, for AMD
test?|ls -d /usr/lib/clc|libclc-19|libclc of LLVM 19
test?|has ocloc|intel-opencl-icd|ocloc, for Intel
END
}
has() { command -v "$1" >/dev/null; }
library() { has pkg-config && pkg-config --exists "$1"; }
compiles() { echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -o /dev/null -; }
header() { echo "#include <$1>" | ${CC:-cc} -x c -E -o /dev/null -; }
# Drivers chosen by hand, PoCL, or others that find a device, as a GPU's driver may not.
has_device() {
    [ -n "${OCL_ICD_VENDORS:-}${OCL_ICD_FILENAMES:-}" ] || ls /etc/OpenCL/vendors/pocl*.icd ||
        "${0%/*}/../build/sobre" devices | grep '^opencl' | grep -v 'no device$'
}
meson_ok() { has meson && case $(meson --version) in 0.*) false ;; esac; }

groups=" $* "
# Sets packages (for apt) and names (for people) to what is missing; with "needed" only to what
# cannot be done without.
look() {
    packages='' names=''
    while IFS='|' read -r group probe package name; do
        case $groups in *" ${group%\?} "*) ;; *) continue ;; esac
        case $1$group in needed*\?) continue ;; esac
        if $probe >/dev/null 2>&1 </dev/null; then continue; fi
        packages="$packages $package"
        names="$names
  $name"
    done <<END
$(needs)
END
}

give_up() {
    look needed
    [ -n "$packages" ] || exit 0 # the rest is not missed
    echo "$1 Please install:$names" >&2
    if has apt-get; then echo "with: sudo apt-get install$packages" >&2; fi
    exit 1
}

look all
[ -n "$packages" ] || exit 0
has apt-get || give_up "Some things are missing, and this system has no apt-get to install them with."
if [ "$(id -u)" = 0 ]; then
    as_root=''
elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root='sudo'
else
    give_up "Some things are missing, and installing them needs root or sudo."
fi

echo "installing:$packages" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >>"$log" 2>&1; }
install() { apt install --no-install-recommends "$@"; }
wanted=$packages
if ! install $wanted && ! { apt update && install $wanted; }; then
    look needed
    if [ -n "$packages" ] && ! install $packages; then
        tail -n 5 "$log" >&2
        give_up "apt-get could not install everything."
    fi
    for package in $wanted; do # older and newer systems do not have all of the rest
        install "$package" || echo "$package is not to be had here; it is not needed" >&2
    done
fi
look needed
[ -z "$packages" ] || give_up "What apt-get installed is not enough (is it too old?)."
