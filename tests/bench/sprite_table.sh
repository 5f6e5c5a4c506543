#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sprite's own table (mod.os 1987, Computer 21(2)): 1 to 4 compilations at once, all on one workstation against one there and the rest on others.
#   tests/bench/sprite_table.sh [LINES]     LINES of the source: more = longer compilations (default: 10 s or so at 35 % of a CPU; 2.5 minutes in all)
# Each workstation of the lab has the same share of a CPU, so that one machine can play five. It must be quiet:
# guests have the lowest CPU weight, and what else runs here goes before them.
. "$(dirname "$0")/lib.sh"
. tests/bench/source.sh
LINES_=${1:-520}
SHARE=${SHARE:-$(($(nproc) * 100 * 7 / 10 / 4))}
[ "$SHARE" -le 100 ] || SHARE=100
bench_up -n 4
job_dir
source_c work "$LINES_" | lab exec ws1 -u sprite -- sh -c "cat >$JD/work.c"
for i in 1 2 3 4; do lab cpu ws$i "$SHARE" >/dev/null; done
# at_once N local|remote: N compilations; the first here, the others here or on ws2...
at_once() {
	as sprite ws1 bash -c "cd $JD; for i in \$(seq $1); do
		if [ $2 = local ] || { [ \$i = 1 ] && [ $1 -gt 1 ]; }; then gcc -O2 -w -c work.c -o \$i.o & else h=\$i; [ \$h = 1 ] && h=2; mig run -H ws\$h gcc -O2 -w -c work.c -o \$i.o & fi; p[\$i]=\$!
		done; for i in \$(seq $1); do wait \${p[\$i]} || exit 1; done"
}
at_once 4 remote </dev/null >/dev/null 2>&1 # whatever is fetched or connected only once
echo "Compilations at once (gcc -O2; each of 4 workstations has $SHARE % of a CPU; one machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before)"
printf '%3s %12s %26s %8s %16s\n' n 'all local' '1 local, the rest away' gain "Sprite's gain"
gains=(x '-3 %' '43 %' '60 %' '67 %')
for n in 1 2 3 4; do
	l=$(seconds at_once $n local); r=$(seconds at_once $n remote)
	awk -v n=$n -v l="$l" -v r="$r" -v s="${gains[n]}" 'BEGIN { printf "%3d %10.2f s %24.2f s %6.0f %% %16s\n", n, l, r, (1 - r / l) * 100, s }'
done
