# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# A terminal stays at home: what runs elsewhere reads and writes it, line by line and key by key; end of file, Ctrl-C and the settings that programs make work;
# what a guest types does not look like input of the guest host's owner.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/term.py" <<'PY'
import sys
from terminal import Terminal, ok
lab, = sys.argv[1:]
t = Terminal(lab, "bash", "--norc", "--noediting", "-i")
send, expect, mig = t.send, t.expect, t.mig
send("PS1='PROM''PT> '\n"); expect("PROMPT> ")
send("mig run -H ws2 -- sh -c 'echo rea''dy; read x; echo got $x'; echo st''=$?\n"); expect("ready\r\n")
send("hello you\n"); expect("hello you\r\ngot hello you\r\n"); expect("st=0\r\n"); expect("PROMPT> "); ok("a line goes over and comes back, echoed once")
send("mig run -H ws2 -- sh -c 'echo rea''dy; exec cat'; echo st''=$?\n"); expect("ready\r\n")
send("line one\n"); expect("line one\r\nline one\r\n"); send("\x04"); expect("st=0\r\n"); expect("PROMPT> "); ok("end of file")
send("echo abc | mig run -H ws2 -- sh -c 'read a; echo rea''dy >/dev/tty; read x </dev/tty; echo got $a $x'; echo st''=$?\n"); expect("ready\r\n")
send("hello\n"); expect("hello\r\ngot abc hello\r\n"); expect("st=0\r\n"); expect("PROMPT> "); ok("/dev/tty, beside its input")
if t.on("ws1", "sh", "-c", "command -v less"):
    send("seq 100 | mig run -H ws2 -- less; echo st''=$?\n"); expect("\n23\r\n"); send("G"); expect("\n100\r\n"); send("q"); expect("st=0\r\n"); expect("PROMPT> "); ok("less of a pipe")
send("mig run -H ws3 -- sh -c 'echo rea''dy; exec sleep 100'\n"); expect("ready\r\n")
send("\x03"); expect("PROMPT> "); send("echo st''=$?\n"); expect("st=130\r\n"); expect("PROMPT> "); ok("Ctrl-C")
send("python3\n"); expect(">>> "); send("import os; print('pid', os.getpid())\n"); p = expect(r"pid (\d+)\r\n").group(1).decode(); expect(">>> ")
for where in ("ws2", "ws3", None, "ws2", None):
    mig("move", "-q", "-H", where, p) if where else mig("home", "-q", p)
    send("6*7, os.isatty(0)\n"); expect("\n\\(42, True\\)\r\n"); expect(">>> ")
ok("an interactive python3 that moves, line editing and all")
send("exit()\n"); expect("PROMPT> ")
send("stty -a | tr -s ' ;' '\\n' | grep -c -x -e echo -e icanon -e isig -e opost -e onlcr\n"); expect("\n5\r\n"); ok("the terminal is as it was")
send("exit\n")
PY
if PYTHONPATH=$HERE timeout 400 python3 "$TMP/term.py" "$BIN/sprite-lab" >"$TMP/out" 2>&1; then cat "$TMP/out"; else cat "$TMP/out"; flunk "a terminal that stays at home"; fi
same "nobody was evicted by his own typing" "" "$(for n in ws2 ws3; do lab logs $n migd | grep "owner is back"; done)"
finish
