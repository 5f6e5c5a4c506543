# SPDX-License-Identifier: Apache-2.0
# lab: own
# However mig make is ended, and it alone: make ends its recipes and removes what is half made, and nothing is left in /tmp. A makefile that can be read only once.
. "$(dirname "$0")/lib.sh"
lab_up -n 1
job_dir
as sprite ws1 bash -c "printf 'half: ; @echo x >half; until [ -e go ]; do sleep 0.1; done\n' >$JD/half.mk"
tmp() { on ws1 sh -c 'ls -d /tmp/mig-make.* 2>/dev/null | wc -l'; }
# Signals as a terminal's shell has them: one that runs a script ignores some for what it puts behind. Its status as wait(2) has it: a shell tells 130 from SIGINT, and goes on.
cat >"$TMP/start.py" <<'P'
import os, subprocess, sys
def put(name, what):
    with open(name + ".new", "w") as f: print(what, file=f)
    os.rename(name + ".new", name)
null = subprocess.DEVNULL
p = subprocess.Popen(["env", "--default-signal", "mig", "make", "-s", "--remote", "0", "-f", sys.argv[1]], stdin=null, stdout=null, stderr=null)
put("one.pid", p.pid)
put("one.rc", p.wait())
P
start() {
	as sprite ws1 bash -c "cd $JD; rm -f half one.rc; exec python3 -c '$(cat "$TMP/start.py")' ${1:-half}.mk" </dev/null >/dev/null 2>&1 &
	check "a target is half made" until_true 20 on ws1 test -s $JD/half
}
for s in TERM HUP INT; do
	start
	on ws1 sh -c "kill -$s \$(cat $JD/one.pid)"
	check "SIG$s to mig make alone: what is half made is removed" until_true 20 on ws1 test ! -e $JD/half
	[ $s = TERM ] || as sprite ws1 touch $JD/go # make ends its recipes for SIGTERM only, and waits for them
	check "and it ends" until_true 20 on ws1 test -s $JD/one.rc
	same "by that signal, as make would, with nothing left in /tmp" "-$(kill -l $s) 0" "$(on ws1 cat $JD/one.rc) $(tmp)"
	on ws1 rm -f $JD/go
	wait
done
as sprite ws1 bash -c "cd $JD; { echo 'then: half ; @cp half then'; cat half.mk; } >two.mk"
another() { as sprite ws1 bash -c "cd $JD; mig make -s --remote 0 -f <(printf 'x: ; @echo hi\n') </dev/null 2>&1 | cat"; }
start two
on ws1 sh -c "kill -9 \$(cat $JD/one.pid)"
wait
same "a killed one's make is still at work: the next one leaves it its shell" "hi 1" "$(another) $(tmp)"
as sprite ws1 touch $JD/go
check "and it goes on to its end" until_true 20 on ws1 test -s $JD/then
check "which comes" until_true 20 on ws1 sh -c '! pgrep -u sprite -x make'
same "what a killed one leaves in /tmp" 1 "$(tmp)"
same "a makefile out of a pipe" hi "$(another)"
same "the next one takes that away" 0 "$(tmp)"
finish
