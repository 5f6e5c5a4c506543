# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# What a person can do when the host that would decide cannot be asked: mig resolve; and what --max-freeze promises.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
in_doubt() { on ws2 mig ps -a --json 2>/dev/null | grep -q "in doubt"; }
as sprite ws1 sh -c "cat >$JD/work.sh" <<'SH'
n=0; until [ -e stop ]; do n=$((n + 1)); echo $n; sleep 0.05; done; exit 4
SH
grows() { local a; a=$(on ws1 sh -c "wc -l <$JD/out"); until_true 10 eval '[ "$(on ws1 sh -c "wc -l <$JD/out")" -gt '$a' ]'; }

# the home's migd dies right after its decision: the guest host is in doubt, until a person says what it would hear
job "sh work.sh"; until_true 20 on ws1 test -s $JD/out
on ws1 sh -c 'mkdir /run/sprite/fault; echo die >/run/sprite/fault/committed'
lab kill ws1 migd KILL >/dev/null; until_true 10 lab start ws1 migd SPRITE_FAULT=/run/sprite/fault; until_true 10 mig ps
mig move -H ws2 $JOB >/dev/null 2>&1
check "the guest host is in doubt" until_true 20 in_doubt
refused "not everybody may decide" 1 "only root" as sprite ws2 mig resolve --run $JOB
refused "one of both must be said" 64 "expected one of" on ws2 mig resolve $JOB
check "it is told to run" on ws2 mig resolve --run $JOB
check "and does" grows
refused "it is not in doubt any more" 1 "not in doubt" on ws2 mig resolve --drop $JOB
lab kill ws1 migd KILL >/dev/null 2>&1; until_true 10 lab start ws1 migd; until_true 20 mig ps
check "the home finds it there" until_true 20 eval 'mig ps --no-header -o WHERE,HOST | grep -q "away.*ws2"'
on ws1 touch $JD/stop
same "and has its status" 4 "$(job_status 30)"
on ws1 rm $JD/stop

# a host that is lost for good
job "sh work.sh"; until_true 20 on ws1 test -s $JD/out
check "away" until_true 20 hop ws2
lab cut ws1 ws2 >/dev/null; lab cut fs1 ws2 >/dev/null
refused "the home cannot say that it runs there" 1 "say so there" on ws1 mig resolve --run $JOB
check "it is given up" on ws1 mig resolve --drop $JOB
same "its parent sees a death" 137 "$(job_status 30)"
lab heal ws1 ws2 >/dev/null; lab heal fs1 ws2 >/dev/null
check "and if the host comes back, it ends there" until_true 60 eval '[ -z "$(residue)" ]'
refused "nobody of that number" 1 "neither away" on ws1 mig resolve --drop $JOB

# --max-freeze: not kept, not moved
job "python3 -c 'import os, time
b = os.urandom(60 << 20)
while not os.path.exists(\"stop\"): b = b[1:] + b[:1]; print(len(b), flush=True)'"
until_true 20 on ws1 test -s $JD/out
refused "a move that would freeze it too long is given up" 1 "frozen for more than 1 ms" mig move --max-freeze 1 -H ws3 $JOB
check "and it runs on, here" grows
check "with time enough it goes" until_true 20 mig move --max-freeze 60000 -H ws3 $JOB
check "and home" until_true 20 mig home $JOB
on ws1 kill -9 $JOB
finish
