# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# A lab leaves nothing behind, however it ends; two labs live side by side.
. "$(dirname "$0")/lib.sh"
ME=trace-$$
mine() { # everything on this machine that bears the name of one of our labs, or is a namespace that only a lab would have made
	pgrep -af -- "$ME" # whatever has it on its command line: sprite-lab, sprite-pki, openssl
	ps -eo pid=,comm= | awk '$2 ~ /^lab-(hub|init|console|link)$/ { print $1 }' | while read -r p; do grep -qs "$ME" /proc/$p/cgroup /proc/$p/cmdline && echo "process $p"; done
	grep -h "$ME" /proc/mounts
	find /sys/fs/cgroup -type d -name "$ME*" 2>/dev/null
	find /run/sprite-lab /var/tmp/sprite-lab -maxdepth 1 -name "$ME*" 2>/dev/null
}
links() { ls /sys/class/net; }
net_namespaces() { lsns -t net -no NS | sort; }
trap 'for l in a b c; do lab --name $ME-$l down >/dev/null 2>&1; done; rm -rf "$TMP"' EXIT

links_before=$(links)
check "a lab comes up" lab --name $ME-a up -n 1
check "another beside it" lab --name $ME-b up -n 1
sh_on_lab() { "$BIN/sprite-lab" --name "$1" exec ws1 -- bash -c "$2"; }
same "they do not see each other" "ws1 alone" "$(sh_on_lab $ME-a "echo ws1 > /tmp/a"; sh_on_lab $ME-b '[ -e /tmp/a ] || echo ws1 alone')"
same "the host sees no link of theirs" "$links_before" "$(links)"
same "the host sees no mount of theirs" "" "$(grep -h "$ME" /proc/mounts)"
check "down" lab --name $ME-a down
check "the other lives on" sh_on_lab $ME-b true
sh_on_lab $ME-b 'setsid sleep 1000 >/dev/null 2>&1 & cat </dev/zero >/dev/null & disown -a'
check "down with processes running in it" lab --name $ME-b down
same "nothing is left after down" "" "$(mine)"
lab --name $ME-b up -n 1 >/dev/null
sh_on_lab $ME-b 'kill -STOP $(pgrep -x spritefs); cat /sprite/nothing & sleep 0.3; kill -9 $!' >/dev/null 2>&1
check "down with a process that waits for a daemon which does not answer" lab --name $ME-b down
same "nothing is left after that either" "" "$(mine)"
same "down of what is not there" 0 "$(lab --name $ME-b down 2>/dev/null; echo $?)"

# up killed at any moment: its hub notices and removes all but files (which the next up or down does)
t=$EPOCHREALTIME; lab --name $ME-c up -n 2 >/dev/null 2>&1; u=$EPOCHREALTIME; lab --name $ME-c down
whole=$(( ${u/./} - ${t/./} )) left=0 killed=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	"$BIN/sprite-lab" --name $ME-c up -n 2 >/dev/null 2>&1 & pid=$!
	sleep $(awk "BEGIN { print $i * $whole / 12e6 }")
	kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
	if [ $? = 137 ]; then
		killed=$((killed + 1))
		until_true 10 eval '[ -z "$(mine | grep -vE "^/(run|var)/")" ]' || { left=$((left + 1)); note "at $i/12 of up: $(mine)"; }
	else
		whole=$((whole * 2 / 3)) # the machine is less busy than when it was measured
	fi
	lab --name $ME-c down >/dev/null 2>&1
	[ -z "$(mine)" ] || { left=$((left + 1)); note "at $i/12 of up, then down: $(mine)"; }
done
same "up killed -9 at $killed moments leaves nothing" 0 $left
# and while a program that it has started is at work: nothing may go on making files after a down
"$BIN/sprite-lab" --name $ME-c up -n 2 >/dev/null 2>&1 & pid=$!
until_true 10 pgrep -f "sprite-pki.*$ME-c" || flunk "certificates are made"
kill -9 $pid; wait $pid 2>/dev/null
lab --name $ME-c down 2>/dev/null
same "up killed -9 while certificates are made leaves nothing" "" "$(mine)"
check "up was killed at some moments at all" test $killed -ge 4

# the hub killed: what is left are files and groups, which the next up clears
lab --name $ME-c up -n 1 >/dev/null 2>&1
hub=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["hub"])' /run/sprite-lab/$ME-c/state.json)
kill -9 $hub
until_true 5 eval '! lab --name $ME-c ls'
check "up after the hub was killed -9" lab --name $ME-c up -n 1
lab --name $ME-c down
same "nothing is left after that" "" "$(mine)"

# a daemon that fails at its start
mkdir "$TMP/bin"; cp "$BIN/sprite-lab" "$BIN/sprite-pki" "$TMP/bin"
printf '#!/bin/sh\necho the reason why\nexit 3\n' >"$TMP/bin/spritefsd"; chmod +x "$TMP/bin/spritefsd"
refused "up tells which daemon failed and why" 1 'the reason why' "$TMP/bin/sprite-lab" --name $ME-c up -n 1
same "and leaves nothing" "" "$(mine)"

# a lab of the same name in a container that shares control groups and /var/tmp, but not /run, with this machine
check "a lab comes up" lab --name $ME-a up -n 1
sh_on_lab $ME-a 'echo ours >/sprite/f && sync -f /sprite/f'
other() { unshare -m sh -c 'mount -t tmpfs run /run && "$0" --name $1 up -n 1 && "$0" --name $1 exec ws1 -- sh -c "[ ! -e /sprite/f ] && echo alone"; "$0" --name $1 down' "$BIN/sprite-lab" $ME-a; }
same "one of the same name, where /run is another, does not see it" alone "$(other 2>&1 | tail -1)"
check "and leaves it as it was, up and down" sh_on_lab $ME-a 'grep -qx ours /sprite/f && echo more >>/sprite/f && sync -f /sprite/f'
check "down" lab --name $ME-a down
same "nothing is left of either" "" "$(mine)"
mkdir -p /var/tmp/sprite-lab/$ME-a@1-1/fs1
lab --name $ME-a down 2>/dev/null
same "a disk that an earlier life of this machine left goes as well" "" "$(mine)"

# where guests could not live
mkdir "$TMP/root"
refused "up in a chroot says what is missing" 1 'user namespaces cannot be made' unshare -m sh -c 'mount --rbind / "$1" && exec chroot "$1" "$2" --name '$ME-c' up -n 1' sh "$TMP/root" "$BIN/sprite-lab"
same "and leaves nothing of itself" "" "$(mine)"
finish
