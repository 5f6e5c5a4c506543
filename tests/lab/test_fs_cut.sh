# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# A node that is cut off holds nobody up for longer than its lease, shows nothing stale when it is back, and may be interrupted while it waits.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
on ws1 sh -c 'mkdir -m 1777 /sprite/c; echo one >/sprite/c/f; cat /sprite/c/f; ls /sprite/c' >/dev/null
sh_on ws1 'exec 3>>/sprite/c/log; echo before >&3; sync /sprite/c/log'
# a program that has a file open which has no name any more
"$BIN/sprite-lab" exec ws1 -- python3 -u -c 'import os, time
fd = os.open("/sprite/c/unnamed", os.O_RDWR | os.O_CREAT); os.write(fd, b"kept"); os.fsync(fd); os.unlink("/sprite/c/unnamed"); os.sync(); print("there")
while not os.path.exists("/tmp/go"): time.sleep(0.05)
print(os.pread(fd, 9, 0).decode(), os.pwrite(fd, b"more", 4), os.fsync(fd))' >"$TMP/unnamed" 2>&1 & UNNAMED=$!
until_true 20 grep -q there "$TMP/unnamed"
lab cut ws1 fs1
check "the other node changes what the lost one has cached" timeout 240 "$BIN/sprite-lab" exec ws2 -- sh -c 'echo second >/sprite/c/f; echo third >>/sprite/c/f; mv /sprite/c/f /sprite/c/g; echo new >/sprite/c/f'
same "a waiting program on the lost node can be ended" 124 "$(on ws1 sh -c 'timeout -k 60 2 cat /sprite/c/f >/dev/null 2>&1; echo $?')"
lab heal ws1 fs1
same "back again, it sees the latest" "new second third" "$(sh_on ws1 'echo $(cat /sprite/c/f /sprite/c/g)')"
on ws1 touch /tmp/go; wait $UNNAMED
same "and what had no name is there still" "there kept 4 None" "$(echo $(cat "$TMP/unnamed"))"
check "and works on" sh_on ws1 'echo after >>/sprite/c/log && [ "$(cat /sprite/c/log)" = "before
after" ]'
# the server's link is slow and then normal: nothing is lost on the way
lab cut ws2 fs1; sleep 1; lab heal ws2 fs1
same "a short cut costs nothing" "new" "$(timeout 240 "$BIN/sprite-lab" exec ws2 -- cat /sprite/c/f)"
finish
