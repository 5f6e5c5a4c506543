# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# What cannot be carried is named, with a remedy, by `mig explain` and by `mig move` before anything is stopped, and the process runs on; with that gone, it moves.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
cat >"$TMP/hold.py" <<'P'
# hold.py WHAT: holds it until the file WHAT.end is there, then lets go of it; counts in WHAT.n all the time
import ctypes, fcntl, mmap, os, socket, struct, sys, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
what = sys.argv[1]
def call(r):
    if r in (-1, 2**64 - 1): sys.exit(77) # not to be had here
    return r
def sys_(nr, *a): return call(libc.syscall(ctypes.c_long(nr), *[ctypes.c_long(x) if isinstance(x, int) else x for x in a]))
def area(flags, length=1 << 21): return call(libc.mmap(None, ctypes.c_size_t(length), 3, flags, -1, ctypes.c_long(0)))
def unmap(at, length=1 << 21): libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(length))
def gone(fd): return lambda: os.close(fd)
def hugetlb():
    at = area(2 | 0x20 | 0x40000 | 0x4000) # private, anonymous, huge, no reserve: never touched
    return lambda: unmap(at)
def userfaultfd():
    fd = sys_(323, 1 | os.O_CLOEXEC); at = area(2 | 0x20)
    if libc.ioctl(fd, ctypes.c_ulong(0xc018aa3f), struct.pack("QQQ", 0xaa, 0, 0)) < 0: sys.exit(77)
    if libc.ioctl(fd, ctypes.c_ulong(0xc020aa00), struct.pack("QQQQ", at, 1 << 21, 1, 0)) < 0: sys.exit(77)
    return lambda: (os.close(fd), unmap(at))
def io_uring(): return gone(sys_(425, 8, ctypes.create_string_buffer(120)))
def aio():
    ctx = ctypes.c_ulong(0); sys_(206, 8, ctypes.byref(ctx))
    return lambda: sys_(207, ctypes.c_long(ctx.value))
def netlink():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    return s.close
def deleted():
    f = tempfile.TemporaryFile(dir="."); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); m[0] = 1
    return lambda: (m.close(), f.close())
def outside():
    fd = os.pidfd_open(int(os.environ["OTHER"]))
    return gone(fd)
def fdinfo():
    fd = os.open("/proc/self/fdinfo/0", os.O_RDONLY)
    return gone(fd)
def memory():
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    return gone(fd)
def perf(): return gone(sys_(298, struct.pack("IIQQQQQ", 1, 112, 9, 0, 0, 0, 1 | 32) + bytes(64), 0, -1, -1, 0))
def locks():
    f = open("locks.file", "w+b")
    for i in range(401): fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * i)
    return f.close
def mapped_lock(): # and without a name
    f = open("mapped.file", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); fcntl.lockf(f, fcntl.LOCK_EX); os.unlink("mapped.file")
    return lambda: (m.close(), fcntl.lockf(f, fcntl.LOCK_UN))
def bound():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
    return s.close
def connected():
    l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); s = socket.create_connection(l.getsockname()); peer = l.accept()[0]; l.close()
    return lambda: (s.close(), peer.close())
let_go = globals()[what]()
n = 0
while True:
    n += 1
    open(what + ".new", "w").write(str(n)); os.rename(what + ".new", what + ".n")
    if let_go and os.path.exists(what + ".end"): let_go(); let_go = None; open(what + ".let_go", "w")
    if os.path.exists("end"): break
    time.sleep(0.02)
P
as sprite ws1 sh -c "cat >$JD/hold.py" <"$TMP/hold.py"
count() { on ws1 cat $JD/$1.n 2>/dev/null || echo 0; }
goes_on() { local a; a=$(count $1); until_true 10 eval '[ "$(count '$1')" -gt '$a' ]'; }
started() { on ws1 sh -c "[ -e $JD/$1.n ] || [ -e $JD/$1.rc ]"; }

# row WHAT WORDS
row() {
	local p
	as sprite ws1 sh -c "cd $JD; OTHER=\$\$ python3 hold.py $1 >$1.err 2>&1 </dev/null & echo \$! >$1.pid; wait \$!; echo \$? >$1.rc" </dev/null >/dev/null 2>&1 &
	until_true 10 started $1
	if on ws1 test -e $JD/$1.rc; then note "$1: not to be had here: $(on ws1 tail -n 1 $JD/$1.err)"; return; fi
	p=$(on ws1 cat $JD/$1.pid)
	refused "$1: explained" 1 "$2" mig explain $p
	refused "$1: refused in the same words" 1 "$2" mig move -H ws2 $p
	check "$1: runs on" goes_on $1
	on ws1 touch $JD/$1.end; until_true 10 on ws1 test -e $JD/$1.let_go
	check "$1: moves without" mig move -H ws2 $p
	check "$1: and runs there" goes_on $1
}
# away WHAT WORDS: likewise of what is made on a guest host, on the way home
away() {
	local p
	as sprite ws1 sh -c "cd $JD; mig run -H ws2 python3 hold.py $1 >$1.err 2>&1 </dev/null & echo \$! >$1.pid; wait \$!; echo \$? >$1.rc" </dev/null >/dev/null 2>&1 &
	until_true 10 started $1
	p=$(on ws1 cat $JD/$1.pid)
	refused "$1, away: refused" 1 "$2" mig home $p
	check "$1, away: runs on" goes_on $1
	on ws1 touch $JD/$1.end; until_true 10 on ws1 test -e $JD/$1.let_go
	check "$1, away: comes home without" mig home $p
	check "$1: and runs here" goes_on $1
}
row hugetlb 'hugetlbfs.*madvise'
row userfaultfd 'userfaultfd.*end its user'
row io_uring 'io_uring.*close it'
row aio 'io_setup.*io_destroy'
row netlink 'netlink socket.*close it'
row deleted 'file that has been deleted'
row outside 'pidfd of process [0-9]+, which stays'
row fdinfo 'fdinfo/0 shows what it has open.*close it'
row memory '/mem shows .*its memory.*close it'
row perf 'perf.*close it'
row locks 'more than 400 locks held on .*locks.file: release some'
away mapped_lock 'lock held on .*mapped.file.*unlinked and is mapped: release it'
away bound 'socket of the network that was bound away from home: close it'
away connected 'socket of the network that was (connected|bound) away from home: close it'
# a 32-bit program: pause(2) for ever, by hand
as sprite ws1 python3 - $JD/small <<'P'
import os, struct, sys
code = bytes([0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7]) # 1: mov $29, %eax; int $0x80; jmp 1b
head = b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
seg = struct.pack("<IIIIIIII", 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 4096)
open(sys.argv[1], "wb").write(head + seg + code); os.chmod(sys.argv[1], 0o755)
P
as sprite ws1 sh -c "cd $JD; ./small </dev/null >/dev/null 2>&1 & echo \$! >small.pid; wait \$!; echo \$? >small.rc" </dev/null >/dev/null 2>&1 &
until_true 10 on ws1 test -s $JD/small.pid
p=$(on ws1 cat $JD/small.pid)
if until_true 1 on ws1 sh -c "[ \"\$(cat /proc/$p/comm)\" = small ]"; then
	refused "32 bits: explained" 1 '32-bit program: use its 64-bit' mig explain $p
	refused "32 bits: refused in the same words" 1 '32-bit program: use its 64-bit' mig move -H ws2 $p
	check "32 bits: it is still there" on ws1 kill $p
else
	note "this kernel runs no 32-bit programs"
fi
# a program that its user may only execute
as sprite ws1 sh -c 'cp /bin/sleep /tmp/only; chmod 111 /tmp/only; /tmp/only 1000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/only.pid'
p=$(on ws1 cat /tmp/only.pid)
until_true 10 on ws1 sh -c "[ \"\$(cat /proc/$p/comm)\" = only ]"
refused "may be executed, not read: explained" 1 'program /tmp/only .*not read.*chmod' mig explain $p
refused "may be executed, not read: refused in the same words" 1 'program /tmp/only .*not read.*chmod' mig move -H ws2 $p
on ws1 chmod u+r /tmp/only
check "may be read: moves" mig move -H ws2 $p
on ws1 kill $p
# an object of /dev/shm that one who stays maps too; with him gone it moves (tests/move/shm.c: what it is then)
cat >"$TMP/map.py" <<'P'
import mmap, os, sys, time
fd = os.open("/dev/shm/refused", os.O_RDWR | os.O_CREAT, 0o600); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); os.close(fd)
m[0] += 1; print(os.getpid(), flush=True); time.sleep(1000)
P
as sprite ws1 sh -c "cat >/tmp/map.py" <"$TMP/map.py"
as sprite ws1 sh -c 'for i in 1 2; do python3 /tmp/map.py </dev/null >/tmp/map.$i 2>&1 & done'
until_true 10 on ws1 sh -c '[ -s /tmp/map.1 ] && [ -s /tmp/map.2 ]'
p=$(on ws1 cat /tmp/map.1) q=$(on ws1 cat /tmp/map.2)
refused "an object of /dev/shm that somebody else maps: explained" 1 "/dev/shm/refused is mapped by process $q too, which stays" mig explain $p
refused "an object of /dev/shm that somebody else maps: refused in the same words" 1 "/dev/shm/refused is mapped by process $q too" mig move -H ws2 $p
on ws1 kill $q; until_true 10 on ws1 sh -c "! kill -0 $q"
check "its alone: moves" mig move -H ws2 $p
same "with its name" "" "$(on ws1 ls /dev/shm)"
check "and back" mig home $p
same "with its name" refused "$(on ws1 ls /dev/shm)"
on ws1 sh -c "kill $p; rm /dev/shm/refused"
on ws1 touch $JD/end
check "nothing is left" until_true 20 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ]'
finish
