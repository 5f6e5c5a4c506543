# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# What a guest sees of its home's tree where only root changes it: names and attributes are kept, asked about all together, and whatever changes at home shows.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
T=/etc/sprite-test
on ws1 sh -c "mkdir -p $T/m && echo 1 >$T/x && echo under >$T/m/f && ln -s x $T/l"
# A guest on ws2 that looks all the time, in $JD, and says what it saw: x, by way of the link, a name that is not there yet, what may be mounted, the mode of x.
as sprite ws1 bash -c "cat >$JD/look" <<X
while [ ! -e stop ]; do
	s="\$(cat $T/x 2>&1) \$(cat $T/l 2>&1) \$([ -e $T/new ] && cat $T/new || echo none) \$(cat $T/m/f 2>&1) \$(stat -c %a $T/x 2>&1)"
	echo "\$s" >seen.new; mv seen.new seen; sleep 0.1
done
X
as sprite ws1 bash -c "cd $JD; mig run -H ws2 sh look >out 2>&1 </dev/null" </dev/null >/dev/null 2>&1 &
seen() { on ws1 cat $JD/seen 2>/dev/null; }
shows() { [ "$(seen)" = "$1" ]; }
check "a guest sees its home's files" until_true 30 shows "1 1 none under 644" || note "$(seen)$(on ws1 cat $JD/out)"
calls() { on ws2 python3 -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs-hosts-ws1.sock"); s.sendall(b"{\"verb\": \"status\"}\n"); o = json.loads(s.makefile().readline())["ops"]
print(sum(o.get(k, {"calls": 0})["calls"] for k in sys.argv[1].split(",")))' "$1"; }
rounds() { on ws1 stat -c %i $JD/seen; } # another file each round
more_rounds() { local i; for i in $(seq "$1"); do local a=$(rounds); until_true 20 eval '[ "$(rounds)" != '"$a"' ]'; done; }
quiet_rounds() { # ten rounds with few calls: how many look-ups and questions about all
	a=$(calls Lookup,Getattr,Open) r=$(calls Refresh)
	more_rounds 10
	a=$(($(calls Lookup,Getattr,Open) - a)) r=$(($(calls Refresh) - r))
	[ $a -lt 10 ] && [ $r -le 1 ]
}
check "what it knows is not asked about again, neither name by name nor together" until_true 5 quiet_rounds || note "$a look-ups and the like in ten rounds, $r questions about all"
# From here on each change is told by the home: unasked, it would show after half a minute, which is longer than any of these waits (6 s a piece).

on ws1 sh -c "echo 2 >$T/x"
check "a file that is written anew shows, a round later and not half a minute" until_true 2 shows "2 2 none under 644" || note "$(seen)"
on ws1 sh -c "echo 3 >$T/y; mv $T/y $T/x"
check "one that is put in its place" until_true 2 shows "3 3 none under 644" || note "$(seen)"
on ws1 sh -c "echo here >$T/new"
check "a new name" until_true 2 shows "3 3 here under 644" || note "$(seen)"
on ws1 sh -c "rm $T/new; chmod 600 $T/x"
check "one that is gone; rights that are" until_true 2 shows "cat: $T/x: Permission denied cat: $T/l: Permission denied none under 600" || note "$(seen)"
on ws1 sh -c "chmod 644 $T/x; ln -sfn m/f $T/l"
check "a link that leads elsewhere" until_true 2 shows "3 under none under 644" || note "$(seen)"
on ws1 sh -c "mount -t tmpfs t $T/m && echo mounted >$T/m/f"
check "what is mounted, though no directory has changed" until_true 2 shows "3 mounted none mounted 644" || note "$(seen)"
on ws1 umount $T/m
check "and no more" until_true 2 shows "3 under none under 644" || note "$(seen)"
on ws1 chmod 700 $T
check "a directory that is shut" until_true 2 eval '[[ "$(seen)" == "cat: '$T'/x: Permission denied"* ]]' || note "$(seen)"
on ws1 chmod 755 $T
lab kill ws1 spritefsd KILL >/dev/null; until_true 20 lab start ws1 spritefsd
on ws1 sh -c "echo 4 >$T/x"
check "the home's file server is started again" until_true 60 shows "4 under none under 644" || note "$(seen)"
# Who is let in by a guest of his own is answered from memory, too: not any more when the guest has ended.
as sprite ws2 sh -c "cd /sprite/hosts/ws1$T; while [ ! -e /tmp/end ]; do cat x >/dev/null 2>&1; echo \$? >/tmp/rc.new; mv /tmp/rc.new /tmp/rc; sleep 0.2; done" </dev/null >/dev/null 2>&1 &
says() { [ "$(on ws2 cat /tmp/rc)" = "$1" ]; }
check "a user whose guest is there reads the home's files" until_true 20 says 0
as sprite ws1 touch $JD/stop
check "and not when it has ended: not half a minute later" until_true 2 says 1
as sprite ws2 touch /tmp/end
wait
finish
