# SPDX-License-Identifier: Apache-2.0
# For tests of guests and owners, sourced after lib.sh: a lab (NODES, 3 if not set), guests that count in $D, where they are, what their hosts say.
D=/sprite/evict
conf() { sh_on "$1" 'python3 - "$1" <<X
import json, sys
c = json.load(open("/etc/sprite/sprite.conf")); c["migd"].update(json.loads(sys.argv[1])); json.dump(c, open("/etc/sprite/sprite.conf", "w"))
X' "$2"; lab kill "$1" migd TERM >/dev/null; until_true 20 lab start "$1" migd; }
state() { mig hosts --no-header -o NAME,STATE | awk -v h="$1" '$1 == h { $1 = ""; print substr($0, 2) }'; }
idle() { [ "$(state $1)" = idle ]; }
# A program that counts in a file while it runs, nothing of this machine open.
run() { as sprite ws1 bash -c "cd $D; $2 mig run ${3:-} -H $1 sh -c 'i=0; while :; do i=\$((i + 1)); echo \$i >count.$4.new; mv count.$4.new count.$4; sleep 0.05; done' >/dev/null 2>$4.err </dev/null & echo \$! >$4.pid; wait \$!; echo \$? >$4.rc" </dev/null >/dev/null 2>&1 & }
count() { on ws1 cat $D/count.$1 2>/dev/null || echo 0; }
counts() { local a=$(count $1); until_true 5 eval '[ "$(count '$1')" -gt '$a' ]'; }
where() { mig ps --no-header -o PID,HOST | awk -v p="$(on ws1 cat $D/$1.pid)" '$1 == p { print $2 }'; }
is_at() { [ "$(where $1)" = "$2" ]; }
stopped() { sh_on ws2 'grep -c "the owner is back: 1 guest stopped" /var/log/sprite/migd.log'; }
idles() { sh_on ws2 'grep -c "this host is idle" /var/log/sprite/migd.log'; }
# Where a guest's shell is alive (hollows have no memory): one word for each copy
copies() { for n in ws1 ws2 ws3; do sh_on $n 'for p in $(pgrep -u sprite -f "[c]ount.$1.new"); do r=$(awk "/VmRSS/ { print \$2 }" /proc/$p/status 2>/dev/null); [ "$(cat /proc/$p/comm 2>/dev/null)" != sh ] || [ "${r:-0}" -le 400 ] || echo $0; done' $1; done | xargs; }
one_copy() { [ "$(copies $1 | wc -w)" = 1 ]; }
home() { [ -z "$(where $1)" ] && on ws1 kill -0 "$(on ws1 cat $D/$1.pid)"; }
log_has() { sh_on $1 'grep -q -- "$1" /var/log/sprite/migd.log' "$2"; }
end() { on ws1 sh -c "kill -9 \$(cat $D/$1.pid)"; until_true 20 on ws1 test -e $D/$1.rc; }
# Which host the master would give to who will not have HOST; it is given back.
given() { sh_on ws1 'python3 -c "
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(\"/run/sprite/migd.sock\")
s.sendall((json.dumps({\"verb\": \"ask\", \"want\": 1, \"priority\": \"normal\", \"wait\": False, \"not_host\": sys.argv[1]}) + \"\\n\").encode())
for line in s.makefile():
    r = json.loads(line)
    if \"granted\" in r: print(r[\"granted\"][\"host\"])
    if {\"granted\", \"answered\", \"ok\"} & set(r): break
" $1' $1; }
lab_up -n "${NODES:-3}"
as sprite ws1 mkdir $D
check "ws2 and ws3 are idle" until_true 60 eval 'idle ws2 && idle ws3'
