#!/bin/sh
# SPDX-License-Identifier: MIT
# check.sh: sets up, builds and tests everything: a release build and one with the address and
# undefined-behaviour sanitizers. The last line is "N passed, N failed, N skipped" over both.
# GOLDEN=folder: the tests also use the full golden data there.
set -eu
cd "$(dirname "$0")/.."
./scripts/setup.sh build fetch test
model=$(./scripts/fetch-model.sh)
golden=${GOLDEN:+$(cd "$GOLDEN" && pwd)}
options="-Dtests=enabled -Dmodel=$model -Dgolden_dir=$golden"

./scripts/build.sh build all $options
./scripts/build.sh build-san all $options -Dbuildtype=debugoptimized -Db_lundef=false \
    -Db_sanitize=address,undefined

export ASAN_OPTIONS=detect_leaks=1:halt_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
status=0
for dir in build build-san; do
    rm -f $dir/meson-logs/testlog.json
    meson test -C $dir --no-rebuild --print-errorlogs --timeout-multiplier 3 || status=1
done
python3 scripts/summarise.py build build-san || status=1
exit $status
