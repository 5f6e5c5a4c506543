# SPDX-License-Identifier: Apache-2.0
# lab: shared
# O_DIRECT: what is written so is what every node reads at once, cached or not, and the other way round; aligned or not; appended by two nodes at once, each record is there once.
. "$(dirname "$0")/lib.sh"
D=/sprite/direct.$$
on ws1 mkdir -m 777 $D
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT
cat >"$TMP/direct.py" <<'PY'
import mmap, os, sys
def aligned(data): # whole pages, as open(2) asks for it elsewhere
    m = mmap.mmap(-1, max(len(data), 1))
    m[:len(data)] = data
    return m
def put(f, off, data, flags=0):
    fd = os.open(f, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    n = os.pwritev(fd, [aligned(data)], off)
    os.close(fd)
    return n
def get(f, off, size, flags=0):
    fd = os.open(f, os.O_RDONLY | flags)
    m = mmap.mmap(-1, size)
    n = os.preadv(fd, [m], off)
    os.close(fd)
    return m[:n]
def short(data): # runs of a letter
    out = ""
    for b in data.decode():
        if not out.endswith(b): out += b
    return f"{len(data)} {out}"
PY
py() { on $1 python3 -c "$(cat "$TMP/direct.py")
f, DIRECT = '$D/f', os.O_DIRECT
$2"; }
both() { echo "$(py ws2 "$1") | $(py ws3 "$1") | $(py ws1 "$1")"; }
read_so="print(short(get(f, 0, 16384)), short(get(f, 0, 16384, DIRECT)))"
# every node has it in its cache before, so that there is something old to show
same "written past the cache" 16384 "$(py ws1 "print(put(f, 0, b'a' * 16384, DIRECT))")"
same "every node reads it" "16384 a 16384 a | 16384 a 16384 a | 16384 a 16384 a" "$(both "$read_so")"
py ws2 "put(f, 4096, b'b' * 4096, DIRECT)"
same "what another node has written so since" "16384 aba 16384 aba | 16384 aba 16384 aba | 16384 aba 16384 aba" "$(both "$read_so")"
# unsent data of a node (write-behind) are seen by who reads past the cache, there and elsewhere
same "what is in the writer's cache, read past it there" "16384 cba 16384 cba" "$(py ws3 "fd = os.open(f, os.O_WRONLY); os.pwrite(fd, b'c' * 4096, 0); $read_so")"
py ws3 "put(f, 0, b'd' * 4096)"
same "and elsewhere" "16384 dba" "$(py ws1 "print(short(get(f, 0, 16384, DIRECT)))")"
# a descriptor that stays open, of a file that others write
mkfifo "$TMP/in"
on ws2 python3 -c "$(cat "$TMP/direct.py")
f = '$D/f'
fd, cached = os.open(f, os.O_RDWR | os.O_DIRECT), os.open(f, os.O_RDONLY)
m = mmap.mmap(-1, 16384)
for line in sys.stdin:
    for d in fd, cached: print(short(m[:os.preadv(d, [m], 0)]), end=' ')
    print(flush=True)" <"$TMP/in" >"$TMP/out" & LONG_OPEN=$!
exec 7>"$TMP/in"
asked() { local n; n=$(wc -l <"$TMP/out"); echo >&7; until_true 20 sh -c "[ \$(wc -l <$TMP/out) -gt $n ]"; tail -1 "$TMP/out"; }
same "who has it open" "16384 dba 16384 dba " "$(asked)"
py ws1 "put(f, 12288, b'e' * 4096, DIRECT)"
same "sees what another node writes past its cache" "16384 dbae 16384 dbae " "$(asked)"
py ws3 "put(f, 8192, b'g' * 4096)"
same "and by it" "16384 dbge 16384 dbge " "$(asked)"
py ws1 "os.truncate(f, 8192)"
same "and the new end" "8192 db 8192 db " "$(asked)"
exec 7>&-; wait $LONG_OPEN
# not on a page's edge: other file systems may refuse it, none may write something else
same "an offset and a length that are no pages" "100 100 x" "$(py ws1 "n = put(f, 4000, b'x' * 100, DIRECT); print(n, short(get(f, 4000, 100)))")"
same "another node reads it so" "102 bxb" "$(py ws2 "d = get(f, 3999, 102, DIRECT); print(len(d), 'bxb' if d == b'd' + b'x' * 96 + b'x' * 4 + b'b' else d)")"
same "past its end there is nothing" "0" "$(py ws3 "print(len(get(f, 8192, 4096, DIRECT)))")"
# mapped, and written past the cache by another node
same "a map of another node has it" "z" "$(py ws1 "put(f, 0, b'z' * 4096, DIRECT)"; py ws2 "print(chr(mmap.mmap(os.open(f, os.O_RDONLY), 8192, prot=mmap.PROT_READ)[0]))")"
# two nodes append at once
append="f = '$D/log'
fd = os.open(f, os.O_WRONLY | os.O_APPEND | os.O_CREAT | DIRECT, 0o666)
for i in range(150):
    b = aligned((b'%s %06d ' % (sys.argv[1].encode(), i)).ljust(511, b'.') + b'\n')
    if os.writev(fd, [b]) != 512: sys.exit('short')
"
for n in ws1 ws2; do on $n python3 -c "$(cat "$TMP/direct.py")
DIRECT = os.O_DIRECT
$append" $n >"$TMP/append.$n" 2>&1 & eval "p_$n=$!"; done
wait $p_ws1; a=$?; wait $p_ws2
same "two nodes append past their caches" "0 0" "$a $?"
same "each record is there once, in its node's order" "ok" "$(py ws3 "
seen = {}
d = get('$D/log', 0, 1 << 20)
for at in range(0, len(d), 512):
    r = d[at:at + 512]
    w, i = r.split()[:2]
    if len(r) != 512 or r[-1:] != b'\n' or int(i) != seen.get(w, -1) + 1: sys.exit(f'{at}: {r[:40]}')
    seen[w] = int(i)
print('ok' if seen == {b'ws1': 149, b'ws2': 149} else seen)")"
finish
