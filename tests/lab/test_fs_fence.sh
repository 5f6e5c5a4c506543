# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# long: yes
# What a node did and was answered while it was cut off is refused when the server, restarted meanwhile, has let others go on: told at fsync, never done late.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
on ws1 sh -c 'mkdir /sprite/d; echo one >/sprite/d/f; sync /sprite/d/f; ls /sprite/d' >/dev/null
# one program: holds the file, is told when the node is cut off, changes file and directory under its leases, and says what fsync answers when the node is back
cat >"$TMP/late.py" <<'PY'
import os, sys, time
d, f = os.open("/sprite/d", os.O_RDONLY), os.open("/sprite/d/f", os.O_RDWR)
os.pwrite(f, b"ONE", 0)
os.fsync(f)
open("/run/ready", "w")
while not os.path.exists("/run/cut"): time.sleep(0.01)
os.pwrite(f, b"bad", 0)
os.close(os.open("/sprite/d/late", os.O_CREAT | os.O_WRONLY, 0o644))
os.unlink("/sprite/d/gone")
open("/run/changed", "w")
while not os.path.exists("/run/healed"): time.sleep(0.01)
for fd, what in (f, "file"), (d, "directory"):
    try: os.fsync(fd); print(what, "ok")
    except OSError as e: print(what, e.strerror)
PY
on ws1 sh -c 'echo x >/sprite/d/gone; sync /sprite/d'
"$BIN/sprite-lab" exec ws1 -- python3 -c "$(cat "$TMP/late.py")" >"$TMP/late.out" 2>&1 &
late=$!
until_true 20 on ws1 test -e /run/ready
lab cut ws1 fs1
on ws1 touch /run/cut
until_true 20 on ws1 test -e /run/changed || skip "its leases were over before it changed anything: the machine is too busy"
lab kill fs1 spritefsd KILL
until_true 10 lab start fs1 spritefsd
# waits until the grace is over, which it is without ws1
same "the others go on without what nobody has seen" "f gone ONE" "$(timeout 200 "$BIN/sprite-lab" exec ws2 -- sh -c 'echo $(ls /sprite/d | sort -r | grep -v late | sort) $(cat /sprite/d/f)')"
on ws2 sh -c 'echo two >/sprite/d/f; mv /sprite/d/gone /sprite/d/kept'
lab heal ws1 fs1
on ws1 touch /run/healed
wait $late
same "who was late is told" "file Input/output error directory Input/output error" "$(echo $(cat "$TMP/late.out"))"
same "nothing of it was done late" "f kept two" "$(on ws2 sh -c 'echo $(ls /sprite/d) $(cat /sprite/d/f)')"
same "and is seen by nobody" "f kept two" "$(on ws1 sh -c 'echo $(ls /sprite/d) $(cat /sprite/d/f)')"
finish
