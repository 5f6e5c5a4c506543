#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# Several servers, one tree: the longest prefix says whose a path is, names do not go from one domain to another, and what is added, or moved to another server, is seen by clients that
# are mounted.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 -s 3
for s in fs2 fs3; do on ws1 sh -c "echo of $s >/sprite/$s/f"; done
same "what is written below a prefix is on its server's disk, and with the other node" "of fs2 of fs2 of fs3 of fs3" \
	"$(for s in fs2 fs3; do on $s cat /srv/sprite/f; on ws2 cat /sprite/$s/f; done | xargs)"
cat >"$TMP/cross.py" <<'PY'
import errno, os
for what in os.rename, os.link:
    for a, b in ("/sprite/fs2/f", "/sprite/fs3/g"), ("/sprite/fs3/f", "/sprite/g"), ("/sprite/cross", "/sprite/fs2/g"):
        try:
            what(a, b)
            print(what.__name__, a, b, "done")
        except OSError as e:
            if e.errno != errno.EXDEV:
                print(what.__name__, a, b, e)
PY
on ws1 touch /sprite/cross
same "no rename and no link leaves its domain" "" "$(on ws1 python3 - <"$TMP/cross.py")"
same "mv takes the bytes across" "of fs2" "$(on ws1 sh -c 'mv /sprite/fs2/f /sprite/fs3/moved && ! test -e /sprite/fs2/f' && on ws2 cat /sprite/fs3/moved)"
# conf NODE PYTHON: changes its list of exports `e`, and starts its server again
conf() {
	on $1 python3 -c "import json; p = '/etc/sprite/sprite.conf'; c = json.load(open(p)); e = c.setdefault('spritefsd', {}).setdefault('exports', [])
$2
json.dump(c, open(p, 'w'))" && lab kill $1 spritefsd TERM && until_true 20 lab start $1 spritefsd
}
on ws1 mkdir /sprite/fs2/deep
on ws1 sh -c 'echo "below fs2" >/sprite/fs2/deep/f; cat /sprite/fs2/deep/f; ls -l /sprite/fs2 /sprite/fs2/deep' >/dev/null
on fs3 sh -c 'mkdir -p /srv/deep && echo "of its own" >/srv/deep/f'
# who has a file of that server open goes on
sh_on ws2 'exec 3>>/sprite/fs3/held; echo before >&3; until [ -e /tmp/go ]; do sleep 0.05; done; echo after >&3' & HELD=$!
until_true 20 on ws1 grep -q before /sprite/fs3/held
check "a server takes a directory of another's tree over" conf fs3 "e.append({'prefix': '/fs2/deep', 'path': '/srv/deep', 'root_squash': False})"
for n in ws1 ws2; do
	check "$n, mounted since before, finds it there" until_true 20 sh_on $n '[ "$(cat /sprite/fs2/deep/f)" = "of its own" ]'
done
same "what lies around it is as it was" "deep" "$(on ws2 ls /sprite/fs2)"
on ws2 touch /tmp/go; wait $HELD
same "a file that was open goes on over the restart" "before after" "$(on ws1 cat /sprite/fs3/held | xargs)"
check "given back" conf fs3 "e[:] = [x for x in e if x['prefix'] != '/fs2/deep']"
for n in ws1 ws2; do
	check "$n finds what was below" until_true 20 sh_on $n '[ "$(cat /sprite/fs2/deep/f)" = "below fs2" ]'
done
# a whole domain goes to another server, bytes and all
on ws1 sync /sprite/fs3
on fs2 mkdir /srv/three
on fs3 tar cf - -C /srv/sprite --exclude=.sprite-unlinked . | "$BIN/sprite-lab" exec fs2 -- tar xf - -C /srv/three
check "its server gives it up" conf fs3 "e[:] = [x for x in e if x['prefix'] != '/fs3']"
check "another one takes it" conf fs2 "e.append({'prefix': '/fs3', 'path': '/srv/three', 'root_squash': False})"
for n in ws1 ws2; do
	check "$n finds it at its new place" until_true 20 sh_on $n 'grep -q "^/fs3 fs2 " /sprite/.sprite/domains && [ "$(cat /sprite/fs3/moved)" = "of fs2" ]'
done
on ws1 sh -c 'echo new >/sprite/fs3/new'
same "and what is written is there" "new new" "$(on fs2 cat /srv/three/new) $(on ws2 cat /sprite/fs3/new)"
# who may not add a domain is told so
on ws1 mkdir /srv/mine
check "a host that the root server does not name offers a domain" conf ws1 "e += [{'prefix': '/hosts/ws1', 'path': '/', 'home': True}, {'prefix': '/mine', 'path': '/srv/mine'}]"
check "and is told why there is none" until_true 20 eval 'lab logs ws1 spritefsd | grep -q "lets this host add no domain but its own home (spritefsd.servers"'
finish
