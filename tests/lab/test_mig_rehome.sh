# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# A family gets another home for good (mig rehome): what is refused, by name and with nothing changed; that it runs on there as that host's own, and nothing of it is left behind, also
# when a migd dies in the middle.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/faults.sh"
lab_up -n 2
job_dir
for n in ws1 ws2; do on $n mkdir -p $FAULT; lab kill $n migd TERM >/dev/null; again $n; done
as sprite ws1 sh -c "cat >$JD/count.py" <<'P'
import os, subprocess, sys, threading, time
out = open(sys.argv[1], "a", buffering=1); n = 0
child = subprocess.Popen(["sleep", "1000"]); r, w = os.pipe(); t = threading.Thread(target=time.sleep, args=(100000,), daemon=True); t.start()
t0 = time.monotonic()
while not os.path.exists(sys.argv[1] + ".stop"):
    n += 1; now = time.monotonic(); os.write(w, b"x"); os.read(r, 1)
    print(n, os.getpid(), os.uname().nodename, "back" if now < t0 else "on", os.getuid(), file=out); t0 = now; time.sleep(0.01)
child.kill(); print("end", child.wait(), file=out)
P
# orphan NAME [HOW]: one that is nobody's child, writes to $JD/NAME, in $JD; its number in $JOB
# Its number is one that the other node, which has begun at 1 like this one, does not come to.
LAST=20000
orphan() {
	LAST=$((LAST + 100)); on ws1 sh -c "echo $LAST >/proc/sys/kernel/ns_last_pid"
	as sprite ws1 sh -c "cd $JD; ${2:-setsid -f} python3 $JD/count.py $JD/$1 </dev/null >/dev/null 2>&1 ${3:-}"
	until_true 20 on ws1 test -s $JD/$1
	JOB=$(on ws1 awk '{ print $2; exit }' $JD/$1)
	on ws1 sh -c "ps -o pgid=,sid= -p $JOB >$JD/$1.ids"
}
told() { on ws1 sh -c "wc -l <$JD/$1"; }
goes_on() { local a; a=$(told $1); until_true 10 eval '[ "$(told '$1')" -gt '$a' ]'; }
sound() { on ws1 awk -v pid=$JOB '$1 == "end" { e = $2 == -9; next } $1 != NR || $2 != pid || $4 == "back" || $5 != 1000 { bad = 1 } END { exit bad || !e }' $JD/$1; }
where() { on ws1 sh -c "tail -1 $JD/$1 | cut -d' ' -f3"; }
here() { on $1 sh -c "ps -o stat= -p $JOB | grep -q '^[RS]'"; }
nothing_at() { ! on $1 sh -c "ps -p $JOB >/dev/null"; }
ended() { on ws1 touch $JD/$1.stop; until_true 20 on ws1 grep -q end $JD/$1; }

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

# for good; and from there on as from any home
orphan one
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

# its number is taken there
orphan three
on ws2 sh -c "echo $((JOB - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 </dev/null >/dev/null 2>&1 &"
refused "a number that is taken there" 1 "process $JOB of its own" mig rehome -H ws2 $JOB
check "it goes on here" goes_on three
on ws2 sh -c "kill $JOB"

# a migd dies in the middle: one copy, on the side that the old home's journal says
for f in ws2:fill:ws1 ws2:prepared:ws1 ws1:commit:ws1 ws1:committed:ws2 ws2:go:ws2 ws2:running:ws2 ws1:done:ws2; do
	IFS=: read -r who step side <<<"$f"
	orphan $who-$step
	on $who sh -c "echo die >$FAULT/$step"
	timeout 100 "$BIN/sprite-lab" exec ws1 -u sprite -- mig rehome -H ws2 $JOB >"$TMP/say" 2>&1 &
	until_true 10 gone $who || flunk "$who dies at $step ($(head -1 "$TMP/say"))"
	on $who rm -f $FAULT/$step
	again $who
	wait $!
	check "$who dies at $step: it goes on" goes_on $who-$step
	same "$who dies at $step: on the right side" $side "$(where $who-$step)"
	check "$who dies at $step: and only there" until_true 20 nothing_at $([ $side = ws1 ] && echo ws2 || echo ws1)
	ended $who-$step
	check "$who dies at $step: all was as it should" sound $who-$step
done
finish
