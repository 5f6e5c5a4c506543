# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# Work on /sprite leaves no descriptor, thread or memory behind in spritefs and spritefsd.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
# Not counted: two caches with a bound of their own, spritefs's of /proc/TID/status (128) and spritefsd's of files that have just lost their name.
figures() { # NODE DAEMON: fds threads rss_kb
	sh_on $1 'p=$(pgrep -o -x '$2'); echo $(ls -l /proc/$p/fd | grep -vc -e "/status\$" -e "(deleted)\$") $(ls /proc/$p/task | wc -l) $(awk "/VmRSS/ { print \$2 }" /proc/$p/status)'
}
work() {
	for n in ws1 ws2; do
		sh_on $n 'd=/sprite/leak.$(hostname); for k in $(seq 5); do mkdir $d; cd $d; for i in $(seq 200); do echo $i >f$i; done; cat f* >/dev/null; ls -lR >/dev/null
			ln f1 h; mv f2 g; ln -s h s; exec 3<f3; rm f3; cat <&3 >/dev/null; exec 3<&-; find . -name "f1*" -exec setfattr -n user.a -v b {} +; python3 -c "
import fcntl, os
for i in range(200):
    with open(\"f4\", \"r+\") as f: fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)
"; cat f9/x f9999 2>/dev/null; cd /; rm -r $d; done' &
	done
	wait
}
work # caches and threads come to be
declare -A before
for w in "fs1 spritefsd" "ws1 spritefs" "ws2 spritefs" "ws1 spritefsd"; do before[$w]=$(figures $w); done
work; work; work
for w in "fs1 spritefsd" "ws1 spritefs" "ws2 spritefs" "ws1 spritefsd"; do
	read -r f0 t0 r0 <<<"${before[$w]}"; read -r f1 t1 r1 <<<"$(figures $w)"
	check "$w: descriptors $f0 -> $f1" test $((f1 - f0)) -le 4
	check "$w: threads $t0 -> $t1" test $((t1 - t0)) -le 4
	[ -n "${ASAN_OPTIONS:-}" ] || check "$w: memory $r0 -> $r1 kB" test $((r1 - r0)) -le 6000 # a sanitizer keeps what is freed
done
finish
