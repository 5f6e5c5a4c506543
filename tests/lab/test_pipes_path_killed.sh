# SPDX-License-Identifier: Apache-2.0
# lab: own
# A daemon is killed -9 while bytes of a named pipe go by a connection between two nodes: the source's spritefs, the sink's, the file server. Writer and reader end, by the rule of a partner that is
# gone; what was read is in order, nothing is missing in it; and the next ones find each other and go directly again.
. "$(dirname "$0")/lib.sh"
. "$HERE/fifo_jobs.sh"
. "$HERE/faults.sh"
lab_up -n 2 --bind "$SPRITE_TESTS:/opt/sprite/tests"
P=/opt/sprite/tests/tools/fifo_stream
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/p && mkfifo -m 666 /sprite/p/f' || flunk "mkfifo"
served() { [ -n "$(carried ws1 direct)" ] && [ -n "$(carried ws2 direct)" ] && on ws1 test -p /sprite/p/f && on ws2 test -p /sprite/p/f; }

N=40000
for who in spritefs:ws1 spritefs:ws2 spritefsd:fs1; do
	stream ws1 f $((++N))
	fault $who
	same "$who is killed: the writer hears of it" "1 Broken pipe" "$(over wf$N) $(on ws1 cat /sprite/p/wf$N.out | grep -o 'Broken pipe')"
	same "the reader comes to an end" 0 "$(over rf$N)"
	check "up to there all has come, in order" eval '[[ "$(numbers log.f$N)" =~ ^end\ [1-9][0-9]*$ ]]' || note "$(numbers log.f$N)"
	check "there is another" until_true 20 served
done
stream ws1 f 2000
as sprite ws1 touch /sprite/p/go.f2000
same "then all comes" "0 0 end 2000" "$(over wf2000) $(over rf2000) $(numbers log.f2000)"
finish
