# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 100
# long: yes
# Locks on files of /sprite go along with a move, out and home, and are free at no moment; whoever wants one elsewhere gets it when it is let go, away or at home.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/lock.py" <<'PY'
import fcntl, os, signal, struct, sys
kind, name = sys.argv[1:3]
f = open(name, "w+")
f.write("begin\n"); f.flush()
if kind == "unlinked": os.unlink(name)
def ofd(op): fcntl.fcntl(f, 37, struct.pack("hhqqi4x", {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}[op], 0, 10, 5, 0))
take = {"flock": lambda op: fcntl.flock(f, op), "unlinked": lambda op: fcntl.flock(f, op), "fcntl": lambda op: fcntl.lockf(f, op, 5, 10), "ofd": ofd}[kind]
take(fcntl.LOCK_EX)
def turn(*a):
    take(fcntl.LOCK_UN)
    f.write("end\n"); f.flush(); f.seek(0)
    print(f.read().split(), flush=True)
signal.signal(signal.SIGUSR1, turn)
print("held", flush=True)
while True: signal.pause()
PY
# Somebody on a third node tries all the time and says when he gets it: one who gets it early says so before the word is given.
as sprite ws1 sh -c "cat >$JD/other.py" <<'PY'
import fcntl, sys, time, os
f = open(sys.argv[1], "r+")
tries = 0
while True:
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); break
    except BlockingIOError: tries += 1
    if tries == 1: print("tries", flush=True)
print("had it after the word" if os.path.exists(sys.argv[1] + ".word") else "HAD IT TOO EARLY", tries > 1, flush=True)
PY
for kind in flock fcntl ofd; do
	for where in away home; do
		job "python3 lock.py $kind $kind.$where"
		until_true 10 on ws1 grep -q held $JD/out
		as sprite ws3 python3 $JD/other.py $JD/$kind.$where >"$TMP/other" 2>&1 & other=$!
		until_true 10 grep -q tries "$TMP/other"
		check "$kind: moves with the lock held" hop ws2
		[ $where = away ] || check "$kind: and home with it" hop home
		as sprite ws1 touch $JD/$kind.$where.word
		on ws1 kill -USR1 "$JOB"
		until_true 20 on ws1 grep -q end $JD/out
		same "$kind: let go $where, contents and offset are right" "['begin', 'end']" "$(on ws1 tail -n 1 $JD/out)"
		wait $other
		same "$kind: who waited for it elsewhere had it then, not before" "had it after the word True" "$(tail -n 1 "$TMP/other")"
		on ws1 kill -KILL "$JOB"; job_status 10 >/dev/null
	done
done
job "python3 lock.py unlinked gone"
until_true 10 on ws1 grep -q held $JD/out
check "a file without a name, locked: moves" hop ws2
check "on" hop ws3
check "and home" hop home
on ws1 kill -USR1 "$JOB"
until_true 20 on ws1 grep -q end $JD/out
same "with its contents" "['begin', 'end']" "$(on ws1 tail -n 1 $JD/out)"
on ws1 kill -KILL "$JOB"; job_status 10 >/dev/null
# a move that comes to nothing leaves the lock where it is
job "python3 lock.py flock kept"
until_true 10 on ws1 grep -q held $JD/out
refused "a move that is refused" 1 . mig move -H nowhere "$JOB"
refused "leaves the lock" 1 BlockingIOError as sprite ws3 python3 -c 'import fcntl, sys; fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)' $JD/kept
on ws1 kill -KILL "$JOB"; job_status 10 >/dev/null
check "it ends with the program" until_true 10 as sprite ws3 python3 -c 'import fcntl, sys; fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)' $JD/kept
finish
