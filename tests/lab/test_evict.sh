# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 240
# The owner comes first: guests stop at his first key, leave in order within limits, go home or onward by policy; who arrives meanwhile stops too; who cannot
# leave stays stopped, runs on when he has gone again, or is killed if its user asked for that. By hand: evict, stop-all, lend.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
D=/sprite/evict
as sprite ws1 mkdir $D
conf() { sh_on "$1" 'python3 - "$1" <<X
import json, sys
c = json.load(open("/etc/sprite/sprite.conf")); c["migd"].update(json.loads(sys.argv[1])); json.dump(c, open("/etc/sprite/sprite.conf", "w"))
X' "$2"; lab kill "$1" migd TERM >/dev/null; until_true 20 lab start "$1" migd; }
state() { mig hosts --no-header -o NAME,STATE | awk -v h="$1" '$1 == h { $1 = ""; print substr($0, 2) }'; }
idle() { [ "$(state $1)" = idle ]; }
# A program that counts in a file while it runs, nothing of this machine open.
run() { as sprite ws1 bash -c "cd $D; $2 mig run ${3:-} -H $1 sh -c 'i=0; while :; do i=\$((i + 1)); echo \$i >count.$4.new; mv count.$4.new count.$4; sleep 0.05; done' >/dev/null 2>$4.err </dev/null & echo \$! >$4.pid; wait \$!; echo \$? >$4.rc" </dev/null >/dev/null 2>&1 & }
count() { on ws1 cat $D/count.$1 2>/dev/null || echo 0; }
counts() { local a=$(count $1); until_true 5 eval '[ "$(count '$1')" -gt '$a' ]'; }
where() { mig ps --no-header -o PID,HOST | awk -v p="$(on ws1 cat $D/$1.pid)" '$1 == p { print $2 }'; }
is_at() { [ "$(where $1)" = "$2" ]; }
stopped() { sh_on ws2 'grep -c "the owner is back: 1 guest stopped" /var/log/sprite/migd.log'; }
idles() { sh_on ws2 'grep -c "this host is idle" /var/log/sprite/migd.log'; }
# Where a guest's shell is alive (hollows have no memory): one word for each copy
copies() { for n in ws1 ws2 ws3; do sh_on $n 'for p in $(pgrep -u sprite -f "[c]ount.$1.new"); do r=$(awk "/VmRSS/ { print \$2 }" /proc/$p/status 2>/dev/null); [ "$(cat /proc/$p/comm 2>/dev/null)" != sh ] || [ "${r:-0}" -le 400 ] || echo $0; done' $1; done | xargs; }
one_copy() { [ "$(copies $1 | wc -w)" = 1 ]; }
home() { [ -z "$(where $1)" ] && on ws1 kill -0 "$(on ws1 cat $D/$1.pid)"; }
log_has() { sh_on $1 'grep -q -- "$1" /var/log/sprite/migd.log' "$2"; }
end() { on ws1 sh -c "kill -9 \$(cat $D/$1.pid)"; until_true 20 on ws1 test -e $D/$1.rc; }
check "ws2 and ws3 are idle" until_true 60 eval 'idle ws2 && idle ws3'

# the first key: three guests, all home
for i in 1 2 3; do run ws2 "" "" $i; done
for i in 1 2 3; do check "guest $i runs on ws2" until_true 30 counts $i; done
lab input ws2
for i in 1 2 3; do check "guest $i comes home" until_true 30 home $i; done
check "the owner is told in one line" log_has ws2 "the owner is back: 3 guests stopped, and sent away"
check "and when the last has gone" until_true 10 log_has ws2 "all guests have left: "
for i in 1 2 3; do check "guest $i goes on there" counts $i; end $i; done
same "nothing is left" "" "$(residue)"

# refused while the owner is here, unless the user names the host
same "nobody is placed with him" ws3 "$(as sprite ws1 bash -c "cd $D; mig run -v true 2>v.err >v.out </dev/null; cat v.err" | sed -n 's/.*goes to //p')"

# by hand
check "ws2 is idle again" until_true 60 idle ws2
run ws2 "" "" h
check "a guest runs on ws2" until_true 30 counts h
refused "somebody from elsewhere may not send it away" 1 "only root and who is logged in at this host itself" as guest ws2 mig evict --all
check "who sits there may" as sprite ws2 mig evict --all
check "it comes home though nobody touched the host" until_true 30 home h
end h
run ws2 "" "" s
check "a guest runs on ws2" until_true 30 counts s
same "stop-all, as JSON" '{"asked": 1}' "$(on ws2 mig stop-all --json)"
check "all leave" until_true 30 home s
same "and none come any more" refuses "$(state ws2)"
end s
refused "a time that has been" 1 "expected a time to come" on ws2 mig lend on --until 2001-01-01
refused "no time at all" 64 "expected a time such as" on ws2 mig lend on --until soon
check "lend for a while" on ws2 mig lend on --until +3s
check "it says until when" grep -q "on: this host takes guests, until 20" <(on ws2 mig lend status)
run ws2 "" "" t
check "a guest comes" until_true 30 eval 'counts t || log_has ws2 "no longer lends itself"'
check "when the time is over it takes no more" until_true 30 eval '[ "$(state ws2)" = refuses ]'
check "and who was there has left" until_true 30 eval '[ -z "$(where t)" ]'
end t
on ws2 mig lend on >/dev/null

# onward
conf ws1 '{"evicted_onward": true}'
check "ws2 and ws3 are idle" until_true 60 eval 'idle ws2 && idle ws3'
run ws2 "" "" o
check "a guest runs on ws2" until_true 30 counts o
sleep 1.2 # a report takes up to a second
lab input ws2
check "it goes straight on to ws3" until_true 30 is_at o ws3
check "and runs there" counts o
check "in one step, not by way of home" log_has ws1 "(sh) of uid 1000 moved from ws2 to ws3"
lab input ws3
check "home, when no other host is idle" until_true 30 home o
end o
same "stats tell of it" 1 "$(mig stats --no-header -o onward | xargs)"

# A guest stops only where it runs: while they are told to, guests get the CPU like anybody, and then no longer.
lowest() { sh_on ws2 'for d in /sys/fs/cgroup/sprite-guests /sys/fs/cgroup/*/sprite-guests; do if [ -e $d/cpu.idle ]; then [ $(cat $d/cpu.idle) = 1 ]; exit; fi; done; [ "$(cat /sys/fs/cgroup/cpu/sprite-guests/cpu.shares /sys/fs/cgroup/sprite-guests/cpu.weight 2>/dev/null)" -le 2 ]'; }
on ws2 mkdir -p /tmp/fault
lab kill ws2 migd TERM >/dev/null; until_true 20 lab start ws2 migd SPRITE_FAULT=/tmp/fault
check "ws2 is idle" until_true 60 idle ws2
run ws2 "" "" u
check "a guest runs on ws2" until_true 30 counts u
check "at the lowest weight" lowest
sh_on ws2 'echo hold >/tmp/fault/hurried'
lab input ws2
check "the owner is back" until_true 20 on ws2 test -e /tmp/fault/hurried.held
check "it gets the CPU to stop" eval '! lowest'
on ws2 rm /tmp/fault/hurried.held
check "it comes home" until_true 30 home u
check "then guests are the last again" until_true 20 lowest
end u
# A migd that ends meanwhile leaves those who stay so too.
check "ws2 is idle" until_true 60 idle ws2
run ws2 "" "" v
check "a guest runs on ws2" until_true 30 counts v
sh_on ws2 'echo hold >/tmp/fault/hurried'
lab cut ws1 ws2 >/dev/null
lab input ws2
check "the owner is back" until_true 20 on ws2 test -e /tmp/fault/hurried.held
check "it gets the CPU to stop" eval '! lowest'
lab kill ws2 migd TERM >/dev/null & kill=$!
check "its migd is to end" until_true 20 on ws2 test ! -e /run/sprite/migd.sock
on ws2 rm /tmp/fault/hurried.held; wait $kill
check "the lowest weight stays behind" lowest
until_true 20 lab start ws2 migd
lab heal ws1 ws2 >/dev/null
check "it leaves or runs on" until_true 120 counts v
check "as one copy" until_true 20 one_copy v || note "$(copies v)"
end v

# cannot leave: stays stopped; its user's wish
check "ws2 is idle" until_true 60 idle ws2
run ws2 "" "" w
run ws2 "" --kill-if-stuck=2 k
check "two guests run on ws2" until_true 30 eval 'counts w && counts k'
lab cut ws1 ws2 >/dev/null
lab input ws2
check "who asked for it is killed when it cannot leave in time" until_true 30 log_has ws2 "could not leave within 2 s: its user asked for it to be killed then"
a=$(count w)
lab heal ws1 ws2 >/dev/null
check "the other comes home when the network is back" until_true 60 home w
check "and goes on" counts w
check "the home hears of the death" until_true 60 on ws1 test -e $D/k.rc
same "by SIGKILL" 137 "$(on ws1 cat $D/k.rc)"
end w

# one that cannot leave runs on when the owner has gone again
check "ws2 is idle" until_true 60 idle ws2
run ws2 "" "" g
check "a guest runs on ws2" until_true 30 counts g
stops=$(stopped) idles=$(idles)
lab cut ws1 ws2 >/dev/null
lab input ws2
check "it is stopped" until_true 20 eval '[ $(stopped) -gt $stops ]'
check "the owner goes" until_true 60 eval '[ $(idles) -gt $idles ]'
lab heal ws1 ws2 >/dev/null
check "it runs on, there" until_true 60 eval 'is_at g ws2 && counts g'
check "at the lowest weight, as before" until_true 10 lowest
# and a migd that is started anew knows that its guests were stopped
stops=$(stopped)
lab cut ws1 ws2 >/dev/null
lab input ws2
check "it is stopped again" until_true 20 eval '[ $(stopped) -gt $stops ]'
lab kill ws2 migd KILL >/dev/null; until_true 20 lab start ws2 migd
lab heal ws1 ws2 >/dev/null
check "after a kill -9 of migd it leaves or runs on" until_true 120 counts g
check "as one copy" until_true 20 one_copy g || note "$(copies g)"
end g
finish
