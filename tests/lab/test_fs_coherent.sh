# SPDX-License-Identifier: Apache-2.0
# lab: shared
# What one node does in /sprite, the others see at once: no time passes between the change and the look (invariant 7).
. "$(dirname "$0")/lib.sh"
D=/sprite/coherent.$$
on ws1 mkdir $D || { flunk "mkdir in /sprite"; finish; }
on fs1 chmod 1777 /srv$D
trap 'on ws1 rm -rf $D; rm -rf "$TMP"' EXIT
# Every node has looked before, so that it has something stale to show.
look() { for n in ws1 ws2 ws3; do sh_on $n "ls -lR $D; stat $D $D/*; cat $D/f $D/g; true" >/dev/null 2>&1; done; }
both() { echo "$(sh_on ws2 "$1" 2>&1) | $(sh_on ws3 "$1" 2>&1)"; }

look; sh_on ws1 "echo one >$D/f"
same "a new file" "one | one" "$(both "cat $D/f")"
look; sh_on ws1 "echo two, longer >$D/f"
same "new content" "two, longer | two, longer" "$(both "cat $D/f")"
same "its size" "12 | 12" "$(both "stat -c %s $D/f")"
look; sh_on ws2 "echo more >>$D/f"
same "an append from another node" "5 two, longer more" "$(sh_on ws1 "stat -c %s $D/f | tail -c 2; cat $D/f" | tr '\n' ' ' | sed 's/^7 /5 /; s/ $//')"
look; sh_on ws3 "chmod 640 $D/f; chown 1000:1001 $D/f; touch -d @1000000000 $D/f"
same "mode, owner, time" "640 1000 1001 1000000000 | 640 1000 1001 1000000000" "$(both "stat -c '%a %u %g %Y' $D/f")"
look; sh_on ws1 "mv $D/f $D/g"
same "a rename: the old name is gone" "gone | gone" "$(both "[ -e $D/f ] || echo gone")"
same "a rename: the new name" "two, longer | two, longer" "$(both "head -1 $D/g")"
look; sh_on ws1 "ln $D/g $D/h; ln -s g $D/s"
same "a hard link: count and inode" "2 same | 2 same" "$(both "echo \$(stat -c %h $D/g) \$([ $D/g -ef $D/h ] && echo same)")"
same "a symbolic link" "g | g" "$(both "readlink $D/s")"
look; sh_on ws2 "rm $D/h"
same "an unlink" "1 gone" "$(sh_on ws1 "echo \$(stat -c %h $D/g) \$([ -e $D/h ] || echo gone)")"
look; sh_on ws1 "truncate -c -s 3 $D/g" # -c: without O_CREAT, which fs.protected_regular refuses in a sticky directory
same "truncation" "two | two" "$(both "cat $D/g")"
look; sh_on ws1 "mkdir $D/d; touch $D/d/a $D/d/b"
same "names in a new directory" "a b | a b" "$(both "echo \$(ls $D/d)")"
look; sh_on ws1 "mv $D/d $D/e; rm $D/e/a"
same "a moved directory" "b | b" "$(both "echo \$(ls $D/e)")"
look; sh_on ws3 "setfattr -n user.color -v blue $D/g"
same "an extended attribute" "blue | blue" "$(echo "$(sh_on ws1 "getfattr --only-values -n user.color $D/g 2>/dev/null") | $(sh_on ws2 "getfattr --only-values -n user.color $D/g 2>/dev/null")")"
look; sh_on ws1 "rm -r $D/e; rm $D/g $D/s"
same "removal" " | " "$(both "ls $D")"

# In turn, many times: each reads what the one before wrote, with the file held open all the while.
cat >"$TMP/turn.py" <<'PY'
import os, sys, time
me, n, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fd = os.open(path, os.O_RDWR)
end = time.monotonic() + 60
while True:
    v = int(os.pread(fd, 32, 0) or b"0")
    if v >= n: break
    if v % 3 == me: os.pwrite(fd, b"%d\n" % (v + 1), 0)
    elif time.monotonic() > end: sys.exit("no turn for 60 s at %d" % v)
PY
sh_on ws1 "echo 0 >$D/turn"
for i in 1 2 3; do on ws$i python3 - $((i - 1)) 300 $D/turn <"$TMP/turn.py" >"$TMP/turn.$i" 2>&1 & done
wait
same "three nodes write in turn, each at once after it read the other's" "300" "$(on ws1 cat $D/turn)$(cat "$TMP"/turn.?)"
# An open file stays what it is when another node removes or replaces its name.
mkfifo "$TMP/go"
"$BIN/sprite-lab" exec ws1 -- bash -c "echo old >$D/u; exec 3<$D/u; echo open; read x; cat <&3" <"$TMP/go" >"$TMP/u" &
pid=$!
exec 4>"$TMP/go"
until_true 5 grep -q open "$TMP/u"
sh_on ws2 "echo new >$D/u.new; mv $D/u.new $D/u"
echo >&4; exec 4>&-
wait $pid
same "an open file survives being replaced from another node" "old" "$(tail -1 "$TMP/u")"
same "and the name shows the new one" "new | new" "$(both "cat $D/u")"
# O_EXCL and mkdir: one wins
for i in 1 2 3; do sh_on ws$i "w=0; for k in \$(seq 40); do mkdir $D/x\$k 2>/dev/null && w=\$((w + 1)); ( set -C; : >$D/y\$k ) 2>/dev/null && w=\$((w + 1)); done; echo \$w" >"$TMP/w.$i" & done
wait
same "of three nodes one wins each mkdir and each O_EXCL" 80 $(($(cat "$TMP/w.1") + $(cat "$TMP/w.2") + $(cat "$TMP/w.3")))
# appends from three nodes: none lost
for i in 1 2 3; do sh_on ws$i "for k in \$(seq 100); do echo node $i line \$k >>$D/log; done" & done
wait
same "300 appended lines from three nodes" "300 300" "$(on ws2 sh -c "wc -l <$D/log; sort -u $D/log | wc -l" | tr '\n' ' ' | sed 's/ $//')"
finish
