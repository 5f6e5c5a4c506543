# SPDX-License-Identifier: Apache-2.0
# lab: own
# Locks on a home's own files: its processes and guests on other hosts exclude each other, see what was written under the lock, and are told who holds it.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
F=/home/sprite/locked
as sprite ws1 sh -c "cat >$F.py" <<'PY'
# KIND N: so many increments under a lock.  KIND hold WORD GO: holds it until there is a file GO
import fcntl, os, struct, sys, time
f, kind, what = sys.argv[1:4]
readers = [os.open(f, os.O_RDONLY | os.O_CREAT, 0o644)] if what == "hold" else []
fd = os.open(f, os.O_RDWR | os.O_CREAT, 0o644)
if readers: readers.append(os.open(f, os.O_RDONLY))
def ofd(op): fcntl.fcntl(fd, 38 if op != fcntl.LOCK_UN else 37, struct.pack("hhqqi4x", fcntl.F_UNLCK if op == fcntl.LOCK_UN else fcntl.F_WRLCK, 0, 0, 100, 0))
lock = {"flock": lambda op: fcntl.flock(fd, op), "fcntl": lambda op: fcntl.lockf(fd, op, 100), "ofd": ofd}[kind]
if what == "hold":
    lock(fcntl.LOCK_EX)
    open(sys.argv[4], "w").close()
    while not os.path.exists(sys.argv[5]): time.sleep(0.01)
    sys.exit(0)
for i in range(int(what)):
    lock(fcntl.LOCK_EX)
    v = int(os.pread(fd, 20, 0) or b"0"); time.sleep(0.001)
    os.pwrite(fd, b"%019d" % (v + 1), 0)
    lock(fcntl.LOCK_UN)
PY
job() { # WHERE ARGS...: in the background
	local h=$1; shift
	if [ $h = home ]; then as sprite ws1 python3 $F.py "$@" </dev/null 2>&1 | cat >"$TMP/said.$h.$#" & else as sprite ws1 mig run -H $h python3 $F.py "$@" </dev/null 2>&1 | cat >"$TMP/said.$h.$#" & fi
	JOBS+=($!)
}
all_well() { # WHAT
	local p r=0
	for p in "${JOBS[@]}"; do wait $p || r=1; done
	[ $r = 0 ] && pass "$1" || { flunk "$1"; head -n 20 "$TMP"/said.* | sed 's/^/#   /'; }
}
for kind in flock fcntl ofd; do
	JOBS=()
	for h in home ws2 ws3 home; do job $h $F.$kind $kind 60; done
	all_well "$kind: all end well"
	same "$kind: two processes at home and two guests counted, each alone" 240 "$(on ws1 bash -c "echo \$((10#\$(cat $F.$kind)))")"
done

tries() { as sprite ws1 "$@"; } # the native one, without waiting
for kind in flock fcntl; do
	JOBS=()
	job ws2 $F.h $kind hold $F.$kind.has $F.$kind.go
	until_true 20 on ws1 test -e $F.$kind.has || flunk "$kind: a guest gets it"
	if [ $kind = flock ]; then refused "flock: held by a guest, it is not free at home" 1 '^$' tries flock -n $F.h true
	else refused "fcntl: held by a guest, it is not free at home" 11 '' tries python3 -c "import fcntl, sys
try: fcntl.lockf(open('$F.h', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 100)
except BlockingIOError: sys.exit(11)"; fi
	as sprite ws1 touch $F.$kind.go
	all_well "$kind: the guest ends"
	check "$kind: and it is free" until_true 10 tries flock -n $F.h true

	# held at home: a guest waits, can be ended, and gets it
	JOBS=()
	job home $F.i $kind hold $F.$kind.own $F.$kind.rel
	until_true 20 on ws1 test -e $F.$kind.own || flunk "$kind: one at home gets it"
	if [ $kind = flock ]; then refused "flock: held at home, a guest is refused" 1 '' as sprite ws1 mig run -H ws2 flock -n $F.i true
		refused "flock: or gives up after its time" 1 '' as sprite ws1 mig run -H ws2 flock -w 0.3 $F.i true; fi
	job ws2 $F.i $kind hold $F.$kind.next $F.$kind.rel
	as sprite ws1 touch $F.$kind.rel
	all_well "$kind: a guest that waits gets it from one at home"
	check "$kind: it had it" on ws1 test -e $F.$kind.next
done

# the home's server is killed, or stopped: what a guest holds is nobody else's meanwhile, and the guest's again; a guest that is killed lets go
JOBS=()
first_bytes() { tries python3 -c "import fcntl; fcntl.lockf(open('$F.kf', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 100)" 2>/dev/null; }
held_k() { ! tries flock -n $F.k true && ! first_bytes; } # what each holds: a lock of the file, one of its first bytes
count_k() { on ws1 spritefsd --status | python3 -c 'import json, sys; s = json.load(sys.stdin); print(s["locks"]["held"], s["grace"])'; }
keeper() { on ws1 pgrep -x sprite-locks; }
job ws2 $F.k flock hold $F.k.has $F.k.never
job ws2 $F.kf fcntl hold $F.kf.has $F.k.never
until_true 20 on ws1 test -e $F.k.has -a -e $F.kf.has || flunk "guests get them"
check "they are not free at home" held_k
again() { # WHAT: the server starts
	check "what guests hold is not free while no server runs ($1)" held_k
	until_true 20 lab start ws1 spritefsd || flunk "the home's server starts again ($1)"
	check "nor when the next one does" held_k
	check "the guests hold it by that one" until_true 20 eval '[ "$(count_k)" = "2 False" ]'
	check "it is still not free" held_k
}
lab kill ws1 spritefsd KILL
again killed
lab kill ws1 spritefsd TERM
again stopped
old=$(keeper)
on ws1 kill -9 "$old"
check "who keeps them meanwhile is killed: another has them" until_true 20 eval '[ -n "$(keeper)" ] && [ "$(keeper)" != "$old" ]'
lab kill ws1 spritefsd KILL
again "killed, after who keeps them"
on ws1 sh -c "kill -9 \$(pgrep -f '[k] flock hold') \$(pgrep -f '[k]f fcntl hold')"
check "a guest that was killed holds nothing" until_true 10 tries flock -n $F.k true
check "the other neither" until_true 10 first_bytes

lab kill ws1 spritefsd TERM
check "a server that holds nothing leaves nobody behind when it stops" until_true 10 eval '! keeper'
lab start ws1 spritefsd
finish
