# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 900
# long: yes
# A thousand moves in a row of one process: it is what it was, and nothing has grown, in it, in its hollow and in the daemons. MOVES=N: so many.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
N=${MOVES:-1000}
as sprite ws1 sh -c "cat >$JD/work.py" <<'P'
import hashlib, os, signal, sys, threading, time
end = threading.Event()
signal.signal(signal.SIGTERM, lambda *a: end.set())
turns = [0] * 4
def work(i): # each turn checks what the turn before left
    sums = b""
    while not end.is_set():
        sums = hashlib.sha256(sums + bytes([i])).digest(); turns[i] += 1
        if turns[i] % 20 == 0: time.sleep(0.002)
    again = b""
    for n in range(turns[i]): again = hashlib.sha256(again + bytes([i])).digest()
    if again != sums: print("thread", i, "differs", flush=True); os._exit(1)
ts = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in ts: t.start()
f = open("log", "a")
while not end.wait(0.01): f.write(".\n"); f.flush()
for t in ts: t.join()
print("PASS", flush=True)
P
cat >"$TMP/moves.py" <<'P'
# moves.py N PID: so many moves, away and home by turns; prints the milliseconds that each took as a whole
import json, socket, sys
for i in range(int(sys.argv[1])):
    s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/migd.sock")
    rq = {"verb": "home", "pid": int(sys.argv[2])} if i % 2 else {"verb": "move", "pid": int(sys.argv[2]), "host": "ws2"}
    s.sendall((json.dumps(rq) + "\n").encode())
    for line in s.makefile():
        r = json.loads(line)
        if "ok" in r:
            if not r["ok"]: sys.exit("move %d: %s" % (i, r))
            print(r["total_us"] / 1000); break
P
on ws1 sh -c 'cat >/tmp/moves.py' <"$TMP/moves.py"
moves() { on ws1 python3 /tmp/moves.py $1 "$JOB" >"$TMP/ms.$2" 2>"$TMP/err" || { tail -n 1 "$TMP/err" >&2; return 1; }; }
median_of() { sort -n "$TMP/ms.$1" | awk '{ v[NR] = $1 } END { printf "%.1f", v[int((NR + 1) / 2)] }'; }
# of a process: maps, descriptors, threads
holds() { sh_on ws1 'echo $(wc -l </proc/$1/maps) $(ls /proc/$1/fd | wc -l) $(ls /proc/$1/task | wc -l)' "$JOB"; }
# of a daemon: descriptors, threads, kB
figures() { sh_on $1 'p=$(pgrep -o -x '$2'); echo $(ls -l /proc/$p/fd | grep -vc -e "/status\$" -e "(deleted)\$") $(ls /proc/$p/task | wc -l) $(awk "/VmRSS/ { print \$2 }" /proc/$p/status)'; }
job "exec python3 work.py"
until_true 20 on ws1 test -s $JD/log
check "the first hundred" moves 100 first
first=$(holds)
declare -A before
WHO=("ws1 migd" "ws2 migd" "ws1 spritefs" "ws2 spritefs" "ws1 spritefsd" "fs1 spritefsd")
for w in "${WHO[@]}"; do before[$w]=$(figures $w); done
check "all but a hundred" moves $((N - 200)) most
for w in "${WHO[@]}"; do read -r _ _ kb <<<"$(figures $w)"; before[$w]+=" $kb"; done
check "the last hundred" moves 100 last
same "maps, descriptors and threads of the process" "$first" "$(holds)"
for w in "${WHO[@]}"; do
	read -r f0 t0 r0 rm <<<"${before[$w]}"; read -r f1 t1 r1 <<<"$(figures $w)"
	check "$w: descriptors $f0 -> $f1" test $((f1 - f0)) -le 3
	check "$w: threads $t0 -> $t1" test $((t1 - t0)) -le 3
	[ -n "${ASAN_OPTIONS:-}" ] || check "$w: memory $r0, $rm, $r1 kB after a hundred, all but a hundred, all" test $((r1 - r0)) -le 6000
done
note "whole moves, medians: the first hundred $(median_of first) ms, the last $(median_of last) ms"
on ws1 kill -TERM "$JOB"
same "it ends as it should" 0 "$(job_status 120)"
same "and all its threads have counted right" PASS "$(on ws1 tail -n 1 $JD/out)"
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ]'
finish
