# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 240
# mig shell: bash on another host with job control, Ctrl-C, window sizes; less, vim, top and a tmux pane behave; its exit status comes home; a terminal that is hung up
# hangs up on the shell over there.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/shell.py" <<'PY'
import fcntl, os, pty, re, select, signal, struct, subprocess, sys, termios, time
lab, jd = sys.argv[1:]
def size(rows, cols): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
def spawn(*cmd):
    global pid, fd, buf
    buf = b""
    pid, fd = pty.fork()
    if pid == 0: os.execv(lab, [lab, "exec", "ws1", "-u", "sprite", "--", *cmd])
    size(30, 90)
def expect(pat, secs=90):
    global buf
    end = time.time() + secs
    while not re.search(pat.encode(), buf):
        if time.time() > end: sys.exit("not ok - waited for %r, have: %r" % (pat, buf[-900:]))
        if select.select([fd], [], [], 0.2)[0]: buf += os.read(fd, 4096)
    m = re.search(pat.encode(), buf); buf = buf[m.end():]; return m
def send(s): os.write(fd, s.encode())
def again(s, pat, tries=90): # bash runs a trap when it has read a line; a key for a job that is just starting is the shell's own yet
    global buf
    while tries and not re.search(pat.encode(), buf):
        send(s); tries -= 1
        for i in range(5):
            if select.select([fd], [], [], 0.2)[0]: buf += os.read(fd, 4096)
    expect(pat, 1)
def on(node, *a): return subprocess.run([lab, "exec", node, "-T", "-u", "sprite", "--", *a], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
spawn("env", "TERM=xterm", "LESS=", "bash", "--norc", "--noediting", "-i")
send("PS1='HO''ME> '; cd %s\n" % jd); expect("HOME> ")
send("mig shell -H ws2 bash --norc --noediting -i; echo st''=$?\n"); expect(r"\$ ")
send("PS1='AW''AY> '; set -b\n"); expect("AWAY> ")
if "ws2" not in on("ws1", "mig", "ps", "--no-header"): sys.exit("not ok - mig ps does not show it on ws2")
send("hostname; pwd; tty; stty size\n"); expect(r"ws1\r\n%s\r\n/dev/pts/\d+\r\n30 90\r\n" % jd); expect("AWAY> "); print("ok - it is there, as if here")
send("trap 'echo WIN''CH $(stty size)' WINCH\n"); expect("AWAY> "); size(40, 100); again("\n", "WINCH 40 100"); expect("AWAY> "); print("ok - the size of the window")
send("sleep 1000\n"); expect("sleep 1000\r\n"); again("\x1a", "Stopped"); expect("AWAY> "); send("jobs\n"); expect(r"\[1\]\+\s+Stopped\s+sleep 1000"); expect("AWAY> ")
send("bg\n"); expect("AWAY> "); send("fg\n"); expect("sleep 1000\r\n"); again("\x03", "AWAY> "); send("echo st''=$?\n"); expect("st=130"); expect("AWAY> "); print("ok - Ctrl-Z, bg, fg, Ctrl-C")
send("seq 1 5000 >many; less many\n"); expect("1\r\n2\r\n"); send("G"); expect("5000"); send("?^4321\n"); expect("4321"); send("q"); expect("AWAY> "); print("ok - less")
send("vim -u NONE -N file\n"); expect(r"\[New\]"); send("ihello from vim\x1b:wq\r"); expect("AWAY> "); send("cat file\n"); expect("hello from vim\r\n"); expect("AWAY> "); print("ok - vim")
send("top -d 1\n"); expect("PID +USER"); send("q"); expect("AWAY> "); print("ok - top")
send("tmux -L t$$ -f /dev/null new 'echo in the pa''ne; read x; echo got $x >pane'; cat pane\n"); expect("in the pane"); send("word\r"); expect("got word\r\n"); expect("AWAY> "); print("ok - a tmux pane")
send("exit 7\n"); expect("st=7\r\n"); expect("HOME> "); send("stty -a | tr -s ' ;' '\\n' | grep -c -x -e echo -e icanon -e isig -e opost -e onlcr\n"); expect("\n5\r\n"); print("ok - exit status; the terminal is as it was")
send("mig shell -H ws9; echo st''=$?\n"); expect("ws9"); expect("st=125\r\n"); expect("HOME> "); send("mig shell </dev/null; echo st''=$?\n"); expect("no terminal"); expect("st=1\r\n"); print("ok - it says what is wrong")
send("echo pid $$\n"); home = expect(r"pid (\d+)\r\n").group(1).decode()
if not re.search("controls the jobs of terminal .*mig shell", on("ws1", "mig", "explain", home)): sys.exit("not ok - mig explain of a shell with jobs")
print("ok - a shell with jobs is refused by name")
send("exec mig shell -H ws3 bash --norc --noediting -i\n"); expect(r"\$ "); send("sleep 3000\n"); expect("sleep 3000\r\n")
end = time.time() + 60
while "sleep 3000" not in on("ws3", "ps", "-eo", "args"):
    if time.time() > end: sys.exit("not ok - no sleep on ws3")
os.close(fd)
while "sleep 3000" in on("ws3", "ps", "-eo", "args"):
    if time.time() > end + 60: sys.exit("not ok - the shell over there outlives its terminal")
print("ok - a terminal that is hung up hangs up on the shell over there")
PY
if timeout 400 python3 "$TMP/shell.py" "$BIN/sprite-lab" $JD >"$TMP/out" 2>&1; then cat "$TMP/out"; else cat "$TMP/out"; flunk "mig shell"; fi
finish
