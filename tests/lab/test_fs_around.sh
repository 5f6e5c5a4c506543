# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Small reads at random fetch what is around them, once; and what was fetched so is never shown after a change, of another node or of our own.
. "$(dirname "$0")/lib.sh"
D=/sprite/around.$$
on ws1 mkdir -m 777 $D || { flunk "mkdir in /sprite"; finish; }
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT
cat >"$TMP/around.py" <<'PY'
import json, os, random, socket, sys
P = 4096
def reads():
    s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b'{"verb":"status"}\n')
    return json.loads(s.makefile().readline())["ops"].get("Read", {"calls": 0})["calls"]
def say(ok, what): print(("ok - " if ok else "not ok - ") + what, flush=True)
def turn(): print("turn", flush=True); sys.stdin.readline() # the other node's
def page(fd, n): # as it is asked of spritefs: the kernel neither has it nor reads ahead
    os.posix_fadvise(fd, n * P, P, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, P, n * P)
f = os.open(sys.argv[1], os.O_RDWR)
os.posix_fadvise(f, 0, 0, os.POSIX_FADV_RANDOM)
order = list(range(256)); random.shuffle(order)
a = reads()
good = all(os.pread(f, P, n * P) == b"%04d" % n * (P // 4) for n in order)
n = reads() - a
say(good, "a MiB in pages at random")
say(n <= 16, "one call for each 64 KiB: %d" % n)
# what is fetched around page k, and then changed: each is looked at through a block that was fetched before
def step(what, change, k, want, there=True):
    if there: page(f, k + 1)
    change(); page(f, 128) # elsewhere: which brings the lease back
    say(page(f, k) == want, what)
step("a page that another node has written", turn, 0, b"w" * P)
step("the end that another node has cut off", turn, 240, b"")
step("a page that we wrote", lambda: (os.pwrite(f, b"o" * P, 32 * P), os.fsync(f)), 32, b"o" * P)
step("a page that we write", lambda: os.pwrite(f, b"p" * P, 32 * P), 32, b"p" * P)
step("a hole", lambda: __import__("ctypes").CDLL(None).fallocate(f, 3, __import__("ctypes").c_int64(48 * P), __import__("ctypes").c_int64(P)), 48, bytes(P))
step("what was copied there", lambda: os.copy_file_range(f, f, P, 32 * P, 64 * P), 64, b"p" * P)
step("what is beyond the end that we set", lambda: (os.ftruncate(f, 80 * P), os.ftruncate(f, 90 * P)), 80, bytes(P))
g = os.open(sys.argv[1], os.O_RDWR | os.O_TRUNC)
say(page(f, 1) == b"", "nothing is left of what was emptied")
PY
sh_on ws2 "python3 -c 'for n in range(256): print(\"%04d\" % n * 1024, end=\"\")' >$D/f"
coproc A { "$BIN/sprite-lab" exec ws1 -- python3 -c "$(cat "$TMP/around.py")" $D/f; }
exec {from}<&"${A[0]}" {to}>&"${A[1]}" # bash forgets A when it has ended
turns=0
while read -r -u $from line; do
	case $line in
	turn)	turns=$((turns + 1))
		if [ $turns = 1 ]; then sh_on ws2 "head -c 4096 /dev/zero | tr '\0' w | dd of=$D/f conv=notrunc status=none"; else sh_on ws2 "truncate -s $((240 * 4096)) $D/f"; fi
		echo >&$to ;;
	"not ok"*) echo "$line"; FAILED=1 ;;
	*)	echo "$line" ;;
	esac
done
wait $! || flunk "all of it was looked at"
finish
