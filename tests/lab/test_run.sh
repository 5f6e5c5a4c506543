# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 120
# mig run: a command runs elsewhere as if here: arguments, environment, directory, limits, files, pipes, exit status, signals.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
same "exit status" 13 "$(as sprite ws1 mig run -H ws2 sh -c 'exit 13'; echo $?)"
same "killed by a signal" 143 "$(as sprite ws1 bash -c 'mig run -H ws2 sh -c "kill -TERM \$\$"; echo $?')"
same "a command that is not there" 127 "$(as sprite ws1 mig run -H ws2 no-such-command-at-all >/dev/null 2>&1; echo $?)"
same "a host that is not there" 125 "$(as sprite ws1 mig run -H nowhere true >/dev/null 2>&1; echo $?)"
same "arguments, environment, directory, umask" "a b|c x=y z $JD 0027" "$(as sprite ws1 bash -c "cd $JD; umask 027; X='y z' mig run -H ws2 sh -c 'echo \"\$1|\$2 x=\$X \$(pwd) \$(umask)\"' sh 'a b' c" | tr -d '\r')"
same "host name and users are the home's" "ws1 sprite ws1" "$(as sprite ws1 mig run -H ws2 sh -c 'echo $(hostname) $(id -un) $(cat /usr/sprite-node)')"
as sprite ws1 bash -c "cd $JD; mig run -H ws2 sh -c 'echo \$\$ >pid; exec sleep 1000' </dev/null >/dev/null 2>&1 & wait" &
k=$!
until_true 5 on ws1 test -s $JD/pid
check "it runs there" until_true 5 on ws2 pgrep -x -u sprite sleep
check "and has a pid at home" eval 'on ws1 ps -o args= -p $(on ws1 cat $JD/pid) | grep -q sleep'
on ws1 sh -c "kill -TERM \$(cat $JD/pid)"; wait $k
same "output to a pipe, all of it, in order" "$(seq 20000 | sha1sum)" "$(as sprite ws1 mig run -H ws2 seq 20000 | sha1sum)"
same "input from a pipe" "$(seq 20000 | sha1sum)" "$(seq 20000 | as sprite ws1 bash -c 'cat | mig run -H ws3 cat | cat' | sha1sum)"
same "a pipeline with two away" "$(seq 5000 | sort -r | sha1sum)" "$(as sprite ws1 bash -c 'seq 5000 | mig run -H ws2 cat | mig run -H ws3 sort -r' | sha1sum)"
same "who writes to a pipe that nobody reads any more is told by SIGPIPE" "y 141" "$(as sprite ws1 bash -c 'mig run -H ws2 yes | head -1; echo ${PIPESTATUS[0]}' | xargs)"
same "and so is who waits for room" "141" "$(as sprite ws1 bash -c 'mig run -H ws2 head -c 5000000 /dev/zero | (sleep 1; exec true); echo ${PIPESTATUS[0]}')"
same "input by /dev/stdin" abc "$(as sprite ws1 bash -c 'echo abc | mig run -H ws2 cat /dev/stdin')"
same "output by /dev/stdout" abc "$(as sprite ws1 bash -c 'mig run -H ws2 sh -c "echo abc >/dev/stdout" | cat')"
same "a shell's <(...)" "1a2" "$(as sprite ws1 bash -c "mig run -H ws2 bash -c 'diff <(echo a) <(printf \"a\nb\n\")' | head -1")"
same "a file as output" "hello from there" "$(as sprite ws1 bash -c "mig run -H ws2 echo hello from there >$JD/o; cat $JD/o")"
same "a file of the home's own disk" "private" "$(as sprite ws1 bash -c 'echo private >/home/sprite/p; mig run -H ws2 cat /home/sprite/p; rm /home/sprite/p')"
check "gcc over there" as sprite ws1 bash -c "cd $JD; echo 'int main(void) { return 5; }' >a.c; mig run -H ws2 gcc -o a a.c && { ./a; [ \$? = 5 ]; }"
# mig by one who is away: it says where it has to be run, but for what works there
refused "mig over there" 69 'away from its home ws1: mig has to be run there' as sprite ws1 mig run -H ws2 mig ps
refused "mig run over there" 125 'away from its home ws1' as sprite ws1 mig run -H ws2 mig run true
same "mig run --local-ok over there runs there" here "$(as sprite ws1 mig run -H ws2 mig run --local-ok echo here)"
# in the background: its pid is said when it has gone, and only then
away() { mig ps --no-header -o PID,HOST | awk -v p="$1" '$1 == p { print $2 }'; }
as sprite ws1 bash -c "cd $JD; mig run -b -H ws2 sleep 1000 </dev/null 2>/dev/null >b.pid"
pid=$(on ws1 cat $JD/b.pid)
same "-b: it is there when it says so" ws2 "$(away "$pid")"
on ws1 kill -9 "$pid"
on ws2 mig lend off >/dev/null
refused "-b: one that cannot go: as without -b" 125 "ws2 does not lend itself" as sprite ws1 bash -c 'mig run -b -H ws2 true </dev/null'
same "and no pid is said" "" "$(as sprite ws1 bash -c 'mig run -b -H ws2 true </dev/null 2>/dev/null')"
on ws2 mig lend on >/dev/null
same "-b: a command that is not there" 127 "$(as sprite ws1 bash -c 'mig run -b -H ws2 no-such-command-at-all >/dev/null 2>&1 </dev/null; echo $?')"
check "nothing is left" until_true 5 eval '[ -z "$(residue)" ]' || note "$(residue)"
finish
