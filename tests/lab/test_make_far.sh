# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# Recipes on other hosts are run by workers, one move for each slot: they see what they would see here, and end as they would.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
idle() { [ "$(mig hosts --no-header -o NAME,STATE | awk '$1 == "ws2" { print $2 }')" = idle ]; }
in_d() { as sprite ws1 bash -c "cd $JD && { $1; } </dev/null 2>&1 | cat; exit \${PIPESTATUS[0]}"; }
as sprite ws1 bash -c "mkdir $JD/sub; cat >$JD/Makefile" <<'X'
# Is the recipe with a keeper over there?
away = [ "$$(cat /proc/1/comm)" = sprite-keeper ] && echo away || echo here
export BIG := $(shell head -c 100000 /dev/zero | tr '\0' b)
LIST = $(addprefix r,$(shell seq 24))
all: $(LIST)
# not before there is a worker
.NOEXPORT: warm
warm: ; @for i in $$(seq 100); do mig ps --no-header -o HOST | grep -q ws2 && break; sleep 0.1; done; sleep 0.3
env fail killed many nothing late plain endless ticks t1 t2 t3 t4 leaves s1 s2 s3 s4 s5 s6: | warm
endless: ; @sleep 0.2; exec yes
ticks: ; @sleep 0.2; { $(away); } >at; i=0; while [ ! -e enough ]; do i=$$((i + 1)); echo $$i >ticks; sleep 0.05; done
# each is worth a trip
$(LIST): ; @sleep 0.2; $(away)
env: export MINE = for this one
env: ; @sleep 0.2; echo "$$MINE $${#BIG} $$(umask) $$(ulimit -n) $$(pwd)"; $(away)
fail: ; @sleep 0.2; $(away); exit 3
killed: ; @sleep 0.2; $(away); kill -SEGV $$$$
many: ; @sleep 0.2; $(away); i=0; while [ $$i -lt 20000 ]; do echo "line $$i of many"; i=$$((i + 1)); done; echo last >&2
nothing: ; @sleep 0.2; $(away) >where; no-such-program-at-all x
plain: ; @sleep 0.3
tmps: t1 t2 t3 t4
t1 t2 t3 t4: ; @f=$$(mktemp); echo $$f; rm $$f; sleep 0.4; $(away)
leaves: ; @sleep 0.2; touch $$(mktemp -p "$$TMPDIR" left.XXXXXX); echo "$$TMPDIR"
slow: s1 s2 s3 s4 s5 s6
s1 s2 s3 s4 s5 s6: ; @python3 -c 'import time; time.sleep(0.5)'; $(away)
late: ; @($(away); until [ -e go ]; do sleep 0.1; done; echo late) & sleep 0.2
within: ; @$(MAKE) --no-print-directory -C sub
X
as sprite ws1 bash -c "cat >$JD/sub/Makefile" <<'X'
one two: ; @sleep 0.2; echo "$@ in $(notdir $(CURDIR)) $$(basename $$(pwd))"
all: one two
.DEFAULT_GOAL = all
X
check "ws2 is idle" until_true 60 idle
slots=$(on ws2 nproc)
guests() { on ws2 grep -c "(sprite-sh) of ws1 runs here" /var/log/sprite/migd.log; }
in_make() { in_d "mig make -s --local 1 --remote 4 -j5 $1"; }
some_away() { in_make all >$TMP/out; grep -q away $TMP/out; }
check "recipes run away" until_true 30 some_away
g=$(guests)
out=$(in_make all)
n=$(grep -c away <<<"$out")
same "all of them once" 24 "$(wc -l <<<"$out")"
check "and a move for each slot, not for each recipe" test $(($(guests) - g)) -le "$slots" || note "$(($(guests) - g)) for $n recipes, $slots slots"
said=
far() { until_true 8 eval 'said=$(in_make '"$1"'); [[ "$said" == *away* ]]'; }
goes() { if far "$2"; then pass "$1"; else flunk "$1"; note "$said"; fi; }
goes "environment, umask, limits, directory are the recipe's" env
same "as under make" "$(in_d "umask 027; ulimit -n 345; make -s env" | head -1)" "$(in_d "umask 027; ulimit -n 345; mig make -s --local 1 --remote 4 -j5 env" | head -1)"
goes "a status" fail
check "is make's to tell" grep -q "\[Makefile:[0-9]*: fail\] Error 3" <<<"$said" || note "$said"
goes "a death by a signal" killed
check "too" grep -q "\[Makefile:[0-9]*: killed\] Segmentation fault" <<<"$said" || note "$said"
goes "a lot of output" many
same "is whole" "$(echo 20002; seq 0 19999 | sed 's/.*/line & of many/' | md5sum)" "$(wc -l <<<"$said"; grep '^line' <<<"$said" | md5sum)"
same "a program that is not there is told of as by make" "$(in_d 'make -s nothing' | grep not.found)" "$(in_d 'mig make -s --local 1 --remote 4 -j5 nothing' | grep not.found)"
same "makes within" "one in sub sub two in sub sub" "$(in_make "within" | sort | xargs)"
same "a recipe with a descriptor of its own has it" "from three" "$(in_d "echo 'x: ; @sleep 0.2; cat <&3' >fd.mk; echo from three >three; exec 3<three; mig make -s -f fd.mk --remote 4")"
# ^Z stops what runs there, fg lets it go on
ticks() { on ws1 cat $JD/ticks 2>/dev/null; }
tick() { local t=$(ticks); until_true 5 eval '[ "$(ticks)" != "'"$t"'" ]'; }
still() { local t=$(ticks); sleep 0.5; [ "$(ticks)" = "$t" ]; }
lab exec ws1 -u sprite -- sh -c "cd $JD && exec python3 -" <<'X' &
import os, subprocess
p = subprocess.Popen("exec mig make -s --local 1 --remote 4 -j5 ticks </dev/null >ticks.out 2>&1", shell=True, preexec_fn=os.setpgrp)
open("make.pid", "w").write(str(p.pid))
s = p.wait()
open("make.rc", "w").write(str(s))
X
check "a recipe ticks there" until_true 30 eval '[ "$(on ws1 cat $JD/at 2>/dev/null)" = away ] && tick' || note "$(on ws1 cat $JD/ticks.out)"
group() { on ws1 kill -s $1 -- -$(on ws1 cat $JD/make.pid); }
group TSTP
check "^Z stops it" until_true 10 still
check "and make" eval '[ "$(on ws1 ps -o stat= -p $(on ws1 cat $JD/make.pid) | cut -c1)" = T ]'
group CONT
check "fg lets it go on" tick
group TSTP; group CONT
check "at once, too" tick
as sprite ws1 touch $JD/enough
check "to its end" until_true 30 on ws1 test -e $JD/make.rc
same "with status 0" 0 "$(on ws1 cat $JD/make.rc)"
# temporary files: in the home's /tmp, or in the tree that all share where that has a place for them
here=$(in_make tmps)
check "without /sprite/tmp they are in /tmp" eval '[ $(grep -c ^/tmp/ <<<"$here") = 4 ]' || note "$here"
on ws1 mkdir -m 1777 /sprite/tmp
there=$(in_make tmps)
check "with it, in a directory of the worker's" eval 'grep -q ^/sprite/tmp/mig-make......./ <<<"$there" && grep -q away <<<"$there"' || note "$there"
same "not where TMPDIR says otherwise" "4" "$(in_d "mkdir -p own; export TMPDIR=$JD/own; mig make -s --local 1 --remote 4 -j5 tmps" | grep -c "^$JD/own/")"
same "the directory goes with the worker" "" "$(until_true 10 on ws1 sh -c '[ -z "$(ls /sprite/tmp)" ]'; on ws1 ls /sprite/tmp)"
left=$(in_make leaves)
check "but for what a recipe has left there" until_true 10 on ws1 sh -c "ls $left/left.*" || note "$left"
# programs that are started again and again: the home is not told of each open of the same files
opens() { on ws1 spritefsd --status | python3 -c 'import json, sys; print(json.load(sys.stdin)["rpc"].get("Open", {"calls": 0})["calls"])'; }
in_make slow >/dev/null
n=$(opens); slow=$(in_make slow); n=$(($(opens) - n)) a=$(grep -c away <<<"$slow")
check "files of the home that are open again and again are opened there once" eval '[ $a -ge 3 ] && [ $n -lt $((a * 10)) ]' || note "$n opens for $a recipes"
# one that leaves somebody behind
as sprite ws1 bash -c "cd $JD; mig make -s --local 1 --remote 4 -j5 late plain r1 r2 >late.out 2>&1 </dev/null; echo \$? >late.rc" </dev/null >/dev/null 2>&1 &
check "make waits for no one that a recipe leaves behind" until_true 30 on ws1 test -s $JD/late.rc
as sprite ws1 touch $JD/go
wait
# one that writes without end, and nobody who reads it any more
on_ws2() { on ws2 pgrep -u sprite -x yes; }
endless() {
	as sprite ws1 bash -c "cd $JD; mig make -s --local 1 --remote 4 -j5 endless >/dev/null 2>&1 </dev/null & echo \$! >endless.pid; wait" </dev/null >/dev/null 2>&1 &
	until_true 3 on_ws2 && return 0
	on ws1 sh -c "kill -9 \$(cat $JD/endless.pid); pkill -9 -u sprite -x yes; true"
	return 1
}
for i in 1 2 3; do endless && break; done # (not by check: what runs behind would hold its pipe)
check "a recipe that writes without end runs away" on_ws2
on ws1 sh -c "kill -9 \$(cat $JD/endless.pid)"
check "when its make is killed it ends" until_true 20 eval '! on_ws2'
wait
check "nothing stays over there" until_true 30 eval '[ -z "$(residue 2>/dev/null | grep -v ws3)" ] && [ "$(mig ps --no-header | wc -l)" = 0 ]' || note "$(residue) $(mig ps)"
finish
