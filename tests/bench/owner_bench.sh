#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The owner comes first, measured: from a key to no guest using the CPU, to all guests gone; and how fast his shell is beside a fork bomb, a memory hog, a busy loop.
#   tests/bench/owner_bench.sh [ROUNDS]
. "$(dirname "$0")/lib.sh"
ROUNDS=${1:-5}
bench_up -n 2
job_dir
idle2() { mig hosts --no-header -o NAME,STATE | grep -q "^ws2 *idle"; }
# Watched for 2 s, real times in us: when each guest's group was first seen frozen (the last of them), and when the group of all used the CPU last: the engine works in it while
# it sends them away.
cat >$TMP/watch.py <<'X'
import os, time
top = [p for p, dirs, files in os.walk("/sys/fs/cgroup") if p.endswith("/sprite-guests") and "cpu.stat" in files and "usage_usec" in open(p + "/cpu.stat").read()][0]
f = open(top + "/cpu.stat")
def guest(d): # not a nest that stands ready, with nothing but its first process
    return os.path.isdir(d) and len(open(d + "/cgroup.procs").readlines()) > 1
running = {d: open(top + "/" + d + "/cgroup.events") for d in os.listdir(top) if guest(top + "/" + d)}
def used():
    f.seek(0)
    return int(f.readline().split()[1])
def frozen(g):
    try:
        g.seek(0)
        return "frozen 1" in g.read()
    except OSError: # gone
        return True
last, at, stopped, end = used(), 0, 0, time.time() + 2
open("/tmp/watching", "w")
while time.time() < end:
    for d in [d for d in running if frozen(running[d])]:
        del running[d]
        stopped = time.time()
    u = used()
    if u != last: last, at = u, time.time()
    time.sleep(0.0005)
print(int(stopped * 1e6) if not running else 0, int(at * 1e6))
X
lab exec ws2 -- tee /tmp/watch.py <$TMP/watch.py >/dev/null
guests() { for i in 1 2 3; do as sprite ws1 bash -c "cd $JD && mig run -H ws2 $1 >g.$i 2>&1 </dev/null" </dev/null >/dev/null 2>&1 & done; until_true 30 eval '[ "$(mig ps --no-header -o HOST | grep -c ws2)" -ge 3 ]'; }
all_home() { [ "$(mig ps --no-header | wc -l)" = 0 ]; }
left() { on ws2 grep -o "all guests have left: [0-9]* ms" /var/log/sprite/migd.log | tail -1 | grep -o '[0-9]*'; }
echo "From a key to no guest CPU use, and to all gone: 3 guests, $ROUNDS rounds, ms (machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before)"
for what in "40 dirty pages|python3 -c 'x=bytearray(160<<10)
while True:
 for i in range(0,len(x),4096): x[i]=(x[i]+1)&255'" "64 MiB each|python3 -c 'import os
x=bytearray(os.urandom(64<<20))
while True:
 for i in range(0,len(x),4096): x[i]=(x[i]+1)&255'"; do
	: >$TMP/stop; : >$TMP/used; : >$TMP/gone
	for r in $(seq "$ROUNDS"); do
		until_true 60 idle2
		guests "${what#*|}"
		on ws2 rm -f /tmp/watching
		on ws2 python3 /tmp/watch.py >$TMP/at & w=$!
		until_true 10 on ws2 test -e /tmp/watching
		n=$(on ws2 grep -c "all guests have left" /var/log/sprite/migd.log)
		t=${EPOCHREALTIME/./}; lab input ws2; wait $w
		until_true 60 eval '[ "$(on ws2 grep -c "all guests have left" /var/log/sprite/migd.log)" -gt '"$n"' ]'
		read -r stopped used <$TMP/at; echo $((stopped - t)) >>$TMP/stop; echo $((used - t)) >>$TMP/used; left >>$TMP/gone
		on ws1 pkill -9 -u sprite python3; until_true 30 all_home
	done
	ms() { $2 <$TMP/$1 | awk '{ print $1 / 1000 }'; }
	worst() { sort -g | tail -1; }
	printf '  %-15s key to all stopped: median %5.1f  worst %5.1f   to the end of all CPU use: median %6.1f  worst %6.1f   to all gone: median %6.0f  worst %6.0f\n' "${what%%|*}" \
		"$(ms stop median)" "$(ms stop worst)" "$(ms used median)" "$(ms used worst)" "$(median <$TMP/gone)" "$(worst <$TMP/gone)"
done
# One of 1 GiB: as fast as evict_mb_s allows, by default 3/4 of the link (a lab's has no speed: 1 Gbit/s is taken)
until_true 60 idle2
as sprite ws1 bash -c "cd $JD && mig run -H ws2 python3 -c 'import os, time
x=os.urandom(1<<30)
open(\"big.there\", \"w\")
while True: time.sleep(0.01)' >big.out 2>&1 </dev/null" </dev/null >/dev/null 2>&1 &
until_true 60 on ws1 test -e $JD/big.there
n=$(on ws2 grep -c "all guests have left" /var/log/sprite/migd.log)
on ws2 mig evict --all
until_true 120 eval '[ "$(on ws2 grep -c "all guests have left" /var/log/sprite/migd.log)" -gt '"$n"' ]'
left | awk '{ printf "  %-15s to all gone: %.1f s, %.0f MB/s (3/4 of 1 Gbit/s are 94)\n", "1 GiB", $1 / 1000, 1073741824 / 1000 / $1 }'
on ws1 pkill -9 -u sprite python3; until_true 30 all_home
# The owner's shell: a program started, 50 times
shell() { on ws2 bash -c 'for i in $(seq 50); do a=$EPOCHREALTIME; /bin/true; b=$EPOCHREALTIME; echo $(((${b/./} - ${a/./}))); done' | sort -g | awk '{ v[NR] = $1 } END { printf "median %5.1f  worst %6.1f ms\n", v[int(NR / 2)] / 1000, v[NR] / 1000 }'; }
as sprite ws1 bash -c "cat >$JD/bomb" <<'X'
b() { [ -e stop ] || { b & b & wait; }; }
b
X
echo "A program started by the owner of ws2, beside guests"
printf '  %-34s %s' "no guests" "$(shell)"; echo
until_true 60 idle2
guests "sh -c 'while [ ! -e stop ]; do :; done'"; printf '  %-34s %s\n' "3 busy loops" "$(shell)"
as sprite ws1 touch $JD/stop; until_true 30 all_home; as sprite ws1 rm $JD/stop
as sprite ws1 bash -c "cd $JD && mig run -H ws2 bash bomb >/dev/null 2>&1 </dev/null" </dev/null >/dev/null 2>&1 & sleep 3
printf '  %-34s %s\n' "a fork bomb (4096 processes at most)" "$(shell)"
as sprite ws1 touch $JD/stop; until_true 120 all_home; as sprite ws1 rm $JD/stop
as sprite ws1 bash -c "cd $JD && timeout 20 mig run -H ws2 python3 -c 'x=[]
for i in range(1500): x.append(bytearray(1<<20))
import time; time.sleep(5)' >/dev/null 2>&1 </dev/null" </dev/null >/dev/null 2>&1 & sleep 2
printf '  %-34s %s\n' "a memory hog (1.5 GB)" "$(shell)"
