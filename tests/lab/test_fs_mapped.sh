# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 120
# Two nodes map one file, and write it by mapping and by write(2), at the same time: nobody waits for the other for ever, nothing is lost, and what one has
# written and synced (or closed) the other sees.
. "$(dirname "$0")/lib.sh"
D=/sprite/mapped.$$
ROUNDS=${ROUNDS:-$([ -n "${LONG:-}" ] && echo 2000 || echo 150)}
on ws1 mkdir -m 777 $D
cat >"$TMP/map.py" <<'PY'
import mmap, os, random, sys
who, n = int(sys.argv[2]), int(sys.argv[3])
BLOCK, BLOCKS = 4096, 64
os.chdir(sys.argv[1])
def told(name): # the other has come so far
    while not os.path.exists(name): pass
fd = os.open("f", os.O_RDWR)
m = mmap.mmap(fd, BLOCK * BLOCKS)
r, mine = random.Random(who), {}
open("ready%d" % who, "w").close(); told("ready%d" % (1 - who))
for i in range(n):
    k = r.randrange(BLOCKS // 2) * 2 + who
    at, size = k * BLOCK + r.choice((0, 0, 100)), r.choice((16, 100, 3000))
    data = (b"%d.%06d." % (who, i)).ljust(size, b"-")
    if r.random() < .6:
        m[at:at + size] = data
        if r.random() < .5: m.flush()
    else:
        m.flush() # a page goes as a whole: what was mapped before is not to follow what is written after it
        if os.pwrite(fd, data, at) != size: sys.exit("short write")
    mine[at] = data
    for other in [a for a in mine if a // BLOCK == k and a != at]: del mine[other]
    at = r.choice(list(mine))
    if m[at:at + 16] != mine[at][:16]: sys.exit(f"step {i}: at {at} is {m[at:at+16]} for {mine[at][:16]}")
m.flush(); m.close(); os.close(fd)
open("done%d" % who, "w").close(); told("done%d" % (1 - who))
# one after the other: what msync(2) and close(2) promise
fd = os.open("f", os.O_RDWR)
m = mmap.mmap(fd, BLOCK * BLOCKS)
for i in range(20):
    if i % 2 == who:
        m[0:8] = b"%08d" % i
        if i % 4 < 2: m.flush()
        else: m.close(); os.close(fd); fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, BLOCK * BLOCKS)
        open("turn%d" % i, "w").close()
    else:
        told("turn%d" % i)
        if m[0:8] != b"%08d" % i: sys.exit(f"turn {i}: {m[0:8]}")
    if i % 2 != who: open("seen%d" % i, "w").close()
    else: told("seen%d" % i)
for at, data in sorted(mine.items()):
    if at >= BLOCK: print(at, data[:16].decode(), len(data))
PY
py=$(cat "$TMP/map.py")
on ws1 python3 -c "open('$D/f', 'wb').truncate(64 * 4096)"
on ws1 chmod 666 $D/f
on ws1 timeout 100 python3 -c "$py" $D 0 $ROUNDS >"$TMP/out.0" 2>&1 & one=$!
on ws2 timeout 100 python3 -c "$py" $D 1 $ROUNDS >"$TMP/out.1" 2>&1; two=$?
wait $one
same "$ROUNDS writes of each" "0 0" "$? $two" || tail -n 3 "$TMP"/out.?
for n in ws1 ws2; do
	same "$n has what both wrote" "" "$(cat "$TMP"/out.? | sh_on $n 'python3 -c "
import sys
d = open(sys.argv[1], \"rb\").read()
for l in sys.stdin:
    at, data, size = l.split()
    if d[int(at):int(at) + 16] != data.encode(): print(l, d[int(at):int(at) + 16])" '$D/f)"
done
on ws1 rm -rf $D
finish
