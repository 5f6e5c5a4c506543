# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 200
# Bytes of a named pipe between two nodes go by a connection of their own (fs/server/pipe_path.c). Where that cannot be made, or is cut in the middle, they go by the file server: none is lost,
# doubled or out of order, and nobody notices.
. "$(dirname "$0")/lib.sh"
. "$HERE/fifo_jobs.sh"
lab_up -n 3 --bind "$SPRITE_TESTS:/opt/sprite/tests"
P=/opt/sprite/tests/tools/fifo_stream
until_true 20 on ws1 sh -c 'mkdir -m 777 /sprite/p && mkfifo -m 666 /sprite/p/f /sprite/p/g /sprite/p/h' || flunk "mkfifo"
address() { on $1 ip -4 -o addr show scope global | awk '{ sub("/.*", "", $4); print $4; exit }'; }
# NODE WHICH: bytes that its agent has sent, `direct` or `by_server`
carried() { on $1 python3 -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sprite/spritefs.sock"); s.sendall(b"{\"verb\":\"status\"}\n"); print(json.loads(s.makefile().readline())["pipes"][sys.argv[1]])' $2; }
more() { [ "$(carried $1 $2)" -gt $3 ]; }

# -- what is usual
start ws2 r "$P r f log"
start ws1 w "$P w f a 20000"
same "all comes" "0 0 end 20000" "$(over w) $(over r) $(numbers log)"
check "most of it by a connection between the two" more ws1 direct 8000000

# -- the connection is cut while bytes go through, and while more are written than it takes
B=$(carried ws1 by_server) D=$(carried ws1 direct)
start ws2 r2 "$P r g log2"
start ws1 w2 "$P w g a 10000 512 300"
check "a second pipe goes by it" until_true 20 more ws1 direct $((D + 100000))
on ws1 ip route add blackhole $(address ws2)/32
same "cut in the middle: all comes, in order" "0 0 end 10000" "$(over w2) $(over r2) $(numbers log2)"
check "the rest by the file server" more ws1 by_server $((B + 100000))
B=$(carried ws1 by_server)
start ws2 r3 "$P r h log3"
start ws1 w3 "$P w h a 4000"
same "it cannot be made: all comes" "0 0 end 4000" "$(over w3) $(over r3) $(numbers log3)"
check "by the file server" more ws1 by_server $((B + 2000000))
on ws1 ip route del blackhole $(address ws2)/32

# -- afterwards, another pair, while one who has a good certificate sends what it should not
D=$(carried ws3 direct)
start ws2 r4 "$P r f log4"
start ws3 w4 "$P w f a 20000"
on ws3 python3 - $(address ws2) 7702 >"$TMP/liar" <<'PY'
import os, random, socket, ssl, struct, sys
random.seed(7)
ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ours.load_verify_locations("/etc/sprite/tls/ca.crt"); ours.load_cert_chain("/etc/sprite/tls/host.crt", "/etc/sprite/tls/host.key"); ours.check_hostname = False
served = 0
for i in range(40):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); s.settimeout(1)
    try:
        if i % 4 == 0: s.sendall(os.urandom(random.randrange(1, 5000)))   # no TLS
        elif i % 4 == 1: s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(random.randrange(600)))   # a hello cut short or wrong
        else:
            t = ours.wrap_socket(s)
            served += 1
            if i % 4 == 2: t.sendall(os.urandom(random.randrange(1, 3000)))   # no frame
            else: t.sendall(struct.pack("<IIQ", 1, 1000, random.getrandbits(64)) + bytes(1000) + struct.pack("<IIQ", 2, 0, 7) + struct.pack("<IIQ", 1, 1 << 31, 8))   # bytes of a path that is not its own, its end; a frame too long
            t.recv(100)
    except OSError: pass
    s.close()
print(served)
PY
same "one of us is let in" 20 "$(cat "$TMP/liar")"
same "a third host writes" "0 0 end 20000" "$(over w4) $(over r4) $(numbers log4)"
check "by a connection of its own" more ws3 direct $((D + 8000000))
check "nobody says anything but what a cut connection is worth" sh_on ws2 '! grep -iE "pipe.*(error|protocol)" /var/log/sprite/spritefs.log'
check "no daemon has died" sh -c '! "$0" ls --json | grep -E "\"state\": \"(dead|ended)\""' "$BIN/sprite-lab"
finish
