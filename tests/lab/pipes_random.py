# SPDX-License-Identifier: Apache-2.0
# Numbered streams through a named pipe (tests/tools/fifo_stream.c) whose writers and readers have their homes on random nodes, move to random hosts and are killed.
# Every record must come: once; in order, where one process reads (who of several readers gets what is not defined); of a killed writer all up to its last one.
# With CUTS=1 links between two of the nodes are cut for a while, too (the file server stays).
# usage: pipes_random.py SPRITE-LAB SEED ROUNDS [WRITERS READERS KILLS COUNT]     prints "ok - ..." and "not ok - ..." lines
import os, random, subprocess, sys, time
LAB, SEED, ROUNDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
FIXED = [int(x) for x in sys.argv[4:]]
PROG, NODES = "/opt/sprite/tests/tools/fifo_stream", ["ws1", "ws2", "ws3"]
CUTS = os.environ.get("CUTS")
rnd = random.Random(SEED)

def lab(node, *cmd, user="sprite", **kw):
    return subprocess.run([LAB, "exec", node, "-T", "-u", user, "--", *cmd], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)

class Job:
    def __init__(self, home, d, name, cmd):
        self.home, self.base, self.killed = home, "%s/%s" % (d, name), False
        script = "cd %s; %s </dev/null >%s.out 2>&1 & echo $! >%s.n; mv %s.n %s.pid; wait $!; echo $? >%s.r; mv %s.r %s.rc" % (d, cmd, *[name] * 7)
        self.p = subprocess.Popen([LAB, "exec", home, "-T", "-u", "sprite", "--", "bash", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            over = self.over()
            if lab(home, "test", "-s", self.base + ".pid").returncode == 0:
                break
            if over:
                sys.exit("not ok - %s does not start on %s: %s" % (name, home, lab(home, "ls", "-l", d).stdout))
            time.sleep(0.05)
        self.pid = lab(home, "cat", self.base + ".pid").stdout.strip()
    def over(self):
        return self.p.poll() is not None
    def move(self, where):
        if where == self.home:
            return lab(self.home, "mig", "home", "-q", self.pid)
        return lab(self.home, "mig", "move", "-q", "-H", where, self.pid)
    def rc(self):
        return lab(self.home, "cat", self.base + ".rc").stdout.strip()

def round_run(n):
    writers, readers, kills, count = FIXED if FIXED else (rnd.randint(1, 3), rnd.randint(1, 3), rnd.randint(0, 1), rnd.choice([20000, 60000, 200000]))
    d = "/sprite/random.%d.%d" % (os.getpid(), n)
    r = lab("ws1", "sh", "-c", "mkdir %s && mkfifo %s/f" % (d, d))
    if r.returncode:
        sys.exit("not ok - %s: %s" % (d, r.stdout))
    gap = int(os.environ.get("GAP", rnd.choice([0, 0, 20, 100])))
    if gap:
        count = min(count, 40000)
    jobs = {}
    for i in range(readers):
        jobs["r%d" % i] = Job(rnd.choice(NODES), d, "r%d" % i, "%s r f log.%d" % (PROG, i))
    keeper = Job("ws1", d, "keeper", "sh -c 'exec 9>f; echo open; exec sleep 1000'") # until the last writer has come in
    for i in range(writers):
        jobs["w%d" % i] = Job(rnd.choice(NODES), d, "w%d" % i, "%s w f w%d %d 512 %d" % (PROG, i, count, gap))
    moves, cuts, refused, end = 0, 0, [], time.time() + 300
    while not all(j.over() for j in jobs.values()) and time.time() < end:
        if not keeper.killed and all(j.over() for k, j in jobs.items() if k[0] == "w"):
            keeper.killed = True
            lab("ws1", "kill", keeper.pid)
        if os.environ.get("STAY"): # to tell what moves break from what was broken
            time.sleep(0.1)
            continue
        name = rnd.choice([k for k in jobs if not jobs[k].over()] or list(jobs))
        j = jobs[name]
        if kills and moves > 3 and name[0] == "w" and rnd.random() < 0.3:
            kills, j.killed = kills - 1, True
            lab(j.home, "kill", "-9", j.pid)
            continue
        if CUTS and rnd.random() < 0.2:
            cut = rnd.sample(NODES, 2)
            subprocess.run([LAB, "cut", *cut], check=True)
            cuts += 1
            time.sleep(rnd.choice([0.1, 1, 5])) # the last one is noticed
            subprocess.run([LAB, "heal", *cut], check=True)
            continue
        r = j.move(rnd.choice(NODES))
        moves += r.returncode == 0
        if r.returncode and not j.over() and "is at home" not in r.stdout and " on ws" not in r.stdout and "no process" not in r.stdout:
            refused.append(r.stdout.strip())
    bad = []
    for k, j in jobs.items():
        if not j.over():
            bad.append("%s (%s on %s) is not over" % (k, j.pid, j.home))
        elif j.killed and j.rc() == "0":
            j.killed = False # it had ended before
        elif j.rc() != ("137" if j.killed else "0"):
            bad.append("%s ends with %s: %s" % (k, j.rc(), lab(j.home, "cat", j.base + ".out").stdout[:200]))
    seen = {}
    for i in range(readers):
        for line in lab("ws1", "cat", "%s/log.%d" % (d, i)).stdout.splitlines():
            name, _, seq = line.partition(" ")
            if name != "end":
                seen.setdefault(name, []).append(int(seq))
    for i in range(writers):
        got = seen.get("w%d" % i, [])
        if readers == 1 and got != sorted(got):
            at = next(x for x in range(1, len(got)) if got[x] < got[x - 1])
            bad.append("w%d: %d comes behind %d" % (i, got[at], got[at - 1]))
        if sorted(got) != list(range(len(got))) or (len(got) != count and not jobs["w%d" % i].killed):
            bad.append("w%d: %d records of %d, %d different, highest %d" % (i, len(got), count, len(set(got)), max(got, default=-1)))
    what = "round %d (seed %d): %d writers, %d readers, %d records each, %d moves%s%s" % (n, SEED, writers, readers, count, moves, ", %d cuts" % cuts if CUTS else "", ", one killed" if any(j.killed for j in jobs.values()) else "")
    if bad:
        print("not ok - %s\n#   %s" % (what, "\n#   ".join(bad + refused[:3])), flush=True)
    else:
        print("ok - %s%s" % (what, "".join("\n#   refused: " + x for x in refused[:1])), flush=True)
    for j in [keeper, *jobs.values()]:
        if not j.over():
            lab(j.home, "kill", "-9", j.pid)
    lab("ws1", "rm", "-rf", d)
    return not bad

sys.exit(0 if all([round_run(n) for n in range(ROUNDS)]) else 1)
