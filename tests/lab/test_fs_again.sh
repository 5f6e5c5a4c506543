# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# What the kernel asks again of the next spritefs is executed once, however late that comes to read it: longer than anybody waits for processes that have died. And what it does not ask
# again leaves nothing open at the server.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 -s 2
F=/tmp/fault D=/sprite/again
on ws1 mkdir $F
lab kill ws1 spritefs TERM; until_true 20 lab start ws1 spritefs SPRITE_FAULT=$F || flunk "spritefs starts"
as sprite ws1 sh -c "mkdir -m 777 $D && echo 1 >$D/f"
cat >"$TMP/look" <<'PY'
import json, sys
print(sum(c["parked"] for c in json.load(sys.stdin)["clients"]))
PY
waits() { [ "$(on fs1 spritefsd --status | python3 "$TMP/look")" -ge 1 ]; }
# kill(2) returns before all threads stand, and on a busy machine one of them still answers
stands() { sh_on $1 '! grep -L "^State:.T" /proc/$(pgrep -x $1)/task/*/status | grep -q .' $2; }
other() { on ws2 sh -c "kill -$1 \$(pgrep -x spritefs)"; }
# link(2) waits at the server for a node that has looked at the directory and stands
as sprite ws2 ls -l $D >/dev/null
other STOP; until_true 20 stands ws2 spritefs
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

# ---- an open whose answer nobody waits for any more: the server knows of none in the end, whenever spritefs is killed
kill_spritefs() { local old; old=$(on ws1 pgrep -x spritefs) && on ws1 kill -KILL $old && until_true 20 on ws1 sh -c "p=\$(pgrep -x spritefs) && [ \$p != $old ]"; }
server() { on $1 sh -c "kill -$2 \$(pgrep -x spritefsd)"; }
none_open() { sh_on ws2 'grep -q "^$1 ws1 /sprite opens=0 " /sprite/.sprite/clients' $1; }
opens_done() { on $1 spritefsd --status | python3 -c 'import json, sys; print(json.load(sys.stdin)["rpc"].get("Open", {"calls": 0})["calls"])'; }
more_opens() { [ "$(opens_done $1)" -gt $2 ]; }
# of the kernel: nothing that spritefs has not read, or not answered
on ws1 sh -c 'mkdir /tmp/fusectl && mount -t fusectl none /tmp/fusectl'
DEV=$(on ws1 awk '$5 == "/sprite" { sub(/.*:/, "", $3); print $3 }' /proc/self/mountinfo)
nothing_asked() { [ "$(on ws1 cat /tmp/fusectl/$DEV/waiting)" = 0 ]; }
waits_for_answer() { on ws1 grep -q request_wait "/proc/$1/wchan"; }
# dies_asking SERVER PYTHON [BEFORE]: a process asks the server, which stands, by what PYTHON does, and is killed; BEFORE: what it does while the server goes
dies_asking() {
	local p
	rm -f "$TMP/pid"
	lab exec ws1 -- python3 -c "import fcntl, os
${3:-}
print(os.getpid(), flush=True)
os.read(0, 1)
$2" <"$TMP/go" >"$TMP/pid" 2>/dev/null & ASKER=$!
	exec 7>"$TMP/go"
	until_true 20 test -s "$TMP/pid"; p=$(cat "$TMP/pid")
	server $1 STOP; until_true 20 stands $1 spritefsd
	echo >&7; exec 7>&-
	until_true 20 waits_for_answer $p || flunk "it asks"
	on ws1 kill -KILL $p
	[ -z "${4:-}" ] || kill_spritefs
	wait $ASKER
}
# open here only (under ATTR), until its lock is asked for: then it is opened at the server
closed_meanwhile() {
	on ws1 cat $2 >/dev/null
	dies_asking $1 "fcntl.flock(f, fcntl.LOCK_SH)" "f = os.open('$2', os.O_RDONLY)"
}
mkfifo "$TMP/go"
on ws1 sh -c "echo 1 >/sprite/fs2/f; sync /sprite/fs2/f"
for s in fs1 fs2; do until_true 20 none_open $s || flunk "nothing is open at $s"; done
closed_meanwhile fs1 $D/f
kill_spritefs
server fs1 CONT
sh_on ws2 "echo 2 >>$D/f" # what is open there only has to be opened for this
same "what another node writes is seen" "1 2" "$(on ws1 cat $D/f | xargs)"
check "killed before the answer: nothing is open" until_true 10 none_open fs1
on ws1 sh -c "echo hold >$F/spritefs-closes"
closed_meanwhile fs1 $D/f
check "its RELEASE has been taken in" until_true 20 nothing_asked
server fs1 CONT
check "killed when it is to be closed again" until_true 20 on ws1 test -e $F/spritefs-closes.held
kill_spritefs
check "nothing is open" until_true 10 none_open fs1
closed_meanwhile fs2 /sprite/fs2/f
kill_spritefs
server fs2 CONT
check "the same at another server: nothing is open" until_true 10 none_open fs2
# of a file whose name is known here, so that the open is all that is asked for; the other node reads it too, so that it must be
for how in "" kill; do
	for w in ws2 ws1; do on $w cat $D/f; done >/dev/null
	n=$(opens_done fs1)
	dies_asking fs1 "os.open('f', os.O_RDWR, dir_fd=d)" "d = os.open('$D', os.O_PATH); os.stat('f', dir_fd=d)" $how
	server fs1 CONT
	until_true 2 more_opens fs1 $n # or it was called back before
	check "an open of who has died meanwhile${how:+, spritefs killed}: nothing is open" until_true 10 none_open fs1
done
finish
