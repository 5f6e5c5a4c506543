#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 900
# One after the other and together, at random moments, under the loads of holder_load.py on two nodes: kill -9 of the server, of a node's spritefs, of both at once, and short cuts of a
# node's link. Nobody notices but by waiting; nothing is lost, nothing done twice. ROUNDS=N of them (60).
. "$(dirname "$0")/lib.sh"
lab_up -n 2
ROUNDS=${ROUNDS:-60}
D=/sprite/crashes; STOP=/tmp/crashes.stop
on ws1 mkdir -m 777 $D
for h in ws1 ws2; do lab exec $h -- tee /tmp/load.py <"$HERE/holder_load.py" >/dev/null; on $h chmod 644 /tmp/load.py; done
PIDS=(); NAMES=()
load() { # NODE NAME KIND DIR
	lab exec $1 -u sprite -- python3 /tmp/load.py $3 $D/$4 $STOP </dev/null >"$TMP/$2" 2>&1 &
	PIDS+=($!); NAMES+=($2)
}
for h in ws1 ws2; do
	for k in append names pages unlinked; do load $h $k-$h $k $k-$h; done
	load $h counter-$h counter counter
done
until_true 20 on ws1 test -s $D/append-ws2/log
spritefs() { on $1 pgrep -x spritefs; }
kill_server() { until_true 20 lab kill fs1 spritefsd KILL; }
start_server() { until_true 20 lab start fs1 spritefsd; }
kill_client() { local p; p=$(spritefs $1) && on $1 kill -9 $p && OLD=$p; }
another() { local p; p=$(spritefs $1) && [ "$p" != "$OLD" ]; }
moment() { sleep 0.$((RANDOM % 1000)); } # when, not whether: decides nothing
declare -A done_=([server]=0 [spritefs]=0 [both]=0 [cut]=0)
for i in $(seq $ROUNDS); do
	sleep $((RANDOM % 2)); moment
	h=ws$((1 + RANDOM % 2)); what=
	case $((RANDOM % 4)) in
	0)	kill_server && moment && start_server && what=server ;;
	1)	kill_client $h && until_true 20 another $h && what=spritefs ;;
	2)	kill_server && kill_client $h && moment && start_server && until_true 20 another $h && what=both ;;
	3)	lab cut $h fs1 && moment && lab heal $h fs1 && what=cut ;;
	esac
	[ "$what" ] || { flunk "round $i: all is there again"; break; }
	done_[$what]=$((${done_[$what]} + 1))
	on $h stat -t $D >/dev/null || { flunk "round $i ($what, $h): it is served again"; break; }
done
echo "# server ${done_[server]}, spritefs ${done_[spritefs]}, both ${done_[both]}, cuts ${done_[cut]}"
on ws1 touch $STOP; on ws2 touch $STOP
for i in "${!PIDS[@]}"; do
	if wait ${PIDS[$i]}; then pass "${NAMES[$i]}: $(tail -1 "$TMP/${NAMES[$i]}")"; else flunk "${NAMES[$i]}"; tail -5 "$TMP/${NAMES[$i]}" | sed 's/^/#   /'; fi
done
same "what both nodes counted is in the counter" "$(($(awk '{print $2}' "$TMP/counter-ws1") + $(awk '{print $2}' "$TMP/counter-ws2")))" "$(on ws2 cat $D/counter/counter)"
for h in ws1 ws2; do check "nothing was told to be lost on $h" sh_on $h '! grep -E "are lost|is lost|had given us up" /var/log/sprite/spritefs.log'; done
finish
