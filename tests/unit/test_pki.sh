#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# sprite-pki: what it makes is what the daemons accept, it refuses what it should, and leaves nothing half made.
set -u
PKI=$(cd "$(dirname "$0")/../.." && pwd)/rpc/sprite-pki
DIR=$(mktemp -d) || exit 2
trap 'rm -rf "$DIR"' EXIT
cd "$DIR" || exit 2
failed=0
ok() { # ok WHAT COMMAND...
	local what=$1
	shift
	"$@" >out 2>&1 || { echo "not ok: $what: $*"; sed 's/^/    /' out; failed=1; }
}
refused() { # refused STATUS TEXT COMMAND...
	local want=$1 text=$2 got
	shift 2
	"$@" >out 2>&1
	got=$?
	[[ $got == "$want" ]] || { echo "not ok: $*: exit status $got, expected $want"; failed=1; }
	grep -qF -- "$text" out || { echo "not ok: $*: expected \"$text\" in:"; sed 's/^/    /' out; failed=1; }
	[[ $(wc -l <out) == 1 ]] || { echo "not ok: $*: more than one line"; sed 's/^/    /' out; failed=1; }
}
says() { # says TEXT FILE
	grep -qF -- "$1" "$2" || { echo "not ok: expected \"$1\" in $2:"; sed 's/^/    /' "$2"; failed=1; }
}

ok init "$PKI" init "my ca"
says "certificate authority made" out
ok "mode of the authority's key" test "$(stat -c %a 'my ca/ca.key')" = 600
refused 1 "has a certificate authority already" "$PKI" init "my ca"
cp "my ca/ca.key" before

ok host "$PKI" host "my ca" ws1 --address 10.1.0.2 --address=fd00::2
says "scp -p" out
ok "mode of the key" test "$(stat -c %a 'my ca/hosts/ws1/host.key')" = 600
ok "mode of the certificate" test "$(stat -c %a 'my ca/hosts/ws1/host.crt')" = 644
ok verify openssl verify -x509_strict -purpose sslserver -CAfile "my ca/ca.crt" "my ca/hosts/ws1/host.crt"
ok verify openssl verify -x509_strict -purpose sslclient -CAfile "my ca/ca.crt" "my ca/hosts/ws1/host.crt"
ok name openssl x509 -in "my ca/hosts/ws1/host.crt" -noout -checkhost ws1
openssl x509 -in "my ca/hosts/ws1/host.crt" -noout -text >text
says "DNS:ws1, IP Address:10.1.0.2, IP Address:FD00:0:0:0:0:0:0:2" text
says "NIST CURVE: P-256" text
# clocks differ: valid since the day before yesterday
start=$(date -d "$(openssl x509 -in 'my ca/hosts/ws1/host.crt' -noout -startdate | cut -d= -f2)" +%s)
ok backdated test $(($(date +%s) - start)) -ge $((2 * 86400 - 60))
ok "key belongs to certificate" test "$(openssl pkey -in 'my ca/hosts/ws1/host.key' -pubout)" = "$(openssl x509 -in 'my ca/hosts/ws1/host.crt' -noout -pubkey)"

refused 1 "is there already; --force" "$PKI" host "my ca" ws1
refused 1 "expected a host name" "$PKI" host "my ca" ../ws2
refused 1 "expected a host name" "$PKI" host "my ca" "a b"
refused 1 "expected a host name" "$PKI" host "my ca" "$(printf 'x%.0s' {1..65})"
refused 64 "expected an IP address, found \"ws9\"" "$PKI" host "my ca" ws9 --address ws9
refused 64 "expected an IP address" "$PKI" host "my ca" ws9 --address 1.2.3.256
refused 1 "signing the certificate of ws9" "$PKI" host "my ca" ws9 --address 1:2:3:4:5:6:7:8:9
refused 64 "expected 1 to 99999" "$PKI" host "my ca" ws9 --days 0
refused 64 "--days needs a value" "$PKI" host "my ca" ws9 --days
refused 64 "no option --dayz" "$PKI" host "my ca" ws9 --dayz 1
refused 64 "expected host DIR NAME" "$PKI" host "my ca"
refused 64 "no verb \"frobnicate\"" "$PKI" frobnicate
ok "its version" "$PKI" --version
says "sprite-pki (Sprite for Linux)" out
refused 1 "before the 9000 days" "$PKI" host "my ca" ws9 --days 9000
refused 1 "found nothing" "$PKI" host nowhere ws9
refused 1 "sprite-pki: before: cannot be made, or is no folder" "$PKI" init before
mkdir empty
refused 1 "no certificate authority in it" "$PKI" host empty ws9
ok "nothing of ws9" test ! -e "my ca/hosts/ws9"
touch empty/mine
refused 1 "expected an empty folder" "$PKI" init empty
ok "keeps my file" test -e empty/mine
ok "the authority is untouched" cmp before "my ca/ca.key"

# an expired one can be had for tests, and shows
ok host "$PKI" host "my ca" old --days 1
ok "not expired yet" openssl verify -CAfile "my ca/ca.crt" "my ca/hosts/old/host.crt"
refused_at=$(($(date +%s) + 2 * 86400))
if openssl verify -attime $refused_at -CAfile "my ca/ca.crt" "my ca/hosts/old/host.crt" >out 2>&1; then
	echo "not ok: --days 1 is still valid after two days"
	failed=1
fi

# several at once do not spoil the database
pids=()
for i in 1 2 3 4 5 6; do
	"$PKI" host "my ca" p$i >out.$i 2>&1 &
	pids+=($!)
done
for p in "${pids[@]}"; do wait "$p" || { echo "not ok: one of six at once"; failed=1; }; done
ok list "$PKI" list "my ca"
ok "all are listed" test "$(grep -c '^p[1-6] .* valid ' out)" = 6

ok force "$PKI" host --force "my ca" ws1
ok revoke "$PKI" revoke "my ca" ws1
says "2 certificate(s) revoked" out
refused 1 "has no valid certificate here" "$PKI" revoke "my ca" ws1
refused 1 "has no valid certificate here" "$PKI" revoke "my ca" nobody
ok list "$PKI" list "my ca"
ok "both revoked" test "$(grep -c '^ws1 .* revoked ' out)" = 2
if openssl verify -crl_check -CRLfile "my ca/crl.pem" -CAfile "my ca/ca.crt" "my ca/hosts/ws1/host.crt" >out 2>&1; then
	echo "not ok: a revoked certificate is accepted"
	failed=1
fi
ok "others stay valid" openssl verify -crl_check -CRLfile "my ca/crl.pem" -CAfile "my ca/ca.crt" "my ca/hosts/p1/host.crt"

# another authority's certificates are not ours
ok init "$PKI" init other
ok host "$PKI" host other ws1
if openssl verify -CAfile "my ca/ca.crt" other/hosts/ws1/host.crt >out 2>&1; then
	echo "not ok: a certificate of another authority is accepted"
	failed=1
fi
ok force "$PKI" init --force other
ok "a new authority starts empty" test ! -e other/hosts/ws1
ok "no work folders are left" test -z "$(find . -name '.work-*')"

# A full folder: a verb works and all of it is whole, or it fails with one line and nothing is changed; with room again it works.
full_part() {
	local k was verb now
	whole_ca() { openssl verify -CAfile "$1/ca.crt" "$1/ca.crt" && openssl pkey -in "$1/ca.key" -noout && test -s "$1/index.txt"; }
	state() { (cd "$1" && find . | sort && find . -type f -exec sha256sum {} + | sort); }
	whole_host() { openssl verify -CAfile full/ca.crt "$1/host.crt" && [[ "$(openssl pkey -in "$1/host.key" -pubout)" == "$(openssl x509 -in "$1/host.crt" -noout -pubkey)" ]]; }
	one_line() { [[ $(wc -l <out) == 1 ]] || { echo "not ok: $1: more than one line"; sed 's/^/    /' out; failed=1; }; }
	mkdir full
	for k in 1 2 3 4 5 6 7 8 10 12; do
		mount -t tmpfs -o size=$((k * 4))k full full || return
		if "$PKI" init full/new/ca >out 2>&1; then
			ok "init in $k pages: whole" whole_ca full/new/ca
			was="$was i"
		else
			one_line "init in $k pages"
			ok "init in $k pages: nothing is left" test -z "$(ls -A full)"
		fi
		mount -o remount,size=1m full
		[[ -e full/new ]] || ok "init with room again" "$PKI" init full/new/ca
		umount full
	done
	mount -t tmpfs -o size=400k full full
	ok init "$PKI" init full
	ok host "$PKI" host full h0
	for verb in "host full h1" "host --force full h0" "revoke full h0" "init --force full"; do
		for k in 0 1 2 3 4 5 6 7 8 10 12; do
			was=$(state full)
			: >full/filler
			dd if=/dev/zero of=full/filler bs=4k >/dev/null 2>&1
			truncate -s -$((k * 4))k full/filler
			# shellcheck disable=SC2086
			"$PKI" $verb >out 2>&1
			now=$?
			rm full/filler
			((now)) || break
			one_line "$verb with $k pages"
			[[ $(state full) == "$was" ]] || { echo "not ok: $verb with $k pages: failed and changed:"; diff <(echo "$was") <(state full) | sed 's/^/    /'; failed=1; }
		done
		# shellcheck disable=SC2086
		((now == 0)) || ok "$verb, with room again" "$PKI" $verb
		((k)) || { echo "not ok: $verb: no room was needed"; failed=1; }
		case $verb in
		host*) ok "$verb: whole" whole_host "full/hosts/${verb##* }" ;;
		revoke*) ok "$verb: whole" test "$(openssl crl -in full/crl.pem -noout -text | grep -c 'Serial Number:')" = 2 ;;
		init*) ok "$verb: whole" whole_ca full ;;
		esac
	done
	umount full
	((failed)) || echo "full folders: all good"
}
if unshare -rm true 2>/dev/null; then
	export PKI failed
	export -f ok full_part
	unshare -rm bash -c 'full_part; exit $failed' || failed=1
else
	echo "test_pki: full folders not tested: no mounts here"
fi
((failed)) || echo "test_pki: all good"
exit $failed
