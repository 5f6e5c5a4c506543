# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# kill -9 of the file server at random moments, while two nodes create, rename, link, append and lock: programs only wait; nothing fails, nothing is done twice, nothing is
# lost, and no lock changes hands.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
KILLS=${KILLS:-5}
cat >"$TMP/work.py" <<'PY'
import fcntl, os, sys, time
me, d, stop = sys.argv[1], "/sprite/k", "/sprite/k.stop"
os.makedirs(d, exist_ok=True)
log = os.open(d + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
count = os.open(d + "/count", os.O_RDWR | os.O_CREAT, 0o666)
n = 0
while not os.path.exists(stop):
    p = "%s/%s.%d" % (d, me, n)
    f = os.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL); os.write(f, b"hello %d" % n); os.close(f)
    os.rename(p, p + "r"); os.link(p + "r", p + "l"); os.mkdir(p + "d"); os.rmdir(p + "d"); os.unlink(p + "l")
    with open(p + "r") as f: assert f.read() == "hello %d" % n, "content of " + p
    os.unlink(p + "r")
    os.write(log, b"%s %d\n" % (me.encode(), n))
    fcntl.lockf(count, fcntl.LOCK_EX)
    v = int(os.pread(count, 20, 0) or b"0"); os.pwrite(count, b"%d" % (v + 1), 0)
    fcntl.lockf(count, fcntl.LOCK_UN)
    n += 1
print(n)
PY
# One who holds a lock through it all, and one who wants it.
on ws1 sh -c ': >/sprite/held'
mkfifo "$TMP/in"
exec 9<>"$TMP/in" # never written: it holds until it is killed
"$BIN/sprite-lab" exec ws1 -- flock /sprite/held sh -c 'echo locked; read x' <"$TMP/in" >"$TMP/held" 2>&1 &
holder=$!
until_true 10 grep -q locked "$TMP/held" || flunk "the lock is taken"
for i in 1 2; do on ws$i timeout 200 python3 - ws$i <"$TMP/work.py" >"$TMP/n.$i" 2>"$TMP/err.$i" & pids="${pids:-} $!"; done
for k in $(seq $KILLS); do
	sleep 0.$((RANDOM % 9))$((RANDOM % 9))
	sleep 1
	until_true 10 lab kill fs1 spritefsd KILL
	sleep 0.$((RANDOM % 5))
	until_true 10 lab start fs1 spritefsd || flunk "the server starts again"
	[ $k = 2 ] && refused "who wants the lock does not get it" 1 '^$' on ws2 flock -n /sprite/held true
done
sleep 1
on ws2 sh -c ': >/sprite/k.stop'
for p in $pids; do wait $p; done
same "no call has failed" "" "$(cat "$TMP"/err.*)"
total=$(($(cat "$TMP/n.1" 2>/dev/null) + $(cat "$TMP/n.2" 2>/dev/null)))
check "there was work done ($total rounds)" test $total -gt 50
same "each line appended once" "$total $total" "$(sh_on ws2 'echo $(wc -l </sprite/k/log) $(sort /sprite/k/log | uniq | wc -l)')"
same "a counter under a lock counts" "$total" "$(on ws1 cat /sprite/k/count)"
same "nothing is left over" "count log" "$(sh_on ws2 'echo $(ls /sprite/k)')"
kill $holder 2>/dev/null
finish
