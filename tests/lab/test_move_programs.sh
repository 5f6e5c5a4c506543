# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 420
# 50 moves in a row of real programs: identical output and exit status, nothing left behind.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
MOVES=${SPRITE_MOVES:-50}
hops=(ws2 ws3 home ws3 ws2 home)

# many NAME CMDLINE RESULT STATUS: starts it again when it ends before it was moved often enough
many() {
	local name=$1 cmd=$2 result=$3 want=$4 n=0 runs=0 out k=0 got first bad=0
	job "$cmd" || return
	while [ $n -lt $MOVES ]; do
		if job_over; then
			[ $bad = 0 ] || break
			runs=$((runs + 1)); got="$(job_status) $(on ws1 sh -c "cd $JD; $result")"
			[ "$got" = "$want" ] || { bad=1; break; }
			job "$cmd" || return
			k=0
		fi
		if out=$(hop ${hops[$((k % 6))]} 2>&1); then n=$((n + 1)); k=$((k + 1))
		else
			until_true 3 job_over && continue # it ended in the meantime
			bad=1; note "move $((n + 1)) to ${hops[$((k % 6))]}: $out"; on ws1 ps -ef | sed 's/^/#   /' | tail -12; break
		fi
	done
	[ $bad = 0 ] && got="$(job_status 120) $(on ws1 sh -c "cd $JD; $result")"
	runs=$((runs + 1))
	if [ $bad = 0 ] || [ -n "${got:-}" ]; then same "$name: output and exit status after $n moves in $runs runs" "$want" "$got"; fi
	check "$name: $MOVES moves" test $n -ge $MOVES
	job_over || on ws1 sh -c "kill -9 $JOB" 2>/dev/null
	same "$name: nothing is left" "" "$(residue)"
}

# what an unmoved run gives
as sprite ws1 bash -c "cd $JD; tar cf in.tar -C / usr/include usr/share/perl 2>/dev/null; head -c 24000000 in.tar >in; rm in.tar; xz -6 -T2 -c in >ref.xz"
want="0 $(on ws1 sh -c "cd $JD; sha1sum <ref.xz")"
many "xz -T2" "xz -6 -T2 -c in >out.xz" "sha1sum <out.xz" "$want"

cat >"$TMP/hash.py" <<'PY'
import hashlib, sys
h = b"sprite"
for i in range(400000): h = hashlib.sha256(h + b"%d" % i).digest()
print(h.hex()); sys.exit(7)
PY
as sprite ws1 sh -c "cat >$JD/hash.py" <"$TMP/hash.py"
want="7 $(as sprite ws1 python3 $JD/hash.py)"
many python3 "python3 hash.py" "cat out" "$want"

python3 - >"$TMP/long.c" <<'PY'
for i in range(2500):
    print("static int f%d(int a, int b) { int s = %d; for (int i = 0; i < a; i++) { s += (a ^ i) * b; if (s %% 7 == 3) s -= b << 2; else s ^= a + %d; } return s; }" % (i, i, i))
print("int main(int c, char **v) { (void)v; int s = 0;"); [print("s += f%d(c, s);" % i) for i in range(2500)]; print("return s & 1; }")
PY
as sprite ws1 sh -c "cat >$JD/long.c" <"$TMP/long.c"
as sprite ws1 sh -c "cd $JD; gcc -O2 -c -o ref.o long.c"
want="0 $(on ws1 sh -c "cd $JD; sha1sum <ref.o")"
many gcc "gcc -O2 -c -o out.o long.c" "sha1sum <out.o" "$want"

if on ws1 test -x /opt/sprite/tests/move/threads; then
	# 17 threads, mutexes, condition variables: it checks itself until it is told to end
	job "/opt/sprite/tests/move/threads"
	until_true 10 on ws1 grep -q READY $JD/out
	n=0
	while [ $n -lt $MOVES ] && out=$(hop ${hops[$((n % 6))]} 2>&1); do n=$((n + 1)); done
	[ $n = $MOVES ] || note "$out"
	check "17 threads: $MOVES moves" test $n -ge $MOVES
	on ws1 kill -TERM "$JOB"
	same "17 threads: status and last words" "0 PASS" "$(job_status) $(on ws1 sh -c "tail -1 $JD/out")"
	same "17 threads: nothing is left" "" "$(residue)"
fi
finish
