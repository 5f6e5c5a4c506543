#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What being a member costs: CPU of an idle host's migd, CPU and bytes of the master for each host, over SECONDS (default 60). By the processes' own clocks: the ticks of /proc/PID/stat
# go to whoever runs when the timer does, and who wakes by a timer is caught by it far too often.
#   tests/bench/idle_bench.sh [SECONDS]
. "$(dirname "$0")/lib.sh"
S=${1:-60} N=4
bench_up -n $N
until_true 60 idle_all $N
used() { on "$1" sh -c 'python3 -c "import sys, time; print(time.clock_gettime(~int(sys.argv[1]) << 3 | 2))" $(pgrep -x migd)'; }
bytes() { on "$1" ss -tniH "sport = :7701" | grep -oE 'bytes_(received|sent):[0-9]+' | cut -d: -f2 | awk '{ s += $1 } END { print s + 0 }'; }
for n in ws1 ws2 ws3 ws4; do lab logs $n migd | grep -q "is the master now" && m=$n; done
declare -A t
for n in ws1 ws2 ws3 ws4; do t[$n]=$(used $n); done
b=$(bytes $m)
sleep "$S"
for n in ws1 ws2 ws3 ws4; do
	[ $n = $m ] || awk -v h=$n -v a="${t[$n]}" -v b="$(used $n)" -v s="$S" 'BEGIN { printf "migd of idle member %s: %.3f %% of a CPU\n", h, (b - a) / s * 100 }'
done
awk -v h=$m -v a="${t[$m]}" -v b="$(used $m)" -v s="$S" -v n=$N -v by=$(($(bytes $m) - b)) 'BEGIN { printf "migd of the master %s: %.3f %% of a CPU; for each of %d hosts and hour: %.0f KiB, %.2f s of CPU at most\n", h, (b - a) / s * 100, n, by / n / s * 3600 / 1024, (b - a) / n / s * 3600 }'
