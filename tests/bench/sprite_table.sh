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
on ws1 mkdir -m 1777 /sprite/tmp # as README tells sites that compile
lab exec ws1 -u sprite -- sh -c "cat >$JD/Makefile" <<'X'
O := $(addsuffix .o,$(wordlist 1,$(N),1 2 3 4))
.PHONY: all $(O)
all: $(O)
$(O):
	gcc -O2 -w -c work.c -o $@
X
until_true 60 idle_all 4 || { echo "hosts do not become idle"; mig hosts; exit 1; }
# at_once N local|remote: N compilations, here all of them (make), or one of them (mig make)
at_once() { as sprite ws1 sh -c "cd $JD; $([ $2 = local ] && echo make || echo mig make --local 1 --remote $(($1 - 1))) -s -j$1 N=$1"; }
away() { as sprite ws1 sh -c "cd $JD; mig run -H ws2 gcc -O2 -w -c work.c -o 1.o"; }
at_once 4 remote </dev/null >/dev/null 2>&1 # whatever is fetched or connected only once
echo "Compilations at once (gcc -O2; each of 4 workstations has $SHARE % of a CPU; one machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before)"
printf '%3s %12s %26s %8s %16s\n' n 'all local' '1 local, the rest away' gain "Sprite's gain"
gains=(x '-3 %' '43 %' '60 %' '67 %')
for n in 1 2 3 4; do
	l=$(seconds at_once $n local); r=$(seconds at_once $n remote); [ $n != 1 ] || one=$l
	awk -v n=$n -v l="$l" -v r="$r" -v s="${gains[n]}" 'BEGIN { printf "%3d %10.2f s %24.2f s %6.0f %% %16s\n", n, l, r, (1 - r / l) * 100, s }'
done
awk -v l="$one" -v r="$(seconds away)" 'BEGIN { printf "one that goes away (mig run -H): %.2f s, %.1f %%\n", r, (1 - r / l) * 100 }'
