# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# Memory that goes ahead of a move goes by a connection of its own, port 7711; where a firewall shuts that port the move goes by the one of all calls, and is whole.
. "$(dirname "$0")/lib.sh"
lab_up -n 3
job_dir
cat >"$TMP/holds.py" <<'P'
import hashlib, os, time
data = os.urandom(40 << 20)
first = hashlib.sha256(data).hexdigest()
open("ready", "w").close()
while not os.path.exists("stop"): time.sleep(0.02)
print(hashlib.sha256(data).hexdigest() == first, flush=True)
P
as sprite ws1 sh -c "cat >$JD/holds.py" <"$TMP/holds.py"
job "exec python3 holds.py"
check "it holds 40 MiB" until_true 20 on ws1 test -e $JD/ready
by_itself() { [ -n "$(on ws1 ss -Htan state time-wait "( dport = :7711 and dst $(on ws1 awk -v n=$1 '$2 == n { print $1 }' /etc/hosts) )")" ]; }
said() { on ws1 grep -c "memory goes to ws3 without a connection of its own" /var/log/sprite/migd.log; }
check "it moves" mig move -H ws2 "$JOB"
check "its memory by a connection of its own" by_itself ws2
check "and home" mig home "$JOB"
# nothing leaves ws3 from that port: who connects waits for an answer
on ws3 ip rule add ipproto tcp sport 7711 blackhole
check "it moves to where that port is shut" mig move -H ws3 "$JOB"
same "and is told of it once" 1 "$(said)"
check "no such connection" eval '! by_itself ws3'
check "home" mig home "$JOB"
check "and there again" mig move -H ws3 "$JOB"
same "without another try within a minute" 1 "$(said)"
check "home at last" mig home "$JOB"
on ws1 touch $JD/stop
same "it ends" 0 "$(job_status 20)"
same "and what it held is whole" True "$(on ws1 cat $JD/out)"
finish
