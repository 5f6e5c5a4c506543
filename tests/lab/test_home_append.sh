# SPDX-License-Identifier: Apache-2.0
# lab: own
# Appends (O_APPEND) to one file of a home's own disk, by its programs and by guests on two hosts at once: each write(2) is there whole, and none lies over another.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
N=150
cat >"$TMP/append.py" <<'PY'
import os, random, sys, time
path, me, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
for i in range(n):
    line = ("%s %d " % (me, i)).encode() + b"z" * random.randint(0, 6000) + b"\n"
    assert os.write(fd, line) == len(line)
    if i % 10 == 0: time.sleep(.002)
PY
cat >"$TMP/look.py" <<'PY'
import collections, sys
seen, torn = collections.defaultdict(list), 0
for line in open(sys.argv[1], "rb"):
    p = line.rstrip(b"\n").split(b" ")
    if len(p) != 3 or set(p[2]) - {122}: torn += 1
    else: seen[p[0].decode()].append(int(p[1]))
print(" ".join("%s %s" % (k, "all" if seen[k] == list(range(int(sys.argv[2]))) else len(seen[k])) for k in sorted(seen)), "torn", torn)
PY
as sprite ws1 tee /home/sprite/append.py <"$TMP/append.py" >/dev/null
append() { as sprite ws1 bash -c "cd; $1 python3 append.py log $2 $N"; }
# a guest is there before the others write: each waits for the file that is made last
append "mig run -H ws2" A & a=$!
append "mig run -H ws3" B & b=$!
append "" H & h=$!
append "" I & i=$!
for p in $a $b $h $i; do wait $p || flunk "an appender ends well"; done
same "what four append on three hosts is all there" "A all B all H all I all torn 0" "$(as sprite ws1 python3 -c "$(cat "$TMP/look.py")" /home/sprite/log $N)"
as sprite ws1 bash -c 'cd; echo one >short'
for h in ws2 ws3 ws2; do as sprite ws1 bash -c "cd; mig run -H $h sh -c 'echo $h >>short'" </dev/null; as sprite ws1 bash -c 'cd; echo home >>short'; done
same "and what shells append in turn" "one ws2 home ws3 home ws2 home" "$(as sprite ws1 cat /home/sprite/short | xargs)"
finish
