# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# What ps and pgrep -f show at home of processes that are away: what these are called and their arguments, also after an exec there, for children born there, and for each member of a family.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/names.sh" <<'SH'
wait_for() { while [ ! -e $1 ]; do sleep 0.2; done; }
sh -c 'while [ ! -e end ]; do sleep 0.3; done; : member' & echo member $!
wait_for one
perl -e 'sleep 1 until -e "end"' born away & echo born $!
exec python3 -c 'import os, sys, time
while not os.path.exists("two"): time.sleep(0.1)
os.execv("/bin/sh", ["a name of its own", "-c", "while [ ! -e end ]; do sleep 0.3; done; exit 7", "'"$(seq -s ' ' 200)"'"])' first of all
SH
as sprite ws1 sh -c "cat >$JD/names.sh" <"$TMP/names.sh"
as sprite ws1 bash -c "cd $JD; (exec bash names.sh >>out 2>&1) & echo \$! >pid.new; mv pid.new pid; wait \$!; echo \$? >rc.new; mv rc.new rc" </dev/null >/dev/null 2>&1 &
until_true 20 on ws1 grep -q member $JD/out
P=$(on ws1 cat $JD/pid) M=$(on ws1 sed -n 's/^member //p' $JD/out)
at_home() { on ws1 ps -ww -o "$1=" -p "$2"; }
in_mig_ps() { mig ps --json | python3 -c 'import json, sys
print(*[r["comm"] for r in json.load(sys.stdin) if r["pid"] == int(sys.argv[1])])' "$1"; }
away_args() { on ws2 cat "$(on ws2 sh -c 'for p in /proc/[0-9]*; do grep -Eq "^NSpid:[[:space:]][0-9]+[[:space:]](.*[[:space:]])?'"$1"'$" $p/status 2>/dev/null && echo $p/cmdline; done')"; }
is_called() { [ "$(at_home comm "$1")" = "$2" ]; }

check "a family leaves" until_true 20 mig move -H ws2 "$P"
same "its root in mig ps" bash "$(in_mig_ps "$P")"
same "its member" sh "$(in_mig_ps "$M")"
as sprite ws1 touch $JD/one
check "who calls exec away is called so at home" until_true 20 is_called "$P" python3
check "with its arguments" until_true 5 on ws1 pgrep -f 'os.path.exists.*first of all$'
same "and in mig ps" python3 "$(in_mig_ps "$P")"
check "a child born away has its own" until_true 20 on ws1 pgrep -f '^perl .*born away$'
B=$(on ws1 sed -n 's/^born //p' $JD/out)
same "it is that child" "$B" "$(on ws1 pgrep -f '^perl .*born away$')"
lab kill ws1 migd KILL >/dev/null; until_true 20 lab start ws1 migd
check "its home's migd is started again" until_true 20 eval '[ "$(in_mig_ps $P)" = python3 ]'
as sprite ws1 touch $JD/two
check "another exec" until_true 20 is_called "$P" sh
check "with longer arguments than the hollow had" until_true 5 on ws1 pgrep -f '^a name of its own -c .* 199 200$'
same "byte for byte" "$(away_args "$P" | sha1sum)" "$(on ws1 cat "/proc/$P/cmdline" | sha1sum)"
lab kill ws2 migd KILL >/dev/null; until_true 20 lab start ws2 migd
check "from guest host to guest host" until_true 20 mig move -H ws3 "$P"
same "it is called as it was" "sh sh perl" "$(at_home comm "$P") $(at_home comm "$M") $(at_home comm "$B")"
check "they come home" until_true 20 mig home "$P"
same "with their names" "sh sh perl" "$(at_home comm "$P") $(at_home comm "$M") $(at_home comm "$B")"
check "and arguments" on ws1 pgrep -f '^a name of its own -c .* 199 200$'
as sprite ws1 touch $JD/end
same "and end as they should" 7 "$(job_status 30)"
finish
