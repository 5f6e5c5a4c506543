# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 3000
# Named pipes on a busy machine: the cases of pipes.py REPEAT times (100), six at a time, beside niced processes that compute; 1,000 FIFOs, 1,000 waiting openers; a node that is cut off
# with what nobody has read. CASES="a b": only these.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$HERE:/opt/sprite/lab"
BURN=
for i in 1 2 3 4; do
	nice -n 19 sh -c 'while :; do :; done' & BURN="$BURN $!"
done
trap 'kill $BURN; own_end' EXIT
REPEAT=${REPEAT:-100} JOBS=${JOBS:-6} python3 "$HERE/pipes.py" "$BIN/sprite-lab" /opt/sprite/lab ${CASES:-} || FAILED=1
[ -n "${CASES:-}" ] || python3 "$HERE/pipes.py" "$BIN/sprite-lab" /opt/sprite/lab thousand crowd || FAILED=1

# -- the writer's node is cut off; what its reader has left behind is nobody's
on ws1 mkfifo /sprite/f
sh_on ws3 'exec 4>/sprite/f; echo left >&4; exec sleep 1000' >/dev/null 2>&1 & writer=$!
same "a part is read" l "$(on ws1 timeout 120 head -c 1 /sprite/f)"
lab cut ws3
same "a reader on a third node finds nothing" "b''" "$(on ws2 timeout 300 python3 -c 'import os; print(os.read(os.open("/sprite/f", os.O_RDONLY | os.O_NONBLOCK), 9))')"
lab heal ws3
kill $writer
check "no daemon has died" sh -c '! "$0" ls --json | grep -E "\"state\": \"(dead|ended)\""' "$BIN/sprite-lab"
finish
