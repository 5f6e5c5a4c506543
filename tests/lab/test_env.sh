# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Shared environment: the processes of a login see the same variables by mig env and by files, at home and away, and new commands are seeded from it.
. "$(dirname "$0")/lib.sh"
W=/sprite/env-test
as sprite ws1 mkdir $W
# One login each: a shell that leads a session, and what it starts. Output into the shared tree: nothing of this machine is a descriptor.
login() { as sprite ws1 bash -c "cd $W; $1" </dev/null 2>&1 | cat; }
same "nothing is set in a new login" "" "$(login 'mig env')"
same "set, get, list" "$(printf 'two words\nA=two words\nB=\n')" "$(login 'mig env set "A=two words" B=; mig env get A; mig env')"
same "another login does not see it" 1 "$(login 'mig env get A >/dev/null 2>&1; echo $?')"
same "children see what a sibling set" "seen" "$(login '(mig env set X=1); (mig env set X=seen); bash -c "mig env get X"')"
same "unset" "mig: X: not set" "$(login 'mig env set X=1; mig env unset X; mig env get X')"
same "as JSON" '{"A": "1"}' "$(login 'mig env set A=1; mig env list --json' | tr -d '\n' | sed 's/{ /{/')"
same "bad names are refused" "64" "$(login 'mig env set =x 2>/dev/null; echo $?')"
same "and those that no shell could have" "$(printf 'mig: "1A": expected a name of letters, digits and _, no digit in front\n1')" "$(login 'mig env set 1A=x; echo $?')"
# files
same "a file per variable" "$(printf 'A B\nvalue')" "$(login 'mig env set A=value B=2; echo $(ls /sprite/.sprite/env); cat /sprite/.sprite/env/A')"
same "a file that is written sets it" "from a file" "$(login 'echo from a file >/sprite/.sprite/env/F; mig env get F')"
same "shorter and longer again" "abc" "$(login 'echo something long >/sprite/.sprite/env/F; printf ab >/sprite/.sprite/env/F; printf c >>/sprite/.sprite/env/F; mig env get F')"
same "a file that is removed unsets it" "1 gone" "$(login 'mig env set F=1; rm /sprite/.sprite/env/F; mig env get F 2>/dev/null; echo $? gone')"
same "a file that is not there" "cat: /sprite/.sprite/env/NO: No such file or directory" "$(login 'cat /sprite/.sprite/env/NO')"
same "sizes are true" "5" "$(login 'mig env set A=12345; stat -c %s /sprite/.sprite/env/A')"
check "100 names come and go" as sprite ws1 bash -c 'for i in {1..100}; do echo 1 >/sprite/.sprite/env/N$i && rm /sprite/.sprite/env/N$i || exit 1; done'
check "and nothing is kept of them" until_true 10 sh_on ws1 '[ $(sed -n "s/^spritefs_special_names //p" /sprite/.sprite/metrics) -lt 50 ]'
same "names that cannot be are refused" "1" "$(login 'echo x 2>/dev/null >/sprite/.sprite/env/1A; echo $?')"
same "the root of the tree does not list it" "" "$(login 'ls -a /sprite | grep "^\.sprite"')"
# away
login 'mig env set SEED=seeded; mig run -H ws2 sh -c "echo \$SEED; hostname; cat /sprite/.sprite/env/SEED" >out 2>&1; echo >>out; echo "status $?" >>out' >/dev/null
same "a command that runs away is seeded, and reads the files there" "$(printf 'seeded\nws1\nseeded\nstatus 0')" "$(on ws1 cat $W/out)"
login 'mig run -H ws2 sh -c "mig env set FROM=away; printf 2 >/sprite/.sprite/env/FILE; mig env get FROM" >out 2>&1; mig env >>out' >/dev/null
same "what it sets over there is set at home" "$(printf 'away\nFILE=2\nFROM=away')" "$(on ws1 cat $W/out)"
as sprite ws1 bash -c "cd $W; mig env set LIVE=1
	bash -c 'until [ \"\$(cat /sprite/.sprite/env/LIVE)\" = 2 ]; do sleep 0.2; done; mig env set SAW=\$(cat /sprite/.sprite/env/LIVE)' & p=\$!
	mig move -H ws2 \$p >move.out 2>&1; mig env set LIVE=2; wait \$p; mig env get SAW >saw" </dev/null >/dev/null 2>&1
check "a running process that was moved" grep -q "on ws2" <(on ws1 cat $W/move.out)
same "sees what is set at home later, and home sees what it sets" 2 "$(on ws1 cat $W/saw)"
login 'mig env set B=bg; mig run -b -H ws2 sh -c "mig env get B >bg.out.new 2>&1; mv bg.out.new bg.out"' >/dev/null
check "a command in the background runs" until_true 20 on ws1 test -s $W/bg.out
same "and has it in its own session" bg "$(on ws1 cat $W/bg.out)"
# a restart of migd
as sprite ws1 bash -c "cd $W; mig env set KEPT=yes; touch ready; until [ -e go ]; do sleep 0.1; done; mig env get KEPT >kept.new; mv kept.new kept" </dev/null >/dev/null 2>&1 &
check "a login waits" until_true 10 on ws1 test -e $W/ready
lab kill ws1 migd KILL >/dev/null
check "migd is started again" until_true 10 lab start ws1 migd
on ws1 touch $W/go
check "it goes on" until_true 10 on ws1 test -s $W/kept
same "over a restart of migd it keeps its variables" yes "$(on ws1 cat $W/kept)"
wait
on ws1 rm -r $W
finish
