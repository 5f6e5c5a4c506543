# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 600
# migd of the home, of the source or of the destination dies at each step of a move, in each direction (faults.sh); and of the rest of what can go wrong, a sample.
. "$(dirname "$0")/lib.sh"
. "$HERE/faults.sh"
faults_up
[ -z "${ROUND:-}" ] || { round $ROUND; finish; } # one of them by hand
for step in prepare freeze dump sent commit committed done; do round ws1 $step ws1 ws2; done
for step in prepared go; do round ws2 $step ws1 ws2; done
for step in watched watching leaving; do round ws1 $step ws1 ws2; done
round ws2 leaving ws1 ws2
for step in freeze dump sent; do round ws2 $step ws2 ws3; done
for step in watched watching leaving; do round ws2 $step ws2 ws3; done
round ws1 leaving ws2 ws1
round ws1 direct ws1 ws2; round ws2 direct ws1 ws2; round ws3 direct ws2 ws3; round ws2 direct ws2 ws1 # it dies, with what goes ahead half-way
for step in prepare commit committed done; do round ws1 $step ws2 ws3; done
for step in prepared go; do round ws3 $step ws2 ws3; done
for step in commit committed done; do round ws1 $step ws2 ws1; done
for step in freeze dump sent; do round ws2 $step ws2 ws1; done
round ws2 nest ws1 ws2 kill:ws2
check "no keeper is left of it" until_true 10 eval '[ -z "$(keepers ws2)" ]'
# mig run: a host that was picked dies while it takes the image: another one is asked
idle() { mig hosts --no-header -o NAME,STATE | grep -q "$1 *idle"; }
on ws3 mig lend off >/dev/null
check "ws2 is idle" until_true 60 idle ws2
on ws2 sh -c "echo hold >$FAULT/fill"
as sprite ws1 bash -c "cd $JD; mig run sh -c 'echo ran >>run.out; exit 6' </dev/null >/dev/null 2>run.err; echo \$? >run.rc.new; mv run.rc.new run.rc" </dev/null >/dev/null 2>&1 &
check "it is on its way there" until_true 20 on ws2 test -e $FAULT/fill.held
on ws3 mig lend on >/dev/null
check "ws3 is idle" until_true 60 idle ws3
fault kill:ws2
check "it ends" until_true 30 on ws1 test -e $JD/run.rc
same "well, and has run once" "6 ran" "$(on ws1 cat $JD/run.rc $JD/run.out | xargs)"
check "on the other host" sh_on ws1 'grep -q "(sh) of uid 1000 moved from ws1 to ws3" /var/log/sprite/migd.log'
# all of this kind: test_migd_kills.sh
round ws1 sent ws1 ws2 kill:ws2
round ws1 committed ws2 ws3 cut:ws1,ws3
round ws1 direct ws1 ws2 kill:ws2
round ws2 direct ws1 ws2 cut:ws1,ws2
round ws3 fill ws2 ws3 kill:ws2
round ws2 dump ws2 ws1 kill:ws1
round ws2 running ws1 ws2 spritefs:ws2
round ws2 prepared ws1 ws2 keeper:ws2
round ws3 nest ws2 ws3 keeper:ws2
# its host dies on the way home, and is not started again: the move is given up
job "python3 count.py"; until_true 10 on ws1 test -s $JD/out
check "away" until_true 20 hop ws2
on ws2 sh -c "echo die >$FAULT/dump"
refused "its host dies as it comes home" 1 "ws2 does not answer" timeout 60 "$BIN/sprite-lab" exec ws1 -u sprite -- mig home "$JOB"
again ws2
check "it goes on there" until_true 30 grows
check "and comes home" until_true 30 hop home
on ws1 touch $JD/stop
same "and ends well" 42 "$(job_status 20)"
check "whole" whole
on ws1 rm -f $JD/stop
# a move that fails when memory has gone ahead: of what runs on everything is told as before
job "python3 count.py"; until_true 10 on ws1 test -s $JD/out
check "away" until_true 20 hop ws2
on ws3 sh -c "echo die >$FAULT/nest"
refused "its next host dies" 1 ws3 mig move -H ws3 "$JOB"
on ws3 rm -f $FAULT/nest
again ws3
check "it goes on" until_true 30 grows
fault keeper:ws2
same "then its keeper is killed: that is its end" 137 "$(job_status 20)"
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
finish
