# SPDX-License-Identifier: Apache-2.0
# lab: shared
# timeout: 900
# long: yes
# Programs nobody here wrote survive repeated moves under load with right results: each family is moved home -> ws2 -> ws3 -> home ... at random moments until it has
# ended, and must say what an unmoved run says. What is not installed is told and left out. SPRITE_REAL="name name": only those.
. "$(dirname "$0")/lib.sh"
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT

# On ws1, as its user: moves NAME, whose script is NAME.sh, until it ends; says "NAME ok|no|skip words".
cat >"$TMP/one" <<'ONE'
name=$1 top=$2
cd $top || exit 1
export PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LC_ALL=C.UTF-8 HOME=$top
need=$(sed -n 's/^# needs: //p' $name.sh)
for n in $need; do command -v $n >/dev/null || { echo "$name skip $n is not installed"; exit 0; }; done
mkdir -p $name.ref $name.run
(cd $name.ref && timeout 120 bash ../$name.sh </dev/null >>out 2>>err; echo "status $?" >>out)
cd $name.run
bash ../$name.sh </dev/null >>out 2>>err &
pid=$!
moves=0 failed=0 why=
for where in $(for i in $(seq 60); do echo ws2 ws3 home ws3 ws2 home; done); do
	sleep 0.$(printf %03d $((RANDOM % 400)))
	kill -0 $pid 2>/dev/null || break
	case $where in home) say=$(mig home $pid 2>&1) ;; *) say=$(mig move -H $where $pid 2>&1) ;; esac
	if [ $? = 0 ]; then moves=$((moves + 1))
	else kill -0 $pid 2>/dev/null && { failed=$((failed + 1)); why=$say; }
	fi
done
wait $pid; echo "status $?" >>out
if cmp -s out ../$name.ref/out && [ $moves -ge 3 ]; then echo "$name ok $moves moves, $failed refused${why:+ ($(tail -n 1 <<<"$why"))}"
else
	echo "$name no after $moves moves, $failed refused"
	[ -z "$why" ] || echo "# refused: $why"
	diff ../$name.ref/out out | head -5 | sed 's/^/# /'; tail -n 3 err | sed 's/^/# /'
fi
ONE

prog() { cat >"$TMP/$1.sh"; NAMES="${NAMES:-} $1"; }

prog gcc_make <<'P'
# needs: gcc make
python3 - <<'PY'
n = 12
for k in range(n):
    with open("m%d.c" % k, "w") as f:
        for i in range(120):
            f.write("int f%d_%d(int a, int b) { int s = %d; for (int i = 0; i < a; i++) { s += (a ^ i) * b; if (s %% 7 == 3) s -= b << 2; else s ^= a + %d; } return s; }\n" % (k, i, i, k))
        f.write("int m%d(int a) { int s = 0; %s return s; }\n" % (k, " ".join("s += f%d_%d(a, %d);" % (k, i, i) for i in range(120))))
with open("main.c", "w") as f:
    f.write("#include <stdio.h>\n" + "".join("int m%d(int);" % k for k in range(n)) + "int main(void) { unsigned s = 0; for (int i = 0; i < 50; i++) { %s } printf(\"%%u\\n\", s); return 0; }\n" % " ".join("s = s * 31 + m%d(i);" % k for k in range(n)))
with open("Makefile", "w") as f:
    f.write("OBJS = main.o " + " ".join("m%d.o" % k for k in range(n)) + "\nprog: $(OBJS)\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n")
PY
make -j3 >make.log 2>&1 || tail -3 make.log
./prog
rm -f *.o prog
make -j2 >make.log 2>&1 || tail -3 make.log
./prog
P

prog python_threads <<'P'
# needs: python3
exec python3 - <<'PY'
import hashlib, subprocess, threading, queue
jobs, done = queue.Queue(), {}
def work():
    while True:
        n = jobs.get()
        if n is None: return
        h = b"%d" % n
        for i in range(15000): h = hashlib.sha256(h).digest()
        out = subprocess.run(["sort", "-n"], input="\n".join(str((i * 7919 + n) % 1000) for i in range(3000)), capture_output=True, text=True, check=True).stdout
        done[n] = hashlib.sha256(h + out.encode()).hexdigest()
ts = [threading.Thread(target=work) for _ in range(5)]
for t in ts: t.start()
for n in range(160): jobs.put(n)
for t in ts: jobs.put(None)
for t in ts: t.join()
for n in range(160): print(n, done[n])
PY
P

prog bash_jobs <<'P'
# needs: bash
set -m
i=0
while [ $i -lt 14 ]; do
	i=$((i + 1))
	seq $((i * 300)) | sed 's/7/x/' | sort -r | md5sum
	(sleep 0.2; exit $i) & a=$!
	(for k in $(seq 300); do :; done; exit $((i + 40))) & b=$!
	(trap 'exit 9' TERM; while :; do sleep 0.05; done) & c=$!
	jobs | wc -l
	wait $b; echo "b $?"
	kill -STOP $c; kill -TERM $c; kill -CONT $c
	st=147; while [ $st = 147 ]; do wait $c; st=$?; done; echo "c $st" # 147: the stop
	wait $a; echo "a $?"
	x=$(printf '%s\n' one two three | while read -r w; do echo "<$w>"; done | tr '\n' ' '); echo "$x"
done
P

prog sqlite <<'P'
# needs: sqlite3
for i in $(seq 12); do
	sqlite3 db <<SQL
.timeout 20000
create table if not exists t(a integer primary key, b text, c int);
begin;
with recursive n(i) as (select $((i * 4000)) union all select i+1 from n where i < $((i * 4000 + 3000))) insert or replace into t select i, hex(i * 7919), i % 97 from n;
commit;
update t set c = c + 1 where a % 3 = $((i % 3));
create index if not exists tc on t(c, b);
select count(*), sum(c), max(b) from t;
pragma integrity_check;
SQL
done
P

prog redis <<'P'
# needs: redis-server redis-cli
d=$(mktemp -d /tmp/redis.XXXXXX)
redis-server --port 0 --unixsocket $d/sock --save '' --appendonly no --dir $d --daemonize no >redis.log 2>&1 &
server=$!
r() { redis-cli -s $d/sock "$@"; }
for i in $(seq 200); do r ping 2>/dev/null | grep -q PONG && break; sleep 0.05; done
for n in $(seq 12); do
	for i in $(seq 400); do echo "incrby total $i"; echo "rpush list $n-$i"; echo "hset h f$i $n"; done | r >/dev/null
	r get total; r llen list; r hget h f17; r lindex list -1
done
r debug digest 2>/dev/null | grep -v ERR
r shutdown nosave
wait $server; echo "server $?"
rm -rf $d
P

prog perl <<'P'
# needs: perl
exec perl -e '
my %h; my $s = 1;
for my $i (1 .. 30000000) { $s = ($s * 1103515245 + 12345) % 2147483648; $h{$s % 5000} += $i if $i % 3; }
pipe(my $r, my $w); my $pid = fork();
if (!$pid) { close $r; print $w "$_ $h{$_}\n" for sort { $a <=> $b } keys %h; exit 3; }
close $w; my $n = 0; while (<$r>) { $n = ($n * 31 + length($_) + ord(substr($_, -2, 1))) % 1000003; } waitpid($pid, 0);
print "$n ", $? >> 8, " ", scalar(keys %h), "\n";'
P

prog node <<'P'
# needs: node
exec node -e '
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
const crypto = require("crypto");
const src = `const { parentPort, workerData } = require("worker_threads"); const crypto = require("crypto");
let h = String(workerData); for (let i = 0; i < 3000000; i++) h = crypto.createHash("sha1").update(h).digest("hex"); parentPort.postMessage(h);`;
let out = [], left = 4;
for (let k = 0; k < 4; k++) new Worker(src, { eval: true, workerData: k }).on("message", m => { out[k] = m; if (--left == 0) console.log(out.join("\n")); });
let ticks = 0; const t = setInterval(() => { if (++ticks == 30) { clearInterval(t); console.log("ticks done".length); } }, 50);' | sort
P

prog java <<'P'
# needs: java javac
cat >Work.java <<'J'
import java.util.*; import java.util.concurrent.*; import java.util.stream.*;
public class Work {
	public static void main(String[] a) throws Exception {
		ExecutorService ex = Executors.newFixedThreadPool(6);
		List<Future<Long>> f = new ArrayList<>();
		for (int k = 0; k < 40; k++) { final int n = k; f.add(ex.submit(() -> {
			long s = n; Map<Long, Integer> m = new HashMap<>();
			for (int i = 0; i < 8000000; i++) { s = s * 6364136223846793005L + 1442695040888963407L; m.merge(s >>> 52, 1, Integer::sum); }
			return s ^ m.values().stream().mapToLong(x -> (long) x * x).sum(); })); }
		for (Future<Long> x : f) System.out.println(x.get());
		ex.shutdown();
	}
}
J
javac -d . Work.java && exec java -Xmx128m -XX:-UsePerfData -cp . Work
P

prog go <<'P'
# needs: go
cat >w.go <<'G'
package main

import ("crypto/sha256"; "fmt"; "sync"; "time")

func main() {
	var wg sync.WaitGroup
	out := make([]string, 200)
	sem := make(chan int, 8)
	tick := time.NewTicker(5 * time.Millisecond)
	for i := range out { wg.Add(1); go func(i int) { defer wg.Done(); sem <- i; defer func() { <-sem }()
		h := sha256.Sum256([]byte{byte(i)}); for k := 0; k < 40000; k++ { h = sha256.Sum256(h[:]) }
		m := map[byte]int{}; for _, b := range h { m[b]++ }; <-tick.C
		out[i] = fmt.Sprintf("%x %d", h[:8], len(m)) }(i) }
	wg.Wait()
	for _, s := range out { fmt.Println(s) }
}
G
GOCACHE=$PWD/cache GOFLAGS=-buildvcs=false GO111MODULE=off go build -o w w.go && ./w
rm -rf cache
P

prog x264 <<'P'
# needs: x264
python3 -c '
import sys
w, h = 320, 180
for n in range(500):
    sys.stdout.buffer.write(bytes((x * 3 + y * 2 + n * 5) & 255 for y in range(h) for x in range(w)) + bytes((x + n) & 255 for x in range(w * h // 2)))' >in.yuv
x264 --quiet --threads 4 --preset slower --demuxer raw --input-res 320x180 --fps 25 -o out.h264 in.yuv
sha256sum out.h264
P

prog xz <<'P'
# needs: xz tar
tar cf - -C / usr/include 2>/dev/null | head -c 20000000 >in
xz -6 -T3 -c in | sha256sum
P

as sprite ws1 sh -c "cat >$JD/one" <"$TMP/one"
[ -z "${SPRITE_REAL:-}" ] || NAMES=$SPRITE_REAL
for n in $NAMES; do as sprite ws1 sh -c "cat >$JD/$n.sh" <"$TMP/$n.sh"; echo $n; done >"$TMP/names"
as sprite ws1 sh -c "xargs -P 3 -I% timeout -s KILL 400 bash $JD/one % $JD" <"$TMP/names" >"$TMP/results" 2>&1
while read -r n how words; do
	case $how in
	ok) pass "$n: the same result"; note "$n: $words" ;;
	skip) note "$n: $words" ;;
	no) flunk "$n: the same result"; note "$words" ;;
	*) note "$n $how $words" ;;
	esac
done <"$TMP/results"
same "all of them ended" "$(sort "$TMP/names")" "$(sed -n 's/^\([a-z_0-9]*\) \(ok\|no\|skip\).*/\1/p' "$TMP/results" | sort)"
same "nothing is left" "" "$(until_true 5 eval '[ -z "$(residue)" ]'; residue)"
finish
