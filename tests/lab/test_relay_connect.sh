# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# Who is away connects to a socket file of its home (an ssh-agent, a syslog): it is answered from there, over moves and back home; who may not is refused, nobody's is refused, and
# one that a member of the family listens at is answered there. Connections that are over leave nothing. So are datagrams that are sent to one without a connection (a service manager's
# notifications): once, in order, from whom they are.
. "$(dirname "$0")/lib.sh"
job_dir
S=/tmp/connect.$$
trap 'kill $SERVER 2>/dev/null; on ws1 sh -c "pkill -f [s]erve.py.$S; rm -rf $JD $S"; rm -rf "$TMP"' EXIT
cat >"$TMP/serve.py" <<'PY'
# serve.py DIR: listens at stream, seq and dgram there; answers who asks, by uid; ends a stream when it is told to
import os, socket, struct, sys, threading, time
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
def notes(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    while True:
        m, c = s.recvmsg(70000, 999)[:2]; print("note", *struct.unpack("iii", c[0][2])[:2], m.decode(), flush=True)
threading.Thread(target=notes, args=[listener("notify", socket.SOCK_DGRAM)], daemon=True).start()
def slow(s):
    while not os.path.exists(d + "/read"): time.sleep(0.05)
    while True: print("slow", s.recv(99).decode(), flush=True)
threading.Thread(target=slow, args=[listener("slow", socket.SOCK_DGRAM)], daemon=True).start()
private = listener("private", socket.SOCK_DGRAM, 0o600)
gone = listener("gone", socket.SOCK_DGRAM); gone.close()
log = listener("dgram", socket.SOCK_DGRAM); print("ready", flush=True)
while True: print("log", log.recv(70000).decode(), flush=True)
PY
cat >"$TMP/ask.py" <<'PY'
# ask.py DIR: away, connects and asks; goes on with the same connections until ./stop is there
import array, ctypes, os, socket, struct, sys
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
S = socket; o = S.socket(S.AF_UNIX); o.settimeout(200)
for k, v in ((S.SO_RCVLOWAT, 2), (S.SO_KEEPALIVE, 1), (S.SO_PRIORITY, 5), (S.SO_SNDBUF, 50000), (S.SO_RCVBUF, 60000)): o.setsockopt(S.SOL_SOCKET, k, v)
for k in (S.SO_RCVTIMEO, S.SO_SNDTIMEO): o.setsockopt(S.SOL_SOCKET, k, struct.pack("ll", k, 0))
def options(): return [o.getsockopt(S.SOL_SOCKET, k) for k in (S.SO_RCVLOWAT, S.SO_KEEPALIVE, S.SO_PRIORITY, S.SO_SNDBUF, S.SO_RCVBUF)] + [o.getsockopt(S.SOL_SOCKET, k, 16) for k in (S.SO_RCVTIMEO, S.SO_SNDTIMEO)]
was = options(); o.connect(d + "/stream"); print("options", "stay" if options() == was else (was, options()), flush=True); o.close()
os.chdir(sys.argv[2])
own = socket.socket(socket.AF_UNIX); own.bind("own"); own.listen(); c = to("own"); a = own.accept()[0]; a.sendall(b"here"); print("own", c.recv(9).decode(), flush=True)
for i in range(100):
    s = to(d + "/stream"); s.sendall(b"x"); assert s.recv(9) == b"1000 x"; s.close()
print("many", flush=True)
u = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
print("pid", os.getpid(), flush=True)
for f in ("private", "gone", "none", "stream", "../../run/sprite/migd.sock"): print("send", f, name(lambda: u.sendto(b"x", d + "/" + f)), flush=True)
try: u.sendto(bytes(40000), d + "/notify")
except OSError as e: print("big", os.strerror(e.errno), flush=True)
try: u.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))], 0, d + "/notify")
except OSError as e: print("rights", os.strerror(e.errno), flush=True)
bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); bound.bind("bound")
try: bound.sendto(b"x", d + "/notify")
except OSError as e: print("bound", os.strerror(e.errno), flush=True)
u.sendto(b"here", "bound"); print("here", bound.recv(9).decode(), flush=True)
print("sent", u.sendto(b"one", d + "/notify"), u.sendto(b"", d + "/notify"), flush=True)
os.chdir(d); print("sent", u.sendmsg([b"in ", b"two", b" parts"], [], 0, "notify"), flush=True); os.chdir(sys.argv[2])
print("sent", u.sendmsg([b"by me"], [(socket.SOL_SOCKET, 2, struct.pack("iii", os.getpid(), os.getuid(), os.getgid()))], 0, d + "/notify"), flush=True)
print("forged", name(lambda: u.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, struct.pack("iii", 1, 0, 0))], 0, d + "/notify")), flush=True)
class Iov(ctypes.Structure): _fields_ = [("p", ctypes.c_char_p), ("n", ctypes.c_size_t)]
class Hdr(ctypes.Structure): _fields_ = [("name", ctypes.c_void_p), ("len", ctypes.c_uint), ("iov", ctypes.POINTER(Iov)), ("iovs", ctypes.c_size_t), ("c", ctypes.c_void_p), ("clen", ctypes.c_size_t), ("flags", ctypes.c_size_t), ("sent", ctypes.c_uint)]
to = struct.pack("H", socket.AF_UNIX) + (d + "/notify").encode() + b"\0"; to = ctypes.create_string_buffer(to, len(to))
h = (Hdr * 3)(*[Hdr(ctypes.addressof(to), len(to), ctypes.pointer(Iov(b"m%d" % i, 2)), 1) for i in range(3)]); at = 0
while at < 3:
    k = ctypes.CDLL(None, use_errno=True).sendmmsg(u.fileno(), ctypes.byref(h, at * ctypes.sizeof(Hdr)), 3 - at, 0); assert k > 0, os.strerror(ctypes.get_errno()); at += k
print("each", *[x.sent for x in h], flush=True)
u.setblocking(False); k = 0
try:
    while k < 5000: u.sendto(b"%d" % k, d + "/slow"); k += 1
except BlockingIOError: pass
u.setblocking(True); open("full", "w").close()
u.sendto(b"%d" % k, d + "/slow"); print("waited", k, flush=True)
n = 0
while not os.path.exists("stop"):
    n += 1; m = b"%d" % n
    u.sendto(m, d + "/notify")
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
same "what was set on the socket before" "options stay" "$(line options)"
same "one that is not there" "missing FileNotFoundError" "$(line missing)"
same "one of our own daemons, by whatever path" "daemon ConnectionRefusedError daemon ConnectionRefusedError" "$(line daemon | xargs)"
same "one of another type" "type OSError" "$(line type)"
same "a second time" "twice OSError" "$(line twice)"
same "where one of its own listens, it is that one" "own here" "$(line own)"
until_true 20 on ws1 test -e $JD/full; sleep 0.2; on ws1 touch $S/read
check "who sends waits for room" until_true 20 said waited
same "datagrams: one that is not its to send to, nobody's, none, no such socket" "send private PermissionError send gone ConnectionRefusedError send none FileNotFoundError send stream OSError" "$(line send | head -4 | xargs)"
same "by our own daemons none is taken" "send ../../run/sprite/migd.sock OSError" "$(line send | tail -1)"
same "what cannot be carried is refused" "big Message too long rights Operation not supported bound Operation not supported" "$(line big) $(line rights) $(line bound)"
check "the home's log says why" sh_on ws1 'grep -q "datagram for $1/notify cannot be sent from another host: it carries descriptors" /var/log/sprite/migd.log' $S
same "where one of its own has the name, it is that one" "here here" "$(line here)"
same "what is sent" "sent 3 0 sent 12 sent 5 each 2 2 2" "$(line sent | xargs) $(line each)"
same "who sends is not what one likes" "forged PermissionError" "$(line forged)"
P=$(line pid | cut -d' ' -f2)
noted() { sed -n "s/^note $P 1000 //p" "$TMP/served"; }
check "it has come, from whom it is" until_true 20 eval '[ "$(noted | head -7 | xargs)" = "one in two parts by me m0 m1 m2" ]' || noted | head
k=$(line waited | cut -d' ' -f2)
check "and what waited, in order" until_true 20 eval '[ "$(sed -n "s/^slow //p" "$TMP/served" | md5sum)" = "$(seq 0 $k | md5sum)" ]' || note "of $k: $(grep -c ^slow "$TMP/served")"
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

same "of those sent without a connection none is missing, doubled or out of order" "$(seq 1 "$n" | md5sum)" "$(noted | tail -n +8 | md5sum)"

# clients of others
as sprite ws1 mig run -H ws2 -- logger -d -u $S/notify by logger
check "logger" until_true 20 grep -q '^note .*by logger' "$TMP/served"
if on ws1 sh -c 'command -v systemd-notify' >/dev/null; then
	as sprite ws1 sh -c "NOTIFY_SOCKET=$S/notify mig run -H ws2 -- systemd-notify --ready --status=away"
	check "sd_notify(3)" until_true 20 grep -q '^note .* 1000 READY=1' "$TMP/served" || tail -3 "$TMP/served"
fi

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
