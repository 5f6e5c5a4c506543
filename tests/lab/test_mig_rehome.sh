# SPDX-License-Identifier: Apache-2.0
# lab: own
# A family gets another home for good (mig rehome): what is refused, by name and with nothing changed; that it runs on there as that host's own, and nothing of it is left behind.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/faults.sh"
. "$(dirname "$0")/rehome.sh"
rehome_up

job "sleep 1000"
refused "whose parent waits for it" 1 "parent.*stays here" mig rehome -H ws2 $JOB
same "is at home as before" "S" "$(on ws1 ps -o state= -p $JOB)"
refused "a new home has to be named" 64 "expected -H" mig rehome $JOB
refused "the old one is none" 1 "home already" mig rehome -H ws1 $JOB
on ws1 kill $JOB
as sprite ws1 sh -c "cd /tmp; setsid -f python3 -c 'import time
f = open(\"/tmp/own\", \"w\"); open(\"$JD/own\", \"w\").write(\"up\"); time.sleep(1000)' </dev/null >/dev/null 2>&1"
until_true 20 on ws1 test -s $JD/own
JOB=$(on ws1 pgrep -n -u sprite python3)
refused "files of the home's own disk" 1 "/tmp/own is this host's own" mig rehome -n -H ws2 $JOB
refused "a directory of it" 1 "working directory /tmp" mig rehome -n -H ws2 $JOB
on ws1 kill $JOB
# stays WHAT REGEX PYTHON: a process that does that is refused, by name
stays() {
	sh_on ws1 "cd $JD; rm -f up; setsid -f setpriv --reuid sprite --regid sprite --init-groups python3 -c 'import mmap, os, socket, time
$3
open(\"up\", \"w\").write(\"up\"); time.sleep(1000)' </dev/null >/dev/null 2>&1"
	until_true 20 on ws1 test -s $JD/up
	JOB=$(on ws1 pgrep -n -u sprite python3)
	refused "$1" 1 "$2" mig rehome -n -H ws2 $JOB
	on ws1 kill $JOB
}
stays "a pipe to somebody else" "pipe:.* leads to process" 'r, w = os.pipe()
if not os.fork():
    os.setsid(); os.fork() and os._exit(0); os.close(w); os.read(r, 1); os._exit(0)
os.close(r)'
stays "an object of /dev/shm with a name" "an object of /dev/shm with a name" 'f = open("/dev/shm/named", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()'
stays "a shared map of the own disk" "a shared map of /tmp/own" 'f = open("/tmp/own", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()'
stays "a terminal" "/dev/pts/[0-9]* is this host's own" 'import pty
if pty.fork()[0]: os.wait(); os._exit(0)'
on ws1 rm /dev/shm/named
as sprite ws1 sh -c "cd $JD; setsid -f python3 -c 'import ctypes, time
i = ctypes.CDLL(None).semget(4711, 1, 0o1600); ctypes.CDLL(None).semop(i, ctypes.create_string_buffer(bytes([0, 0, 1, 0, 0, 0])), 1)
open(\"$JD/sysv\", \"w\").write(\"up\"); time.sleep(1000)' </dev/null >/dev/null 2>&1"
until_true 20 on ws1 test -s $JD/sysv
JOB=$(on ws1 pgrep -n -u sprite python3)
refused "what others here may look for" 1 "SysV semaphores .*would stay here" mig rehome -n -H ws2 $JOB
on ws1 sh -c "kill $JOB; ipcrm --all"

# for good; and from there on as from any home
orphan one
conf2() { on ws2 sed -i "$1" /etc/sprite/sprite.conf; lab kill ws2 migd TERM >/dev/null; again ws2; }
adopts() { conf2 "s/\"adopts\": *\"[a-z]*\"/\"adopts\": \"$1\"/"; }
adopts root
refused "a host that is not willing" 1 "becomes the home of no such process .*adopts" mig rehome -H ws2 $JOB
adopts all
conf2 '1s/{/{ "cpu_hide": ["sse2"],/;'
refused "one whose processor lacks something" 1 "CPU of ws2 lacks sse2" mig rehome -H ws2 $JOB
conf2 's/"cpu_hide": \["sse2"\],//'
check "it goes on" goes_on one
same "nothing forbids it" "$JOB: can move to ws2" "$(mig rehome -n -H ws2 $JOB)"
check "another home" mig rehome -H ws2 $JOB
check "there it goes on" goes_on one
same "there" ws2 "$(where one)"
same "as a child of that host's first process, leader as it was" "1 $JOB $JOB" "$(on ws2 ps -o ppid=,pgid=,sid= -p $JOB | tr -s ' ' | sed 's/^ //')"
check "nothing of it is left at the old one" eval 'nothing_at ws1 && [ -z "$(mig ps --no-header)" ]'
same "nor is it a guest" "" "$(on ws2 mig ps -a --no-header)"
refused "back again the clock would go back" 1 "clock.*go back" as sprite ws2 mig rehome -H ws1 $JOB
check "it moves from its new home" as sprite ws2 mig move -H ws1 $JOB
check "and is there" until_true 10 eval '[ "$(where one)" = ws2 ] && goes_on one' # the name is the home's
check "and back" as sprite ws2 mig home $JOB
check "it goes on" goes_on one
ended one
check "all was as it should" sound one

# of a session and a group whose leaders have ended; first away
orphan two "" "&"
check "away" mig move -H ws2 $JOB
check "from there" mig rehome -H ws2 $JOB
same "session and group are what they were" "$(on ws1 cat $JD/two.ids)" "$(on ws2 ps -o pgid=,sid= -p $JOB)"
check "it goes on" goes_on two
ended two
check "all was as it should" sound two

# what root has given it there it has not here
orphan four
on ws1 sh -c "renice -n -5 -p $JOB && echo -500 >/proc/$JOB/oom_score_adj" >/dev/null
as sprite ws1 prlimit --core=2000000:3000000 --stack=4000000: -p $JOB
on ws2 prlimit --core=1000000:1000000 -p 1
check "with a place before others" mig rehome -H ws2 $JOB
same "nor more than a login here begins with" "1000000 1000000" "$(on ws2 sed -n 's/^Max core file size *\([0-9]*\) *\([0-9]*\) .*/\1 \2/p' /proc/$JOB/limits)"
same "less than that stays less" 4000000 "$(on ws2 sed -n 's/^Max stack size *\([0-9]*\) .*/\1/p' /proc/$JOB/limits)"
same "here it has none" "0 0 0" "$(sh_on ws2 'echo $(ps -o ni= -p $1; cat /proc/$1/oom_score_adj; sed -n "s/Max nice priority *\([0-9]*\) .*/\1/p" /proc/$1/limits)' $JOB)"
ended four
check "all was as it should" sound four
as sprite ws1 sh -c "cd $JD; rm -f up; setsid -f python3 -c 'import os, time; f = os.memfd_create(\"x\"); open(\"up\", \"w\").write(str(f)); time.sleep(1000)' </dev/null >/dev/null 2>&1"
until_true 20 on ws1 test -s $JD/up
JOB=$(on ws1 pgrep -n -u sprite python3)
sh_on ws1 "chown root: /proc/$JOB/fd/\$(cat $JD/up); chmod 4755 /proc/$JOB/fd/\$(cat $JD/up)"
refused "a file without a name that is root's" 1 "is of a user or a group that process $JOB is not here" mig rehome -H ws2 $JOB
on ws1 kill $JOB

# what it gets in the middle of it
orphan five
lab kill ws1 migd TERM >/dev/null; again ws1
on ws1 sh -c "echo hold >$FAULT/freeze"
mig rehome -H ws2 $JOB >"$TMP/say" 2>&1 &
until_true 20 on ws1 test -e $FAULT/freeze.held
on ws1 touch $JD/five.open
check "it goes on meanwhile" goes_on five
on ws1 rm $FAULT/freeze.held
wait $!; rc=$?
refused "a file of the own disk, opened since" 1 "/tmp/own is this host's own" sh -c "cat $TMP/say; exit $rc"
check "it goes on here" goes_on five
same "here" ws1 "$(where five)"
ended five
check "all was as it should" sound five

# of a group that its user is not in there; and with a capability
for how in "--groups 0" "--init-groups --inh-caps +net_raw --ambient-caps +net_raw"; do
	on ws1 sh -c "rm -f $JD/up; cd $JD; setsid -f setpriv --reuid sprite --regid sprite $how python3 -c 'import time; open(\"up\", \"w\").write(\"up\"); time.sleep(1000)' </dev/null >/dev/null 2>&1"
	until_true 20 on ws1 test -s $JD/up
	JOB=$(on ws1 pgrep -n -u sprite python3)
	refused "rights that its user has not there ($how)" 1 "process $JOB has rights that its user has not here" on ws1 mig rehome -H ws2 $JOB
	on ws1 kill $JOB
done

# its number is taken there
orphan three
on ws2 sh -c "echo $((JOB - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 </dev/null >/dev/null 2>&1 &"
refused "a number that is taken there" 1 "process $JOB of its own" mig rehome -H ws2 $JOB
check "it goes on here" goes_on three
on ws2 sh -c "kill $JOB"
finish
