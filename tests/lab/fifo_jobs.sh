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
