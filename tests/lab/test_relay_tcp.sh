# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 300
# A server moves away from under its clients (redis, http, and one of our own): connections that are there go on, new ones come in, names are those of home; ends, breaks,
# back-pressure; then home, with everything. What cannot be carried is refused by name.
. "$(dirname "$0")/lib.sh"
job_dir
PORT=$((20000 + RANDOM % 10000)); PORT2=$((PORT + 1))
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/incr.py" <<'PY'
# incr.py HOST PORT: one connection, one INCR after the other; each answer is the next number. Ends when ./stop is there.
import os, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); f = s.makefile("rb"); n = 0
print("name", s.getsockname()[0] + ":" + str(s.getsockname()[1]), flush=True)
while not os.path.exists("stop"):
    k = n % 7 + 1 # several under way
    s.sendall(b"INCR n\r\n" * k)
    for i in range(k):
        n += 1; line = f.readline()
        assert line == b":%d\r\n" % n, (n, line)
    if n % 20 < 7: print(n, flush=True)
print("well", flush=True)
PY
cat >"$TMP/serve.py" <<'PY'
# serve.py PORT: a thread for each connection, which does what its first line says
import os, select, socket, struct, sys, threading, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", int(sys.argv[1]))); s.listen(5)
def until(name):
    while not os.path.exists(name): time.sleep(0.02)
def serve(c):
    f = c.makefile("rb"); verb = f.readline().decode().strip()
    if verb == "count": # until the end of what comes; then a last word
        n = len(f.read()); c.sendall(b"%d\n" % n)
    elif verb == "flood": # more than fits anywhere. full: nobody has taken anything for a second
        for i in range(1, 40001):
            if not select.select([], [c], [], 1)[1]: open("full", "w").close()
            c.sendall(b"%02000d\n" % i)
    elif verb == "names":
        c.sendall(repr((c.getsockname(), c.getpeername(), c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), c.family == socket.AF_INET, s.getsockname())).encode() + b"\n")
    elif verb == "broken": # its client goes without a good-bye
        c.sendall(b"yes\n")
        try: r = f.read(1); print("end", r, flush=True)
        except ConnectionResetError: print("reset", flush=True)
    elif verb == "break":
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif verb == "late": # answers only when it is elsewhere again
        c.sendall(b"yes\n"); until("answer"); c.sendall(f.readline())
    f.close(); c.close()
print("ready", flush=True)
while True: threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
PY
cat >"$TMP/ask.py" <<'PY'
# ask.py HOST PORT VERB
import os, socket, struct, sys, time
c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); verb = sys.argv[3]; f = c.makefile("rb")
c.sendall(verb.encode() + b"\n")
if verb == "count":
    for i in range(30): c.sendall(b"x" * 100000)
    c.shutdown(socket.SHUT_WR); print(f.readline().decode().strip(), f.read())
elif verb == "flood":
    for i in range(1, 40001):
        assert int(f.readline()) == i, i
        if i in (1000, 20000):
            print(i, flush=True)
            while not os.path.exists("on%d" % i): time.sleep(0.02)
    print("all", f.read(), flush=True)
elif verb == "names": print(c.getpeername()[0], c.getsockname(), f.readline().decode().strip())
elif verb == "broken":
    f.readline(); f.close(); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close()
elif verb == "break":
    try: print("end", f.read())
    except ConnectionResetError: print("reset")
elif verb == "late":
    f.readline(); c.sendall(b"the answer\n"); print("asked", flush=True); print(f.readline().decode().strip(), f.read(), flush=True)
PY
for f in incr.py serve.py ask.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
ask() { as sprite ws3 timeout 400 sh -c "cd $JD && exec python3 ask.py ws1 $PORT2 $1" 2>&1; }
redis() { as sprite ws3 timeout 400 redis-cli -h ws1 -p $PORT "$@" 2>&1; }
lines() { wc -l <"$TMP/$1"; }
further() { local n; n=$(lines incr); until_true 20 eval "[ \$(lines incr) -gt $((n + 3)) ]"; }

# ---- redis
as sprite ws1 ln -s /usr/bin/redis-check-rdb $JD/redis-server # one program; the package redis-server would start a service here
job "./redis-server --port $PORT --save '' --appendonly no --protected-mode no"
until_true 20 eval '[ "$(redis ping)" = PONG ]' || on ws1 cat $JD/out
as sprite ws3 sh -c "cd $JD; exec python3 incr.py ws1 $PORT" >"$TMP/incr" 2>&1 </dev/null & CLIENT=$!
check "redis: a client counts" further
for where in ws2 ws3 home ws2; do
	check "redis: moves to $where" until_true 10 hop $where || on ws1 cat $JD/err
	check "redis, on $where: its client goes on" further
	same "redis, on $where: another comes" PONG "$(redis ping)"
done
check "redis: sees its client by its name" eval 'redis client list | grep -c "addr=$(awk "/^name/ { print \$2 }" "$TMP/incr") laddr=.*:$PORT " >/dev/null'
as sprite ws1 touch $JD/stop
wait $CLIENT; same "redis: each answer once, in order" well "$(tail -1 "$TMP/incr")"
redis shutdown nosave >/dev/null
same "redis: ends" 0 "$(job_status 20)"

# ---- one in python
said() { on ws1 grep -q "^$1" $JD/out; }
job "python3 serve.py $PORT2"; until_true 20 said ready
as sprite ws1 rm -f $JD/stop
ask late >"$TMP/late" & LATE=$!
until_true 20 grep -q asked "$TMP/late"
check "moves" until_true 10 hop ws2
names=$(ask names)
check "names are those of home ($names)" python3 -c '
import sys
ip, mine, its = sys.argv[1].split(" ", 1)[0], eval(sys.argv[1].split(" ", 1)[1].split(")")[0] + ")"), eval(sys.argv[1].split(") ", 1)[1])
assert its == ((ip, int(sys.argv[2])), mine, 0, True, ("0.0.0.0", int(sys.argv[2]))), its' "$names" $PORT2
same "a client that shuts down its half" "3000000 b''" "$(ask count)"
same "one that is broken off by the server" reset "$(ask break)"
ask broken
check "one that breaks off" until_true 20 said reset
ask flood >"$TMP/flood" & FLOOD=$!
until_true 30 grep -q '^1000$' "$TMP/flood"
until_true 30 on ws1 test -e $JD/full
refused "a client that does not read: as with a pipe" 1 "is not read at its home" hop ws3
as sprite ws1 touch $JD/on1000 $JD/on20000
check "it reads: moves on" until_true 10 hop ws3
check "moves home" until_true 10 hop home
as sprite ws1 touch $JD/answer
wait $FLOOD; same "all came, once, in order, and then the end" "all b''" "$(tail -1 "$TMP/flood")"
wait $LATE; same "the connection of before all moves is answered" "the answer b''" "$(tail -1 "$TMP/late")"
same "at home again: another comes" "3000000 b''" "$(ask count)"
on ws1 kill "$JOB"; job_status 20 >/dev/null

# ---- a download goes on while its server moves
PORT3=$((PORT + 2))
job "python3 -m http.server $PORT3"
as sprite ws1 sh -c "head -c 12000000 /dev/urandom >$JD/big"
sum=$(on ws1 sh -c "md5sum <$JD/big")
get() { as sprite ws3 timeout 400 curl -sS --retry 20 --retry-connrefused --retry-delay 1 "$@" http://ws1:$PORT3/big; }
check "http: moves" until_true 10 hop ws2
get --limit-rate 6M >"$TMP/big" & GET=$!
until_true 20 test -s "$TMP/big"
check "http, while somebody loads: moves on" until_true 10 hop ws3
check "http, while somebody loads: moves home" until_true 10 hop home
wait $GET; same "what he got is whole" "$sum" "$(md5sum <"$TMP/big")"
on ws1 kill "$JOB"; job_status 20 >/dev/null
finish
