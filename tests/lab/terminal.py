# SPDX-License-Identifier: Apache-2.0
# For tests that drive a terminal of ws1, imported by their python parts: a pty whose other side is a program there. Waits for what must appear, never for time.
import fcntl, os, pty, re, select, struct, subprocess, sys, termios, time

class Terminal:
    def __init__(self, lab, *cmd, size=(24, 80)):
        self.lab, self.buf = lab, b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0: os.execv(lab, [lab, "exec", "ws1", "-u", "sprite", "--", *cmd])
        self.size(*size)
    def size(self, rows, cols): fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    def send(self, s): os.write(self.fd, s.encode())
    def expect(self, pat, secs=90): # what came before it is forgotten
        end = time.time() + secs
        while not re.search(pat.encode(), self.buf):
            if time.time() > end: sys.exit("not ok - waited for %r, have: %r" % (pat, self.buf[-900:]))
            if select.select([self.fd], [], [], 0.2)[0]: self.buf += os.read(self.fd, 4096)
        m = re.search(pat.encode(), self.buf); self.buf = self.buf[m.end():]; return m
    def close(self): os.close(self.fd)
    def on(self, node, *a): # what a command says there
        return subprocess.run([self.lab, "exec", node, "-T", "-u", "sprite", "--", *a], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
    def mig(self, *a, tries=1): # more: a migd that has just come up is not found at once
        for i in range(tries):
            if os.spawnv(os.P_WAIT, self.lab, [self.lab, "exec", "ws1", "-T", "-u", "sprite", "--", "mig", *a]) == 0: return
            time.sleep(0.3)
        sys.exit("not ok - mig %s failed" % " ".join(a))
    def until(self, what, cond, secs=90):
        end = time.time() + secs
        while not cond():
            if time.time() > end: sys.exit("not ok - " + what)
            time.sleep(0.05)
    def in_front(self, node, comm): # it is the foreground job of its terminal there: a key is for it, and no longer for the shell that started it
        self.until("%s is not in the foreground on %s" % (comm, node), lambda: any(
            f[2] == comm and f[0] == f[1] for f in map(str.split, self.on(node, "ps", "-u", "sprite", "-o", "pgid=,tpgid=,comm=").splitlines())))

def ok(what): print("ok - " + what, flush=True)
