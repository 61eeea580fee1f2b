#!/bin/sh
# SPDX-License-Identifier: MIT
# check-headers.sh INCLUDE_DIR CC...: each public header compiles alone, as C11 and as C++17, and a
# use of its macros does too.
set -eu
include=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for header in "$include"/sobre/*.h; do
    printf '#include <sobre/%s>\nint main(void) { return 0; }\n' "${header##*/}" >"$dir/one.c"
    cp "$dir/one.c" "$dir/one.cc"
    "$@" -std=c11 -pedantic -Wall -Wextra -Werror -I"$include" -fsyntax-only "$dir/one.c"
    if command -v g++ >/dev/null; then
        g++ -std=c++17 -Wall -Wextra -Werror -I"$include" -fsyntax-only "$dir/one.cc"
    fi
    echo "${header##*/}"
done
cat >"$dir/use.c" <<'END'
#include <sobre/sobre.h>
int main(void)
{
    sobre_source source = SOBRE_INIT(source);
    return SOBRE(source, .path = "a")->struct_size != source.struct_size;
}
END
sed '/return/c return source.struct_size != sizeof source;' "$dir/use.c" >"$dir/use.cc"
"$@" -std=c11 -pedantic -Wall -Wextra -Werror -I"$include" -fsyntax-only "$dir/use.c"
if ! command -v g++ >/dev/null; then
    echo "SKIP: g++ is not installed, so the headers were checked as C only"
    exit 77
fi
g++ -std=c++17 -Wall -Wextra -Werror -Wno-missing-field-initializers -I"$include" -fsyntax-only "$dir/use.cc"
