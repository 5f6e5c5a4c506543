# SPDX-License-Identifier: Apache-2.0
# lab: own
# What a program asks of a directory name by name is had with few calls: look-ups, small files, changes after another node has read all; and when the kernel has
# forgotten a tree. What came so is as coherent as anything: a node that changes files meanwhile is seen at once.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
cat >"$TMP/count.py" <<'PY'
import json, os, socket
D, N = "/sprite/ahead/d", 400
def calls():
    s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b'{"verb":"status"}\n')
    ops = json.loads(s.makefile().readline())["ops"]
    return sum(v["calls"] for k, v in ops.items() if k not in ("Renew", "Prefixes", "Statfs", "Attach"))
def cost(what, most, f):
    a = calls(); f(); d = calls() - a
    print("%s - %s: %d calls for %d, at most %d" % ("ok" if d <= most else "not ok", what, d, N, most))
def name(i): return "%s/f%05d" % (D, i)
def stats():
    for i in range(N): assert os.stat(name(i)).st_size == 1024
def reads():
    for i in range(N):
        with open(name(i), "rb", buffering=0) as f: assert f.read(4096) == b"%-1024d" % i
def changes():
    for i in range(N): os.unlink(name(i)) if i % 2 else os.rename(name(i), name(i) + "r")
PY
on1() { { cat "$TMP/count.py"; echo "$2"; } | on "$1" python3 - || flunk "counting ends well"; }
on1 ws1 'os.makedirs(D)
for i in range(N):
    with open(name(i), "wb") as f: f.write(b"%-1024d" % i)
os.sync(); f = os.open(D, os.O_RDONLY); os.fsync(f)'
on1 ws2 "cost('look-ups of files that another node has made', 40, stats)"
on1 ws2 "cost('reads of them', 60, reads)"
echo 3 >/proc/sys/vm/drop_caches
on1 ws2 "cost('look-ups when the kernel has forgotten them', 3, stats)"
on1 ws2 "cost('a listing', 6, lambda: os.listdir(D))"
on1 ws1 "cost('changes of what another node has read', 60, changes)"
same "which that node sees" "$(for i in $(seq -f %05g 0 2 398); do echo "f${i}r"; done)" "$(on ws2 ls /sprite/ahead/d)"
same "and the rest is not there" 0 "$(on ws2 sh -c 'ls /sprite/ahead/d/f*[0-9] 2>/dev/null | wc -l')"

# ---- one node writes files anew, over and over, with a number that grows; the other stats and reads them all, by name: it must never see one go back
on ws1 mkdir /sprite/ahead/w
cat >"$TMP/write.py" <<'PY'
import os
for n in range(1, 16):
    for i in range(25):
        p = "/sprite/ahead/w/%02d" % i
        if n % 3: open(p, "w").write("%d" % n)
        else:
            open(p + "n", "w").write("%d" % n); os.rename(p + "n", p)
PY
"$BIN/sprite-lab" exec ws1 -- python3 -c "$(cat "$TMP/write.py")" >"$TMP/writer" 2>&1 &
writer=$!
check "files written anew meanwhile are seen as they are" on ws2 python3 - <<'PY'
import os
seen, done = [0] * 25, 0
while done < 25:
    done = 0
    for i in range(25):
        p = "/sprite/ahead/w/%02d" % i
        try:
            size = os.stat(p).st_size
            with open(p) as f: t = f.read()
        except FileNotFoundError: assert not seen[i], "%s is gone after %d" % (p, seen[i]); continue
        n = int(t or 0)
        assert not t or n >= seen[i], "%s: %d after %d" % (p, n, seen[i])
        assert size <= len(t) or not t or n > seen[i], "%s: size %d of %r" % (p, size, t)
        if t: seen[i] = n
        done += seen[i] == 15
PY
wait $writer; same "who wrote had no failure" "" "$(cat "$TMP/writer")"
finish
