#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make demo: a cluster on this machine and what it can do, told with real programs. Every step is checked; the first that fails ends it.
cd "$(dirname "$0")/../.." || exit 1
BIN=$(realpath "${BUILD:-build}/bin")
export SPRITE_LAB=demo-$$ LC_ALL=C.UTF-8
TMP=$(mktemp -d /tmp/sprite-demo.XXXXXX)
T0=$EPOCHREALTIME STEP=0 SHOWN=()
[ -t 1 ] && B=$'\e[1m' G=$'\e[32m' R=$'\e[31m' N=$'\e[0m' || B='' G='' R='' N=''

lab() { "$BIN/sprite-lab" "$@"; }
on() { local n=$1; shift; "$BIN/sprite-lab" exec "$n" -u sprite -- "$@"; }   # a user's command on a node
sh_on() { local n=$1 s=$2; shift 2; on "$n" bash -c "$s" "$n" "$@"; }
seconds() { local now=$EPOCHREALTIME; printf '%6.1f' "$(( (${now/./} - ${T0/./}) / 100000 ))e-1"; }
step() { STEP=$((STEP + 1)); WHAT=$1; echo; echo "${B}$STEP. $1${N}"; }
shows() { echo "      $ $*"; }                               # what a user would type
tell() { sed 's/^/        /'; }                              # what he would see
good() { echo "$(seconds) s  ${G}ok${N}  $1"; SHOWN+=("$1"); }
wrong() {
	echo "$(seconds) s  ${R}WRONG${N}  $1"
	for n in ws1 ws2 ws3 fs1; do for d in migd spritefs spritefsd; do lab logs $n $d 2>/dev/null | tail -5 | sed "s/^/    $n $d: /"; done; done
	echo "demo failed at step $STEP: $WHAT"
	exit 1
}
expect() { if [ "$2" = "$3" ]; then good "$1"; else echo "        wanted: $2"; echo "        found:  $3"; wrong "$1"; fi; }
until_true() { local end=$((SECONDS + 6 * $1)); shift; while ! "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done; }
trap 'lab down >/dev/null 2>&1; rm -rf "$TMP"' EXIT
trap 'exit 130' INT TERM

step "A cluster on this machine: a file server and three workstations, in namespaces of their own"
shows "sprite-lab up -n 3"
lab up -n 3 2>&1 | tell
[ "${PIPESTATUS[0]}" = 0 ] || wrong "the lab came up"
lab ls | tell
good "a cluster of four nodes, each with its own network, processes, clock and boot id"

step "One tree: a C program is compiled on ws1 and is there, at once, on ws2"
on ws1 mkdir -p /sprite/src /sprite/work
tar cf - conf tests/lab | on ws1 tar xf - -C /sprite/src
shows "ws1: cd /sprite/src; gcc -O2 ... -o /sprite/work/lab conf/*.c tests/lab/*.c -ljansson     # sprite-lab's own sources"
sh_on ws1 'cd /sprite/src && gcc -O2 -D_GNU_SOURCE -DSPRITE_VERSION="\"demo\"" -I. -o /sprite/work/lab conf/*.c tests/lab/*.c -ljansson' 2>&1 | tell
[ "${PIPESTATUS[0]}" = 0 ] || wrong "it compiles"
shows "ws2: /sprite/work/lab --version"
out=$(on ws2 /sprite/work/lab --version 2>&1); tell <<<"$out"
expect "compiled on ws1, run on ws2 without copying anything" "sprite-lab (Sprite for Linux) demo" "$out"
expect "the same bytes" "$(sh_on ws1 'sha1sum </sprite/work/lab')" "$(sh_on ws3 'sha1sum </sprite/work/lab')"

step "A real file of 100 MB, and xz -9 -T2 on ws1"
# text first: xz takes three times as long for programs
sh_on ws1 'cd /; tar cf - usr/include usr/lib/python3* usr/share usr/lib usr/bin 2>/dev/null | head -c 100000000 >/sprite/work/big.tar; ls -l /sprite/work/big.tar' | tell
# the same compression, unmoved, for comparison: on the server, next to the file, while the other one travels
"$BIN/sprite-lab" exec fs1 -- sh -c 'cd /srv/sprite/work; nice xz -9 -T2 -c big.tar' >"$TMP/ref.xz" 2>"$TMP/ref.err" </dev/null &
ref=$!
shows "ws1: xz -9 -T2 -k big.tar; echo \$?      # in a shell, which waits for it"
"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c 'cd /sprite/work; xz -9 -T2 -k big.tar </dev/null >xz.out 2>&1 & echo $! >pid.new; mv pid.new pid; wait $!; echo $? >status.new; mv status.new status' &
until_true 10 on ws1 test -s /sprite/work/pid || wrong "xz started"
pid=$(on ws1 cat /sprite/work/pid)
sleep 2
before=$(on ws1 ps -o pid=,ppid=,user=,args= -p "$pid"); tell <<<"$before"
good "xz runs on ws1 as process $pid"

where() { # which node has xz working on its memory (at home a hollow has none)
	for n in ws1 ws2 ws3; do sh_on $n 'for p in $(pgrep -x xz); do r=$(awk "/VmRSS/ { print \$2 }" /proc/$p/status); [ "${r:-0}" -gt 1000 ] && exit 0; done; exit 1' && echo $n; done
}
travel() { # HOST or home, words
	local t=$EPOCHREALTIME u out
	if [ "$1" = home ]; then shows "ws1: mig home $pid"; out=$(on ws1 mig home "$pid" 2>&1) || { tell <<<"$out"; wrong "$2"; }
	else shows "ws1: mig move -H $1 $pid"; out=$(on ws1 mig move -H "$1" "$pid" 2>&1) || { tell <<<"$out"; wrong "$2"; }; fi
	u=$EPOCHREALTIME
	[ -z "$out" ] || tell <<<"$out"
	[ "$1" = home ] && set -- ws1 "$2"
	[ "$(where)" = "$1" ] || { echo "        it is on: $(where)"; wrong "$2"; }
	expect "$2 ($(( (${u/./} - ${t/./}) / 1000 )) ms); ps on ws1 shows what it showed before" "$before" "$(on ws1 ps -o pid=,ppid=,user=,args= -p "$pid")"
}
step "It moves, running: to ws2, on to ws3, and home"
travel ws2 "xz moved to ws2"
on ws1 mig ps 2>&1 | tell
sleep 1
travel ws3 "xz moved from ws2 on to ws3"
sleep 1
on ws1 test ! -e /sprite/work/status || wrong "it still ran"
travel home "xz came home"
left() { for n in ws2 ws3; do on $n pgrep -l -x xz; done; }
until_true 10 eval '[ -z "$(left)" ]' # giving 200 MB back takes a moment
expect "nothing of it is left on ws2 and ws3" "" "$(left)"

step "A python3 job is away; signals at home stop it, let it go on, end it"
"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c 'cd /sprite/work; python3 -c "
import time
while True: print(time.time(), flush=True); time.sleep(0.02)" </dev/null >py.out 2>&1 & echo $! >py.pid.new; mv py.pid.new py.pid; wait $!; echo $? >py.status.new; mv py.status.new py.status' &
until_true 10 on ws1 test -s /sprite/work/py.out || wrong "python3 started"
py=$(on ws1 cat /sprite/work/py.pid)
shows "ws1: mig move -H ws2 $py"
out=$(on ws1 mig move -H ws2 "$py" 2>&1) || { tell <<<"$out"; wrong "python3 moved"; }
on ws2 pgrep -x python3 >/dev/null || wrong "python3 is on ws2"
size() { sh_on ws3 'stat -c %s /sprite/work/py.out'; }
moves_on() { local a; a=$(size); until_true 3 eval "[ \$(size) -gt $a ]"; }
moves_on || wrong "it writes from there"
good "python3 works on ws2, its output grows before the eyes of ws3"
shows "ws1: kill -STOP $py"; on ws1 kill -STOP "$py"
until_true 3 eval '[[ $(on ws1 ps -o state= -p $py) == [Tt]* ]]' || wrong "it is stopped"
a=$(size); sleep 0.5
expect "stopped: ps on ws1 says so, and nothing is written any more" "$a" "$(size)"
shows "ws1: kill -CONT $py"; on ws1 kill -CONT "$py"
moves_on || wrong "it goes on"
good "continued: it writes again"
shows "ws1: kill $py"; on ws1 kill "$py"
until_true 5 on ws1 test -e /sprite/work/py.status || wrong "it ended"
expect "ended: its parent shell sees death by SIGTERM (128 + 15)" 143 "$(on ws1 cat /sprite/work/py.status)"

step "xz ends, at home, as if it had never left"
until_true 300 on ws1 test -e /sprite/work/status || wrong "xz ended"
expect "its parent shell gets exit status 0" 0 "$(on ws1 cat /sprite/work/status)"
wait $ref || wrong "the unmoved xz"
shows "cmp big.tar.xz, the one that travelled, with the one that did not"
on ws1 cat /sprite/work/big.tar.xz >"$TMP/moved.xz"
cmp "$TMP/ref.xz" "$TMP/moved.xz" || wrong "both are equal"
good "the result equals that of an unmoved run, byte for byte ($(stat -c %s "$TMP/moved.xz") bytes)"

step "mig make: the recipes of a build run on the hosts whose owners are away; then one of them comes back"
# sprite-lab once more, object by object, and two recipes that take longer: at most one of them runs here
on ws1 bash -c 'cat >/sprite/src/Makefile' <<'X'
SRC := $(wildcard conf/*.c tests/lab/*.c)
all: part1.xz part2.xz lab
part%.xz: part%
	xz -9 -kf $<
lab: $(SRC:.c=.o)
	gcc -o $@ $^ -ljansson
%.o: %.c
	gcc -O2 -D_GNU_SOURCE '-DSPRITE_VERSION="demo"' -I. -c -o $@ $<
X
sh_on ws1 'for n in 1 2; do head -c ${n}0000000 /sprite/work/big.tar | tail -c 10000000 >/sprite/src/part$n; done'
"$BIN/sprite-lab" exec fs1 -- xz -9 -c /srv/sprite/src/part1 /srv/sprite/src/part2 >"$TMP/part.xz" </dev/null &
ref=$!
idle() { [ "$(on ws1 mig hosts --no-header -o NAME,STATE | grep -cE '^ws[23] +idle')" = 2 ]; }
until_true 60 idle || { on ws1 mig hosts -v | tell; wrong "ws2 and ws3 are idle"; }
shows "ws1: mig hosts"; on ws1 mig hosts | tell
shows "ws1: mig make -j8 --local 1 --verbose"
"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c 'cd /sprite/src; mig make -j8 --local 1 --verbose >make.out 2>&1 </dev/null; echo $? >make.status.new; mv make.status.new make.status' </dev/null >/dev/null 2>&1 &
who() { local h; for h in ws2 ws3; do on $h pgrep -x xz >/dev/null && echo $h; done; }
until_true 30 eval '[ -n "$(who)" ]' || { on ws1 tail /sprite/src/make.out | tell; wrong "xz is away"; }
host=$(who | tail -1)
shows "ws1: mig ps"; on ws1 mig ps | tell
good "recipes run on ws2 and ws3"
guests() { "$BIN/sprite-lab" exec $host -- ps -u sprite -o pid=,comm= | grep -v lab-console; }
shows "sprite-lab input $host       # its owner touches a key"
t=$EPOCHREALTIME; lab input $host || wrong "a key"
until_true 10 eval '[ -z "$(guests)" ]' || { guests | tell; wrong "all guests have left $host"; }
u=$EPOCHREALTIME
lab logs $host migd | grep -E 'in use|owner' | tail -1 | tell
shows "ws1: mig ps"; on ws1 mig ps | tell
good "$(( (${u/./} - ${t/./}) / 1000 )) ms after the key nothing of ours is on $host any more"
until_true 120 on ws1 test -e /sprite/src/make.status || { on ws1 mig ps | tell; on ws1 tail /sprite/src/make.out | tell; wrong "the build ends"; }
expect "the build goes on and ends well" 0 "$(on ws1 cat /sprite/src/make.status)"
grep -o -- '-> ws[0-9]*' <(on ws1 cat /sprite/src/make.out) | sort | uniq -c | sed 's/->/recipes sent to/' | tell
wait $ref || wrong "the unmoved xz"
on ws1 cat /sprite/src/part1.xz /sprite/src/part2.xz >"$TMP/made.xz"
cmp "$TMP/part.xz" "$TMP/made.xz" || wrong "what was evicted is whole"
expect "what was built elsewhere is what gcc made at home, byte for byte; so is the file of the xz that was driven out" "$(sh_on ws1 'sha1sum </sprite/work/lab')" "$(sh_on ws1 'sha1sum </sprite/src/lab')"

step "All is torn down"
shows "sprite-lab down"
lab down || wrong "down"
[ ! -e /run/sprite-lab/$SPRITE_LAB ] && ! grep -q "$SPRITE_LAB" /proc/mounts || wrong "nothing is left"
good "no process, mount, link or file is left"

echo
echo "${B}What was shown${N}"
printf '  - %s\n' "${SHOWN[@]}"
echo "$STEP steps, ${#SHOWN[@]} checks,$(seconds) seconds: all well. Now try it yourself: README.md, \"Use the lab\"."
