# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 300
# What may go wrong with hosts, owners and users: the master killed while it assigns, a host that dies with guests, a home that dies, an owner who comes back in the
# middle of a move in, two at once, a user who asks for 10,000 hosts, a recipe that daemonises, a full process table.
. "$(dirname "$0")/lib.sh"
NODES=4
. "$(dirname "$0")/evict.sh"
master() { for n in ws1 ws2 ws3 ws4; do [ "$(lab logs $n migd | grep -E 'is the master now|is no longer the master|: ready; ' | tail -1 | grep -c 'master now')" = 1 ] && [ $n != "${DEAD:-}" ] && echo $n; done; }
check "ws4 is idle" until_true 60 idle ws4

# the master dies while it assigns
m=$(master)
check "there is one master" test "$(wc -w <<<"$m")" = 1
as sprite ws1 bash -c "cd $D; for i in \$(seq 60); do mig run --local-ok sh -c 'echo x >>ran.'\$i >/dev/null 2>>storm.err </dev/null; echo \$? >>storm.rc; done; touch storm.done" </dev/null >/dev/null 2>&1 &
check "commands are being placed" until_true 30 on ws1 test -e $D/ran.10
lab kill "$m" migd KILL >/dev/null
if [ "$m" = ws1 ]; then until_true 20 lab start ws1 migd; fi
check "all of them end" until_true 60 on ws1 test -e $D/storm.done
[ "$m" = ws1 ] || check "every one with status 0" eval '[ "$(on ws1 sort -u $D/storm.rc | xargs)" = 0 ]' || note "$(on ws1 sort $D/storm.rc | uniq -c) $(on ws1 cat $D/storm.err)"
same "and none ran twice" "" "$(sh_on ws1 "cd $D; for f in ran.*; do [ \$(wc -l <\$f) = 1 ] || echo \$f; done")"
[ "$m" = ws1 ] || until_true 20 lab start "$m" migd
wait
for h in ws2 ws3 ws4; do check "$h is idle" until_true 60 idle $h; done

# a host dies with guests: all that is left of them is what their home knows
run ws2 "" "" dead
check "a guest runs on ws2" until_true 30 counts dead
lab kill ws2 migd KILL >/dev/null
sh_on ws2 'for f in $(find /sys/fs/cgroup -path "*sprite-guests/*" -name cgroup.procs 2>/dev/null); do for p in $(cat $f); do kill -9 $p 2>/dev/null; done; done; true'
check "ws2 comes back without it, from a reboot" until_true 20 lab start ws2 migd SPRITE_BOOT_ID=$(cat /proc/sys/kernel/random/uuid)
check "its home ends it" until_true 60 on ws1 test -e $D/dead.rc
same "by SIGKILL" 137 "$(on ws1 cat $D/dead.rc)"
check "with a line in the log" log_has ws1 "was lost with ws2"

# the home's migd dies: guests go on, and belong to it again later
run ws2 "" "" orphan
check "a guest runs on ws2" until_true 30 counts orphan
lab kill ws1 migd KILL >/dev/null
check "it goes on without its home" counts orphan
check "and the host knows" until_true 60 eval 'on ws2 mig ps -a --no-header -o where | grep -q orphan'
check "the home comes back" until_true 20 lab start ws1 migd
check "and knows it again" until_true 30 eval '[ "$(where orphan)" = ws2 ]'
end orphan

# the owner comes back in the middle of a move in
check "ws3 is idle" until_true 60 idle ws3
as sprite ws1 bash -c "cd $D; exec python3 -c '
import os, time
x = os.urandom(60 << 20); i = 0
while True:
    i += 1
    open(\"count.big.new\", \"w\").write(str(i)); os.rename(\"count.big.new\", \"count.big\"); time.sleep(0.05)' >/dev/null 2>big.err </dev/null" </dev/null >/dev/null 2>&1 &
check "a big one runs at home" until_true 30 counts big
on ws1 sh -c "pgrep -u sprite -x python3 >$D/big.pid"
lab link ws3 --rate 10 >/dev/null # a minute for 60 MiB: it cannot have arrived
as sprite ws1 mig move -H ws3 "$(on ws1 cat $D/big.pid)" </dev/null >$TMP/move.out 2>&1 & move=$!
check "it is on its way to ws3" until_true 20 log_has ws3 "(python3) of uid 1000 may come"
lab input ws3
wait $move
same "the move is refused" 1 $?
check "since ws3 is in use again" grep -q "ws3: in use again" $TMP/move.out || note "$(cat $TMP/move.out)"
check "it runs on at home" eval 'home big && counts big'
same "and nowhere else" "" "$(on ws3 ps -u sprite -o comm= | grep -v lab-console)"
on ws1 pkill -9 -u sprite -x python3
lab link ws3 >/dev/null
wait

# two owners at once
for h in ws2 ws3; do check "$h is idle" until_true 60 idle $h; done
for h in ws2 ws3; do run $h "" "" two-$h; done
for h in ws2 ws3; do check "a guest runs on $h" until_true 30 counts two-$h; done
lab input ws2 & lab input ws3; wait $!
for h in ws2 ws3; do check "the one of $h comes home" until_true 30 home two-$h; check "and goes on" counts two-$h; done
for h in ws2 ws3; do end two-$h; done

# a user who wants it all
refused "10,000 hosts for a make" 64 "expected a number of slots" as sprite ws1 mig make --remote 10000
cat >$TMP/ask.py <<'X'
import json, socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/migd.sock"); f = s.makefile("rw")
f.write(json.dumps({"verb": "ask", "want": 10000, "wait": True}) + "\n"); f.flush(); print(json.loads(f.readline())["error"])
X
lab exec ws1 -- tee /tmp/ask.py <$TMP/ask.py >/dev/null
same "10,000 slots from migd" "want: expected 1 to 4096 slots, found 10000" "$(as sprite ws1 python3 /tmp/ask.py)"

# a recipe that daemonises
as sprite ws1 bash -c "cat >$D/Makefile" <<'X'
all: one two
one:
	@(setsid sh -c 'until [ -e go ]; do sleep 0.1; done; echo late >late.new; mv late.new late' >/dev/null 2>&1 </dev/null &) ; sleep 0.3; echo started
two: one
	@sleep 0.2; echo two
X
for h in ws2 ws3 ws4; do check "$h is idle" until_true 60 idle $h; done
same "a make whose recipe leaves a daemon behind ends" "started two" "$(as sprite ws1 bash -c "cd $D; timeout 60 mig make -j4 2>&1 </dev/null | cat" | xargs)"
as sprite ws1 touch $D/go
check "the daemon lives on, and ends when it likes" until_true 30 on ws1 test -s $D/late

# a process table that is full
conf ws4 '{"guest_pids": 1}'
check "ws4 is idle" until_true 60 idle ws4
out=$(as sprite ws1 bash -c "cd $D; mig run -H ws4 true </dev/null 2>full.err >full.out; echo \$?; cat full.err")
same "no room for a guest's processes: refused with 125" 125 "$(head -1 <<<"$out")" || note "$out"
check "and a reason" grep -q "^mig: ws4: " <<<"$out" || note "$out"
same "--local-ok runs it at home" 0 "$(as sprite ws1 bash -c "cd $D; mig run --local-ok -H ws4 true </dev/null >/dev/null 2>&1; echo \$?")"
same "nothing is left there" "" "$(on ws4 ps -u sprite -o comm= | grep -v lab-console)"
finish
