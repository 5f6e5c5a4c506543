# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# What a host refuses by policy or by certificate, in words that say what to do; and that nothing happens to the process.
. "$(dirname "$0")/lib.sh"
lab_up -n 3 --bind "$TESTS:/opt/sprite/tests"
job_dir
job "sleep 1000"
mig_root() { on ws1 mig "$@"; }
restart() { lab kill "$1" migd >/dev/null 2>&1; until_true 10 lab start "$1" migd; }
# conf NODE PYTHON: changes the node's sprite.conf (c is the dict) and starts its migd again
conf() { sh_on "$1" 'python3 -c "
import json,sys
p=\"/etc/sprite/sprite.conf\"; c=json.load(open(p)); exec(sys.argv[1]); json.dump(c,open(p,\"w\"))" "$1"' "$2" && restart "$1"; }

check "lend off" on ws2 mig lend off
refused "a host that does not lend itself" 1 'lend' mig move -H ws2 "$JOB"
check "that survives a restart" restart ws2
refused "it still does not" 1 'lend' mig move -H ws2 "$JOB"
refused "only root may change it" 1 'root' as sprite ws2 mig lend on
check "lend on" on ws2 mig lend on
check "now it goes" mig move -H ws2 "$JOB"
check "and home" mig home "$JOB"

check "ws3 takes no processes of root" conf ws3 'c["migd"]["root_guests"]=False'
on ws1 sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/rootjob'
R=$(on ws1 cat /tmp/rootjob)
refused "a process of root is refused there" 1 'root_guests' on ws1 mig move -H ws3 "$R"
check "a user's process is not" mig move -H ws3 "$JOB"
on ws3 sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/rootjob'
refused "nor does ws3 give away its own root" 1 'root_guests' on ws3 sh -c 'mig move -H ws1 $(cat /tmp/rootjob)'
check "home again" mig home "$JOB"
on ws1 kill "$R"

# whose work may come, and whose may go
idle() { [ "$(mig hosts --no-header -o NAME,STATE | grep -cE "^($1) +idle")" = "$2" ]; }
placed() { as sprite ws1 bash -c 'mig run true </dev/null 2>&1 | cat; exit ${PIPESTATUS[0]}'; }
check "ws2 takes no guests" conf ws2 'c["migd"]["imports"]="none"'
check "ws3 takes those of root" conf ws3 'c["migd"].update(imports="root", root_guests=True)'
check "ws3 is idle" until_true 60 idle ws3 1
same "ws2 refuses, and mig hosts says by what" "ws2 refuses imports" "$(mig hosts --no-header -o NAME,STATE,WHY | awk '$1 == "ws2" { print $1, $2, $3 }')"
refused "nobody may come to ws2" 1 'ws2 takes no guests \(migd.imports' mig move -H ws2 "$JOB"
refused "no user's process to ws3" 1 'ws3 takes processes of root only \(migd.imports' mig move -H ws3 "$JOB"
check "root's may" until_true 20 on ws1 bash -c 'mig run true </dev/null 2>&1 | cat; exit ${PIPESTATUS[0]}'
refused "the master gives a user neither" 125 'no host is idle' placed
check "all may come again" eval 'conf ws2 "c[\"migd\"][\"imports\"]=\"all\"" && conf ws3 "c[\"migd\"][\"imports\"]=\"all\""'
check "nobody may leave ws1" conf ws1 'c["migd"]["exports"]="none"'
refused "nobody is moved away" 1 'ws1 lets no processes leave \(migd.exports' mig move -H ws2 "$JOB"
refused "nor placed" 125 'ws1 lets no processes leave' placed
check "root may leave" conf ws1 'c["migd"]["exports"]="root"'
refused "a user's is not moved" 1 'ws1 lets only processes of root leave' mig move -H ws2 "$JOB"
check "all may leave again" conf ws1 'c["migd"]["exports"]="all"'
check "and do" mig move -H ws2 "$JOB"
check "and come home" mig home "$JOB"

# a second migd, where the home is and where the guest is: it is told so before it has touched anything, and all is found again by the next one
for n in ws1 ws2; do
	hop ws2 || flunk "it goes to ws2"
	refused "$n: a second migd" 1 'another migd runs here \(process [0-9]+\)' on $n timeout 30 migd
	refused "$n: a second migd of another configuration" 1 'another migd runs here \(process [0-9]+\)' sh_on $n 'python3 -c "
import json
c=json.load(open(\"/etc/sprite/sprite.conf\")); c.update(state_dir=\"/tmp/s9\", run_dir=\"/tmp/r9\"); c[\"migd\"][\"listen\"]=[\"$0:7799\"]
json.dump(c,open(\"/tmp/c9.json\",\"w\"))"; timeout 30 migd --config /tmp/c9.json'
	check "$n: it made nothing" on $n test ! -e /tmp/s9 -a ! -e /tmp/r9
	check "$n: the guest runs on" on ws2 pgrep -u sprite -x sleep
	lab kill $n migd TERM; until_true 20 lab start $n migd || flunk "$n: migd starts again"
	check "$n: and comes home, after its migd was started again" until_true 20 mig home -q "$JOB"
	check "$n: nothing of it is left there" until_true 10 eval '! on ws2 pgrep -u sprite -x sleep >/dev/null'
	check "$n: it runs" on ws1 sh -c "[ \$(ps -o state= -p $JOB) = S ]"
done
refused "an address of another host" 78 'sprite.conf: cannot listen on 10.9.8.7:7701: 10.9.8.7 is no address of this host' sh_on ws2 'mkdir /tmp/x; sed "s/\"migd\": *{/\"migd\": {\"listen\": [\"10.9.8.7\"], /" /etc/sprite/sprite.conf >/tmp/x/sprite.conf; migd --config /tmp/x/sprite.conf --check'

# certificates: of another CA, of another name, expired
P=$TMP/pki
on ws2 sh -c 'cp -r /etc/sprite/tls /etc/sprite/tls.good'
put() { on ws2 sh -c "cat >/etc/sprite/tls/host.$1" <"$2"; }
"$BIN/sprite-pki" --help >"$TMP/help" 2>&1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$TMP/ca.key" -out "$TMP/ca.crt" -subj /CN=other -days 30 2>/dev/null
issue() { # NAME DAYS_FROM DAYS_TO: a certificate of the other CA
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$TMP/h.key" -out "$TMP/h.csr" -subj "/CN=$1" 2>/dev/null
	openssl x509 -req -in "$TMP/h.csr" -CA "$TMP/ca.crt" -CAkey "$TMP/ca.key" -CAcreateserial -out "$TMP/h.crt" -days 30 \
		-extfile <(printf 'subjectAltName=DNS:%s' "$1") 2>/dev/null
}
issue ws2
put crt "$TMP/h.crt"; put key "$TMP/h.key"; restart ws2
refused "a certificate of another CA" 1 'ws2.*(certificate|answer)' mig move -H ws2 "$JOB"
check "it runs on here" on ws1 sh -c "[ \$(ps -o state= -p $JOB) = S ]"
on ws2 sh -c 'rm -rf /etc/sprite/tls; mv /etc/sprite/tls.good /etc/sprite/tls'; restart ws2
check "with the right one it goes" until_true 20 mig move -H ws2 "$JOB"
check "home" mig home "$JOB"
on ws3 sh -c 'cat /etc/sprite/tls/host.crt' >"$TMP/ws3.crt"; on ws3 sh -c 'cat /etc/sprite/tls/host.key' >"$TMP/ws3.key"
on ws2 sh -c 'cp -r /etc/sprite/tls /etc/sprite/tls.good'
put crt "$TMP/ws3.crt"; put key "$TMP/ws3.key"; lab kill ws2 migd >/dev/null; lab start ws2 migd >/dev/null 2>&1
refused "a certificate of another name" 1 'ws2.*(certificate|answer)' mig move -H ws2 "$JOB"
CA=/run/sprite-lab/$SPRITE_LAB/pki
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$TMP/h.key" -out "$TMP/h.csr" -subj /CN=ws2 2>/dev/null
openssl x509 -req -in "$TMP/h.csr" -CA $CA/ca.crt -CAkey $CA/ca.key -out "$TMP/h.crt" -days -1 -extfile <(echo subjectAltName=DNS:ws2) 2>/dev/null
put crt "$TMP/h.crt"; put key "$TMP/h.key"; lab kill ws2 migd >/dev/null 2>&1; lab start ws2 migd >/dev/null 2>&1
refused "a certificate that has expired" 1 'ws2.*(certificate|answer)' mig move -H ws2 "$JOB"
check "it runs on here" on ws1 sh -c "[ \$(ps -o state= -p $JOB) = S ]"
on ws2 sh -c 'rm -rf /etc/sprite/tls; mv /etc/sprite/tls.good /etc/sprite/tls'; restart ws2

refused "eviction by somebody else" 1 'root' as guest ws2 mig evict --all
check "there" until_true 20 mig move -H ws2 "$JOB"
check "its host sends it home" on ws2 mig evict --all
check "it is home" until_true 10 eval '[ -z "$(residue)" ] && [ -z "$(mig ps --no-header)" ] && on ws1 kill -0 $JOB'
check "stop-all" on ws2 mig stop-all
refused "and takes nobody any more" 1 'lend' mig move -H ws2 "$JOB"
on ws1 kill "$JOB"
check "nothing is left" until_true 10 eval '[ -z "$(residue)" ]' || note "$(residue)"
finish
