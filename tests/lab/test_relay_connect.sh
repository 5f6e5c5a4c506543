# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# Who is away connects to a socket file of its home (an ssh-agent, a syslog): it is answered from there, over moves and back home; who may not is refused, nobody's is refused, and
# one that a member of the family listens at is answered there. Connections that are over leave nothing.
. "$(dirname "$0")/lib.sh"
job_dir
S=/tmp/connect.$$
trap 'kill $SERVER 2>/dev/null; on ws1 sh -c "pkill -f [s]erve.py.$S; rm -rf $JD $S"; rm -rf "$TMP"' EXIT
cat >"$TMP/serve.py" <<'PY'
# serve.py DIR: listens at stream, seq and dgram there; answers who asks, by uid; ends a stream when it is told to
import os, socket, struct, sys, threading
d = sys.argv[1]
def listener(name, type, mode=0o666):
    s = socket.socket(socket.AF_UNIX, type); s.bind(d + "/" + name); os.chmod(d + "/" + name, mode)
    if type != socket.SOCK_DGRAM: s.listen(8)
    return s
def serve(c):
    uid = struct.unpack("iii", c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    while True:
        m = c.recv(70000)
        if m in (b"", b"end"): break
        c.sendall(b"%d %s" % (uid, m))
    c.close()
def accept(s):
    while True: threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
for name, type in (("stream", socket.SOCK_STREAM), ("seq", socket.SOCK_SEQPACKET)):
    threading.Thread(target=accept, args=[listener(name, type)], daemon=True).start()
mine = listener("mine", socket.SOCK_STREAM, 0o600); left = listener("left", socket.SOCK_STREAM); left.close()
log = listener("dgram", socket.SOCK_DGRAM); print("ready", flush=True)
while True: print("log", log.recv(70000).decode(), flush=True)
PY
cat >"$TMP/ask.py" <<'PY'
# ask.py DIR: away, connects and asks; goes on with the same connections until ./stop is there
import os, socket, sys
d, pairs = sys.argv[1], []
def name(f):
    try: return f() or "none"
    except OSError as e: return type(e).__name__
def to(n, type=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, type); s.settimeout(200); s.connect(n); return s
print("mine", name(lambda: to(d + "/mine")), flush=True)
print("left", name(lambda: to(d + "/left")), flush=True)
print("missing", name(lambda: to(d + "/missing")), flush=True)
for own in ("/run/sprite/migd.sock", "/run/../run//sprite/migd.sock"): print("daemon", name(lambda: to(own)), flush=True)
print("type", name(lambda: to(d + "/stream", socket.SOCK_SEQPACKET)), flush=True)
os.chdir(d)
stream, seq, log = to("stream"), to(d + "/seq", socket.SOCK_SEQPACKET), to(d + "/dgram", socket.SOCK_DGRAM)
print("twice", name(lambda: stream.connect(d + "/stream")), flush=True)
os.chdir(sys.argv[2])
own = socket.socket(socket.AF_UNIX); own.bind("own"); own.listen(); c = to("own"); a = own.accept()[0]; a.sendall(b"here"); print("own", c.recv(9).decode(), flush=True)
for i in range(100):
    s = to(d + "/stream"); s.sendall(b"x"); assert s.recv(9) == b"1000 x"; s.close()
print("many", flush=True)
n = 0
while not os.path.exists("stop"):
    n += 1; m = b"%d" % n
    for s in (stream, seq):
        s.sendall(m); assert s.recv(99) == b"1000 " + m, n
    log.send(m)
    if n % 20 == 0: print(n, flush=True)
stream.sendall(b"end"); assert stream.recv(9) == b""
log.send(b"last"); print("well", n, flush=True)
PY
for f in serve.py ask.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
on ws1 mkdir -m 755 $S
"$BIN/sprite-lab" exec ws1 -- python3 $JD/serve.py $S >"$TMP/served" 2>&1 </dev/null & SERVER=$!
until_true 20 grep -q ready "$TMP/served"
said() { on ws1 grep -q "^$1" $JD/out; }
line() { on ws1 grep "^$1 " $JD/out; }
count() { on ws1 sh -c "grep -c '^[0-9]' $JD/out"; }
further() { local n; n=$(count); until_true 20 eval "[ \$(count) -gt $((n + 2)) ]"; }
born() { sh_on ws1 'for p in $(pgrep -x sprite-relay); do ls -l /proc/$p/fd; done | grep -c socket:'; }

job "mig run -H ws2 -- python3 ask.py $S $JD"
check "away, it connects, again and again" until_true 60 said many || on ws1 cat $JD/out $JD/err
same "one that is not its to open" "mine PermissionError" "$(line mine)"
same "one where nobody listens" "left ConnectionRefusedError" "$(line left)"
same "one that is not there" "missing FileNotFoundError" "$(line missing)"
same "one of our own daemons, by whatever path" "daemon ConnectionRefusedError daemon ConnectionRefusedError" "$(line daemon | xargs)"
same "one of another type" "type OSError" "$(line type)"
same "a second time" "twice OSError" "$(line twice)"
same "where one of its own listens, it is that one" "own here" "$(line own)"
check "what is over has been let go of" eval "until_true 20 eval '[ \$(born) -lt 60 ]'" || note "$(born)"
check "it goes on" further
for where in ws3 home ws2; do
	check "moves to $where" until_true 10 hop $where || on ws1 cat $JD/err
	check "and goes on" further
done
as sprite ws1 touch $JD/stop
same "its exit status" 0 "$(job_status 30)" || on ws1 cat $JD/err
n=$(on ws1 awk '/^well/ { print $2 }' $JD/out)
check "each datagram came, once, in order" until_true 20 grep -q 'log last' "$TMP/served"
same "none is missing" "$({ seq 1 "$n"; echo last; } | md5sum)" "$(sed -n 's/^log //p' "$TMP/served" | md5sum)"

# the thing itself
if on ws1 sh -c 'command -v ssh-agent && command -v ssh-keygen' >/dev/null; then
	agent=$(as sprite ws1 ssh-agent -s)
	as sprite ws1 sh -c "$agent >/dev/null; ssh-keygen -q -t ed25519 -N '' -C of-home -f $JD/key && ssh-add -q $JD/key" 2>/dev/null
	check "ssh-add away finds the agent of home, and its key" as sprite ws1 sh -c "$agent >/dev/null; mig run -H ws2 -- ssh-add -l | grep of-home"
	as sprite ws1 sh -c "$agent >/dev/null; ssh-agent -k" >/dev/null
else
	note "no ssh-agent here"
fi
finish
