#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: shared
# /sprite/.sprite: what it says follows what happens.
. "$(dirname "$0")/lib.sh"
S=/sprite/.sprite
file() { on ws1 cat $S/$1; }
check "everything is there" sh_on ws1 "cd $S && ls domains clients leases locks recalls rpc cache metrics"
check "an ordinary user may look" as sprite ws1 cat $S/domains $S/metrics
check "nobody may write" sh_on ws1 "! echo x >$S/rpc"
check "the domains and who serves them" grep -q "^/ fs1 .* up attached" <(file domains)
check "hosts' own domains" grep -q "^/hosts/ws2 ws2 .* home" <(file domains)
check "clients of the root server" grep -q "^fs1 ws2 /sprite opens=" <(file clients)
held() { file locks | awk '$1 == "server" && $2 == "fs1" { sub("held=", "", $3); print $3 }'; }
before=$(held)
mkfifo "$TMP/in"; exec 9<>"$TMP/in"
"$BIN/sprite-lab" exec ws1 -- sh -c ': >/sprite/status.lock; exec flock /sprite/status.lock sh -c "echo locked; read x"' <"$TMP/in" >"$TMP/out" 2>&1 &
until_true 20 grep -q locked "$TMP/out"
same "a lock held here is counted at the server" $((before + 1)) "$(held)"
check "and shown with its kind" grep -qE "^here node=[0-9]+ pid=[0-9]+ flock write 0 end" <(file locks)
echo >&9; wait; exec 9>&-
recalls() { file recalls | sed -n 's/^here received=\([0-9]*\).*/\1/p'; }
before=$(recalls)
on ws1 sh -c 'cat /sprite/status.lock; stat /sprite/status.lock' >/dev/null; on ws2 sh -c 'echo x >/sprite/status.lock'
check "a recall is counted" test "$(recalls)" -gt "$before"
calls() { file rpc | awk '$1 == "Make" { print $2 }'; }
before=$(calls); on ws1 sh -c 'mkdir /sprite/status.d && rmdir /sprite/status.d && rm /sprite/status.lock'
check "a call is counted" test "$(calls)" -gt "${before:-0}"
check "Prometheus text: each sample is of a described metric" sh_on ws1 "awk '/^# TYPE/ { t[\$3] = 1; next } /^#/ { next } { n = \$1; sub(/{.*/, \"\", n); if (!t[n] || NF != 2) exit 1; k++ } END { exit k < 10 }' $S/metrics"
direct() { on ws1 stat /sprite/.nothing$RANDOM 2>/dev/null; file rpc | grep -qE '^direct fs1 calls=[1-9][0-9]* connections=2'; }
until_true 20 direct
check "calls go by direct connections" direct
# the server's own word
S=$(on fs1 spritefsd --status)
has() { python3 -c 'import json, sys
s = json.load(sys.stdin)
assert s["domains"] and s["prefixes"] and "grants" in s and s["opens"] >= 0 and s["recalls_owed"] >= 0 and s["locks"]["waiting"] >= 0, s
c = [c for c in s["clients"] if c["host"] == "ws1" and c["instance"] == "/sprite"]; assert len(c) == 1 and c[0]["leases"] > 0 and c[0]["calls"] > 0, c
assert s["direct_calls"] > 0 and s["direct_connections"] >= 2, s
r = s["rpc"]["Make"]; assert r["calls"] == sum(r["took"]) and 0 < r["median_us"] <= r["p99_us"], r' <<<"$S"; }
check "spritefsd --status: domains, clients, leases, locks, recalls, calls and how long they took" has
check "spritefsd --metrics: each sample is of a described metric, buckets add up" sh_on fs1 "spritefsd --metrics | awk '/^# TYPE/ { t[\$3] = 1; next } /^#/ { next }
	{ n = \$1; sub(/{.*/, \"\", n); b = n; sub(/_(bucket|sum|count)\$/, \"\", b); if ((!t[n] && !t[b]) || NF != 2) exit 1; k++ }
	/_bucket.*Make.*Inf/ { inf = \$2 } /seconds_count.*Make/ { c = \$2 } END { exit k < 30 || !c || c != inf }'"
finish
