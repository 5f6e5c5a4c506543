# SPDX-License-Identifier: Apache-2.0
# lab: own
# The jobserver of GNU make over a named pipe with clients on several nodes: no token is doubled, lost or stuck where nobody reads; with make itself, where it knows that (from 4.4 on;
# GNUMAKE=FILE: that one, where Debian's does not).
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests" ${GNUMAKE:+--bind "$(dirname "$GNUMAKE"):/opt/gnumake"}
MAKE=${GNUMAKE:+/opt/gnumake/}make
P=/opt/sprite/tests/tools/jobserver
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/j && mkfifo -m 666 /sprite/j/f' || flunk "mkfifo"
"$BIN/sprite-lab" exec ws1 -u sprite -- $P /sprite/j/f put abc >"$TMP/put" 2>&1 </dev/null & PUT=$!
until_true 20 grep -q ready "$TMP/put" || flunk "tokens are there"
for n in ws1 ws2 ws3; do
	"$BIN/sprite-lab" exec $n -u sprite -- $P /sprite/j/f /sprite/j 3 40 >"$TMP/$n" 2>&1 </dev/null & C="${C:-} $!"
done
for n in $C; do wait "$n" || flunk "its clients get tokens: $(cat "$TMP"/ws?)"; done
check "nine clients on three nodes had three tokens 40 times each" test ! -s "$TMP/ws1" -a ! -s "$TMP/ws2" -a ! -s "$TMP/ws3"
same "and all are there, once" abc "$(as sprite ws3 timeout 200 $P /sprite/j/f left 3)"
on ws1 pkill -u sprite -x jobserver
wait $PUT

if sh_on ws1 "$MAKE --version | head -1 | grep -qE ' (4\.[4-9]|4\.[1-9][0-9]|[5-9])'"; then
	# each recipe is on another node a make of its own, which takes tokens of ours (of the pipe that make gives all recipes but one as standard input others have that end, too)
	on ws1 sh -c 'cat >/sprite/j/Makefile; chmod 666 /sprite/j/Makefile' <<'MK'
all: a1 a2 a3 a4; @:
a%:; +mig run -H ws$$((1 + $* % 3)) -- $(MAKE) sub N=$* </dev/null
sub: $(foreach i,1 2 3 4 5 6,s$(N).$(i)); @:
s%:; @echo $(MAKEFLAGS) >>done.$*; sleep 0.1
MK
	check "make -j4, its makes on three nodes" as sprite ws1 sh -c 'cd /sprite/j && TMPDIR=/sprite/j timeout 120 $1 -s -j4 --jobserver-style=fifo' sh $MAKE
	same "all has been made, once, with tokens of a named pipe" 24 "$(on ws1 sh -c 'cat /sprite/j/done.* | grep -c jobserver-auth=fifo:/sprite/j/')"
else
	note "make here is too old for a jobserver by name"
fi
finish
