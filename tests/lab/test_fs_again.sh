# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# What the kernel asks again of the next spritefs is executed once, however late that comes to read it: longer than anybody waits for processes that have died.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
F=/tmp/fault D=/sprite/again
on ws1 mkdir $F
lab kill ws1 spritefs TERM; until_true 20 lab start ws1 spritefs SPRITE_FAULT=$F || flunk "spritefs starts"
as sprite ws1 sh -c "mkdir -m 777 $D && echo 1 >$D/f"
cat >"$TMP/look" <<'PY'
import json, sys
print(sum(c["parked"] for c in json.load(sys.stdin)["clients"]))
PY
waits() { [ "$(on fs1 spritefsd --status | python3 "$TMP/look")" -ge 1 ]; }
other() { on ws2 sh -c "kill -$1 \$(pgrep -x spritefs)"; }
# link(2) waits at the server for a node that has looked at the directory and stands
as sprite ws2 ls -l $D >/dev/null
other STOP
as sprite ws1 ln $D/f $D/twin >"$TMP/ln" 2>&1 &
LN=$!
until_true 20 waits || flunk "the link waits at the server"
on ws1 sh -c "echo hold >$F/spritefs-reads"
on ws1 sh -c 'kill -KILL $(pgrep -x spritefs)'
check "the next spritefs is there, and has read nothing yet" until_true 20 on ws1 test -e $F/spritefs-reads.held
other CONT
check "the server has made the link meanwhile" until_true 30 on fs1 test -e /srv/sprite/again/twin
sleep 3 # CLAIM_NS and a tick: what nobody has asked for again is given up
on ws1 rm $F/spritefs-reads.held
wait $LN
same "it is made once, and ln is told so" "0 " "$? $(cat "$TMP/ln")"
same "the file has both names" 2 "$(on ws1 stat -c %h $D/f)"
finish
