# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 180
# A pipe ends for those at home when nobody in a family that is away has it any more, also while that family lives on: its last holder ends, closes it, or leaves
# behind a child that was born away without it. And not before.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 sh -c "touch $JD/stop; sleep 0.3; rm -rf $JD"; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/member.py" <<'PY'
import os, sys, time
role = sys.argv[1]
def wait(name):
    while not os.path.exists(name): time.sleep(0.02)
def without(): # the pipe, until it is told to end
    null = os.open("/dev/null", os.O_RDWR)
    for n in range(3): os.dup2(null, n)
    os.close(os.open("without", os.O_CREAT | os.O_WRONLY))
    wait("stop")
    os._exit(0)
def last_words():
    if role.startswith("in"): assert os.read(0, 4) == b"y\ny\n"
    else: print("last words", flush=True)
if role.endswith("parent") and not os.fork(): without()
if role == "two" and not os.fork():
    wait("more"); print("more", flush=True); os._exit(0)
with open("pid.new", "w") as f: f.write(str(os.getpid()))
os.rename("pid.new", "pid")
wait("go")
if role == "born":
    if not os.fork(): without()
    wait("without")
    time.sleep(1) # now its home knows it (BORN)
last_words()
if not role.endswith("parent") and role != "born": without()
PY
# begin ROLE: it runs away, its output goes to a pipe that is read at home, or its input is written there
begin() {
	on ws1 sh -c "cd $JD; rm -f pid go more stop without ended out writer"
	case $1 in
	in*) as sprite ws1 bash -c "cd $JD; (yes; echo \$? >writer) | exec python3 member.py $1 >/dev/null 2>&1" & ;;
	*) as sprite ws1 bash -c "cd $JD; exec python3 member.py $1 </dev/null 2>&1 | { cat >out; touch ended; }" & ;;
	esac
	SHELL_PID=$!
	until_true 20 on ws1 test -s $JD/pid
	JOB=$(on ws1 cat $JD/pid)
	hop ws2 >/dev/null || flunk "$1: moves"
}
# what its writer wrote at home is with it: what has not come before its migd is killed does not come before the next starts
fed() { on ws2 sh -c 'python3 -c "import array, fcntl, os, sys, termios
n = array.array(\"i\", [0]); fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK), termios.FIONREAD, n); sys.exit(n[0] < 4)" /proc/$(pgrep -u sprite python3)/fd/0'; }
lives_on() { [ -n "$(on ws2 pgrep -u sprite python3)" ]; }
over() { on ws1 touch $JD/stop; wait $SHELL_PID; until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"; }
for role in parent close born; do
	begin $role
	on ws1 touch $JD/go
	check "$role: who reads at home sees the end" until_true 10 on ws1 test -e $JD/ended
	check "$role: while one of the family runs on over there" lives_on
	same "$role: and has got everything" "last words" "$(on ws1 cat $JD/out)"
	over
done
for role in in-parent in-close; do
	begin $role
	on ws1 touch $JD/go
	check "$role: who writes at home is told that nobody reads" until_true 10 on ws1 test -s $JD/writer
	same "$role: as on one machine" 141 "$(on ws1 cat $JD/writer)"
	check "$role: while one of the family runs on over there" lives_on
	over
done
# what a dead migd did not hear, or did not carry out, is told to the next
for n in ws1 ws2; do
	for role in close in-close; do
		begin $role
		[ $role = close ] || until_true 10 fed || note "nothing comes to it"
		lab kill $n migd KILL
		on ws1 touch $JD/go
		check "$role: it goes on without $n's migd" until_true 20 on ws1 test -e $JD/without
		until_true 20 lab start $n migd || flunk "$n: migd starts again"
		check "$role: and the end is told to the next" until_true 20 on ws1 sh -c "test -e $JD/ended || test -s $JD/writer"
		check "$role: while it runs on over there" lives_on
		over
	done
done
begin two
on ws1 touch $JD/go
until_true 10 on ws1 test -e $JD/without
sleep 1
check "two: it does not end as long as one has it" on ws1 test ! -e $JD/ended
check "two: they move on" hop ws3
on ws1 touch $JD/more
check "two: it ends with the last one" until_true 10 on ws1 test -e $JD/ended
same "two: and has got everything" "last words more" "$(on ws1 cat $JD/out | xargs)"
check "two: the other comes home" hop home
same "two: without the pipe, as it was" "/dev/null /dev/null" "$(on ws1 sh -c "readlink /proc/$JOB/fd/1 /proc/$JOB/fd/2" | xargs)"
over
finish
