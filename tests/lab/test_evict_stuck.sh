# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 145
# Guests get the CPU to stop, and then no longer; who cannot leave stays stopped, runs on when the owner has gone again, or is killed if its user asked for that.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/evict.sh"
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
# (No migd at its home, rather than a cut: what was asked over a link that is cut is heard when it is whole again, and then it goes home all the same.)
stops=$(stopped) idles=$(idles)
lab kill ws1 migd KILL >/dev/null
lab input ws2
check "it is stopped" until_true 20 eval '[ $(stopped) -gt $stops ]'
check "the owner goes" until_true 60 eval '[ $(idles) -gt $idles ]'
check "it runs on" until_true 60 counts g
until_true 20 lab start ws1 migd
check "where it was" until_true 60 is_at g ws2
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
