# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 60
# mig stats counts what was done, on both sides and over a restart; mig top shows it, as text and on a terminal; a compiler behind mig run builds as it does alone.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
D=/sprite/stats
as sprite ws1 mkdir $D
of() { on "$1" mig stats --no-header -o "$2" | xargs; }
idle() { [ "$(mig hosts --no-header -o NAME,STATE | awk '$2 == "idle"' | wc -l)" = 2 ]; }
same "a new host has done nothing" "0 0 0 0" "$(of ws1 moves,failed,guests,evicted)"
for i in 1 2 3; do as sprite ws1 bash -c "cd $D; mig run -H ws2 sh -c 'i=0; while [ \$i -lt 20000 ]; do i=\$((i + 1)); done' >out 2>&1 </dev/null"; done
same "three commands ran elsewhere" "3 3 0" "$(of ws1 moves,exec,failed)"
check "they used the CPU over there" test "$(on ws1 mig stats --json | tr -d ' ' | grep -o '"away_cpu_us":[0-9]*' | cut -d: -f2)" -gt 10000
same "the host had three guests" 3 "$(of ws2 guests)"
same "and a part of its CPU time was theirs" yes "$(of ws2 remote | awk '{ print($1 > 0 ? "yes" : $1) }')"
as sprite ws1 mig run -H nosuchhost true >/dev/null 2>&1
same "what is refused before it begins is no move" "3 0" "$(of ws1 moves,failed)"
same "all hosts together" "ws1 3 0 ws2 0 3" "$(on ws1 mig stats -a --no-header -o host,moves,guests | xargs)"
check "in words" grep -q "at exec (mig run, mig make) *3  100 %" <(on ws1 mig stats)
refused "a column that is none" 64 "no column \"nonsense\"; there are host,since" on ws1 mig stats -o nonsense
lab kill ws1 migd TERM >/dev/null
check "migd is started again" until_true 20 lab start ws1 migd
same "over a restart nothing is forgotten" "3 0" "$(of ws1 moves,failed)"

# top
for i in 1 2; do as sprite ws1 bash -c "cd $D; mig run -H ws2 true >out 2>&1 </dev/null"; done
out=$(on ws1 mig top -n 1)
check "top shows hosts" grep -q "^ws2 .* idle\|^ws2 .* in use" <<<"$out"
same "and the last migrations" 2 "$(grep -c "exec .* true *ws1 -> ws2" <<<"$out")" || note "$out"
same "as JSON too, newest first" "1 2 True True" "$(on ws1 mig top --json | python3 -c 'import json, sys
p = [json.loads(l) for l in sys.stdin]; m = p[0]["moves"]
print(len(p), len(p[0]["hosts"]), m[0]["comm"] == "true", all(a["when"] >= b["when"] for a, b in zip(m, m[1:])))')"
on ws1 bash -c 'TERM=xterm LINES=30 COLUMNS=120 timeout 20 script -qec "mig top -d 0.2" /tmp/top.out < <(sleep 1.5; printf q) >/dev/null; echo $? >/tmp/top.rc'
same "on a terminal q ends it" 0 "$(on ws1 cat /tmp/top.rc)"
check "and it drew there" sh_on ws1 'tr -d "\033" </tmp/top.out | grep -q "mig top"'
refused "too fast" 64 "expected seconds" on ws1 mig top -d 0

# a compiler behind mig run: as make, ninja or CMake may be told
check "hosts are idle" until_true 60 idle
as sprite ws1 bash -c "cd $D; for i in 1 2 3; do echo \"int f\$i(int x) { return x * \$i; }\" >f\$i.c; done; printf 'f.a: f1.o f2.o f3.o\n\tar cr \$@ \$^\n' >Makefile; make -s -j3 && mkdir plain && mv f.a *.o plain"
same "make CC=\"mig run --local-ok gcc\"" 0 "$(as sprite ws1 bash -c "cd $D; make -s -j3 CC='mig run --local-ok gcc' >make.out 2>&1 </dev/null; echo \$?")" || note "$(on ws1 cat $D/make.out)"
check "makes the same files" sh_on ws1 "cd $D; for i in 1 2 3; do cmp f\$i.o plain/f\$i.o || exit 1; done"
check "elsewhere" test "$(of ws1 exec)" -ge 6
same "what does not compile fails as it does at home" "$(as sprite ws1 bash -c "cd $D; echo 'int' >bad.c; gcc -c bad.c >/dev/null 2>&1; echo \$?")" "$(as sprite ws1 bash -c "cd $D; mig run --local-ok gcc -c bad.c >bad.out 2>&1 </dev/null; echo \$?")"
check "with the compiler's words" on ws1 grep -q "bad.c:1" $D/bad.out
finish
