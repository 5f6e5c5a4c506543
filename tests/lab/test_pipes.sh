# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 900
# Named pipes between nodes behave as on one machine (pipes.py has the cases); permissions hold; a lost server or node ends them in bounded time,
# and they work again afterwards.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$HERE:/opt/sprite/lab"
[ -n "${SKIP_CASES:-}" ] || python3 "$HERE/pipes.py" "$BIN/sprite-lab" /opt/sprite/lab || FAILED=1

on ws1 sh -c 'mkfifo -m 600 /sprite/private; mkfifo -m 666 /sprite/f'
# -- one who may not open it is nobody's partner
sh_on ws1 'timeout 300 cat /sprite/private; echo "end $?"' >"$TMP/reader" 2>&1 &
reader=$!
until_true 60 sh_on ws1 'for p in $(pgrep -x cat); do grep -q "^257 " /proc/$p/syscall && exit 0; done; exit 1' || flunk "the reader waits"
refused "no permission to write" 2 'Permission denied|cannot create' as guest ws2 sh -c 'echo x >/sprite/private'
check "the waiting reader has not noticed" test ! -s "$TMP/reader"
on ws2 sh -c 'echo for you >/sprite/private'
wait $reader
same "it gets what one who may has written" "for you end 0" "$(tr '\n' ' ' <"$TMP/reader" | sed 's/ $//')"

# -- unlinked and renamed while open
on ws1 mkfifo /sprite/g
sh_on ws1 'timeout 300 cat /sprite/g' >"$TMP/out" 2>&1 &
reader=$!
on ws2 timeout 300 bash -c 'exec 4>/sprite/g; echo one >&4; mv /sprite/g /sprite/h; rm /sprite/h; echo two >&4'
wait $reader
same "a pipe lives on without a name" "one two" "$(xargs <"$TMP/out")"

# -- the server goes in the middle of a transfer
sh_on ws2 'timeout 300 cat /dev/zero >/sprite/f; echo "writer $?"' >"$TMP/w" 2>&1 &
writer=$!
sh_on ws1 'timeout 300 sh -c "head -c 1000000 >/dev/null; echo under way; cat >/dev/null" </sprite/f; echo "reader $?"' >"$TMP/r" 2>&1 &
reader=$!
until_true 60 grep -q 'under way' "$TMP/r" || flunk "bytes go through"
lab kill fs1 spritefsd
check "the reader ends when the hub is gone" until_true 60 grep -q 'reader 0' "$TMP/r"
check "and so does the writer" until_true 60 grep -qE 'writer (141|1)' "$TMP/w"
wait $reader $writer
until_true 60 lab start fs1 spritefsd
sh_on ws1 'timeout 300 cat /sprite/f' >"$TMP/r" 2>&1 &
reader=$!
on ws2 timeout 300 sh -c 'echo again >/sprite/f'
wait $reader
same "after its restart pipes work again" again "$(cat "$TMP/r")"

# -- a node goes
sh_on ws1 'timeout 300 cat /sprite/f; echo "end $?"' >"$TMP/r" 2>&1 &
reader=$!
sh_on ws3 'exec 4>/sprite/f; echo from ws3 >&4; sleep 300' >/dev/null 2>&1 &
until_true 60 grep -q 'from ws3' "$TMP/r" || flunk "ws3 is heard"
lab kill ws3 spritefs
check "the reader sees the end when the writer's node has gone" until_true 60 grep -q 'end 0' "$TMP/r"
wait $reader
until_true 60 lab start ws3 spritefs

# -- and one with bytes that its reader has left behind: they are nobody's
sh_on ws3 'exec 4>/sprite/f; echo left >&4; sleep 300' >/dev/null 2>&1 &
same "a part is read" l "$(on ws1 timeout 300 head -c 1 /sprite/f)"
lab kill ws3 spritefs
same "a reader on a third node finds nothing" "b''" "$(on ws2 timeout 300 python3 -c 'import os; print(os.read(os.open("/sprite/f", os.O_RDONLY | os.O_NONBLOCK), 9))')"
until_true 60 lab start ws3 spritefs

# -- on an export that is read only: as on a file system that is, a FIFO is opened for either
sh_on fs1 'sed -i "s/\"root_squash\": false/&, \"readonly\": true/" /etc/sprite/sprite.conf'
lab kill fs1 spritefsd
until_true 60 lab start fs1 spritefsd
refused "none is made there" 1 'Read-only file system' on ws1 mkfifo /sprite/none
sh_on ws1 'timeout 300 cat /sprite/f' >"$TMP/r" 2>&1 &
reader=$!
on ws2 timeout 300 sh -c 'echo through >/sprite/f'
wait $reader
same "what is there carries bytes" through "$(cat "$TMP/r")"
sh_on fs1 'sed -i "s/, \"readonly\": true//" /etc/sprite/sprite.conf'
lab kill fs1 spritefsd
until_true 60 lab start fs1 spritefsd

# -- many
same "300 pipes with a waiting reader each" 300 "$(sh_on ws1 'mkdir /sprite/many; cd /sprite/many; for i in $(seq 300); do mkfifo $i; done; for i in $(seq 300); do cat $i & done >/tmp/many; sleep 0.5; wait; wc -l </tmp/many' &
	until_true 60 on ws2 test -p /sprite/many/300; sh_on ws2 'cd /sprite/many; for i in $(seq 300); do timeout 300 sh -c "echo $i >$i"; done'; wait)"
check "no daemon complains" sh_on fs1 '! grep -E "pipes of .*: broken off: (Protocol|Cannot)" /var/log/sprite/spritefsd.log'
check "no daemon has died" sh -c '! "$0" ls --json | grep -E "\"state\": \"(dead|ended)\""' "$BIN/sprite-lab"
[ $FAILED = 0 ] || for n in fs1 ws1 ws2 ws3; do lab logs $n | tail -n 30 | sed "s/^/#   $n: /"; done
finish
