# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# The master: always one, replaced when it dies or is cut off; who names no host gets a slot from it, and gives it back.
. "$(dirname "$0")/lib.sh"
lab_up -n 3

# The nodes whose migd says that it is the master.
masters() {
	for n in ws1 ws2 ws3; do
		lab logs $n migd | grep -E 'is the master now|is no longer the master|: ready; ' | tail -1 | grep -q 'master now' && [ "$n" != "${DEAD:-}" ] && echo $n
	done
	return 0
}
one_master() { [ "$(masters | wc -l)" = 1 ]; }
other_master() { one_master && [ "$(masters)" != "$1" ]; }
idle_hosts() { mig hosts --no-header -o NAME,STATE | awk '$2 == "idle" { print $1 }' | sort | tr '\n' ' '; }
idle() { [[ "$(idle_hosts)" == *"$1"* ]]; }
# How many of user sprite's sleeps run as guests
away() { mig ps --no-header | grep -c sleep; }
away_is() { [ "$(away)" = "$1" ]; }
# Hosts tell the master within a second that they are idle: asked again until then.
sleeps() { as sprite ws1 bash -c 'for i in $(seq $1); do (while mig run sleep 300 >/dev/null 2>&1 </dev/null; [ $? = 125 ]; do sleep 0.3; done) & done; wait' sh "$1" & }
end_sleeps() { on ws1 bash -c 'kill $(pgrep -u sprite -x sleep)'; until_true 20 away_is 0; }
where() { as sprite ws1 bash -c 'mig run sleep 30 >/dev/null 2>&1 </dev/null & p=$!; for i in $(seq 200); do h=$(mig ps --no-header -o PID,HOST | awk -v p=$p "\$1 == p { print \$2 }"); case $h in ws[23]) break; esac; kill -0 $p || break; sleep 0.1; done; echo ${h:-nowhere}; kill $p; wait' 2>/dev/null; }

check "one of three is elected" until_true 30 one_master
first=$(masters)
check "hosts without owners become idle" until_true 60 idle "ws2 ws3"

# slots: one for each CPU
slots=$(($(on ws2 nproc) + $(on ws3 nproc)))
if [ $slots -le 16 ]; then
	sleeps $slots
	check "as many guests as the others have CPUs" until_true 30 away_is $slots || note "$(away) of $slots: $(mig ps)"
	refused "one more finds nobody" 125 "no host is idle" as sprite ws1 bash -c 'mig run true </dev/null 2>&1 | cat; exit ${PIPESTATUS[0]}'
	same "unless it may run here" "0" "$(as sprite ws1 bash -c 'mig run --local-ok true </dev/null >/dev/null 2>&1; echo $?')"
	check "they end" end_sleeps
	check "and have given their slots back" until_true 20 as sprite ws1 bash -c 'mig run true </dev/null >/dev/null 2>&1'
fi

# a host whose owner is there is not given
lab input ws2
check "ws2 is in use after a key" until_true 20 eval '! idle ws2'
sleep 1.2 # a report takes up to a second
same "the other host is chosen" ws3 "$(where)"

# the master's migd dies
from=$(date +%s%N)
lab kill "$first" migd KILL >/dev/null
DEAD=$first
check "another takes over when it is killed" until_true 30 other_master "$first"
note "after $((($(date +%s%N) - from) / 1000000)) ms"
second=$(masters)
lab start "$first" migd >/dev/null
DEAD=
check "the first one accepts the second" until_true 30 sh_on "$first" 'grep -q "the master is '"$second"'" /var/log/sprite/migd.log'
check "slots are granted by the new one" until_true 60 as sprite ws1 bash -c 'mig run true </dev/null >/dev/null 2>&1'

# the master is cut off
lab cut "$second" fs1 >/dev/null
check "a master that is cut off lays its office down" until_true 30 eval 'lab logs $second migd | grep -E "master now|no longer the master" | tail -1 | grep -q "no longer"'
DEAD=$second
check "and another has it" until_true 30 one_master
lab heal "$second" fs1 >/dev/null
check "after the repair slots are granted again" until_true 60 as sprite ws1 bash -c 'mig run true </dev/null >/dev/null 2>&1'
finish
