# SPDX-License-Identifier: Apache-2.0
# lab: own
# Changes under exclusive leases are answered at once and sent in batches: how many calls programs cost; that others see them at once all the same; and that a
# late refusal is told.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
cat >"$TMP/count.py" <<'PY'
import json, os, socket, time
def calls(sent=("Batch", "Make", "Create", "Write", "Close", "Remove", "Rename", "Setattr", "Lookup", "Getattr", "Open", "Read", "Readdir", "Getxattr", "Fsync")):
    s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b'{"verb":"status"}\n')
    ops = json.loads(s.makefile().readline())["ops"]
    return {k: ops[k]["calls"] for k in sent if k in ops}
def settled():
    n = calls()
    while True:
        time.sleep(.3)
        if calls() == n: return n
        n = calls()
def cost(what, most, n, f, timers=0):
    a = settled(); t = time.time(); f(); t = time.time() - t; b = settled()
    d = sum(b.values()) - sum(a.values()) - min(int(timers * t), n // 10)
    print("%s - %s: %.3f calls each, at most %g" % ("ok" if d <= most * n else "not ok", what, d / n, most))
    if d > most * n: print("#   in %.1f s: %s" % (t, {k: b[k] - a.get(k, 0) for k in b if b[k] != a.get(k, 0)}))
N, D = 300, "/sprite/count/d"
os.makedirs(D)
def create():
    for i in range(N):
        f = os.open("%s/%d" % (D, i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644); os.write(f, b"x" * 1024); os.close(f)
def read():
    for i in range(N):
        f = os.open("%s/%d" % (D, i), os.O_RDONLY); assert os.read(f, 4096) == b"x" * 1024; os.close(f)
cost("create, write and close of a small file", .2, N, create, 10) # each tenth of a second the ticker sends what there is
read()
cost("open, read and close of a file read before", 0, N, read)
cost("stat", 0, N, lambda: [os.stat("%s/%d" % (D, i)) for i in range(N)])
cost("chmod", .2, N, lambda: [os.chmod("%s/%d" % (D, i), 0o600) for i in range(N)])
cost("rename", .2, N, lambda: [os.rename("%s/%d" % (D, i), "%s/r%d" % (D, i)) for i in range(N)])
def asked(): # questions of the kernel for attributes that were answered from memory
    s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b'{"verb":"status"}\n')
    return json.loads(s.makefile().readline())["local_attrs"]
a = asked()
cost("unlink", .2, N, lambda: [os.unlink("%s/r%d" % (D, i)) for i in range(N)])
a = asked() - a
print("%s - the kernel asks once for what it checks for an unlink: %.2f times" % ("ok" if a <= 1.5 * N else "not ok", a / N))
def stats():
    for i in range(N):
        f = os.open("%s/%d" % (D, i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644); os.write(f, b"y" * 10); s = os.fstat(f); os.close(f)
        assert s.st_size == 10 and s.st_ino == os.stat("%s/%d" % (D, i)).st_ino
cost("create, write, fstat and close", 2, N, stats, 10) # and may cut what is of one file in two
f = os.open("%s/synced" % D, os.O_WRONLY | os.O_CREAT, 0o644); os.write(f, b"z"); os.fsync(f)
def syncs():
    for i in range(100): os.pwrite(f, b"z" * 4096, i * 8192 % 65536); os.fsync(f)
cost("write and fsync", 1, 100, syncs)
os.close(f)
os.makedirs("/sprite/count/1/2/3/4")
PY
on ws1 python3 - <"$TMP/count.py" || flunk "counting ends well"
# whose threads spritefs cannot see, as they are of another pid namespace: none the dearer
init=$(lab ls | awk '$1 == "ws1" { print $4 }')
nsenter --mount="/proc/$init/ns/mnt" python3 - <<PY || flunk "counting from outside ends well"
$(sed -n '/^import/,/f = os.open.*O_CREAT/p' "$TMP/count.py" | sed 's,/count/d,/count/out,')
cost("create, write and close by a process of another pid namespace", .2, N, create, 10)
PY
on ws2 python3 - <<PY
$(sed -n '/^import/,/^N, D/p' "$TMP/count.py" | sed '$d')
cost("cold look-up at depth 6", 6, 1, lambda: os.stat("/sprite/count/1/2/3/4"))
PY

# ---- another node looks in the middle of it, over and over
on ws1 mkdir /sprite/seen
"$BIN/sprite-lab" exec ws1 -- python3 - >"$TMP/seen.1" 2>&1 <<'PY' &
import os
for i in range(2000):
    p = "/sprite/seen/%05d" % i
    f = os.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644); os.write(f, b"%05d" % i); os.close(f)
    os.rename(p, p + "r"); os.chmod(p + "r", 0o640)
    if i >= 50: os.unlink("/sprite/seen/%05dr" % (i - 50))
open("/sprite/seen/end", "w").close()
PY
maker=$!
check "what another node sees is complete and in order" on ws2 python3 - <<'PY'
import os, sys
last, looks = -1, 0
while True:
    names = sorted(n for n in os.listdir("/sprite/seen"))
    looks += 1
    done = [n for n in names if n.endswith("r")]
    if done:
        top = int(done[-1][:5])
        assert top >= last, "went back from %d to %d" % (last, top)
        gap = [n for n in range(max(0, top - 48), top) if "%05dr" % n not in done]
        assert not gap, "at %d these are missing: %s" % (top, gap)
        last = top
        try:
            with open("/sprite/seen/" + done[-1]) as f: assert f.read() == done[-1][:5], "content of " + done[-1]
        except FileNotFoundError: pass
    if "end" in names: break
assert last == 1999 and looks > 3, (last, looks)
PY
wait $maker; same "who made it had no failure" "" "$(cat "$TMP/seen.1")"

# ---- the times of a directory: told before the server has made the change, they stay so
on ws1 mkdir /sprite/times
check "the times of a directory that was changed here stay as they were told" on ws1 python3 -c '
import os, time
D = "/sprite/times"
def times(): s = os.stat(D); return s.st_mtime_ns, s.st_ctime_ns
d = os.open(D, os.O_RDONLY); os.fsync(d)
for i in range(20):
    os.close(os.open("%s/%d" % (D, i), os.O_WRONLY | os.O_CREAT)); told = times()
    os.fsync(d)
    assert times() == told, (i, told, times())
    time.sleep(.02) # a tick of the clock that the server has its times from
    if i % 3 == 1: os.mkdir("%s/d%d" % (D, i))
    if i % 3 == 2: os.chmod(D, 0o700 + i)
    assert i % 3 == 0 or times() != told, (i, told)'
same "and another node has the same" "$(on ws2 stat -c %.Y-%.Z /sprite/times)" "$(on ws1 stat -c %.Y-%.Z /sprite/times)"
on ws1 touch /sprite/times/more; on ws1 stat /sprite/times >/dev/null
same "whoever looks" "$(on ws2 stat -c %.Y-%.Z /sprite/times)" "$(on ws1 stat -c %.Y-%.Z /sprite/times)"

# ---- what the server refuses after all is told by fsync
on ws1 mkdir /sprite/late
if on ws1 touch /sprite/late/a && on ws1 sync /sprite/late /sprite/late/a && on fs1 chattr +i /srv/sprite/late 2>/dev/null; then
	check "a refusal that comes late is told by fsync of the directory" on ws1 python3 -c '
import os
d = os.open("/sprite/late", os.O_RDONLY); os.fsync(d)
try: os.close(os.open("/sprite/late/b", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)); os.fsync(d) # the second, if the lease is still held
except OSError as e: assert not os.path.exists("/sprite/late/b"); raise SystemExit(0)
raise SystemExit("nobody was told")'
	on fs1 chattr -i /srv/sprite/late
fi
finish
