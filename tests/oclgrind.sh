#!/bin/sh
# SPDX-License-Identifier: MIT
# oclgrind.sh OCLGRIND PROGRAM [ARG...]: runs a test in a simulator of an OpenCL device that reports
# data races, accesses out of bounds, divergent barriers, wrong calls and the use of what nobody
# wrote. Any report fails the test.
set -u
oclgrind=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$oclgrind" --data-races --uninitialized --check-api --max-errors 20 --log "$log" "$@"
status=$?
if [ -s "$log" ]; then
    echo "oclgrind reports:"
    head -n 100 "$log"
    exit 1
fi
exit $status
