#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The owner's link while guests leave: how long a connection takes him, and what he can send before, and while all are sent away at once. The link has 1 Gbit/s; what leaves may use 3/4 (evict_mb_s).
#   tests/bench/evict_link.sh [GUESTS] [MiB]     default: ten of 1 GiB; needs as much memory, and some
. "$(dirname "$0")/lib.sh"
N=${1:-10} MB=${2:-1024}
bench_up -n 2
job_dir
on ws2 python3 - <<'X'
import json
c = json.load(open("/etc/sprite/sprite.conf")); c["migd"].update(guest_memory_mb=4096, guests_memory_percent=90); json.dump(c, open("/etc/sprite/sprite.conf", "w"))
X
lab kill ws2 migd TERM >/dev/null; until_true 20 lab start ws2 migd >/dev/null
until_true 60 eval 'mig hosts --no-header -o NAME,STATE | grep -q "^ws2 *idle"'
for i in $(seq "$N"); do
	as sprite ws1 bash -c "cd $JD && mig run -H ws2 python3 -c 'import time
x = bytearray(bytes(range(1, 129)) * 32) * ($MB << 8)
open(\"big.$i\", \"w\").write(\"1\")
while True: time.sleep(0.1)' >out.$i 2>&1 </dev/null" </dev/null >/dev/null 2>&1 &
	until_true 60 on ws1 test -s $JD/big.$i || { echo "guest $i does not start: $(on ws1 cat $JD/out.$i)"; exit 1; }
done
lab link ws2 --rate 1000 >/dev/null
on fs1 python3 -c '
import socket, threading
l = socket.create_server(("", 9000))
while True:
    s = l.accept()[0]
    def eat(s):
        while s.recv(1 << 20): pass
    threading.Thread(target=eat, args=(s,), daemon=True).start()' &
cat >$TMP/owner.py <<'X'
import socket, sys, time
took = []
for i in range(60):
    t = time.time(); socket.create_connection(("fs1", 9000)).close(); took.append((time.time() - t) * 1000); time.sleep(0.05)
n, b, end = 0, b"x" * 65536, time.time() + 5
s = socket.create_connection(("fs1", 9000))
t = time.time()
while time.time() < end: s.sendall(b); n += len(b)
took.sort()
print("%-18s a connection is made in %.1f ms (worst %.1f); he sends %.0f Mbit/s" % (sys.argv[1], took[30], took[-1], n * 8 / 1e6 / (time.time() - t)))
X
lab exec ws2 -- tee /tmp/owner.py <$TMP/owner.py >/dev/null
owner() { on ws2 python3 /tmp/owner.py "$1"; }
until_true 10 on ws2 python3 -c 'import socket; socket.create_connection(("fs1", 9000))'
echo "$N guests of $MB MiB, load $(cut -d' ' -f1 /proc/loadavg)"
owner "before"
t=$EPOCHREALTIME
on ws2 mig evict --all & e=$!
sleep 1
owner "while they leave"
wait $e
until_true 300 eval '[ "$(mig ps --no-header -o HOST | grep -c ws2)" = 0 ]'
awk -v a="$t" -v b="$EPOCHREALTIME" -v m=$((N * MB)) 'BEGIN { printf "all gone after %.1f s: %.0f MB/s of 94\n", b - a, m * 1.048576 / (b - a) }'
owner "after"
on ws1 pkill -9 -u sprite python3
