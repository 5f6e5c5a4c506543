# SPDX-License-Identifier: Apache-2.0
# For test_relay_restart.sh and test_relay_tcp_killed.sh, sourced after lib.sh: what relays is killed again and again while a job goes on.
up() { on "$1" mig ps >/dev/null 2>&1; }
killed() { lab kill "$1" migd KILL >/dev/null; }
again() { until_true 10 lab start "$1" migd; until_true 10 up "$1"; }
has_lines() { [ "$(lines)" -ge "$1" ]; } # lines(): the test's, of what shows that it goes on
# breaks WHAT WHO...: at growing numbers of lines (each STEP and up to SPREAD more) they die, and come again
breaks() {
	local what=$1 n w; shift
	for n in 1 2 ${LONG:+3 4}; do
		until_true 30 has_lines $(($(lines) + STEP + RANDOM % SPREAD)) || flunk "$what: it goes on"
		for w; do
			case $w in cut) lab cut ws1 ws2; sleep 0.5; lab heal ws1 ws2 ;;
			*) killed "$w" ;; esac
		done
		for w; do [ "$w" = cut ] || again "$w"; done
	done
}
relay_pid() { sh_on "$1" 'for p in $(pgrep -x sprite-relay); do [ $(readlink /proc/$p/ns/pid) = $(readlink /proc/self/ns/pid) ] && echo $p; done'; }
