# SPDX-License-Identifier: Apache-2.0
# One process that holds ends of FIFOs, told by lines on stdin: "ID verb args"; each runs in a thread of its own (it may block) and is answered by "ID result".
import errno, fcntl, os, select, signal, sys, threading
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
fds = {}
out = threading.Lock()
MODES = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}

def run(verb, a):
    if verb == "open": # name path mode [n]
        fds[a[0]] = os.open(a[1], MODES[a[2]] | (os.O_NONBLOCK if len(a) > 3 else 0))
        return "ok"
    if verb == "close":
        os.close(fds.pop(a[0]))
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
    return "what?"

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
