#!/bin/sh
# SPDX-License-Identifier: MIT
# oclgrind.sh LIBRARY PROGRAM [ARG...]: runs a test with a simulator of an OpenCL device as its only
# driver. It reports accesses out of bounds, divergent barriers, races, and the use of what nobody
# wrote. Any report fails the test.
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/vendors"
echo "$1" >"$folder/vendors/oclgrind.icd"
shift
export OCL_ICD_VENDORS="$folder/vendors" OCLGRIND_LOG="$folder/log" OCLGRIND_MAX_ERRORS=20
export OCLGRIND_DATA_RACES=1 OCLGRIND_UNINITIALIZED=1
"$@"
status=$?
if [ -s "$folder/log" ]; then
    echo "oclgrind reports:"
    head -n 100 "$folder/log"
    exit 1
fi
exit $status
