# SPDX-License-Identifier: Apache-2.0
# lab: shared
# fcntl(2) locks of two and of three nodes that wait for each other in a circle: who would close it is told EDEADLK, and the others get what they wait for when he lets go.
. "$(dirname "$0")/lib.sh"
D=/sprite/deadlock.$$
on ws1 mkdir -m 777 $D
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT
# HAS WANTS: locks one, waits for a line, asks for the other and waits for that; what came of it; with a line more it ends
cat >"$TMP/lock.py" <<'PY'
import errno, fcntl, os, sys
has, wants = (os.open(f, os.O_RDWR | os.O_CREAT, 0o666) for f in sys.argv[1:3])
fcntl.lockf(has, fcntl.LOCK_EX)
print("has", os.getpid(), flush=True)
sys.stdin.readline()
try:
    fcntl.lockf(wants, fcntl.LOCK_EX)
    print("got", flush=True)
except OSError as e:
    print("EDEADLK" if e.errno == errno.EDEADLK else e, flush=True)
sys.stdin.readline()
PY
declare -A FD
begin() { # NODE HAS WANTS
	mkfifo "$TMP/in.$1"
	on $1 python3 -c "$(cat "$TMP/lock.py")" $D/$2 $D/$3 <"$TMP/in.$1" >"$TMP/out.$1" 2>&1 &
	exec {fd}>"$TMP/in.$1"; FD[$1]=$fd
	until_true 20 grep -q has "$TMP/out.$1" || flunk "$1 has $2"
}
tell() { echo >&${FD[$1]}; }
ends() { tell $1; exec {FD[$1]}>&-; rm "$TMP/in.$1"; }
said() { until_true 20 sh -c "[ \$(wc -l <$TMP/out.$1) = 2 ]"; tail -1 "$TMP/out.$1"; }
waiting() { on fs1 spritefsd --status | python3 -c 'import json, sys; print(json.load(sys.stdin)["locks"]["waiting"])'; }
wait_in_queue() { until_true 20 eval "[ \$(waiting) = $1 ]" || flunk "$1 wait at the server"; }

begin ws1 a b; begin ws2 b a
tell ws1; wait_in_queue 1
tell ws2
same "two nodes: the second is told" EDEADLK "$(said ws2)"
same "the first goes on waiting" 1 "$(wc -l <"$TMP/out.ws1")"
ends ws2
same "and gets it" got "$(said ws1)"
ends ws1; wait
begin ws1 a b; begin ws2 b c; begin ws3 c a
tell ws1; wait_in_queue 1
tell ws2; wait_in_queue 2
tell ws3
same "three nodes: the third is told" EDEADLK "$(said ws3)"
ends ws3
same "the second gets it" got "$(said ws2)"
ends ws2
same "then the first" got "$(said ws1)"
ends ws1; wait
# a circle that is none any more: who waited has been interrupted
begin ws1 a b; begin ws2 b a
tell ws1; wait_in_queue 1
exec {FD[ws1]}>&-
on ws1 kill $(awk '{ print $2 }' "$TMP/out.ws1"); wait_in_queue 0
rm "$TMP/in.ws1"
tell ws2
same "who has gone is in nobody's way" got "$(said ws2)"
ends ws2; wait
finish
