#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What being a member costs: CPU of an idle host's migd, CPU and bytes of the master for each host, over SECONDS (default 60).
#   tests/bench/idle_bench.sh [SECONDS]
. "$(dirname "$0")/lib.sh"
S=${1:-60} N=4
bench_up -n $N
until_true 60 idle_all $N
ticks() { on "$1" sh -c 'cut -d" " -f14,15 /proc/$(pgrep -x migd)/stat' | awk '{ print $1 + $2 }'; }
bytes() { on "$1" ss -tniH "sport = :7701" | grep -oE 'bytes_(received|sent):[0-9]+' | cut -d: -f2 | awk '{ s += $1 } END { print s + 0 }'; }
for n in ws1 ws2 ws3 ws4; do lab logs $n migd | grep -q "is the master now" && m=$n; done
declare -A t
for n in ws1 ws2 ws3 ws4; do t[$n]=$(ticks $n); done
b=$(bytes $m)
sleep "$S"
hz=$(getconf CLK_TCK)
for n in ws1 ws2 ws3 ws4; do
	[ $n = $m ] || awk -v h=$n -v a="${t[$n]}" -v b="$(ticks $n)" -v s="$S" -v z="$hz" 'BEGIN { printf "migd of idle member %s: %.3f %% of a CPU\n", h, (b - a) / z / s * 100 }'
done
awk -v h=$m -v a="${t[$m]}" -v b="$(ticks $m)" -v s="$S" -v z="$hz" -v n=$N -v by=$(($(bytes $m) - b)) 'BEGIN { printf "migd of the master %s: %.3f %% of a CPU; for each of %d hosts and hour: %.0f KiB, %.2f s of CPU at most\n", h, (b - a) / z / s * 100, n, by / n / s * 3600 / 1024, (b - a) / z / n / s * 3600 }'
