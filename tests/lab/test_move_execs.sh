# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Signals from home reach a program that is away and becomes itself again all the time (exec): each once, with its sender, in whatever moment of an exec it comes. And it moves.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
trips() { # NAME: through all hosts, with 50 signals on each
	local where n=0
	check "$1: the program starts" until_true 10 on ws1 grep -q READY $JD/out || return
	[ "$1" != deleted ] || as sprite ws1 rm $JD/x
	for where in ws2 ws3 home ws2; do
		check "$1: it moves: $where" hop $where
		as sprite ws1 bash -c "for i in {1..50}; do kill -RTMIN+1 $JOB; done"
		n=$((n + 50))
		check "$1, $where: it became itself again, and $n signals have come" until_true 20 on ws1 grep -qx "GOT $n" $JD/out || break
	done
	on ws1 kill -TERM "$JOB"
	same "$1: it ends as it should, with all as it was" "0 PASS" "$(job_status) $(on ws1 sh -c "tail -n 1 $JD/out")"
}
job "exec /opt/sprite/tests/move/execs"
trips named
as sprite ws1 cp /opt/sprite/tests/move/execs $JD/x
job "exec ./x"
trips deleted # a program that has no name any more
finish
