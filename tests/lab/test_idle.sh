# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 120
# Who is here: each source of idle detection is real, shows in mig hosts -v, and counts: input devices that come and go, terminals, remote logins by option,
# battery and lid, load. Clocks that jump are no input.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 --bind "$TESTS:/opt/sprite/tests"
state() { mig hosts --no-header -o NAME,STATE,WHY | awk '$1 == "ws2" { $1 = ""; print substr($0, 2) }'; }
is() { [[ "$(state)" == "$1"* ]]; }
source_() { mig hosts -v | grep "^ws2: $1"; }
shows() { source_ "$1" | grep -q -- "$2"; }
conf() { sh_on ws2 'python3 - "$1" <<X
import json, sys
c = json.load(open("/etc/sprite/sprite.conf")); c["migd"].update(json.loads(sys.argv[1])); json.dump(c, open("/etc/sprite/sprite.conf", "w"))
X' "$1"; lab kill ws2 migd TERM >/dev/null; until_true 20 lab start ws2 migd; }
check "ws2 becomes idle" until_true 60 is idle

# terminals
check "the console is a source" shows "tty pts/0" "last input"
lab input ws2
check "a key at it makes the host used" until_true 20 is "in use input"
check "and idle again later" until_true 60 is idle

# input devices: there are none at first; a pipe stands for the device that this kernel cannot make
check "no input device is there" eval '[ -z "$(source_ input)" ]'
on ws2 sh -c 'mkdir -p /dev/input && mkfifo /dev/input/event7'
lab exec ws2 -- sh -c 'exec 3<>/dev/input/event7; until [ -e /tmp/press ]; do sleep 0.05; done; head -c 24 /dev/zero >&3; until [ -e /tmp/unplug ]; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &
check "a keyboard that is plugged in is found" until_true 20 shows "input input/event7" "last input never"
check "that alone is no input" is idle
on ws2 touch /tmp/press
check "a key on it is seen" until_true 20 is "in use input"
check "and shown there" until_true 10 eval 'shows "input input/event7" "last input [0-9]"'
on ws2 sh -c 'rm /dev/input/event7; touch /tmp/unplug'
wait
check "one that is unplugged goes" until_true 20 eval '[ -z "$(source_ input)" ]'
check "the host is idle again" until_true 60 is idle

# battery and lid
check "power is a source" shows power "no mains adapter"
sh_on ws2 'mount -t tmpfs none /sys/class/power_supply && mkdir /sys/class/power_supply/AC && echo Mains >/sys/class/power_supply/AC/type && echo 0 >/sys/class/power_supply/AC/online'
check "on battery it is not offered" until_true 20 is "in use battery"
check "and says so" shows power "on battery, lid open"
sh_on ws2 'echo 1 >/sys/class/power_supply/AC/online'
check "on mains it is" until_true 20 is idle
sh_on ws2 'echo 0 >/sys/class/power_supply/AC/online'
conf '{"on_battery": true}'
check "with the option it is offered all the same" until_true 60 is idle
check "and says so" shows power "on battery.*makes no difference"
sh_on ws2 'umount /sys/class/power_supply'

# load: its own processes count, guests do not
as sprite ws1 bash -c 'mkdir -p /sprite/idle; cd /sprite/idle; mig run -H ws2 sh -c "for i in \$(seq $(nproc)); do while [ ! -e stop ]; do :; done & done; wait" >out 2>&1 </dev/null' &
check "a guest that computes" until_true 20 eval '[ "$(mig hosts --no-header -o NAME,GUESTS | awk "\$1 == \"ws2\" { print \$2 }")" = 1 ]'
conf '{"load_low": [0.5, 10, 10], "load_high": [0.7, 10, 10]}'
check "does not make its host look busy" until_true 60 is idle
as sprite ws1 touch /sprite/idle/stop
wait
as sprite ws2 sh -c 'for i in $(seq $(nproc)); do while [ ! -e /tmp/stop ]; do :; done & done; wait' </dev/null >/dev/null 2>&1 &
check "a program of its own does" until_true 60 is "in use load"
check "and the averages are shown" shows load "[0-9.]* [0-9.]* [0-9.]* runnable"
as sprite ws2 touch /tmp/stop
wait

# logind: none here, and said so; then one that answers as it does, on a bus of the node's own
check "a bus that is not there is reported, not guessed" shows logind "cannot be read: no system bus"
if command -v dbus-daemon >/dev/null; then
	conf '{"load_low": [100, 100, 100], "load_high": [100, 100, 100], "on_battery": false}'
	on ws2 sh -c 'mkdir -p /run/dbus; cat >/tmp/bus.conf' <<'X'
<busconfig><type>session</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context="default"><allow send_destination="*"/>
<allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>
X
	# says LID MAINS SESSIONS IDLE LOCKED REMOTE [S]: the last change was S seconds ago, without it just now
	says() { sh_on ws2 'python3 -c "import sys, time; print(*sys.argv[1:7], int((time.monotonic() - float(sys.argv[7])) * 1e6))" "${@:1:6}" "${7:-0}" >/tmp/logind.new; mv /tmp/logind.new /tmp/logind' "$@"; }
	says 0 1 1 1 0 0 10000
	lab exec ws2 -- dbus-daemon --nofork --nopidfile --config-file /tmp/bus.conf </dev/null >/dev/null 2>&1 &
	lab exec ws2 -- /opt/sprite/tests/unit/test_idle_logind serve /tmp/logind </dev/null >/dev/null 2>&1 &
	check "a bus that comes later is found" until_true 30 shows logind "anna on seat0 idle"
	check "ws2 is idle" until_true 60 is idle
	# used all the time: it is asked for every few seconds, and the lab's hosts are idle again as soon
	check "a session that is used is input" until_true 30 eval 'says 0 1 1 0 0 0; is "in use input"'
	check "and shown" until_true 10 shows logind "anna on seat0 active"
	says 0 1 1 1 1 0 10000
	check "idle again" until_true 60 is idle
	check "its lock is shown" until_true 10 shows logind "anna on seat0 idle, locked"
	says 1 1 1 1 1 0 10000
	check "a lid that logind knows of counts" until_true 30 is "in use lid"
	says 0 0 1 1 1 0 10000
	check "so does a battery" until_true 30 is "in use battery"
	on ws2 sh -c 'kill $(pgrep -f "[t]est_idle_logind serve") $(pgrep -x dbus-daemon)'
	wait
	check "a bus that has gone is said" until_true 30 shows logind "cannot be read"
	check "and guessed nothing about" until_true 60 is idle
fi

# a clock that jumps, forth and back
conf '{"load_low": [100, 100, 100], "load_high": [100, 100, 100]}'
check "ws2 is idle" until_true 60 is idle
lab kill ws2 migd TERM >/dev/null
check "migd starts an hour later" until_true 20 lab start ws2 migd SPRITE_CLOCK_OFFSET_MS=3600000
check "it is idle as before" until_true 60 is idle
on ws2 touch -a -d "+2 hours" /dev/pts/0
check "a terminal's time in the future is one touch" until_true 20 is "in use input"
check "and no more than one" until_true 60 is idle
finish
