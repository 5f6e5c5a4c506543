# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 500
# (With LONG=1: each side and the link alone, too, again and again; without, both sides at once.)
# What a job that is away reads and writes through pipes of its home outlives migd: killed on either side, at random moments, and links cut; nothing is lost, doubled or
# out of order, the exit status is right, and nothing is left.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/relay_kills.sh"
lab_up -n 3
job_dir
LONG=${LONG:-} STEP=30 SPREAD=100
lines() { on ws1 sh -c "wc -l <$JD/out"; }
# A numbered line each 2 ms, in the middle of which it may be written; every hundredth is as long as a window of the relay is not.
cat >"$TMP/count.py" <<'PY'
import os, sys, time
n, stop = 0, "stop"
while True:
    n += 1
    line = b"%d%s\n" % (n, b"." * (70000 if n % 100 == 0 else 0))
    while line: line = line[os.write(1, line):]
    if n % 20 == 0 and os.path.exists(stop): break
    time.sleep(0.002)
os.write(1, b"end %d\n" % n)
sys.exit(3)
PY
# Reads numbered lines, tells what comes out of turn.
cat >"$TMP/take.py" <<'PY'
import sys
n = 0
for line in sys.stdin:
    n += 1
    if line.rstrip("\n") != str(n): print("line", n, "is", line[:60], flush=True); sys.exit(1)
    if n % 10 == 0: print(n, flush=True)
print("end", n, flush=True)
sys.exit(4)
PY
for f in count.py take.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
# pipeline CMDLINE: like job, but its pid is that of the process that writes it to ./pid.new
pipeline() {
	as sprite ws1 sh -c "cd $JD && rm -f rc pid stop out"
	"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "cd $JD; $1" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 test -s $JD/pid || flunk "start of: $1"
	JOB=$(on ws1 cat $JD/pid)
}
in_order() { on ws1 awk '/^end/ { ok = $2 == NR - 1; next } { sub(/\..*/, "") } $0 != NR { print "line " NR " is " $0; bad = 1; exit } END { if (!bad) print ok ? "all" : "no end after " NR }' $JD/out; }

for who in ${LONG:+ws1 ws2 cut} "ws1 ws2"; do
	pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; exec python3 count.py"; echo $? >rc.new) | cat >out; mv rc.new rc'
	check "output, $who: it goes away" until_true 10 hop ws2
	# shellcheck disable=SC2086
	breaks "output, $who" $who
	[ "$who" != ws2 ] || check "output, $who: and on to a third" until_true 10 hop ws3
	[ "$who" != ws1 ] || check "output, $who: and home and away" eval 'until_true 10 hop home && until_true 10 hop ws2'
	as sprite ws1 touch $JD/stop
	same "output, $who: its exit status" 3 "$(job_status 60)"
	same "output, $who: all lines, once, in order" all "$(in_order)"
	check "output, $who: nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
done
# Its input, of which only what it has read is gone when it has come home; the writer stays at home.
pipeline 'i=0; while [ ! -e stop ] || [ $((i % 100)) != 0 ]; do i=$((i + 1)); echo $i; done | { sh -c "echo \$\$ >pid.new; mv pid.new pid; exec python3 take.py" >out; echo $? >rc.new; mv rc.new rc; }'
check "input: it goes away" until_true 10 hop ws2
breaks input ws1 ws2
check "input: and to a third" until_true 10 hop ws3
killed ws3; killed ws1; again ws3; again ws1
until_true 30 has_lines $(($(lines) + 20))
check "input: and home" until_true 10 hop home
as sprite ws1 touch $JD/stop
same "input: its exit status" 4 "$(job_status 60)"
same "input: all came, in order" "" "$(on ws1 grep line $JD/out)"

# It ends by itself, its last words unsent, while the home's migd is away; and the reader comes late.
for who in ws1 ${LONG:+ws2}; do
	pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; until [ -e stop ]; do sleep 0.02; done; seq 1 50000; exit 5"; echo $? >rc.new) | (until [ -e late ]; do sleep 0.02; done; cat >out); mv rc.new rc'
	check "the end, $who away: it goes away" until_true 10 hop ws2
	killed $who
	as sprite ws1 sh -c "rm -f $JD/late; touch $JD/stop"
	until_true 20 eval "! runs_on ws2 seq"
	again $who
	as sprite ws1 touch $JD/late
	same "the end, $who away: its exit status" 5 "$(job_status 60)"
	same "the end, $who away: all lines" "$(seq 1 50000 | md5sum)" "$(on ws1 sh -c "md5sum <$JD/out")"
	check "the end, $who away: nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
done
as sprite ws1 rm -f $JD/late

# A terminal: each side's migd is killed while a program reads and writes it.
cat >"$TMP/term.py" <<'PY'
import os, subprocess, sys
from terminal import Terminal, ok
lab, = sys.argv[1:]
t = Terminal(lab, "bash", "--norc", "--noediting", "-i")
send, expect = t.send, t.expect
def killed(*nodes):
    for n in nodes: subprocess.run([lab, "kill", n, "migd", "KILL"], stdout=subprocess.DEVNULL)
def again(*nodes):
    for n in nodes: t.until("migd of %s does not come up" % n, lambda: subprocess.run([lab, "start", n, "migd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0)
send("PS1='PROM''PT> '\n"); expect("PROMPT> ")
send("python3; echo st''=$?\n"); expect(">>> "); send("import os; print('pid', os.getpid())\n"); p = expect(r"pid (\d+)\r\n").group(1).decode(); expect(">>> ")
t.mig("move", "-q", "-H", "ws2", p, tries=20)
for who in (("ws1",), ("ws2",), ("ws1", "ws2")):
    send("6*7, os.isatty(0)\n"); expect("\n\\(42, True\\)\r\n"); expect(">>> ")
    killed(*who); send("print('one line', 3*3, 'for', len('%s'))\n" % ("x" * 500)); again(*who); expect("\none line 9 for 500\r\n"); expect(">>> ")
    send("for i in range(20000): print(i, end=' ' if i % 12 else '\\n')\n\n"); expect("\n"); killed(*who); again(*who)
    got = expect(r"(?s)(0\r\n1 2.*19999 )>>> ").group(1).decode().split()
    if got != [str(i) for i in range(20000)]: sys.exit("not ok - output through a terminal, migd of %s killed: %d words" % (who, len(got)))
t.mig("home", "-q", p, tries=20)
send("6*7, os.isatty(0)\n"); expect("\n\\(42, True\\)\r\n"); expect(">>> "); send("exit(6)\n"); expect("st=6\r\n"); expect("PROMPT> ")
send("exit\n")
ok("a terminal outlives migd on either side")
PY
PYTHONPATH=$HERE timeout 400 python3 "$TMP/term.py" "$BIN/sprite-lab" || FAILED=1

# Connections to a socket file of its home, again and again; and one whose end has been made there, and was not handed on.
cat >"$TMP/serve.py" <<'PY'
import os, socket, sys, threading
def serve(c): m = c.recv(99); c.sendall(b"got " + m); c.close()
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(64); print("ready", flush=True)
while True: threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
PY
cat >"$TMP/connects.py" <<'PY'
import errno, os, socket, sys
n = 0
while not os.path.exists("stop") or n % 50:
    n += 1
    s = socket.socket(socket.AF_UNIX); s.settimeout(200)
    try: s.connect(sys.argv[1])
    except OSError as e: # its home was away for 15 seconds: so it is told
        if e.errno != errno.EHOSTDOWN: raise
        n -= 1; continue
    s.sendall(b"%d" % n)
    m = s.recv(99)
    if m != b"got %d" % n or s.recv(9): print("line", n, "is", m, flush=True); break
    s.close(); print(n, flush=True)
print("end", n, flush=True)
sys.exit(7)
PY
for f in serve.py connects.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
as sprite ws1 python3 $JD/serve.py /tmp/relay_restart.sock >"$TMP/served" 2>&1 </dev/null & SERVER=$!
until_true 20 grep -q ready "$TMP/served"
FAULT=/run/sprite/fault
as sprite ws1 rm -f $JD/stop
job "mig run -H ws2 -- python3 connects.py /tmp/relay_restart.sock"
breaks connect ws2
breaks connect ws1
killed ws2
on ws2 mkdir -p $FAULT
until_true 10 lab start ws2 migd SPRITE_FAULT=$FAULT; until_true 10 up ws2
on ws2 sh -c "echo die >$FAULT/connected"
check "connect: migd is killed with an end in its hands" until_true 30 eval '! up ws2'
again ws2
check "connect: it goes on" until_true 30 has_lines $(($(lines) + 20))
as sprite ws1 touch $JD/stop
same "connect: its exit status" 7 "$(job_status 60)" || on ws1 tail -n 5 $JD/out $JD/err
same "connect: each was answered" all "$(in_order)"
check "connect: nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
kill $SERVER; on ws1 pkill -f "[s]erve.py /tmp/relay_restart.sock"

# Who keeps the ends is killed: those at the other end are told, as if it had been them.
for who in ${LONG:+ws1} ws2; do
	pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; exec python3 count.py" 2>err; echo $? >rc.new) | cat >out; mv rc.new rc'
	check "sprite-relay of $who killed: the job goes away" until_true 10 hop ws2
	until_true 20 has_lines 50
	on $who kill -9 "$(relay_pid $who)"
	check "sprite-relay of $who killed: the job hears of it" until_true 30 job_over
	same "sprite-relay of $who killed: by EPIPE" BrokenPipeError "$(on ws1 grep -o BrokenPipeError $JD/err)"
	pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; trap \"\" PIPE; until [ -e stop ]; do sleep 0.02; done; exit 6"; echo $? >rc.new) | cat >out; mv rc.new rc'
	check "sprite-relay of $who killed: one that does not mind goes away" until_true 10 hop ws2
	on $who kill -9 "$(relay_pid $who)"
	check "sprite-relay of $who killed: and comes home" until_true 10 hop home
	as sprite ws1 touch $JD/stop
	same "sprite-relay of $who killed: and ends as it would" 6 "$(job_status 60)"
	pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; sleep 1; until [ -e stop ]; do sleep 0.02; done; echo done"; echo $? >rc.new) | cat >out; mv rc.new rc'
	check "sprite-relay of $who killed: the next job has a new one" until_true 10 hop ws2
	as sprite ws1 touch $JD/stop
	same "sprite-relay of $who killed: and is heard" "0 done" "$(job_status 60) $(on ws1 cat $JD/out)"
done
# One that does not answer is not waited for without end, on neither side: the move fails, and all goes on as it was.
pipeline '(sh -c "echo \$\$ >pid.new; mv pid.new pid; exec python3 count.py"; echo $? >rc.new) | cat >out; mv rc.new rc'
on ws2 kill -STOP "$(relay_pid ws2)"
refused "sprite-relay of ws2 stands: nothing moves there" 1 "does not answer" hop ws2
check "and it goes on at home" until_true 20 has_lines $(($(lines) + 20))
on ws2 kill -CONT "$(relay_pid ws2)"
check "then it does" until_true 20 hop ws2
on ws2 kill -STOP "$(relay_pid ws2)"
refused "nor does anything come home from there" 1 "does not answer" hop home
on ws2 kill -CONT "$(relay_pid ws2)"
check "then it comes" until_true 20 hop home
as sprite ws1 touch $JD/stop
same "its exit status, and all lines" "3 all" "$(job_status 60) $(in_order)"
# Nothing of it is left where there is no migd and no job away.
for n in ws1 ws2; do
	lab kill $n migd TERM >/dev/null
	check "$n without migd: no sprite-relay is left" until_true 10 eval "[ -z \"\$(relay_pid $n)\" ]"
	again $n
done
finish
