# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# mig run in a file that it shares with its caller (test_run_offsets.sh), while daemons are killed and started again: nothing is lost, written over or read twice.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
HD=/home/sprite/run.$$
as sprite ws1 mkdir -p $HD
up() { on "$1" mig ps >/dev/null 2>&1; }
again() {
	if [ "$2" = spritefs ]; then on "$1" pkill -9 -x spritefs; return; fi # of /sprite and of the views: their holders start them again
	lab kill "$1" "$2" KILL >/dev/null; until_true 10 lab start "$1" "$2"; [ "$2" != migd ] || until_true 10 up "$1"
}
lines() { printf '%s\n' "$@"; }
N=0
in_file() { as sprite ws1 grep -qx "$1" $D/f; }

# round WHAT NODE DAEMON...: they die one after the other while the command is away
round() {
	local what=$1 k; shift; N=$((N + 1))
	as sprite ws1 bash -c ": >$D/f"
	as sprite ws1 bash -c "cd $D; printf '1\n2\n3\n4\n' >in; ( echo begin; mig run -H ws2 bash -c 'read -r l; echo \$l; until [ -e g$N ]; do sleep 0.1; done; read -r l; echo \$l'; read -r l; echo \$l; cat ) <in >f 2>err" </dev/null >/dev/null 2>&1 &
	k=$!
	check "$what: it is there" until_true 20 in_file 1
	while [ $# -gt 0 ]; do again "$1" "$2"; shift 2; done
	as sprite ws1 touch $D/g$N
	wait $k
	same "$what: each line once, in order" "$(lines begin 1 2 3 4)" "$(as sprite ws1 cat $D/f)" || as sprite ws1 cat $D/err
}
for D in $HD $JD; do
	W=$([ $D = $JD ] && echo /sprite || echo "the home's disk")
	round "$W: migd of the guest host" ws2 migd
	round "$W: migd of the home" ws1 migd
	round "$W: both" ws1 migd ws2 migd
	round "$W: spritefs of the guest host" ws2 spritefs
done
round "a file server" fs1 spritefsd
# The guest host is lost: what was there is there, and who goes on writes behind it.
D=$HD
as sprite ws1 bash -c ": >$D/f"
as sprite ws1 bash -c "cd $D; ( echo begin; mig run -H ws2 sh -c 'echo 1; sleep 1000'; echo end ) >f" </dev/null >/dev/null 2>&1 &
k=$!
check "it is there" until_true 20 in_file 1
lab kill ws2 migd KILL >/dev/null
on ws2 pkill -9 -x sprite-keeper
until_true 10 lab start ws2 migd
wait $k
same "a lost guest" "$(lines begin 1 end)" "$(as sprite ws1 cat $D/f)"
finish
