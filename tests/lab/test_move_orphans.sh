# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 200
# Orphans born away whose group or session is led by another member: one that lives, that comes later, that has ended and waits for its parent to ask, or is gone. They go on with their
# family from one guest host to the next, in the same group and session, and the family comes home.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/born.py" <<'P'
import os, sys, time
kind = sys.argv[1]
if kind == "session": os.setsid()
open(kind + ".ready", "w").close()
while not os.path.exists(kind + ".away"): time.sleep(0.02)
hold, let_go = os.pipe()
def tell(name):
    with open(name + ".new", "w") as f: f.write("%d %d %d" % (os.getpid(), os.getpgrp(), os.getsid(0)))
    os.rename(name + ".new", name)
def sit(name): # twice: where it was born, and where it is asked for the second time
    tell(kind + "." + name)
    while not os.path.exists(kind + ".again"): time.sleep(0.02)
    tell(kind + "." + name + ".again")
    while not os.path.exists(kind + ".stop"): time.sleep(0.02)
    os._exit(0)
def alone(): # when its parent has ended
    os.close(let_go); os.read(hold, 1); os.close(hold)
    while os.getppid() != 1: time.sleep(0.01)
def middle(then):
    pid = os.fork()
    if pid == 0: then(); os._exit(0)
    return pid
def born():
    if os.fork() == 0:
        alone()
        sit("child")
def two(): # the first follows the second
    who, say = os.pipe()
    if os.fork() == 0:
        os.close(say); os.setpgid(0, int(os.read(who, 20))); os.close(who)
        alone()
        sit("child")
    if os.fork() == 0:
        os.setpgid(0, 0)
        os.close(who); os.write(say, b"%d" % os.getpid()); os.close(say)
        alone()
        sit("leader")
    os.close(say); os.close(who)
    time.sleep(0.3)
if kind in ("plain", "session"): os.waitpid(middle(born), 0)
elif kind == "group": middle(lambda: (os.setpgid(0, 0), born()))
elif kind == "ended": middle(lambda: (os.setsid(), born()))
elif kind == "gone": os.waitpid(middle(lambda: (os.setsid(), born())), 0)
elif kind == "later": os.waitpid(middle(two), 0)
os.close(hold); os.close(let_go)
sit("root")
P
as sprite ws1 sh -c "cat >$JD/born.py" <"$TMP/born.py"
says() { until_true 15 on ws1 test -e "$JD/$1"; on ws1 cat "$JD/$1"; }
for kind in plain session group ended gone later; do
	as sprite ws1 bash -c "cd $JD; exec setsid -f bash -c 'python3 born.py $kind >>out 2>&1 & echo \$! >$kind.new; mv $kind.new $kind.pid; wait'" </dev/null >/dev/null 2>&1
	check "$kind: starts" until_true 20 on ws1 test -e "$JD/$kind.ready" || { on ws1 cat $JD/out; break; }
	P=$(on ws1 cat "$JD/$kind.pid")
	check "leaves home" mig move -q -H ws2 "$P"
	on ws1 touch "$JD/$kind.away"
	root=$(says $kind.root) child=$(says $kind.child)
	check "goes on with the orphan that was born there" mig move -q -H ws3 "$P"
	on ws1 touch "$JD/$kind.again"
	same "the first is who it was" "$root" "$(says $kind.root.again)"
	case $kind in
	gone) same "and so is the orphan" "${child%% *}" "$(says $kind.child.again | cut -d' ' -f1)" ;; # its group and session: DESIGN, Known defects
	*) same "and so is the orphan" "$child" "$(says $kind.child.again)" ;;
	esac
	case $kind in
	group | ended) refused "while its leader waits to be asked for it cannot come home, and goes on (DESIGN, Known defects)" 1 'that number is taken' mig home -q "$P" ;;
	*) check "comes home" mig home -q "$P" ;;
	esac
	on ws1 touch "$JD/$kind.stop"
	check "ends" until_true 20 on ws1 sh -c "! kill -0 $P ${child%% *} 2>/dev/null"
done
finish
