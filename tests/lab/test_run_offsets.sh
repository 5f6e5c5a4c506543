# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 300
# mig run: a file whose offset the command has in common with who started it (a script whose output goes to a file) is read and written as if the command had run at home.
. "$(dirname "$0")/lib.sh"
job_dir
HD=/home/sprite/run.$$
as sprite ws1 mkdir -p $HD
trap 'on ws1 rm -rf $JD $HD; rm -rf "$TMP"' EXIT
# here SCRIPT: by a shell at home, in the directory of files; what it leaves in f
here() { as sprite ws1 bash -c "cd $D; : >f; $1" </dev/null; }
left() { here "$1" >/dev/null 2>&1; as sprite ws1 cat $D/f; }
lines() { printf '%s\n' "$@"; }

rows() {
	same "$W: who goes on writes behind it" "$(lines begin 1 2 3 end)" "$(left '( echo begin; mig run -H ws2 seq 3; echo end ) >f')"
	same "$W: and so does the next one" "$(lines 1 2 3 4)" "$(left 'for i in 1 2 3 4; do mig run -H ws$((2 + i % 2)) echo $i; done >f')"
	same "$W: output and errors by one description" "$(lines a b a c b)" "$(left '( echo a; mig run -H ws2 sh -c "echo b >&2; echo a"; echo c; mig run -H ws3 sh -c "echo b >&2" ) >f 2>&1')"
	same "$W: the last of a pipeline" "$(lines x 3 2 1 y)" "$(left '( echo x; mig run -H ws2 seq 3 | mig run -H ws3 sort -r; echo y ) >f')"
	same "$W: opened for reading too" "$(lines x 1 2 y)" "$(left '( echo x; mig run -H ws2 seq 2; echo y ) 1<>f')"
	same "$W: appended, as ever" "$(lines x 1 2 y)" "$(left '( echo x; mig run -H ws2 seq 2; echo y ) >>f')"
	same "$W: what is killed" "$(lines x one end)" "$(left '( echo x; mig run -H ws2 sh -c "echo one; kill -9 \$\$"; echo end ) >f')"
	same "$W: one that moves, and comes home" "$(lines begin 1 2 3 4 end)" \
		"$(left '( echo begin; mig run -H ws2 sh -c "echo 1; until [ -e g1 ]; do sleep 0.1; done; echo 2; until [ -e g2 ]; do sleep 0.1; done; echo 3; until [ -e g3 ]; do sleep 0.1; done; echo 4" & p=$!
			n() { until [ "$(wc -l <f)" = $1 ]; do sleep 0.1; done; }; n 2; mig move -H ws3 $p >&2; touch g1; n 3; mig home $p >&2; touch g2; n 4; touch g3; wait; echo end; rm g1 g2 g3 ) >f')"
	same "$W: in the background, several, and who started them meanwhile" 400 \
		"$(left '( for i in 1 2 3; do mig run -H ws$((2 + i % 2)) sh -c "for k in \$(seq 100); do echo away-$i-\$k; done" & done; for k in $(seq 100); do echo here-$k; sleep 0.005; done; wait ) >f' | sort -u | wc -l)"
	same "$W: who outlives the command" "$(lines now end late)" "$(left '( mig run -H ws2 sh -c "(until [ -e g ]; do sleep 0.1; done; echo late) & echo now"; echo end; touch g; until grep -q late f; do sleep 0.1; done; rm g ) >f')"
	same "$W: one that seeks in its output" "$(lines head end)" "$(left '( mig run -H ws2 python3 -c "
import os
os.write(1, b\"xxxx\\n\"); os.lseek(1, 0, 0); os.write(1, b\"head\"); os.lseek(1, 0, 2)"; echo end ) >f')"
	same "$W: and stays where it has sought" "$(lines aZcd)" "$(left '( mig run -H ws2 python3 -c "
import os
os.write(1, b\"abcd\\n\"); os.lseek(1, 1, 0)"; printf Z ) >f')"
	same "$W: into the middle of a file" "$(lines 1 2 y z)" "$(left 'printf "a\nb\nc\nz\n" >f; ( mig run -H ws2 seq 2; echo y ) 1<>f')"
	same "$W: no flag is left" 0100001 "$(here '( mig run -H ws2 true; awk "/flags/ { print \$2 }" /proc/$BASHPID/fdinfo/1 >&2 ) 2>&1 >f' 2>&1)"
	same "$W: what it has read is read" "defgh" "$(here 'echo abcdefgh >f; { mig run -H ws2 head -c 3 >/dev/null; cat; } <f')"
	same "$W: a shell's lines" "$(lines 1:a 2:b 3:c)" "$(here 'printf "a\nb\nc\n" >f; n=0; while read -r l; do n=$((n + 1)); mig run -H ws2 echo $n:$l; done <f')"
	same "$W: lines of one input by turns" "$(lines h:1 a:2 h:3 a:4)" "$(here 'seq 4 >f; { for i in 1 2; do read -r l; echo h:$l; mig run -H ws2 bash -c "read -r l; echo a:\$l"; done; } <f')"
	same "$W: a reader that is killed" "$(lines 2 3)" "$(here 'seq 3 >f; { mig run -H ws2 bash -c "read -r l; kill -9 \$\$"; cat; } <f 2>/dev/null')"
	same "$W: a reader that moves, and comes home" "$(lines 1 2 3 4)" \
		"$(here 'seq 4 >f; { mig run -H ws2 bash -c "read -r l; echo \$l; echo \$\$ >pid; until [ -e g1 ]; do sleep 0.1; done; read -r l; echo \$l; until [ -e g2 ]; do sleep 0.1; done; read -r l; echo \$l" &
			until [ -s pid ]; do sleep 0.1; done; mig move -H ws3 $(cat pid) >&2; touch g1; sleep 0.3; mig home $(cat pid) >&2; touch g2; wait; rm g1 g2 pid; cat; } <f 2>/dev/null')"
	same "$W: -b" "$(lines x 1 2)" "$(left '( echo x; mig run -b -H ws2 seq 2; until [ "$(wc -l <f)" = 4 ]; do sleep 0.1; done ) >f' | grep -vE '^[0-9]{2,}$')"
}
W="the home's disk" D=$HD; rows
W="/sprite" D=$JD; rows
check "nothing is left" until_true 5 eval '[ -z "$(residue)" ]' || note "$(residue)"
finish
