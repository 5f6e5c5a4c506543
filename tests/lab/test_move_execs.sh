# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Signals from home reach a program that is away and becomes itself again all the time (exec): each once, with its sender, in whatever moment of an exec it comes. And it moves.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
job "exec /opt/sprite/tests/move/execs"
check "the program starts" until_true 10 on ws1 grep -q READY $JD/out
N=0
for where in ws2 ws3 home ws2; do
	check "it moves: $where" hop $where
	as sprite ws1 bash -c "for i in {1..50}; do kill -RTMIN+1 $JOB; done"
	N=$((N + 50))
	check "$where: $N signals have come" until_true 20 on ws1 grep -qx "GOT $N" $JD/out || break
done
on ws1 kill -TERM "$JOB"
same "it ends as it should, with all as it was" "0 PASS" "$(job_status) $(on ws1 sh -c "tail -n 1 $JD/out")"

# the same of a program that has no name any more
as sprite ws1 cp /opt/sprite/tests/move/execs $JD/x
job "exec ./x"
until_true 10 on ws1 grep -q READY $JD/out
as sprite ws1 rm $JD/x
N=0
for where in ws2 ws3 home ws2; do
	check "deleted, it moves: $where" hop $where
	as sprite ws1 bash -c "for i in {1..50}; do kill -RTMIN+1 $JOB; done"
	N=$((N + 50))
	check "deleted, $where: it becomes itself, and $N signals have come" until_true 20 on ws1 grep -qx "GOT $N" $JD/out || break
done
on ws1 kill -TERM "$JOB"
same "deleted: it ends as it should" "0 PASS" "$(job_status) $(on ws1 sh -c "tail -n 1 $JD/out")"
finish
