#!/bin/sh
# SPDX-License-Identifier: MIT
# oclgrind.sh OCLGRIND CHECKS PROGRAM [ARG...]: runs a test in a simulator of an OpenCL device that
# reports accesses out of bounds and divergent barriers, and with CHECKS ("--data-races
# --uninitialized") races and the use of what nobody wrote. Any report fails the test.
set -u
oclgrind=$1 checks=$2
shift 2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$oclgrind" $checks --max-errors 20 --log "$log" "$@"
status=$?
if [ -s "$log" ]; then
    echo "oclgrind reports:"
    head -n 100 "$log"
    exit 1
fi
exit $status
