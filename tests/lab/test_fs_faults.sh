# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# long: yes
# The file server dies at chosen instructions (conf/fault.h): between the two names of a file that is removed while it is open, between a write and its fsync, when a lease was given up
# with a write that is not answered yet. Whoever asked waits, and gets what a server that lives would have said.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
F=/run/sprite/fault; P=/srv/sprite/.sprite-unlinked
up_again() { until_true 10 lab start fs1 spritefsd SPRITE_FAULT=$F; }
on fs1 mkdir -p $F
lab kill fs1 spritefsd TERM >/dev/null; up_again
on ws1 mkdir -m 777 /sprite/k
# dies_at STEP NODE CMD...: CMD's output; the server dies at STEP meanwhile, and is started again
dies_at() {
	local step=$1 node=$2 rc; shift 2
	on fs1 sh -c "echo die >$F/$step"
	timeout 100 "$BIN/sprite-lab" exec $node -- "$@" >"$TMP/said" 2>&1 & local job=$!
	until_true 20 sh_on fs1 "[ ! -e $F/$step ]" || { on fs1 rm -f $F/$step; echo "it was not reached"; }
	up_again || echo "the server did not start"
	wait $job; rc=$?
	cat "$TMP/said"; return $rc
}
# a program on ws1 that has files open, and says what is in them when told to
mkfifo "$TMP/in"
"$BIN/sprite-lab" exec ws1 -- python3 -u -c 'import os, sys
fd = {n: os.open("/sprite/k/" + n, os.O_RDWR | os.O_CREAT, 0o644) for n in ("removed", "replaced")}
for n in fd: os.write(fd[n], n.encode()); os.fsync(fd[n])
print("open")
sys.stdin.readline()
for n in fd: print(os.pread(fd[n], 99, 0).decode(), os.fstat(fd[n]).st_nlink)' <"$TMP/in" >"$TMP/out" 2>&1 &
holder=$!
exec 8>"$TMP/in"
until_true 20 grep -q '^open$' "$TMP/out"
on ws2 sh -c 'echo new >/sprite/k/new; sync /sprite/k/new'
same "a name is taken, the server dying between keeping and unlinking" "" "$(dies_at unlink-kept ws2 rm /sprite/k/removed)"
same "a name is replaced, the same" "" "$(dies_at unlink-kept ws2 mv -f /sprite/k/new /sprite/k/replaced)"
same "what the names mean" "replaced new" "$(sh_on ws2 'cd /sprite/k; echo $(ls) $(cat replaced)')"
echo >&8; exec 8>&-; wait $holder
same "who has them open has what was in them" "open removed 0 replaced 0" "$(echo $(cat "$TMP/out"))"
check "and nothing of them is left" until_true 40 sh_on fs1 "[ -z \"\$(ls -A $P)\" ]"

same "a write and its fsync, the server dying between" "synced" "$(dies_at write-fsync ws1 python3 -c 'import os
import time
for i in range(200): # the first may be written through: no leases before the server that was killed last has been recovered from
    fd = os.open("/sprite/k/sync", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"%06d" % i, 6 * i); os.fsync(fd); os.close(fd); time.sleep(0.01)
print("synced")')"
same "all of it is at the server" "$(printf %06d $(seq 0 199))" "$(on fs1 cat /srv/sprite/k/sync)"

# WRITE of a file that another node has lately taken is given up with the write that a close sends
on ws1 sh -c 'echo 000 >/sprite/k/hand'
# the looks are apart: while the file is open on two nodes, nobody has WRITE of it
sh_on ws2 'i=0; while [ $i != 200 ]; do n=$((10#$(cat /sprite/k/hand))); [ $n -ge $i ] || echo "$n after $i"; i=$n; sleep 0.3; done' >"$TMP/seen" 2>&1 & reader=$!
same "given up with the last write of a file, the server dying then" "" "$(dies_at write-given-up ws1 bash -c 'for i in $(seq 200); do printf "%03d\n" $i 1<>/sprite/k/hand; sleep 0.01; done')"
wait $reader
same "another node has seen it grow, and nothing that was over" "" "$(cat "$TMP/seen")"
# the server stands in the middle of such a write: who only looks does not wait for it, however many they are
on fs1 sh -c "echo hold >$F/write-given-up"
sh_on ws1 'i=200; until [ -e /tmp/end ]; do i=$((i + 1)); printf "%03d\n" $i 1<>/sprite/k/hand; sleep 0.01; done' & writer=$!
sh_on ws2 'until [ -e /tmp/end ]; do cat /sprite/k/hand; sleep 0.01; done' >/dev/null & reader=$!
check "a write is held" until_true 20 on fs1 test -e $F/write-given-up.held
check "forty look at its file meanwhile" sh_on ws2 'for i in $(seq 40); do timeout 60 stat /sprite/k/hand >/dev/null & p="$p $!"; done; for i in $p; do wait $i || exit 1; done'
check "and others work" sh_on ws2 'timeout 60 sh -c "echo x >/sprite/k/other && rm /sprite/k/other"'
check "it is held still" on fs1 rm $F/write-given-up.held
on ws1 touch /tmp/end; on ws2 touch /tmp/end; wait $writer $reader
on ws1 sh -c 'printf "200\n" >/sprite/k/hand'
# a lock is given up, and the next has it, before the server dies: who gave it up does not take it back
on ws1 touch /sprite/k/lock
mkfifo "$TMP/a" "$TMP/b"
locker='import fcntl, sys
f = open("/sprite/k/lock", "r+")
fcntl.lockf(f, fcntl.LOCK_EX); print("got", flush=True); sys.stdin.readline()
fcntl.lockf(f, fcntl.LOCK_UN); print("gave", flush=True); sys.stdin.readline()'
on ws1 python3 -c "$locker" <"$TMP/a" >"$TMP/a.out" 2>&1 & exec 7>"$TMP/a"; until_true 20 grep -q got "$TMP/a.out"
on ws2 python3 -c "$locker" <"$TMP/b" >"$TMP/b.out" 2>&1 & exec 8>"$TMP/b"
waiting() { on fs1 spritefsd --status | python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["locks"]["waiting"] != 1)'; }
until_true 20 waiting || flunk "another waits for it"
on fs1 sh -c "echo hold >$F/lock-dropped"
echo >&7
check "the next has the lock" until_true 20 grep -q got "$TMP/b.out"
on fs1 sh -c 'kill -KILL $(pgrep -x spritefsd)'; on fs1 rm $F/lock-dropped.held; up_again
check "who gave it up is told so" until_true 20 grep -q gave "$TMP/a.out"
refused "nobody gets it from the next" 11 '' on ws1 python3 -c "import fcntl, sys
try: fcntl.lockf(open('/sprite/k/lock', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(11)"
for h in ws1 ws2; do check "nothing is told to be lost on $h" sh_on $h '! grep "is lost" /var/log/sprite/spritefs.log'; done
echo >&7; echo >&8; echo >&8; exec 7>&- 8>&-; wait
same "both see the last" "200 200" "$(on ws2 cat /sprite/k/hand) $(on ws1 cat /sprite/k/hand)"
finish
