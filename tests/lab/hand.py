# SPDX-License-Identifier: Apache-2.0
"""One end of a hand-over, for test_fs_hand.sh: commands come on stdin, one a line, and are answered by one line each ("ok ..." or the errno's name).

open PATH FLAGS | close | write TEXT | lines WHO N | read N | seek N | flock | lockf START LEN | unlink PATH | offer [shared] | cancel | size"""
import errno, fcntl, os, struct, sys

HAND = struct.Struct('QIi512s')
OFFER = 3 << 30 | HAND.size << 16 | ord('S') << 8 | 0x70
CANCEL = ord('S') << 8 | 0x71
fd = -1

def do(cmd, *a):
    global fd
    if cmd == 'open':
        fd = os.open(a[0], eval(a[1], vars(os)), 0o600)
    elif cmd == 'close':
        os.close(fd)
    elif cmd == 'write':
        return os.write(fd, a[0].encode())
    elif cmd == 'lines':
        for i in range(int(a[1])):
            line = b'%s %06d %s\n' % (a[0].encode(), i, b'.' * (i * 37 % 300))
            assert os.write(fd, line) == len(line)
    elif cmd == 'read':
        return os.pread(fd, int(a[0]), 0).decode()
    elif cmd == 'seek':
        return os.lseek(fd, int(a[0]), 0)
    elif cmd == 'flock':
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif cmd == 'lockf':
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, int(a[1]), int(a[0]))
    elif cmd == 'unlink':
        os.unlink(a[0])
    elif cmd == 'offer':
        b = bytearray(HAND.pack(os.lseek(fd, 0, 1), len(a), os.getpid(), b''))
        fcntl.ioctl(fd, OFFER, b)
        pos, flags, pid, name = HAND.unpack(b)
        return '%d %s' % (pos, name.rstrip(b'\0').decode())
    elif cmd == 'cancel':
        fcntl.ioctl(fd, CANCEL)
    elif cmd == 'size':
        return os.fstat(fd).st_size

for line in sys.stdin:
    try:
        r = do(*line.split())
        print('ok' if r is None else 'ok %s' % r, flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
