#!/bin/sh
# SPDX-License-Identifier: MIT
# check-exports.sh PUBLIC_HEADER_DIR LIBRARY...: a library defines sobre_* and nothing else, all of
# what the headers declare, and uses nothing that could end, or change the state of, its host.
set -eu
headers=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
status=0
complain() { # what, file with names
    if [ -s "$2" ]; then
        echo "$library: $1:"
        sed 's/^/  /' "$2"
        status=1
    fi
}
# Declarations: a name right before its parameters, in a statement that begins with SOBRE_EXPORT.
cat "$headers"/*.h | grep -v '^ *#' | tr '\n' ' ' | grep -o 'SOBRE_EXPORT [^;(]*(' |
    sed -n 's/.*[ *]\(sobre_[a-z0-9_]*\)($/\1/p' | sort -u >"$dir/declared"
[ -s "$dir/declared" ] || { echo "no declarations found in $headers"; exit 1; }
# Ends the process, prints, reads the environment, or touches signals and locale.
forbidden='abort|_?exit|_Exit|quick_exit|v?printf|__v?printf_chk|puts|putchar|perror|stdout|stderr'
forbidden="$forbidden|getenv|secure_getenv|setenv|putenv|setlocale|uselocale|signal|sigaction|raise"
for library; do
    case $library in
    *.a) dynamic= ;;
    *) dynamic=-D ;;
    esac
    nm $dynamic -g "$library" | sed 's/@.*//' >"$dir/symbols"
    awk 'NF == 3 && $2 != "A" { print $3 }' "$dir/symbols" | sort -u >"$dir/defined"
    awk '$1 == "U" { print $2 }' "$dir/symbols" | sort -u >"$dir/used"
    grep -v '^sobre_' "$dir/defined" >"$dir/foreign" || true
    complain "exports foreign names" "$dir/foreign"
    comm -23 "$dir/declared" "$dir/defined" >"$dir/missing"
    complain "lacks functions that the headers declare" "$dir/missing"
    comm -13 "$dir/declared" "$dir/defined" >"$dir/extra"
    complain "exports what no header declares" "$dir/extra"
    grep -xE "$forbidden" "$dir/used" >"$dir/bad" || true
    complain "uses what a library must not" "$dir/bad"
    echo "$library: $(wc -l <"$dir/defined") symbols"
done
exit $status
