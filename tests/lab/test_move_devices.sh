# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 120
# A process that is moved sees each file under the device number that it remembers (st_dev): programs that compare it go on. xz removes its source, rm -r and find go on
# in the middle of a tree, on /sprite and on the home's own disk. (tests/move/devices.c compares every call's numbers.)
. "$(dirname "$0")/lib.sh"
job_dir
OWN=/var/tmp/devices.$$
trap 'on ws1 rm -rf $JD $OWN; rm -rf "$TMP"' EXIT
as sprite ws1 mkdir -p $OWN

# xz_moved DIR: it is stopped when it has looked at its source and made its output, moved so, and goes on and ends away
xz_moved() {
	as sprite ws1 sh -c "cd $1; head -c 4000000 /dev/urandom >big; cp big ref; rm -f $JD/rc $JD/pid"
	"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "cd $JD; xz -9e -T2 $1/big </dev/null >out 2>err & p=\$!; until [ -e $1/big.xz ]; do :; done; kill -STOP \$p; echo \$p >pid.new; mv pid.new pid; wait \$p; echo \$? >rc.new; mv rc.new rc" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 test -s $JD/pid
	JOB=$(on ws1 cat $JD/pid)
	check "xz in $1: moved in its work" hop ws2
	on ws1 kill -CONT "$JOB"
	same "xz in $1: status" 0 "$(job_status)"
	same "xz in $1: says nothing" "" "$(on ws1 cat $JD/err)"
	check "xz in $1: its source is gone" eval '! on ws1 test -e '$1'/big'
	check "xz in $1: and what it made is right" sh_on ws1 "xz -dc $1/big.xz | cmp - $1/ref"
}

# find removes a tree, and stands still in its middle until it has been moved
tree_moved() {
	as sprite ws1 bash -c "mkdir -p $1/tree/{a,b,c}/{1,2}/deep $1/work; for d in \$(find $1/tree -type d); do touch \$d/f; done"
	as sprite ws1 sh -c "cat >$1/step; chmod +x $1/step" <<'S'
#!/bin/sh
echo "$1" >>../seen
[ "$(wc -l <../seen)" != 12 ] || { touch ../half; until [ -e ../on ]; do sleep 0.05; done; }
S
	job "sh -c 'cd $1/work && exec find ../tree -depth -exec ../step {} \\; -delete'"
	until_true 20 on ws1 test -e $1/half
	check "find -delete in $1: moved in the middle of the tree" hop ws2
	on ws1 touch $1/on
	same "find -delete in $1: status" 0 "$(job_status)"
	same "find -delete in $1: says nothing" "" "$(on ws1 cat $JD/err)"
	check "find -delete in $1: the tree is gone" eval '! on ws1 test -e '$1'/tree'
}

# rm asks before each step: the answers to all after the sixth come when it has been moved
rm_moved() {
	as sprite ws1 bash -c "mkdir -p $1/rm/{a,b}/{1,2}/deep; for d in \$(find $1/rm -type d); do touch \$d/f; done"
	as sprite ws1 sh -c "cat >$JD/answers" <<'S'
yes | head -n 6
until [ -e answer ]; do sleep 0.05; done
yes | head -n 60
S
	job "true; sh answers | rm -ri $1/rm >said 2>&1"
	until_true 20 sh_on ws1 '[ "$(tr -cd "?" <$1/said | wc -c)" = 7 ]' $JD
	check "rm -ri in $1: moved in the middle of the tree" hop ws2
	on ws1 touch $JD/answer
	same "rm -ri in $1: status" 0 "$(job_status)"
	check "rm -ri in $1: the tree is gone" eval '! on ws1 test -e '$1'/rm'
	on ws1 rm -f $JD/answer
}
for d in $JD $OWN; do
	xz_moved $d
	tree_moved $d
	rm_moved $d
done
finish
