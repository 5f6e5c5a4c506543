# SPDX-License-Identifier: Apache-2.0
# For test_migd_faults.sh, test_migd_kills.sh and test_pipes_killed.sh, sourced after lib.sh: one move of a counting job, in which something goes wrong at one step of one migd (conf/fault.h).
# Whatever it was: exactly one copy runs afterwards, no line of its output is lost or doubled, in the end its parent gets the right exit status, and nothing is left.
FAULT=/run/sprite/fault
faults_up() {
	lab_up -n 3
	job_dir
	cat >"$TMP/count.py" <<-'PY'
		import mmap, os, sys, time
		n = 0
		big = os.urandom(16 << 20) # so that memory goes by a connection of its own (migd/direct.h)
		with open("/dev/shm/count", "w+b") as f:
		    f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)
		while not os.path.exists("stop"):
		    n += 1
		    if not os.path.exists("/dev/shm/count"):
		        sys.exit(41)
		    print(n, flush=True)
		    time.sleep(0.01)
		os.unlink("/dev/shm/count")
		sys.exit(42)
	PY
	as sprite ws1 sh -c "cat >$JD/count.py" <"$TMP/count.py"
	for n in ws1 ws2 ws3; do on $n mkdir -p $FAULT; lab kill $n migd TERM >/dev/null; again $n; done
}
again() { until_true 10 lab start "$1" migd SPRITE_FAULT=$FAULT && until_true 10 on "$1" mig ps; }
# Its object of /dev/shm has its name where it runs, and not at home while it is away.
named() { if [ -z "$(mig ps --no-header)" ]; then on ws1 test -e /dev/shm/count; else ! on ws1 test -e /dev/shm/count; fi; }
lines() { on ws1 sh -c "wc -l <$JD/out"; }
grows() { local a; a=$(lines); until_true 10 eval '[ "$(lines)" -gt '$a' ]'; }
whole() { on ws1 sh -c "awk '\$1 != NR { bad = 1 } END { exit bad }' $JD/out"; }
gone() { ! on "$1" sh -c "ps -C migd -o state= | grep -q [RSD]"; }
keepers() { sh_on "$1" 'for p in $(pgrep -x sprite-keeper); do awk -v p=$p "/^NSpid:/ && \$NF == 1 && NF > 2 { print p }" /proc/$p/status; done'; }

# What goes wrong, while a migd is held. WHAT: kill:NODE (its migd), keeper:NODE, spritefs:NODE, spritefsd:NODE, cut:NODE,NODE
fault() {
	local kind=${1%%:*} at=${1#*:} p
	case $kind in
	kill) lab kill $at migd KILL >/dev/null; again $at ;;
	keeper) for p in $(keepers $at); do on $at kill -9 $p; done ;;
	spritefs) for p in $(on $at pgrep -x spritefs); do on $at kill -9 $p 2>/dev/null; done ;;
	spritefsd) lab kill $at spritefsd KILL >/dev/null; until_true 10 lab start $at spritefsd ;;
	cut) lab cut ${at%,*} ${at#*,} >/dev/null ;;
	esac
}

# round WHO STEP FROM TO WHAT: a move of the job from FROM to TO, in which WHAT happens when WHO's migd comes to STEP. WHAT "die": it dies there by itself.
round() {
	local who=$1 step=$2 from=$3 to=$4 what=${5:-die} mover say n at
	say="$what at $who's $step, $3 -> $4"
	job "python3 count.py"; until_true 10 on ws1 test -s $JD/out
	[ "$from" = ws1 ] || until_true 20 hop "$from" || { flunk "$say: first move"; return; }
	on $who sh -c "echo $([ "$what" = die ] && echo die || echo hold) >$FAULT/$step"
	[ "$to" = ws1 ] && set -- mig home || set -- mig move -H "$to"
	timeout 300 "$BIN/sprite-lab" exec ws1 -u sprite -- "$@" "$JOB" >"$TMP/say" 2>&1 &
	mover=$! # a move that is decided waits for its destination: it may end only after the restart
	if [ "$what" = die ]; then
		until_true 10 gone $who || flunk "$say: the step was not reached ($(head -1 "$TMP/say"))"
		again $who
	else
		until_true 10 on $who test -e $FAULT/$step.held || flunk "$say: the step was not reached ($(head -1 "$TMP/say"))"
		fault $what
		on $who rm -f $FAULT/$step.held
		[ ${what%%:*} != cut ] || { sleep 1; at=${what#*:}; lab heal ${at%,*} ${at#*,} >/dev/null; } # long enough for calls to fail; nothing is decided by it
	fi
	wait $mover
	on $who rm -f $FAULT/$step
	n=$(lines)
	if [ ${what%%:*} = keeper ] && until_true 20 eval 'job_over || [ "$(lines)" -gt $n ]' && job_over; then # the pid 1 of its namespace: where it runs, or is to run, that is its end
		same "$say: it has ended with its keeper" 137 "$(job_status 20)"
		check "$say: on all hosts" until_true 15 no_copy
	else
		check "$say: it goes on" until_true 30 grows || { on ws1 mig ps -a; for n in ws1 ws2 ws3; do lab logs $n migd | tail -5; done; }
		check "$say: exactly one copy" until_true 15 one_copy # one that was abandoned may stand there, parked, until it has asked
		check "$say: its name in /dev/shm is with it" until_true 10 named
		check "$say: it can still be brought home" until_true 30 eval 'mig home "$JOB" || [ -z "$(mig ps --no-header)" ]'
		on ws1 touch $JD/stop
		same "$say: exit status" 42 "$(job_status 20)"
	fi
	check "$say: no line lost or doubled" whole
	on ws1 rm -f $JD/stop
	check "$say: nothing is left" until_true 10 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]' || { residue; for n in ws2 ws3; do on $n pkill -9 -u sprite; done; }
}
