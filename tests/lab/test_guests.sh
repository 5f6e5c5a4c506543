# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# Guests are harmless: a fork bomb, a memory hog and a disk filler stay within their limits, at the lowest weight, without the host's devices, files, processes or
# network; the owner can work. (How fast: tests/bench/owner_bench.sh)
. "$(dirname "$0")/lib.sh"
lab_up -n 2
D=/sprite/guests
as sprite ws1 mkdir $D
# Limits that are reached in a moment.
sh_on ws2 'python3 - <<X
import json
c = json.load(open("/etc/sprite/sprite.conf"))
c["migd"].update({"guest_pids": 120, "guest_memory_mb": 64, "guests_memory_percent": 50})
json.dump(c, open("/etc/sprite/sprite.conf", "w"))
X'
lab kill ws2 migd TERM >/dev/null
check "a host with limits starts" until_true 20 lab start ws2 migd
away() { as sprite ws1 bash -c "cd $D; mig run -H ws2 $1" </dev/null 2>&1 | cat; }
# The guests' groups on ws2: one directory per hierarchy
group() { sh_on ws2 'ls -d /sys/fs/cgroup/sprite-guests /sys/fs/cgroup/*/sprite-guests 2>/dev/null'; }
value() { sh_on ws2 'for d in $(ls -d /sys/fs/cgroup/sprite-guests /sys/fs/cgroup/*/sprite-guests 2>/dev/null); do for f in $*; do [ -e $d/$f ] && cat $d/$f && exit; done; done; echo none' "$@"; }
# processes of guests, all groups together, each once; but not the first of an empty nest that stands ready
tasks() { sh_on ws2 'for p in $(cat /sys/fs/cgroup/sprite-guests/*/cgroup.procs /sys/fs/cgroup/*/sprite-guests/*/cgroup.procs 2>/dev/null | sort -u); do read -r c 2>/dev/null </proc/$p/comm && [ $c != sprite-ahead ] && echo $p; done | wc -l'; }

# weights and limits of all together
check "guests have a group of their own" test -n "$(group)"
same "guests have the lowest weight" yes "$(case "$(value cpu.idle)/$(value cpu.shares cpu.weight)" in 1/*|*/2|*/1) echo yes;; *) value cpu.idle; value cpu.shares;; esac)"
half=$(($(on ws2 awk '/MemTotal/ { print $2 }' /proc/meminfo) * 1024 / 2))
all=$(value memory.max memory.limit_in_bytes)
check "memory of all guests together is bounded" test "$all" -le "$half" -a "$all" -gt $((half - (1 << 20)))
check "and so are their processes" test "$(value pids.max)" -gt 0 -a "$(value pids.max)" -le 15000
check "mig hosts -v says what there is to hold them" grep -q "^ws2: guests are held by: .*pids" <(mig hosts -v)

# as many loops of the owner as of guests: who gets the processors? (With equal weights it would be one to one.)
loops=$((2 * $(on ws2 nproc)))
as sprite ws1 bash -c "cat >$D/loops" <<X
for i in \$(seq $loops); do while [ ! -e quiet ]; do :; done & done; wait
X
away 'bash loops >loops.out 2>&1' &
check "guests compute" until_true 30 eval '[ "$(tasks)" -gt $loops ]'
lab exec ws2 -- tee /tmp/owner.py >/dev/null <<'X'
import os, sys, time
def guests(): # all together, in us
    for p, dirs, files in os.walk("/sys/fs/cgroup"):
        if p.endswith("/sprite-guests") and "cpu.stat" in files and "usage_usec" in open(p + "/cpu.stat").read():
            return int(open(p + "/cpu.stat").readline().split()[1])
loops, before, cpus = int(sys.argv[1]), guests(), sorted(os.sched_getaffinity(0))
for i in range(loops): # each at its place: a kernel that has not yet spread them over the processors leaves one of these to the guests
    if os.fork() == 0:
        os.sched_setaffinity(0, {cpus[i % len(cpus)]})
        while time.process_time() < 0.5:
            pass
        os._exit(0)
for i in range(loops):
    os.wait()
t = os.times()
print(int((t.children_user + t.children_system) * 1e6), guests() - before)
X
read -r mine theirs <<<"$(on ws2 python3 /tmp/owner.py $loops)"
check "the owner's loops go first ($mine us of CPU, guests $theirs)" test "$mine" -ge $((loops * 400000)) -a "${theirs:-x}" -le $((mine / 2))
as sprite ws1 touch $D/quiet
wait

# a fork bomb, that ends when it is told to
as sprite ws1 bash -c "cat >$D/bomb" <<'X'
b() { [ -e stop ] || { b & b & wait; }; }
b
X
away 'bash bomb >bomb.out 2>&1; echo $? >bomb.rc' &
full() { [ "$(tasks)" -ge 100 ]; }
check "a fork bomb goes off" until_true 30 full
most=0
for i in $(seq 30); do n=$(tasks); [ "$n" -gt $most ] && most=$n; on ws2 true || flunk "the owner can start programs"; done
check "and stays within its limit ($most processes)" test $most -le 120
check "the owner starts programs all the same" sh_on ws2 'for i in $(seq 50); do /bin/true || exit 1; done'
as sprite ws1 touch $D/stop
check "it ends" until_true 60 on ws1 test -s $D/bomb.rc
wait

# a memory hog
out=$(away "sh -c 'exec python3 -c \"x = []
while True: x.append(bytearray(1 << 20))\" >hog.out 2>&1'; echo \$?" | tail -1)
if [ "$out" = 137 ] || on ws1 grep -q MemoryError $D/hog.out; then pass "a memory hog ends at its limit"; else flunk "a memory hog ends at its limit: $out"; fi
check "and nobody else with it" sh_on ws2 'pgrep -x migd && pgrep -x spritefs'
same "what is within the limit runs" 40 "$(away "python3 -c 'print(len(bytes(40 << 20)) >> 20)' >fit.out 2>&1"; on ws1 cat $D/fit.out)"

# a disk filler
before=$(on ws2 du -sk --one-file-system /tmp /var/tmp /home 2>/dev/null | awk '{ s += $1 } END { print s }')
away "dd if=/dev/zero of=/tmp/filler bs=1M count=30 >dd.out 2>&1" >/dev/null
same "what a guest writes to /tmp is at its home" $((30 << 20)) "$(on ws1 stat -c %s /tmp/filler)"
check "and not on its host" test "$(on ws2 du -sk --one-file-system /tmp /var/tmp /home 2>/dev/null | awk '{ s += $1 } END { print s }')" -lt $((before + 1000))
away "sh -c 'dd if=/dev/zero of=/dev/shm/filler bs=1M count=200 2>shm.out; echo \$? >shm.rc'" >/dev/null
check "a filler of shared memory is stopped by its own limit" eval '[ "$(on ws1 cat $D/shm.rc 2>/dev/null)" != 0 ]'
check "the host's memory is free again" until_true 20 eval '[ "$(tasks)" = 0 ]'

# what it can get at
on ws2 sh -c 'echo secret >/root/secret; echo secret >/tmp/of-ws2; chmod 644 /tmp/of-ws2'
same "no files of the host" "ws1 no no" "$(away "sh -c '{ hostname; cat /root/secret 2>/dev/null || echo no; cat /tmp/of-ws2 2>/dev/null || echo no; } >files.out'" >/dev/null; on ws1 cat $D/files.out | xargs)"
same "no processes of the host" 0 "$(away "sh -c 'cat /proc/[0-9]*/comm 2>/dev/null | grep -cE \"^(migd|spritefs|spritefsd)\$\" >procs.out'" >/dev/null; on ws1 cat $D/procs.out)"
same "no network of the host" "lo" "$(away "sh -c 'ls /sys/class/net/ >/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | xargs >net.out'" >/dev/null; on ws1 cat $D/net.out)"
same "no devices but the harmless ones" "" "$(away "sh -c 'find /dev -type b -o -type c | grep -vE \"^/dev/(null|zero|full|random|urandom|tty|ptmx|pts/.*)\$\" >dev.out'" >/dev/null; on ws1 cat $D/dev.out)"
lab exec ws1 -- bash -c "cd $D; mig run -H ws2 sh -c 'mknod /tmp/mem c 1 1 2>/dev/null && head -c1 /tmp/mem >/dev/null 2>&1 && echo got it; mount -t tmpfs none /mnt 2>/dev/null && echo mounted; echo 1 2>/dev/null >/proc/sys/vm/drop_caches && echo dropped; echo end' >root.out 2>&1" </dev/null >/dev/null 2>&1
same "and root over there is not the host's root" "end" "$(on ws1 cat $D/root.out)"
finish
