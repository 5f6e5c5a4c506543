#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Jobs that are too small for a trip: mig make beside plain make, by turns, on hosts that would take them. Best and median of ROUNDS (default 15).
#   tests/bench/make_small.sh [ROUNDS]
. "$(dirname "$0")/lib.sh"
ROUNDS=${1:-15}
bench_up -n 3
job_dir
until_true 60 idle_all 3
lab exec ws1 -u sprite -- bash -c "cat >$JD/Makefile" <<'X'
MAKEFLAGS += -r
.PHONY: true echo touch shell gcc
N = $(shell seq 40)
true: $(N:%=true.%)
echo: $(N:%=echo.%)
touch: $(N:%=touch.%)
shell: $(N:%=shell.%)
gcc: $(N:%=gcc.%)
true.%:
	@true $@
echo.%:
	@echo "  CC  $@"
touch.%:
	@touch x.$*
shell.%:
	@x=$@; : "$$x" && touch x.$*
gcc.%:
	@echo 'int x;' | gcc -x c -c -o x.o.$* -
X
cat >$TMP/turns.sh <<'X'
cd "$1" || exit 1
for what in true echo touch shell gcc; do
	for r in $(seq "$2"); do
		for make in "make" "mig make"; do
			t=${EPOCHREALTIME/./}; $make -j2 $what >/dev/null 2>&1 </dev/null || echo "# failed: $make $what"; e=${EPOCHREALTIME/./}
			echo "$what $((e - t)) $make"
		done
	done
done
X
lab exec ws1 -u sprite -- tee /tmp/turns.sh <$TMP/turns.sh >/dev/null
echo "40 recipes each, ms: best and median of $ROUNDS (machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before)"
printf '%-8s %22s %22s %8s\n' recipe 'make' 'mig make' 'medians'
as sprite ws1 bash /tmp/turns.sh $JD "$ROUNDS" >$TMP/rows </dev/null
grep '^#' $TMP/rows
best() { sort -g | head -1; }
for what in true echo touch shell gcc; do
	a() { grep "^$what [0-9]* make" $TMP/rows | cut -d' ' -f2; }
	b() { grep "^$what [0-9]* mig make" $TMP/rows | cut -d' ' -f2; }
	awk -v w=$what -v a="$(a | best)" -v am="$(a | median)" -v b="$(b | best)" -v bm="$(b | median)" \
		'BEGIN { printf "%-8s %9.1f %12.1f %9.1f %12.1f %8.2f\n", w, a / 1000, am / 1000, b / 1000, bm / 1000, bm / am }'
done
