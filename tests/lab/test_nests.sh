# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# long: yes
# Nests made ahead: one is there when a home's guest has come, the next guest gets it, there are never more than a few, and none stays. A nest that the journal has lost is
# ended, with cgroups and without.
. "$(dirname "$0")/lib.sh"
lab_up -n 6
ahead() { on "$1" pgrep -x sprite-ahead; }
is_called() { [ "$(on "$1" cat "/proc/$2/comm")" = "$3" ]; }
count_is() { [ "$(ahead "$1" | wc -l)" = "$2" ]; }
runs() { as sprite "$1" mig run -H "$2" true </dev/null >/dev/null 2>&1; }

idle() { mig hosts --no-header -o NAME,STATE | grep -q "^$1 *idle"; }
check "ws2 is idle: else none is made after the first" until_true 60 idle ws2
check "a guest comes" runs ws1 ws2
check "a nest is made for the next" until_true 10 count_is ws2 1
P=$(ahead ws2)
as sprite ws1 sh -c 'mig run -b -H ws2 sleep 1000 </dev/null >/tmp/pid 2>/tmp/err'
check "the next guest is in it" is_called ws2 "$P" sprite-keeper
check "and another is made" until_true 10 count_is ws2 1
check "not the same" is_called ws2 "$(ahead ws2)" sprite-ahead
on ws1 sh -c 'kill -9 $(cat /tmp/pid)'
check "its nest ends with the guest" until_true 10 eval '! is_called ws2 $P sprite-keeper'

for h in ws3 ws4 ws5 ws6; do check "a guest of $h comes" runs $h ws2; done
check "there are four of them" until_true 10 count_is ws2 4
groups_are() { [ "$(on ws2 sh -c 'find /sys/fs/cgroup/ -type d -path "*/sprite-guests/sprite-*" | sed s,.*/,, | sort -u | wc -l')" = "$1" ]; }
check "with a cgroup each" until_true 10 groups_are 4
check "that nobody wants are ended" until_true 45 count_is ws2 0
check "and their cgroups with them" until_true 10 groups_are 0

# lost HOST: its migd is killed, its journal gone; what is left of a guest ends before the next migd serves
lost() {
	as sprite ws1 sh -c "mig run -b -H $1 sleep 1000 </dev/null >/tmp/pid 2>/tmp/err" || { flunk "$2: a guest comes"; on ws1 cat /tmp/err; return; }
	check "$2: a guest is there" on $1 pgrep -x -u sprite sleep
	lab kill $1 migd KILL >/dev/null
	on $1 sh -c 'rm /var/lib/sprite/migd.journal'
	check "$2: migd starts without its journal" until_true 10 lab start $1 migd
	same "$2: nothing is left of the guest" "" "$(on $1 sh -c 'pgrep -x sprite-keeper; pgrep -x sprite-ahead; pgrep -x -u sprite sleep')"
	check "$2: its home sees its end" until_true 20 on ws1 sh -c '! kill -0 $(cat /tmp/pid) 2>/dev/null'
}
lost ws2 "with cgroups"
on ws3 umount -R /sys/fs/cgroup
lab kill ws3 migd KILL >/dev/null; until_true 10 lab start ws3 migd
check "without cgroups it says so" on ws3 sh -c 'grep -q "neither cgroup v2 nor a v1 freezer" /var/log/sprite/migd.log'
# one that the journal knows keeps all that is its own: stand-ins have the keeper's name
as sprite ws1 sh -c 'mig run -b -H ws3 sleep 1000 </dev/null >/tmp/pid 2>/tmp/err'
own() { on ws3 pgrep -x sprite-keeper | sort -n | xargs; }
before=$(own)
check "without cgroups: a guest has stand-ins" eval '[ $(wc -w <<<"$before") -ge 2 ]'
lab kill ws3 migd KILL >/dev/null; until_true 10 lab start ws3 migd
same "without cgroups: they live on with it" "$before" "$(own)"
on ws1 sh -c 'kill -9 $(cat /tmp/pid)'
lost ws3 "without cgroups"
finish
