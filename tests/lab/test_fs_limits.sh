#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# long: yes
# The edges of what a file system is asked: long names and paths, loops, 100,000 names in a directory, a sparse TiB, a node whose clock is a day off, an
# export whose directory has gone, a create against a rename of another node in the same directory.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
# made where it lies, before anybody has looked
on fs1 sh -c 'mkdir -m 777 /srv/sprite/many && cd /srv/sprite/many && seq -f "entry-%06g" 100000 | xargs touch'

cat >"$TMP/edges.py" <<'P'
import errno, os
os.makedirs('/sprite/edges', exist_ok=True); os.chdir('/sprite/edges')
def err(f, *a, **k):
    try:
        f(*a, **k)
        return 'none'
    except OSError as e:
        return errno.errorcode[e.errno]
def says(what, *v): print(what, *v)
n255, n256 = 'n' * 255, 'n' * 256
open(n255, 'w').write('long'); says('name255', open(n255).read(), n255 in os.listdir('.'))
says('name256', err(open, n256, 'w'), err(os.mkdir, n256), err(os.rename, n255, n256), err(os.link, n255, n256), err(os.symlink, 'x', n256), err(os.stat, n256), err(os.unlink, n256))
u = 'ü' * 127 + 'x'; open(u, 'w').close(); says('utf8', len(u.encode()), u in os.listdir('.'))
os.rename(n255, 'short'); says('renamed', open('short').read())
top = os.getcwd(); rel = ''
for i in range(16):
    d = '%02d' % i + 'd' * 238; os.mkdir(d); os.chdir(d); rel += d + '/'
open('deep', 'w').write('deep'); path = top + '/' + rel + 'deep'
os.chdir(top); says('path', len(path) < 4096, open(path).read())
pad = rel + './' * ((4095 - len(rel) - 4) // 2) + 'deep'
pad = pad if len(pad) == 4095 else './' * 0 + pad
says('pathmax', len(pad) <= 4095, open(pad).read(), err(open, './' * 2046 + pad[-10:] + 'x' * 10))
os.chdir(rel);
for i in range(20): os.mkdir('e' * 250); os.chdir('e' * 250)
open('deeper', 'w').write('deeper'); says('beyond', len(os.getcwd()) > 4096, open('deeper').read())
os.chdir(top)
os.symlink('loop2', 'loop1'); os.symlink('loop1', 'loop2'); says('loop', err(open, 'loop1'), err(os.stat, 'loop2'), os.readlink('loop1'))
os.symlink('short', 's0')
for i in range(1, 42): os.symlink('s%d' % (i - 1), 's%d' % i)
says('chain', open('s39').read(), err(open, 's41'))
big = 't' * 4095; os.symlink(big, 'target'); says('target', os.readlink('target') == big, err(os.symlink, 't' * 4096, 'target2'))
P
want='name255 long True
name256 ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG
utf8 255 True
renamed long
path True deep
pathmax True deep ENAMETOOLONG
beyond True deeper
loop ELOOP ELOOP loop2
chain long ELOOP
target True ENAMETOOLONG'
same "names, paths, links at their limits" "$want" "$(on ws1 python3 - <"$TMP/edges.py" 2>&1)"
same "and another node sees them" "long deeper" "$(sh_on ws2 'cd /sprite/edges && cat short && echo -n " " && find . -name deeper -execdir cat {} \; 2>/dev/null')"
check "all of it can be removed" on ws2 rm -rf /sprite/edges

# ---- 100,000 names
same "100000 names, each once" "100000 100000" "$(sh_on ws1 'cd /sprite/many; ls -U >/tmp/l; echo $(wc -l </tmp/l) $(sort -u /tmp/l | wc -l)')"
same "looked up here and there" "0" "$(sh_on ws2 'cd /sprite/many; for i in 000001 050000 100000 031415; do [ -f entry-$i ] || echo $i; done | wc -l')"
cat >"$TMP/walk.py" <<'P'
# Reading goes on where it was while names go that have been read: none is lost, none comes twice.
import os
os.chdir('/sprite/many'); seen = []
for e in os.scandir('.'):
    seen.append(e.name)
    if len(seen) % 20000 == 0:
        for n in seen[-50:]: os.unlink(n)
print(len(seen), len(set(seen)), len(os.listdir('.')))
P
same "a reader in a directory that shrinks behind it" "100000 100000 99750" "$(on ws1 python3 - <"$TMP/walk.py" 2>&1)"
same "which the other node sees" 99750 "$(sh_on ws2 'ls -U /sprite/many | wc -l')"
on fs1 rm -rf /srv/sprite/many

# ---- a TiB with holes
cat >"$TMP/sparse.py" <<'P'
import os
T = 1 << 40
fd = os.open('/sprite/sparse', os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(fd, T)
os.pwrite(fd, b'middle', T // 2); os.pwrite(fd, b'end', T - 3); os.fsync(fd)
print(os.fstat(fd).st_size == T, os.pread(fd, 10, T - 5), os.pread(fd, 6, T // 2), os.pread(fd, 4, 12345), os.fstat(fd).st_blocks < 1000)
d = os.lseek(fd, 0, os.SEEK_DATA); h = os.lseek(fd, d, os.SEEK_HOLE)
print(d <= T // 2 < h, os.lseek(fd, h, os.SEEK_DATA) <= T - 3)
P
same "a sparse TiB" "True b'\\x00\\x00end' b'middle' b'\\x00\\x00\\x00\\x00' True
True True" "$(on ws1 python3 - <"$TMP/sparse.py" 2>&1)"
same "from the other node" "1099511627776 end" "$(sh_on ws2 'stat -c %s /sprite/sparse; tail -c 3 /sprite/sparse' | xargs)"
on ws2 rm /sprite/sparse

# ---- a create against a rename: the recalls of each meet the other's lock of the directory
cat >"$TMP/race.py" <<'P'
import os, sys
os.chdir('/sprite/race'); me = sys.argv[1]
for i in range(150):
    n = me + '.%d' % i
    open(n, 'x').close()
    os.rename(n, n + '.new')
    if i % 3 == 0: os.rename(n + '.new', 'd' + me + '/' + n)
    if i % 10 == 0: assert len(os.listdir('.')) >= 2
P
on ws1 sh -c 'mkdir -p -m 777 /sprite/race/da /sprite/race/db'
on ws1 python3 - a <"$TMP/race.py" >"$TMP/ra" 2>&1 & p1=$!
on ws2 python3 - b <"$TMP/race.py" >"$TMP/rb" 2>&1 & p2=$!
wait $p1; r1=$?; wait $p2; r2=$?
same "creates and renames of two nodes in one directory" "0 0 " "$r1 $r2 $(cat "$TMP/ra" "$TMP/rb")"
same "nothing lost, nothing left" "200 50 50" "$(sh_on ws1 'cd /sprite/race; echo $(ls | grep -c new$) $(ls da | wc -l) $(ls db | wc -l)')"

# ---- a clock a day off
for ms in 86400000 -86400000; do
	lab kill ws1 spritefs TERM; until_true 10 lab start ws1 spritefs SPRITE_CLOCK_OFFSET_MS=$ms
	same "a node whose clock is $((ms / 3600000)) hours off: what it writes is seen, and it sees what others write" "one two" "$(sh_on ws1 'echo one >/sprite/clock'; sh_on ws2 'echo -n "$(cat /sprite/clock) "; echo two >/sprite/clock'; on ws1 cat /sprite/clock)"
	check "it keeps out who wants its lock" sh_on ws1 'exec 9>/sprite/clock.lock; flock -n 9'
	mkfifo "$TMP/in$ms"; exec 8<>"$TMP/in$ms"
	lab exec ws1 -- flock /sprite/clock.lock sh -c 'echo locked; read x' <"$TMP/in$ms" >"$TMP/lk$ms" 2>&1 & p=$!
	until_true 20 grep -q locked "$TMP/lk$ms"
	refused "a lock there holds" 1 '^$' on ws2 flock -n /sprite/clock.lock true
	echo >&8; wait $p; exec 8>&-
done
lab kill ws1 spritefs TERM; until_true 10 lab start ws1 spritefs

# ---- an export whose directory has gone
on fs1 python3 - <<'P'
import json
f = '/etc/sprite/sprite.conf'; c = json.load(open(f))
c['spritefsd']['exports'].append({'path': '/srv/extra', 'root_squash': False, 'prefix': '/extra'})
json.dump(c, open(f, 'w'))
P
# the first start that is not refused because the one before still ends
until_refused() { local out; for i in $(seq 200); do out=$(lab start fs1 spritefsd 2>&1) && return 0; grep -q 'runs already' <<<"$out" || { echo "$out"; return 1; }; sleep 0.05; done; }
lab kill fs1 spritefsd TERM
refused "a server whose export is not there does not start" 1 '0x4e00' until_refused
refused "and says which" 78 '/srv/extra' on fs1 spritefsd --check
on fs1 sh -c 'mkdir -m 777 /srv/extra && echo kept >/srv/extra/f'
on ws1 sh -c 'cat /sprite/extra/f' >"$TMP/waits" 2>&1 & p=$!
check "with it, it does" until_true 20 lab start fs1 spritefsd
wait $p
check "it is served" until_true 20 sh_on ws1 '[ "$(cat /sprite/extra/f)" = kept ]'
on fs1 mv /srv/extra /srv/elsewhere
same "renamed under the server it is served on" "kept more" "$(sh_on ws2 'echo more >>/sprite/extra/f; cat /sprite/extra/f' | xargs)"
on fs1 rm -rf /srv/elsewhere
# ws2's close(2) has returned, and tells the server within a tenth of a second: until then the file is there, without a name
check "removed under the server: an error, nobody hangs" until_true 20 sh_on ws1 'timeout 60 cat /sprite/extra/f; [ $? = 1 ]'
refused "nothing can be made in it" 1 'No such file|Stale|cannot' on ws2 timeout 60 mkdir /sprite/extra/new
check "other exports of that server are none the worse" sh_on ws1 'echo y >/sprite/y && cat /sprite/y'
finish
