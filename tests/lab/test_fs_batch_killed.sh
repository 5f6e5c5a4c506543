# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# long: yes
# kill -9 of the server and of spritefs in the middle of batches: of what was answered before it was sent nothing is lost, and nothing is done twice.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
on ws1 mkdir -m 777 /sprite/mine
# ---- kill -9 of the server, then of spritefs, while a tree is unpacked, changed and removed
on ws1 sh -c 'mkdir /tmp/src && cd /tmp/src && for i in $(seq 12); do mkdir d$i; for k in $(seq 40); do echo $i $k >d$i/f$k; done; done; tar cf /tmp/src.tar .'
cat >"$TMP/tree.sh" <<'SH'
set -e
for r in $(seq 100); do
	[ ! -e /sprite/tree.stop ] || exit 0
	rm -rf /sprite/tree; mkdir /sprite/tree
	tar xf /tmp/src.tar -C /sprite/tree
	for i in 1 2 3; do for k in 1 2 3 4 5; do mv /sprite/tree/d$i/f$k /sprite/tree/d$i/g$k; chmod 600 /sprite/tree/d$i/g$k; rm /sprite/tree/d$i/g$k; cp -p /tmp/src/d$i/f$k /sprite/tree/d$i/f$k; done; done
	# what comes after may change what those before are known by: the owner of a directory that files are made in, the mode of a file that is still open
	for i in $(seq 20); do mkdir /sprite/tree/o$i; chown 1000:1000 /sprite/tree/o$i; echo $i >/sprite/tree/o$i/in; done
	[ "$(stat -c %u /sprite/tree/o*)$(cat /sprite/tree/o*/in)" = "$(for i in $(seq 20); do echo 1000; done)$(cat $(for i in $(seq 20); do echo /sprite/tree/o$i/in; done | sort))" ]
	rm -r /sprite/tree/o*
	rm -rf /sprite/mine/*; setpriv --reuid 1000 --regid 1000 --clear-groups python3 -c 'import os
for i in range(40):
    p = "/sprite/mine/%d" % i; f = os.open(p, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644); os.write(f, b"mine"); os.chmod(p, 0o444); os.close(f)
for i in range(40):
    with open("/sprite/mine/%d" % i) as f: assert f.read() == "mine" and os.fstat(f.fileno()).st_mode & 0o777 == 0o444'
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
