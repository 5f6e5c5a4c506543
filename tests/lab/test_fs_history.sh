# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 180
# Random reads and writes from three nodes on a few objects, each noted with the time at which it began and ended, and a proof that the history could have happened on
# one machine. A data range, a name (replaced by rename) and a time stamp (utime) are each taken as a register that is written unique values. For registers the proof is
# exact and quick: the zones of Gibbons and Korach, "Testing Shared Memories" (1997).
. "$(dirname "$0")/lib.sh"
D=/sprite/history.$$
on ws1 mkdir -m 1777 $D || { flunk "mkdir in /sprite"; finish; }
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT

cat >"$TMP/act.py" <<'PY'
import os, random, sys, time
me, d, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
rnd = random.Random(me)
log, n = [], 0
held = {}
def fd(path):  # now and then opened anew, else kept open: both ways must see the latest
    if rnd.random() < 0.3 and path in held: os.close(held.pop(path))
    if path not in held: held[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return held[path]
def data_write(p, v): os.pwrite(fd(p), b"%-24s" % v.encode(), 4096)
def data_read(p): return os.pread(fd(p), 24, 4096).strip(b" \0").decode()
def name_write(p, v):
    t = p + "." + me
    os.symlink(v, t); os.rename(t, p)
def name_read(p):
    try: return os.readlink(p)
    except FileNotFoundError: return ""
def time_write(p, v): os.utime(p, ns=(0, int(v.split(".")[1]) * 100 + int(v.split(".")[0])))
def time_read(p):
    t = os.stat(p).st_mtime_ns
    return "" if t > 10**15 else "%d.%d" % (t % 100, t // 100)
kinds = {"data": (data_write, data_read), "name": (name_write, name_read), "time": (time_write, time_read)}
for i in range(2): os.close(os.open(d + "/time%d" % i, os.O_CREAT, 0o666))
end = time.time() + seconds
while time.time() < end:
    k, i = rnd.choice(list(kinds)), rnd.randrange(2)
    p, (w, r) = d + "/%s%d" % (k, i), kinds[k]
    n += 1
    if rnd.random() < 0.3:
        v = "%d.%d" % (int(me), n)
        a = time.clock_gettime_ns(time.CLOCK_REALTIME); w(p, v); op = "w"
    else:
        a = time.clock_gettime_ns(time.CLOCK_REALTIME); v = r(p); op = "r"
    log.append((os.path.basename(p), op, v or "-", a, time.clock_gettime_ns(time.CLOCK_REALTIME)))
for l in log: print(*l)
PY
cat >"$TMP/prove.py" <<'PY'
import sys
def prove(ops):  # [(kind, value, begin, end)]: None, or why not
    c = {}
    for k, v, a, b in ops:
        z = c.setdefault(v, {"w": None, "end": b, "begin": a})
        if k == "w":
            if z["w"]: return "written twice: " + v
            z["w"] = (a, b)
        z["end"], z["begin"] = min(z["end"], b), max(z["begin"], a)
    for v, z in c.items():
        if v == "-": z["w"] = z["w"] or (0, 0); z["end"] = min(z["end"], 0)  # what was there at first
        if not z["w"]: return "read but never written: " + v
    for k, v, a, b in ops:
        if k == "r" and b < c[v]["w"][0]: return "read before it was written: " + v
    forward = sorted((z["end"], z["begin"], v) for v, z in c.items() if z["end"] < z["begin"])
    for (a1, b1, v1), (a2, b2, v2) in zip(forward, forward[1:]):
        if a2 < b1: return "%s was seen after %s had replaced it, and the other way round" % (v1, v2)
    for v, z in c.items():
        if z["end"] >= z["begin"]:
            for a, b, f in forward:
                if a < z["begin"] and z["end"] < b: return "%s was there while %s was seen before and after" % (v, f)
    return None
if len(sys.argv) == 1:  # it must find a stale read, and pass what is right
    w = [("w", "a", 0, 10), ("w", "b", 20, 30)]
    assert prove(w + [("r", "b", 40, 50), ("r", "a", 5, 15)]) is None
    assert prove(w + [("r", "a", 25, 35)]) is None                      # overlaps the second write
    assert prove(w + [("r", "a", 40, 50)])                              # stale
    assert prove(w + [("r", "b", 22, 24), ("r", "a", 26, 28)])          # new, then old again
    assert prove(w + [("r", "b", 12, 14)])                              # from the future
    print("good"); sys.exit()
by, total = {}, 0
for f in sys.argv[1:]:
    for l in open(f):
        o, k, v, a, b = l.split()
        by.setdefault(o, []).append((k, v, int(a), int(b))); total += 1
for o, ops in sorted(by.items()):
    why = prove(ops)
    if why:
        print("%s: %s" % (o, why))
        w = why.split(); vs = {w[0], w[5]} if "was there while" in why else {w[0], w[-7] if len(w) > 7 else w[0]}
        rows = []
        for f in sys.argv[1:]:
            for l in open(f):
                oo, k, v, a, b = l.split()
                if oo == o: rows.append((int(a), int(b), f[-2:], k, v))
        rows.sort(); hit = [i for i, r in enumerate(rows) if r[4] in vs]
        t0 = rows[hit[0]][0]
        for r in rows[max(0, hit[0] - 5):hit[-1] + 6]: print("#  %9.3f %9.3f ms  %s %s %s" % ((r[0] - t0) / 1e6, (r[1] - t0) / 1e6, r[2], r[3], r[4]))
        sys.exit(1)
print("%d operations on %d registers" % (total, len(by)))
PY
same "the prover tells a stale read from a right one" good "$(python3 "$TMP/prove.py" 2>&1)"
for i in 1 2 3; do for k in 0 1; do on ws$i timeout 150 python3 - $i$k $D 12 <"$TMP/act.py" >"$TMP/log.$i$k" 2>"$TMP/err.$i$k" || flunk "actor on ws$i: $(tail -1 "$TMP/err.$i$k")" & done; done
wait
[ -s "$TMP/log.10" ] && [ -s "$TMP/log.31" ] || flunk "the actors did something: $(cat "$TMP"/err.* | tail -1)"
check "the history of three nodes could have happened on one machine" python3 "$TMP/prove.py" "$TMP"/log.*
note "$(python3 "$TMP/prove.py" "$TMP"/log.* 2>&1)"
finish
