#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a command costs that is run elsewhere, in ms: fork, exec and wait of /bin/true here; the same by mig run, by turns, and by ssh where there is one. The first of a home finds no nest made ahead.
#   tests/bench/run_bench.sh [ROUNDS]
. "$(dirname "$0")/lib.sh"
ROUNDS=${1:-40}
bench_up -n 2
job_dir
# A server of its own on ws2, for a key of its own.
if [ -x /usr/sbin/sshd ]; then
	on ws2 sh -c 'mkdir -p /run/sshd; ssh-keygen -qt ed25519 -N "" -f /tmp/host'
	as sprite ws1 ssh-keygen -qt ed25519 -N "" -f /tmp/key
	on ws1 cat /tmp/key.pub | lab exec ws2 -- sh -c 'cat >/tmp/keys'
	sh_on ws2 "exec /usr/sbin/sshd -D -f /dev/null -p 2222 -h /tmp/host -o PidFile=none -o StrictModes=no -o AuthorizedKeysFile=/tmp/keys >/tmp/sshd 2>&1 </dev/null &"
fi
as sprite ws1 sh -c "cat >$JD/turns.py" <<'X'
import os, sys, time
null = os.open("/dev/null", os.O_RDWR)
def took(*argv):
    t = time.time()
    pid = os.fork()
    if pid == 0:
        for fd in range(2): os.dup2(null, fd)
        os.execvp(argv[0], argv)
    if os.waitpid(pid, 0)[1]: print("# failed:", *argv, file=sys.stderr)
    return (time.time() - t) * 1e3
def line(name, v):
    v.sort()
    print("  %-36s median %6.1f  best %6.1f  worst %6.1f" % (name, v[len(v) // 2], v[0], v[-1]))
away = ("mig", "run", "-H", "ws2", "--", "/bin/true")
ssh = ("ssh", "-F", "none", "-p", "2222", "-i", "/tmp/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/tmp/known", "ws2", "/bin/true")
first, here, there, verb, far = took(*away), [], [], [], []
for i in range(int(sys.argv[1])):
    here.append(took("/bin/true"))
    there.append(took(*away))
    verb.append(took("mig", "--version"))
    if os.path.exists("/tmp/key"): far.append(took(*ssh))
    time.sleep(0.1) # as people do; one after the other without a pause, each finds its nest half made
print("  %-36s        %6.1f" % ("mig run /bin/true, the first", first))
line("/bin/true", here)
line("mig --version (its exec alone)", verb)
line("mig run /bin/true", there)
if far: line("ssh /bin/true", far)
X
echo "A small command here and by mig run on ws2, $ROUNDS rounds, ms (machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before)"
as sprite ws1 bash -c "cd $JD && python3 turns.py $ROUNDS >figures 2>&1; cat figures"
