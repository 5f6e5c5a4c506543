# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 120
# Fair shares and priorities with real commands: who holds everything gives back when another user asks, and a make that loses a host asks for the next.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
idle() { [ "$(mig hosts --no-header -o NAME,STATE | awk '$2 == "idle"' | grep -c "ws[23]")" = 2 ]; }
slots=$(($(on ws2 nproc) + $(on ws3 nproc)))
[ $slots -le 16 ] || skip "$slots CPUs: too many processes for this test"
away_of() { on ws1 mig ps --json | tr -d ' \n' | grep -o "\"comm\":\"sleep\",\"uid\":$1," | wc -l; }
away_is() { [ "$(away_of $1)" = "$2" ]; }
hold() { as "$1" ws1 bash -c 'for i in $(seq $1); do (while mig run --priority $2 sleep 300 >/dev/null 2>&1 </dev/null; [ $? = 125 ]; do sleep 0.3; done) & done; wait' sh "$2" "$3" & }
end() { on ws1 pkill -u "$1" -x sleep; until_true 20 away_is "$(on ws1 id -u "$1")" 0; }
check "hosts are idle" until_true 60 idle
D=/sprite/shares
as guest ws1 mkdir $D
as guest ws1 bash -c "cat >$D/Makefile" <<'X'
all: $(addprefix r,1 2 3 4)
r%:
	@sleep 2; echo $@ done
X
refused "high priority is root's" 125 "priority high is root's" as sprite ws1 bash -c 'mig run --priority high true </dev/null 2>&1 | cat; exit ${PIPESTATUS[0]}'
refused "a priority that is none" 125 "expected low, normal or high" as sprite ws1 bash -c 'mig run --priority some true </dev/null 2>&1 | cat; exit ${PIPESTATUS[0]}'

# one user has it all
hold sprite "$slots" normal
check "one user holds every slot" until_true 60 away_is 1000 "$slots"
as guest ws1 bash -c "cd $D && mig make --local 1 --verbose >out.new 2>&1 </dev/null; echo status \$? >>out.new; mv out.new out" &
check "a make of another user gets its share" until_true 60 on ws1 test -e $D/out
wait $!
check "recipes of its ran elsewhere" eval 'on ws1 cat $D/out | grep -q -- "-> ws[23]"' || note "$(on ws1 cat $D/out)"
same "and it ended well" "status 0" "$(on ws1 tail -1 $D/out)"
check "somebody was asked back, by name" sh_on ws1 'grep -q "gives ws[23] back: others have a right to it" /var/log/sprite/migd.log'
same "who gave back runs on, at home" "$slots" "$(on ws1 pgrep -u sprite -x -c sleep)"
check "they end" end sprite

# low priority makes room for normal
check "hosts are idle" until_true 60 idle
hold sprite "$slots" low
check "low-priority work holds every slot" until_true 60 away_is 1000 "$slots"
as sprite ws1 bash -c "rm -f /sprite/shares-out; mkdir -p /sprite/shares2; cp $D/Makefile /sprite/shares2; cd /sprite/shares2 && mig make --local 1 --verbose >out.new 2>&1 </dev/null; mv out.new out" &
check "a make of the same user with normal priority gets hosts" until_true 60 on ws1 test -e /sprite/shares2/out
wait $!
check "recipes of its ran elsewhere" eval 'on ws1 cat /sprite/shares2/out | grep -q -- "-> ws[23]"' || note "$(on ws1 cat /sprite/shares2/out)"
check "they end" end sprite

# a make that loses its hosts again and again goes on asking
cat >$TMP/ask.py <<'X'
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/migd.sock")
f = s.makefile("rw")
f.write(json.dumps({"verb": "ask", "want": 1, "wait": True}) + "\n"); f.flush()
agent, granted, lost = 0, 0, 0
def more():
    t = socket.socket(socket.AF_UNIX); t.connect("/run/sprite/migd.sock"); g = t.makefile("rw")
    g.write(json.dumps({"verb": "more", "agent": agent, "want": 1, "wait": True}) + "\n"); g.flush()
    assert json.loads(g.readline())["ok"]
def release(i):
    t = socket.socket(socket.AF_UNIX); t.connect("/run/sprite/migd.sock"); g = t.makefile("rw")
    g.write(json.dumps({"verb": "release", "agent": agent, "id": i}) + "\n"); g.flush()
    assert json.loads(g.readline())["ok"]
for line in f:
    r = json.loads(line)
    if "agent" in r: agent = r["agent"]
    if "granted" in r:
        granted += 1
        if granted == 150: print("granted 150 times"); sys.exit(0)
        release(r["granted"]["id"]); more()
X
lab exec ws1 -- tee /tmp/ask.py <$TMP/ask.py >/dev/null
same "slots are given as often as they are asked for" "granted 150 times" "$(as sprite ws1 timeout 60 python3 /tmp/ask.py)"
finish
