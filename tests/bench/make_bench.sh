#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mig make over 1, 2 and 4 hosts of equal small CPU shares: speed-up. The machine must be quiet: guests have the lowest CPU weight, other work goes before them.
#   tests/bench/make_bench.sh [FILES [LINES]]
. "$(dirname "$0")/lib.sh"
. tests/bench/source.sh
FILES=${1:-20} LINES_=${2:-100}
SHARE=${SHARE:-$(($(nproc) * 100 * 7 / 10 / 4))}
[ "$SHARE" -le 100 ] || SHARE=100
bench_up -n 4
job_dir
{ for i in $(seq "$FILES"); do echo "=== f$i.c"; source_c f$i "$LINES_"; done; } | lab exec ws1 -u sprite -- bash -c "cd $JD; awk '/^=== / { f = \$2; next } { print >f }'"
lab exec ws1 -u sprite -- bash -c "cat >$JD/Makefile" <<'X'
OBJS = $(patsubst %.c,%.o,$(wildcard f*.c))
all.a: $(OBJS)
	ar cr $@ $(OBJS)
%.o: %.c
	gcc -O2 -w -c -o $@ $<
X
until_true 60 idle_all 4 || { echo "hosts do not become idle"; mig hosts; exit 1; }
for i in 2 3 4; do as sprite ws1 bash -c "cd /tmp && echo 'int x;' >x.c && mig run -H ws$i gcc -O2 -c x.c" </dev/null >/dev/null 2>&1; done # the compiler is fetched once, not in the measured runs
for i in 1 2 3 4; do lab cpu ws$i "$SHARE" >/dev/null; done
build() { as sprite ws1 bash -c "cd $JD && rm -f *.o *.a && $1 </dev/null >log 2>&1"; }
echo "mig make: $FILES files of C, hosts of $SHARE % of a CPU each, on one machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before"
printf '%-28s %8s %9s %s\n' hosts seconds speed-up "Sprite's pmake (kernel)"
one=$(seconds build "make -j2")
printf '%-28s %8.2f %9s\n' "1 (plain make -j2)" "$one" 1.00
for n in 1 2 4; do
	for i in 2 3 4; do on ws$i mig lend "$([ $i -le $n ] && echo on || echo off)" >/dev/null; done
	until_true 30 idle_all $n; sleep 1.5 # the master hears of it
	t=$(seconds build "mig make --verbose --local 2 --remote $((2 * (n - 1))) -j$((2 * n))")
	awk -v n=$n -v o="$one" -v t="$t" -v s="$(case $n in 2) echo 1.69;; 4) echo 2.75;; esac)" -v a="$(on ws1 grep -c -- '-> ws' $JD/log)" 'BEGIN { printf "%-28s %8.2f %9.2f %s\n", n " (" a " recipes away)", t, o / t, s }'
done
