#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Named pipes, by turns with what they are measured against: a byte there and back between two nodes beside raw TCP, and on one node beside a FIFO of its own disk;
# throughput beside socat over TCP, with the CPU time that all of the machine used for it; open and close.
#   tests/bench/pipe_bench.sh [ROUNDS]
. "$(dirname "$0")/lib.sh"
ROUNDS=${1:-5} P=/opt/sprite/tests/bench/pipe_bench MB=200
bench_up -n 2
until_true 30 on ws2 test -d /sprite/hosts || exit 1
IP=$(on ws2 ip -4 -o addr show scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
on ws1 sh -c 'mkdir /sprite/b; cd /sprite/b; mkfifo a b c; cd /tmp; mkfifo a b c'
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; } # ticks
keep() { cat >>"$TMP/$1"; }
# pair WHAT NODE CMD -- NODE CMD: the second one's answer is kept
pair() {
	local what=$1 n1=$2 c1=$3 n2=$4 c2=$5 before
	on $n1 sh -c "$c1" >/dev/null 2>&1 &
	before=$(busy)
	on $n2 sh -c "$c2" | keep $what
	wait $!
	echo $(($(busy) - before)) | keep $what.cpu
}
for i in $(seq "$ROUNDS"); do
	pair far ws2 "$P pong /sprite/b/a /sprite/b/b" ws1 "$P ping /sprite/b/a /sprite/b/b 2000"
	pair tcp ws2 "$P tcppong 7777" ws1 "$P tcpping $IP 7777 2000"
	on ws1 $P switch 2000 | keep switch
	pair near ws1 "$P pong /sprite/b/a /sprite/b/b" ws1 "$P ping /sprite/b/a /sprite/b/b 5000"
	pair native ws1 "$P pong /tmp/a /tmp/b" ws1 "$P ping /tmp/a /tmp/b 5000"
	pair through ws1 "$P send /sprite/b/c $MB" ws2 "$P recv /sprite/b/c"
	command -v socat >/dev/null && pair socat ws1 "$P send /tmp/c $MB & exec socat -b65536 -u OPEN:/tmp/c TCP:$IP:7778,retry=200,interval=0.05" \
		ws2 "socat -b65536 -u TCP-LISTEN:7778,reuseaddr STDOUT | $P recv /dev/stdin"
	pair nearthrough ws1 "$P send /sprite/b/c $((5 * MB))" ws1 "$P recv /sprite/b/c"
	pair nativethrough ws1 "$P send /tmp/c $((5 * MB))" ws1 "$P recv /tmp/c"
	on ws1 $P open /sprite/b/c 500 | keep open
	on ws1 $P open /tmp/c 500 | keep nativeopen
done
m() { [ -s "$TMP/$1" ] && median <"$TMP/$1" || echo -; }
echo "Named pipes: medians of $ROUNDS rounds by turns; machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg)"
echo "ping-pong between two nodes  $(m far) us;  raw TCP $(m tcp) us, two context switches $(m switch) us:  $(awk -v a="$(m far)" -v b="$(m tcp)" -v c="$(m switch)" 'BEGIN { printf "%.2f", a / (b + c) }') times their sum"
echo "ping-pong on one node        $(m near) us;  native FIFO $(m native) us"
echo "throughput between two nodes $(m through) MB/s, $(m through.cpu) ticks of CPU for $MB MB;  socat over TCP $(m socat) MB/s, $(m socat.cpu) ticks"
echo "throughput on one node       $(m nearthrough) MB/s;  native FIFO $(m nativethrough) MB/s"
echo "open and close               $(m open) us;  native FIFO $(m nativeopen) us"
