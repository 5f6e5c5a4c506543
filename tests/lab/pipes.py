# SPDX-License-Identifier: Apache-2.0
# The semantics of named pipes: the same cases on a FIFO of one machine (tmpfs), of one node, of two and of three nodes must give the same answers.
# usage: pipes.py SPRITE-LAB SRC [CASE...]   SRC: where a node sees tests/lab. Prints "ok - ..." and "not ok - ..." lines.
import os, queue, subprocess, sys, threading, time
LAB, SRC, ONLY = sys.argv[1], sys.argv[2], sys.argv[3:]
SETTLE = 0.25 # that something has not happened can only be waited for

class End: # a process on a node
    def __init__(self, node, path):
        self.path, self.n = path, 0
        self.p = subprocess.Popen([LAB, "exec", node, "-T", "--", "python3", SRC + "/pipe_end.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.got, self.new = {}, threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()
        self.wait(0, 90)
    def listen(self):
        for line in self.p.stdout:
            ident, _, text = line.rstrip("\n").partition(" ")
            with self.new:
                self.got[int(ident)] = text
                self.new.notify_all()
    def wait(self, n, t=90):
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
    def kill(self): # the process, on its node
        self.p.stdin.close() # ends it: its descriptors close, whatever its threads wait for
        self.p.wait()

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
    return t + [e.wait(i, 120) for e, i in x] + [a.do("close", "g"), b.do("close", "f"), c.do("close", "f"), a.wait(n), a.do("close", "f")]

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
    t += [e.wait(i, 120) for e, i in n]
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

CASES = [reader_first, writer_first, nonblock_writer, nonblock_reader, epipe, epipe_while_full, two_writers, second_reader, both_ways, much, records, records_here, killed_writer,
         killed_opener, several_readers, idle_reader, tokens, reader_leaves, reader_comes, end_for_all]
PLACES = [("one machine", "ws1", "ws1", "ws1", "/tmp/pipes"), ("one node", "ws1", "ws1", "ws1", "/sprite/pipes"), ("two nodes", "ws1", "ws2", "ws2", "/sprite/pipes"),
          ("three nodes", "ws1", "ws2", "ws3", "/sprite/pipes")]

def main():
    bad = False
    for case in CASES:
        if ONLY and case.__name__ not in ONLY:
            continue
        want = None
        for what, na, nb, nc, d in PLACES:
            path = "%s/%s.%s" % (d, case.__name__, what.replace(" ", "_"))
            subprocess.run([LAB, "exec", na, "-T", "--", "sh", "-c", "mkdir -p %s; rm -f %s; mkfifo %s" % (d, path, path)], check=True)
            ends = [End(n, path) for n in (na, nb, nc)]
            got = case(*ends)
            for e in ends:
                e.kill()
            if want is None:
                want = got
                continue
            if got == want:
                print("ok - %s: %s as on one machine" % (case.__name__, what), flush=True)
            else:
                bad = True
                print("not ok - %s: %s differs from one machine" % (case.__name__, what))
                print("#   wanted: %s\n#   found:  %s" % (want, got), flush=True)
    return 1 if bad else 0

sys.exit(main())
