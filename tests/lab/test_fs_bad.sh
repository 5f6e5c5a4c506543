# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 240
# What goes wrong around the file service is refused or reported, with words, and does not spread: full disk, wrong certificates, garbage on the ports,
# a server that vanishes in the middle of a write, a second client on one mount point, a configuration full of mistakes.
. "$(dirname "$0")/lib.sh"
lab_up -n 2 --store 24m
PKI=/run/sprite-lab/$SPRITE_LAB/pki

# -- a full disk
same "a full disk is told to the writer" "ENOSPC" "$(on ws1 python3 -c '
import errno, os
fd = os.open("/sprite/big", os.O_WRONLY | os.O_CREAT)
try:
    for i in range(64): os.write(fd, bytes(1 << 20))
    os.fsync(fd)
    print("all written")
except OSError as e: print(errno.errorcode[e.errno])')"
same "what fits is there and right" "yes" "$(sh_on ws2 's=$(stat -c %s /sprite/big); [ $s -gt 10000000 ] && [ $s -le 25165824 ] && cmp -n $s /sprite/big /dev/zero && echo yes')"
refused "small files fail too while it is full" 1 'No space' sh_on ws2 'for i in $(seq 300); do head -c 4096 /dev/zero >/sprite/small.$i || exit 1; done'
on ws1 sh -c 'rm -f /sprite/big /sprite/small.*'
check "after removal there is room again" sh_on ws2 'head -c 8M /dev/zero >/sprite/ok && rm /sprite/ok'

# -- a second spritefs
refused "a second spritefs on the mount point is refused" 1 'mount|already|runs' on ws1 timeout 20 spritefs --config /etc/sprite/sprite.conf
check "the first is none the worse" sh_on ws1 'echo x >/sprite/x && cat /sprite/x && [ $(grep -c " /sprite fuse" /proc/mounts) = 1 ]'
refused "a second spritefsd is refused" 1 'another spritefsd runs here \(process [0-9]+\)' on fs1 timeout 20 spritefsd

# -- names that do not resolve are told from hosts that do not answer
sh_on ws1 'sed "s/\"root_server\": *\"fs1\"/\"root_server\": \"nofs\"/; s/\"name\"/\"run_dir\": \"\/tmp\/r\", \"state_dir\": \"\/tmp\/r\", \"name\"/" /etc/sprite/sprite.conf >/tmp/lost.conf; mkdir -p /tmp/r /tmp/m'
out=$(on ws1 timeout 20 spritefs --config /tmp/lost.conf --mount /tmp/m --background 2>&1)
check "a root server whose name does not resolve" grep -q "nofs does not resolve" <<<"$out" || note "$out"
sh_on ws1 'umount -l /tmp/m'

out=$(on ws1 sh -c 'sed "s/\"root_server\"/\"spritefsd\": {\"listen\": [\"nohost\"]}, \"root_server\"/" /tmp/lost.conf >/tmp/far.conf; timeout 20 spritefsd --config /tmp/far.conf' 2>&1)
check "a name of one's own that does not resolve" grep -q "nohost does not resolve" <<<"$out" || note "$out"
# a prefix that there is not: it is looked for a while, beside what follows
sh_on ws1 'mkdir /tmp/none; spritefs --mount /tmp/none --prefix /none >/tmp/none.out 2>&1; echo $? >/tmp/none.rc' & none=$!
same "who is told to end while it looks for one ends" "124 1" "$(sh_on ws1 'mkdir /tmp/told; timeout -k 8 1 spritefs --mount /tmp/told --prefix /never >/tmp/told.out 2>&1; echo $?; grep -c "/never: told to end" /tmp/told.out' | xargs)"

# -- configurations
refused "mig: a configuration that is not there" 78 '^/nope: expected a configuration file, found: No such file' as sprite ws1 env SPRITE_CONF=/nope mig ps
sh_on ws1 'echo "{\"name\": 3, \"root_server\": \"fs1:99999\", \"nonsense\": true, \"tls\": {\"ca\": \"/nowhere\"}}" >/tmp/bad.conf'
for d in spritefsd spritefs migd; do
	[ -x "$BIN/$d" ] || continue
	out=$(on ws1 $d --config /tmp/bad.conf 2>&1); rc=$?
	same "$d: exit status of a bad configuration" 78 $rc
	same "$d: every mistake is named" "name root_server nonsense tls.ca" "$(for k in name root_server nonsense tls.ca; do grep -q "bad.conf: $k[^a-z]*: *expected\|bad.conf: $k:" <<<"$out" && echo $k; done | xargs)"
	refused "$d: who is not root is told so" 77 'needs root$' as sprite ws1 $d
	same "$d: --check of a good one" 0 "$(on ws1 $d --check >/dev/null 2>&1; echo $?)"
done

sh_on ws1 'sed "s|{|{\"mount\": \"/mnt\", |;q" /etc/sprite/sprite.conf >/tmp/mnt.conf; sed 1d /etc/sprite/sprite.conf >>/tmp/mnt.conf'
for how in "" --check; do
	refused "migd $how: the tree elsewhere" 78 'mnt.conf: mount: expected "/sprite" where migd runs, found "/mnt"' on ws1 migd --config /tmp/mnt.conf $how
done

# -- certificates. Each is put in place on ws2, whose --check must tell, and whose spritefs is then started anew.
sh_on ws2 'cp -a /etc/sprite/tls /etc/sprite/good'
forge() { # HOW: makes tls in $TMP/tls
	rm -rf "$TMP/tls" "$TMP/ca"; mkdir "$TMP/tls"
	case $1 in
	other-ca) "$BIN/sprite-pki" init "$TMP/ca" && "$BIN/sprite-pki" host "$TMP/ca" ws2 && cp "$TMP/ca/hosts/ws2/"* "$TMP/tls" && cp $PKI/ca.crt "$TMP/tls" ;;
	other-name) { [ -e $PKI/hosts/elsewhere ] || "$BIN/sprite-pki" host $PKI elsewhere; } && cp $PKI/hosts/elsewhere/* "$TMP/tls" ;;
	expired)
		cp $PKI/hosts/ws2/* "$TMP/tls" && openssl req -new -key "$TMP/tls/host.key" -subj /CN=ws2 -out "$TMP/csr" && echo subjectAltName=DNS:ws2 >"$TMP/ext" &&
			openssl x509 -req -in "$TMP/csr" -CA $PKI/ca.crt -CAkey $PKI/ca.key -days -1 -extfile "$TMP/ext" -out "$TMP/tls/host.crt" ;;
	esac >/dev/null 2>&1
}
gone() { sh_on ws2 '! grep -q " /sprite fuse" /proc/mounts && ! pgrep -x "spritefs|sprite-holder"'; }
# what both sides have said of it since these lines
said() { lab logs ws2 spritefs | tail -n +$((own + 1)); lab logs fs1 spritefsd | tail -n +$((theirs + 1)); }
named() { said | grep -E "$1" | tail -1 | grep .; }
declare -A WORDS=([other-ca]="was not signed by the cluster's CA" [expired]="certificate of ws2 has expired on" [other-name]="host.crt is for elsewhere, expected ws2")
forge other-name; on ws2 mkdir /tmp/elsewhere; tar cf - -C "$TMP/tls" . | on ws2 tar xf - -C /tmp/elsewhere; on ws2 chown -R root:root /tmp/elsewhere
# a certificate that will never be ours ends it for good (the units do not start it again after a 78); one that may be good tomorrow does not
refused "certificate: other-name: the exit status of a start" 78 'sprite.conf: .*host.crt is for elsewhere, expected ws2' sh_on ws2 'sed "s|/etc/sprite/tls/host|/tmp/elsewhere/host|g" /etc/sprite/sprite.conf >/tmp/elsewhere/sprite.conf; spritefs --config /tmp/elsewhere/sprite.conf'
for how in "${!WORDS[@]}"; do
	words=${WORDS[$how]}
	forge $how || { flunk "make a certificate: $how"; continue; }
	lab kill ws2 spritefs TERM; until_true 10 gone || flunk "spritefs ends"
	tar cf - -C "$TMP/tls" . | on ws2 tar xf - -C /etc/sprite/tls
	on ws2 chown -R root:root /etc/sprite/tls
	out=$(on ws2 spritefs --check 2>&1); rc=$?
	same "certificate: $how: --check says so" "78 yes" "$rc $(grep -q "$words" <<<"$out" && echo yes || echo "$out")"
	own=$(lab logs ws2 spritefs | wc -l) theirs=$(lab logs fs1 spritefsd | wc -l)
	: >"$TMP/seen"
	if lab start ws2 spritefs >/dev/null 2>&1; then
		"$BIN/sprite-lab" exec ws2 -- timeout -k 1 200 cat /sprite/x >"$TMP/seen" 2>/dev/null & look=$!
		check "certificate: $how: a log says what is wrong" until_true 30 named "$words" || note "$(said)"
		on ws2 pkill -x cat
		wait $look
	else
		check "certificate: $how: a log says what is wrong" named "$words" || note "$(said)"
	fi
	same "certificate: $how: nothing is to be seen in /sprite" "" "$(cat "$TMP/seen")"
	lab kill ws2 spritefs KILL 2>/dev/null; sh_on ws2 'umount -l /sprite 2>/dev/null; rm -rf /etc/sprite/tls; cp -a /etc/sprite/good /etc/sprite/tls'
	until_true 10 gone || flunk "spritefs is gone"
	check "certificate: with the right one it works again" eval 'lab start ws2 spritefs && sh_on ws2 "cat /sprite/x"'
done

wait $none
same "a prefix that there is not: a line, and nothing is left of it" "1 yes" "$(sh_on ws1 'cat /tmp/none.rc; grep -c "/none: no such domain in the prefix table" /tmp/none.out; ls /run/sprite | grep none' | xargs | sed 's/^1 1$/1 yes/')"

# -- garbage
for port in 7700 7701; do
	[ $port = 7700 ] && host=fs1 || host=ws1
	on ws2 python3 - $host $port <<'PY'
import os, random, socket, ssl, sys
host, port = sys.argv[1], int(sys.argv[2])
random.seed(7)
try: socket.create_connection((host, port), 2).close()
except OSError: print("nobody listens"); sys.exit()
good = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
good.load_verify_locations("/etc/sprite/tls/ca.crt"); good.load_cert_chain("/etc/sprite/tls/host.crt", "/etc/sprite/tls/host.key"); good.set_alpn_protocols(["h2"])
for i in range(60):
    s = socket.create_connection((host, port), 5); s.settimeout(1)
    try:
        if i % 3 == 0: s.sendall(os.urandom(random.randrange(1, 5000)))                       # before any handshake
        elif i % 3 == 1: s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(random.randrange(600)))   # a hello cut short or wrong
        else:
            t = good.wrap_socket(s, server_hostname=host)                                       # as one of us, then nonsense
            t.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(random.randrange(1, 3000)))
            t.recv(100)
    except OSError: pass
    s.close()
PY
done
check "the file server lives on after garbage" eval 'sh_on ws1 "echo y >/sprite/y" && sh_on ws2 "cat /sprite/y"'
same "all daemons run" "" "$(lab ls --json | python3 -c 'import json, sys
for n in json.load(sys.stdin):
    for d in n["daemons"]:
        if d["state"] not in ("ready", "missing"): print(n["name"], d["name"], d["state"])')"

# -- the server vanishes in the middle of a write
writer='
import hashlib, os, sys
h = hashlib.sha1(); fd = os.open("/sprite/w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
try:
    for i in range(400):
        b = (b"%08d" % i) * 2048
        os.write(fd, b); h.update(b)
        if i % 20 == 0: print(i, flush=True)
        if i % 50 == 0: os.fsync(fd)
    os.fsync(fd); os.close(fd); print("done", h.hexdigest())
except OSError as e: print("error", e)'
on ws1 python3 -c "$writer" >"$TMP/w" & pid=$!
until_true 10 grep -q '^40$' "$TMP/w"
lab kill fs1 spritefsd KILL
sleep 1
lab start fs1 spritefsd || flunk "the file server starts again"
wait $pid
if grep -q '^done' "$TMP/w"; then
	same "a write that saw its server vanish and return: all is there" "$(sed -n 's/^done //p' "$TMP/w")" "$(sh_on ws2 "sha1sum </sprite/w" | cut -d' ' -f1)"
else
	check "a write that saw its server vanish was told so" grep -q '^error' "$TMP/w"
fi
check "afterwards all nodes work with it" eval 'sh_on ws1 "echo again >/sprite/z" && [ "$(sh_on ws2 "cat /sprite/z")" = again ]'
lab kill fs1 spritefsd KILL
"$BIN/sprite-lab" exec ws1 -- cat /sprite/nothing-like-that >/dev/null 2>&1 & pid=$!
check "whoever looks waits" until_true 10 on ws1 pgrep -x cat
on ws1 pkill -TERM -x cat
check "whoever waits for a dead server can be killed" until_true 10 eval '! kill -0 $pid'
check "the rest of the node does not wait" sh_on ws1 'timeout 60 ls / >/dev/null && timeout 60 df / >/dev/null'
lab start fs1 spritefsd
check "and it comes back" sh_on ws1 'timeout 120 cat /sprite/z'
finish
