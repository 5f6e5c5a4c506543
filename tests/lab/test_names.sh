# SPDX-License-Identifier: Apache-2.0
# lab: shared
# Names are bytes: a program whose name is no UTF-8 is explained, moved, listed, counted and brought home as any other; what is typed must be text, or is refused.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 kill -9 "${JOB:-}" 2>/dev/null; on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 tee $JD/name.py >/dev/null <<'X'
import ctypes, os, sys, time
if len(sys.argv) == 1:
    os.execv(sys.executable, [b"gr\xfc", b"name.py", b"\xfc"])
ctypes.CDLL(None).prctl(15, b"gr\xfc\xdf!", 0, 0, 0)
os.fork()
print("named", flush=True)
while not os.path.exists("stop"):
    time.sleep(0.02)
X
job 'python3 name.py' || exit 1
check "a program with a name of Latin-1" until_true 20 on ws1 grep -q named $JD/out || exit 1
same "is explained" 'gr??!' "$(mig explain --json $JOB | python3 -c 'import json, sys; print(json.load(sys.stdin)["comm"])')"
check "moves" mig move -H ws2 $JOB
same "is listed at home, with its child" '["gr??!", "gr??!"]' "$(mig ps --json | python3 -c 'import json, sys; print(json.dumps(sorted(r["comm"] for r in json.load(sys.stdin) if r["root"] == '$JOB')))')"
check "and on its host" grep -q 'gr??!' <(on ws2 mig ps -a)
check "and in words" grep -q 'gr??!' <(mig ps)
check "keeps its bytes over there" sh_on ws2 'grep -aqx $'"'"'gr\xfc\xdf!'"'"' /proc/[0-9]*/comm'
lab kill ws1 migd TERM >/dev/null; until_true 20 lab start ws1 migd
check "its home knows it after a restart" until_true 20 eval 'mig ps | grep "gr??!"'
check "comes home" until_true 20 mig home $JOB
check "its moves are in the history" grep -q 'gr??!' <(mig top -n 1)
on ws1 touch $JD/stop
same "and ends as it would" 0 "$(job_status)"
typed() { as sprite ws1 bash -c "$1"; }
refused "a host that is no text, for a move" 1 "an argument is not UTF-8 text" typed 'mig move -H $'"'"'\xff'"'"' $$'
refused "for a run: not run elsewhere instead" 125 "an argument is not UTF-8 text" typed 'mig run -H $'"'"'\xff'"'"' true'
refused "a value" 1 "an argument is not UTF-8 text" typed 'mig env set X=$'"'"'\xff'"'"
finish
