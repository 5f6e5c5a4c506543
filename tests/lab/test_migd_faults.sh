# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 600
# migd of the home, of the source or of the destination is killed at each step of a move. Whatever the step: exactly one copy runs afterwards,
# no line of its output is lost or doubled, and in the end its parent gets the right exit status.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$TESTS:/opt/sprite/tests"
job_dir
cat >"$TMP/count.py" <<'PY'
import os, sys, time
n = 0
while not os.path.exists("stop"):
    n += 1
    print(n, flush=True)
    time.sleep(0.01)
sys.exit(42)
PY
as sprite ws1 sh -c "cat >$JD/count.py" <"$TMP/count.py"
lines() { on ws1 sh -c "wc -l <$JD/out"; }
grows() { local a; a=$(lines); until_true 10 eval '[ "$(lines)" -gt '$a' ]'; }
# copies that take part in life, on all nodes
copies() { local c=0; for n in ws1 ws2 ws3; do runs_on $n python3 && c=$((c + 1)); done; echo $c; }
up() { on "$1" test -S /run/sprite/migd.sock && on "$1" pgrep -x migd >/dev/null; }
restart() { lab kill "$1" migd KILL >/dev/null 2>&1; until_true 10 lab start "$1" migd "${@:2}"; }
whole() { on ws1 sh -c "awk '\$1 != NR { bad = 1 } END { exit bad }' $JD/out"; }

# round WHO STEP FROM TO: WHO's migd dies at STEP of a move of the job from FROM to TO
round() {
	local who=$1 step=$2 from=$3 to=$4 mover what="$1 dies at $2, $3 -> $4"
	job "python3 count.py"; until_true 10 on ws1 test -s $JD/out
	[ "$from" = ws1 ] || until_true 20 hop "$from" || { flunk "$what: first move"; return; }
	restart "$who" SPRITE_FAULT="$step"
	until_true 10 mig ps >/dev/null
	if [ "$to" = ws1 ]; then timeout 300 "$BIN/sprite-lab" exec ws1 -u sprite -- mig home "$JOB" >"$TMP/say" 2>&1 &
	else timeout 300 "$BIN/sprite-lab" exec ws1 -u sprite -- mig move -H "$to" "$JOB" >"$TMP/say" 2>&1 & fi
	mover=$! # a move that is decided waits for its destination: it may end only after the restart
	until_true 10 eval '! on '$who' sh -c "ps -C migd -o state= | grep -q [RS]"' || flunk "$what: the step was not reached ($(head -1 "$TMP/say"))"
	restart "$who"
	wait $mover
	check "$what: it goes on" until_true 30 grows || { on ws1 mig ps -a; for n in ws1 ws2 ws3; do lab logs $n migd | tail -5; done; }
	check "$what: exactly one copy" until_true 15 eval '[ "$(copies)" = 1 ]' # one that was abandoned may stand there, parked, until it has asked
	check "$what: it can still be brought home" until_true 30 eval 'mig home "$JOB" || [ -z "$(mig ps --no-header)" ]'
	on ws1 touch $JD/stop
	same "$what: exit status" 42 "$(job_status 20)"
	check "$what: no line lost or doubled" whole
	on ws1 rm -f $JD/stop
	check "$what: nothing is left" until_true 10 eval '[ -z "$(residue)" ]' || { residue; for n in ws2 ws3; do on $n pkill -9 -u sprite; done; }
}

[ -z "${ROUND:-}" ] || { round $ROUND; finish; } # one of them by hand
for step in prepare freeze dump sent commit committed done; do round ws1 $step ws1 ws2; done
for step in prepared go; do round ws2 $step ws1 ws2; done
for step in freeze dump sent; do round ws2 $step ws2 ws3; done
for step in prepare commit committed done; do round ws1 $step ws2 ws3; done
for step in prepared go; do round ws3 $step ws2 ws3; done
for step in commit committed done; do round ws1 $step ws2 ws1; done
for step in freeze dump sent; do round ws2 $step ws2 ws1; done
finish
