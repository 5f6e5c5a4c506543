# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 180
# A running process leaves its workstation, goes on elsewhere and returns; at home nothing of that is to be seen.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cat >"$TMP/counter.py" <<'PY'
import os, socket, sys, time
n = 0
while not os.path.exists("stop"):
    n += 1
    print(n, os.getpid(), os.getppid(), socket.gethostname(), open("/usr/sprite-node").read().strip(), os.getcwd(), flush=True)
    time.sleep(0.01)
print("end", flush=True)
sys.exit(42)
PY
as sprite ws1 sh -c "cat >$JD/counter.py" <"$TMP/counter.py"
line() { on ws1 sh -c "tail -1 $JD/out"; }
lines() { on ws1 sh -c "wc -l <$JD/out"; }
grows() { local a; a=$(lines); until_true 10 eval '[ "$(lines)" -gt '$a' ]'; }

job "python3 counter.py" || finish
check "it runs at home" grows
ps0=$(on ws1 ps -o pid=,ppid=,pgid=,sid=,user=,args= -p "$JOB")
for where in ws2 ws3 home ws2 home; do
	check "move to $where" hop $where || { on ws1 cat $JD/err; break; }
	check "it goes on" grows
	same "ps at home shows the same" "$ps0" "$(on ws1 ps -o pid=,ppid=,pgid=,sid=,user=,args= -p "$JOB")"
	case $where in
	home) # what is left over there is let go of in the background
		check "nothing is left away from home" until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"
		check "it is back" runs_on ws1 python3 ;;
	*) check "it is there" runs_on $where python3; check "at home is only a hollow" eval '! runs_on ws1 python3'
		rss=$(on ws1 awk '/VmRSS/ { print $2 }' /proc/$JOB/status); check "the hollow takes less than 200 kB ($rss)" test "${rss:-9999}" -lt 200
		same "mig ps names the host" 1 "$(mig ps | grep -w "$JOB" | grep -cw $where)" ;;
	esac
done
check "move once more, to end away" hop ws3
on ws1 touch $JD/stop
same "its parent gets the exit status" 42 "$(job_status)"
same "pid, parent, host name, mark, directory were the home's all the time" "1" "$(on ws1 sh -c "sed '\$d' $JD/out | cut -d' ' -f2- | sort -u | wc -l")"
same "they were those of ws1" "$JOB ws1 ws1 $JD" "$(on ws1 sh -c "head -1 $JD/out" | cut -d' ' -f2,4-)"
same "no line is lost, doubled or out of order" ok "$(on ws1 sh -c "sed '\$d' $JD/out | awk '\$1 != NR { bad = 1 } END { print bad ? \"not at \" NR : \"ok\" }'")"
same "its last words arrived" end "$(line)"
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"
same "nor at home" "" "$(on ws1 ps -o pid= -p "$JOB")"
finish
