#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# An open file goes from node to node: without a name, with its locks, with an offset that both sides go on using; refused to who may not.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
for n in ws1 ws2; do lab exec $n -- tee /tmp/hand.py <"$HERE/hand.py" >/dev/null; done
N=0
end() { # NAME NODE [USER]: a process there that takes commands
	local i=$((N++)) name=$1 node=$2 user=${3:-root}
	mkfifo "$TMP/in$i" "$TMP/out$i"
	lab exec $node -u $user -- python3 /tmp/hand.py <"$TMP/in$i" >"$TMP/out$i" 2>"$TMP/err$i" &
	eval "exec {IN_$name}>\"$TMP/in$i\" {OUT_$name}<\"$TMP/out$i\""
}
say() { # NAME COMMAND...: its answer
	local in=IN_$1 out=OUT_$1 answer; shift
	echo "$*" >&${!in}; read -r -t 100 answer <&${!out} || answer="no answer"
	echo "$answer"
}
stop() { local in=IN_$1 out=OUT_$1; eval "exec ${!in}>&- ${!out}<&-"; }
name_of() { echo "${1##* }"; }
W='O_RDWR|O_CREAT'

# ---- a file without a name
end a ws1; end b ws2
same "made" ok "$(say a open /sprite/gone $W)"
say a write hello >/dev/null; say a unlink /sprite/gone >/dev/null
offer=$(say a offer)
same "offered where it stands" "ok 5" "${offer% *}"
same "the other node opens it" ok "$(say b open /sprite/$(name_of "$offer") O_RDWR)"
same "and reads what was written" "ok hello" "$(say b read 10)"
say a close >/dev/null
same "it lives on when the first has closed" "ok hello" "$(say b read 10)"
say b write HELLO >/dev/null
same "and can be written" "ok HELLO" "$(say b read 10)"
back=$(say b offer)
same "it goes back" "ok" "$(say a open /sprite/$(name_of "$back") O_RDWR)"
say b close >/dev/null
same "with its contents" "ok HELLO" "$(say a read 10)"
# close(2) does not wait for the server to hear of it
closed() { local r; r=$(say b open /sprite/$(name_of "$back") O_RDWR); [ "$r" != ok ] || say b close >/dev/null; [ "$r" = ENOENT ]; }
check "a name is good only while who offers has it open" until_true 10 closed

# ---- locks
end c ws2; end d ws1
for x in a c; do say $x open /sprite/locked $W >/dev/null; done
say d open /sprite/locked $W >/dev/null
same "the first takes a flock" ok "$(say a flock)"
same "and a range" ok "$(say a lockf 10 20)"
same "others do not get the flock" EAGAIN "$(say c flock)"
same "nor the range" EAGAIN "$(say c lockf 15 1)"
offer=$(say a offer)
say b open /sprite/$(name_of "$offer") O_RDWR >/dev/null
same "who takes over gets the flock at once" ok "$(say b flock)"
same "and the range" ok "$(say b lockf 10 20)"
same "others still do not" EAGAIN "$(say d flock)"
say a close >/dev/null
same "nor when the first has closed" EAGAIN "$(say c flock)"
same "nor the range" EAGAIN "$(say d lockf 29 1)"
say b close >/dev/null
same "until the second closes" ok "$(say c flock)"
same "the range too" ok "$(say d lockf 29 1)"
say c close >/dev/null; say d close >/dev/null
# given up: the source keeps what it has, and only it
say a open /sprite/locked $W >/dev/null; say a flock >/dev/null
offer=$(say a offer); say b open /sprite/$(name_of "$offer") O_RDWR >/dev/null; say b flock >/dev/null
say b close >/dev/null
same "the offer is taken back" ok "$(say a cancel)"
same "its name is worth nothing" ENOENT "$(say b open /sprite/$(name_of "$offer") O_RDWR)"
say c open /sprite/locked $W >/dev/null
same "the lock is where it was" EAGAIN "$(say c flock)"
say a close >/dev/null

# two descriptions of one file, each with its own lock: each claim gets its own
say a open /sprite/two $W >/dev/null; say a flock >/dev/null
say d open /sprite/two $W >/dev/null; say d lockf 0 10 >/dev/null
of_a=$(say a offer); of_d=$(say d offer)
say b open /sprite/$(name_of "$of_d") O_RDWR >/dev/null; say c open /sprite/$(name_of "$of_a") O_RDWR >/dev/null
same "each description's locks go with it and not with the other" "EAGAIN ok ok EAGAIN" "$(say b flock) $(say c flock) $(say b lockf 0 10) $(say c lockf 0 10)"
for x in a b c d; do say $x close >/dev/null; done

# ---- the server is killed in the middle
restart() { lab kill fs1 spritefsd KILL; until_true 10 lab start fs1 spritefsd; }
restart_client() { on $1 sh -c 'kill -9 $(pgrep -x spritefs)'; }
say a open /sprite/killed $W >/dev/null; say a flock >/dev/null; say a lockf 10 20 >/dev/null
offer=$(say a offer)
restart; restart_client ws1
same "an offer lives on when the server and who made it are killed" ok "$(say b open /sprite/$(name_of "$offer") O_RDWR)"
same "so do the locks of it" "ok ok" "$(say b flock) $(say b lockf 10 20)"
restart; restart_client ws2
say c open /sprite/killed $W >/dev/null
same "when it is killed while both hold them too" "EAGAIN EAGAIN" "$(say c flock) $(say c lockf 15 1)"
say a close >/dev/null; restart
same "and once more" "EAGAIN EAGAIN" "$(say c flock) $(say c lockf 15 1)"
say b close >/dev/null
same "until the last lets go" "ok ok" "$(say c flock) $(say c lockf 15 1)"
say c close >/dev/null

# ---- one offset, two nodes: (a; b) > log
T='O_WRONLY|O_CREAT|O_TRUNC'
say a open /sprite/log $T >/dev/null; say a lines first 20 >/dev/null
offer=$(say a offer shared)
set -- $offer
say b open /sprite/$3 O_WRONLY >/dev/null
same "it stands where the other did" "ok $2" "$(say b seek $2)"
say a open /sprite/$3 O_WRONLY >/dev/null; say a seek $2 >/dev/null # in the place of the old one, as an engine does it
(say a lines one 400 >"$TMP/one") & one=$!
(say b lines two 400 >"$TMP/two") & two=$!
until_true 30 sh_on ws1 '[ $(grep -ac two /sprite/log) -gt 20 ]'
lab kill fs1 spritefsd KILL; until_true 10 lab start fs1 spritefsd
on ws2 sh -c 'kill -9 $(pgrep -x spritefs)'
wait $one $two
same "both wrote all they had" "ok ok" "$(cat "$TMP/one" "$TMP/two" | xargs)"
# and on to the first again, which has a second description of it then
offer=$(say b offer shared); set -- $offer
say d open /sprite/$3 O_WRONLY >/dev/null; say d seek $2 >/dev/null
say d lines three 50 >/dev/null; say a lines four 50 >/dev/null; say b lines five 50 >/dev/null
for x in a b d; do say $x close >/dev/null; done
expect() { python3 - "$@" <<'P'
import sys
for w in sys.argv[1:]:
    who, n = w.split(':')
    for i in range(int(n)): print('%s %06d %s' % (who, i, '.' * (i * 37 % 300)))
P
}
expect first:20 one:400 two:400 three:50 four:50 five:50 | sort >"$TMP/want"
on ws1 sort /sprite/log >"$TMP/got"
same "every line is there, whole and once" "$(sha1sum <"$TMP/want")" "$(sha1sum <"$TMP/got")"
[ $FAILED = 0 ] || diff "$TMP/want" "$TMP/got" | head -5

# an offer of that kind that came to nothing leaves nothing
say a open /sprite/log2 $T >/dev/null; say a lines first 5 >/dev/null
say a offer shared >/dev/null; say a cancel >/dev/null; say a lines second 5 >/dev/null
offer=$(say a offer shared)
same "it is offered where it stands now" "$(on ws1 stat -c %s /sprite/log2)" "$(echo "$offer" | cut -d' ' -f2)"
say a close >/dev/null

# ---- who may
end u ws1 sprite
say u open /sprite/mine $W >/dev/null
same "an ordinary user hands nothing over" EPERM "$(say u offer)"
say a open /sprite/theirs $W >/dev/null; offer=$(say a offer)
same "nor takes anything" ENOENT "$(say u open /sprite/$(name_of "$offer") O_RDWR)"
same "a wrong name leads nowhere" ENOENT "$(say b open /sprite/.sprite-hand-00112233445566778899aabbccddeeff O_RDWR)"
same "a file that is read shares no offset" ENOTSUP "$(say a offer shared)"
for x in a b c d u; do stop $x; done
finish
