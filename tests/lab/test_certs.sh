# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 400
# Certificates are replaced while everything runs. In time: nothing is cut off when the old ones end. After one was revoked: its host is back by itself.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
PKI=/run/sprite-lab/$SPRITE_LAB/pki
HOSTS="fs1 ws1 ws2"
IN=${CERTS_IN:-70} # seconds until the first ones end: enough to start, and then some until the new ones are in use

mkdir "$TMP/ca"; : >"$TMP/ca/index.txt"
cat >"$TMP/ca/conf" <<X
[ca]
default_ca = c
[c]
database = $TMP/ca/index.txt
new_certs_dir = $TMP/ca
certificate = $PKI/ca.crt
private_key = $PKI/ca.key
rand_serial = yes
unique_subject = no
default_md = sha256
policy = p
[p]
commonName = supplied
[e]
subjectAltName = \$ENV::SAN
X
# brief HOST END: a certificate for its key that ends then, in $TMP/HOST.crt
brief() {
	openssl req -new -key $PKI/hosts/$1/host.key -subj /CN=$1 -out "$TMP/csr" &&
		SAN=DNS:$1 openssl ca -batch -notext -config "$TMP/ca/conf" -extensions e -startdate 20200101000000Z -enddate "$2" -in "$TMP/csr" -out "$TMP/$1.crt"
}
put() { on $1 sh -c "cat >/etc/sprite/tls/$2.new && mv /etc/sprite/tls/$2.new /etc/sprite/tls/$2" <"$3"; } # HOST NAME FILE
crl() { for h in $HOSTS; do put $h crl.pem $PKI/crl.pem; done; }

# -- all certificates end soon, and are in use
"$BIN/sprite-pki" host $PKI nobody >/dev/null && "$BIN/sprite-pki" revoke $PKI nobody >/dev/null || flunk "a list of revoked certificates"
crl
for d in migd spritefs spritefsd; do
	for h in $HOSTS; do lab kill $h $d TERM >/dev/null 2>&1; done
	for h in $HOSTS; do until_true 20 on $h sh -c "! pgrep -x $d" || flunk "$d ends on $h"; done
done
end=$(($(date +%s) + IN))
for h in $HOSTS; do
	brief $h "$(date -u -d @$end +%Y%m%d%H%M%SZ)" >/dev/null 2>&1 || flunk "a brief certificate for $h"
	put $h host.crt "$TMP/$h.crt"
	on $h python3 -c 'import json
c = json.load(open("/etc/sprite/sprite.conf")); c["tls"] = dict(c.get("tls", {}), crl="/etc/sprite/tls/crl.pem")
json.dump(c, open("/etc/sprite/sprite.conf", "w"))'
done
for d in spritefsd spritefs migd; do for h in $HOSTS; do lab start $h $d >/dev/null 2>&1 || [ $h = fs1 ] || flunk "$d starts on $h"; done; done
up() { mig hosts | grep -E "^$1 " | grep -vq down; }
for h in ws1 ws2; do check "$h is up" until_true 30 up $h; done
job_dir
on ws1 mkfifo $JD/own; on ws1 chmod 666 $JD/own
job 'bash -c "exec 3<>own; n=0; while [ ! -e stop ]; do n=\$((n + 1)); echo \$n >now; read -t 0.2 -u 3 x; done; echo \$n"' 2>/dev/null
check "a guest" hop ws2
counts() { a=$(on ws1 cat $JD/now); until_true 20 eval '[ "$(on ws1 cat $JD/now)" -gt "${a:-0}" ]'; }
check "it counts" counts
# -- numbers from ws1 to ws2 by a named pipe; after eight of them by a connection of the two hosts' own
. "$HERE/fifo_jobs.sh"
on ws1 sh -c 'mkdir -m 777 /sprite/p; mkfifo -m 666 /sprite/p/f'
D=$(carried ws1 direct)
start ws2 r "cat f"
start ws1 w "bash -c 'exec 3>f; for ((n = 1; ; n++)); do echo \$n >&3 || exit 9; [ -e stop ] && exit 0; sleep 0.05; done'"
check "bytes go by a connection of its own" until_true 20 more ws1 direct $D

# -- renewed in time
logs() { for h in $HOSTS; do for d in spritefsd spritefs migd; do lab logs $h $d 2>/dev/null | sed "s/^/$h: /"; done; done; }
logs >"$TMP/before"
for h in $HOSTS; do
	"$BIN/sprite-pki" host --force $PKI $h >/dev/null 2>&1 || flunk "renew $h"
	put $h host.key $PKI/hosts/$h/host.key; put $h host.crt $PKI/hosts/$h/host.crt
done
note "renewed $((end - $(date +%s))) s before the end"
ends() { [ $(date +%s) -gt $((end + 15)) ]; } # the server looks at streams every ten seconds
failed=
while ! ends; do
	out=$(mig hosts 2>&1)
	[ "$(grep -E '^ws[12] ' <<<"$out" | grep -vc down)" = 2 ] || failed+=$out$'\n'
	on ws1 timeout 20 ls /sprite >/dev/null || failed+="ls ws1"
	on ws2 timeout 20 ls /sprite >/dev/null || failed+="ls ws2"
	sleep 1
done
same "no host was away while the old certificates ended" "" "$failed"
logs >"$TMP/after"
same "nobody went without" "" "$(diff "$TMP/before" "$TMP/after" | grep -E 'Permission denied|orphan' | head -5)"
check "the guest counts on" counts
check "what goes through a named pipe goes on" on ws1 test ! -e /sprite/p/w.rc
check "by another connection" until_true 60 more ws1 direct $(($(carried ws1 direct) + 100))
check "it is where it was" runs_on ws2 bash
check "it comes home" hop home
check "it goes out again" hop ws2

# -- revoked, and another one a while later
"$BIN/sprite-pki" revoke $PKI ws2 >/dev/null || flunk "revoke"
put ws1 crl.pem $PKI/crl.pem
B=$(carried ws1 by_server)
check "who has heard of it has no connection with it: what is in a pipe goes by the server" until_true 60 more ws1 by_server $((B + 100))
as sprite ws1 touch /sprite/p/stop
same "all of it has come" "0 0 ok" "$(over w) $(over r) $(on ws1 awk '$1 != NR { exit } END { print $1 == NR ? "ok" : "not in order at " NR }' /sprite/p/r.out)"
crl
check "a revoked host is away" until_true 30 eval '! up ws2'
"$BIN/sprite-pki" host --force $PKI ws2 >/dev/null 2>&1 || flunk "another certificate"
put ws2 host.key $PKI/hosts/ws2/host.key; put ws2 host.crt $PKI/hosts/ws2/host.crt
check "with another certificate it is back" until_true 30 up ws2
check "for itself, too" until_true 30 eval 'as sprite ws2 mig hosts | grep -E "^ws1 " | grep -vq down'
check "and sees the tree" until_true 30 on ws2 timeout 20 ls /sprite
check "its guest lives" counts
said=$(logs | grep -v ^ws2 | grep -c "refused: certificate of ws2 has been revoked")
check "the refusals were told, but not every second" test "$said" -ge 1 -a "$said" -le 10 || note "$said lines"
on ws1 touch $JD/stop
same "the guest ends well" 0 "$(job_status 60)"
finish
