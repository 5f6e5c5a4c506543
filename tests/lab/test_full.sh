# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 400
# A process table that is full, or nearly: K more fit, with K from none to as many as anything takes; first on a host that guests are to come to, then at home. What is asked for is
# done, or refused in words with nothing lost, or waits until there is room; and all daemons live on.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/evict.sh"
table() { find /sys/fs/cgroup -maxdepth 8 -path "*/sprite-lab/$SPRITE_LAB@*/$1/pids.max" 2>/dev/null | head -1; }
# fits NODE K: so many more fit there; "max" ends it
fits() { local t=$(table $1); [ "$2" = max ] && echo max >$t || echo $(($(cat ${t%max}current) + $2)) >$t; }
[ -n "$(table ws2)" ] || skip "no pids controller"
daemons() { for n in ws1 ws2; do sh_on $n 'pgrep -x migd; pgrep -xo spritefs'; done | xargs; }
before=$(daemons)

# Who asks is there before the table is full.
as sprite ws1 bash -c "cat >$D/asker.py" <<'X'
import subprocess, sys
for line in sys.stdin:
    try:
        p = subprocess.Popen(["sh", "-c", "exec " + line.strip()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open("asked.err", "w"))
    except OSError:
        print("no room", flush=True) # for the question itself
        continue
    try:
        p.wait(15)
    except subprocess.TimeoutExpired:
        print("waits", flush=True)
    print(p.wait(), flush=True)
X
coproc ASKER { as sprite ws1 sh -c "cd $D; exec python3 asker.py" 2>/dev/null; }
# ask NODE K COMMAND: with so much room there. What waits until there is more has to end then.
ask() {
	fits $1 $2
	echo "$3" >&${ASKER[1]}
	read -r -t 120 RC <&${ASKER[0]} || RC=hangs
	fits $1 max
	if [ "$RC" = waits ]; then read -r -t 120 RC <&${ASKER[0]} || RC=hangs; note "waited for room: $3"; fi
	ERR=$(as sprite ws1 cat $D/asked.err)
}
said() { [ "$RC" = "no room" ] || grep -qE "$1" <<<"$ERR"; } # a reason
REASON='^mig: .*(Resource temporarily unavailable|see the log|did not say whether)'
# A program in the middle of its work
as sprite ws1 bash -c "cd $D; exec python3 -c '
import os, time
i = 0
while True:
    i += 1
    open(\"count.p.new\", \"w\").write(str(i)); os.rename(\"count.p.new\", \"count.p\"); time.sleep(0.02)' >/dev/null 2>p.err </dev/null" </dev/null >/dev/null 2>&1 &
check "a program counts at home" until_true 20 counts p
on ws1 sh -c "pgrep -u sprite -f '[c]ount.p.new' >$D/p.pid"
P=$(on ws1 cat $D/p.pid)
alone() { [ -z "$(on ws2 ps -u sprite -o comm= | grep -v lab-console)" ]; }

# round NODE K: with so much room there, a command is sent away, and the program that runs
round() {
	local runerr moveerr bad=
	ask $1 $2 "mig run -H ws2 sh -c 'echo x >>ran.$1.$2'"; run=$RC runerr=$ERR
	case $run in
	0) [ "$(on ws1 cat $D/ran.$1.$2 | xargs)" = x ] || bad="did not run once" ;;
	125 | "no room") ! on ws1 test -e $D/ran.$1.$2 || bad="ran all the same"; said "$REASON" || bad="$bad; no reason" ;;
	*) bad="status $run" ;;
	esac
	[ -z "$bad" ] || flunk "$1, room for $2: mig run: $bad ($runerr)"
	bad=
	ask $1 $2 "mig move -H ws2 $P"; move=$RC moveerr=$ERR
	case $move in
	0) is_at p ws2 || bad="it is not there" ;;
	1 | "no room") [ -z "$(where p)" ] || bad="it is not at home"; said "$REASON" || bad="$bad; no reason" ;;
	*) bad="status $move" ;;
	esac
	counts p || bad="$bad; it does not go on"
	if is_at p ws2; then ask $1 max "mig home $P"; [ "$RC" = 0 ] && counts p || bad="$bad; it does not come home"; fi
	until_true 20 alone || bad="$bad; left on ws2: $(on ws2 ps -u sprite -o comm= | xargs)"
	[ -z "$bad" ] || flunk "$1, room for $2: mig move: $bad ($moveerr)"
	note "$1, room for $2: run $run $runerr; move $move $moveerr"
	same "$1, room for $2: daemons live" "$before" "$(daemons)"
}
for k in ${KS:-0 1 2 3 4 6 8 10 13 16 20 25 30 35 40 50}; do round ws2 $k; done
same "with room enough the command ran" "0 0" "$run $move"
for k in ${KS:-0 1 2 3 4 5 6 8 10 15 20 30}; do round ws1 $k; done
check "and at home" on ws1 test -e $D/ran.ws1.$k

same "and none of its daemons was killed" "" "$(sh_on ws2 'grep "killed by signal" /var/log/sprite/*')"

# mig make at home
as sprite ws1 bash -c "cd $D; cat >Makefile" <<'X'
all: a b c d e f
a b c d e f:
	@sleep 0.2; echo $@ >$@.new; mv $@.new $@
X
for k in ${KS:-1 2 3 4 6 8 10 12 15 20 30 40}; do
	as sprite ws1 sh -c "cd $D; rm -f a b c d e f"
	ask ws1 $k "mig make -j4"; rc=$RC
	made=$(as sprite ws1 sh -c "cd $D; ls a b c d e f 2>/dev/null" | xargs)
	case $rc in
	0) same "mig make, room for $k: all is made" "a b c d e f" "$made" ;;
	hangs) flunk "mig make, room for $k: ends when there is room" ;;
	*) check "mig make, room for $k: fails with a reason" said . ;;
	esac
	note "mig make, room for $k: $rc $(head -3 <<<"$ERR"), made: $made"
done
same "mig make with room enough" 0 $rc
same "daemons live" "$before" "$(daemons)"
# At home there is no room for those who are born away, nor for a call: the guest goes on, its owner comes back, and it comes home when there is room again.
as sprite ws1 bash -c "cat >$D/q.sh" <<'X'
until [ -e born ]; do sleep 0.1; done
sleep 1000 &
echo $! >child.new; mv child.new child
i=0; while :; do i=$((i + 1)); sleep 0.3; echo $i >count.q.new; mv count.q.new count.q; done
X
until_true 60 idle ws2
as sprite ws1 bash -c "cd $D; echo \$\$ >q.pid; exec mig run -H ws2 sh q.sh >/dev/null 2>q.err </dev/null" </dev/null >/dev/null 2>&1 &
check "a guest runs on ws2" until_true 30 eval 'is_at q ws2'
fits ws1 0
on ws3 touch $D/born
there() { local a=$(on ws3 cat $D/count.q 2>/dev/null || echo 0); until_true 5 eval '[ "$(on ws3 cat '$D'/count.q 2>/dev/null || echo 0)" -gt '$a' ]'; }
check "it goes on, with a child, while its home has no room for that" until_true 20 on ws3 test -e $D/child
check "and on" there
sleep 1 # its child is to be shown at home after 0.2 s
lab input ws2
check "its owner comes back" until_true 20 log_has ws2 "the owner is back"
sleep 3 # a try to get it home, and a second
fits ws1 max
check "it comes home when there is room" until_true 30 home q
check "and goes on" counts q
same "with its child" "$(on ws1 cat $D/q.pid) sleep" "$(on ws1 ps -o ppid=,comm= -p "$(on ws1 cat $D/child)" | xargs)"
same "daemons live" "$before" "$(daemons)"
finish
