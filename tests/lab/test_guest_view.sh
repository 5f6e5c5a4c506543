#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: shared
# What a program sees and what its calls do is the same at home and away: a probe writes down all it can see in both places, and calls about processes that
# stayed at home (sprite-syscalls(7), "forwarded") are answered by the home.
. "$(dirname "$0")/lib.sh"
job_dir
cat >"$TMP/view.py" <<'P'
import ctypes, errno, grp, json, os, pwd, resource, signal, socket, subprocess, sys, time
jd = os.getcwd()
libc = ctypes.CDLL(None, use_errno=True)

def tried(fn, *a):
    try: return fn(*a)
    except OSError as e: return errno.errorcode[e.errno]

def text(path, keys=None):
    try: lines = open(path).read().split("\n")
    except OSError as e: return errno.errorcode[e.errno]
    return [l for l in lines if not keys or l.split(":")[0] in keys]

def raw(nr, *a):
    r = libc.syscall(nr, *a)
    return errno.errorcode[ctypes.get_errno()] if r < 0 else r

def probe(parent, sibling):
    v, me = {}, os.getpid()
    v["nice"] = tried(os.setpriority, os.PRIO_PROCESS, sibling, 7), tried(os.getpriority, os.PRIO_PROCESS, sibling), tried(os.setpriority, os.PRIO_PROCESS, 1, 9)
    v["numbers"] = [me, os.getppid(), os.getpgrp(), os.getsid(0), os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), libc.gettid()]
    for name, pid in ("parent", parent), ("sibling", sibling), ("init", 1), ("nobody", 29999), ("self", me):
        v[name] = {"kill 0": tried(os.kill, pid, 0), "getpgid": tried(os.getpgid, pid), "getsid": tried(os.getsid, pid),
                   "priority": tried(os.getpriority, os.PRIO_PROCESS, pid), "scheduler": tried(os.sched_getscheduler, pid),
                   "affinity": str(tried(os.sched_getaffinity, pid)), "ioprio": raw(252, 1, pid), "param": str(tried(os.sched_getparam, pid)),
                   "tgkill": raw(234, pid, pid, 0), "tkill": raw(200, pid, 0),
                   "limit": str(tried(resource.prlimit, pid, resource.RLIMIT_NOFILE)), "setpgid": tried(os.setpgid, pid, pid) if pid != me else 0}
    v["core of sibling"] = str((tried(resource.prlimit, sibling, resource.RLIMIT_CORE, (4096, 8192)), tried(resource.prlimit, sibling, resource.RLIMIT_CORE))[1])
    v["host"] = [socket.gethostname(), os.uname().nodename, text("/proc/sys/kernel/hostname"), text("/etc/hostname")]
    v["root"] = sorted(os.listdir("/")), os.stat("/").st_mode, sorted(os.listdir("/etc"))
    v["users"] = list(pwd.getpwuid(os.getuid())), grp.getgrgid(os.getgid()).gr_name, os.path.expanduser("~")
    v["files"] = os.getcwd(), os.readlink("/proc/self/cwd"), os.readlink("/proc/self/root"), os.readlink("/proc/self/exe"), os.stat(".").st_mode
    v["umask"] = os.umask(0); os.umask(v["umask"])
    v["limits"] = [resource.getrlimit(i) for i in range(16)]
    v["environment"] = sorted(os.environ.items()), text("/proc/self/cmdline"), text("/proc/self/comm"), len(text("/proc/self/environ")[0])
    v["status"] = text("/proc/self/status", ("Uid", "Gid", "Groups", "Umask", "PPid", "Pid", "Tgid", "NoNewPrivs", "SigIgn", "SigCgt", "SigBlk", "Threads", "CapEff", "CapPrm"))
    v["exec"] = subprocess.run(["readlink", "/proc/self/exe"], capture_output=True).stdout.decode(), subprocess.run(["hostname"], capture_output=True).stdout.decode(), subprocess.run(["id"], capture_output=True).stdout.decode()
    v["proc"] = [os.path.isdir("/proc/%d" % p) for p in (me, parent, 1)], os.path.realpath("/proc/self").endswith(str(me))
    v["ipc"] = text("/proc/sysvipc/shm")[1:], text("/proc/sysvipc/sem")[1:], text("/proc/sysvipc/msg")[1:]
    v["devices"] = [os.stat("/dev/" + d).st_rdev for d in ("null", "zero", "full", "random", "urandom")]
    v["zone"] = time.tzname, time.localtime().tm_gmtoff
    return v

def clocks(): return {c: time.clock_gettime(getattr(time, c)) for c in ("CLOCK_REALTIME", "CLOCK_MONOTONIC", "CLOCK_BOOTTIME")}

def child(parent, sibling):
    last = clocks()
    open("ready", "w").close()
    for n in range(3):
        while not os.path.exists("ask.%d" % n): time.sleep(0.02)
        v, now = probe(parent, sibling), clocks()
        v["clocks go on"] = all(now[c] > last[c] and abs((now[c] - last[c]) - (now["CLOCK_REALTIME"] - last["CLOCK_REALTIME"])) < 1 for c in now)
        last = now
        os.kill(parent, signal.SIGUSR1)                 # SI_USER, from me
        raw(234, parent, parent, signal.SIGUSR2)        # tgkill: SI_TKILL
        class value(ctypes.Union): _fields_ = [("i", ctypes.c_int), ("p", ctypes.c_void_p)]
        libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, value]
        libc.sigqueue(parent, signal.SIGRTMIN, value(i=n))
        with open("answer.new", "w") as f: json.dump(v, f, indent=1, sort_keys=True, default=str)
        os.rename("answer.new", "answer.%d" % n)

sigs = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN}
signal.pthread_sigmask(signal.SIG_BLOCK, sigs)
parent = os.getpid()
sibling = os.fork()
if sibling == 0:
    os.setpgid(0, 0)
    while True: signal.pause()
os.waitid(os.P_PID, sibling, os.WEXITED | os.WNOHANG)
while os.getpgid(sibling) != sibling: time.sleep(0.01)
kid = os.fork()
if kid == 0:
    child(parent, sibling)
    os._exit(0)
open("kid.new", "w").write(str(kid)); os.rename("kid.new", "kid")
got = []
for i in range(9):
    s = signal.sigwaitinfo(sigs)
    got.append("%s code %d from %s uid %d" % (signal.Signals(s.si_signo).name if s.si_signo < 32 else "RT", s.si_code, "kid" if s.si_pid == kid else s.si_pid, s.si_uid))
os.kill(sibling, 9); os.waitpid(sibling, 0); os.waitpid(kid, 0)
open("signals", "w").write("\n".join(got) + "\n")
P
as sprite ws1 sh -c "cat >$JD/view.py" <"$TMP/view.py"
job "exec python3 view.py >>out 2>>err"
check "the probe starts" until_true 20 on ws1 test -e $JD/ready || { on ws1 cat $JD/err; finish; }
KID=$(on ws1 cat $JD/kid)
asked() { as sprite ws1 touch $JD/ask.$1; until_true 30 on ws1 test -e $JD/answer.$1; }
check "looks around at home" asked 0
check "moves, its parent stays" mig move -H ws2 "$KID"
check "looks around away" asked 1
check "comes home" mig home "$KID"
check "looks around at home again" asked 2
same "the parent ends" 0 "$(job_status 60)"
for n in 0 1 2; do on ws1 cat $JD/answer.$n >"$TMP/answer.$n"; done
same "all it saw away is what it saw at home" "" "$(diff "$TMP/answer.0" "$TMP/answer.1")"
same "and at home again" "" "$(diff "$TMP/answer.0" "$TMP/answer.2")"
on ws1 cat $JD/signals | sort | uniq -c >"$TMP/signals" # the same three from all three places
same "its signals reached the parent, from it, with the same code, each once" "3 3 3" "$(awk '/ from kid uid 1000$/ { printf "%s%s", n++ ? " " : "", $1 }' "$TMP/signals")" || cat "$TMP/signals"

# root's, which becomes somebody else: with its home's files it does there what it does at home, and a host that has only guests of a user may not
cat >"$TMP/changes.py" <<'P'
import errno, os, subprocess, time
def tried(fn, *a):
    try: return fn(*a)
    except OSError as e: return errno.errorcode[e.errno]
d = "/home/guest/changes"
os.mkdir(d); os.chown(d, 1001, 1001); os.chdir(d)
log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
os.mkdir("root", 0o700)
for n in "01":
    open("ready." + n, "w").close()
    while not os.path.exists("/tmp/ask." + n): time.sleep(0.02)
    os.setegid(1001); os.seteuid(1001)
    v = [tried(os.write, log, b"line\n"), tried(lambda: open("mine." + n, "w").close()), tried(lambda: os.stat("mine." + n).st_uid),
         tried(os.listdir, "root"), tried(os.open, "log", os.O_RDONLY), tried(lambda: len(os.listdir("/usr/bin")) > 10),
         tried(lambda: subprocess.run(["id"], capture_output=True).stdout.decode())]
    os.seteuid(0); os.setegid(0)
    open("/tmp/answer.new", "w").write(repr(v)); os.rename("/tmp/answer.new", "/tmp/changes." + n)
P
on ws1 sh -c 'rm -rf /home/guest/changes /tmp/ask.? /tmp/changes.?; cat >/tmp/changes.py' <"$TMP/changes.py"
R=$(on ws1 sh -c 'setsid python3 /tmp/changes.py </dev/null >/tmp/changes.err 2>&1 & echo $!')
check "root's program starts" until_true 10 on ws1 test -e /home/guest/changes/ready.0
on ws1 touch /tmp/ask.0
check "it has been another user at home" until_true 10 on ws1 test -e /home/guest/changes/ready.1
check "and goes away" on ws1 mig move -H ws2 "$R"
on ws1 touch /tmp/ask.1
check "it has been another user there" until_true 10 on ws1 test -e /tmp/changes.1 || on ws1 cat /tmp/changes.err
same "who could do there what it could at home" "$(on ws1 cat /tmp/changes.0)" "$(on ws1 cat /tmp/changes.1)"
same "no line is missing" 2 "$(on ws1 grep -c line /home/guest/changes/log)"
finish
