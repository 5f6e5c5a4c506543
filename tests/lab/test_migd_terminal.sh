# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# A terminal stays at home: what runs elsewhere reads and writes it, line by line and key by key; end of file, Ctrl-C and the settings that programs make work;
# what a guest types does not look like input of the guest host's owner.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/term.py" <<'PY'
import os, pty, re, select, sys, time
lab, = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0: os.execv(lab, [lab, "exec", "ws1", "-u", "sprite", "--", "bash", "--norc", "--noediting", "-i"])
buf = b""
def expect(pat, secs=90):
    global buf
    end = time.time() + secs
    while not re.search(pat.encode(), buf):
        if time.time() > end: sys.exit("waited for %r, have: %r" % (pat, buf[-700:]))
        if select.select([fd], [], [], 0.2)[0]: buf += os.read(fd, 4096)
    m = re.search(pat.encode(), buf); buf = buf[m.end():]; return m
def send(s): os.write(fd, s.encode())
def mig(*a):
    if os.spawnv(os.P_WAIT, lab, [lab, "exec", "ws1", "-u", "sprite", "--", "mig", *a]): sys.exit("mig %s failed" % " ".join(a))
send("PS1='PROM''PT> '\n"); expect("PROMPT> ")
send("mig run -H ws2 -- sh -c 'echo rea''dy; read x; echo got $x'; echo st''=$?\n"); expect("ready\r\n")
send("hello you\n"); expect("hello you\r\ngot hello you\r\n"); expect("st=0\r\n"); expect("PROMPT> "); print("ok - a line goes over and comes back, echoed once")
send("mig run -H ws2 -- sh -c 'echo rea''dy; exec cat'; echo st''=$?\n"); expect("ready\r\n")
send("line one\n"); expect("line one\r\nline one\r\n"); send("\x04"); expect("st=0\r\n"); expect("PROMPT> "); print("ok - end of file")
send("mig run -H ws3 -- sh -c 'echo rea''dy; exec sleep 100'\n"); expect("ready\r\n")
send("\x03"); expect("PROMPT> "); send("echo st''=$?\n"); expect("st=130\r\n"); expect("PROMPT> "); print("ok - Ctrl-C")
send("python3\n"); expect(">>> "); send("import os; print('pid', os.getpid())\n"); p = expect(r"pid (\d+)\r\n").group(1).decode(); expect(">>> ")
for where in ("ws2", "ws3", None, "ws2", None):
    mig("move", "-q", "-H", where, p) if where else mig("home", "-q", p)
    send("6*7, os.isatty(0)\n"); expect("\n\\(42, True\\)\r\n"); expect(">>> ")
print("ok - an interactive python3 that moves, line editing and all")
send("exit()\n"); expect("PROMPT> ")
send("stty -a | tr -s ' ;' '\\n' | grep -c -x -e echo -e icanon -e isig -e opost -e onlcr\n"); expect("\n5\r\n"); print("ok - the terminal is as it was")
send("exit\n")
PY
if timeout 400 python3 "$TMP/term.py" "$BIN/sprite-lab" >"$TMP/out" 2>&1; then cat "$TMP/out"; else cat "$TMP/out"; flunk "a terminal that stays at home"; fi
same "nobody was evicted by his own typing" "" "$(for n in ws2 ws3; do lab logs $n migd | grep "owner is back"; done)"
finish
