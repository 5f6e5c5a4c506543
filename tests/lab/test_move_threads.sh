# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Programs of several threads: a signal from home goes to the first thread, as the kernel does it and run-times rely on it; and one whose first thread has ended is refused, not
# taken for one that has ended whole.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/main.py" <<'P'
import signal, sys, threading, time
threading.Thread(target=time.sleep, args=(99999,), daemon=True).start()
n = 0
def heard(sig, frame):
    global n
    n += 1; print("heard", n, flush=True)
    if n == 12: sys.exit(5)
signal.signal(signal.SIGUSR1, heard)
print("ready", flush=True)
while True: time.sleep(99999)
P
job "exec python3 main.py"
until_true 10 on ws1 grep -q ready $JD/out
N=0
for where in ws2 ws3; do
	check "it moves: $where" hop $where
	for i in 1 2 3 4 5 6; do
		N=$((N + 1)); on ws1 kill -USR1 "$JOB"
		until_true 10 on ws1 grep -qx "heard $N" $JD/out || break
	done
	check "$where: each signal wakes the first thread" on ws1 grep -qx "heard $N" $JD/out
done
same "it ends by itself" 5 "$(job_status)"

as sprite ws1 sh -c "cat >$JD/headless.py" <<'P'
import ctypes, os, sys, threading, time
def work():
    while not os.path.exists("go"): time.sleep(0.02)
    os._exit(3)
pid = os.fork()
if not pid:
    threading.Thread(target=work).start()
    ctypes.CDLL(None).syscall(60, 0)
while open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[0] != "Z": time.sleep(0.01)
print("child", pid, flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
P
job "exec python3 headless.py"
until_true 10 on ws1 grep -q child $JD/out
refused "its parent's family: named" 1 'its first thread has ended while others run on: cannot be carried' mig explain "$JOB"
refused "and refused" 1 'its first thread has ended while others run on: cannot be carried' mig move -H ws2 "$JOB"
refused "so is it by itself" 1 'its first thread has ended while others run on' mig move -H ws2 "$(on ws1 awk '/child/ { print $2 }' $JD/out)"
on ws1 touch $JD/go
same "it worked on, and its parent is told how it ended" 3 "$(job_status)"
finish
