# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 300
# long: yes
# Two nodes change one file in every way there is, by turns and at once: every byte that either reads is the one that was written last.
. "$(dirname "$0")/lib.sh"
D=/sprite/fsx.$$
SEED=${SEED:-$RANDOM}
if [ -n "${LONG:-}" ]; then STEPS=${STEPS:-3000}; else STEPS=${STEPS:-300}; fi
on ws1 mkdir -m 777 $D
py=$(cat "$HERE/fsx.py")
mkfifo "$TMP"/{to,from}{0,1}
exec 3<>"$TMP/to0" 4<>"$TMP/to1" 5<>"$TMP/from0" 6<>"$TMP/from1"
for w in 0 1; do
	{ "$BIN/sprite-lab" exec ws$((w + 1)) -- env WHO=$w python3 -c "$py" turns $D $SEED; echo ended; } <"$TMP/to$w" >"$TMP/from$w" 2>"$TMP/turns$w" &
	until_true 20 on ws1 test -e $D/fsx
done
answer() { read -r -u $((5 + $1)) said && [ "$said" = ok ]; }
answer 0; answer 1
for k in $(seq $STEPS); do # who has the turn goes first
	w=$((k % 2))
	echo $k >&$((3 + w)); answer $w || break
	echo $k >&$((4 - w)); answer $((1 - w)) || break
done
echo end >&3; echo end >&4
same "$STEPS steps by turns (seed $SEED)" "$STEPS ok" "$k ${said:-}" || cat "$TMP"/turns?
wait
on ws1 python3 -c "$py" both $D 0 $STEPS >"$TMP/both.0" 2>&1 & one=$!
on ws2 python3 -c "$py" both $D 1 $STEPS >"$TMP/both.1" 2>&1; two=$?
wait $one
same "$STEPS steps of both at once" "0 0" "$? $two" || tail -n 3 "$TMP"/both.?
sort -n "$TMP"/both.? | sed 's/^[0-9]* //' >"$TMP/want"
blocks() { sh_on $1 "python3 -c 'd = open(\"$D/both\", \"rb\").read(); print(\"\\n\".join(d[i:i+16].decode() for i in range(0, len(d), 4096) if d[i]))'"; }
blocks ws1 >"$TMP/one"; blocks ws2 >"$TMP/two"
check "both have both's blocks" eval 'cmp "$TMP/want" "$TMP/one" && cmp "$TMP/want" "$TMP/two"'
on ws1 rm -rf $D
finish
