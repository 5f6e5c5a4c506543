# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 1200
# Gigabytes through pipelines over three nodes, with checksums: cat, tee, gzip, tar by named pipes; gzip and its reader by mig run, moved in the middle. GB=N: so many in each (2).
. "$(dirname "$0")/lib.sh"
lab_up -n 3
GB=${GB:-2}
on ws1 sh -c 'mkdir -m 777 /sprite/m; cd /sprite/m; mkfifo -m 666 a b c d' || flunk "mkfifo"
# gen N: N MB that look like nothing, but are the same each time; half: of which every second one is zeros
gen() { echo "openssl enc -aes-128-ctr -K 0123456789abcdef0123456789abcdef -iv 00000000000000000000000000000000 </dev/zero 2>/dev/null | head -c ${1}M"; }
sum() { bash -c "$(gen "$1")" | md5sum | cut -d' ' -f1; }
# what they say goes into the node's own tree: a file of this machine keeps them where they are
bg() { "$BIN/sprite-lab" exec "$1" -T -u sprite -- bash -c "cd /sprite/m; exec 2>err.$3; $2" >"$TMP/$3" </dev/null & }
got() { same "$1" "$2" "$(cut -d' ' -f1 "$TMP/$3")"; }
want=$(sum $((GB * 1024)))

bg ws2 'cat a >b' cat2; bg ws3 'md5sum <b' end
bg ws1 "$(gen $((GB * 1024))) | cat >a" from
wait; got "cat | cat | md5sum, each on its node" "$want" end

bg ws2 'md5sum <a' one; bg ws3 'md5sum <b' two
bg ws1 "$(gen $((GB * 1024))) | tee a b | md5sum" from
wait; got "tee: here" "$want" from; got "tee: there" "$want" one; got "and there" "$want" two

bg ws2 'gzip -1 <a >b' z; bg ws3 'gunzip <b | md5sum' end
bg ws1 "$(gen $((GB * 256))) | (cat; head -c $((GB * 768))M /dev/zero) >a" from
wait; got "gzip | gunzip" "$(bash -c "$(gen $((GB * 256))); head -c $((GB * 768))M /dev/zero" | md5sum | cut -d' ' -f1)" end

on ws2 mkdir -m 777 /tmp/out
bg ws2 'tar x -C /tmp/out -f c; cd /tmp/out/usr && find . -type f | sort | xargs -d "\n" cat | md5sum' there
bg ws1 'tar c -C / -f c usr/bin usr/lib/python3 usr/include' from
wait; got "tar c | tar x" "$(on ws1 sh -c 'cd /usr && find ./bin ./lib/python3 ./include -type f | sort | xargs -d "\n" cat | md5sum' | cut -d' ' -f1)" there

# by relays: the middle ones run elsewhere, and are moved while it goes through
bg ws1 "$(gen $((GB * 256))) | mig run -H ws2 -- sh -c 'echo \$\$ >m1; exec cat' | mig run -H ws3 -- sh -c 'echo \$\$ >m2; exec cat' | md5sum" relayed
until_true 30 on ws1 test -s /sprite/m/m1 -a -s /sprite/m/m2
for where in ws3 ws2 ws3; do check "one is moved to $where in the middle" until_true 10 mig move -q -H $where "$(on ws1 cat /sprite/m/m1)"; done # it may have to wait until what it was sent is read
check "and one home" until_true 10 mig home -q "$(on ws1 cat /sprite/m/m2)"
wait; got "mig run | mig run | md5sum" "$(sum $((GB * 256)))" relayed
[ $FAILED = 0 ] || on ws1 sh -c 'tail -n 5 /sprite/m/err.*'
finish
