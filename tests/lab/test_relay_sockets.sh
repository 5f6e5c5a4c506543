# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 400
# A process is away, the other end of its unix socket stays: what they say arrives once and in order, over moves; half-close, back-pressure, a peer that ends; back at
# home the socket (and a pipe) is the very one that it was. What cannot be relayed is refused by name before anything stops.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/stay.py" <<'PY'
# stay.py: listens at ./sock; does with each connection what its first line says
import array, os, socket, sys, threading, time
def serve(c):
    f = c.makefile("rb"); verb = f.readline().decode().split()
    if verb[0] == "echo": # until the end of what comes, then a last word
        n = 0
        for line in f: n += 1; c.sendall(line)
        c.sendall(b"bye %d\n" % n)
    elif verb[0] == "slow": # reads nothing until ./read is there
        while not os.path.exists("read"): time.sleep(0.02)
        n = 0
        for line in f:
            n += 1
            if int(line.split()[0]) != n: c.sendall(b"out of turn: %d\n" % n); return
        c.sendall(b"all %d\n" % n)
    elif verb[0] == "flood": # more than fits anywhere, then goes away
        for i in range(1, 200001): c.sendall(b"%d\n" % i)
    elif verb[0] == "pass":
        while not os.path.exists("away"): time.sleep(0.02)
        try: socket.send_fds(c, [b"with one\n"], [0]); c.sendall(b"sent\n")
        except PermissionError: c.sendall(b"refused\n")
        assert f.readline() == b"home\n"
        socket.send_fds(c, [b"one\n"], [0])
    c.close()
s = socket.socket(socket.AF_UNIX); s.bind("/tmp/" + sys.argv[1]); s.listen(8); print("ready", flush=True)
while True: threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
PY
cat >"$TMP/go.py" <<'PY'
# go.py SOCK VERB: what the one that moves says and hears
import os, select, socket, sys, time
c = socket.socket(socket.AF_UNIX); c.connect("/tmp/" + sys.argv[1]); verb = sys.argv[2]
def until(name):
    while not os.path.exists(name): time.sleep(0.02)
c.sendall(verb.encode() + b"\n"); f = c.makefile("rb"); print("ready", flush=True)
if verb == "echo":
    n = 0
    while not os.path.exists("stop"):
        n += 1; c.sendall(b"%d\n" % n)
        if n % 50 == 0: # two and more under way
            for k in range(5): n += 1; c.sendall(b"%d\n" % n)
            for k in range(5): assert int(f.readline()) == n - 5 + k
        assert int(f.readline()) == n, n
        if n % 20 == 0: print(n, flush=True)
    c.shutdown(socket.SHUT_WR)
    assert f.readline() == b"bye %d\n" % n and f.readline() == b""
elif verb == "slow":
    until("away")
    c.setblocking(False); n = sent = 0; out = b""
    while n < 400000: # it blocks long before
        if not out: n += 1; out = b"%d %s\n" % (n, b"." * 60)
        try: k = c.send(out); out = out[k:]; sent += k
        except BlockingIOError:
            if not select.select([], [c], [], 4)[1]: break
    print("blocked", sent, flush=True)
    c.setblocking(True); c.sendall(out); c.shutdown(socket.SHUT_WR); assert f.readline() == b"all %d\n" % n
elif verb == "flood":
    until("away")
    for i in range(1, 200001):
        assert int(f.readline()) == i
        if i in (1000, 100000): print(i, flush=True); until("on%d" % i)
    assert f.readline() == b""
    try:
        while True: c.sendall(b"x")
    except BrokenPipeError: pass
elif verb == "pass":
    until("away")
    try: socket.send_fds(c, [b"with one\n"], [0]); print("sent")
    except PermissionError: pass
    assert c.recv(9) == b"refused\n"; print("refused", flush=True)
    until("on1"); c.sendall(b"home\n")
    m, fds, *_ = socket.recv_fds(c, 9, 1); assert m == b"one\n" and len(fds) == 1
print("well", flush=True)
PY
for f in stay.py go.py; do as sprite ws1 sh -c "cat >$JD/$f" <"$TMP/$f"; done
S=relay.$$.sock
"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "cd $JD; exec python3 stay.py $S" >"$TMP/stay" 2>&1 </dev/null & STAY=$!
trap 'kill $STAY 2>/dev/null; on ws1 sh -c "pkill -f [s]tay.py.$S; rm -rf $JD /tmp/$S"; rm -rf "$TMP"' EXIT
until_true 20 grep -q ready "$TMP/stay"
said() { on ws1 grep -q "^$1" $JD/out; }
count() { on ws1 sh -c "grep -c '^[0-9]' $JD/out"; }
further() { local n; n=$(count); until_true 20 eval "[ \$(count) -gt $((n + 2)) ]"; }
inode() { on ws1 readlink /proc/$JOB/fd/3; }
begin() { as sprite ws1 sh -c "cd $JD; rm -f stop read away on*"; job "python3 go.py $S $1"; until_true 20 said ready; }
end() { same "$1: its exit status" 0 "$(job_status 30)" || on ws1 cat $JD/err; check "$1: all was as it should be" said well; }

begin echo
was=$(inode)
for where in ws2 ws3 home ws2 home; do
	check "talk: moves to $where" until_true 10 hop $where
	check "talk: goes on" further
done
same "talk: back at home its socket is the one it was" "$was" "$(inode)"
check "talk: and away again" until_true 10 hop ws3
as sprite ws1 touch $JD/stop
end talk

begin slow
check "back-pressure: moves" until_true 10 hop ws2
as sprite ws1 touch $JD/away
check "back-pressure: it blocks" until_true 30 said blocked
n=$(on ws1 awk '/blocked/ { print $2 }' $JD/out)
check "back-pressure: after less than 2 MB ($n bytes)" test "$n" -lt 2000000
refused "back-pressure: cannot move now" 1 "is not read at its home" hop ws3
as sprite ws1 touch $JD/read
end back-pressure

begin flood
check "a peer that ends: moves" until_true 10 hop ws2
as sprite ws1 touch $JD/away
check "a peer that ends: reads" until_true 20 said 1000
check "a peer that ends: on with what waits unread" until_true 10 hop ws3
as sprite ws1 touch $JD/on1000
check "a peer that ends: reads" until_true 20 said 100000
check "a peer that ends: home with what waits unread" until_true 10 hop home
as sprite ws1 touch $JD/on100000
end "a peer that ends"

begin pass
check "a descriptor that is sent: moves" until_true 10 hop ws2
as sprite ws1 touch $JD/away
check "a descriptor that is sent: is refused, both ways" until_true 20 said refused
check "a descriptor that is sent: moves home" until_true 10 hop home
as sprite ws1 touch $JD/on1
end "a descriptor that is sent: at home it arrives"

# What is set on it while it is away, or taken back, is so at home: it is the same socket for who has it.
as sprite ws1 sh -c "cat >$JD/sets.py" <<'PY'
import os, socket, struct, sys, time
S = socket; c = S.socket(S.AF_UNIX); c.connect("/tmp/" + sys.argv[1]); c.sendall(b"echo\n"); c.setsockopt(S.SOL_SOCKET, S.SO_PRIORITY, 3)
def now(): return [c.getsockopt(S.SOL_SOCKET, o) for o in (S.SO_RCVLOWAT, S.SO_KEEPALIVE, S.SO_PRIORITY, S.SO_SNDBUF, S.SO_RCVBUF)] + [struct.unpack("ll", c.getsockopt(S.SOL_SOCKET, o, 16)) for o in (S.SO_RCVTIMEO, S.SO_SNDTIMEO)]
was = now(); print("ready", flush=True)
def until(name):
    while not os.path.exists(name): time.sleep(0.02)
until("away"); assert now() == was, now()
for o, v in ((S.SO_RCVLOWAT, 2), (S.SO_KEEPALIVE, 1), (S.SO_PRIORITY, 0), (S.SO_SNDBUF, 50000), (S.SO_RCVBUF, 60000)): c.setsockopt(S.SOL_SOCKET, o, v)
for o in (S.SO_RCVTIMEO, S.SO_SNDTIMEO): c.setsockopt(S.SOL_SOCKET, o, struct.pack("ll", o, 0))
is_ = now(); print("set", flush=True); until("home"); assert now() == is_, (is_, now()); print("well", flush=True)
PY
as sprite ws1 sh -c "cd $JD; rm -f away home"; job "python3 sets.py $S"; until_true 20 said ready
check "options: moves" until_true 10 hop ws2
as sprite ws1 touch $JD/away; until_true 20 said set
check "options: moves home" until_true 10 hop home
as sprite ws1 touch $JD/home
end "options"

# Packets keep their borders; so do datagrams.
as sprite ws1 sh -c "cat >$JD/seq.py" <<'PY'
import os, socket, time
import sys
a, b = socket.socketpair(socket.AF_UNIX, getattr(socket, sys.argv[1]))
if os.fork() == 0: # says what it hears, and how long it was
    a.close(); os.setsid(); print("kid", os.getpid(), flush=True)
    null = os.open("/dev/null", os.O_RDWR); os.dup2(null, 1); os.dup2(null, 2) # else it shares offsets with its parent
    while True:
        p = b.recv(100000)
        if p == b"end": os._exit(0)
        b.send(p); b.send(b"%d" % len(p))
b.close(); n = 0
while not os.path.exists("stop"):
    n += 1; sizes = [n % 100 + 1, 60000, 3]
    for k in sizes: a.send(b"%03d" % (n % 1000) + b"." * k)
    for k in sizes: assert a.recv(100000) == b"%03d" % (n % 1000) + b"." * k and a.recv(100) == b"%d" % (k + 3), n
    if n % 10 == 0: print(n, flush=True)
    time.sleep(0.002)
a.send(b"end"); os.wait(); print("well", flush=True)
PY
for kind in SEQPACKET DGRAM; do
	as sprite ws1 rm -f $JD/stop
	job "python3 seq.py SOCK_$kind"; until_true 20 said kid
	STAYS=$JOB; JOB=$(on ws1 awk '/^kid/ { print $2 }' $JD/out)
	for where in ws2 ws3 home ws2; do
		check "$kind: moves to $where" until_true 10 hop $where
		check "$kind: go on" further
	done
	as sprite ws1 touch $JD/stop
	JOB=$STAYS
	end $kind
done

# Refused: a socket that one who stays has too: if it is closed away, that is not his end.
as sprite ws1 sh -c "cat >$JD/shares.py" <<'PY'
import os, socket, subprocess
a, b = socket.socketpair()
kid = subprocess.Popen(["sleep", "1000"], stdin=b, stdout=b); print("kid", kid.pid, flush=True); kid.wait()
PY
job "python3 shares.py"; until_true 20 said kid
kid=$(on ws1 awk '/^kid/ { print $2 }' $JD/out)
refused "a socket that is shared: refused by name" 1 "socket:.* is open in process $JOB too, which stays" mig explain "$kid"
on ws1 kill "$kid"; job_status 20 >/dev/null

# Refused: another kind of peer that stays, one that asks who sends, a connection that is not accepted yet.
cat >"$TMP/odd.py" <<'PY'
import os, socket, sys
a, b = socket.socketpair(socket.AF_UNIX, getattr(socket, sys.argv[1].split("+")[0]))
if "pass" in sys.argv[1]: b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
if "name" in sys.argv[1]: b.bind("")
if os.fork():
    b.close(); print("pid", os.getpid(), flush=True); a.recv(10)
else:
    a.close(); os.setsid(); print("kid", os.getpid(), flush=True); b.recv(10)
PY
as sprite ws1 sh -c "cat >$JD/odd.py" <"$TMP/odd.py"
for kind in SOCK_DGRAM+name SOCK_SEQPACKET+pass SOCK_STREAM+pass; do
	job "python3 odd.py $kind"; until_true 20 said kid
	kid=$(on ws1 awk '/^kid/ { print $2 }' $JD/out)
	words="has a name, whose other end stays here"
	[ $kind = SOCK_DGRAM+name ] || words="SO_PASSCRED"
	refused "$kind: refused by name" 1 "$words" mig explain "$kid"
	on ws1 kill "$kid" "$(on ws1 cat $JD/pid)"
done
finish
