# SPDX-License-Identifier: Apache-2.0
# lab: shared
# A server of UDP, and a client that is connected, are away: packets come as they were sent, from who sent them, and their answers come from the home's address.
. "$(dirname "$0")/lib.sh"
job_dir
PORT=$((20000 + RANDOM % 10000))
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
as sprite ws1 sh -c "cat >$JD/server.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", int(sys.argv[1]))); print("ready", flush=True)
n = 0
while True:
    data, who = s.recvfrom(70000); n += 1
    s.sendto(b"%d %d %s %s\n" % (n, len(data), who[0].encode(), data[:10]), who)
PY
as sprite ws1 sh -c "cat >$JD/client.py" <<'PY'
# client.py HOST PORT: asks again what is not answered in time, as one does with UDP; an answer to what was not asked now is none
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], int(sys.argv[2]))); s.settimeout(1); n = 0
me = s.getsockname(), s.getpeername(); print("ready", flush=True)
while not os.path.exists("stop"):
    n += 1; word = b"c%d" % n
    while True:
        s.send(word)
        try: line = s.recv(1000)
        except socket.timeout: continue
        if line.split()[-1] == word: break
    assert me == (s.getsockname(), s.getpeername())
    if n % 10 == 0: print(n, flush=True)
print("well", flush=True)
PY
# One question of so many bytes: what its server says.
ask() { as sprite ws3 timeout 200 python3 -c '
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(180)
s.sendto(b"x" * 10000, (sys.argv[1], int(sys.argv[2]))); line, who = s.recvfrom(1000)
assert who == (socket.gethostbyname(sys.argv[1]), int(sys.argv[2])), who
print(line.decode().strip())' ws1 $PORT 2>&1; }
said() { on ws1 grep -q "^$1" $JD/out; }
lines() { on ws1 sh -c "grep -c '^[0-9]' $JD/out"; }
further() { local n; n=$(lines); until_true 20 eval "[ \$(lines) -gt $((n + 2)) ]"; }
ws3=$(on ws3 hostname -I | awk '{ print $1 }')

job "python3 server.py $PORT"; until_true 20 said ready
n=0
for where in ws2 ws3 home ws2; do
	check "the server moves to $where" until_true 10 hop $where
	n=$((n + 1))
	same "from there it answers whom it was asked by" "$n 10000 $ws3 xxxxxxxxxx" "$(ask)"
done
SERVER=$JOB
as sprite ws1 mv $JD/out $JD/out.server
job "python3 client.py ws1 $PORT"; until_true 20 said ready
for where in ws3 ws2 home; do
	check "a connected client moves to $where" until_true 10 hop $where
	check "and goes on" further
done
as sprite ws1 touch $JD/stop
same "the client ends well" 0 "$(job_status 30)" || on ws1 cat $JD/err
on ws1 kill "$SERVER"
finish
