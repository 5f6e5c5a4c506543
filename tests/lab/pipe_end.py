# SPDX-License-Identifier: Apache-2.0
# One process that holds ends of FIFOs, told by lines on stdin: "ID verb args"; each runs in a thread of its own (it may block) and is answered by "ID result".
import ctypes, errno, fcntl, os, select, signal, struct, sys, termios, threading
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
fds = {}
out = threading.Lock()
MODES = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}

def run(verb, a):
    if verb == "mkfifo": # in place of what was there before
        if os.path.exists(a[0]):
            os.unlink(a[0])
        os.mkfifo(a[0])
        return "ok"
    if verb == "reset":
        for n in list(fds):
            fd = fds.pop(n)
            fd.close() if hasattr(fd, "close") else os.close(fd)
        return "ok"
    if verb == "open": # name path mode [n]
        fds[a[0]] = os.open(a[1], MODES[a[2]] | (os.O_NONBLOCK if len(a) > 3 else 0))
        return "ok"
    if verb == "creat": # name path: as tar does
        fd = libc.creat(a[1].encode(), 0o666)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "creat")
        fds[a[0]] = fd
        return "ok"
    if verb == "handle": # name path mode: open_by_handle_at(2)
        h, mount, at = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128)), ctypes.c_int(), os.open(os.path.dirname(a[1]), os.O_RDONLY)
        fd = libc.name_to_handle_at(-100, a[1].encode(), h, ctypes.byref(mount), 0) or libc.open_by_handle_at(at, h, MODES[a[2]])
        os.close(at)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "handle")
        fds[a[0]] = fd
        return "ok"
    if verb == "close":
        fd = fds.pop(a[0])
        fd.close() if hasattr(fd, "close") else os.close(fd)
        return "ok"
    if verb == "read": # at most n bytes in one call
        return "data " + os.read(fds[a[0]], int(a[1])).decode()
    if verb == "readn": # exactly n, or less at the end
        got = b""
        while len(got) < int(a[1]):
            d = os.read(fds[a[0]], int(a[1]) - len(got))
            if not d:
                break
            got += d
        return "data " + got.decode()
    if verb == "count": # reads all, n bytes at a time; says how many and their checksum
        n = s = 0
        while True:
            d = os.read(fds[a[0]], 65536)
            if not d:
                return "all %d %d" % (n, s)
            n += len(d)
            s = (s + sum(d)) & 0xffffffff
    if verb == "write":
        return "wrote %d" % os.write(fds[a[0]], a[1].encode())
    if verb == "leave": # closes one and writes to another one at once
        os.close(fds.pop(a[0]))
        return "wrote %d" % os.write(fds[a[1]], a[2].encode())
    if verb == "fill": # writes n bytes in blocks
        left = int(a[1])
        while left:
            left -= os.write(fds[a[0]], b"x" * min(left, 4096))
        return "ok"
    if verb == "records": # n records of size bytes, all of one letter
        for i in range(int(a[3])):
            if os.write(fds[a[0]], (a[1] * int(a[2])).encode()) != int(a[2]):
                return "short"
        return "ok"
    if verb == "check": # reads records of size until the end; every record must be of one letter
        size, n, buf = int(a[1]), 0, b""
        while True:
            d = os.read(fds[a[0]], 65536)
            if not d:
                return "records %d left %d" % (n, len(buf))
            buf += d
            while len(buf) >= size:
                if buf[:size] != buf[:1] * size:
                    return "torn at %d" % n
                buf = buf[size:]
                n += 1
    if verb == "poll": # for in or out, ms
        p = select.poll()
        p.register(fds[a[0]], {"in": select.POLLIN, "out": select.POLLOUT, "err": 0}[a[1]])
        ev = p.poll(int(a[2]))
        e = ev[0][1] if ev else 0
        return "poll" + "".join(n for b, n in ((1, " in"), (4, " out"), (8, " err"), (16, " hup")) if e & b)
    if verb == "tokens": # takes a token, gives it back, n times
        for i in range(int(a[1])):
            t = os.read(fds[a[0]], 1)
            if len(t) != 1 or os.write(fds[a[0]], t) != 1:
                return "lost"
        return "ok"
    if verb == "pour": # writes blocks until it may not any more: how many bytes went in, and why no more
        n = 0
        try:
            while True:
                n += os.write(fds[a[0]], b"x" * 4096)
        except OSError as e:
            return "%s %d" % (errno.errorcode[e.errno], n)
    if verb == "brim": # the same without waiting, until there has been no room for a while
        os.set_blocking(fds[a[0]], False)
        n, p = 0, select.poll()
        p.register(fds[a[0]], select.POLLOUT)
        while p.poll(1500):
            try:
                n += os.write(fds[a[0]], b"x" * 4096)
            except BlockingIOError:
                pass
        os.set_blocking(fds[a[0]], True)
        return "brim %d" % n
    if verb == "select": # readable, writable, now
        r, w, _ = select.select([fds[a[0]]] if a[1] == "in" else [], [fds[a[0]]] if a[1] == "out" else [], [], int(a[2]) / 1000)
        return "select %d %d" % (len(r), len(w))
    if verb == "watch": # an edge-triggered epoll
        fds[a[1]] = select.epoll()
        fds[a[1]].register(fds[a[0]], select.EPOLLET | (select.EPOLLIN if a[2] == "in" else select.EPOLLOUT))
        return "ok"
    if verb == "edge": # what it tells within ms
        ev = fds[a[0]].poll(int(a[1]) / 1000)
        return "edge" + "".join(n for b, n in ((1, " in"), (4, " out"), (8, " err"), (16, " hup")) if ev and ev[0][1] & b)
    if verb == "size": # F_SETPIPE_SZ
        return "size %d %d" % (fcntl.fcntl(fds[a[0]], 1031, int(a[1])), fcntl.fcntl(fds[a[0]], 1032))
    if verb == "unread": # FIONREAD
        return "unread %d" % struct.unpack("i", fcntl.ioctl(fds[a[0]], termios.FIONREAD, b"0000"))[0]
    if verb == "tee": # what is there, by tee(2), which leaves it there
        r, w = os.pipe()
        n = libc.tee(fds[a[0]], w, 65536, 0)
        os.close(w)
        got = os.read(r, 65536).decode() if n > 0 else ""
        os.close(r)
        return "tee %d %s" % (n, got)
    if verb in ("splice_in", "splice_out"): # into the FIFO from a pipe; out of it into one
        r, w = os.pipe()
        if verb == "splice_in":
            os.write(w, a[1].encode())
            n = libc.splice(r, None, fds[a[0]], None, ctypes.c_size_t(len(a[1])), 0)
        else:
            n = libc.splice(fds[a[0]], None, w, None, ctypes.c_size_t(65536), 0)
        os.close(w)
        got = os.read(r, 65536).decode() if n > 0 and verb == "splice_out" else ""
        os.close(r)
        return "splice %d %s" % (n, got)
    if verb == "each": # n FIFOs, each opened by a thread of its own: what comes out of all of them (r), or a word into each
        got, lock = [], threading.Lock()
        def one(i):
            try:
                fd = os.open("%s.%d" % (a[0], i), MODES[a[1]])
                n = len(os.read(fd, 9)) if a[1] == "r" else os.write(fd, b"word")
                os.close(fd)
            except OSError as e:
                n = errno.errorcode[e.errno]
            with lock:
                got.append(n)
        return "each " + together(one, int(a[2]), got)
    if verb == "crowd": # n openers of one, each for writing, each writes a word
        got = []
        def one(i):
            fd = os.open(a[0], os.O_WRONLY)
            got.append(os.write(fd, b"word"))
            os.close(fd)
        return "crowd " + together(one, int(a[1]), got)
    if verb == "mkfifos":
        for i in range(int(a[1])):
            os.mkfifo("%s.%d" % (a[0], i))
        return "ok"
    if verb == "rename":
        os.rename(a[0], a[1])
        return "ok"
    if verb == "link":
        os.link(a[0], a[1])
        return "ok"
    if verb == "unlink":
        os.unlink(a[0])
        return "ok"
    if verb in ("broken", "interrupt"): # a child does what may end by SIGPIPE, or is interrupted once it is in its call
        pid = os.fork()
        if not pid:
            child(verb, a)
        if verb == "interrupt":
            while not open("/proc/%d/syscall" % pid).read().startswith({"open": "257 ", "read": "0 ", "write": "1 "}[a[0]]):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return "ended before"
            os.kill(pid, signal.SIGUSR1)
        s = os.waitpid(pid, 0)[1]
        return "signal %d" % os.WTERMSIG(s) if os.WIFSIGNALED(s) else os.read(told[0], 100).decode()
    return "what?"

def together(one, n, got):
    threading.stack_size(131072)
    all = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(n)]
    for t in all:
        t.start()
    for t in all:
        t.join()
    return "%d %s" % (len(got), sorted(set(got), key=str))

told = os.pipe()
class Interrupted(Exception):
    pass
def on_signal(*_):
    raise Interrupted
def child(verb, a):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, on_signal)
    try:
        if verb == "broken":
            while True:
                os.write(fds[a[0]], b"x" * 4096)
        elif a[0] == "open":
            os.open(a[1], MODES[a[2]])
        elif a[0] == "read":
            os.read(fds[a[1]], 100)
        else:
            while True:
                os.write(fds[a[1]], b"x" * 4096)
        os.write(told[1], b"done")
    except Interrupted:
        os.write(told[1], b"interrupted")
    except OSError as e:
        os.write(told[1], errno.errorcode[e.errno].encode())
    finally:
        os._exit(0)

def thread(ident, verb, a):
    try:
        r = run(verb, a)
    except OSError as e:
        r = errno.errorcode[e.errno]
    except Exception as e: # else whoever asked would wait
        r = "failed: " + repr(e)
    with out:
        print(ident, r, flush=True)

print("0 ready", flush=True)
for line in sys.stdin:
    w = line.split()
    threading.Thread(target=thread, args=(w[0], w[1], w[2:]), daemon=True).start()
os._exit(0)
