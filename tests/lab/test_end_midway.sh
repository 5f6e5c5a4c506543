# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# A family whose first process ends while it is on its way home: its end and its children's are known, and nobody is left, whichever way that comes out.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/ends.sh" <<'SH'
x=$(head -c 15000000 /dev/zero | tr '\0' x) # so that a move takes its time
echo ready >r.new; mv r.new ready
until test -e go; do sleep 0.02; done
rm go
(sleep 0.3)
exit 7
SH
as sprite ws1 sh -c "cat >$JD/ends.sh" <"$TMP/ends.sh"
gone() { [ -z "$(mig ps --no-header)" ] && [ -z "$(residue)" ]; }
wrong=0
for k in $(seq 12); do
	as sprite ws1 rm -f $JD/rc $JD/ready
	as sprite ws1 bash -c "cd $JD; (exec bash ends.sh >>out 2>&1) & echo \$! >pid.new; mv pid.new pid; wait \$!; echo \$? >rc.new; mv rc.new rc" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 test -e $JD/ready
	P=$(on ws1 cat $JD/pid)
	mig move -q -H ws$((2 + k % 2)) "$P" || { flunk "move $k"; continue; }
	as sprite ws1 touch $JD/go
	sleep "0.$((k * 3 + 2))" # (some three tenths of a second are what it lives)
	mig home "$P" >"$TMP/home" 2>&1
	rc=$(job_status 30)
	[ "$rc" = 7 ] || { wrong=$((wrong + 1)); note "round $k: status $rc after $(cat "$TMP/home")"; }
done
same "every one has its status" 0 $wrong
check "and nobody is left of any" until_true 10 gone || { mig ps; residue; }
finish
