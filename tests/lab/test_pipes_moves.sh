# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 200
# Who has ends of a named pipe open moves: while it waits for a partner, for room, for bytes, and while bytes go through, both ends at once. No record is lost,
# doubled or out of order, and nobody sees an end or a broken pipe.
. "$(dirname "$0")/lib.sh"
. "$HERE/fifo_jobs.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests"
P=/opt/sprite/tests/tools/fifo_stream
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/p && mkfifo -m 666 /sprite/p/f /sprite/p/g' || flunk "mkfifo"

# NODE NAME NR: a process of that name is in that system call there
in_call() { sh_on $1 'for p in $(pgrep -x "$1"); do [ "$(cut -d" " -f1 /proc/$p/syscall)" = $2 ] && exit 0; done; exit 1' $2 $3; }

start ws1 w "$P w f a 4000"
W=$PID
check "a writer waits for a reader" until_true 20 in_call ws1 fifo_stream 257
check "it moves while it waits" until_true 10 mig move -q -H ws2 $W
check "and waits over there" until_true 20 in_call ws2 fifo_stream 257
start ws3 r "$P r f log"
same "a reader on a third host lets it in; all comes" "0 0 end 4000" "$(over w) $(over r) $(numbers log)"

start ws1 w2 "$P w g a 4000"
W=$PID
start ws3 r2 "sh -c 'exec 3<g; kill -STOP \$\$; exec $P r /dev/fd/3 log2'"
R=$PID
check "a full pipe stops a writer" until_true 20 in_call ws1 fifo_stream 1
check "it moves while it waits for room" until_true 10 mig move -q -H ws2 $W
check "to where the reader is" until_true 10 mig move -q -H ws3 $W
check "and home" until_true 10 mig home -q $W
as sprite ws3 kill -CONT $R
same "all comes" "0 0 end 4000" "$(over w2) $(over r2) $(numbers log2)"
[ $FAILED = 0 ] || for n in ws1 ws2 ws3; do lab logs $n spritefs | tail -n 20 | sed "s/^/#   $n: /"; done
python3 "$HERE/pipes_random.py" "$BIN/sprite-lab" 1 2 1 1 0 200000 || FAILED=1
finish
