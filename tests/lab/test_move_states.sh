# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 400
# Every kind of state survives: each program of tests/move is moved home -> ws2 -> ws3 -> home -> ws2 while it works, and checks itself.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
for p in "$HERE"/../move/*.c; do
	name=$(basename "$p" .c)
	on ws1 test -x /opt/sprite/tests/move/$name || { flunk "$name: not built"; continue; }
	job "/opt/sprite/tests/move/$name 0 $JD" || continue
	until_true 10 eval "job_over || on ws1 grep -q READY $JD/out"
	if job_over && [ "$(job_status)" = 77 ]; then note "$name: $(on ws1 cat $JD/out)"; continue; fi
	ok=1
	for where in ws2 ws3 home ws2; do
		if ! out=$(hop $where 2>&1); then ok=0; flunk "$name: moves to $where"; note "$out"; note "$(on ws1 cat $JD/out $JD/err | tail -3)"; break; fi
		sleep 0.2 # let it work there
	done
	if [ $ok = 1 ]; then
		on ws1 kill -TERM "$JOB"
		st=$(job_status 20)
		same "$name: survives four moves" "0 PASS" "$st $(on ws1 sh -c "tail -1 $JD/out")"
	fi
	job_over || { on ws1 kill -9 "$JOB" 2>/dev/null; job_status 10 >/dev/null; }
done
same "nothing is left" "" "$(residue)"
finish
