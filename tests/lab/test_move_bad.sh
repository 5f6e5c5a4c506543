# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# A move that cannot be is refused in words, before anything is stopped, and the process runs on.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$TESTS:/opt/sprite/tests"
job_dir
beat='import os, time
n = 0
while True:
    n += 1; os.pwrite(1, b"%09d\n" % n, 0); time.sleep(0.005)'
as sprite ws1 sh -c "cat >$JD/beat.py" <<<"$beat"
alive() { local a; a=$(on ws1 cat $JD/out); until_true 10 eval '[ "$(on ws1 cat $JD/out)" != "'"$a"'" ]'; }
job "python3 beat.py"; until_true 10 on ws1 test -s $JD/out

refused "unknown host" 1 'nohost' mig move -H nohost "$JOB"
refused "a file server is no workstation: no migd there" 1 'fs1' mig move -H fs1 "$JOB"
refused "no such process" 1 'No such process|no process' mig move -H ws2 29999
refused "not a number" 64 'x12' mig move -H ws2 x12
refused "another's process" 1 'not permitted|EPERM|owner' as guest ws1 mig move -H ws2 "$JOB"
refused "home of what never left" 1 "$JOB" mig home "$JOB"
refused "already there" 1 'already|ws1' mig move -H ws1 "$JOB"
migd=$(on ws1 pgrep -o -x migd)
refused "migd itself" 1 "$migd is migd itself" on ws1 mig move -H ws2 "$migd"
refused "an ancestor of migd (kernel threads: tests/unit/test_proc.c)" 1 'ancestor of migd' on ws1 mig move -H ws2 1
# PTRACE_SEIZE, as strace and gdb do it
"$BIN/sprite-lab" exec ws1 -- python3 -c '
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).ptrace(0x4206, int(sys.argv[1]), None, None): sys.exit("no seize: %d" % ctypes.get_errno())
print("seized", flush=True)
sys.stdin.read()' "$JOB" < <(until_true 60 test -e "$TMP/refused") >"$TMP/seized" 2>&1 & tracer=$!
until_true 10 grep -q seized "$TMP/seized" || flunk "a tracer ($(cat "$TMP/seized"))"
refused "a process that is traced" 1 'trace' mig move -H ws2 "$JOB"
touch "$TMP/refused"; wait $tracer
check "it runs on after all that" alive
lab kill ws3 migd KILL
refused "a host whose migd is dead" 1 'ws3' mig move -H ws3 "$JOB"
check "it runs on" alive
lab cut ws2
refused "a host that does not answer" 1 'ws2' timeout 300 "$BIN/sprite-lab" exec ws1 -u sprite -- mig move -H ws2 "$JOB"
check "it runs on" alive
lab heal ws2
check "healed: the same move works" eval 'until_true 30 mig move -H ws2 "$JOB"'
check "it runs on there" alive
refused "already there" 1 'already|ws2' mig move -H ws2 "$JOB"
check "root may move it too: home again" on ws1 mig home "$JOB"
lab start ws3 migd
# explain: what holds it back is named, with a remedy
job2=$JD/io; on ws1 -u sprite true 2>/dev/null
"$BIN/sprite-lab" exec ws1 -u sprite -- python3 -c 'import socket, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print("ready", flush=True); time.sleep(1000)' 2>&1 | cat >"$TMP/sock" & k=$!
until_true 5 grep -q ready "$TMP/sock"
p=$(on ws1 pgrep -u sprite -f AF_NETLINK | tail -1)
refused "explain names the socket" 1 'socket' mig explain "$p"
refused "move -n says the same" 1 'socket' mig move -n -H ws2 "$p"
refused "move is refused for the same reason" 1 'socket' mig move -H ws2 "$p"
check "and it runs on" on ws1 kill -0 "$p"
on ws1 kill "$p"; wait $k 2>/dev/null
"$BIN/sprite-lab" exec ws1 -u sprite -- sleep 4242 >"$TMP/outside" 2>/dev/null </dev/null & k=$!
until_true 5 on ws1 pgrep -xf "sleep 4242"
p=$(on ws1 pgrep -xf "sleep 4242")
refused "explain names a file that its node cannot see" 1 'fd 1: .*/outside is no file of its own tree.*: redirect' mig explain "$p"
refused "and the move is refused for that" 1 'outside is no file of its own tree' mig move -H ws2 "$p"
on ws1 kill "$p"; wait $k 2>/dev/null
# of whom a child is away: that is what is said, not that its hollow is traced
as sprite ws1 bash -c "cd $JD; sleep 4343 </dev/null >/dev/null 2>&1 & echo \$! >kid; echo \$\$ >parent; wait" </dev/null >/dev/null 2>&1 & k=$!
until_true 10 on ws1 test -s $JD/parent
kid=$(on ws1 cat $JD/kid) parent=$(on ws1 cat $JD/parent)
check "a child moves" mig move -H ws2 "$kid"
refused "explain of its parent" 1 "$kid \(sleep\): is away, on ws2: bring it home first \(mig home $kid\)" mig explain "$parent"
same "says nothing of its hollow" "" "$(mig explain "$parent" 2>&1 | grep -F traced)"
on ws1 kill "$kid"; wait $k 2>/dev/null
same "explain of a movable one" 0 "$(mig explain "$JOB" >/dev/null 2>&1; echo $?)"
same "move -n of a movable one" 0 "$(mig move -n -H ws2 "$JOB" >/dev/null 2>&1; echo $?)"
check "move -n has not moved it" runs_on ws1 python3
on ws1 kill -9 "$JOB"; job_status >/dev/null

# a move that fails half way: the destination's migd dies as the image comes
for round in 1 2 3; do
	job "python3 -c 'import time; b = bytearray(range(256)) * 400000
exec(open(\"beat.py\").read())'"
	until_true 20 on ws1 test -s $JD/out
	mig move -H ws2 "$JOB" >"$TMP/mv" 2>&1 & m=$!
	sleep 0.0$((round * 3)); lab kill ws2 migd KILL 2>/dev/null
	wait $m; rc=$?
	until_true 10 lab start ws2 migd
	if [ $rc = 0 ]; then note "round $round: the move was faster"; fi
	check "round $round: exactly one copy runs on (move said $rc)" until_true 30 alive
	as sprite ws1 kill -9 "$JOB"; job_status 30 >/dev/null
done
# a destination that cannot begin: its word comes although everybody waits for the next byte
check "a keeper that ends at its start" on ws2 mount --bind /bin/false "$(on ws2 sh -c 'readlink /proc/$(pgrep -o -x migd)/exe' | sed 's/migd$/sprite-keeper/')"
lab kill ws2 migd TERM >/dev/null; until_true 10 lab start ws2 migd # one that stands ready would do
job "python3 beat.py"; until_true 10 on ws1 test -s $JD/out
for round in 1 2 3; do refused "is said, time after time ($round)" 1 'ws2: .*cannot make the namespaces' timeout 300 "$BIN/sprite-lab" exec ws1 -u sprite -- mig move -H ws2 "$JOB"; done
check "it runs on" alive
as sprite ws1 kill -9 "$JOB"; job_status 30 >/dev/null
check "all is gone in the end" until_true 20 eval '[ -z "$(residue)" ]' || note "$(residue)"
finish
