#!/bin/sh
# SPDX-License-Identifier: MIT
# opencl-runtimes.sh FOLDER: prints what the build option opencl_runtimes should be here: PoCL if it
# is installed, and Intel's runtime for CPUs with INTEL_OPENCL=1. Each gets a folder of its own with
# its ICD, made in FOLDER, so that no other driver of the machine is asked.
set -eu
here=$(dirname "$0")
folder=$(mkdir -p "$1" && cd "$1" && pwd)
list=
for icd in /etc/OpenCL/vendors/pocl*.icd; do
    [ -f "$icd" ] || continue
    mkdir -p "$folder/pocl"
    cp "$icd" "$folder/pocl/pocl.icd"
    list=pocl=$folder/pocl
done
if [ "${INTEL_OPENCL:-}" = 1 ] && intel=$("$here/intel-opencl.sh"); then
    list=${list:+$list,}intel=$intel/vendors:$intel/lib
fi
echo "$list"
