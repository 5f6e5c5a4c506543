# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# mig shell: bash on another host with job control, Ctrl-C, window sizes; less, vim, top and a tmux pane behave; its exit status comes home; a terminal that is hung up
# hangs up on the shell over there.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/shell.py" <<'PY'
import os, re, sys
from terminal import Terminal, ok
lab, jd = sys.argv[1:]
t = Terminal(lab, "env", "TERM=xterm", "LESS=", "bash", "--norc", "--noediting", "-i", size=(30, 90))
send, expect, on = t.send, t.expect, t.on
send("PS1='HO''ME> '; cd %s\n" % jd); expect("HOME> ")
send("mig shell -H ws2 bash --norc --noediting -i; echo st''=$?\n"); expect(r"\$ ")
send("PS1='AW''AY> '; set -b\n"); expect("AWAY> ")
if "ws2" not in on("ws1", "mig", "ps", "--no-header"): sys.exit("not ok - mig ps does not show it on ws2")
send("hostname; pwd; tty; stty size\n"); expect(r"ws1\r\n%s\r\n/dev/pts/\d+\r\n30 90\r\n" % jd); expect("AWAY> "); ok("it is there, as if here")
wait = "import os, signal; s = [signal.SIGWINCH]; signal.pthread_sigmask(0, s); print(\"wai\" \"ting\", flush=True); signal.sigwait(s); print(\"WIN\" \"CH\", *os.get_terminal_size())"
send("python3 -c '%s'\n" % wait); expect("waiting\r\n"); t.size(40, 100); expect(r"WINCH 100 40\r\n"); expect("AWAY> "); ok("the size of the window")
send("sleep 1000\n"); t.in_front("ws2", "sleep"); send("\x1a"); expect("Stopped"); expect("AWAY> "); send("jobs\n"); expect(r"\[1\]\+\s+Stopped\s+sleep 1000"); expect("AWAY> ")
send("bg\n"); expect("AWAY> "); send("fg\n"); expect("sleep 1000\r\n"); t.in_front("ws2", "sleep"); send("\x03"); expect("AWAY> "); send("echo st''=$?\n"); expect("st=130"); expect("AWAY> "); ok("Ctrl-Z, bg, fg, Ctrl-C")
send("seq 1 5000 >many; less many\n"); expect("1\r\n2\r\n"); send("G"); expect("5000"); send("?^4321\n"); expect("4321"); send("q"); expect("AWAY> "); ok("less")
send("vim -u NONE -N file\n"); expect(r"\[New\]"); send("ihello from vim\x1b:wq\r"); expect("AWAY> "); send("cat file\n"); expect("hello from vim\r\n"); expect("AWAY> "); ok("vim")
send("top -d 1\n"); expect("PID +USER"); send("q"); expect("AWAY> "); ok("top")
send("tmux -L t$$ -f /dev/null new 'echo in the pa''ne; read x; echo got $x >pane'; cat pane\n"); expect("in the pane"); send("word\r"); expect("got word\r\n"); expect("AWAY> "); ok("a tmux pane")
send("exit 7\n"); expect("st=7\r\n"); expect("HOME> "); send("stty -a | tr -s ' ;' '\\n' | grep -c -x -e echo -e icanon -e isig -e opost -e onlcr\n"); expect("\n5\r\n"); ok("exit status; the terminal is as it was")
send("mig shell -H ws9; echo st''=$?\n"); expect("ws9"); expect("st=125\r\n"); expect("HOME> "); send("mig shell </dev/null; echo st''=$?\n"); expect("no terminal"); expect("st=1\r\n"); ok("it says what is wrong")
send("echo pid $$\n"); home = expect(r"pid (\d+)\r\n").group(1).decode()
if not re.search("controls the jobs of terminal .*mig shell", on("ws1", "mig", "explain", home)): sys.exit("not ok - mig explain of a shell with jobs")
ok("a shell with jobs is refused by name")
send("exec mig shell -H ws3 bash --norc --noediting -i\n"); expect(r"\$ "); send("sleep 3000\n"); t.in_front("ws3", "sleep")
t.close()
t.until("the shell over there outlives its terminal", lambda: "sleep" not in on("ws3", "ps", "-u", "sprite", "-o", "comm="))
ok("a terminal that is hung up hangs up on the shell over there")
PY
if PYTHONPATH=$HERE timeout 400 python3 "$TMP/shell.py" "$BIN/sprite-lab" $JD >"$TMP/out" 2>&1; then cat "$TMP/out"; else cat "$TMP/out"; flunk "mig shell"; fi
finish
