#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 600
# kill -9 of spritefs, at random moments under load: the holder starts it again, nobody notices. ROUNDS=N kills (3; in check-long 100, with other people's
# programs among the load).
. "$(dirname "$0")/lib.sh"
lab_up -n 2
ROUNDS=${ROUNDS:-$([ -n "${LONG:-}" ] && echo 100 || echo 3)}
spritefs() { on $1 pgrep -x spritefs; }
D=/sprite/holder; STOP=/tmp/holder.stop
on ws1 mkdir -m 777 $D
cat "$HERE/holder_load.py" | lab exec ws1 -- tee /tmp/load.py >/dev/null
cat "$HERE/holder_load.py" | lab exec ws2 -- tee /tmp/load.py >/dev/null
on ws1 chmod 644 /tmp/load.py; on ws2 chmod 644 /tmp/load.py

# programs of others, which check themselves
programs='set -e; cd $1; n=0
while [ ! -e $2 ]; do
	mkdir p; cd p
	tar cf - -C /usr/lib/python3 . 2>/dev/null | head -c 3000000 >in.tar || true
	mkdir t; tar xf in.tar -C t 2>/dev/null || true; tar cf - -C t --sort=name . | sha1sum >sum; tar cf - -C t --sort=name . | sha1sum -c sum >/dev/null
	git init -q r; cp -r t r/t; cd r; git -c user.name=a -c user.email=b add -A; git -c user.name=a -c user.email=b commit -qm x; git fsck --strict 2>&1 | grep -v ^notice || true; git gc -q; git fsck --full; cd ..
	cd ..; rm -rf p; n=$((n+1))
done; echo programs $n'
sqlite='set -e; cd $1; n=0
while [ ! -e $2 ]; do n=$((n+1)); sqlite3 -cmd ".timeout 60000" db "create table if not exists t(n unique, x); insert into t values($n, hex(randomblob(500)));"; done
[ "$(sqlite3 db "pragma integrity_check")" = ok ]; [ "$(sqlite3 db "select count(*), max(n) from t")" = "$n|$n" ]; echo sqlite $n'

load() { # NODE NAME CMD...
	local node=$1 name=$2; shift 2
	lab exec $node -u sprite -- "$@" </dev/null >"$TMP/$name" 2>&1 &
	PIDS+=($!); NAMES+=($name)
}
PIDS=(); NAMES=()
for k in append names pages unlinked; do load ws1 $k python3 /tmp/load.py $k $D/$k $STOP; done
load ws1 counter1 python3 /tmp/load.py counter $D/counter $STOP
load ws2 counter2 python3 /tmp/load.py counter $D/counter $STOP
[ -z "${LONG:-}" ] || load ws1 programs bash -c "$programs" x $D $STOP
[ -z "${LONG:-}" ] || ! command -v sqlite3 >/dev/null || load ws1 sqlite bash -c "$sqlite" x $D $STOP
# somebody on another node looks at it all: recalls
load ws2 looker bash -c 'while [ ! -e $2 ]; do ls -lR $1 >/dev/null 2>&1; cat $1/append/log $1/pages/data >/dev/null 2>&1; done; echo looker' x $D $STOP
until_true 20 on ws1 test -s $D/append/log

killed=0
for i in $(seq $ROUNDS); do
	sleep $((RANDOM % 2)).$((RANDOM % 1000))   # a random moment: decides nothing
	old=$(spritefs ws1) || continue
	on ws1 kill -9 $old && killed=$((killed+1))
	until_true 20 on ws1 bash -c "p=\$(pgrep -x spritefs) && [ \$p != $old ] && stat -t $D" || { flunk "round $i: another spritefs"; break; }
done
same "spritefs was killed and came again so often" $ROUNDS $killed
on ws1 touch $STOP; on ws2 touch $STOP
for i in "${!PIDS[@]}"; do
	if wait ${PIDS[$i]}; then pass "${NAMES[$i]}: $(tail -1 "$TMP/${NAMES[$i]}")"; else flunk "${NAMES[$i]}"; tail -5 "$TMP/${NAMES[$i]}" | sed 's/^/#   /'; fi
done
same "what both nodes counted is in the counter" "$(($(awk '{print $2}' "$TMP/counter1") + $(awk '{print $2}' "$TMP/counter2")))" "$(on ws2 cat $D/counter/counter)"
check "no thread hangs in the kernel" sh_on ws1 '! ps -eLo stat,comm | grep "^D.*spritefs"'
check "the server knows of nothing open when nothing is" until_true 10 sh_on ws1 'grep -q "^fs1 ws1 /sprite opens=0 " /sprite/.sprite/clients' || on ws1 sh -c 'cat /sprite/.sprite/clients /sprite/.sprite/leases; ls -l /proc/[0-9]*/fd 2>/dev/null | grep " /sprite"'

# a spritefs that cannot be started is tried again: its program is being replaced, no descriptor is to be had
holder=$(on ws1 pgrep -x sprite-holder)
said() { [ "$(lab logs ws1 spritefs | grep -c "$1")" -gt "$2" ]; } # more often than so
how_often() { lab logs ws1 spritefs | grep -c "$1"; }
broken() { # WHAT BREAK MEND LINE: the line of the log that shows it to have been tried in vain
	local n; n=$(how_often "$4")
	on ws1 sh -c "$2"
	on ws1 sh -c 'kill -9 $(pgrep -x spritefs)'
	check "$1: it is tried" until_true 20 said "$4" $((n + 1))
	on ws1 sh -c "$3"
	same "$1: and goes on" kept "$(on ws1 timeout 60 cat $D/kept)"
}
on ws1 sh -c "echo kept >$D/kept"
broken "program replaced half way" 'echo >/tmp/half; chmod 755 /tmp/half; mount --bind /tmp/half /opt/sprite/bin/spritefs' 'umount /opt/sprite/bin/spritefs' "ended by itself"
broken "no descriptor" "prlimit --pid $holder --nofile=4:" "prlimit --pid $holder --nofile=1024:" "cannot start"

# the end of the service, also between two lives
on ws1 sh -c 'kill -9 $(pgrep -x spritefs); kill '$holder
check "a mount whose spritefs dies as it is to end is unmounted" until_true 20 sh_on ws1 '! pgrep -x "spritefs|sprite-holder" && ! grep -q " /sprite " /proc/mounts'
check "another can be made" lab start ws1 spritefs
same "of the same files" kept "$(on ws1 cat $D/kept)"
check "the mount ends when the service does" lab kill ws1 spritefs TERM
check "nothing of it is left" until_true 10 sh_on ws1 '! pgrep -x "spritefs|sprite-holder" && ! grep -q " /sprite " /proc/mounts'
finish
