#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""holder_load.py KIND DIR STOPFILE: works in DIR until STOPFILE is there, and fails when anything is not as on a disk of its own.

Every kind keeps what it expects in its own memory, so that an operation lost or done twice shows: `append` one file held open; `names` mkdir, create with
O_EXCL, link, rename, unlink, rmdir; `pages` random writes and reads of one file, by descriptor and by mapping; `counter` a number under a lock, shared
with other nodes (prints how often it counted); `unlinked` a file without a name; `small` files made, looked at and removed at once, beside others who do
that in the same directory and go there by its path."""
import fcntl, hashlib, mmap, os, random, sys

kind, where, stop = sys.argv[1:]
os.makedirs(where, exist_ok=True)
os.chdir(where)
rnd = random.Random(os.getpid())
going = lambda: not os.path.exists(stop)

def fail(*what):
    print(kind, *what, flush=True)
    sys.exit(1)

def append():
    n = 0
    fd = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    other = os.open('log', os.O_WRONLY | os.O_APPEND)
    while going():
        for _ in range(50):
            line = b'%08d %s\n' % (n, b'x' * rnd.randrange(200))
            if os.write(rnd.choice((fd, other)), line) != len(line):
                fail('short write')
            n += 1
        if rnd.random() < 0.05:
            os.fsync(fd)
    os.close(fd)
    os.close(other)
    for i, line in enumerate(open('log', 'rb')):
        if int(line[:8]) != i:
            fail('line', i, 'is', line[:40])
    if i + 1 != n:
        fail(n, 'lines written,', i + 1, 'there')
    return n

def names():
    n = 0
    while going():
        a, b, f = 'a%d' % n, 'b%d' % n, 'f%d' % n
        os.mkdir(a)
        fd = os.open(a + '/new', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.write(fd, b'%d' % n)
        os.link(a + '/new', a + '/twin')
        os.rename(a, b)
        if os.fstat(fd).st_nlink != 2 or os.pread(fd, 20, 0) != b'%d' % n:
            fail('round', n, os.fstat(fd))
        os.unlink(b + '/new')
        os.symlink('twin', b + '/s')
        os.rename(b + '/twin', f)
        if os.path.lexists(b + '/twin') or os.path.exists(b + '/s') or open(f).read() != '%d' % n:
            fail('round', n, 'names')
        os.close(fd)
        if sorted(os.listdir(b)) != ['s']:
            fail('round', n, os.listdir(b))
        os.unlink(b + '/s')
        os.rmdir(b)
        os.unlink(f)
        n += 1
    if os.listdir('.'):
        fail('left', os.listdir('.'))
    return n

def pages():
    size, n = 1 << 20, 0
    model = bytearray(size)
    fd = os.open('data', os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, size)
    while going():
        at = rnd.randrange(size)
        data = rnd.randbytes(min(size - at, rnd.choice((1, 100, 5000, 70000, 400000))))
        os.pwrite(fd, data, at)
        model[at:at + len(data)] = data
        at = rnd.randrange(size)
        want = min(size - at, rnd.choice((10, 8192, 200000)))
        if os.pread(fd, want, at) != model[at:at + want]:
            fail('read', n, at, want)
        if n % 50 == 49:
            os.fsync(fd)
        if n % 20 == 19:
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as m:
                if m[at:at + want] != model[at:at + want]:
                    fail('map', n, at, want)
        n += 1
    os.close(fd)
    if hashlib.sha1(open('data', 'rb').read()).digest() != hashlib.sha1(model).digest():
        fail('end')
    return n

def counter():
    n = 0
    fd = os.open('counter', os.O_RDWR | os.O_CREAT, 0o666)
    while going():
        (fcntl.lockf if n % 2 else fcntl.flock)(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        v = int(os.pread(fd, 20, 0) or b'0')
        os.pwrite(fd, b'%d' % (v + 1), 0)
        fcntl.lockf(fd, fcntl.LOCK_UN)
        if not n % 2:
            fcntl.flock(fd, fcntl.LOCK_UN)
        n += 1
    return n

def unlinked():
    n = 0
    fd = os.open('gone', os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink('gone')
    while going():
        os.pwrite(fd, b'%08d' % n, n % 1000 * 8)
        if os.pread(fd, 8, n % 1000 * 8) != b'%08d' % n:
            fail('round', n)
        n += 1
    if os.fstat(fd).st_size != min(n, 1000) * 8:
        fail('size', os.fstat(fd))
    return n

def small():
    n = 0
    me = '%s/s%d' % (where, os.getpid())
    while going():
        try:
            for _ in range(5):
                os.getcwd()
            os.stat(where)
            os.close(os.open(me, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            os.stat(me)
            os.unlink(me)
            if os.path.lexists(me):
                fail('round', n, 'still there')
        except OSError as e:
            fail('round', n, repr(e))
        n += 1
    return n

print(kind, {'append': append, 'names': names, 'pages': pages, 'counter': counter, 'unlinked': unlinked, 'small': small}[kind](), flush=True)
