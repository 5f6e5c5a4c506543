# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# What a home keeps for a family that is away (shells of its SysV objects and message queues, children that nobody has waited for) is known to a migd that was
# killed meanwhile: it comes home whole, goes again, and leaves the names usable when it ends away.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 --bind "$TESTS:/opt/sprite/tests"
job_dir
again() { lab kill ws1 migd KILL >/dev/null; until_true 10 lab start ws1 migd; until_true 10 on ws1 mig ps >/dev/null 2>&1; }
ready() { sh_on ws1 "grep -q READY $JD/$1.out"; }
pid_of() { on ws1 cat $JD/$1; }
pid() { pid_of $1.pid; }
names="sysv mqueue zombies seccomp"
for n in $names; do
	as sprite ws1 sh -c "mkdir -p $JD/$n; cd $JD; /opt/sprite/tests/move/$n 0 $JD/$n >$n.out 2>$n.err </dev/null & echo \$! >$n.pid; wait \$!; echo \$? >$n.rc" </dev/null >/dev/null 2>&1 &
done
for n in $names; do check "$n: starts" until_true 5 ready $n; done
for round in 1 2; do
	for n in $names; do check "$n: goes away ($round)" mig move -H ws2 "$(pid $n)"; done
	again
	for n in $names; do check "$n: comes home after its home's migd was killed ($round)" mig home "$(pid $n)"; done
done
for n in $names; do mig move -H ws2 "$(pid $n)"; done
again
for n in $names; do on ws1 kill -TERM "$(pid $n)"; done
for n in $names; do
	until_true 30 on ws1 test -e $JD/$n.rc
	same "$n: ends well away" "0 PASS" "$(on ws1 cat $JD/$n.rc) $(on ws1 tail -n 1 $JD/$n.out)"
done
# killed at home while its migd is dead: it ends away too, and its parent there hears of it
as sprite ws1 sh -c "cd $JD; sh -c 'sleep 1000 & echo \$! >kid; wait \$!; echo \$? >kid.rc; exec sleep 2000' >/dev/null 2>&1 </dev/null & echo \$! >parent; wait \$!; echo \$? >parent.rc" </dev/null >/dev/null 2>&1 &
until_true 10 on ws1 test -s $JD/kid
check "a family goes away" mig move -H ws2 "$(pid_of parent)"
killed() { lab kill ws1 migd KILL >/dev/null; on ws1 kill -9 "$(pid_of $1)"; until_true 10 lab start ws1 migd; until_true 20 on ws1 test -s $JD/$1.rc; }
check "its child is killed at home" killed kid
same "the parent hears of that" 137 "$(on ws1 cat $JD/kid.rc)"
check "and waits for it, at home too" until_true 10 on ws1 sh -c "! ps -p $(pid_of kid) >/dev/null"
check "the parent is killed at home" killed parent
same "its own parent hears of that" 137 "$(on ws1 cat $JD/parent.rc)"
# stopped at home while it is away, and its migd killed: it is continued as before, and comes home. So does one whose limits were lowered at home meanwhile.
as sprite ws1 sh -c "cd $JD; exec python3 -c 'import time
while 1: open(\"beat\", \"a\").write(\".\"); time.sleep(0.05)' </dev/null >/dev/null 2>&1 & echo \$! >$JD/beats" </dev/null
until_true 10 on ws1 test -s $JD/beat
beats=$(pid_of beats)
size() { on ws1 stat -c %s $JD/beat; }
goes_on() { local was; was=$(size); until_true 10 eval '[ "$(size)" -gt '"$was"' ]'; }
stands() { local was; was=$(size); sleep 0.3; [ "$(size)" = "$was" ]; }
check "another goes away" mig move -H ws2 "$beats"
on ws1 kill -STOP "$beats"
check "it stands" until_true 10 stands
check "its migd is killed and another is there" again
on ws1 kill -CONT "$beats"
check "it is continued" goes_on
check "it comes home" mig home "$beats"
check "and goes away again" mig move -H ws2 "$beats"
check "its limits are lowered at home" as sprite ws1 prlimit --pid "$beats" --nofile=77:99
check "it comes home with less allowed to it than it had" mig home "$beats"
same "what was said at home counts" "77 99" "$(on ws1 awk '/open files/ { print $4, $5 }' /proc/$beats/limits)"
check "and goes on" goes_on
on ws1 kill -KILL "$beats"
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
same "no SysV object is left shut" "" "$(sh_on ws1 'awk "FNR > 1 && \$3 == 0 { print FILENAME, \$1, \$2 }" /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg')"
# what the journal told of a family is lost: the home says so, keeps the file, and ends who would wait for ever
JOURNAL=/var/lib/sprite/migd.journal
damaged() { # WHAT COMMAND: on the journal of a family that is away
	job "sleep 1000"
	check "$1: a family goes away" hop ws2
	lab kill ws1 migd KILL
	on ws1 sh -c "$2"
	check "$1: another migd is there" until_true 10 lab start ws1 migd
	same "$1: who waits for it hears of its end" 137 "$(job_status 20)"
	check "$1: so does its host" until_true 20 eval '[ -z "$(residue)" ]'
	same "$1: and nobody has it" "" "$(mig ps --no-header)"
}
damaged emptied ": >$JOURNAL"
damaged garbled "sed -i 's/./X/' $JOURNAL"
check "garbled: its home says so" eval 'lab logs ws1 migd | grep -q "migd.journal: [0-9]* of its lines are damaged.*kept as $JOURNAL.damaged"'
check "garbled: and keeps it" on ws1 test -s $JOURNAL.damaged
damaged "without its decision" "sed -i -E '/\"t\":\"(commit|away)\"/s/./X/' $JOURNAL"
finish
