# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 200
# What happens at home to the names of what a process away has open, mapped, or works in, keeps nobody from coming home, and it goes on with the very same files (names.py).
. "$(dirname "$0")/lib.sh"
D=/tmp/names.$$
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT
as sprite ws1 mkdir -p $D
as sprite ws1 timeout 300 python3 -S /opt/sprite/src/lab/names.py /opt/sprite/tests/tools/kept $D ws2 ws3 >"$TMP/out" 2>&1
rc=$?
while read -r line; do
	case $line in
	ok*) pass "comes home: ${line#ok }" ;;
	"not ok"*) flunk "comes home: ${line#not ok }" ;;
	*) echo "$line" ;;
	esac
done <"$TMP/out"
[ $rc = 0 ] || flunk "the cases are played to the end (status $rc)"
[ "$(grep -c '^ok' "$TMP/out")" -gt 20 ] || flunk "all cases are there"
finish
