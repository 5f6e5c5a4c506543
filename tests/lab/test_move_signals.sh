# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 180
# Signals sent at home reach a process that is away: handled, stopped, continued, killed; and job control at home shows what it should.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/sig.py" <<'PY'
import os, signal, sys, time
n = 0
def say(*a): os.write(1, (" ".join(map(str, a)) + "\n").encode())
def usr1(s, f):
    global n; n += 1
signal.signal(signal.SIGUSR1, usr1)
signal.signal(signal.SIGUSR2, lambda s, f: say("usr1", n))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 1, signal.SIGHUP])
say("ready")
while True:
    i = signal.sigwaitinfo([signal.SIGRTMIN + 1, signal.SIGHUP]) # not sigtimedwait: stopped past its deadline it returns what it never filled, at home too
    if i: say("got", i.si_signo - (signal.SIGRTMIN if i.si_signo > 32 else 0), "code", i.si_code, "pid", i.si_pid, "uid", i.si_uid)
    if i and i.si_signo == signal.SIGHUP: sys.exit(3)
PY
as sprite ws1 sh -c "cat >$JD/sig.py" <"$TMP/sig.py"
start() { job "python3 sig.py"; until_true 10 on ws1 grep -q ready $JD/out; hop ws2 >/dev/null || flunk "move"; }
state() { on ws1 ps -o state= -p "$JOB" | cut -c1; }
remote_state() { sh_on ws2 'ps -o state= -p $(pgrep -u sprite -x "$1" | head -1)' ${1:-python3} | cut -c1; }

start
for i in $(seq 20); do as sprite ws1 kill -USR1 "$JOB"; done
told() { as sprite ws1 kill -USR2 "$JOB"; on ws1 grep -q '^usr1 [1-9]' $JD/out; } # how many it has counted so far
check "a handler runs away from home" until_true 5 told
n=$(on ws1 sed -n 's/^usr1 //p' $JD/out | tail -1); check "each of 20 signals came, none twice ($n; they may merge as at home)" test "${n:-0}" -ge 1 -a "${n:-0}" -le 20
sender=$(as sprite ws1 bash -c "kill -s RTMIN+1 $JOB; echo \$\$")
check "a real-time signal comes with its sender" until_true 5 on ws1 grep -q "^got 1 code 0 pid $sender uid 1000" $JD/out
as sprite ws1 bash -c "for i in \$(seq 30); do kill -s RTMIN+1 $JOB; done"
check "30 real-time signals: all" until_true 5 eval "[ \$(on ws1 grep -c '^got 1' $JD/out) = 31 ]" || note "$(for n in ws1 ws2 ws3; do on $n grep -c '^got 1' $JD/out; done)" "$(on ws1 tail -3 $JD/out)"

as sprite ws1 kill -STOP "$JOB"
check "stop: it is stopped at home" until_true 5 eval '[[ "$(state)" == [Tt] ]]'
check "stop: and away" until_true 5 eval '[[ "$(remote_state)" =~ [Tt] ]]'
a=$(on ws1 stat -c %s $JD/out); as sprite ws1 kill -s RTMIN+1 "$JOB"; sleep 0.4
same "stopped is stopped" "$a" "$(on ws1 stat -c %s $JD/out)"
as sprite ws1 kill -CONT "$JOB"
check "continue: it goes on" until_true 5 eval "[ \$(on ws1 grep -c '^got 1' $JD/out) = 32 ]"
check "continue: home shows it sleeping or running" until_true 5 eval '[[ "$(state)" != [Tt] ]]'
as sprite ws1 kill -STOP "$JOB"; until_true 5 eval '[[ "$(state)" == [Tt] ]]'
check "a stopped one can go home" hop home
check "and is stopped there" until_true 5 eval '[[ "$(state)" == [Tt] ]]'
as sprite ws1 kill -CONT "$JOB"; hop ws3 >/dev/null || flunk "move on"
as sprite ws1 kill -HUP "$JOB"
same "it ends by itself on a signal: exit status" 3 "$(job_status)"

# stopped in a wait that the kernel takes up again where it was
for what in "sleep 600" "python3 -c 'import select; select.poll().poll(600000)'"; do
	job "$what"; hop ws2 >/dev/null || flunk "away"
	as sprite ws1 kill -STOP "$JOB"; until_true 10 eval '[[ "$(remote_state ${what%% *})" =~ [Tt] ]]' || flunk "stopped away: $what"
	check "stopped in ${what%% *}: it comes home" timeout 60 "$BIN/sprite-lab" exec ws1 -u sprite -- mig home -q "$JOB"
	check "and is stopped there" until_true 5 eval '[[ "$(state)" == [Tt] ]]'
	as sprite ws1 kill -CONT "$JOB"
	check "continued, it waits on" until_true 5 eval '[[ "$(state)" == S ]]'
	as sprite ws1 kill "$JOB"
	same "and can be ended" 143 "$(job_status)"
done

# continued in the very moment in which it comes home
start; lost=0
for i in 1 2 3 4 5 6; do
	as sprite ws1 kill -STOP "$JOB"; until_true 10 eval '[[ "$(remote_state)" =~ [Tt] ]]'
	"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "mig home -q $JOB & sleep 0.0\$((RANDOM % 10)); kill -CONT $JOB; wait"
	until_true 5 eval '[[ "$(state)" != [Tt] ]]' || { lost=$((lost + 1)); as sprite ws1 kill -CONT "$JOB"; }
	[ $i = 6 ] || hop ws2 >/dev/null || flunk "away again"
done
same "a SIGCONT on the way home is not lost" 0 $lost
as sprite ws1 kill -KILL "$JOB"; job_status 20 >/dev/null
start; as sprite ws1 kill -KILL "$JOB"
same "killed: the parent sees signal 9" 137 "$(job_status)"
check "killed: gone there too" until_true 5 eval '[ -z "$(residue)" ]'
start; as sprite ws1 kill -TERM "$JOB"
same "ended by SIGTERM" 143 "$(job_status)"
start; refused "another user cannot signal it" 1 'not permitted' as guest ws1 bash -c "kill -TERM $JOB"
# signals on the way while it moves: none lost
"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "echo \$\$ >$JD/sender; for i in \$(seq 200); do kill -s RTMIN+1 $JOB; read -t 0.005 <> <(:); done" >/dev/null 2>&1 &
k=$!
for w in ws3 home ws2 ws3 home; do hop $w >/dev/null || flunk "move to $w under signals"; done
wait $k
check "200 real-time signals during five moves: all came, once each" until_true 5 eval "[ \$(on ws1 grep -c '^got 1' $JD/out) = 200 ]" || note "$(on ws1 grep -c '^got 1' $JD/out) came"
same "each from who has sent it" "" "$(on ws1 sh -c "grep '^got 1' $JD/out | grep -v \"pid \$(cat $JD/sender) uid 1000\" | sort | uniq -c")"
as sprite ws1 kill -KILL "$JOB"; job_status >/dev/null

# the order of queued signals over moves: those of the image, and those that came to the hollow since
cat >"$TMP/order.py" <<'PY'
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN, signal.SIGUSR1])
os.write(1, b"ready\n")
signal.sigwait([signal.SIGUSR1])
while True:
    os.write(1, b"all %d\n" % signal.sigwaitinfo([signal.SIGRTMIN]).si_status) # the value: the same place in siginfo
PY
cat >"$TMP/send.py" <<'PY'
# send.py PID FROM TO [TID]: queued signals to a process; and one to a thread
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
class value(ctypes.Union): _fields_ = [("n", ctypes.c_int), ("p", ctypes.c_void_p)]
pid, a, b, tid = (list(map(int, sys.argv[1:])) + [0])[:4]
for n in range(a, b):
    if tid and n == (a + b) // 2 and libc.syscall(234, pid, tid, int(signal.SIGUSR1)): sys.exit("tgkill: " + os.strerror(ctypes.get_errno()))
    if libc.sigqueue(pid, int(signal.SIGRTMIN), value(n=n)): sys.exit("sigqueue: " + os.strerror(ctypes.get_errno()))
PY
for f in order.py send.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
queue() { as sprite ws1 python3 $JD/send.py "$JOB" "$@" || flunk "signals are sent"; }
all_came() { [ "$(on ws1 grep -c '^all' $JD/out)" = "$1" ]; }
in_order() { on ws1 awk '/^all/ && $2 != n++ { print "wanted", n - 1, "found", $2; n = $2 + 1 }' $JD/out | head -5; }
job "python3 order.py"; until_true 10 on ws1 grep -q ready $JD/out
queue 0 50; hop ws3 >/dev/null || flunk "move with signals that wait"
queue 50 100; hop ws2 >/dev/null || flunk "move on with signals that wait"
as sprite ws1 kill -STOP "$JOB"; until_true 5 eval '[[ "$(state)" == [Tt] ]]' # a stopped hollow takes none: they stay here
queue 100 150; hop home >/dev/null || flunk "home with signals that wait here and there"
as sprite ws1 kill -CONT "$JOB"
queue 150 200; as sprite ws1 kill -USR1 "$JOB"
check "200 queued signals over three moves: all came" until_true 10 all_came 200
same "in order, each once" "" "$(in_order)"
as sprite ws1 kill -KILL "$JOB"; job_status >/dev/null

# several threads: what is sent to the process comes in order, whichever of them could have taken it; what is sent to one thread comes to that one
cat >"$TMP/threads.py" <<'PY'
import os, signal, sys, threading
def wait_for(sig, name):
    while True:
        i = signal.sigwaitinfo([sig])
        os.write(1, b"%s %d\n" % (name, i.si_status)) # the value: the same place in siginfo
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN, signal.SIGUSR1])
for k in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()
one = threading.Thread(target=wait_for, args=(signal.SIGUSR1, b"one"), daemon=True)
one.start()
os.write(1, b"ready %d\n" % one.native_id)
wait_for(signal.SIGRTMIN, b"all")
PY
as sprite ws1 sh -c "cat >$JD/threads.py" <"$TMP/threads.py"
job "python3 threads.py"; until_true 10 on ws1 grep -q ready $JD/out
hop ws2 >/dev/null || flunk "move of threads"
queue 0 200 "$(on ws1 sed -n 's/^ready //p' $JD/out)"
check "200 queued signals to five threads: all came" until_true 10 all_came 200
same "in order, each once" "" "$(in_order)"
check "five threads: the one to a thread alone" until_true 10 eval "[ \$(on ws1 grep -c '^one' $JD/out) = 1 ]"
hop home >/dev/null || flunk "threads come home"
as sprite ws1 kill -KILL "$JOB"; job_status >/dev/null

# an interactive shell's job control
cat >"$TMP/tstp.py" <<'PY'
import os, signal, time # as editors and pagers do it: tidy up, stop by the default, go on
n = 0
def stop(s, f):
    global n
    signal.signal(signal.SIGTSTP, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, stop); n += 1; print("on", n, flush=True)
signal.signal(signal.SIGTSTP, stop)
print("ready", flush=True)
while True: time.sleep(1)
PY
as sprite ws1 sh -c "cat >$JD/tstp.py" <"$TMP/tstp.py"
cat >"$TMP/jobs.py" <<'PY'
import os, pty, re, select, sys, time
lab, jd = sys.argv[1], sys.argv[2]
pid, fd = pty.fork()
if pid == 0: os.execv(lab, [lab, "exec", "ws1", "-u", "sprite", "--", "bash", "--norc", "--noediting", "-i"])
buf = b""
def expect(pat, secs=90):
    global buf
    end = time.time() + secs
    while not re.search(pat.encode(), buf):
        if time.time() > end: sys.exit("waited for %s, have: %r" % (pat, buf[-500:]))
        if select.select([fd], [], [], 0.2)[0]: buf += os.read(fd, 4096)
    m = re.search(pat.encode(), buf); buf = buf[m.end():]; return m
def send(s): os.write(fd, s.encode())
send("PS1='PROM''PT> '; cd %s\n" % jd); expect("PROMPT> ")
send("python3 -c 'import time\nwhile True: time.sleep(0.05)' </dev/null >/dev/null 2>&1 &\n"); job = expect(r"\[1\] (\d+)").group(1).decode()
expect("PROMPT> ")
send("until [ $(cat /proc/%s/comm) = python3 ]; do sleep 0.1; done; mig move -H ws2 %s; echo st=$?\n" % (job, job)); expect("st=0") # until then it is a shell
send("kill -STOP %1; until jobs | grep -q Stopp''ed; do sleep 0.1; done; jobs\n"); expect("Stopped"); expect("PROMPT> ")
send("bg; until jobs | grep -q Runn''ing; do sleep 0.1; done; jobs\n"); expect("Running"); expect("PROMPT> ")
send("kill %1; wait %1; echo st=$?\n"); expect("st=143")
send("python3 tstp.py </dev/null >tstp.out 2>&1 & until grep -q ready tstp.out; do sleep 0.1; done\n"); job = expect(r"\[1\] (\d+)").group(1).decode(); expect("PROMPT> ")
send("mig move -H ws2 %s; echo st=$?\n" % job); expect("st=0")
for n in "12":
    send("kill -TSTP %1; until jobs | grep -q Stopp''ed; do sleep 0.1; done; jobs\n"); expect("Stopped"); expect("PROMPT> ")
    send("bg; until grep -q 'on %s' tstp.out; do sleep 0.1; done; jobs\n" % n); expect("Running"); expect("PROMPT> ")
send("kill %1; wait %1; echo st=$?\n"); expect("st=143")
send("exit\n")
print("job control works")
PY
check "job control of an interactive shell" timeout 300 python3 "$TMP/jobs.py" "$BIN/sprite-lab" $JD
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"

# one that stops itself: home shows it, also when it was stopped and continued from there on an earlier trip and nothing was sent since
cat >"$TMP/self.py" <<'PY'
import os, signal, time
os.write(1, b"ready\n")
while True:
    time.sleep(0.02)
    if os.path.exists("stop.now"): os.unlink("stop.now"); os.kill(os.getpid(), signal.SIGSTOP); os.write(1, b"on\n")
PY
as sprite ws1 sh -c "cat >$JD/self.py" <"$TMP/self.py"
job "python3 self.py"; until_true 10 on ws1 grep -q ready $JD/out
hop ws2 >/dev/null || flunk "move"
as sprite ws1 kill -STOP "$JOB"; until_true 5 eval '[[ "$(state)" == [Tt] ]]'; as sprite ws1 kill -CONT "$JOB"; until_true 5 eval '[[ "$(state)" != [Tt] ]]'
hop home >/dev/null && hop ws2 >/dev/null || flunk "home and away again"
as sprite ws1 touch $JD/stop.now
check "one that stops itself on its second trip: stopped at home" until_true 5 eval '[[ "$(state)" == [Tt] ]]'
as sprite ws1 kill -CONT "$JOB"
check "and goes on from there" until_true 5 on ws1 grep -q '^on' $JD/out
as sprite ws1 kill -KILL "$JOB"; job_status >/dev/null

# its user has as many signals waiting as he may when it comes home
cat >"$TMP/hoard.py" <<'PY'
import ctypes, os, signal
libc = ctypes.CDLL(None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
for n in range(60): libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), ctypes.c_void_p(n))
os.write(1, b"ready\n")
signal.pause()
PY
as sprite ws1 sh -c "cat >$JD/hoard.py" <"$TMP/hoard.py"
job "bash -c 'ulimit -S -i 40; exec python3 order.py'"; until_true 10 on ws1 grep -q ready $JD/out
queue 0 30; hop ws2 >/dev/null || flunk "move with signals that wait"
"$BIN/sprite-lab" exec ws1 -u sprite -- sh -c "exec python3 $JD/hoard.py >$JD/hoard" </dev/null >/dev/null 2>&1 &
k=$!; until_true 10 on ws1 grep -q ready $JD/hoard
check "it comes home beside one that has as many waiting as its limit allows" hop home
same "its limit is what it was" 40 "$(on ws1 awk '/pending signals/ { print $4 }' /proc/$JOB/limits)"
on ws1 pkill -KILL -f hoard.py; wait $k
as sprite ws1 kill -USR1 "$JOB"
check "30 queued signals: all came" until_true 10 all_came 30
same "in order, each once" "" "$(in_order)"
as sprite ws1 kill -KILL "$JOB"; job_status >/dev/null
finish
