# SPDX-License-Identifier: Apache-2.0
# For tests/lab/test_*.sh, sourced first. A test script checks one behaviour of the system on a lab.
#
#   # lab: shared     in its head: uses the lab of the runner (fs1, ws1..ws3), leaves it as it was. `own`: starts and ends its own (lab_up).
#   # timeout: 300    seconds, if 120 are not enough
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
# until_true SECONDS CMD...: waits for an event that nothing announces; false when it did not come
until_true() {
	local end=$((SECONDS + $1)); shift
	while ! "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
skip() { echo "skip: $1"; exit 77; }
note() { echo "#   $*"; }

# A lab of this script's own, gone with it.
lab_up() {
	export SPRITE_LAB="${SPRITE_LAB:-t}-$$"
	trap 'lab down >/dev/null 2>&1; rm -rf "$TMP"' EXIT
	lab up "$@" || { flunk "lab comes up ($*)"; exit 1; }
}
finish() { exit $FAILED; }
trap 'rm -rf "$TMP"' EXIT
