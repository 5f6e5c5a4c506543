# SPDX-License-Identifier: Apache-2.0
# The semantics of named pipes: the same cases on a FIFO of one machine (tmpfs), of one node, of two and of three nodes must give the same answers.
# usage: pipes.py SPRITE-LAB SRC [CASE...]   SRC: where a node sees tests/lab. Prints "ok - ..." and "not ok - ..." lines. REPEAT=N: each N times (but on one machine). JOBS=N: N cases at a time.
import os, subprocess, sys, threading, time
LAB, SRC, ONLY, REPEAT = sys.argv[1], sys.argv[2], sys.argv[3:], int(os.environ.get("REPEAT", 1))
JOBS = int(os.environ.get("JOBS", 1))
SETTLE = 0.25 # that something has not happened can only be waited for

class End: # a process on a node
    def __init__(self, node):
        self.path, self.n, self.node, self.dead = None, 0, node, False
        self.p = subprocess.Popen([LAB, "exec", node, "-T", "--", "python3", SRC + "/pipe_end.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.got, self.new = {}, threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()
        self.wait(0)
    def listen(self):
        for line in self.p.stdout:
            ident, _, text = line.rstrip("\n").partition(" ")
            with self.new:
                self.got[int(ident)] = text
                self.new.notify_all()
    def wait(self, n, t=180):
        with self.new:
            self.new.wait_for(lambda: n in self.got, t)
            return self.got.get(n, "BLOCKED")
    def start(self, *a): # returns a number to wait for
        self.n += 1
        self.p.stdin.write("%d %s\n" % (self.n, " ".join(a)))
        self.p.stdin.flush()
        return self.n
    def do(self, *a):
        return self.wait(self.start(*a))
    def open(self, name, mode, *nb):
        return self.start("open", name, self.path, mode, *nb)
    def blocked(self, n):
        time.sleep(SETTLE)
        return self.wait(n, 0)
    def full(self, name): # what it writes there has come to a stand
        quiet, end = 0, time.monotonic() + 180
        while quiet < 4 and time.monotonic() < end:
            quiet = quiet + 1 if self.do("poll", name, "out", "0") == "poll" else 0
            time.sleep(SETTLE)
        return quiet
    def kill(self): # the process, on its node
        self.dead = True
        self.p.stdin.close() # ends it: its descriptors close, whatever its threads wait for
        self.p.wait()
    def tidy(self): # for the next case, unless something has not come back
        if not self.dead and (self.do("reset") != "ok" or len(self.got) != self.n + 1):
            self.kill()

def reader_first(a, b, c):
    r = a.open("f", "r")
    t = [a.blocked(r)]
    w = b.open("f", "w")
    t += [a.wait(r), b.wait(w), b.do("write", "f", "hello"), a.do("read", "f", "100"), b.do("close", "f"), a.do("read", "f", "100"), a.do("close", "f")]
    return t

def writer_first(a, b, c):
    w = b.open("f", "w")
    t = [b.blocked(w)]
    r = a.open("f", "r")
    t += [a.wait(r), b.wait(w), b.do("write", "f", "hello"), a.do("read", "f", "100"), b.do("close", "f"), a.do("read", "f", "100"), a.do("close", "f")]
    return t

def creates(a, b, c): # creat(2)
    w = b.start("creat", "f", b.path)
    t = [b.blocked(w)]
    r = a.open("f", "r")
    return t + [a.wait(r), b.wait(w), b.do("write", "f", "hello"), a.do("read", "f", "100"), b.do("close", "f"), a.do("read", "f", "100"), a.do("close", "f")]

def by_handle(a, b, c): # open_by_handle_at(2)
    w = b.start("handle", "f", b.path, "w")
    t = [b.blocked(w)]
    r = a.start("handle", "f", a.path, "r")
    return t + [a.wait(r), b.wait(w), b.do("write", "f", "hello"), a.do("read", "f", "100"), b.do("close", "f"), a.do("read", "f", "100"), a.do("close", "f")]

def nonblock_writer(a, b, c):
    t = [b.wait(b.open("f", "w", "n"))] # ENXIO
    r = a.open("f", "r")
    t += [a.blocked(r), b.wait(b.open("f", "w", "n")), a.wait(r), b.do("write", "f", "x"), a.do("read", "f", "9"), b.do("close", "f"), a.do("read", "f", "9"), a.do("close", "f")]
    return t + [b.wait(b.open("f", "w", "n"))]

def nonblock_reader(a, b, c):
    t = [a.wait(a.open("f", "r", "n")), a.do("read", "f", "9"), b.wait(b.open("f", "w")), a.do("read", "f", "9"), b.do("write", "f", "abc")]
    t += [a.do("poll", "f", "in", "60000"), a.do("read", "f", "9"), b.do("close", "f"), a.do("poll", "f", "in", "60000"), a.do("read", "f", "9"), a.do("close", "f")]
    return t

def epipe(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), b.do("write", "f", "x"), a.do("readn", "f", "1"), a.do("close", "f"), b.do("poll", "f", "err", "60000").count("err")]
    return t + [b.do("write", "f", "y"), b.do("close", "f")]

def epipe_while_full(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    f = b.start("fill", "f", "4000000")
    return t + [b.blocked(f), a.do("readn", "f", "5"), a.do("close", "f"), b.wait(f), b.do("close", "f")]

def two_writers(a, b, c):
    r, w, v = a.open("f", "r"), b.open("f", "w"), c.open("f", "w")
    t = [a.wait(r), b.wait(w), c.wait(v), b.do("write", "f", "one"), a.do("readn", "f", "3"), c.do("write", "f", "two"), a.do("readn", "f", "3"), b.do("close", "f")]
    e = a.start("read", "f", "9")
    return t + [a.blocked(e), c.do("close", "f"), a.wait(e), a.do("close", "f")] # the end comes with the last one

def second_reader(a, b, c): # the writer stays, readers come and go; what the first did not read is for the second
    w, r = b.open("f", "w"), a.open("f", "r")
    t = [b.wait(w), a.wait(r), b.do("write", "f", "abcdef"), a.do("readn", "f", "3"), a.do("close", "f"), b.do("poll", "f", "err", "60000").count("err")]
    t += [c.wait(c.open("f", "r")), c.do("readn", "f", "3"), b.do("write", "f", "gh"), c.do("readn", "f", "2"), b.do("close", "f"), c.do("read", "f", "9"), c.do("close", "f")]
    return t

def both_ways(a, b, c):
    t = [a.wait(a.open("f", "rw")), b.wait(b.open("f", "w")), b.do("write", "f", "in"), a.do("readn", "f", "2"), b.do("close", "f")]
    e = a.start("read", "f", "9")
    t += [a.blocked(e), c.wait(c.open("f", "w")), c.do("write", "f", "x"), a.wait(e), c.do("close", "f"), a.do("close", "f")]
    return t

def much(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    n = a.start("count", "f")
    return t + [b.do("fill", "f", "20000000"), b.do("close", "f"), a.wait(n), a.do("close", "f")]

def records(a, b, c): # PIPE_BUF: no record of 4096 bytes is torn, from writers on two nodes
    r, w, v = a.open("f", "r"), b.open("f", "w"), c.open("f", "w")
    t = [a.wait(r), b.wait(w), c.wait(v)]
    n, x, y = a.start("check", "f", "4096"), b.start("records", "f", "b", "4096", "2000"), c.start("records", "f", "c", "4096", "2000")
    return t + [b.wait(x), c.wait(y), b.do("close", "f"), c.do("close", "f"), a.wait(n), a.do("close", "f")]

def records_here(a, b, c): # the same with a writer on the reader's node, and records that fit into no page without a rest
    r, g, w, v = a.open("f", "r"), a.open("g", "w"), b.open("f", "w"), c.open("f", "w")
    t = [a.wait(r), a.wait(g), b.wait(w), c.wait(v)]
    n = a.start("check", "f", "1000")
    x = [(e, e.start("records", d, l, "1000", "3000")) for e, d, l in ((a, "g", "a"), (b, "f", "b"), (c, "f", "c"))]
    return t + [e.wait(i) for e, i in x] + [a.do("close", "g"), b.do("close", "f"), c.do("close", "f"), a.wait(n), a.do("close", "f")]

def killed_writer(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), b.do("write", "f", "last"), a.do("readn", "f", "4")]
    e = a.start("read", "f", "9")
    b.kill()
    return t + [a.wait(e), a.do("close", "f")]

def killed_opener(a, b, c): # one that died while it waited is nobody's partner
    w = b.open("f", "w")
    t = [b.blocked(w)]
    b.kill()
    r = a.open("f", "r")
    t += [a.blocked(r), c.wait(c.open("f", "w")), a.wait(r), c.do("close", "f"), a.do("read", "f", "9"), a.do("close", "f")]
    return t

def several_readers(a, b, c): # every byte to one of them, and the end to all
    w = c.open("f", "w")
    t = [c.blocked(w), a.wait(a.open("f", "r")), b.wait(b.open("f", "r")), c.wait(w)]
    x, y = a.start("count", "f"), b.start("count", "f")
    t += [c.do("fill", "f", "3000000"), c.do("close", "f")]
    x, y = a.wait(x).split(), b.wait(y).split()
    return t + [int(x[1]) + int(y[1]), int(x[2]) + int(y[2]), a.do("close", "f"), b.do("close", "f")]

def idle_reader(a, b, c): # one that has it open and does not read keeps nothing from the other
    t = [a.wait(a.open("f", "rw")), b.wait(b.open("f", "r")), c.wait(c.open("f", "w"))]
    for i in range(5):
        t += [c.do("write", "f", "t%d" % i), b.do("readn", "f", "2")]
        t += [a.do("write", "f", "u%d" % i), b.do("readn", "f", "2")]
    return t

def tokens(a, b, c): # make --jobserver-style=fifo: everybody takes tokens and gives them back; none may get lost or stuck
    t = [e.wait(e.open("f", "rw")) for e in (a, b, c)] + [a.do("write", "f", "1234")]
    n = [(e, e.start("tokens", "f", "60")) for e in (a, b, c) for i in range(3)]
    t += [e.wait(i) for e, i in n]
    return t + ["".join(sorted(c.do("readn", "f", "4"))), c.do("poll", "f", "in", "100")]

def reader_leaves(a, b, c): # the only reader of a writer's node goes: others read elsewhere, so there is no broken pipe
    v = c.open("f", "w")
    t = [c.blocked(v), a.wait(a.open("f", "r")), b.wait(b.open("f2", "r")), a.wait(a.open("g", "w")), c.wait(v)]
    t += [a.do("leave", "f", "g", "000")] + [a.do("write", "g", "%03d" % i) for i in range(1, 50)] + ["".join(sorted(b.do("readn", "f2", "150"))), b.do("close", "f2")]
    return t + [a.do("poll", "g", "err", "60000").count("err"), a.do("write", "g", "x"), c.do("close", "f"), a.do("close", "g")]

def reader_comes(a, b, c): # and one that comes and goes again while it writes
    q = b.open("f2", "r")
    t = [b.blocked(q), a.wait(a.open("g", "w")), c.wait(c.open("f", "w")), b.wait(q)]
    n, x = b.start("count", "f2"), a.start("records", "g", "a", "512", "20000")
    for i in range(15):
        t += [a.wait(a.open("f", "r")), a.do("close", "f")]
    return t + [a.wait(x), a.do("close", "g"), c.do("close", "f"), b.wait(n), b.do("close", "f2")]

def end_for_all(a, b, c): # readers and writers on two nodes: the end comes to both
    r, q = a.open("f", "r"), b.open("f2", "r")
    t = [a.blocked(r), b.blocked(q), a.wait(a.open("g", "w")), c.wait(c.open("f", "w")), a.wait(r), b.wait(q)]
    x, y = a.start("count", "f"), b.start("count", "f2")
    t += [a.do("write", "g", "one"), c.do("write", "f", "two"), a.do("close", "g"), a.blocked(x), c.do("close", "f")]
    x, y = a.wait(x).split(), b.wait(y).split()
    return t + [int(x[1]) + int(y[1]), int(x[2]) + int(y[2]), a.do("close", "f"), b.do("close", "f2")]

def left_over(a, b, c): # what nobody has read goes with the last end, and not before
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), b.do("write", "f", "abcdef"), a.do("readn", "f", "3"), a.do("close", "f"), b.do("close", "f")]
    r = c.open("f", "r")
    t += [c.blocked(r), b.wait(b.open("f", "w")), c.wait(r), b.do("write", "f", "new"), c.do("readn", "f", "3"), b.do("close", "f"), c.do("read", "f", "9"), c.do("close", "f")]
    return t

def left_at_once(a, b, c): # the writer goes first, and one comes to each of the nodes as soon as the reader has gone
    t = []
    for e in (a, b, c):
        r, w = a.open("f", "r"), b.open("f", "w")
        t += [a.wait(r), b.wait(w), b.do("write", "f", "abcdef"), a.do("readn", "f", "3"), b.do("close", "f"), a.do("close", "f")]
        t += [e.wait(e.open("f", "r", "n")), e.do("read", "f", "9"), e.do("close", "f")]
    return t

def left_by_killed(a, b, c): # a full pipe whose ends are all killed
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    n = b.start("fill", "f", "4000000")
    t += [b.blocked(n), a.do("readn", "f", "5")]
    a.kill()
    b.kill()
    r = c.open("f", "r")
    return t + [c.blocked(r), c.wait(c.open("g", "w", "n")), c.wait(r), c.do("close", "g"), c.do("read", "f", "9"), c.do("close", "f")]

def kept_for_next(a, b, c): # the reader goes, and the writer whose bytes they are, but another one stays: all that it could write is for the next reader, but what was read
    r, w, v = a.open("f", "r"), b.open("f", "w"), c.open("f", "w")
    t = [a.wait(r), b.wait(w), c.wait(v)]
    p = b.start("pour", "f")
    t += [b.full("f"), a.do("readn", "f", "5"), a.do("close", "f")]
    why, n = b.wait(p).split()
    t += [why, int(n) >= 65536, b.do("close", "f"), a.wait(a.open("f", "r"))]
    e, x = c.start("write", "f", "end"), a.start("count", "f")
    t += [c.wait(e), c.do("close", "f")]
    return t + [int(a.wait(x).split()[1]) - int(n), a.do("close", "f")]

def sigpipe(a, b, c): # who does not ignore it is killed, in a write that waits for room as well
    t = []
    r, w = a.open("f", "r"), b.open("f", "w")
    t += [a.wait(r), b.wait(w)]
    p = b.start("broken", "f")
    t += [b.blocked(p), a.do("close", "f"), b.wait(p), b.do("broken", "f"), b.do("close", "f")]
    return t

def readiness(a, b, c): # poll, select: for room and for bytes
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), a.do("select", "f", "in", "0"), b.do("select", "f", "out", "60000"), b.do("write", "f", "x"), a.do("select", "f", "in", "60000"), a.do("readn", "f", "1")]
    n = int(b.do("brim", "f").split()[1])
    t += [b.do("poll", "f", "out", "0"), b.do("select", "f", "out", "0")]
    got = a.do("readn", "f", str(n)).split()[1]
    t += [len(got) == n, b.do("poll", "f", "out", "60000"), a.do("poll", "f", "in", "0"), b.do("close", "f"), a.do("poll", "f", "in", "60000"), a.do("select", "f", "in", "0"), a.do("close", "f")]
    return t

def edges(a, b, c): # edge-triggered epoll
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), a.do("watch", "f", "e", "in"), a.do("edge", "e", "0")]
    for i in range(3):
        t += [b.do("write", "f", "x"), a.do("edge", "e", "60000"), a.do("edge", "e", "100")]
    t += [b.do("close", "f"), a.do("edge", "e", "60000"), a.do("edge", "e", "100"), a.do("readn", "f", "9"), a.do("close", "e"), a.do("close", "f")]
    return t

def room_edges(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    n = int(b.do("brim", "f").split()[1])
    t += [b.do("watch", "f", "e", "out"), b.do("edge", "e", "100"), len(a.do("readn", "f", str(n))) - n, b.do("edge", "e", "60000"), a.do("close", "f"), b.do("edge", "e", "60000").count("err")]
    return t + [b.do("close", "e"), b.do("close", "f")]

def bound(a, b, c): # a writer without a reader who reads: as much goes in as a pipe holds, and no more than four times that
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    n = int(b.do("brim", "f").split()[1])
    return t + [n >= 65536, n <= 4 * 65536, len(a.do("readn", "f", str(n))) - n, b.do("close", "f"), a.do("read", "f", "9"), a.do("close", "f")]

def interrupted(a, b, c): # a signal ends a call that waits
    t = [a.do("interrupt", "open", a.path, "r"), b.do("interrupt", "open", b.path, "w")]
    r, w = a.open("f", "r"), b.open("f", "w")
    t += [a.wait(r), b.wait(w), a.do("interrupt", "read", "f")]
    n = b.do("brim", "f")
    t += [b.do("interrupt", "write", "f"), b.do("close", "f"), int(a.do("count", "f").split()[1]) - int(n.split()[1]), a.do("close", "f")]
    return t

def names(a, b, c): # another name, none
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), a.do("link", a.path, a.path + ".link"), b.do("write", "f", "one"), a.do("readn", "f", "3")]
    t += [c.wait(c.start("open", "g", c.path + ".link", "w")), c.do("write", "g", "two"), a.do("readn", "f", "3"), b.do("rename", b.path, b.path + ".new"), b.do("write", "f", "three")]
    t += [a.do("readn", "f", "5"), c.do("unlink", c.path + ".new"), a.do("unlink", a.path + ".link"), b.do("write", "f", "four"), a.do("readn", "f", "4"), c.do("close", "g")]
    e = a.start("read", "f", "9")
    return t + [a.blocked(e), b.do("close", "f"), a.wait(e), a.do("close", "f")]

def sizes(a, b, c): # F_SETPIPE_SZ, by the writer
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), b.do("size", "f", "262144"), b.do("fill", "f", "262144")]
    return t + [len(a.do("readn", "f", "262144")), b.do("size", "f", "4096"), b.do("write", "f", "x"), a.do("readn", "f", "1"), b.do("close", "f"), a.do("read", "f", "9"), a.do("close", "f")]

def spliced(a, b, c):
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w), b.do("splice_in", "f", "abcdef"), a.do("poll", "f", "in", "60000"), a.do("unread", "f"), a.do("tee", "f"), a.do("unread", "f"), a.do("splice_out", "f")]
    return t + [a.do("unread", "f"), b.do("close", "f"), a.do("splice_out", "f"), a.do("close", "f")]

def warm(a, b): # until bytes go from node to node, not by the server
    r, w = a.open("f", "r"), b.open("f", "w")
    t = [a.wait(r), b.wait(w)]
    for i in range(50):
        t += [b.do("write", "f", "x"), a.do("readn", "f", "1")]
    return t

def direct_end(a, b, c): # the end comes behind the last byte
    t = warm(a, b)
    f = b.start("fill", "f", "3000000")
    t += [b.blocked(f)]
    n = a.start("count", "f")
    return t + [b.wait(f), b.do("close", "f"), a.wait(n), a.do("close", "f")]

def direct_left(a, b, c): # what is left is for the next reader
    t = warm(a, b) + [b.do("write", "f", "abcdef"), a.do("readn", "f", "3"), a.do("close", "f"), b.do("poll", "f", "err", "60000").count("err")]
    return t + [c.wait(c.open("f", "r")), c.do("readn", "f", "3"), b.do("write", "f", "gh"), c.do("readn", "f", "2"), b.do("close", "f"), c.do("read", "f", "9"), c.do("close", "f")]

def direct_full(a, b, c): # all is full, another reader comes, and the first one goes
    t = warm(a, b)
    f = b.start("fill", "f", "4000000")
    t += [b.blocked(f), a.do("readn", "f", "5"), c.wait(c.open("f", "r")), a.do("close", "f")]
    n = c.start("count", "f")
    return t + [b.wait(f), b.do("close", "f"), c.wait(n), c.do("close", "f")]

def direct_third(a, b, c): # another writer comes, and stays longer
    t = warm(a, b) + [c.wait(c.open("f", "w")), c.do("write", "f", "two"), a.do("readn", "f", "3"), b.do("write", "f", "one"), a.do("readn", "f", "3"), b.do("close", "f")]
    e = a.start("read", "f", "9")
    return t + [a.blocked(e), c.do("close", "f"), a.wait(e), a.do("close", "f")]

def direct_here(a, b, c): # a writer comes to the reader's node: records stay whole
    t = warm(a, b) + [a.wait(a.open("g", "w"))]
    n = a.start("check", "f", "1000")
    x = [(e, e.start("records", d, l, "1000", "2000")) for e, d, l in ((a, "g", "a"), (b, "f", "b"))]
    return t + [e.wait(i) for e, i in x] + [a.do("close", "g"), b.do("close", "f"), a.wait(n), a.do("close", "f")]

def direct_killed(a, b, c):
    t = warm(a, b) + [b.do("write", "f", "last")]
    b.kill()
    return t + [a.do("readn", "f", "4"), a.do("read", "f", "9"), a.do("close", "f")]

def thousand(a, b, c): # FIFOs, each with a reader who waits
    t = [a.do("mkfifos", a.path, "1000")]
    r = a.start("each", a.path, "r", "1000")
    return t + [b.wait(b.start("each", b.path, "w", "1000"), 280), a.wait(r, 280)]

def crowd(a, b, c): # who wait for one reader
    x, y = a.start("crowd", a.path, "500"), b.start("crowd", b.path, "500")
    t = [c.wait(c.open("f", "rw")), len(c.wait(c.start("readn", "f", "4000"), 280))]
    return t + [a.wait(x), b.wait(y), c.do("close", "f")]

CASES = [reader_first, writer_first, creates, by_handle, nonblock_writer, nonblock_reader, epipe, epipe_while_full, two_writers, second_reader, both_ways, much, records, records_here, killed_writer,
         killed_opener, several_readers, idle_reader, tokens, reader_leaves, reader_comes, end_for_all,
         left_over, left_at_once, left_by_killed, kept_for_next, sigpipe, readiness, edges, room_edges, bound, interrupted, names, sizes, spliced,
         direct_end, direct_left, direct_full, direct_third, direct_here, direct_killed,
         thousand, crowd]
LONG = [thousand, crowd] # only by name
PLACES = [("one machine", "ws1", "ws1", "ws1", "/tmp/pipes"), ("one node", "ws1", "ws1", "ws1", "/sprite/pipes"), ("two nodes", "ws1", "ws2", "ws2", "/sprite/pipes"),
          ("three nodes", "ws1", "ws2", "ws3", "/sprite/pipes")]

def run(case, what, where):
    ends, d = where[:3], where[3]
    path = "%s/%s.%s" % (d, case.__name__, what.replace(" ", "_"))
    t = []
    for i, e in enumerate(ends):
        if e.dead:
            e = where[i] = End(e.node)
        e.path = path
    a = where[0]
    a.do("mkfifo", path)
    t = case(*where[:3])
    for e in where[:3]:
        e.tidy()
    return t

def cuts(): # how often a node has lost its connection to the hub: then, by rule, its partners see an end
    return [subprocess.run([LAB, "exec", n, "-T", "--", "grep", "-c", "named pipes: the connection to their server is lost", "/var/log/sprite/spritefs.log"], stdout=subprocess.PIPE).stdout
            for n in ("ws1", "ws2", "ws3")]

class Worker: # a set of processes on all places, which takes one case after the other
    def __init__(self):
        self.places = [(what, [End(n) for n in (na, nb, nc)] + [d]) for what, na, nb, nc, d in PLACES]
    def case(self, case):
        lost = cuts()
        want, lines, bad = run(case, *self.places[0]), [], 0
        for what, where in self.places[1:]:
            for i in range(REPEAT):
                for again in range(3): # a machine so busy that a daemon was silent for the ten seconds of gRPC's keepalive proves nothing
                    got = run(case, what, where)
                    if got == want:
                        break
                    time.sleep(10) # its node may hear of it later than its partners
                    now = cuts()
                    if now == lost:
                        break
                    lost = now
                    lines.append("#   %s: %s: a connection to the hub was lost meanwhile: again" % (case.__name__, what))
                if got != want:
                    break
            if got == want:
                lines.append("ok - %s: %s as on one machine" % (case.__name__, what))
            else:
                bad += 1
                lines.append("not ok - %s: %s differs from one machine%s" % (case.__name__, what, " (round %d)" % i if REPEAT > 1 else ""))
                lines.append("#   wanted: %s\n#   found:  %s" % (want, got))
        print("\n".join(lines), flush=True)
        return bad
    def end(self):
        for what, where in self.places:
            for e in where[:3]:
                e.kill()

def main():
    for what, na, nb, nc, d in PLACES:
        subprocess.run([LAB, "exec", na, "-T", "--", "mkdir", "-p", d], check=True)
    todo = [c for c in CASES if (c.__name__ in ONLY if ONLY else c not in LONG)]
    bad, lock = [], threading.Lock()
    def work():
        w = Worker()
        while True:
            with lock:
                case = todo.pop(0) if todo else None
            if not case:
                break
            bad.append(w.case(case))
        w.end()
    all = [threading.Thread(target=work) for i in range(JOBS)]
    for t in all:
        t.start()
    for t in all:
        t.join()
    return 1 if sum(bad) else 0

sys.exit(main())
