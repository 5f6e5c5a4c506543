# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# Moves leave no descriptor, thread, process, mount, group or memory behind in the daemons and on the nodes.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
# Not counted: two caches with a bound of their own, spritefs's of /proc/TID/status (128) and spritefsd's of files that have just lost their name.
figures() { # NODE DAEMON: fds threads
	sh_on $1 'p=$(pgrep -o -x '$2'); echo $(ls -l /proc/$p/fd | grep -vc -e "/status\$" -e "(deleted)\$") $(ls /proc/$p/task | wc -l)'
}
node_figures() { sh_on $1 'echo $(ps -e --no-headers | grep -vE "ps|bash|grep|wc" | wc -l) processes, $(wc -l </proc/self/mountinfo) mounts, $(find /sys/fs/cgroup -type d | wc -l) groups, $(ls /run/sprite | wc -l) files in /run/sprite'; }
trip() {
	job "python3 -c 'import time
while True: time.sleep(0.001)'" || exit 1
	for w in ws2 ws3 home ws2; do hop $w >/dev/null || flunk "move to $w"; done
	as sprite ws1 kill -TERM "$JOB"; job_status >/dev/null
}
for i in 1 2 3 4 5; do trip; done
declare -A before nodes
WHO=("ws1 migd" "ws2 migd" "ws3 migd" "ws1 spritefsd" "ws1 spritefs" "fs1 spritefsd")
for w in "${WHO[@]}"; do before[$w]=$(figures $w); done
sleep 1 # what has ended is on its way out
for n in ws1 ws2 ws3; do nodes[$n]=$(node_figures $n); done
# Rounds of 20 moves, until in three of them in a row what is allocated has grown by no more than LIMIT kB, ten at most: tables fill, and are no leak.
LIMIT=1000
declare -A grown
steady() { # NODE DAEMON
	[ -z "${ASAN_OPTIONS:-}" ] || return 0 # a sanitizer has an allocator of its own, and tells of leaks itself
	awk -v limit=$LIMIT '{ for (i = 3; i <= NF; i++) if ($(i - 2) + $(i - 1) + $i <= limit) exit 0; exit 1 }' <<<"${grown[$1 $2]}"
}
all_steady() { local w; for w in "${WHO[@]}"; do steady $w || return 1; done; }
for r in 1 2 3 4 5 6 7 8 9 10; do
	declare -A m0; for w in "${WHO[@]}"; do m0[$w]=$(heap $w); done
	for i in 1 2 3 4 5; do trip; done
	for w in "${WHO[@]}"; do grown[$w]+="$(($(heap $w) - m0[$w])) "; done
	[ $r -lt 3 ] || ! all_steady || break
done
# A nest for the next guest may stand ready, then and now: each figure is at most what it was.
no_more() { awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+$/) v[NR, i] = $i; n = NF } END { for (i = 1; i <= n; i++) if (v[2, i] > v[1, i]) exit 1 }' <<<"$1"$'\n'"$2"; }
settled() { for n in ws1 ws2 ws3; do no_more "${nodes[$n]}" "$(node_figures $n)" || return 1; done; }
until_true 10 settled
for n in ws1 ws2 ws3; do now=$(node_figures $n); check "$n: no more than it was" no_more "${nodes[$n]}" "$now" || note "was: ${nodes[$n]}; is: $now"; done
for w in "${WHO[@]}"; do
	read -r f0 t0 <<<"${before[$w]}"
	few() { read -r f1 t1 <<<"$(figures $w)"; [ $((f1 - f0)) -le 3 ] && [ $((t1 - t0)) -le 3 ]; }
	until_true 10 few # what has ended is on its way out
	check "$w: descriptors $f0 -> $f1" test $((f1 - f0)) -le 3
	check "$w: threads $t0 -> $t1" test $((t1 - t0)) -le 3
	check "$w: allocated, kB more by rounds of 20 moves: ${grown[$w]}" steady $w
done
finish
