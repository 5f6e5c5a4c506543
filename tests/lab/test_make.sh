# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 300
# mig make: what plain make builds, built on several hosts: same files, same status, output whole; Ctrl-C, lost hosts, no master.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
idle_hosts() { mig hosts --no-header -o NAME,STATE | awk '$2 == "idle" { print $1 }' | sort | tr '\n' ' '; }
idle() { [[ "$(idle_hosts)" == *"$1"* ]]; }
D=/sprite/project
# in_d 'script': as the user, in the project, nothing of this machine as a descriptor
in_d() { as sprite ws1 bash -c "cd $D && { $1; } </dev/null 2>&1 | cat; exit \${PIPESTATUS[0]}"; }
away() { mig ps --no-header | wc -l; }
nobody_away() { [ "$(away)" = 0 ] && [ -z "$(residue)" ]; }
some_away() { [ "$(away)" -gt 0 ]; }
# Programs that take long enough to be worth a trip.
as sprite ws1 mkdir $D && as sprite ws1 bash -c "cat >$D/make-sources" <<'X'
for i in $(seq 12); do
	echo "int part$i(int x)"; echo "{ int s = x;"
	for k in $(seq 40); do echo "for (int i = 0; i < s % 7 + $k; i++) s = s * $((k * i + 3)) + (s >> $((k % 13))) % 1009;"; done
	echo "return s; }"
done | awk '/^int part/ { n++ } { print >("part" n ".c") }'
{ for i in $(seq 12); do echo "int part$i(int);"; done; echo '#include <stdio.h>'; echo 'int main(void) { int s = 1;'; for i in $(seq 12); do echo "s = part$i(s);"; done; echo 'printf("%d\n", s); }'; } >main.c
X
as sprite ws1 bash -c "cat >$D/Makefile" <<'X'
OBJS = $(addprefix part,$(addsuffix .o,1 2 3 4 5 6 7 8 9 10 11 12)) main.o
CFLAGS = -O2 -fno-strict-overflow -w
program: $(OBJS)
	gcc -o $@ $(OBJS)
clean:
	rm -f *.o program
X
as sprite ws1 bash -c "cat >$D/odd.mk" <<'X'
all: whole1 whole2 whole3 whole4 stay sub after
whole%:
	@for i in 1 2 3 4 5; do echo $@ line $$i; sleep 0.1; done
.NOEXPORT: stay
stay:
	@sleep 0.4; echo the stayer
sub:
	$(MAKE) -f sub.mk
broken:
	@sleep 0.2; echo it breaks >&2; exit 3
after: broken
	touch never
X
as sprite ws1 bash -c "cat >$D/sub.mk" <<'X'
# more than can be under way before the slots come
all: $(addprefix inner,1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24)
inner%:
	@sleep 0.4; echo $@
X
as sprite ws1 bash -c "cat >$D/slow.mk" <<'X'
all: $(addprefix slow,1 2 3 4 5 6 7 8 9 10)
slow%:
	@until [ -e go ]; do sleep 0.1; done; echo $@ done
X
as sprite ws1 bash -c "mkdir $D/inner; cat >$D/shells.mk" <<'X'
SHELL := $(shell command -v bash)
all::
	@[[ a == a ]] && echo bash
all::
	@$(MAKE) -s -f flags.mk
all::
	@cd inner && $(MAKE) -s
all:: own.done
own.done: SHELL := /usr/bin/python3
own.done:
	@print("a target's own", 1 + 1)
X
as sprite ws1 bash -c "cat >$D/flags.mk" <<'X'
.SHELLFLAGS := -eu -c
all:
	@-false; echo never
	@echo flags
X
as sprite ws1 bash -c "cat >$D/inner/Makefile" <<'X'
SHELL = /usr/bin/python3
.ONESHELL:
all:
	@x = 3
	print("python", x)
X
in_d 'bash make-sources'
in_d 'make -s -j2 program && md5sum *.o program >/tmp/plain.sums && ./program >/tmp/plain.out && make -s clean'
check "hosts are idle" until_true 60 idle "ws2 ws3"

# a real build
out=$(in_d 'mig make -j6 --verbose program'); rc=$?
same "a build ends well" 0 $rc || note "$(tail -20 <<<"$out")"
for h in ws2 ws3; do check "compilers ran on $h" grep -q -- "-> $h" <<<"$out"; done
check "every file is that of a plain make" in_d 'md5sum --quiet -c /tmp/plain.sums'
same "and the program works" "$(on ws1 cat /tmp/plain.out)" "$(in_d ./program)"
same "nothing is to be done the second time" 0 "$(in_d 'mig make -q program'; echo $?)"
check "nothing is left over there" until_true 20 nobody_away

# status, -k, output whole, .NOEXPORT, recursive make
out=$(in_d 'mig make -kj8 --verbose -f odd.mk'); rc=$?
same "status of a build that fails" "$(in_d 'make -k -j30 -f odd.mk >/dev/null 2>&1'; echo $?)" $rc
same "the job server is ours, however -j is written" "" "$(grep -i jobserver <<<"$out")"
check "what the failed recipe said is shown" grep -qx "it breaks" <<<"$out"
check "-k builds the rest" grep -qx "inner4" <<<"$out"
check "but not what needs what failed" on ws1 test ! -e $D/never
for i in 1 2 3 4; do
	same "output of recipe $i is whole" "$(for k in 1 2 3 4 5; do echo whole$i line $k; done)" "$(grep -v '^mig:' <<<"$out" | grep -A4 "^whole$i line 1")"
done
# What make collects itself it reads as soon as a recipe's shell has ended.
as sprite ws1 bash -c "cat >$D/sync.mk" <<'X'
N := $(shell seq 8)
all: $(addprefix s,$(N)) $(addprefix l,$(N)) e
s%: ; @sleep 0.2; echo short $*
l%: ; @seq -f "long $* %g" 4000; echo err $* >&2
e: ; @env true; echo last
X
want=$(in_d 'make -j8 -Otarget -f sync.mk 2>&1' | sort | md5sum)
for opts in "-Otarget" "-Oline" "-Orecurse" "-O --remote 0" "-Otarget --local 1"; do
	same "$opts loses nothing" "$want $want $want" "$(for k in 1 2 3; do in_d "mig make -j8 $opts -f sync.mk 2>&1" | sort | md5sum; done | paste -sd ' ')"
done
same ".NOEXPORT runs, here" "the stayer" "$(grep "the stayer" <<<"$out")"
sub_away() { local out; out=$(in_d 'mig make -j8 --verbose -f odd.mk sub'); grep -q "echo inner[0-9]* -> ws" <<<"$out"; }
check "recipes of a make in the make run away too" until_true 20 sub_away # slots come when they come
refused "without -k the first error ends it" 2 "it breaks" in_d 'mig make -j8 -f odd.mk broken'
refused "a wrong option of ours" 64 "expected a number" in_d 'mig make --local x'
refused "high priority is root's, said before anything runs" 64 "priority high is root's" in_d 'mig make --priority high'
refused "a target that is not there" 2 "No rule to make target" in_d 'mig make nosuchtarget'

# the makefile that we read last is not to be seen
refused "a makefile without targets" 2 'No targets.  Stop.' in_d 'mig make -f /dev/null'
as sprite ws1 bash -c "cat >$D/list.mk" <<'X'
help: ; @echo "[$(MAKEFILE_LIST)] [$(.DEFAULT_GOAL)] [$(MAKECMDGOALS)]"
# A makefile that is made anew, and another goal.
include made.inc
made.inc: ; @echo '.DEFAULT_GOAL := other' >$@
other: help ; @$(MAKE) -s -f sublist.mk
X
as sprite ws1 bash -c "cat >$D/sublist.mk" <<'X'
all: ; @echo "sub [$(MAKEFILE_LIST)] [$(.DEFAULT_GOAL)]"
X
same "lists and goals are as under make" "$(in_d 'rm -f made.inc; make -s -f list.mk; make -s -f list.mk -f sub.mk help')" "$(in_d 'rm -f made.inc; mig make -s -f list.mk; mig make -s -f list.mk -f sub.mk help')"
as sprite ws1 bash -c "printf 'all:\n\t+@mig make -s -f list.mk help\n' >$D/within.mk"
same "a recipe of make's may be a mig make" "$(in_d 'make -s -f list.mk help')" "$(in_d 'make -sj4 -f within.mk')"
same "with variables on make's command line too" "$(in_d 'make -s -f list.mk help')" "$(in_d 'make -sj4 -f within.mk X=1')"

# one shell for all lines of a recipe, as make knows it: prefixes of all lines are taken off
as sprite ws1 bash -c "printf '.ONESHELL:\\nall:\\n\\t@x=a\\n\\t@echo \$\$x shell\\n' >$D/oneshell.mk"
same "one shell for all lines of a recipe" "a shell" "$(in_d 'mig make -j2 -f oneshell.mk')"
same "what follows -- are targets" "$(in_d 'make -s -f list.mk -- help')" "$(in_d 'mig make -s -f list.mk -- help')"

# the shells of makefiles, each its own
want=$(in_d 'make -s -k -f shells.mk'; echo $?)
same "recipes are run by the shell that the makefile sets, in makes within too" "$(sort <<<"$want")" "$({ in_d 'mig make -s -k -f shells.mk'; echo $?; } | sort)"
same "which are these" "bash flags python 3 a target's own 2 0" "$(grep -v '^make' <<<"$want" | xargs -d '\n')"

# a host is lost in the middle
in_d 'mig make -j8 --verbose -f slow.mk >lost.out 2>&1; echo $? >lost.rc' &
check "recipes are away" until_true 20 some_away
away_on() { mig ps --no-header | grep -cw "$1"; }
lab input ws2
check "the owner of a host comes back: all leave it" until_true 20 eval '[ "$(away_on ws2)" = 0 ]'
on ws1 touch $D/go
check "the build goes on" until_true 60 on ws1 test -e $D/lost.rc
same "and ends well" 0 "$(on ws1 cat $D/lost.rc)"
same "each recipe ran once" "$(for i in $(seq 10); do echo slow$i done; done | sort)" "$(on ws1 grep done $D/lost.out | grep -v '^mig:' | sort)" || note "$(on ws1 cat $D/lost.out)"
wait
on ws1 rm $D/go

# Ctrl-C reaches everything
check "hosts are idle again" until_true 60 idle "ws2 ws3"
as sprite ws1 bash -c "cd $D; set -m; (exec mig make -j8 -f slow.mk >int.out 2>&1 </dev/null) & p=\$!; echo \$p >int.new; mv int.new int.pid; wait \$p; echo \$? >int.rc" </dev/null >/dev/null 2>&1 &
check "recipes are away before Ctrl-C" until_true 30 some_away
on ws1 sh -c "kill -INT -\$(cat $D/int.pid)"
check "Ctrl-C ends the make" until_true 30 on ws1 test -s $D/int.rc
same "with the status of a make that was interrupted" 130 "$(on ws1 cat $D/int.rc)" || note "$(on ws1 cat $D/int.out)"
check "and everything that was away" until_true 20 nobody_away || note "$(residue) $(mig ps)"
wait

# without migd all runs here
lab kill ws1 migd TERM >/dev/null
out=$(in_d 'make -s clean && mig make -s --local 2 --remote 4 program && md5sum --quiet -c /tmp/plain.sums'); rc=$?
same "without migd it builds here" 0 $rc || note "$out"
same "and says so, in one line" "mig: all runs here: /run/sprite/migd.sock: nobody answers there: is the daemon running?" "$out"
refused "a configuration that was named and is not there" 78 /nope in_d 'SPRITE_CONF=/nope mig ps'
finish
