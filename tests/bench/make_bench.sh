#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mig make over several hosts of equal small CPU shares: speed-up, beside distcc and icecream (Debian packages distcc, icecc) on the same hosts in the same run, where they are
# installed. The machine must be quiet: guests have the lowest CPU weight, other work goes before them.
#   tests/bench/make_bench.sh [FILES [LINES]]       HOSTS="1 2 4 6 8 10 12": how many hosts; SHARE: percent of a CPU for each; PEERS=no: without the others
. "$(dirname "$0")/lib.sh"
. tests/bench/source.sh
FILES=${1:-20} LINES_=${2:-100} HOSTS=${HOSTS:-1 2 4}
MOST=$(tr ' ' '\n' <<<"$HOSTS" | sort -n | tail -1)
SHARE=${SHARE:-$(($(nproc) * 100 * 7 / 10 / MOST))}
[ "$SHARE" -le 100 ] || SHARE=100
[ "$SHARE" -gt 0 ] || SHARE=1
bench_up -n "$MOST"
job_dir
{ for i in $(seq "$FILES"); do echo "=== f$i.c"; source_c f$i "$LINES_"; done; } | lab exec ws1 -u sprite -- bash -c "cd $JD; awk '/^=== / { f = \$2; next } { print >f }'"
lab exec ws1 -u sprite -- bash -c "cat >$JD/Makefile" <<'X'
CC = gcc
OBJS = $(patsubst %.c,%.o,$(wildcard f*.c))
all.a: $(OBJS)
	ar cr $@ $(OBJS)
%.o: %.c
	$(CC) -O2 -w -c -o $@ $<
X
until_true 60 idle_all "$MOST" || { echo "hosts do not become idle"; mig hosts; exit 1; }
for i in $(seq 2 "$MOST"); do as sprite ws1 bash -c "cd $JD && echo 'int x;' >x.c && mig run -H ws$i gcc -O2 -c x.c -o x.o >x.out" </dev/null >/dev/null 2>&1; done # the compiler is fetched once, not in the measured runs
address() { mig hosts --no-header -o NAME,ADDRESS | awk -v h="$1" '$1 == h { print $2 }'; }
# What the others need runs before the shares are set.
distcc= icecc= list=localhost/1
if [ "${PEERS:-yes}" = yes ] && command -v distccd >/dev/null; then
	distcc=yes
	for i in $(seq 2 "$MOST"); do
		on ws$i sh -c 'distccd --daemon --allow-private --enable-tcp-insecure --jobs 2 --user sprite --log-file /tmp/distccd.log' || distcc=
	done
	for i in $(seq 2 "$MOST"); do list="$list $(address ws$i)/1"; done
fi
if [ "${PEERS:-yes}" = yes ] && command -v iceccd icecc-scheduler >/dev/null; then
	icecc=yes
	on ws1 icecc-scheduler -d -n bench -l /tmp/icecc-scheduler.log || icecc=
	for i in $(seq "$MOST"); do on ws$i sh -c "mkdir -p /var/cache/icecc; iceccd -d -n bench -s $(address ws1) -m 1 -N ws$i -b /var/cache/icecc -u sprite -l /tmp/iceccd.log" || icecc=; done
	[ -z "$icecc" ] || sleep 3
fi
for i in $(seq "$MOST"); do lab cpu ws$i "$SHARE" >/dev/null; done
build() { as sprite ws1 bash -c "cd $JD && rm -f *.o *.a && $1 </dev/null >log 2>&1"; }
row() { awk -v what="$1" -v o="$2" -v t="$3" -v s="${4:-}" 'BEGIN { printf "%-44s %8.2f %9.2f %s\n", what, t, o / t, s }'; }
echo "$FILES files of C, hosts of $SHARE % of a CPU each, on one machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before"
printf '%-44s %8s %9s %s\n' hosts seconds speed-up "Sprite's pmake (kernel)"
one=$(seconds build "make -j2")
row "1, plain make -j2" "$one" "$one"
row "1, plain make -j2, again" "$one" "$(seconds build "make -j2")"
for n in $HOSTS; do
	for i in $(seq 2 "$MOST"); do on ws$i mig lend "$([ $i -le $n ] && echo on || echo off)" >/dev/null; done
	until_true 30 idle_all "$n"; sleep 1.5 # the master hears of it
	t=$(seconds build "mig make --verbose --local 1 --remote $((n - 1)) -j$n")
	row "$n, mig make ($(on ws1 grep -c -- '-> ws' $JD/log) recipes away)" "$one" "$t" "$(case $n in 2) echo 1.69;; 4) echo 2.75;; 6) echo 3.59;; 8) echo 3.96;; 10) echo 4.13;; 12) echo 4.35;; esac)"
	hosts=$(cut -d' ' -f1-"$n" <<<"$list")
	[ -z "$distcc" ] || [ "$n" = 1 ] || row "$n, distcc" "$one" "$(seconds build "DISTCC_HOSTS='$hosts' DISTCC_FALLBACK=1 make -j$n CC='distcc gcc'")"
done
[ -z "$icecc" ] || row "$MOST, icecream" "$one" "$(seconds build "make -j$MOST CC='icecc gcc'")"
