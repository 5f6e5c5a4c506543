# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 900
# long: yes
# Programs that know nothing of us, on one node and on two at once: what they check themselves is right.
. "$(dirname "$0")/lib.sh"
for p in git sqlite3 fio rsync vim dpkg-deb make gcc; do command -v $p >/dev/null || skip "$p is not installed"; done
lab_up -n 2
# all on one node, then what the other sees
check "fio finds every block that it wrote" sh_on ws1 'mkdir /sprite/fio && fio --name=v --directory=/sprite/fio --rw=randrw --bsrange=512-128k --size=24M --numjobs=2 --verify=crc32c --do_verify=1 --fallocate=none --ioengine=psync --output=/dev/null'
check "and the other node does" sh_on ws2 'fio --name=v --directory=/sprite/fio --rw=randrw --bsrange=512-128k --size=24M --numjobs=2 --verify=crc32c --verify_only --fallocate=none --ioengine=psync --output=/dev/null'
sh_on ws1 'set -e; git init -q /tmp/origin; cd /tmp/origin; git config gc.auto 0; git config user.email a@b; git config user.name a; for d in $(seq 100); do mkdir d$d; for f in $(seq 100); do echo "$d $f" >d$d/f$f; done; done; git add .; git commit -qm one' >/dev/null
check "git clones 10000 files" sh_on ws1 'git clone -q --no-hardlinks /tmp/origin /sprite/git'
check "the other node checks them, changes and commits" sh_on ws2 'cd /sprite/git && git config --global --add safe.directory "*" && git config gc.auto 0 && git config user.email b@c && git config user.name b && git fsck --strict >/dev/null && [ -z "$(git status --porcelain)" ] && for d in $(seq 100); do echo two >>d$d/f7; done && git commit -qam two && git gc -q'
same "the first sees the commit, whole and clean" "two 2 0 " "$(sh_on ws1 'cd /sprite/git && echo $(git log -1 --format=%s) $(git rev-list --count HEAD) $(git diff HEAD | wc -l) "$(git fsck --strict 2>&1)"')"
sh_on ws1 'sqlite3 /sprite/db "PRAGMA journal_mode=DELETE; CREATE TABLE t(who, n, UNIQUE(who, n)); CREATE INDEX i ON t(n)"' >/dev/null
for w in 1 2; do
	sh_on ws$w 'for n in $(seq 150); do echo ".timeout 100000
BEGIN IMMEDIATE; INSERT INTO t VALUES('$w', $n); UPDATE t SET n = n WHERE who = '$w'; COMMIT;"; done | sqlite3 -bail /sprite/db' >"$TMP/sql.$w" 2>&1 &
	sql[w]=$!
done
wait ${sql[1]}; one=$?; wait ${sql[2]}
same "two sqlite3 write one database" "0 0" "$one $?" || tail -n 3 "$TMP"/sql.?
for w in 1 2; do same "it is whole, seen by ws$w" "ok 300 150" "$(sh_on ws$w 'echo $(sqlite3 /sprite/db "PRAGMA integrity_check; SELECT count(*) FROM t; SELECT count(*) FROM t WHERE who = 1")')"; done
# one source, two nodes that compile it at once into their own directories, and one that installs from the other's
(. "$HERE/../bench/source.sh"; mkdir "$TMP/src"; for i in $(seq 16); do source_c f$i 8 >"$TMP/src/f$i.c"; done)
tar cf - -C "$TMP/src" . | sh_on ws1 'mkdir -p /sprite/src && tar xf - -C /sprite/src'
sh_on ws1 'cat >/sprite/src/Makefile' <<'MK'
all: $(O)/lib.a
$(O)/lib.a: $(patsubst %.c,$(O)/%.o,$(wildcard *.c))
	ar rcD $@ $^
$(O)/%.o: %.c
	gcc -O1 -c -o $@ $<
MK
for w in 1 2; do sh_on ws$w "mkdir /sprite/o$w && make -s -j2 -C /sprite/src O=/sprite/o$w" >"$TMP/make.$w" 2>&1 & mk[w]=$!; done
wait ${mk[1]}; one=$?; wait ${mk[2]}
same "make -j on two nodes at once" "0 0" "$one $?" || tail -n 3 "$TMP"/make.?
check "both have made the same, and each sees the other's" sh_on ws1 'cmp /sprite/o1/lib.a /sprite/o2/lib.a'
check "nothing is made again" sh_on ws2 'cd /sprite/src && make -q O=/sprite/o1 && make -q O=/sprite/o2'
check "rsync of a tree with links, modes and times; a second run has nothing to do" sh_on ws1 'cp -a /etc /tmp/etc 2>/dev/null; rsync -aHAX /tmp/etc/ /sprite/etc/ && [ -z "$(rsync -aHAXin --delete /tmp/etc/ /sprite/etc/)" ]'
check "the other node packs it, unpacks it, and finds no difference" sh_on ws2 'tar cf /sprite/etc.tar -C /sprite/etc . && mkdir /sprite/etc2 && tar xpf /sprite/etc.tar -C /sprite/etc2 && diff -r --no-dereference /sprite/etc /sprite/etc2'
check "vim edits in place" sh_on ws1 'seq 5000 >/sprite/v && vim -es -u NONE -i NONE -c "set backup backupdir=/sprite" -c "%s/7/seven/g" -c "wq" /sprite/v && [ "$(md5sum </sprite/v)" = "$(seq 5000 | sed s/7/seven/g | md5sum)" ] && [ "$(md5sum </sprite/v~)" = "$(seq 5000 | md5sum)" ]'
check "and the other node sees it" sh_on ws2 '[ "$(md5sum </sprite/v)" = "$(seq 5000 | sed s/7/seven/g | md5sum)" ]'
check "dpkg-deb builds a package, the other node takes it apart" sh_on ws1 'mkdir -p /sprite/deb/DEBIAN /sprite/deb/usr/share/x && cp -a /sprite/etc/passwd /sprite/deb/usr/share/x/ && printf "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n" >/sprite/deb/DEBIAN/control && dpkg-deb --root-owner-group -b /sprite/deb /sprite/x.deb >/dev/null'
check "from there" sh_on ws2 'dpkg-deb -x /sprite/x.deb /sprite/xx && cmp /sprite/etc/passwd /sprite/xx/usr/share/x/passwd && dpkg-deb -f /sprite/x.deb Package | grep -qx x'
finish
