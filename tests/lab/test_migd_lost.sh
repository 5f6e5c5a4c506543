# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# Signals and ends are on their way while migd is killed, at home, on the guest host, at both: each arrives once, in order, and the parent gets the right status.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/hear.py" <<'PY'
import os, signal, sys
plain = signal.SIGRTMIN + 1
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN, plain, signal.SIGTERM])
print("ready", flush=True)
while True:
    i = signal.sigwaitinfo([signal.SIGRTMIN, plain, signal.SIGTERM])
    if i.si_signo == signal.SIGTERM: sys.exit(7)
    print("kill" if i.si_signo == plain else i.si_status, flush=True)
PY
cat >"$TMP/say.py" <<'PY'
# say.py PID FROM TO: queued signals with a number each, every other one followed by one of kill(2), which its target must send itself
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
class value(ctypes.Union): _fields_ = [("n", ctypes.c_int), ("p", ctypes.c_void_p)]
pid, a, b = map(int, sys.argv[1:])
for n in range(a, b + 1):
    if libc.sigqueue(pid, int(signal.SIGRTMIN), value(n=n)): sys.exit(os.strerror(ctypes.get_errno()))
    if n % 2: os.kill(pid, signal.SIGRTMIN + 1)
    time.sleep(0.002)
PY
for f in hear.py say.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
up() { on "$1" mig ps >/dev/null 2>&1; }
killed() { lab kill "$1" migd KILL >/dev/null; }
again() { until_true 10 lab start "$1" migd; until_true 10 up "$1"; }
heard() { on ws1 sh -c "grep -c '^[0-9]' $JD/out"; }
has_heard() { [ "$(heard)" -ge "$1" ]; }

# round WHO...: they die while 200 signals are sent, five times, and once more while it ends
round() {
	local what="$* killed" n
	job "python3 hear.py"; until_true 10 on ws1 grep -q ready $JD/out
	check "$what: it goes away" until_true 10 hop ws2
	as sprite ws1 python3 $JD/say.py $JOB 1 200 </dev/null >/dev/null 2>&1 & SAY=$!
	for n in 20 60 100 140 180; do
		until_true 30 has_heard $n
		for w; do killed $w; done
		for w; do again $w; done
	done
	wait $SAY
	check "$what: all signals come" until_true 30 has_heard 200 || note "$(heard) came"
	same "$what: each once, in order" "$(seq 200)" "$(on ws1 grep '^[0-9]' $JD/out)"
	check "$what: those of kill(2) too" until_true 30 on ws1 sh -c "[ \$(grep -c kill $JD/out) -ge 100 ]"
	same "$what: each of them once" 100 "$(on ws1 grep -c kill $JD/out)"
	for w; do [ $w = ws2 ] || killed $w; done
	on ws1 kill -TERM $JOB
	for w; do [ $w = ws2 ] || again $w; done
	[[ " $* " != *" ws2 "* ]] || { killed ws2; again ws2; }
	same "$what: exit status" 7 "$(job_status 60)"
	check "$what: nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]' || { residue; on ws1 mig ps; }
}
round ws2
round ws1
round ws1 ws2

# it ends by itself while its host's migd is away: the status waits for the next one
for w in ws2 ws1; do
	job "sh -c 'until [ -e go ]; do sleep 0.05; done; exit 9'"
	check "$w away at the end: it goes away" until_true 10 hop ws2
	killed $w
	on ws1 touch $JD/go
	until_true 20 eval '! runs_on ws2 sh'
	again $w
	same "$w away at the end: exit status" 9 "$(job_status 60)"
	on ws1 rm $JD/go
	check "$w away at the end: nothing is left" until_true 20 eval '[ -z "$(residue)" ]'
done

# a guest's home is cut off, and the file system has forgotten the name of what the guest runs: its host's migd comes up all the same, for the others
on ws1 cp /usr/bin/python3 /sprite/py
job "/sprite/py -c 'import time
while True: time.sleep(0.1)'"
check "a home cut off: its guest goes" until_true 10 hop ws3
forgotten() { # another node changes a name, and this one looks its own up again
	on ws2 touch /sprite/tick; on ws2 rm /sprite/tick; on ws3 stat /sprite/py
	sh_on ws3 "grep -qs '/py (deleted)' /proc/[0-9]*/maps"
}
check "a home cut off: a name is forgotten there" until_true 20 eval "forgotten >/dev/null 2>&1"
lab cut ws1 ws3
killed ws3
check "a home cut off: the guest host's migd comes up" timeout 60 "$BIN/sprite-lab" start ws3 migd
check "a home cut off: and serves" until_true 10 up ws3
lab heal ws1 ws3
on ws1 kill -TERM $JOB
same "a home cut off: the guest is found again" 143 "$(job_status 60)"
check "a home cut off: nothing is left" until_true 20 eval '[ -z "$(residue)" ]'
# a guest that nobody here knows any more: the journal of its host is lost
keepers() { sh_on ws2 'for p in $(pgrep -x sprite-keeper); do awk -v p=$p "/^NSpid:/ && \$NF == 1 && NF > 2 { print p }" /proc/$p/status; done'; }
job "python3 hear.py"; until_true 10 on ws1 grep -q ready $JD/out
check "journal lost: it goes away" until_true 10 hop ws2
killed ws2; on ws2 rm -f /var/lib/sprite/migd.journal
check "journal lost: its nest is there" test -n "$(keepers)"
again ws2
same "journal lost: its nest is ended before migd serves" "" "$(keepers)"
same "journal lost: and its home sees it killed" 137 "$(job_status 60)"
# the disk of a guest host is full: what its migd could not find again does not come in, and what is there is noted when there is room
killed ws2; on ws2 sh -c 'mkdir /tmp/keep; cp -a /var/lib/sprite/. /tmp/keep/; mount -t tmpfs -o size=256k none /var/lib/sprite; cp -a /tmp/keep/. /var/lib/sprite/'; again ws2
job "python3 hear.py"; until_true 10 on ws1 grep -q ready $JD/out
check "disk full: it goes away" until_true 10 hop ws2
on ws2 sh -c 'dd if=/dev/zero of=/var/lib/sprite/fill bs=4k' >/dev/null 2>&1
full() { mig home $JOB >/dev/null; mig move -H ws2 $JOB >"$TMP/full" 2>&1 && return 1; grep -q "ws2: its journal cannot be written: No space left" "$TMP/full"; }
check "disk full: it is refused in words" until_true 20 full || note "$(cat "$TMP/full")"
check "disk full: and runs on at home" runs_on ws1 python3
on ws2 rm /var/lib/sprite/fill
check "disk full: with room it goes" until_true 10 hop ws2
killed ws2; again ws2
on ws1 kill -TERM $JOB
same "disk full: and is found again" 7 "$(job_status 60)"
finish
