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
go() { as sprite ws1 touch /sprite/p/go.$1; }
all() { same "$1: all comes" "0 0 end $3" "$(over w$2$3) $(over r$2$3) $(numbers log.$2$3)"; }

# -- what is usual
stream ws1 f 8000
go f8000
all usual f 8000
check "nearly all of it by that" more ws1 direct $((D + 2000000))

# -- who had both ends of it open on one node has closed them: nobody tells of that
same "on one node" here "$(on ws1 timeout 300 python3 -c 'import os; f = os.open("/sprite/p/f", os.O_RDWR); os.write(f, b"here"); print(os.read(f, 9).decode())')"
same "and on the other" there "$(on ws2 timeout 300 python3 -c 'import os; f = os.open("/sprite/p/f", os.O_RDWR); os.write(f, b"there"); print(os.read(f, 9).decode())')"
stream ws1 f 2000
go f2000
all "then" f 2000

# -- the connection is cut while bytes go through, and while more are written than it takes
stream ws1 g 8000
B=$(carried ws1 by_server)
on ws1 ip route add blackhole $(address ws2)/32
go g8000
all "cut in the middle" g 8000
check "the rest by the file server" more ws1 by_server $((B + 1000000))
B=$(carried ws1 by_server)
start ws2 r3 "$P r h log3"
start ws1 w3 "$P w h a 4000"
same "it cannot be made: all comes" "0 0 end 4000" "$(over w3) $(over r3) $(numbers log3)"
check "by the file server" more ws1 by_server $((B + 2000000))
on ws1 ip route del blackhole $(address ws2)/32

# -- afterwards, another pair, while one who has a good certificate sends what it should not
stream ws3 f 8001
on ws3 python3 - $(address ws2) 7702 >"$TMP/liar" <<'PY'
import os, random, socket, ssl, struct, sys
random.seed(7)
ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ours.load_verify_locations("/etc/sprite/tls/ca.crt"); ours.load_cert_chain("/etc/sprite/tls/host.crt", "/etc/sprite/tls/host.key"); ours.check_hostname = False
served = 0
for i in range(40):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 120)
    try:
        if i % 4 == 0: s.sendall(os.urandom(random.randrange(1, 5000)))   # no TLS
        elif i % 4 == 1: s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(random.randrange(600)))   # a hello cut short or wrong
        else:
            t = ours.wrap_socket(s)
            served += 1; t.settimeout(1)
            if i % 4 == 2: t.sendall(os.urandom(random.randrange(1, 3000)))   # no frame
            else: t.sendall(struct.pack("<IIQ", 1, 1000, random.getrandbits(64)) + bytes(1000) + struct.pack("<IIQ", 2, 0, 7) + struct.pack("<IIQ", 1, 1 << 31, 8))   # bytes of a path that is not its own, its end; a frame too long
            t.recv(100)
    except OSError: pass
    s.close()
print(served)
PY
same "one of us is let in" 20 "$(cat "$TMP/liar")"
go f8001
all "afterwards" f 8001
# -- a host whose own name is, to itself, that of its loopback
on ws2 sh -c "sed 's/^[^ ]* ws2\$/127.0.1.1 ws2/' /etc/hosts >/tmp/hosts; cat /tmp/hosts >/etc/hosts"
same "its name leads it to itself" 127.0.1.1 "$(on ws2 getent ahostsv4 ws2 | awk '{ print $1; exit }')"
lab kill ws2 spritefs
until_true 60 lab start ws2 spritefs
until_true 20 on ws2 test -p /sprite/p/f
stream ws1 f 8002
go f8002
all "to its loopback's name" f 8002
check "nobody says anything but what a cut connection is worth" sh_on ws2 '! grep -iE "pipe.*(error|protocol)" /var/log/sprite/spritefs.log'
check "no daemon has died" sh -c '! "$0" ls --json | grep -E "\"state\": \"(dead|ended)\""' "$BIN/sprite-lab"
finish
