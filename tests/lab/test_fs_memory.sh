# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# long: yes
# What a client keeps in memory: little when nothing is asked of it, and of unsent data a quarter of cache_mb, after which writers wait.
. "$(dirname "$0")/lib.sh"
[ -z "${ASAN_OPTIONS:-}" ] || skip "a sanitizer has an allocator of its own"
lab_up -n 1
rss() { sh_on ws1 'n=0; for p in $(pgrep -x "spritefs|sprite-holder"); do n=$((n + $(awk "/^VmRSS/ { print \$2 }" /proc/$p/status))); done; echo $n'; }
sh_on ws1 'ls -lR /sprite >/dev/null'
kb=$(rss)
check "an idle client takes less than 30 MB ($kb kB)" [ "$kb" -gt 0 -a "$kb" -lt 30000 ]
lab kill ws1 spritefs TERM
on ws1 sed -i 's/"migd": {/"spritefs": { "cache_mb": 16 }, "migd": {/' /etc/sprite/sprite.conf
until_true 10 lab start ws1 spritefs
cat >"$TMP/fill.py" <<'PY'
import os, time
f = os.open("/sprite/big", os.O_WRONLY | os.O_CREAT, 0o644)
os.pwrite(f, b"x", 0); os.fsync(f); os.pwrite(f, b"x", 0)
open("/run/ready", "w")
while not os.path.exists("/run/cut"): time.sleep(0.01)
for n in range(1, 21):
    os.pwrite(f, b"%c" % (96 + n) * (1 << 20), (n - 1) << 20)
    with open("/run/written.new", "w") as o: o.write(str(n))
    os.rename("/run/written.new", "/run/written")
PY
"$BIN/sprite-lab" exec ws1 -- python3 -c "$(cat "$TMP/fill.py")" >"$TMP/fill" 2>&1 &
fill=$!
until_true 20 on ws1 test -e /run/ready
lab cut ws1 fs1
on ws1 touch /run/cut
check "a node that is cut off takes what it may" until_true 20 sh_on ws1 '[ "$(cat /run/written)" -ge 4 ]'
sleep 1
same "and no more: 4 MiB of 16" 4 "$(on ws1 cat /run/written)"
lab heal ws1 fs1
wait $fill
same "who waited goes on" "0 " "$? $(cat "$TMP/fill")"
same "all of it arrives" "$(for n in $(seq 20); do head -c 1M /dev/zero | tr '\0' "$(printf %b "\\x$(printf %x $((96 + n)))")"; done | md5sum)" "$(sh_on ws1 'sync /sprite/big; md5sum </sprite/big')"
finish
