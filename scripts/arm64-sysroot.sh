#!/bin/sh
# SPDX-License-Identifier: MIT
# arm64-sysroot.sh: prints a Meson cross file for 64-bit Arm, whose programs run in qemu. What they
# link comes in Debian packages of that architecture, which apt fetches from the system's own
# sources into the user's cache and which are unpacked there: nothing is installed, the system stays
# without a foreign architecture, and nobody has to be root. Where it cannot be had, prints why
# instead and exits with 77.
set -eu
skip() {
    echo "$1"
    exit 77
}
triple=aarch64-linux-gnu
[ "$(uname -s)" = Linux ] || skip "it is for Linux"
for program in $triple-gcc qemu-aarch64 apt-get dpkg-deb; do
    command -v $program >/dev/null || skip "$program is missing"
done
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
[ -n "$cache" ] || skip "neither HOME nor XDG_CACHE_HOME is set, so there is no place for the sysroot"
system=$(. /etc/os-release && echo "${ID:-linux}-${VERSION_ID:-0}")
folder=$cache/sobre/arm64-$system

fetch() {
    mkdir -p "$cache/sobre" && work=$(mktemp -d "$folder.XXXXXX") || skip "$folder cannot be made"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "fetching libraries for 64-bit Arm (11 MB, once) into $folder" >&2
    apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$work/root"
    touch "$apt/status"
    # Nothing of the system's but its sources, keys and proxies.
    cat >"$apt/conf" <<END
Dir::State "$apt";
Dir::State::lists "lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
APT::Sandbox::User "$(id -un)";
APT::Architecture "arm64";
#clear APT::Architectures;
APT::Architectures { "arm64"; };
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
END
    apt_get() {
        apt-get -q -y -c "$apt/conf" "$@" </dev/null >>"$apt/log" 2>&1 && return
        tail -n 3 "$apt/log" >&2
        skip "apt-get cannot fetch libraries for 64-bit Arm here"
    }
    apt_get update
    apt_get install --download-only --no-install-recommends \
        libc6-dev libpcre2-dev libutf8proc-dev libcmocka-dev
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/root" || skip "$(basename "$package") cannot be unpacked"
    done
    [ -d "$work/root/lib" ] || ln -s usr/lib "$work/root/lib" # packages of later systems lack it
    rm -rf "$apt" "$folder"
    mv "$work" "$folder"
}

[ -d "$folder/root/usr/include" ] || fetch
cat >"$folder/cross.ini" <<END
# Written by arm64-sysroot.sh.
[binaries]
c = ['$triple-gcc', '--sysroot=$folder/root']
ar = '$triple-ar'
objcopy = '$triple-objcopy'
strip = '$triple-strip'
pkg-config = 'pkg-config'
exe_wrapper = ['qemu-aarch64', '-L', '$folder/root', '-cpu', 'max']

[properties]
sys_root = '$folder/root'
pkg_config_libdir = '$folder/root/usr/lib/$triple/pkgconfig'

[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
END
echo "$folder/cross.ini"
