# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 145
# The owner comes first: guests stop at his first key, leave in order within limits, go home or onward by policy. By hand: evict, stop-all, lend.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/evict.sh"

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
same "stop-all by who sits there, as JSON" '{"asked": 1}' "$(as sprite ws2 mig stop-all --json)"
check "all leave" until_true 30 home s
same "and none come any more" refuses "$(state ws2)"
refused "nobody else takes that back" 1 "only root and who is logged in at this host itself" as guest ws2 mig lend on
check "who sits there does" as sprite ws2 mig lend on
check "so guests come again" until_true 60 idle ws2
check "root lends no more" on ws2 mig lend off
refused "that is not for him to change" 1 "only root may lend this host" as sprite ws2 mig lend on
refused "nor by way of a time" 1 "only root may lend this host" as sprite ws2 mig lend off --until +1s
check "stop-all changes nothing of it" as sprite ws2 mig stop-all
refused "so it is still not" 1 "only root may lend this host" as sprite ws2 mig lend on
end s
refused "a time that has been" 64 "expected a time to come" on ws2 mig lend on --until 2001-01-01
refused "no time at all" 64 "expected a time such as" on ws2 mig lend on --until soon
check "root lends until a time" on ws2 mig lend on --until +1h
refused "which who sits there does not make for ever" 1 "only root changes that" as sprite ws2 mig lend on
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
check "the master knows that ws3 is idle" until_true 30 eval '[ "$(given ws2)" = ws3 ]'
lab input ws2
check "it goes straight on to ws3" until_true 30 is_at o ws3
check "and runs there" counts o
check "in one step, not by way of home" log_has ws1 "(sh) of uid 1000 moved from ws2 to ws3"
lab input ws3
check "home, when no other host is idle" until_true 30 home o
end o
same "stats tell of it" 1 "$(mig stats --no-header -o onward | xargs)"

# in order, and no more than the owner's link is let carry: three that have memory of their own, one at a time, the smallest first
conf ws1 '{"evicted_onward": false}'
conf ws2 '{"evict_mb_s": 10, "evict_at_once": 1}'
check "ws2 is idle" until_true 60 idle ws2
for mb in 45 25 35; do
	as sprite ws1 bash -c "cd $D; echo \$\$ >count.$mb.pid; exec mig run -H ws2 python3 -c '
import os, sys, time
x = os.urandom(int(sys.argv[1]) << 20); i = 0
while True:
    i += 1
    open(f\"count.m{sys.argv[1]}.new\", \"w\").write(str(i)); os.rename(f\"count.m{sys.argv[1]}.new\", f\"count.m{sys.argv[1]}\"); time.sleep(0.05)' $mb >/dev/null 2>big.err </dev/null" </dev/null >/dev/null 2>&1 &
	check "one of $mb MiB runs on ws2" until_true 30 counts m$mb
done
check "its owner wants it back, for good" as sprite ws2 mig evict --all
check "all leave" until_true 120 sh_on ws2 'tail -1 /var/log/sprite/migd.log | grep -q "all guests have left"' || note "$(lab logs ws2 migd | tail -5)"
took=$(sh_on ws2 'tail -1 /var/log/sprite/migd.log | grep -o "left: [0-9]*" | cut -d" " -f2')
check "at 10 MiB a second, for 105 MiB ($took ms)" test "$took" -gt 9000
same "the smallest first" "25 35 45" "$(for p in $(sh_on ws2 'grep -oE "[0-9]+ \(python3\) has left" /var/log/sprite/migd.log | cut -d" " -f1'); do for mb in 25 35 45; do [ "$(on ws1 cat $D/count.$mb.pid)" != $p ] || echo $mb; done; done | xargs)" || note "$(lab logs ws2 migd | tail -12)"
for mb in 45 25 35; do check "the one of $mb MiB goes on at home" counts m$mb; done
on ws1 pkill -9 -u sprite -x python3
finish
