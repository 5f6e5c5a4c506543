# SPDX-License-Identifier: Apache-2.0
# lab: shared
# /sprite is a real file system for programs: the operations, their results and their errors, compared with those of a local tmpfs or ext4.
. "$(dirname "$0")/lib.sh"
D=/sprite/ops.$$
on ws1 mkdir $D && on fs1 chmod 1777 /srv$D || { flunk "mkdir in /sprite"; finish; }
trap 'on ws1 rm -rf $D; on ws1 rm -rf /tmp/ops; rm -rf "$TMP"' EXIT

# One program, run on /sprite and on a local directory: its output must be the same.
cat >"$TMP/ops.py" <<'PY'
import ctypes, errno, fcntl, os, stat, sys
root = sys.argv[1]; os.chdir(root)
libc = ctypes.CDLL(None, use_errno=True)
def say(what, *v): print(what, *v)
def err(what, fn, *a, **k):
    try: r = fn(*a, **k); say(what, "ok", r if isinstance(r, (int, str, bytes)) else "")
    except OSError as e: say(what, errno.errorcode[e.errno])
def mode(p): return oct(os.lstat(p).st_mode)
os.umask(0o022)
# files
fd = os.open("a", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666); say("create", mode("a"))
err("create again excl", os.open, "a", os.O_CREAT | os.O_EXCL)
say("write", os.write(fd, b"hello world")); say("pread", os.pread(fd, 5, 6)); say("size", os.fstat(fd).st_size)
say("lseek", os.lseek(fd, 0, os.SEEK_END)); os.pwrite(fd, b"X", 1 << 20); say("sparse", os.fstat(fd).st_size, os.pread(fd, 3, 1000000))
os.ftruncate(fd, 4); say("truncated", os.pread(fd, 100, 0)); os.ftruncate(fd, 10); say("grown", os.pread(fd, 100, 0))
os.fsync(fd); os.fdatasync(fd); err("pwritev", os.pwritev, fd, [b"ab", b"cd"], 2); say("preadv", os.pread(fd, 10, 0))
err("fallocate", os.posix_fallocate, fd, 0, 100000); say("after", os.fstat(fd).st_size)
os.pwrite(fd, b"z" * 8192, 0); err("punch", lambda: libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096)) and (_ for _ in ()).throw(OSError(ctypes.get_errno(), ""))); say("hole", os.pread(fd, 2, 100), os.pread(fd, 2, 5000))
g = os.open("copy", os.O_RDWR | os.O_CREAT); say("copy_file_range", os.copy_file_range(fd, g, 5000, 4096, 0), os.pread(g, 4, 0)); os.close(g)
os.close(fd); fd = os.open("a", os.O_WRONLY | os.O_TRUNC); say("trunc", os.fstat(fd).st_size); err("read of wronly", os.read, fd, 1); os.close(fd)
fd = os.open("a", os.O_RDONLY); err("write of rdonly", os.write, fd, b"x"); os.close(fd)
fd = os.open("a", os.O_WRONLY | os.O_APPEND); os.write(fd, b"one"); os.lseek(fd, 0, 0); os.write(fd, b"two"); os.close(fd); say("append", open("a").read())
err("open missing", os.open, "missing", os.O_RDONLY); err("open through file", os.open, "a/b", os.O_RDONLY); err("unlink missing", os.unlink, "missing")
# names
os.mkdir("d", 0o700); say("mkdir", mode("d"), os.stat("d").st_nlink); err("mkdir again", os.mkdir, "d"); err("unlink dir", os.unlink, "d"); err("rmdir file", os.rmdir, "a")
open("d/x", "w").write("x"); err("rmdir full", os.rmdir, "d"); os.link("a", "d/l"); say("link", os.stat("a").st_nlink, os.path.samefile("a", "d/l")); err("link again", os.link, "a", "d/l"); err("link dir", os.link, "d", "d2")
os.symlink("a" * 3000, "long"); say("symlink", len(os.readlink("long")), oct(os.lstat("long").st_mode)); os.symlink("loop", "loop"); err("loop", os.open, "loop", os.O_RDONLY); err("nofollow", os.open, "loop", os.O_RDONLY | os.O_NOFOLLOW)
os.rename("d/x", "d/y"); err("rename missing", os.rename, "missing", "q"); err("rename file on dir", os.rename, "a", "d"); err("rename dir on file", os.rename, "d", "a"); os.mkdir("e"); err("rename dir on empty dir", os.rename, "e", "e2"); err("rename into itself", os.rename, "d", "d/sub")
os.mkdir("f"); err("rename dir on full dir", os.rename, "f", "d")
def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags): raise OSError(ctypes.get_errno(), "")
err("noreplace", renameat2, "a", "d/y", 1); open("p", "w").write("p"); open("q", "w").write("q"); err("exchange", renameat2, "p", "q", 2); say("exchanged", open("p").read(), open("q").read())
n = "n" * 255; open(n, "w").close(); say("255", n in os.listdir(".")); err("256", open, "n" * 256, "w"); err("path too long", os.stat, "x/" * 2100)
for weird in ("sp ace", "new\nline", "\xe9t\xe9", "-rf", "..."): open(weird, "w").close()
say("weird", sorted(os.listdir("."))[:6]); err("rm weird", os.unlink, "new\nline")
# directory of many
os.mkdir("many"); [open("many/%d" % i, "w").close() for i in range(1500)]; say("many", len(os.listdir("many")), len(set(os.listdir("many"))))
with os.scandir("many") as it:
    seen = [next(it).name for _ in range(10)]; [os.unlink("many/%d" % i) for i in range(0, 1500, 2)]; seen += [x.name for x in it]
say("removal while reading", len(seen) == len(set(seen)), {str(i) for i in range(1, 1500, 2)} <= set(seen)); say("dtype", next(os.scandir("many")).is_file())
# unlinked and open
fd = os.open("gone", os.O_RDWR | os.O_CREAT); os.write(fd, b"still"); os.unlink("gone"); say("unlinked", os.pread(fd, 10, 0), os.fstat(fd).st_nlink); os.write(fd, b" here"); say(os.pread(fd, 20, 0)); err("gone", os.stat, "gone"); os.fchmod(fd, 0o400); say(oct(os.fstat(fd).st_mode)); os.close(fd)
# attributes
os.chmod("a", 0o4751); say("chmod", mode("a")); os.utime("a", ns=(123456789012345678, 987654321098765432)); s = os.stat("a"); say("utime", s.st_atime_ns, s.st_mtime_ns)
open("a", "a").write("!"); say("mtime moves", os.stat("a").st_mtime_ns > 987654321098765432); say("access", os.access("a", os.W_OK), os.access("missing", 0))
if os.getuid() == 0: os.chown("a", 1000, 1001); say("chown", os.stat("a").st_uid, os.stat("a").st_gid, mode("a")); os.mknod("fifo", stat.S_IFIFO | 0o644); say("fifo", stat.S_ISFIFO(os.stat("fifo").st_mode)); os.mknod("nul", stat.S_IFCHR | 0o666, os.makedev(1, 3)); say("device", os.stat("nul").st_rdev)
err("setxattr", os.setxattr, "a", "user.k", b"v" * 1000); say("xattr", len(os.getxattr("a", "user.k")), os.listxattr("a")); err("xattr create", os.setxattr, "a", "user.k", b"", os.XATTR_CREATE); os.removexattr("a", "user.k"); err("xattr gone", os.getxattr, "a", "user.k")
v = os.statvfs("."); say("statvfs", v.f_bsize > 0, v.f_blocks > 0, v.f_namemax)
# mmap, locks
import mmap
fd = os.open("m", os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 8192); m = mmap.mmap(fd, 8192); m[4095:4097] = b"mm"; m.flush(); say("mmap", os.pread(fd, 2, 4095)); os.pwrite(fd, b"WW", 0); say("mmap sees write", m[0:2]); m.close()
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
if os.fork() == 0:
    g = os.open("m", os.O_RDWR); err("lock held", fcntl.lockf, g, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5); err("lock beside", fcntl.lockf, g, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10); sys.stdout.flush(); os._exit(0)
os.wait(); fcntl.flock(fd, fcntl.LOCK_EX); g = os.open("m", os.O_RDONLY); err("flock held", fcntl.flock, g, fcntl.LOCK_SH | fcntl.LOCK_NB); os.close(fd); err("flock free", fcntl.flock, g, fcntl.LOCK_SH | fcntl.LOCK_NB); os.close(g)
# exec
open("prog", "w").write("#!/bin/sh\necho ran $0\n"); err("exec no x", os.execl, "prog", "prog"); os.chmod("prog", 0o755); sys.stdout.flush(); os.system("./prog")
os.mkdir("sg"); os.chmod("sg", 0o2775)
if os.getuid() == 0: os.chown("sg", 0, 1001); os.chmod("sg", 0o2775); open("sg/f", "w").close(); os.mkdir("sg/d"); say("setgid dir", os.stat("sg/f").st_gid, mode("sg/d"))
PY
for user in root sprite; do
	as $user ws1 sh -c "rm -rf /tmp/ops; mkdir /tmp/ops; cat >/tmp/ops.py; chmod 644 /tmp/ops.py" <"$TMP/ops.py"
	as $user ws1 sh -c "mkdir $D/$user"
	as $user ws1 sh -c "python3 /tmp/ops.py /tmp/ops 2>&1" >"$TMP/local"
	as $user ws1 sh -c "python3 /tmp/ops.py $D/$user 2>&1" >"$TMP/sprite"
	on ws1 rm -rf /tmp/ops /tmp/ops.py
	if [ "$(wc -l <"$TMP/local")" -lt 60 ]; then note "$(tail -3 "$TMP/local")"; fi
	check "$user: the local run is whole" test "$(wc -l <"$TMP/local")" -ge 60
	while IFS= read -r d; do
		case $d in "<"*) note "local:  ${d#< }" ;; ">"*) note "sprite: ${d#> }" ;; esac
	done < <(diff "$TMP/local" "$TMP/sprite")
	check "$user: $(wc -l <"$TMP/local") results of file operations are those of a local file system" cmp -s "$TMP/local" "$TMP/sprite"
done

# permissions of others
as sprite ws1 sh -c "cd $D; umask 077; echo secret >secret; mkdir closed; echo x >closed/x; chmod 644 closed/x"
refused "another user cannot read it" 1 'Permission denied' as guest ws2 cat $D/secret
refused "nor pass a closed directory" 1 'Permission denied' as guest ws2 cat $D/closed/x
refused "nor remove it from a sticky directory" 1 'not permitted|denied' as guest ws2 rm -f $D/secret
refused "nor change its mode" 1 'not permitted' as guest ws2 chmod 777 $D/secret
same "a supplementary group counts" ok "$(sh_on ws1 "echo g >$D/grp; chown 0:1002 $D/grp; chmod 640 $D/grp"; as guest ws2 sh -c "grep -q g $D/grp && echo ok")"
# of capabilities the server knows nothing: what it will refuse is not answered before it was asked
sh_on ws1 "mkdir -m 755 $D/cap; echo 1 >$D/cap/a; ls $D/cap" >/dev/null
refused "CAP_DAC_OVERRIDE without root makes no name" 1 'Permission denied' sh_on ws1 "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +dac_override --ambient-caps +dac_override touch $D/cap/b"
refused "nor does CAP_FOWNER take one out of a sticky directory" 1 'not permitted|denied' sh_on ws1 "chmod 1777 $D/cap; sync $D/cap; ls $D/cap >/dev/null; setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +fowner --ambient-caps +fowner rm -f $D/cap/a"
# close(2) gives a lock up, also when other threads keep those busy who are told of it
check "a flock is free when its file has been closed, 200 times" on ws1 python3 - $D <<'PY'
import fcntl, os, sys, threading
path = sys.argv[1] + "/flock"
open(path, "w").close()
over = False
def noise(n):
    while not over: os.close(os.open("%s.%d" % (path, n), os.O_WRONLY | os.O_CREAT))
others = [threading.Thread(target=noise, args=(n,)) for n in range(3)]
for t in others: t.start()
try:
    for i in range(200):
        a, b = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
        fcntl.flock(a, fcntl.LOCK_EX)
        os.close(a)
        fcntl.flock(b, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(b)
finally: over = True
PY
# programs
check "tar there and back" sh_on ws1 "tar cf - -C /usr/share/doc/ bash | tar xf - -C $D && diff -r --no-dereference /usr/share/doc/bash $D/bash"
check "another node finds the same tree" sh_on ws3 "diff -r --no-dereference /usr/share/doc/bash $D/bash"
check "10 MB of random bytes, written here, read there" eval '[ "$(sh_on ws1 "head -c 10M /dev/urandom | tee $D/rnd | sha1sum")" = "$(sh_on ws2 "sha1sum <$D/rnd")" ]'
check "df shows the server's disk" sh_on ws1 "df -P $D | awk 'NR == 2 && \$2 > 0 { ok = 1 } END { exit !ok }'"
finish
