# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# A node that is cut off holds nobody up for longer than its lease, shows nothing stale when it is back, and may be interrupted while it waits.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
on ws1 sh -c 'mkdir -m 1777 /sprite/c; echo one >/sprite/c/f; cat /sprite/c/f; ls /sprite/c' >/dev/null
sh_on ws1 'exec 3>>/sprite/c/log; echo before >&3; sync /sprite/c/log'
lab cut ws1 fs1
check "the other node changes what the lost one has cached" timeout 240 "$BIN/sprite-lab" exec ws2 -- sh -c 'echo second >/sprite/c/f; echo third >>/sprite/c/f; mv /sprite/c/f /sprite/c/g; echo new >/sprite/c/f'
same "a waiting program on the lost node can be ended" 124 "$(on ws1 sh -c 'timeout -k 60 2 cat /sprite/c/f >/dev/null 2>&1; echo $?')"
lab heal ws1 fs1
same "back again, it sees the latest" "new second third" "$(sh_on ws1 'echo $(cat /sprite/c/f /sprite/c/g)')"
check "and works on" sh_on ws1 'echo after >>/sprite/c/log && [ "$(cat /sprite/c/log)" = "before
after" ]'
# the server's link is slow and then normal: nothing is lost on the way
lab cut ws2 fs1; sleep 1; lab heal ws2 fs1
same "a short cut costs nothing" "new" "$(timeout 240 "$BIN/sprite-lab" exec ws2 -- cat /sprite/c/f)"
finish
