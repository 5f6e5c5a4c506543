#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a node that compiles costs its file server: NODES (8) nodes build one C project at once, from sources that all share into directories of their own, twice; the second time what they
# include is known there. Counts and CPU seconds, which say the same on a busy machine: of the server, of spritefs on the nodes, of the compilers.
#   tests/bench/eight_bench.sh [NODES] [FILES]
. "$(dirname "$0")/lib.sh"
N=${1:-8} FILES=${2:-24}
bench_up -n "$N"
hz=$(getconf CLK_TCK)
on ws1 sh -c "mkdir -p /sprite/src && cd /sprite/src && for i in \$(seq 40); do echo \"static inline int f\$i(int x) { return x * \$i; }\" >h\$i.h; done; for i in \$(seq $FILES); do
	{ for h in \$(seq 40); do echo \"#include \\\"h\$h.h\\\"\"; done; echo '#include <stdio.h>'; echo '#include <stdlib.h>'; for k in \$(seq 60); do echo \"int g\${i}_\$k(int x) { int s = x; for (int i = 0; i < x % 9; i++) s += f1(s) * f40(i) + \$k; return s; }\"; done; } >s\$i.c; done
	printf 'o = \$(patsubst ../src/%%.c,%%.o,\$(wildcard ../src/*.c))\nlib.a: \$(o)\n\t@ar rc \$@ \$^\n%%.o: ../src/%%.c \$(wildcard ../src/*.h)\n\t@gcc -O1 -c -o \$@ \$<\n' >rules.mk"
nodes=$(seq -f ws%g "$N")
for n in $nodes; do on $n mkdir /sprite/$n; done
ticks() { on "$1" sh -c 'cut -d" " -f14,15 /proc/$(pgrep -x $0)/stat' "$2" | awk '{ print $1 + $2 }'; }
all() { local s=0 n; for n in $nodes; do s=$((s + $(ticks $n spritefs))); done; echo $s; }
calls() { on fs1 spritefsd --status | python3 -c 'import json, sys; print(sum(o["calls"] for o in json.load(sys.stdin)["rpc"].values()))'; }
build() { # what the compilers took, in hundredths
	local n pids=()
	for n in $nodes; do sh_on $n 'cd /sprite/$0 && rm -f *.o lib.a && TIMEFORMAT="%U %S" && { time make -s -f ../src/rules.mk; } 2>&1 | tail -1' >"$TMP/cpu.$n" & pids+=($!); done
	wait "${pids[@]}"
	cat "$TMP"/cpu.* | awk '{ s += $1 + $2 } END { printf "%.2f", s }'
}
for round in first second; do
	s=$(ticks fs1 spritefsd) c=$(all) k=$(calls) t=$EPOCHREALTIME
	used=$(build)
	awk -v r=$round -v n="$N" -v z="$hz" -v s="$(($(ticks fs1 spritefsd) - s))" -v c="$(($(all) - c))" -v k="$(($(calls) - k))" -v u="$used" -v a="$t" -v b="$EPOCHREALTIME" 'BEGIN {
		s /= z; c /= z
		printf "%s build on %d nodes: %.1f s; for each: compilers %.2f s of CPU, spritefs %.2f s (%.1f %%), server %.3f s (%.1f %%), %.0f calls, %.0f us of server CPU a call\n", r, n, b - a, u / n, c / n, 100 * c / u, s / n, 100 * s / u, k / n, k ? 1e6 * s / k : 0
		if (s > 0) printf "  a server of 2 CPUs is busy with %.0f nodes of one CPU each that do nothing but compile\n", 2 * u / s }'
done
