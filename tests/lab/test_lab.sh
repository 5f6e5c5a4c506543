# SPDX-License-Identifier: Apache-2.0
# lab: shared
# What sprite-lab gives to a node, and how its commands behave.
. "$(dirname "$0")/lib.sh"

# -- exec
same "exec passes the exit status" 7 "$(on ws1 sh -c 'exit 7'; echo $?)"
same "exec passes stdin and stdout" "through the node" "$(echo through the node | on ws1 cat)"
same "exec keeps stderr apart" "err" "$(on ws1 sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)"
same "exec tells of a command that is not there" 127 "$(on ws1 no-such-command 2>/dev/null; echo $?)"
same "exec tells of death by signal" 143 "$(on ws1 sh -c 'kill -TERM $$'; echo $?)"
same "exec as another user" "sprite 1000 /home/sprite" "$(as sprite ws1 sh -c 'echo $(id -un) $(id -u) $(pwd)')"
same "exec of an unknown user" 125 "$(as nobody-of-this-name ws1 true 2>/dev/null; echo $?)"
same "exec with 5000 arguments" 5000 "$(on ws1 sh -c 'echo $#' x $(seq 5000))"
"$BIN/sprite-lab" exec ws1 -- sh -c 'trap "echo got it; exit 9" TERM; echo ready; while :; do sleep 0.05; done' >"$TMP/out" &
pid=$!
until_true 5 grep -q ready "$TMP/out"
kill -TERM $pid; wait $pid
same "a signal to exec reaches the command" "9 got it" "$? $(tail -1 "$TMP/out")"
mkfifo "$TMP/never" # script(1) types a NUL when its input ends: this one does not
same "exec at a terminal gives one of the node's" "/dev/pts" "$(script -qec "$BIN/sprite-lab exec ws1 -- sh -c 'dirname \$(tty)'" /dev/null <>"$TMP/never" | tr -d '\r')"
same "the terminal's size comes along" "33 77" "$(script -qec "stty rows 33 cols 77; $BIN/sprite-lab exec ws1 -- stty size" /dev/null <>"$TMP/never" | tr -d '\r')"

# -- a node is a machine of its own
for ns in net pid mnt uts ipc time cgroup; do
	same "nodes have a $ns namespace each" 5 "$( (readlink /proc/self/ns/$ns; for n in fs1 ws1 ws2 ws3; do on $n readlink /proc/self/ns/$ns; done) | sort -u | wc -l)"
done
same "host names" "fs1 ws1 ws2 ws3" "$(echo $(for n in fs1 ws1 ws2 ws3; do on $n hostname; done))"
same "boot ids differ" 5 "$( (cat /proc/sys/kernel/random/boot_id; for n in fs1 ws1 ws2 ws3; do on $n cat /proc/sys/kernel/random/boot_id; done) | sort -u | wc -l)"
same "monotonic clocks differ by more than 500 s" 5 "$( (cat /proc/uptime; for n in fs1 ws1 ws2 ws3; do on $n cat /proc/uptime; done) | awk '{print int($1 / 500)}' | sort -u | wc -l)"
same "marks under /usr" "fs1 ws1 ws2 ws3" "$(echo $(for n in fs1 ws1 ws2 ws3; do on $n cat /usr/sprite-node; done))"
check "the host's /usr cannot be written from a node" sh_on ws1 '! touch /usr/bin/x-of-a-node 2>/dev/null'
check "no path to another node or to the host" sh_on ws1 '[ ! -e /run/sprite-lab ] && [ ! -e "'"$BIN"'" ] && ! ls -d /home/* | grep -vE "/(sprite|guest)$"'
for n in fs1 ws1 ws2 ws3; do on $n sh -c 'for d in /home /tmp /var/tmp /run /etc/sprite; do echo $0 >$d/of-whom; done' $n; done
same "/home, /tmp, /var, /run and /etc/sprite are each node's own" "fs1 ws1 ws2 ws3 0" "$(echo $(for n in fs1 ws1 ws2 ws3; do on $n sh -c 'cat /home/of-whom /tmp/of-whom /var/tmp/of-whom /run/of-whom /etc/sprite/of-whom; rm /home/of-whom /tmp/of-whom /var/tmp/of-whom /run/of-whom /etc/sprite/of-whom' | sort -u; done; ls /home/of-whom /tmp/of-whom /var/tmp/of-whom /run/of-whom /etc/sprite/of-whom 2>/dev/null | wc -l))"
same "a certificate each" 4 "$(for n in fs1 ws1 ws2 ws3; do on $n sha1sum /etc/sprite/tls/host.crt; done | sort -u | wc -l)"
same "a cable each" "eth0 veth" "$(on ws1 ip -d -o link show eth0 | sed -n 's/^[0-9]*: \(eth0\)@.* \(veth\) .*/\1 \2/p')"
check "devices" sh_on ws1 '[ -c /dev/null ] && [ -c /dev/fuse ] && [ -d /dev/shm ] && echo x >/dev/full 2>/dev/null; [ $? != 0 ] && [ "$(head -c 4 /dev/zero | wc -c)" = 4 ]'
check "names of the nodes resolve" sh_on ws1 'for n in fs1 ws1 ws2 ws3; do getent hosts $n >/dev/null || exit 1; done'
check "a group of a node can be frozen" sh_on ws1 'g=$(findmnt -no TARGET -t cgroup2)/t; mkdir $g; sleep 100 >/dev/null 2>&1 & p=$!
	echo $p >$g/cgroup.procs && echo 1 >$g/cgroup.freeze && while ! grep -q "frozen 1" $g/cgroup.events; do :; done; kill -9 $p; wait $p 2>/dev/null; while ! rmdir $g 2>/dev/null; do :; done'
before=$(cat /proc/sys/kernel/pid_max)
case $(uname -r) in
[7-9].*|6.1[4-9].*|6.[2-9][0-9].*) same "pid_max of a workstation is lower than the host's" "30000 $before" "$(on ws1 cat /proc/sys/kernel/pid_max) $(cat /proc/sys/kernel/pid_max)" ;;
esac
same "a node's pids are small: its own" yes "$(on ws1 sh -c '[ $$ -lt 30000 ] && [ -d /proc/1 ] && grep -q lab-init /proc/1/comm && echo yes')"

# -- cut, heal, link, cpu, input
reach() { [[ $(on "$1" timeout 1 bash -c "exec 3<>/dev/tcp/$2/7" 2>&1) == *refused* ]]; }   # nobody listens: refused means reached
check "nodes reach each other" reach ws1 ws2
lab cut ws1; check "cut: the node is alone" eval '! reach ws1 ws2 && ! reach ws3 ws1'
check "cut: the others are not" reach ws2 ws3
lab heal ws1; check "heal: it is back" reach ws1 ws2
lab cut ws1 ws2; check "cut of a pair" eval '! reach ws1 ws2 && ! reach ws2 ws1 && reach ws1 ws3'
lab heal ws1 ws2; check "heal of a pair" eval 'reach ws1 ws2 && reach ws2 ws1'
took() { on ws2 bash -c 't=$EPOCHREALTIME; exec 3<>/dev/tcp/ws1/7; u=$EPOCHREALTIME; echo $(( (${u/./} - ${t/./}) / 1000 ))' 2>/dev/null; }
lab link ws1 --delay 60
ms=$(took); check "link --delay 60 delays a round trip by 120 ms (took $ms)" test "$ms" -ge 115
lab link ws1 --rate 8
on ws1 python3 -c 'import socket; s = socket.create_server(("", 9)); print("listening", flush=True); c = s.accept()[0]
while c.recv(65536): pass
c.send(b"x")' >"$TMP/rate" & pid=$!
until_true 5 grep -q listening "$TMP/rate"
ms=$(on ws2 python3 -c 'import socket, time; s = socket.create_connection(("ws1", 9)); t = time.monotonic(); s.sendall(bytes(1000000)); s.shutdown(1); s.recv(1); print(int((time.monotonic() - t) * 1000))')
wait $pid
check "link --rate 8 lets 1 MB pass in no less than a second (took $ms ms)" test "$ms" -ge 950
lab link ws1
check "link without options is the plain cable again" until_true 10 eval '[ $(took) -lt 60 ]'
lab cpu ws1 20
used() { on ws1 bash -c 't=$EPOCHREALTIME; read -r _ _ _ _ _ _ _ _ _ _ _ _ _ a b _ </proc/self/stat; while u=$EPOCHREALTIME; [ $((${u/./} - ${t/./})) -lt 1000000 ]; do :; done; read -r _ _ _ _ _ _ _ _ _ _ _ _ _ c d _ </proc/self/stat; echo $(((c + d - a - b) * 1000000 / (${u/./} - ${t/./})))'; }
u=$(used); check "cpu 20: spinning gets about 20 ticks a second (got $u)" test "$u" -le 35
lab cpu ws1 0
check "cpu 0 is no limit" sh_on ws1 'cat /sys/fs/cgroup/cpu*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | head -1 | grep -qE "^(-1|max)"'
seen() { on ws1 stat -c %X /dev/pts/0; }
t=$(seen); sleep 1
until_true 20 eval "lab input ws1; [ \$(seen) -gt $t ]"
check "input moves the access time of the console" test "$(seen)" -gt "$t"
check "the console is a login session" sh_on ws1 'who | grep -q "^sprite *pts/0"'

# -- wrong use
refused "unknown node" 1 'no node ws9' lab kill ws9 migd
refused "unknown daemon" 1 'no daemon httpd' lab kill ws1 httpd
refused "unknown signal" 2 'no signal "NOSUCH"' lab kill ws1 migd NOSUCH
refused "unknown command" 2 'no command "frobnicate"' lab frobnicate
refused "a lab that is up" 1 'is up already' lab up
refused "a lab that is not up" 1 'not up' lab --name nobody ls
refused "a bad lab name" 1 'lab name' lab --name ../x up
refused "bad number" 2 'expected a number .* found "3x"' lab --name other up -n 3x
refused "too many nodes" 2 'expected a number .* found "1000"' lab --name other up -n 1000
refused "an option that there is not, named with the program" 2 "^sprite-lab up: .*'z'" lab --name other up -z
refused "a delay that is none" 2 'link: --delay: expected ms, .* found "x"' lab link ws1 --delay x
refused "a directory that is not there" 2 'nowhere: No such file' lab --name other up --bind /nowhere:/x
refused "a size that is none" 2 'expected a size .* found "foo"' lab --name other up --store foo
refused "features of a node that is not there" 2 'ws1 to ws3, found "ws9=avx"' lab --name other up --cpu-hide ws9=avx
check "ls --json is JSON with all nodes" eval 'lab ls --json | python3 -c "import json, sys; assert [n[\"name\"] for n in json.load(sys.stdin)] == [\"fs1\", \"ws1\", \"ws2\", \"ws3\"]"'
finish
