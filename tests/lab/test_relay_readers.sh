# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Two readers of one pipe on two hosts would each be shown what the other one takes: who shares what it reads with a process that stays does not move, and says so; but a
# shell whose standard input its command has too does not read while the command runs.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/share.py" <<'PY'
# Its standard input is a pipe; so is that of its children.
import os, subprocess, sys
def run(what):
    p = subprocess.run(["mig", "run", "-H", "ws2"] + what, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return "%d %s" % (p.returncode, (p.stdout + p.stderr).strip())
kids = [subprocess.Popen(["sleep", "1000"]) for i in range(2)]
why = subprocess.run(["mig", "explain", str(kids[0].pid)], stdout=subprocess.PIPE, text=True)
print("explain", why.returncode, why.stdout.strip().replace("\n", " "), flush=True)
print("run", run(["true"]), flush=True)
for k in kids: k.kill(); k.wait()
print("alone", run(["head", "-c", "3"]), flush=True)
print("rest", os.read(0, 100), flush=True)
r, w = os.pipe(); os.write(w, b"x")
kid = subprocess.Popen(["sleep", "1000"], stdin=r, pass_fds=[r, w])
why = subprocess.run(["mig", "explain", str(kid.pid)], stdout=subprocess.PIPE, text=True)
print("both", why.returncode, why.stdout.strip().replace("\n", " "), flush=True)
kid.kill()
PY
out=$(as sprite ws1 sh -c "cd $JD; (echo abcdef; exec sleep 1000) | { python3 share.py; kill \$(pgrep -P \$\$ -x sleep); }" 2>&1)
line() { grep "^$1 " <<<"$out"; }
check "of two readers none moves, and says why" grep -Eq "explain 1 .*fd 0: pipe:\[.* is read by process [0-9]+ too, which stays" <<<"$out" || note "$out"
check "nor is it called on another host" grep -Eq "^run 125 .*is read by process" <<<"$out" || note "$out"
same "one that has its shell's input reads it elsewhere" "alone 0 abc" "$(line alone)"
same "and leaves the rest" "rest b'def\\n'" "$(line rest)"
check "a pipe with both ends, that another has too, stays" grep -Eq "^both 1 .*is open in process [0-9]+ too, which stays" <<<"$out" || note "$out"
finish
