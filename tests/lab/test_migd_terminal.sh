# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 400
# A terminal stays at home: what runs elsewhere reads and writes it, line by line and key by key; end of file, Ctrl-C, Ctrl-Z, fg and bg, its size, settings that are made on either side; vim, less and what runs in a tmux pane move;
# what a guest types does not look like input of the guest host's owner.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/term.py" <<'PY'
import subprocess, sys
from terminal import Terminal, ok
lab, jd = sys.argv[1:]
t = Terminal(lab, "env", "TERM=xterm", "bash", "--norc", "--noediting", "-i")
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
send("mig run -H ws2 -- sh -c 'echo rea''dy; while read x; do echo got $x; done'\n"); expect("ready\r\n"); send("one\n"); expect("one\r\ngot one\r\n")
send("\x1a"); expect("Stopped"); expect("PROMPT> "); send("echo to the she''ll\n"); expect("to the shell\r\n"); expect("PROMPT> ")
send("bg\n"); expect("PROMPT> "); send("echo sti''ll to the shell\n"); expect("still to the shell\r\n"); expect("PROMPT> ")
send("fg\n"); expect("mig run.*\r\n"); send("two\n"); expect("two\r\ngot two\r\n"); send("\x04"); expect("PROMPT> "); send("echo st''=$?\n"); expect("st=0\r\n"); expect("PROMPT> "); ok("Ctrl-Z, bg, fg; what is typed is for who is in front")
send("mig run -H ws2 -- sh -c 'stty -echo; echo rea''dy; read x; stty echo; echo got $x; read x; echo got $x'\n"); expect("ready\r\n")
send("secret\n"); expect("^got secret\r\n"); send("seen\n"); expect("seen\r\ngot seen\r\n"); expect("PROMPT> "); ok("settings that it makes are the terminal's")
wait = "import os, signal; s = [signal.SIGWINCH]; signal.pthread_sigmask(0, s); print(\"wai\" \"ting\", flush=True); \nwhile os.get_terminal_size() != (100, 40): signal.sigwait(s)\nprint(\"WIN\" \"CH\", *os.get_terminal_size())"
send("mig run -H ws2 -- python3 -c '%s'\n" % wait); expect("waiting\r\n"); t.size(40, 100); expect(r"WINCH 100 40\r\n"); expect("PROMPT> "); ok("the size of the window, and SIGWINCH")
send("echo tty $(tty)\n"); pts = expect(r"tty (/dev/pts/\d+)\r\n").group(1).decode(); expect("PROMPT> ")
show = "import sys, termios\nfor line in sys.stdin: print(\"intr\", termios.tcgetattr(0)[6][0], flush=True)"
send("mig run -H ws2 -- python3 -c '%s'\n" % show.replace("\n", "'$'\\n''")); send("x\n"); expect("intr b'\\\\x03'")
setting = lambda c: subprocess.run([lab, "exec", "ws1", "-T", "--", "stty", "-F", pts, "intr", c], check=True)
setting("^G")
t.until("a setting of home is not seen away", lambda: (send("x\n"), expect(r"intr (b'\S+')").group(1) == b"b'\\x07'")[1])
send("\x07"); expect("PROMPT> "); send("echo st''=$?\n"); expect("st=130\r\n"); expect("PROMPT> "); setting("^C"); ok("settings made at home are seen away")
if t.on("ws1", "sh", "-c", "command -v vim"):
    send("cd %s; vim -u NONE -N file\n" % jd); expect(r"\[New\]"); send("ihello "); expect("hello"); p = t.on("ws1", "pgrep", "-u", "sprite", "-nx", "vim").strip()
    for where, word in (("ws2", "from "), ("ws3", "vim "), (None, "that moves")):
        mig("move", "-q", "-H", where, p) if where else mig("home", "-q", p)
        send(word); expect(word.strip())
    send("\x1b:wq\r"); expect("PROMPT> "); send("cat file\n"); expect("hello from vim that moves\r\n"); expect("PROMPT> "); ok("vim, in the middle of a word")
def moved(p, *steps): # (WHERE or None for home, keys, what must come)
    for where, keys, what in steps:
        mig("move", "-q", "-H", where, p) if where else mig("home", "-q", p)
        send(keys); expect(what)
if t.on("ws1", "sh", "-c", "command -v less"):
    send("seq 1 5000 >many; LESS= less many\n"); expect("\n9\r\n"); p = t.on("ws1", "pgrep", "-u", "sprite", "-nx", "less").strip()
    moved(p, ("ws2", "G", "5000"), ("ws3", "?^4321\n", "4321"), (None, "1G", "[M\n]9\r\n")); send("q"); expect("PROMPT> "); ok("less that moves")
if t.on("ws1", "sh", "-c", "command -v tmux"):
    send("tmux -L t$$ -f /dev/null new 'echo pi''d $$; exec cat'\n"); p = expect(r"pid (\d+)").group(1).decode()
    moved(p, ("ws2", "one\r", "one(.|\n)*one"), ("ws3", "two\r", "two(.|\n)*two"), (None, "three\r", "three(.|\n)*three")); send("\x04"); expect("PROMPT> "); ok("a job in a tmux pane moves")
send("python3\n"); expect(">>> "); send("import os; print('pid', os.getpid())\n"); p = expect(r"pid (\d+)\r\n").group(1).decode(); expect(">>> ")
for where in ("ws2", "ws3", None, "ws2", None):
    mig("move", "-q", "-H", where, p) if where else mig("home", "-q", p)
    send("6*7, os.isatty(0)\n"); expect("\n\\(42, True\\)\r\n"); expect(">>> ")
ok("an interactive python3 that moves, line editing and all")
send("exit()\n"); expect("PROMPT> ")
send("stty -a | tr -s ' ;' '\\n' | grep -c -x -e echo -e icanon -e isig -e opost -e onlcr\n"); expect("\n5\r\n"); ok("the terminal is as it was")
send("exit\n")
PY
if PYTHONPATH=$HERE timeout 400 python3 "$TMP/term.py" "$BIN/sprite-lab" $JD >"$TMP/out" 2>&1; then cat "$TMP/out"; else cat "$TMP/out"; flunk "a terminal that stays at home"; fi
same "nobody was evicted by his own typing" "" "$(for n in ws2 ws3; do lab logs $n migd | grep "owner is back"; done)"
finish
