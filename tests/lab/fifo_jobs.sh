# SPDX-License-Identifier: Apache-2.0
# Processes of a plain user in /sprite/p, for tests that move them while they have named pipes open. Sourced after lib.sh.
start() { # NODE NAME CMD: $PID
	"$BIN/sprite-lab" exec $1 -T -u sprite -- bash -c "cd /sprite/p; $3 </dev/null >$2.out 2>&1 & echo \$! >$2.n; mv $2.n $2.pid; wait \$!; echo \$? >$2.r; mv $2.r $2.rc" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 test -s /sprite/p/$2.pid || flunk "start of $2"
	PID=$(on ws1 cat /sprite/p/$2.pid)
}
# NAME: its exit status, when it has ended
over() { until_true 60 on ws1 test -e /sprite/p/$1.rc; on ws1 cat /sprite/p/$1.rc; }
# FILE: what a reader has logged: its end, or where it is not in order
numbers() { on ws1 cat /sprite/p/$1 | awk '$1 == "end" { print "end", $2 } $1 != "end" && $2 != n++ { print "not in order at", NR; exit }'; }
# NODE WHICH: bytes that its agent has sent, `direct` or `by_server`
carried() { on $1 python3 -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b"{\"verb\":\"status\"}\n"); print(json.loads(s.makefile().readline())["pipes"][sys.argv[1]])' $2; }
more() { [ "$(carried $1 $2)" -gt $3 ]; }

# stream NODE FIFO N: N numbered records by $P from NODE to ws2, slowly until the first ones have gone directly
stream() {
	D=$(carried $1 direct)
	start ws2 r$2$3 "$P r $2 log.$2$3"
	start $1 w$2$3 "$P w $2 a $3 512 5000 go.$2$3"
	check "$1: bytes go by a connection of its own" until_true 20 more $1 direct $D
}
