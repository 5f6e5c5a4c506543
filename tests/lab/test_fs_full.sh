# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 180
# A disk that fills up after write(2) has been answered: fsync(2), or close(2) when it is known by then, says so, once; what was synced before is there, and with room again all goes on. When
# there is little room write(2) says it itself. The same of names that were made without asking.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 -s 2
# a disk whose size can be changed, without using memory for that
lab kill fs2 spritefsd TERM
on fs2 mount -t tmpfs -o size=4g tmpfs /srv/sprite || skip "no tmpfs in a node"
until_true 20 lab start fs2 spritefsd || flunk "its server starts"
resize() { on fs2 mount -o remount,"$1" /srv/sprite; }
served() { on ws1 sh -c 'rm -f /sprite/fs2/try; echo 1 >/sprite/fs2/try && sync /sprite/fs2/try'; }
until_true 30 served || flunk "it is served"

cat >"$TMP/prog.py" <<'PY'
import errno, os, sys
f = "/sprite/fs2/f"
def says(call, *args):
    try:
        call(*args)
        return "0"
    except OSError as e:
        return errno.errorcode[e.errno]
def whole(data, at): # as far as it goes first, as on any file system
    while data:
        n = os.pwrite(fd, data, at)
        data, at = data[n:], at + n
def say(*what): print(*what, flush=True)
def dirty(): # the kernel is asked anew for each
    for line in open("/sprite/.sprite/leases"):
        if line.startswith("here "): return int(dict(w.split("=") for w in line.split()[1:])["dirty_bytes"])
def behind(fd): # until what is written is kept back: there is room again, and it is known here
    while True:
        os.pwrite(fd, b"-", 0)
        n = dirty()
        os.fsync(fd)
        if n: return
def until_sent():
    while dirty(): pass
fd = os.open(f, os.O_RDWR | os.O_CREAT, 0o666)
for line in sys.stdin:
    try: exec(line)
    except Exception as e: say(type(e).__name__, e)
PY
mkfifo "$TMP/in"
on ws1 python3 -c "$(cat "$TMP/prog.py")" <"$TMP/in" >"$TMP/out" 2>&1 & PROG=$!
exec 7>"$TMP/in"
asks() { local n; n=$(wc -l <"$TMP/out"); echo "$1" >&7; until_true 30 sh -c "[ \$(wc -l <$TMP/out) -gt $n ]"; tail -1 "$TMP/out"; }
full() { resize size=64k; }
room() { resize size=4g; }
first() { sh_on ws2 'head -c 8 /sprite/fs2/f'; }

same "synced while there is room" "0" "$(asks 'behind(fd); os.pwrite(fd, b"synced  " * 2048, 0); say(says(os.fsync, fd))')"
# between the answer to write(2) and the sending there is nothing but time: if the client looks at the room in between, write(2) says it, and all is made ready once more
answered() { # WHAT TO ASK
	local i said
	for i in 1 2 3 4 5; do
		room; asks 'behind(fd); say("ready")' >/dev/null; full
		said=$(asks "w = says(os.pwrite, fd, b'x' * 100000, 16384); say(w, $1)")
		case $said in "0 "*) break ;; esac
	done
	echo "$said"
}
same "a write that was answered does not fit: fsync tells it, once" "0 ENOSPC 0" "$(answered 'says(os.fsync, fd), says(os.fsync, fd)')"
same "what was synced before is there" "-ynced  " "$(first)"
same "both nodes see the same" "$(sh_on ws2 'md5sum </sprite/fs2/f')" "$(sh_on ws1 'md5sum </sprite/fs2/f')"
same "close tells what is known by then" "0 ENOSPC" "$(answered 'until_sent() or says(os.close, os.dup(fd))')"
same "with little room write says it" "ENOSPC" "$(asks 'say(says(whole, b"y" * 100000, 16384))')"
same "nothing of it is left to be told" "0 0" "$(asks 'say(says(os.fsync, fd), says(os.close, os.dup(fd)))')"
room
same "room again: it is written" "0" "$(asks 'os.pwrite(fd, b"z" * 100000, 16384); say(says(os.fsync, fd))')"
same "and with the other node" "116384 z" "$(sh_on ws2 'stat -c %s /sprite/fs2/f; tail -c 1 /sprite/fs2/f' | xargs)"

# names that are made without asking: there are no inodes left
asks 'behind(fd); os.mkdir("/sprite/fs2/d"); d = os.open("/sprite/fs2/d", os.O_RDONLY); os.fsync(d); say(len(os.listdir("/sprite/fs2/d")))' >/dev/null
asks 'os.close(os.open("/sprite/fs2/d/kept", os.O_WRONLY | os.O_CREAT)); os.fsync(d); say("kept")' >/dev/null
resize nr_inodes=$(($(on fs2 df --output=iused /srv/sprite | tail -1) + 1))
same "a file too many: its fsync says so, or the making of it" "ENOSPC" "$(asks 'say(next((r for r in (says(lambda: os.fsync(os.open("/sprite/fs2/d/f%d" % i, os.O_WRONLY | os.O_CREAT))) for i in range(3)) if r != "0"), "all made"))')"
same "what was there is there" "kept" "$(sh_on ws2 'ls /sprite/fs2/d | grep kept')"
resize nr_inodes=100k
same "room for names again" "0" "$(asks 'say(says(lambda: os.fsync(os.open("/sprite/fs2/d/later", os.O_WRONLY | os.O_CREAT))))')"
same "and with the other node" "later" "$(sh_on ws2 'ls /sprite/fs2/d | grep later')"
exec 7>&-; wait $PROG
finish
