# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# long: yes
# (With LONG=1: each side and the link alone, too, again and again.)
# A server is away when migd is killed on either side and the link is cut: its connections go on, no answer is lost or doubled, new ones come in; when who keeps the ends is
# killed they break, and new ones come in after the next move. Then nothing is left of a hundred connections.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/relay_kills.sh"
lab_up -n 3
job_dir
PORT=7001
LONG=${LONG:-} STEP=10 SPREAD=50
cat >"$TMP/serve.py" <<'PY'
# Counts for each connection; b"end" closes.
import os, socket, sys, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", int(sys.argv[1]))); s.listen(50)
def serve(c):
    n = 0
    try:
        f = c.makefile("rb")
        for line in f: n += 1; c.sendall(b"%d %s" % (n, line))
    except OSError as e: pass
    f.close(); c.close()
print("ready", flush=True)
while True: threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
PY
cat >"$TMP/ask.py" <<'PY'
# ask.py HOST PORT: one line after the other, each answered once
import os, socket, sys
try:
    c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); f = c.makefile("rb"); n = 0
    while not os.path.exists("stop"):
        n += 1; line = b"%d%s\n" % (n, b"." * (70000 if n % 50 == 0 else 0)); c.sendall(line); got = f.readline()
        if not got: print("end after", n); sys.exit(2)
        assert got == b"%d %s" % (n, line), (n, got[:60])
        if n % 10 == 0: print(n, flush=True)
    c.shutdown(socket.SHUT_WR); assert f.read() == b""
    print("well", flush=True)
except ConnectionError as e: print(type(e).__name__, flush=True)
PY
for f in serve.py ask.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
lines() { wc -l <"$TMP/ask"; }
asks() { as sprite ws3 timeout 120 sh -c "cd $JD && exec python3 ask.py ws1 $PORT" >"$TMP/ask" 2>&1 </dev/null & ASK=$!; }
job "python3 serve.py $PORT"; until_true 20 on ws1 grep -q ready $JD/out
asks; until_true 20 has_lines 2
check "it goes away" until_true 10 hop ws2
for who in ${LONG:+ws1 ws2 cut} "ws1 ws2 cut"; do
	# shellcheck disable=SC2086
	breaks "$who" $who
done
check "and on to a third" until_true 10 hop ws3
check "its client goes on" until_true 30 has_lines $(($(lines) + 20))
check "and home and away" eval 'until_true 10 hop home && until_true 10 hop ws2'
as sprite ws1 touch $JD/stop
wait $ASK; same "each line answered once" well "$(tail -1 "$TMP/ask")"
as sprite ws1 rm -f $JD/stop

# Many come and go: the ends are gone with them.
fds() { on "$1" sh -c "ls /proc/$(relay_pid "$1")/fd | wc -l"; }
many() { as sprite ws3 timeout 60 python3 -c '
import socket, sys
for i in range(10):
    v = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for k in range(10)]
    for k, c in enumerate(v): c.sendall(b"x%d\n" % k)
    for k, c in enumerate(v): assert c.makefile("rb").readline() == b"1 x%d\n" % k
    for c in v: c.close()
' ws1 $PORT; }
many; settled() { [ "$(fds ws1) $(fds ws2)" = "$was" ]; }
was="$(fds ws1) $(fds ws2)"; until_true 5 eval '[ "$(fds ws1)" -lt 30 ] && [ "$(fds ws2)" -lt 30 ]'; was="$(fds ws1) $(fds ws2)"
check "a hundred connections" many
check "leave nothing behind (descriptors of sprite-relay: $was)" until_true 10 settled || note "$(fds ws1) $(fds ws2)"

# Who keeps the ends is killed.
for who in ws2 ws1; do
	asks; until_true 20 has_lines 2
	on $who kill -9 "$(relay_pid $who)"
	[ $who = ws1 ] || check "sprite-relay of $who is killed: it can move on" until_true 20 hop ws3 # then its client hears of it
	wait $ASK; same "sprite-relay of $who is killed: a connection breaks" ConnectionResetError "$(tail -1 "$TMP/ask")"
	check "sprite-relay of $who is killed: it can come home" until_true 20 hop home
	asks; until_true 20 has_lines 2
	check "sprite-relay of $who is killed: it takes connections again" until_true 10 has_lines 3
	as sprite ws1 touch $JD/stop
	wait $ASK; same "sprite-relay of $who is killed: and answers them" well "$(tail -1 "$TMP/ask")"
	as sprite ws1 rm -f $JD/stop
	check "sprite-relay of $who is killed: away again" until_true 10 hop ws2
done
on ws1 kill "$JOB"; job_status 20 >/dev/null
check "nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
finish
