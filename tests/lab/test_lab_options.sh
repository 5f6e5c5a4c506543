# SPDX-License-Identifier: Apache-2.0
# lab: own
# What `sprite-lab up` can be told, what `ls` and `logs` tell, and what `start`, `kill` and the daemons' clocks do.
. "$(dirname "$0")/lib.sh"
mkdir "$TMP/shown"; echo "of this machine" >"$TMP/shown/file"
feature=$(grep -ow -m1 -e avx2 -e sse4_2 -e ssse3 /proc/cpuinfo | head -1)
lab_up -n 2 -s 2 --store 24m --bind "$TMP/shown:/opt/shown" --cpu-hide ws2=$feature

same "ls names all nodes, their role and their state" "fs1 server up, fs2 server up, ws1 workstation up, ws2 workstation up" "$(lab ls | awk 'NR > 1 { printf "%s%s %s %s", s, $1, $2, $5; s = ", " }')"
same "ls --json: addresses, and inits that run" "ok" "$(lab ls --json | python3 -c '
import json, os, re, sys
rows = json.load(sys.stdin)
bad = [r for r in rows if not re.fullmatch(r"10\.77\.\d+\.\d+", r["address"]) or open("/proc/%d/comm" % r["init_pid"]).read() != "lab-init\n"]
print(bad or "ok" if len({r["address"] for r in rows}) == 4 and len({r["init_pid"] for r in rows}) == 4 else rows)')"
check "the second server's domain is in the tree of all" eval 'sh_on ws1 "echo two >/sprite/fs2/f" && [ "$(on ws2 cat /sprite/fs2/f)" = two ] && [ "$(on fs2 cat /srv/sprite/f)" = two ]'
same "--store: the size of each server's disk" "24M 24M" "$(echo $(for n in fs1 fs2; do on $n df -h --output=size /srv/sprite | tail -1; done))"
same "--bind: a directory of this machine on every node" 4 "$(for n in fs1 fs2 ws1 ws2; do on $n cat /opt/shown/file; done | grep -c 'of this machine')"
check "--bind: read-only" sh_on ws1 '! touch /opt/shown/x 2>/dev/null'

if [ -n "$feature" ]; then
	p=$(as sprite ws1 sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 & echo $!')
	refused "--cpu-hide: nobody who may use $feature goes where it lacks" 1 "lacks $feature" mig move -H ws2 "$p"
	check "and it runs on" on ws1 kill -TERM "$p"
	p=$(as sprite ws2 sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 & echo $!')
	check "the other way it goes" as sprite ws2 mig move -H ws1 "$p"
	on ws2 kill "$p"
fi

# A log line begins with the daemon's own time: 61 s per node away from the machine's, by turns ahead and behind (fs1 0, fs2 +, ws1 -, ws2 +).
drift() { local t; t=$(lab logs $1 spritefsd | sed -n 's/^\([0-9T:.-]*\)Z .*/\1/p' | tail -1); echo $(( $(date -ud "$t" +%s) - $(date -u +%s) )); }
check "a daemon that was killed can be started at once" eval 'for i in 1 2 3 4 5; do lab kill ws1 migd && lab start ws1 migd || exit 1; done'
for n in fs1 fs2 ws1 ws2; do lab kill $n spritefsd TERM; until_true 10 lab start $n spritefsd; d=$(drift $n); echo "$n $(( (d + (d < 0 ? -30 : 30)) / 61 ))"; done >"$TMP/drift"
same "the daemons' clocks differ" "fs1 0 fs2 1 ws1 -2 ws2 3" "$(xargs <"$TMP/drift")"
check "though the nodes' own do not" test "$(on ws2 date -u +%s)" -le "$(date -u +%s)"

check "logs NODE shows all daemons" eval '[ "$(lab logs ws1 | grep -c "^==> .*\.log <==")" = 3 ]'
check "logs NODE DAEMON shows one" eval 'lab logs ws1 migd | grep -q ready && ! lab logs ws1 migd | grep -q serving'
lab kill ws1 migd
check "kill without a signal is SIGKILL; ls says so" until_true 10 eval 'lab ls | grep -q "^ws1 .*degraded.*migd:ended"'
refused "kill of what does not run" 1 'migd does not run' lab kill ws1 migd
check "start, with something in its environment" lab start ws1 migd SPRITE_LOG=debug
check "which it has" sh_on ws1 'tr "\0" "\n" </proc/$(pgrep -o -x migd)/environ | grep -qx SPRITE_LOG=debug'
refused "start of what runs" 1 'runs already' lab start ws1 migd
lab kill ws1 migd STOP
check "kill with a signal" until_true 10 sh_on ws1 'ps -o state= -p $(pgrep -o -x migd) | grep -q T'
check "down, though one of them stands still" lab down
refused "down has ended it" 1 'not up' lab ls
check "up again by that name, with a disk on this machine's" lab up -n 1
check "a path too long for any name" on ws1 python3 -c 'import os
os.chdir("/sprite")
for i in range(40): os.mkdir("d" * 200); os.chdir("d" * 200)'
check "down, with what is there" lab down
check "and up" lab up -n 1
check "and down" lab down
finish
