# SPDX-License-Identifier: Apache-2.0
# For tests/lab/test_*.sh, sourced first. A test script checks one behaviour of the system on a lab.
#
#   # lab: shared     in its head: uses the lab of the runner (fs1, ws1..ws3), leaves it as it was. `own`: starts and ends its own (lab_up).
#   # timeout: 300    seconds, if 120 are not enough (only what hangs may meet it: the runner doubles it)
#   # long: yes       too long for every `make check`: run by `make check-long`, or by name
#
# Lines "ok - what" and "not ok - what" are counted by the runner. Exit 77 = skipped, the last line says why.
set -u -o pipefail
BIN=${SPRITE_BIN:?the directory of our programs}
TESTS=${SPRITE_TESTS:?the directory of the built test programs}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TMP=$(mktemp -d /tmp/sprite-test.XXXXXX)
FAILED=0

lab() { "$BIN/sprite-lab" "$@"; }
# on NODE CMD...: as root there.  as USER NODE CMD...
on() { local n=$1; shift; "$BIN/sprite-lab" exec "$n" -- "$@"; }
as() { local u=$1 n=$2; shift 2; "$BIN/sprite-lab" exec "$n" -u "$u" -- "$@"; }
# sh_on NODE 'script' [ARGS...]
sh_on() { local n=$1 s=$2; shift 2; "$BIN/sprite-lab" exec "$n" -- bash -c "$s" "$n" "$@"; }

pass() { echo "ok - $1"; }
flunk() { echo "not ok - $1"; FAILED=1; return 1; }
# check WHAT CMD...: CMD must succeed; its output is shown when it does not
check() {
	local what=$1 out rc; shift
	out=$("$@" 2>&1); rc=$?
	if [ $rc -eq 0 ]; then pass "$what"; else flunk "$what"; echo "#   $* -> status $rc"; [ -z "$out" ] || sed 's/^/#   /' <<<"$out" | tail -20; fi
	return $rc
}
# refused WHAT STATUS REGEX CMD...: CMD must end with STATUS and say something that matches REGEX
refused() {
	local what=$1 want=$2 text=$3 out rc; shift 3
	out=$("$@" 2>&1); rc=$?
	if [ $rc -eq "$want" ] && grep -qE -- "$text" <<<"$out"; then pass "$what"; return 0; fi
	flunk "$what"; echo "#   $* -> status $rc, wanted $want and /$text/"; sed 's/^/#   /' <<<"$out" | tail -20
	return 1
}
# same WHAT WANTED FOUND
same() {
	if [ "$2" = "$3" ]; then pass "$1"; else flunk "$1"; echo "#   wanted: $(head -c 400 <<<"$2")"; echo "#   found:  $(head -c 400 <<<"$3")"; return 1; fi
}
# until_true SECONDS CMD...: waits for an event that nothing announces; false when it did not come. SECONDS is what it may take on a machine that is not busy:
# a busy one gets six times as long, since time decides nothing here but when to give up.
until_true() {
	local end=$((SECONDS + 6 * $1)); shift
	while ! "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
# heap NODE DAEMON: kB that it has allocated (what it holds of the machine's memory is mostly what its allocator keeps)
heap() { sh_on "$1" 'printf "{\"verb\":\"heap\"}\n" | python3 -c "import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.stdin.buffer.read()); print(json.loads(s.makefile().readline())[\"bytes\"] >> 10)" /run/sprite/$1.sock' "$2"; }
skip() { echo "skip: $1"; exit 77; }
note() { echo "#   $*"; }

# A lab of this script's own, gone with it; its logs go to the runner when something failed.
lab_logs() { for n in fs1 ws1 ws2 ws3; do lab logs $n 2>/dev/null | tail -n 200 | sed "s/^/@ $n: /"; done; }
own_end() {
	local rc=$?
	[ $FAILED = 0 ] || lab_logs
	lab down >"$TMP/down" 2>&1 || { [ $? = 1 ] && echo "not ok - no daemon has crashed" && sed 's/^/#   /' "$TMP/down" && rc=1; }
	rm -rf "$TMP"
	exit $rc
}
lab_up() {
	export SPRITE_LAB="${SPRITE_LAB:-t}-$$"
	trap own_end EXIT
	lab up "$@" || { flunk "lab comes up ($*)"; exit 1; }
}
finish() { exit $FAILED; }
trap 'rm -rf "$TMP"' EXIT

# ---- jobs that move. All run on ws1, their home, as user sprite, in a directory of /sprite.
# job_dir: makes $JD (in /sprite, on all nodes), removed by the caller's trap or with the lab
job_dir() { JD=/sprite/job.$$.$RANDOM; as sprite ws1 mkdir -p $JD || { flunk "mkdir $JD"; exit 1; }; }
# job CMDLINE: starts it in $JD under a shell of its own, which waits for it and writes its status to $JD/rc. $JOB: its pid.
# CMDLINE is one simple command with redirections; stdin is /dev/null, stdout $JD/out, stderr $JD/err unless it says otherwise.
job() {
	as sprite ws1 rm -f $JD/rc $JD/pid
	"$BIN/sprite-lab" exec ws1 -u sprite -- bash -c "cd $JD; </dev/null >out 2>err $1 & echo \$! >pid.new; mv pid.new pid; wait \$!; echo \$? >rc.new; mv rc.new rc" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 test -s $JD/pid || { flunk "start of: $1"; on ws1 cat $JD/err; return 1; }
	JOB=$(on ws1 cat $JD/pid)
}
job_over() { on ws1 test -e $JD/rc; }
job_status() { until_true "${1:-60}" job_over; on ws1 cat $JD/rc 2>/dev/null || echo "still runs"; }
mig() { as sprite ws1 mig "$@"; }
# hop WHERE: one move of $JOB: to a host or home
hop() { if [ "$1" = home ]; then mig home "$JOB"; else mig move -H "$1" "$JOB"; fi; }
# runs_on NODE NAME: is a process of that name there that takes part in life (a hollow at home does not count: it has no memory)?
runs_on() { sh_on "$1" 'for p in $(pgrep -x "$1"); do r=$(awk "/VmRSS/ { print \$2 }" /proc/$p/status); [ "${r:-0}" -gt 400 ] && exit 0; done; exit 1' "$2"; }
# copies: how many processes of $JOB's number have memory, on all nodes. Its home's hollow has none; a copy that was given up stands, parked, until it has asked.
copies() {
	local c=0
	for n in ws1 ws2 ws3; do
		c=$((c + $(sh_on $n 'awk -v pid="$1" -v own=$([ "$0" = ws1 ] && echo 2) "/^NSpid:/ { ours = \$NF == pid && (own ? NF == own : NF > 2) } /^VmRSS:/ && ours && \$2 > 400 { c++ } END { print c + 0 }" /proc/[0-9]*/status 2>/dev/null' "$JOB")))
	done
	echo $c
}
# Whatever has gone wrong: one copy of a family runs.
one_copy() { [ "$(copies)" = 1 ]; }
no_copy() { [ "$(copies)" = 0 ]; }
# Has any guest host something of user sprite left that is not of the lab?
residue() { for n in ws2 ws3; do on $n ps -u sprite -o pid=,comm= | grep -v lab-console | sed "s/^/$n: /"; done; }
