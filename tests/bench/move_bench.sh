#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a move costs and what being away costs.   tests/bench/move_bench.sh [-s]     -s: short, without the big ones. ONLY="trivial|64 MiB": only these moves
# Freeze and whole time of N moves home -> ws2 -> home, medians. CRIU's column: 4.2 by dump and restore through memory on a two-CPU virtual machine, whole time; it has no home.
. "$(dirname "$0")/lib.sh"
N=${N:-10} SHORT=
[ "${1:-}" = -s ] && SHORT=1 N=${N_SHORT:-6}
bench_up -n 2
IDLE=$(on ws1 sh -c 'awk "/VmRSS/ { print \$2 }" /proc/$(pgrep -x migd)/status')
job_dir
G=/opt/sprite/tests/bench/guest TLS=/opt/sprite/tests/bench/tls_raw

# One move by migd's control socket: "frozen_us total_us bytes", or what went wrong.
cat >"$TMP/move.py" <<'P'
import json, socket, sys
n, pid = int(sys.argv[1]), int(sys.argv[2])
for i in range(n):
    for verb, host in (("move", "ws2"), ("home", None)):
        s = socket.socket(socket.AF_UNIX)
        s.connect("/run/sprite/migd.sock")
        s.sendall((json.dumps({"verb": verb, "pid": pid, **({"host": host} if host else {})}) + "\n").encode())
        for line in s.makefile():
            r = json.loads(line)
            if "ok" in r:
                print(verb, r.get("frozen_us"), r.get("total_us"), r.get("bytes")) if r["ok"] else sys.exit("%s: %s" % (verb, r))
                break
P
lab exec ws1 -- sh -c 'cat >/tmp/move.py' <"$TMP/move.py"
ms() { awk -v c="$2" -v v="$1" '$1 == v { print $c / 1000 }' "$TMP/moves" | median; }
line() { # NAME CRIU CMD
	[[ $1 =~ ^(${ONLY:-.*})$ ]] || return 0
	job "exec $3" || return
	until_true 60 on ws1 grep -q ready $JD/out
	if ! on ws1 python3 /tmp/move.py "${4:-$N}" "$JOB" >"$TMP/moves" 2>"$TMP/err"; then
		printf '%-22s %s\n' "$1" "$(tail -1 "$TMP/err")"
	else
		printf '%-22s %10.1f %10.1f %10.1f %10.1f %10s %12s\n' "$1" "$(ms move 2)" "$(ms move 3)" "$(ms home 2)" "$(ms home 3)" "$(awk '{ print $4 }' "$TMP/moves" | median | awk '{ printf "%d", $1 }' | numfmt --to=iec)" "$2"
	fi
	on ws1 kill -KILL "$JOB"
}
# What TLS alone needs for the bytes of the 512 MiB row, between the same two nodes, before and after it.
sh_on ws2 "exec $TLS serve 7777 /etc/sprite/tls/host.crt /etc/sprite/tls/host.key >/tmp/tls 2>&1 </dev/null &"
until_true 20 on ws2 grep -q ready /tmp/tls
tls() { for _ in 1 2 3; do on ws1 $TLS send "$(on ws1 awk '$2 == "ws2" { print $1 }' /etc/hosts)" 7777 512; done >>"$TMP/tls"; }
echo "Moves (ms, medians of $N)"
printf '%-22s %10s %10s %10s %10s %10s %12s\n' process 'frozen' 'whole' 'frozen' 'whole' 'sent' 'CRIU whole'
printf '%-22s %21s %21s\n' '' 'home -> ws2' 'ws2 -> home'
line "trivial" 51 "$G hold 0"
line "python3" 112 "python3 -uc 'import time, hashlib, json; print(\"ready\"); time.sleep(9999)'"
line "17 threads" "115 (16)" "$G hold 0 17"
line "64 MiB" 374 "$G hold 64"
if [ -z "$SHORT" ]; then
	tls
	line "512 MiB" 3131 "$G hold 512"
	tls
	echo "$(median <"$TMP/tls") $(ms move 3) $(ms home 3)" | awk '{ printf "%-22s %21.1f %21.1f   raw TLS: %.1f ms\n", "  times raw TLS", $2 / $1, $3 / $1, $1 }'
	line "2 GiB, 5 %/s written" "-" "$G write 2048 5" 3
	line "2 GiB, 512 KiB in use" "17 s (full)" "$G hold 2048 1 sparse" 5
fi

echo; echo "Memory"
job "exec $G hold 64"; until_true 60 on ws1 grep -q ready $JD/out
mig move -H ws2 "$JOB" >/dev/null
printf '%-40s %8s kB\n' "a hollow (64 MiB away), resident" "$(on ws1 awk '/VmRSS/ { print $2 }' /proc/$JOB/status)"
printf '%-40s %8s kB\n' "a hollow, its own share (Pss)" "$(on ws1 awk '/^Pss:/ { print $2 }' /proc/$JOB/smaps_rollup)"
on ws1 kill -KILL "$JOB"
printf '%-40s %8s kB\n' "migd before any move, resident" "$IDLE"
printf '%-40s %8s kB\n' "migd after these moves, resident" "$(on ws1 sh -c 'awk "/VmRSS/ { print \$2 }" /proc/$(pgrep -x migd)/status')"
printf '%-40s %8s kB\n' "migd, private to it" "$(on ws1 sh -c 'awk "/^Private_(Clean|Dirty):/ { s += \$2 } END { print s }" /proc/$(pgrep -x migd)/smaps_rollup')"

echo; echo "Being away: CPU time a round against home, ${R:=9} short pairs by turns, median of their ratios (quartiles)"
printf '%-16s %10s %10s %9s %20s %14s\n' program 'home ns' 'away ns' 'penalty' '' 'Sprite'
rounds() { # WHAT ROUNDS SPRITE [OTHER: this at home in the place of being away]
	local name="  its filter"

	[ -n "${4:-}" ] || name=$1
	: >"$TMP/pairs"
	for _ in $(seq $R); do
		echo "$(as sprite ws1 sh -c "$G $1 $2 </dev/null 2>&1 | cat") $(as sprite ws1 sh -c "${4:-mig run -H ws2 $G $1} $2 </dev/null 2>&1 | cat")" >>"$TMP/pairs"
	done
	awk '{ print ($4 / $2 - 1) * 100, $2, $4 }' "$TMP/pairs" | sort -g | awk -v n="$name" -v s="$3" '{ r[NR] = $1; h[NR] = $2; a[NR] = $3 }
		END { m = int((NR + 1) / 2); printf "%-16s %10.1f %10.1f %+8.1f%% (%+7.1f, %+7.1f) %14s\n", n, h[m], a[m], r[m], r[int((NR + 3) / 4)], r[int((3 * NR + 1) / 4)], s }'
}
rounds compute 20000 "1-3 %"
rounds gettimeofday 1000000 "3200 %"
rounds getpid 300000 "-"
rounds getpid 300000 "-" "$G allowed"
rounds fork 300 "73 %"

# A compiler at home and away, on /sprite, with the home's /usr in view: CPU time of it and its children, and wall time.
as sprite ws1 sh -c "cat >$JD/compile.py" <<'P'
import os, resource, subprocess, sys, time
with open("unit.c", "w") as f:
    f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n")
    for i in range(60): f.write("int f%d(const char *s, int n) { int a[32], r = 0; for (int i = 0; i < n; i++) a[i %% 32] = s[i] * %d; for (int i = 0; i < 32; i++) r += a[i] / (i + 1); return r; }\n" % (i, i))
def cpu(): u = resource.getrusage(resource.RUSAGE_CHILDREN); return u.ru_utime + u.ru_stime
n, c, t = int(sys.argv[1]), cpu(), time.time()
for i in range(n): subprocess.run(["gcc", "-O2", "-c", "unit.c", "-o", "unit.o"], check=True)
print((time.time() - t) / n * 1e9, (cpu() - c) / n * 1e9)
P
: >"$TMP/pairs"
for _ in $(seq $R); do
	echo "$(as sprite ws1 sh -c "cd $JD && python3 compile.py 2 </dev/null 2>&1 | cat") $(as sprite ws1 sh -c "cd $JD && mig run -H ws2 python3 compile.py 2 </dev/null 2>&1 | cat")" >>"$TMP/pairs"
done
for c in 2 1; do
	awk -v c=$c '{ print ($(c + 2) / $c - 1) * 100, $c / 1e6, $(c + 2) / 1e6 }' "$TMP/pairs" | sort -g | awk -v n="$([ $c = 2 ] && echo compile || echo '  its wall time')" '{ r[NR] = $1; h[NR] = $2; a[NR] = $3 }
		END { m = int((NR + 1) / 2); printf "%-16s %7.1f ms %7.1f ms %+8.1f%% (%+7.1f, %+7.1f)\n", n, h[m], a[m], r[m], r[int((NR + 3) / 4)], r[int((3 * NR + 1) / 4)] }'
done
