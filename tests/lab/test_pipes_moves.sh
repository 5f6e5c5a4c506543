# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 200
# Who has ends of a named pipe open moves: while it waits for a partner, for room, for bytes, in each call that can, and while bytes go through, both ends at once. No record is lost,
# doubled or out of order, and nobody sees an end or a broken pipe.
. "$(dirname "$0")/lib.sh"
. "$HERE/fifo_jobs.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests"
P=/opt/sprite/tests/tools/fifo_stream
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/p && mkfifo -m 666 /sprite/p/f /sprite/p/g' || flunk "mkfifo"

# NODE NAME NR: a process of that name is in that system call there
in_call() { sh_on $1 'for p in $(pgrep -x "$1"); do [ "$(cut -d" " -f1 /proc/$p/syscall)" = $2 ] && exit 0; done; exit 1' $2 $3; }

start ws1 w "$P w f a 4000"
W=$PID
check "a writer waits for a reader" until_true 20 in_call ws1 fifo_stream 257
check "it moves while it waits" until_true 10 mig move -q -H ws2 $W
check "and waits over there" until_true 20 in_call ws2 fifo_stream 257
start ws3 r "$P r f log"
same "a reader on a third host lets it in; all comes" "0 0 end 4000" "$(over w) $(over r) $(numbers log)"

start ws1 w2 "$P w g a 4000"
W=$PID
start ws3 r2 "sh -c 'exec 3<g; kill -STOP \$\$; exec $P r /dev/fd/3 log2'"
R=$PID
check "a full pipe stops a writer" until_true 20 in_call ws1 fifo_stream 1
check "it moves while it waits for room" until_true 10 mig move -q -H ws2 $W
check "to where the reader is" until_true 10 mig move -q -H ws3 $W
check "and home" until_true 10 mig home -q $W
as sprite ws3 kill -CONT $R
same "all comes" "0 0 end 4000" "$(over w2) $(over r2) $(numbers log2)"
# -- both ends at the same moment, each to another node, also to the one that the other leaves
start ws1 r3 "$P r f log3"
R=$PID
start ws3 w3 "$P w f a 200000 512 100 go3"
W=$PID
to() { if [ $2 = $1 ]; then as sprite $1 mig home -q $3; else as sprite $1 mig move -q -H $2 $3; fi; } # HOME WHERE PID
for both in "ws2 ws1" "ws3 ws2" "ws2 ws3" "ws1 ws2" "ws3 ws1" "ws1 ws3" "ws3 ws2" "ws2 ws1"; do
	set -- $both
	to ws1 $1 $R >"$TMP/first" 2>&1 & first=$!
	to ws3 $2 $W >"$TMP/second" 2>&1; second=$?
	wait $first
	same "the reader to $1 and the writer to $2, at once" "0 0 " "$? $second $(cat "$TMP/first" "$TMP/second")"
done
as sprite ws1 touch /sprite/p/go3
same "nothing is lost, doubled or out of order" "0 0 end 200000" "$(over w3) $(over r3) $(numbers log3)"
# -- readers that wait in each of the calls that can move, again and again, and are woken by what comes then; so by the end
as sprite ws1 sh -c 'cat >/sprite/p/waits.py; cd /sprite/p; for c in read readv poll select epoll edge splice tee open; do mkfifo -m 666 $c.f; done' <<'PY'
import ctypes, os, select, sys, threading, time
P, calls = select, ["read", "readv", "poll", "select", "epoll", "edge", "splice", "tee"]
def until(name):
    while not os.path.exists(name): time.sleep(0.02)
def is_(want, got):
    if want != got: print("wanted", want, "got", got, flush=True)
if sys.argv[1:]: # who writes
    fds = [os.open(c + ".f", os.O_WRONLY) for c in calls]
    until("go1"); fds.append(os.open("open.f", os.O_WRONLY))
    for fd in fds: os.write(fd, b"abc")
    until("go2"); sys.exit()
libc = ctypes.CDLL(None)
def wait(call, f, e, ended):
    r, w = os.pipe(); n, what = 0 if ended else 3, P.POLLHUP if ended else P.POLLIN
    if call == "readv": b = [bytearray(9)]; is_(n, os.readv(f, b)); return bytes(b[0][:n])
    if call == "splice": is_(n, libc.splice(f, None, w, None, 9, 0)); os.close(w); return os.read(r, 9)
    if call == "tee": is_(n, libc.tee(f, w, 9, 0))
    if call == "poll": p = P.poll(); p.register(f, P.POLLIN); is_([(f, what)], p.poll())
    if call == "select": is_(([f], [], []), P.select([f], [], []))
    if e: is_([(f, what)], e.poll())
    return os.read(f, 9)
def run(call, f):
    if f < 0: f = os.open(call + ".f", os.O_RDONLY)
    e = P.epoll() if call in ("epoll", "edge") else None
    if e: e.register(f, P.EPOLLIN | (P.EPOLLET if call == "edge" else 0))
    for i in range(2): print(call, wait(call, f, e, i).decode() or "end", flush=True)
all = [threading.Thread(target=run, args=x) for x in [(c, os.open(c + ".f", os.O_RDONLY)) for c in calls] + [("open", -1)]]
for t in all: t.start()
print("wait", flush=True)
for t in all: t.join()
PY
start ws3 ww "python3 waits.py write"
start ws1 wr "python3 waits.py"
R=$PID
said() { [ "$(on ws1 grep -c "$1" /sprite/p/wr.out)" = $2 ]; }
check "nine threads wait" until_true 20 said wait 1
for n in ws2 ws3 ws1 ws2; do check "they move to $n" until_true 10 mig move -q -H $n $R; done
as sprite ws1 touch /sprite/p/go1
check "each gets what comes" until_true 20 said abc 9
for n in ws3 ws1; do check "they wait again, and move to $n" until_true 10 mig move -q -H $n $R; done
as sprite ws1 touch /sprite/p/go2
same "and sees the end" "0 0 9 19" "$(over ww) $(over wr) $(on ws1 grep -c end /sprite/p/wr.out) $(on ws1 sh -c 'wc -l </sprite/p/wr.out')"
# -- F_SETPIPE_SZ, of a pipe that goes along, of one whose other end stays at home, of named pipes: it stays as it is, and may be changed anywhere
as sprite ws1 sh -c 'cat >/sprite/p/sizes.py; mkfifo -m 666 /sprite/p/own /sprite/p/out' <<'PY'
import fcntl, os, time
GET, SET = fcntl.F_GETPIPE_SZ, fcntl.F_SETPIPE_SZ
fds = [os.pipe()[1], 0, 1, os.open("own", os.O_RDWR), os.open("out", os.O_WRONLY)]
for fd, size in zip(fds, (131072, 16384, 131072, 32768, 262144)): fcntl.fcntl(fd, SET, size)
open("sizes.pid", "w").write(str(os.getpid()))
while not os.path.exists("sizes.stop"):
    time.sleep(0.02)
    if not os.path.exists("sizes.ask"): continue
    new = open("sizes.ask").read().split()
    for fd, size in zip(fds, new): fcntl.fcntl(fd, SET, int(size))
    os.unlink("sizes.ask")
    with open("sizes.new", "w") as f: print(*[fcntl.fcntl(fd, GET) for fd in fds], file=f)
    os.rename("sizes.new", "sizes.are")
PY
sizes() { # SIZE...: to be set
	as sprite ws1 sh -c 'cd /sprite/p; rm -f sizes.are; echo "$*" >ask.new; mv ask.new sizes.ask' sh "$@"
	until_true 20 on ws1 test -e /sprite/p/sizes.are; on ws1 cat /sprite/p/sizes.are
}
start ws3 out "cat out"
"$BIN/sprite-lab" exec ws1 -T -u sprite -- bash -c 'cd /sprite/p; sleep 1000 | python3 sizes.py 2>sizes.err | cat' </dev/null >/dev/null 2>&1 &
until_true 20 on ws1 test -s /sprite/p/sizes.pid || flunk "start of sizes.py"
S=$(on ws1 cat /sprite/p/sizes.pid)
same "sizes of pipes" "131072 16384 131072 32768 262144" "$(sizes)"
for n in ws2 ws3; do
	check "it moves to $n" mig move -q -H $n $S
	same "they are the same on $n" "131072 16384 131072 32768 262144" "$(sizes)"
done
same "others, set there" "65536 131072 32768 8192 131072" "$(sizes 65536 131072 32768 8192 131072)"
check "it moves to ws2" mig move -q -H ws2 $S
same "and those stay" "65536 131072 32768 8192 131072" "$(sizes)"
check "it comes home" mig home -q $S
same "at home, too" "65536 131072 32768 8192 131072" "$(sizes)"
as sprite ws1 touch /sprite/p/sizes.stop
same "the reader of one sees its end" 0 "$(over out)"
[ $FAILED = 0 ] || for n in ws1 ws2 ws3; do lab logs $n spritefs | tail -n 20 | sed "s/^/#   $n: /"; done
python3 "$HERE/pipes_random.py" "$BIN/sprite-lab" 1 2 1 1 0 200000 || FAILED=1
finish
