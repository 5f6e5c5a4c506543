# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# Children born away: at home they stand in ps where they belong, kill reaches them by number and by group, and who is left when their parent has ended comes home too.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/born.sh" <<'SH'
python3 -c 'import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *a: (print("usr1", flush=True), sys.exit(3)))
while True: time.sleep(1)' & A=$!
sh -c 'sleep 1000; echo never' & B=$!
echo kids $A $B
wait $A; echo first $?
until [ -e go ]; do sleep 0.5; done
exit 5
SH
as sprite ws1 sh -c "cat >$JD/born.sh" <"$TMP/born.sh"
# born_job ARGS...: starts it under mig run on ws2
born_job() {
	as sprite ws1 rm -f $JD/go $JD/rc $JD/out
	as sprite ws1 bash -c "cd $JD; set -m; (exec mig run -H ws2 -- bash born.sh >out 2>err) & echo \$! >pid.new; mv pid.new pid; wait \$!; echo \$? >rc.new; mv rc.new rc" </dev/null >/dev/null 2>&1 &
	until_true 20 on ws1 grep -q kids $JD/out
	P=$(on ws1 cat $JD/pid); read -r _ A B < <(on ws1 grep kids $JD/out)
}
at_home() { on ws1 ps -o "$1=" -p "$2" | tr -d ' '; }
tree() { on "$1" ps -u sprite -o comm= | grep -x -e bash -e sh -e python3 -e sleep | sort | uniq -c | tr -s ' \n' ' '; }

# B and its child are no placeholders (any more): nobody holds them
run_here() { on ws1 sh -c 'n=0; for p in $1 $(pgrep -P $1); do grep -q "^TracerPid:.0$" /proc/$p/status && n=$((n + 1)); done; [ $n = 2 ]' - "$B"; }

born_job
check "a child has a placeholder" until_true 20 on ws1 kill -0 "$A"
until_true 20 eval '[ "$(on ws1 pgrep -P '$B' -c)" = 1 ]'
same "it is a child of its parent" "$P" "$(at_home ppid "$A")"
same "in its group" "$P" "$(at_home pgid "$A")"
same "with its name" python3 "$(at_home comm "$A")"
its_child() { [ "$(on ws1 ps --ppid "$B" -o comm=)" = sleep ]; } # its name comes just after it
check "and a grandchild is its parent's" until_true 20 its_child || on ws1 ps --ppid "$B"
on ws1 kill -USR1 "$A"
check "a signal by its number comes to it" until_true 20 on ws1 grep -qx usr1 $JD/out
check "its parent waits for it, away" until_true 20 on ws1 grep -qx "first 3" $JD/out
check "and its placeholder is gone" until_true 20 eval '! on ws1 kill -0 '$A
on ws1 touch $JD/go
same "the family's status" 5 "$(job_status 30)"
check "the orphans are in ps at home" on ws1 kill -0 "$B"
check "and away" runs_on ws2 sleep
check "they come home" until_true 20 mig home "$B"
check "and run here" run_here
check "nothing is left there" until_true 20 eval '[ -z "$(residue)" ]'
check "nobody is away" until_true 20 eval '[ -z "$(mig ps --no-header)" ]'
on ws1 sh -c "kill $B \$(pgrep -P $B)"
check "they end as any other" until_true 20 eval '! on ws1 kill -0 '$B

born_job
until_true 20 on ws1 kill -0 "$B"
until_true 20 eval '[ "$(on ws1 pgrep -P '$B' -c)" = 1 ]'
on ws1 kill -TERM -- "-$P"
same "a signal to the group: status" 143 "$(job_status 30)"
check "and nobody is left of it, away" until_true 20 eval '[ -z "$(residue)" ]' || residue
check "or at home" until_true 20 eval '[ "$(on ws1 pgrep -g '$P' -c)" = 0 ]' || on ws1 ps -ef

born_job
until_true 20 on ws1 kill -0 "$B"
lab kill ws1 migd KILL >/dev/null; until_true 10 lab start ws1 migd; until_true 20 mig ps
check "placeholders outlive migd" on ws1 kill -0 "$A"
on ws1 kill -USR1 "$A"
check "and still take signals" until_true 20 on ws1 grep -qx "first 3" $JD/out
check "all of it moves on" until_true 20 mig move -H ws3 "$P"
check "and comes home" until_true 20 mig home "$P"
check "with the child that was born away" run_here
on ws1 touch $JD/go
same "status" 5 "$(job_status 30)"
on ws1 sh -c "kill $B \$(pgrep -P $B)"

# a signal's target ends, and so does another, while migd waits for the keeper's word on that signal: nothing is lost but they
as sprite ws1 bash -c "cd $JD; (exec mig run -H ws2 -- bash -c 'sleep 1001 & A=\$!; (sleep 1002 & echo \$! >orphan); echo \$A \$(cat orphan) >both.new; mv both.new both; while :; do wait; sleep 0.2; done') & echo \$! >root; wait" </dev/null >/dev/null 2>&1 &
until_true 20 on ws1 test -s $JD/both
read -r A O < <(on ws1 cat $JD/both)
both_known() { on ws1 kill -0 "$A" "$O"; }
check "a child and an orphan have placeholders" until_true 20 both_known
read -r THERE_A THERE_O KEEPER < <(sh_on ws2 'o=$(pgrep -xf "sleep 1002"); echo $(pgrep -xf "sleep 1001") $o $(ps -o ppid= -p $o)')
MIGD=$(on ws2 pgrep -x migd)
on ws2 kill -STOP "$KEEPER"
on ws1 kill -USR1 "$A"
sleep 0.5 # its signal is with the keeper, which does not answer
on ws2 kill -KILL "$THERE_A" "$THERE_O"
check "the child is gone there" until_true 10 eval '! on ws2 kill -0 '$THERE_A
on ws2 kill -CONT "$KEEPER"
none_known() { ! on ws1 kill -0 "$A" && ! on ws1 kill -0 "$O"; }
check "both have ended at home too" until_true 20 none_known
same "migd there is the same" "$MIGD" "$(on ws2 pgrep -x migd)"
check "the rest of them comes home" until_true 20 mig home "$(on ws1 cat $JD/root)"
on ws1 sh -c "kill -KILL \$(cat $JD/root)"
finish
