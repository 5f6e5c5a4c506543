#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# kill -9 of spritefs again and again, also while it has just begun to go on: small files are made, looked at and removed all the while, and whoever stands in their
# directory knows where that is. KILLS=N (40).
. "$(dirname "$0")/lib.sh"
lab_up -n 1
KILLS=${KILLS:-40} D=/sprite/kills STOP=/tmp/kills.stop
as sprite ws1 mkdir $D
lab exec ws1 -- tee /tmp/load.py <"$HERE/holder_load.py" >/dev/null
on ws1 chmod 644 /tmp/load.py
PIDS=()
for k in 1 2 3; do lab exec ws1 -u sprite -- python3 /tmp/load.py small $D $STOP </dev/null >"$TMP/small$k" 2>&1 & PIDS+=($!); done
until_true 20 sh_on ws1 'ls $1 | grep -q .' $D
killed=0
for i in $(seq $KILLS); do
	old=$(on ws1 pgrep -x spritefs) && on ws1 kill -9 $old && killed=$((killed+1))
	until_true 20 on ws1 bash -c "p=\$(pgrep -x spritefs) && [ \$p != $old ]" || { flunk "round $i: another spritefs"; break; }
	sleep 0.$((RANDOM % 4))$((RANDOM % 10))   # a random moment: decides nothing
done
same "spritefs was killed so often" $KILLS $killed
on ws1 touch $STOP
for k in 1 2 3; do if wait ${PIDS[k-1]}; then pass "$(tail -1 "$TMP/small$k")"; else flunk "$(tail -1 "$TMP/small$k")"; fi; done
check "nothing is left of the files" sh_on ws1 '[ -z "$(ls $1)" ]' $D
same "no change was lost" "" "$(lab logs ws1 spritefs | grep "is lost")"
check "the server knows of nothing open" until_true 10 sh_on ws1 'grep -q "^fs1 ws1 /sprite opens=0 " /sprite/.sprite/clients'
finish
