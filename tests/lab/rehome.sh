# SPDX-License-Identifier: Apache-2.0
# For test_mig_rehome.sh and test_mig_rehome_killed.sh, sourced after lib.sh and faults.sh: a family that is nobody's child, and what is to be true of it when it has another home.
rehome_up() {
	lab_up -n 2
	job_dir
	for n in ws1 ws2; do on $n mkdir -p $FAULT; done
	as sprite ws1 sh -c "cat >$JD/count.py" <<'P'
import os, subprocess, sys, threading, time
out = open(sys.argv[1], "a", buffering=1); n = 0
lead = subprocess.Popen(["true"], preexec_fn=os.setpgrp) # a group whose leader has ended
member = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: os.setpgid(0, lead.pid)); lead.wait()
ended = subprocess.Popen(["true"]); os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT) # not waited for
child = subprocess.Popen(["sleep", "1000"]); r, w = os.pipe(); t = threading.Thread(target=time.sleep, args=(100000,), daemon=True); t.start()
t0 = time.monotonic()
while not os.path.exists(sys.argv[1] + ".stop"):
    if os.path.exists(sys.argv[1] + ".open"): own = open("/tmp/own", "w")
    n += 1; now = time.monotonic(); os.write(w, b"x"); os.read(r, 1)
    print(n, os.getpid(), os.uname().nodename, "back" if now < t0 else "on", os.getuid(), file=out); t0 = now; time.sleep(0.01)
well = os.getpgid(member.pid) == lead.pid and ended.wait() == 0
for c in member, child: c.kill()
print("end", child.wait() if well and member.wait() == -9 else "badly", file=out)
P
}
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
nothing_at() { ! on $1 sh -c "ps -p $JOB >/dev/null"; }
ended() { on ws1 touch $JD/$1.stop; until_true 20 on ws1 grep -q end $JD/$1; }
