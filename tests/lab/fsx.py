#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# One file, changed in every way by two nodes, against a model in memory.
#   fsx.py turns DIR SEED    by turns: a line "K" on stdin does step K here or, when it is the other node's, only in the model; answers "ok"; "end" ends it
#   fsx.py both DIR WHO N    at once: each node has every second block of the file to itself and reads all; ends with what it has written
# The steps follow from the seed, so both nodes have the same model and each byte that is read is compared.
import ctypes, mmap, os, random, sys

MAX, BLOCK = 200000, 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

def fallocate(fd, mode, off, n):
    if libc.fallocate(fd, mode, off, n): raise OSError(ctypes.get_errno(), "fallocate")

class File:
    """The real one, or none (the other node's turn): what is done to the model is done to both."""
    def __init__(self, path):
        self.path, self.model = path, bytearray()
        self.fd, self.map = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), None

    def reopen(self, flags=0):
        if self.map: self.map.close(); self.map = None
        os.close(self.fd); self.fd = os.open(self.path, os.O_RDWR | flags)

    def put(self, off, data):
        m = self.model
        if len(m) < off: m.extend(bytes(off - len(m)))
        m[off:off + len(data)] = data

    def same(self, off, n, found, how):
        want = bytes(self.model[off:off + n])
        if found == want: return
        at = next((i for i in range(min(len(want), len(found))) if want[i] != found[i]), min(len(want), len(found)))
        raise SystemExit(f"{how}: {len(found)} bytes for {len(want)} at {off}; the first that differs at {off + at}: {found[at:at+8].hex()} for {want[at:at+8].hex()}")

    def step(self, r, mine):
        op, size = r.choice(OPS), len(self.model)
        off, n, b = r.randrange(MAX), 1 + r.randrange(r.choice((10, 5000, 70000))), r.randrange(256)
        data = bytes((b + i) & 255 for i in range(n))
        if op == "read":
            if mine: self.same(off % (size + 1), n, os.pread(self.fd, n, off % (size + 1)), op)
        elif op == "whole":
            if mine:
                self.same(0, MAX * 2, open(self.path, "rb").read(), op)
                if os.stat(self.path).st_size != size: raise SystemExit(f"size {os.stat(self.path).st_size} for {size}")
        elif op == "write":
            if mine and os.pwrite(self.fd, data, off) != n: raise SystemExit("short write")
            self.put(off, data)
        elif op == "append" and size < MAX:
            if mine:
                fd = os.open(self.path, os.O_WRONLY | os.O_APPEND); os.write(fd, data); os.close(fd)
            self.put(size, data)
        elif op == "truncate":
            if mine: os.ftruncate(self.fd, off)
            self.model[off:] = bytes(max(0, off - size))
        elif op in ("mapread", "mapwrite") and size:
            off, write = off % size, op == "mapwrite"
            n = min(n, size - off)
            if mine:
                if not self.map or len(self.map) != size:
                    if self.map: self.map.close()
                    self.map = mmap.mmap(self.fd, size)
                if write: self.map[off:off + n] = data[:n]; self.map.flush()
                else: self.same(off, n, self.map[off:off + n], op)
            if write: self.put(off, data[:n])
        elif op == "punch" and size:
            off %= size
            if mine: fallocate(self.fd, 3, off, n)
            n = min(n, size - off); self.model[off:off + n] = bytes(n)
        elif op == "zero":
            if mine: fallocate(self.fd, 16, off, n)
            self.put(off, bytes(n))
        elif op == "copy" and size:
            src, n = r.randrange(size), min(n, MAX // 4)
            n = min(n, size - src)
            if not (src < off + n and off < src + n):
                done = 0
                if mine: os.fstat(self.fd)  # as cp does: the kernel compares with the size that it was told last, whoever has made the file longer since
                while mine and done < n:
                    got = os.copy_file_range(self.fd, self.fd, n - done, src + done, off + done)
                    if not got: raise SystemExit(f"copy: an end at {src + done} of {size}")
                    done += got
                self.put(off, bytes(self.model[src:src + n]))
        elif op == "rename":
            if mine:
                with open(self.path + ".new", "wb") as f: f.write(bytes(self.model))
                os.rename(self.path + ".new", self.path)
        elif op == "hole" and size:
            if mine:
                end = os.lseek(self.fd, off % size, os.SEEK_HOLE)
                if not off % size <= end <= size: raise SystemExit(f"a hole at {end} behind {off % size}")
        elif op == "small" and size: # pages that the kernel has not, so that they are asked of spritefs, one by one
            if mine: os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
            for at in (off, off + 9000, off + 5000, off + 70000):
                at = at % size // BLOCK * BLOCK
                if mine: os.posix_fadvise(self.fd, at, BLOCK, os.POSIX_FADV_DONTNEED); self.same(at, BLOCK, os.pread(self.fd, BLOCK, at), op)
            if mine: os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_NORMAL)
        elif op == "sync":
            if mine: os.fsync(self.fd)
        if op in ("reopen", "rename"): self.reopen()  # after a rename both must

OPS = ["read", "small"] * 4 + ["whole"] * 2 + ["write"] * 4 + ["append", "append", "truncate", "mapread", "mapread", "mapwrite", "punch", "zero", "copy", "rename", "hole", "sync", "reopen"]

def turns(where, seed):
    f, r = File(where + "/fsx"), random.Random(seed)
    who = int(os.environ["WHO"])
    print("ok", flush=True)
    for line in iter(sys.stdin.readline, "end\n"):
        f.step(r, int(line) % 2 == who)
        print("ok", flush=True)

def both(where, who, n):
    r, fd, last = random.Random(who), os.open(where + "/both", os.O_RDWR | os.O_CREAT, 0o666), {}
    m = None
    for i in range(n):
        k = r.randrange(32) * 2 + who
        data = f"{who}.{i}.".encode().ljust(16, b"-") * (BLOCK // 16)
        if r.random() < .3:
            if m is None: os.ftruncate(fd, max(os.fstat(fd).st_size, 64 * BLOCK)); m = mmap.mmap(fd, 64 * BLOCK)
            m[k * BLOCK:(k + 1) * BLOCK] = data; m.flush()
        else: os.pwrite(fd, data, k * BLOCK)
        last[k] = data
        k = r.choice(list(last))
        found = os.pread(fd, BLOCK, k * BLOCK)
        if found != last[k]: raise SystemExit(f"step {i}: block {k} reads {found[:16]} for {last[k][:16]}")
        k = r.randrange(64)
        found = os.pread(fd, BLOCK, k * BLOCK)
        if found and found[:16] * (len(found) // 16) != found: raise SystemExit(f"step {i}: block {k} is torn: {found[:16]} ... {found[-16:]}")
    os.fsync(fd)
    print("\n".join(f"{k} {d[:16].decode()}" for k, d in sorted(last.items())))

if sys.argv[1] == "turns": turns(sys.argv[2], int(sys.argv[3]))
else: both(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
