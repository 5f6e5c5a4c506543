# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 150
# A host that is cut off in the middle of a build: mig make says so, once, with what can be done, and when it answers again; nothing of the build is lost. What cannot be
# written is told, too.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
as sprite ws1 bash -c "cat >$JD/Makefile" <<'X'
all: a b c d e f
a b c d e f: ; @touch $@.on; until [ -e go ]; do sleep 0.2; done; echo out $@
X
until_true 20 sh_on ws1 'mig hosts --no-header -o NAME,STATE | grep -q "ws2 *idle"'
as sprite ws1 bash -c "cd $JD && exec mig make -j6 --local 1 >out 2>err" </dev/null >/dev/null 2>&1 &
build=$!
far() { sh_on ws1 'mig ps --no-header -o HOST' | grep -q ws2; }
check "recipes run there" until_true 20 far
check "all have begun" until_true 20 sh_on ws1 '[ $(ls '"$JD"'/*.on | wc -l) -ge 3 ]'
sleep 2
lab cut ws2
check "that it does not answer is said" until_true 30 on ws1 grep -qE '^mig: ws2 does not answer: [0-9]+ recipes? waits? for it \(root can give up on it: mig resolve --drop( [0-9]+)+\)$' $JD/err
sleep 8
lab heal ws2
check "and that it answers again" until_true 40 on ws1 grep -qx 'mig: ws2 answers again' $JD/err
as sprite ws1 touch $JD/go
wait $build
same "the build ends well" 0 $?
same "each recipe's output once" "$(printf 'out %s\n' a b c d e f)" "$(as sprite ws1 sort $JD/out)"
same "each said once" 2 "$(as sprite ws1 grep -c answer $JD/err)" || as sprite ws1 cat $JD/err
for what in hosts ps stats "hosts --json"; do
	refused "mig $what: what cannot be written" 1 'mig: standard output: No space left on device' sh_on ws1 "mig $what >/dev/full"
done
refused "mig top: and here" 1 "mig: standard output: " sh_on ws1 "mig top -n 1 >/dev/full"
as sprite ws1 bash -c 'exec mig run -H ws2 bash -c "sleep 100; :"' </dev/null >/dev/null 2>&1 &
pid() { sh_on ws1 'mig ps --no-header -o PID,COMMAND | awk "/bash/ { print \$1; exit }"'; }
check "a bash is there" until_true 20 test -n "$(until_true 20 sh_on ws1 'mig ps | grep -q bash'; pid)"
p=$(pid)
refused "who is there already is told by its name" 1 "$p \\(bash\\) is on ws2 already" on ws1 mig move -H ws2 "$p"
on ws1 kill "$p"
finish
