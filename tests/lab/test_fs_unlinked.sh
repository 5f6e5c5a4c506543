# SPDX-License-Identifier: Apache-2.0
# lab: own
# Files that have lost their name while somebody has them open live on over kill -9 of the file server: removed by another node, by who has it open, replaced by a rename. The server keeps
# them in a directory that clients do not see, until the last of them is closed, or (with LONG=1) nobody has come back for them.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
P=/srv/sprite/.sprite-unlinked
cat >"$TMP/work.py" <<'PY'
import os, sys
def say(s): print(s, flush=True)
names = ["other", "own", "over", "twice"]
fd = {}
for n in names:
    fd[n] = os.open("/sprite/u/" + n, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd[n], b"before " + n.encode()); os.fsync(fd[n])
os.link("/sprite/u/twice", "/sprite/u/again")
os.unlink("/sprite/u/twice")
say("open"); sys.stdin.readline()
os.unlink("/sprite/u/own")
os.fsync(os.open("/sprite/u", os.O_RDONLY)) # the server knows
say("removed"); sys.stdin.readline()
for n in names:
    st = os.fstat(fd[n])
    assert st.st_nlink == (n == "twice"), (n, st.st_nlink)
    assert os.pread(fd[n], 99, 0) == b"before " + n.encode(), n
    os.pwrite(fd[n], b"after ", 0); os.fsync(fd[n])
    assert os.pread(fd[n], 99, 0) == b"after  " + n.encode(), n
try: os.link("/proc/self/fd/%d" % fd["own"], "/sprite/u/back", follow_symlinks=True); say("linked")
except OSError as e: say("went on")
sys.stdin.readline()
for n in names: os.close(fd[n])
say("closed"); sys.stdin.readline()
PY
on ws1 mkdir /sprite/u
same "the root counts the directories that are seen" 3 "$(on ws1 stat -c %h /sprite)"
mkfifo "$TMP/in"
start() { "$BIN/sprite-lab" exec ws1 -- python3 -u -c "$(cat "$TMP/work.py")" <"$TMP/in" >"$TMP/out" 2>"$TMP/err" & job=$!; exec 8>"$TMP/in"; }
said() { until_true 20 grep -q "^$1\$" "$TMP/out" || { flunk "the program says: $1"; sed 's/^/#   /' "$TMP/err"; return 1; }; }
tell() { echo >&8; }
kill_server() { lab kill fs1 spritefsd KILL; until_true 10 lab start fs1 spritefsd || flunk "the server starts again"; }
gone() { [ -z "$(on fs1 ls -A $P)" ]; }

start
said open
on ws2 rm /sprite/u/other
on ws2 sh -c 'echo new >/sprite/u/new; mv /sprite/u/new /sprite/u/over'
tell; said removed
same "three files are kept for who has them open" 3 "$(on fs1 ls $P | wc -l)"
same "nobody sees where" "hosts u" "$(sh_on ws2 'echo $(ls -A /sprite)')"
refused "nor reaches it" 2 "No such file" on ws2 ls /sprite/.sprite-unlinked
refused "nor may use its name" 1 "Permission denied" on ws2 mkdir /sprite/.sprite-unlinked
kill_server
tell; said "went on" && pass "they are read, written and have no name after kill -9 of the server"
same "another node sees what has the name now" "new" "$(on ws2 cat /sprite/u/over)"
tell; said closed
check "closed, they go at once" until_true 10 gone
tell; wait $job
exec 8>&-

[ -n "${LONG:-}" ] || finish
# Who had them open does not come back.
on ws2 rm /sprite/u/again
start
said open
on ws2 rm /sprite/u/other
tell; said removed
same "kept again" 2 "$(on fs1 ls $P | wc -l)"
lab kill ws1 sprite-holder KILL 2>/dev/null || true
lab kill ws1 spritefs KILL
kill_server
check "what nobody comes back for goes" until_true 40 gone
exec 8>&-
kill $job 2>/dev/null
finish
