# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 420
# 50 moves in a row of each of four real programs, side by side: identical output and exit status, nothing left behind.
. "$(dirname "$0")/lib.sh"
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
}
# lane FUNCTION: beside the others, in a directory of its own
LANES=()
lane() { (job_dir; $1; on ws1 rm -rf $JD; echo "# $1: $SECONDS s"; exit $FAILED) & LANES+=($!); }

# What an unmoved run gives comes first. Blocks of xz -3 are 12 MiB, so that both threads have one each; those of -6 are 24, and its memory makes this lane the longest.
xz_moves() {
	local level=$([ -n "${LONG:-}" ] && echo 6 || echo 3) bytes=$([ -n "${LONG:-}" ] && echo 60000000 || echo 25200000)
	as sprite ws1 bash -c "cd $JD; tar cf in.tar -C / usr/include usr/share/perl 2>/dev/null; head -c $bytes in.tar >in; rm in.tar; xz -$level -T2 -c in >ref.xz"
	many "xz -T2" "xz -$level -T2 -c in >out.xz" "sha1sum <out.xz" "0 $(on ws1 sh -c "cd $JD; sha1sum <ref.xz")"
}

cat >"$TMP/hash.py" <<'PY'
import hashlib, sys
h = b"sprite"
for i in range(400000): h = hashlib.sha256(h + b"%d" % i).digest()
print(h.hex()); sys.exit(7)
PY
python_moves() {
	as sprite ws1 sh -c "cat >$JD/hash.py" <"$TMP/hash.py"
	many python3 "python3 hash.py" "cat out" "7 $(as sprite ws1 python3 $JD/hash.py)"
}

# 2500 functions make a compiler of 320 MB, and two minutes of this lane: in `make check` it is less
python3 - $([ -n "${LONG:-}" ] && echo 2500 || echo 600) >"$TMP/long.c" <<'PY'
import sys
n = int(sys.argv[1])
for i in range(n):
    print("static int f%d(int a, int b) { int s = %d; for (int i = 0; i < a; i++) { s += (a ^ i) * b; if (s %% 7 == 3) s -= b << 2; else s ^= a + %d; } return s; }" % (i, i, i))
print("int main(int c, char **v) { (void)v; int s = 0;"); [print("s += f%d(c, s);" % i) for i in range(n)]; print("return s & 1; }")
PY
gcc_moves() {
	as sprite ws1 sh -c "cat >$JD/long.c" <"$TMP/long.c"
	as sprite ws1 sh -c "cd $JD; gcc -O2 -c -o ref.o long.c"
	many gcc "gcc -O2 -c -o out.o long.c" "sha1sum <out.o" "0 $(on ws1 sh -c "cd $JD; sha1sum <ref.o")"
}

# 17 threads, mutexes, condition variables: it checks itself until it is told to end
threads_move() {
	local n=0 out
	job "/opt/sprite/tests/move/threads" || return
	until_true 10 on ws1 grep -q READY $JD/out
	while [ $n -lt $MOVES ] && out=$(hop ${hops[$((n % 6))]} 2>&1); do n=$((n + 1)); done
	[ $n = $MOVES ] || note "$out"
	check "17 threads: $MOVES moves" test $n -ge $MOVES
	on ws1 kill -TERM "$JOB"
	same "17 threads: status and last words" "0 PASS" "$(job_status) $(on ws1 sh -c "tail -1 $JD/out")"
}

short_moves() { threads_move; python_moves; }
for l in xz_moves gcc_moves short_moves; do lane $l; done
for p in "${LANES[@]}"; do wait $p || FAILED=1; done
check "nothing of them is left" until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"
finish
