# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 900
# Random writers and readers of a named pipe on random nodes that move and are killed (pipes_random.py); then the same with links that are cut. SEED=N repeats a run.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests"
until_true 20 on ws3 test -d /sprite/hosts || flunk "the lab is ready"
python3 "$HERE/pipes_random.py" "$BIN/sprite-lab" ${SEED:-$RANDOM} ${ROUNDS:-20} || FAILED=1
CUTS=1 python3 "$HERE/pipes_random.py" "$BIN/sprite-lab" ${SEED:-$RANDOM} ${ROUNDS:-10} || FAILED=1
[ $FAILED = 0 ] || for n in fs1 ws1 ws2 ws3; do lab logs $n | grep -i pipe | tail -n 20 | sed "s/^/#   $n: /"; done
finish
