# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 900
# The Debian package on two machines that boot systemd: it installs with the packages that it names, its units start, and their sandboxes let them work; a job that is
# away outlives the restart, the death and the hang of each daemon, and an upgrade; removal leaves nothing. The machines are Debian trees made by debootstrap (kept in
# $BUILD/tests), in namespaces (systemd-node).
. "$(dirname "$0")/lib.sh"
SRC=$(cd "$HERE/../.." && pwd)
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
command -v dpkg-shlibdeps >/dev/null || skip "dpkg-dev is not installed"
group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$group" ] || skip "no control group v2 hierarchy is mounted"
group=$group/sprite-systemd-$$
W=$(mktemp -d /var/tmp/sprite-systemd.XXXXXX)
BASE=$TESTS/debian.tar
MIRROR=$(sed -n 's/^deb \([^[][^ ]*\) .*/\1/p; s/^URIs: *//p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)

declare -A PID HOLD
end_all() {
	local rc=$?
	[ $FAILED = 0 ] || for n in a b; do [ -z "${PID[$n]:-}" ] || at $n journalctl -q --no-pager -n 200 2>/dev/null | sed "s/^/@ $n: /"; done
	for n in a b; do [ -z "${PID[$n]:-}" ] || kill -9 "${PID[$n]}"; kill -9 "${HOLD[$n]:-}"; done 2>/dev/null
	wait
	until_true 20 eval '! grep -q . $(find '$group' -name cgroup.procs 2>/dev/null) /dev/null'
	find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
	rm -rf "$W" "$TMP"
	exit $rc
}
trap end_all EXIT
trap 'exit 143' TERM INT

# ---- the package and the tree
dpkg_build() { # VERSION
	make -s -C "$SRC" BUILD="$(dirname "$TESTS")" VERSION=$1 deb >"$TMP/deb.log" 2>&1 && mv "$(dirname "$TESTS")/sprite_$1_"*.deb "$W/sprite-$1.deb"
}
check "make deb" dpkg_build 0.1.0 || { cat "$TMP/deb.log"; finish; }
check "make deb of the next version" dpkg_build 0.1.1 || finish
if [ ! -s "$BASE" ]; then
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps,python3-minimal bookworm "$W/base" ${MIRROR:-} >"$TMP/base.log" 2>&1 ||
		skip "debootstrap: $(tail -1 "$TMP/base.log")"
	tar cf "$BASE.new" -C "$W/base" . && mv "$BASE.new" "$BASE"
	rm -rf "$W/base"
fi
mkdir "$W/a" && tar xf "$BASE" -C "$W/a"
cp "$W"/sprite-*.deb "$W/a/root"
cp /etc/resolv.conf "$W/a/etc/resolv.conf"
check "it installs with the packages it names, on a Debian that does not run" unshare -m -p -f --mount-proc="$W/a/proc" chroot "$W/a" sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends /root/sprite-0.1.0.deb' || finish
check "nothing starts by itself: it has no name and no certificate yet" test ! -e "$W/a/etc/systemd/system/multi-user.target.wants/migd.service"

# ---- two machines: a serves files and is a workstation, b is one
cp -a "$W/a" "$W/b"
"$BIN/sprite-pki" init "$W/pki" >/dev/null
for n in a b; do
	"$BIN/sprite-pki" host --address 10.78.0.$([ $n = a ] && echo 1 || echo 2) "$W/pki" $n >/dev/null
	mkdir -p "$W/$n/etc/sprite/tls" "$W/$n/srv/sprite" "$W/$n/sprite"
	chmod 1777 "$W/$n/srv/sprite"
	cp "$W/pki/hosts/$n/"* "$W/$n/etc/sprite/tls"
	printf '127.0.0.1 localhost\n10.78.0.1 a\n10.78.0.2 b\n' >"$W/$n/etc/hosts"
	echo $n >"$W/$n/etc/hostname"
	: >"$W/$n/etc/machine-id"
	chroot "$W/$n" useradd -m -u 1000 -s /bin/bash sprite
	python3 - $n >"$W/$n/etc/sprite/sprite.conf" <<-'PY'
	import json, sys
	t = "/etc/sprite/tls/"
	c = {"name": sys.argv[1], "root_server": "a", "tls": {"ca": t + "ca.crt", "cert": t + "host.crt", "key": t + "host.key"}, "migd": {"lend": True}}
	if sys.argv[1] == "a": c["spritefsd"] = {"exports": [{"prefix": "/", "path": "/srv/sprite", "root_squash": False}, {"prefix": "/hosts/a", "path": "/", "home": True}]}
	print(json.dumps(c))
	PY
	ln -sf /dev/null "$W/$n/etc/systemd/system/sys-kernel-debug.mount"
	ln -sf /dev/null "$W/$n/etc/systemd/system/sys-kernel-tracing.mount"
	for u in spritefsd.service sprite.mount migd.service; do chroot "$W/$n" systemctl -q enable $u; done
	# the watchdog of the tests has less patience
	for u in spritefsd migd; do mkdir -p "$W/$n/etc/systemd/system/$u.service.d"; printf '[Service]\nWatchdogSec=6\nTimeoutAbortSec=1\n' >"$W/$n/etc/systemd/system/$u.service.d/test.conf"; done
	unshare -n sleep 100000 & HOLD[$n]=$!; disown
done
for c in cpu memory pids io; do echo +$c >"${group%/*}/cgroup.subtree_control"; done 2>/dev/null
mkdir "$group"
for c in cpu memory pids io; do echo +$c >"$group/cgroup.subtree_control"; done 2>/dev/null
until_true 10 eval '[ "$(readlink /proc/${HOLD[a]}/ns/net)" != "$(readlink /proc/self/ns/net)" ] && [ "$(readlink /proc/${HOLD[b]}/ns/net)" != "$(readlink /proc/self/ns/net)" ]'
nsenter -n -t ${HOLD[a]} ip link add eth0 type veth peer name eth0 netns ${HOLD[b]}
for n in a b; do nsenter -n -t ${HOLD[$n]} sh -c "ip link set lo up; ip addr add 10.78.0.$([ $n = a ] && echo 1 || echo 2)/24 dev eth0; ip link set eth0 up"; done
at() { local n=$1; shift; nsenter -t ${PID[$n]} -m -u -i -n -p -C -r -w -- "$@"; } # a command on a machine, as root
at_sh() { local n=$1 s=$2; shift 2; at $n bash -c "$s" $n "$@"; }
for n in a b; do
	mkdir "$group/$n"
	nsenter -n -t ${HOLD[$n]} bash "$HERE/systemd-node" "$W/$n" $n "$group/$n" >"$W/$n.log" 2>&1 &
	boot=$!
	until_true 20 eval '[ "$(pgrep -P '$boot' -x systemd)" ]' || { flunk "systemd boots on $n"; cat "$W/$n.log"; skip "systemd does not boot here"; }
	PID[$n]=$(pgrep -P $boot -x systemd)
done
active() { at $1 systemctl is-active -q "${@:2}"; }
for n in a b; do
	check "$n: all three units start at boot" until_true 60 active $n spritefsd.service sprite.mount migd.service || { at $n systemctl --no-pager status spritefsd.service sprite.mount migd.service; finish; }
done
same "systemd-analyze verify has nothing to say" "" "$(at a systemd-analyze verify --man=no spritefsd.service sprite.mount migd.service 2>&1 | grep -i sprite\\\|migd)"
note "$(at a systemd-analyze security --no-pager spritefsd.service | tail -1)"
same "lines of the journal: program and priority are fields" "migd 5" "$(at a journalctl -u migd -o json -n 1 --no-pager _COMM=migd | python3 -c 'import json, sys; r = json.loads(sys.stdin.readline()); print(r["_COMM"], r["PRIORITY"])')"
check "systemctl status tells what it does" until_true 10 eval 'at a systemctl show -p StatusText migd | grep -q guests'

# ---- the sandbox lets the file server do what a user may
same "files over there and here" "two" "$(at_sh b 'echo two >/sprite/f'; at a cat /sprite/f)"
check "owners, modes with setuid, special files, attributes" at_sh b 'cd /sprite && cp /bin/true t && chown 1000:1000 t && chmod 4755 t && mkfifo p && ln -s t l && touch -d @1000000 t &&
	[ "$(stat -c "%u %a %Y" t)" = "1000 4755 1000000" ] && chmod u+s t && setpriv --reuid=1000 --regid=1000 --clear-groups sh -c "chmod 4711 t && [ -u t ]"'
check "another's file is another's" at_sh b 'umask 077; echo secret >/sprite/s; ! setpriv --reuid=1000 --regid=1000 --clear-groups cat /sprite/s 2>/dev/null'

# ---- a job, a child of systemd, that counts
cat >"$W/count.py" <<'PY'
import os, sys, time
n = 0
while not os.path.exists("stop"):
    n += 1
    print(n, flush=True)
    time.sleep(0.01)
sys.exit(42)
PY
at a install -d -o sprite -g sprite /sprite/job
at a sh -c 'cat >/sprite/job/count.py' <"$W/count.py"
at_sh a 'systemd-run -q --unit=job --uid=sprite -p WorkingDirectory=/sprite/job -p RemainAfterExit=yes sh -c "exec python3 count.py >out 2>&1"' || flunk "the job starts"
until_true 20 at a test -s /sprite/job/out
J=$(at a systemctl show -p MainPID --value job)
lines() { at a sh -c 'wc -l </sprite/job/out'; }
grows() { local a; a=$(lines); until_true 20 eval '[ "$(lines)" -gt '$a' ]'; }
away() { at a mig ps --no-header 2>/dev/null | grep -qw "$J" && at b pgrep -x python3 >/dev/null; }
lives() { check "$1: the job goes on" grows; check "$1: and is away still" until_true 20 away; }
main_pid() { at $1 systemctl show -p MainPID --value $2; }
renewed() { [ "$(main_pid $1 $2)" != "$3" ] && [ "$(main_pid $1 $2)" != 0 ] && active $1 $2; }
check "it moves to b" until_true 20 at a mig move -H b "$J" || { at a mig move -H b "$J"; at a mig explain "$J"; }
lives "moved"
for n in a b; do
	p=$(main_pid $n migd); check "$n: systemctl restart migd" at $n systemctl restart migd; check "$n: it is another process" renewed $n migd "$p"
	lives "$n: migd restarted"
	p=$(main_pid $n migd); at $n kill -9 "$p"
	check "$n: killed, migd is started again" until_true 30 renewed $n migd "$p"
	lives "$n: migd killed"
	p=$(main_pid $n migd); at $n kill -STOP "$p"
	check "$n: a migd that hangs is ended by the watchdog, and started again" until_true 60 renewed $n migd "$p"
	lives "$n: migd hung"
	p=$(main_pid $n spritefsd); check "$n: systemctl restart spritefsd" at $n systemctl restart spritefsd; check "$n: it is another process" renewed $n spritefsd "$p"
	lives "$n: spritefsd restarted"
	check "$n: the watchdog speaks in the journal" eval 'at $n journalctl -u migd --no-pager >"$TMP/j"; grep -q "[Ww]atchdog timeout" "$TMP/j"'
done

# ---- upgrade, with the job away
p=$(main_pid a migd)
for n in a b; do check "$n: upgrade" at $n dpkg -i /root/sprite-0.1.1.deb; done
same "an upgrade leaves the daemons running, with the old program" "$p (deleted)" "$(main_pid a migd) $(at a readlink /proc/$p/exe | grep -o '(deleted)')"
lives "upgraded"
for n in a b; do at $n systemctl restart spritefsd migd || flunk "$n: restart after the upgrade"; done
lives "restarted after the upgrade"
same "with the new one" "0.1.1 /usr/lib/sprite/migd" "$(at a dpkg-query -W -f '${Version}' sprite) $(at_sh a 'readlink /proc/$1/exe' "$(main_pid a migd)")"
check "home" until_true 20 at a mig home "$J"
check "nothing of it is left on b" until_true 20 eval '! at b pgrep -x python3'
check "away once more, to end there" at a mig move -H b "$J"
at a touch /sprite/job/stop
check "it ends" until_true 30 eval '[ "$(at a systemctl show -p SubState --value job)" != running ]'
same "systemd, its parent, sees its exit status" 42 "$(at a systemctl show -p ExecMainStatus --value job)"
check "no line is lost or doubled" at_sh a "awk '\$1 != NR { bad = 1 } END { exit bad }' /sprite/job/out"

# ---- removal
for n in b a; do
	check "$n: dpkg --purge" at $n dpkg --purge sprite
	check "$n: no process is left" eval '! at $n pgrep -a "^(migd|spritefs|spritefsd|sprite-.*)$"'
	check "$n: /sprite is no mount any more" eval '! at $n grep -q " /sprite " /proc/mounts'
	same "$n: no unit, no program, no state is left" "" "$(at $n sh -c 'ls -d /usr/lib/sprite /usr/bin/mig /usr/sbin/migd /lib/systemd/system/migd.service /var/lib/sprite /etc/systemd/system/multi-user.target.wants/migd.service /run/sprite/*.sock 2>/dev/null')"
	check "$n: configuration and certificates are" at $n test -s /etc/sprite/tls/host.crt
done
finish
