# SPDX-License-Identifier: Apache-2.0
# Names change at home while processes are away that have the files open, mapped, or work in the directories (test_move_names.sh). Each case is played twice, with a process that
# moves and with one that stays: when both are at home again they must say the same. names.py PROGRAM DIR HOST OTHER-HOST [CASE...]: prints "ok CASE", or "not ok CASE: why".
import os, shutil, subprocess, sys, threading
program, base, host, other = sys.argv[1:5]
RD, WR, RW, APPEND, CREATE, DIRECTORY, PATH = 0, 1, 2, os.O_APPEND, os.O_CREAT, os.O_DIRECTORY, os.O_PATH

few = threading.Semaphore(4)

class Run:
    def __init__(self, case, moves):
        self.dir = f"{base}/{case.name}.{'moved' if moves else 'stayed'}"
        os.makedirs(self.dir + "/d/w")
        for name, text in (("log", "begin,"), ("rd", "first"), ("lib", "library"), ("d/w/inside", "")):
            with open(f"{self.dir}/{name}", "w") as f: f.write(text)
        shutil.copy(program, self.dir + "/prog")
        self.p = subprocess.Popen([self.dir + "/prog"], cwd=self.dir + "/d/w", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.old = self.dir
    def tell(self, *lines):
        for line in lines:
            self.p.stdin.write(line.replace("@", self.old) + "\n")
            said = self.p.stdout.readline().strip()
            if said != "ok": raise RuntimeError(f"{line}: {said}")
    def look(self):
        self.p.stdin.write("look\n")
        return self.p.stdout.readline().strip().replace(self.old, "@")
    def sh(self, script):
        subprocess.run(["sh", "-ec", script], cwd=self.dir, check=True)
    def end(self):
        self.p.stdin.close()
        status, found = self.p.wait(), []
        subprocess.run(["chmod", "-R", "u+rwX", self.dir])
        for top, dirs, files in sorted(os.walk(self.dir)):
            for name in sorted(dirs): found.append(f"{top[len(self.dir):]}/{name}/")
            for name in sorted(files):
                if name not in ("prog", "prog2"): found.append(f"{top[len(self.dir):]}/{name}={open(top + '/' + name).read()}")
        return f"status {status}; " + " ".join(found)

class Case:
    all = []
    def __init__(self, name, at_home=(), away=(), change="", back=(), onward=False):
        self.name, self.at_home, self.away, self.change, self.back, self.onward = name, at_home, away, change, back, onward
        Case.all.append(self)
    def start(self):
        self.runs = [Run(self, True), Run(self, False)]
        for r in self.runs: r.tell(*self.at_home)
    def mig(self, *words):
        with few: # at a time: else a busy machine takes longer for one than migd waits for its relays
            for _ in range(5):
                r = subprocess.run(["mig", *words, str(self.runs[0].p.pid)], capture_output=True, text=True)
                if not r.returncode or "try again" not in r.stderr: break
            return r
    def move(self):
        r = self.mig("move", "-q", "-H", host)
        if r.returncode: raise RuntimeError(r.stderr.strip())
        for r in self.runs: r.tell(*self.away)
    def home(self):
        if self.onward:
            r = self.mig("move", "-q", "-H", other)
            if r.returncode: raise RuntimeError("cannot go on: " + r.stderr.strip())
            for r in self.runs: r.tell(*self.away)
        r = self.mig("home")
        if r.returncode: raise RuntimeError("cannot come home: " + r.stderr.strip())
        for r in self.runs: r.tell(*self.back)
        moved, stayed = (r.look() for r in self.runs)
        if moved != stayed: raise RuntimeError(f"\n#   moved:  {moved}\n#   stayed: {stayed}")
        moved, stayed = (r.end() for r in self.runs)
        if moved != stayed: raise RuntimeError(f"left behind\n#   moved:  {moved}\n#   stayed: {stayed}")

log = (f"open 0 @/log {RW | APPEND}", "write 0 home,")
wrote = ("write 0 away,",)
again = ("write 0 back,",)
Case("log-renamed", log, wrote, "mv log log.1", again)
Case("log-rotated", log, wrote, "mv log log.1; echo new >log", again)
Case("log-removed", log, wrote, "rm log", again)
Case("log-made-anew", log, wrote, "rm log; echo new >log", again)
Case("log-closed-to-all", log, wrote, "chmod 0 log", again)
Case("log-behind-a-closed-directory", (f"open 0 @/d/w/inside {RW | APPEND}",), wrote, "chmod 0 d", again)
Case("file-replaced", (f"open 0 @/rd {RD}",), (), "echo second >rd2; mv rd2 rd")
Case("file-by-another-name", (f"open 0 @/rd {RD}",), (), "ln rd rd2; rm rd")
Case("directory-renamed", (), (), "mv d/w d/w2")
Case("directory-removed", (), (), "rm -r d/w")
Case("directory-made-anew", (), (), "rm -r d/w; mkdir d/w")
Case("parent-renamed", log, wrote, "mv d e", again)
Case("parent-renamed-with-a-link", (f"open 0 @/d/w/inside {RW}",), wrote, "mv d e; ln -s e d", again)
Case("directory-open", (f"open 0 @/d/w {RD | DIRECTORY}", "chdir /"), (), "mv d e")
Case("directory-open-removed", (f"open 0 @/d/w {RD | DIRECTORY}", "chdir /"), (), "rm -r d")
Case("program-replaced", (), (), "cp prog prog2; mv prog2 prog")
Case("program-removed", (), (), "rm prog")
Case("library-replaced", (f"open 0 @/lib {RD}", "map 0 private", "close 0"), (), "echo another one >lib2; mv lib2 lib")
Case("shared-map-renamed", (f"open 0 @/lib {RW}", "map 0 shared", "close 0"), ("poke 0 away",), "mv lib lib2", ("poke 0 back",))
Case("shared-map-removed", (f"open 0 @/lib {RW}", "map 0 shared", f"open 1 @/lib {RD}"), ("poke 0 away",), "rm lib", ("poke 0 back",))
Case("opened-away-renamed", (), (f"open 0 @/log {RW | APPEND}", "write 0 away,"), "mv log log.1", again)
Case("opened-away-removed", (), (f"open 0 @/log {RW | APPEND}", "write 0 away,"), "rm log", again)
Case("opened-away-closed-to-all", (), (f"open 0 @/log {WR}", "write 0 away,"), "chmod 0 log", again)
Case("made-away-renamed", (), (f"open 0 @/made {RW | CREATE}", "write 0 away,"), "mv made made.1", again)
Case("gone-to-away-renamed", (), ("chdir @/d",), "mv d e")
Case("gone-to-away-removed", (), ("chdir @/d",), "rm -r d")
Case("watched-removed", ("watch @/rd",), (), "rm rd")
Case("watched-renamed", (f"open 0 @/log {RW}", "watch @/log"), (), "mv log log.1", again)
Case("path-only-renamed", (f"open 0 @/rd {PATH}",), (), "mv rd rd2")

Case("log-rotated-onward", log, wrote, "mv log log.1; echo new >log", again, onward=True)
Case("log-removed-onward", log, wrote, "rm log", again, onward=True)
Case("program-replaced-onward", (), (), "cp prog prog2; mv prog2 prog", onward=True)

def all_of(what, cases):
    failed = {}
    def one(c):
        try: getattr(c, what)()
        except Exception as e: failed[c] = e
    threads = [threading.Thread(target=one, args=(c,)) for c in cases]
    for t in threads: t.start()
    for t in threads: t.join()
    for c, e in failed.items(): print(f"not ok {c.name}: {what}: {e}")
    return [c for c in cases if c not in failed]

cases = [c for c in Case.all if len(sys.argv) < 6 or c.name in sys.argv[5:]]
for c in cases: c.start()
cases = all_of("move", cases)
for c in cases:
    for r in c.runs: r.sh(c.change)
for c in all_of("home", cases): print(f"ok {c.name}")
