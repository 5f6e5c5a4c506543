# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# A migd dies in the middle of mig rehome: one copy, on the side that the old home's journal says, and nothing of it on the other.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/faults.sh"
. "$(dirname "$0")/rehome.sh"
rehome_up
for n in ws1 ws2; do lab kill $n migd TERM >/dev/null; again $n; done

for f in ws2:fill:ws1 ws2:ahead:ws1 ws2:prepared:ws1 ws1:commit:ws1 ws1:committed:ws2 ws2:go:ws2 ws2:running:ws2 ws2:adopted:ws2 ws1:done:ws2; do
	IFS=: read -r who step side <<<"$f"
	orphan $who-$step
	on $who sh -c "echo die >$FAULT/$step"
	timeout 100 "$BIN/sprite-lab" exec ws1 -u sprite -- mig rehome -H ws2 $JOB >"$TMP/say" 2>&1 &
	until_true 10 gone $who || flunk "$who dies at $step ($(head -1 "$TMP/say"))"
	on $who rm -f $FAULT/$step
	again $who
	wait $!
	check "$who dies at $step: it goes on" goes_on $who-$step
	same "$who dies at $step: on the right side" $side "$(where $who-$step)"
	check "$who dies at $step: and only there" until_true 20 nothing_at $([ $side = ws1 ] && echo ws2 || echo ws1)
	ended $who-$step
	check "$who dies at $step: all was as it should" sound $who-$step
done
finish
