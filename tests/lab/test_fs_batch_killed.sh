# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# long: yes
# kill -9 of the server and of spritefs in the middle of batches: of what was answered before it was sent nothing is lost, and nothing is done twice.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
# ---- kill -9 of the server, then of spritefs, while a tree is unpacked, changed and removed
on ws1 sh -c 'mkdir /tmp/src && cd /tmp/src && for i in $(seq 12); do mkdir d$i; for k in $(seq 40); do echo $i $k >d$i/f$k; done; done; tar cf /tmp/src.tar .'
cat >"$TMP/tree.sh" <<'SH'
set -e
for r in $(seq 100); do
	[ ! -e /sprite/tree.stop ] || exit 0
	rm -rf /sprite/tree; mkdir /sprite/tree
	tar xf /tmp/src.tar -C /sprite/tree
	for i in 1 2 3; do for k in 1 2 3 4 5; do mv /sprite/tree/d$i/f$k /sprite/tree/d$i/g$k; chmod 600 /sprite/tree/d$i/g$k; rm /sprite/tree/d$i/g$k; cp -p /tmp/src/d$i/f$k /sprite/tree/d$i/f$k; done; done
	diff -r /tmp/src /sprite/tree
	echo $r >/sprite/tree.round
done
SH
"$BIN/sprite-lab" exec ws1 -- bash -s >"$TMP/tree.1" 2>&1 <"$TMP/tree.sh" &
worker=$!
until_true 60 on ws1 test -s /sprite/tree.round
for k in $(seq ${KILLS:-4}); do
	sleep 0.$((RANDOM % 9))$((RANDOM % 9))
	until_true 10 lab kill fs1 spritefsd KILL
	until_true 10 lab start fs1 spritefsd
	was=$(on ws1 cat /sprite/tree.round); until_true 60 sh_on ws1 '[ "$(cat /sprite/tree.round)" != "$1" ]' "$was" || flunk "goes on after the server was killed"
	sleep 0.$((RANDOM % 9))$((RANDOM % 9))
	on ws1 pkill -9 -x spritefs
	was=$(on ws1 cat /sprite/tree.round); until_true 60 sh_on ws1 '[ "$(cat /sprite/tree.round)" != "$1" ]' "$was" || flunk "goes on after spritefs was killed"
done
on ws1 sh -c ': >/sprite/tree.stop'
wait $worker
same "no program saw anything of it, nothing is lost or done twice" "0:" "$?:$(tail -5 "$TMP/tree.1")"
sh_on ws1 'rm -rf /sprite/tree; mkdir /sprite/tree; tar xf /tmp/src.tar -C /sprite/tree'
same "another node has the whole tree" "480 $(on ws1 sh -c 'cd /tmp/src; cat d*/* | md5sum')" "$(sh_on ws2 'cd /sprite/tree; echo $(find . -type f | wc -l) "$(cat d*/* | md5sum)"')"

finish
