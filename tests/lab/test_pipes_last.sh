# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# Who opens a named pipe on its last reader's node finds nothing that nobody has read, though that node's agent hears in this order: of the opener, that no writer is left, that no reader is left. It
# keeps the pipe then, for who is on the way in. (It is held while all three happen.)
. "$(dirname "$0")/lib.sh"
lab_up -n 2 --bind "$HERE:/opt/sprite/lab"
F=/tmp/fault
on ws1 sh -c "mkdir $F && mkfifo /sprite/f /sprite/g"
lab kill ws1 spritefs TERM; until_true 20 lab start ws1 spritefs SPRITE_FAULT=$F || flunk "spritefs starts"
until_true 20 on ws1 test -p /sprite/f
cat >"$TMP/drive" <<'PY'
import subprocess, sys, time
def on(node, *a):
    return [sys.argv[1], "exec", node, "-T", "--", *a]
class End:
    def __init__(self, node):
        self.p = subprocess.Popen(on(node, "python3", "/opt/sprite/lab/pipe_end.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()
    def answer(self):
        return self.p.stdout.readline().rstrip("\n").partition(" ")[2]
    def start(self, what):
        self.p.stdin.write("1 %s\n" % what)
        self.p.stdin.flush()
    def do(self, what):
        self.start(what)
        return self.answer()
def hold(step):
    subprocess.run(on("ws1", "sh", "-c", "echo hold >/tmp/fault/" + step), check=True)
def held(step):
    while subprocess.run(on("ws1", "test", "-e", "/tmp/fault/%s.held" % step)).returncode:
        time.sleep(0.01)
def go(step):
    subprocess.run(on("ws1", "rm", "/tmp/fault/%s.held" % step), check=True)
a, b, other = End("ws1"), End("ws2"), End("ws1")
for i in range(5):
    a.start("open f /sprite/f r")
    said = [b.do("open f /sprite/f w"), a.answer(), b.do("write f abcdef"), a.do("readn f 3")]
    hold("pipe-mail")
    other.start("open g /sprite/g r n")
    held("pipe-mail")
    hold("pipe-heard")
    said += [b.do("close f")]
    held("pipe-heard")
    said += [a.do("close f")]
    a.start("open f /sprite/f r n")
    time.sleep(0.3) # its question comes first; if it does not, there is nothing to see
    go("pipe-heard")
    time.sleep(0.3) # likewise
    go("pipe-mail")
    print(*said, a.answer(), a.do("read f 9"), a.do("close f"), other.answer(), other.do("close g"), sep=",")
for e in a, b, other:
    e.p.stdin.close()
PY
same "five times nothing" "5 ok,ok,wrote 6,data abc,ok,ok,ok,data ,ok,ok,ok" "$(timeout 150 python3 "$TMP/drive" "$BIN/sprite-lab" | sort | uniq -c | sed 's/^ *//')"
finish
