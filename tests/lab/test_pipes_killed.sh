# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# spritefs is killed -9 while who has ends of a named pipe open moves: between PLEDGE and TAKE on its destination, between HOLD and RELEASE on its source. It keeps what it was told, and
# finds what processes of its node have open: once it is in service again the move goes on, nobody sees an end or a broken pipe, no record is lost, doubled or out of order.
. "$(dirname "$0")/lib.sh"
. "$HERE/fifo_jobs.sh"
. "$HERE/faults.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests"
for n in ws1 ws2; do on $n mkdir -p $FAULT; lab kill $n migd TERM >/dev/null; again $n; done
P=/opt/sprite/tests/tools/fifo_stream
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/p && mkfifo -m 666 /sprite/p/f /sprite/p/g /sprite/p/h' || flunk "mkfifo"

# A writer takes its time until this is called: it has not ended before what is to happen to it has happened.
hurry() { as sprite ws1 touch /sprite/p/$1; }
reads() { on ws1 test -s /sprite/p/$1; }
spritefs() { on $1 pgrep -xo spritefs; }
known() { on $1 grep -c 'known from before; the hub is told' /var/log/sprite/spritefs.log; }
more_known() { [ "$(known $1)" -gt $2 ]; }
# Moves $1 to ws2 (or $4), and kills the spritefs of $2 when its migd comes to step $3.
killed_at() {
	local job=$1 node=$2 step=$3 to=${4:-ws2} mover n
	n=$(known $node)
	on $node sh -c "echo hold >$FAULT/$step"
	mig move -q -H $to $job >"$TMP/say" 2>&1 & mover=$!
	until_true 20 on $node test -e $FAULT/$step.held || flunk "$step of $node is reached: $(cat "$TMP/say")"
	fault spritefs:$node
	check "the next one knows of it, and has told the hub" until_true 20 more_known $node $n
	on $node rm -f $FAULT/$step.held
	wait $mover
	same "it moves, with spritefs of $node killed at $step" "0 " "$? $(cat "$TMP/say")"
}

start ws3 w "$P w f a 40000 512 3000 go"
start ws1 r "$P r f log"
until_true 20 reads log
killed_at $PID ws2 prepared
hurry go
same "a reader gets all" "0 0 end 40000" "$(over w) $(over r) $(numbers log)"

start ws1 r2 "$P r g log2"
start ws1 w2 "$P w g a 40000 512 3000 go2"
until_true 20 reads log2
killed_at $PID ws1 sent
hurry go2
same "a reader at home gets all of a writer" "0 0 end 40000" "$(over w2) $(over r2) $(numbers log2)"

# -- from one guest host to another
start ws1 r5 "$P r g log5"
R=$PID
start ws1 w5 "$P w g a 40000 512 3000 go5"
W=$PID
until_true 20 reads log5
check "both ends move to one host" eval 'mig move -q -H ws2 $R && mig move -q -H ws2 $W'
killed_at $W ws2 sent ws3
hurry go5
same "a reader that is away gets all of a writer that leaves" "0 0 end 40000" "$(over w5) $(over r5) $(numbers log5)"

# -- without a move: both ends on a node whose spritefs is killed go on, and others find them
start ws1 r3 "$P r h log3"
start ws1 w3 "$P w h a 40000 512 3000 go3"
until_true 20 reads log3
fault spritefs:ws1
until_true 20 on ws1 test -d /sprite/p
start ws3 w4 "$P w h b 1500 512 0"
over w4 >/dev/null
hurry go3
same "a writer of another node finds the reader" "0 0 0 end 41500" "$(over w4) $(over w3) $(over r3) $(on ws1 cat /sprite/p/log3 | awk '$1 == "end" { print "end", $2 } $1 != "end" && $2 != n[$1]++ { print "not in order at", NR; exit }')"
finish
