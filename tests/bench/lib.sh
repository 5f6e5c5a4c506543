# SPDX-License-Identifier: Apache-2.0
# For tests/bench/*.sh, sourced first: a lab, medians, tables. $BUILD: the build directory. Figures of a busy machine mislead: what is compared is measured by turns.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
BUILD=${BUILD:-build}
export SPRITE_BIN=$(realpath "$BUILD/bin") SPRITE_TESTS=$(realpath -m "$BUILD/tests") SPRITE_LAB=bench-$$ LC_ALL=C.UTF-8
. tests/lab/lib.sh
bench_up() {
	mkdir -p "$SPRITE_TESTS"
	trap 'lab down >/dev/null 2>&1; rm -rf "$TMP"' EXIT
	trap 'exit 130' INT TERM
	lab up --bind "$SPRITE_TESTS:/opt/sprite/tests" "$@" >/dev/null || exit 1
}
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
idle_all() { [ "$(mig hosts --no-header -o NAME,STATE | awk '$2 == "idle"' | wc -l)" -ge "$1" ]; }
# seconds CMD...: runs it, prints how long it took
seconds() { local t=$EPOCHREALTIME; "$@" >/dev/null 2>&1 </dev/null || echo "# failed: $*" >&2; awk -v a="$t" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", b - a }'; }
