# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 100
# long: yes
# A lock on a file of /sprite is not lost by a move: who holds one is told so, before anything is stopped, at home and away, and moves when it has let go.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/lock.py" <<'PY'
import fcntl, os, signal, sys
f = open("locked", "w+")
take = {"flock": lambda op: fcntl.flock(f, op), "fcntl": lambda op: fcntl.lockf(f, op, 10, 5)}[sys.argv[1]]
held = False
def turn(*a):
    global held
    take(fcntl.LOCK_UN if held else fcntl.LOCK_EX); held = not held
    print("held" if held else "free", flush=True)
signal.signal(signal.SIGUSR1, turn)
turn()
while True: signal.pause()
PY
turn() { on ws1 kill -USR1 "$JOB"; until_true 10 eval '[ "$(on ws1 tail -n 1 $JD/out)" = '$1' ]' || flunk "it is $1"; }
free_for_others() { as sprite ws3 python3 -c 'import fcntl, sys
f = open(sys.argv[1], "r+"); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)' $JD/locked; }
for kind in flock fcntl; do
	job "python3 lock.py $kind"
	until_true 10 on ws1 grep -q held $JD/out
	refused "$kind: named before the move" 1 "$kind( lock)? held on $JD/locked: release it first" mig move -H ws2 "$JOB"
	refused "$kind: it still holds it" 1 'BlockingIOError' free_for_others
	turn free
	check "$kind: moves without" mig move -H ws2 "$JOB"
	turn held
	refused "$kind: held from there" 1 'BlockingIOError' free_for_others
	refused "$kind: named before the way home" 1 "$kind( lock)? held on .*/locked: release it first" mig home "$JOB"
	refused "$kind: held still" 1 'BlockingIOError' free_for_others
	turn free
	check "$kind: comes home without" mig home "$JOB"
	check "$kind: free for others" free_for_others
	on ws1 kill -KILL "$JOB"; job_status 10 >/dev/null
done
finish
