#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mig make over several hosts of equal small CPU shares: speed-up, beside distcc and icecream (Debian packages distcc, icecc) on the same hosts in the same run, where they are
# installed. What is built: this project itself, the first FILES of its files of C. The machine must be quiet: guests have the lowest CPU weight, other work goes before them.
# "Home": CPU seconds that the build cost ws1, whose share bounds every one of them; "all": those of all the workstations. They hardly depend on what else the machine does.
#   tests/bench/make_bench.sh [FILES]     HOSTS="1 2 4 6 8 10 12": how many hosts; SHARE: percent of a CPU for each, 0: all of it; WITH="mig distcc icecc": whom; OPT="-O2 -g";
#                                         ONE: seconds of plain make on one host, if they were measured before
. "$(dirname "$0")/lib.sh"
FILES=${1:-104} HOSTS=${HOSTS:-1 2 4} WITH=${WITH:-mig distcc icecc} OPT=${OPT:--O2 -g}
MOST=$(tr ' ' '\n' <<<"$HOSTS" | sort -n | tail -1)
SHARE=${SHARE:-$(($(nproc) * 100 * 7 / 10 / (MOST > 12 ? MOST : 12)))}
bench_up -n "$MOST"
job_dir
on ws1 mkdir -m 1777 /sprite/tmp # as README tells sites that compile
tar cf - $(git ls-files '*.c' '*.h' | grep -E '^(conf|rpc|fs|migd)/') -C "$BUILD" gen | lab exec ws1 -u sprite -- tar xf - -C $JD
{ echo "INC = $(pkg-config --cflags fuse3 grpc libprotobuf-c jansson | xargs)"; cat <<'X'
CC = gcc
SRC := $(wordlist 1,$(N),$(sort $(wildcard fs/*/*.c migd/*.c migd/engine/*.c rpc/*.c conf/*.c fs/*.c migd/cli/*.c)))
object = o/$(subst /,_,$(1:.c=.o))
all: $(foreach s,$(SRC),$(call object,$(s)))
define rule
$(call object,$(1)): $(1)
	$$(CC) -D_GNU_SOURCE -DFUSE_USE_VERSION=314 '-DSPRITE_VERSION="0"' -I. -Igen $$(INC) -std=gnu11 $$(OPT) -Wall -c -o $$@ $(1)
endef
$(foreach s,$(SRC),$(eval $(call rule,$(s))))
X
} | lab exec ws1 -u sprite -- sh -c "cat >$JD/Makefile; mkdir $JD/o"
until_true 60 idle_all "$MOST" || { echo "hosts do not become idle"; mig hosts; exit 1; }
build() { as sprite ws1 bash -c "cd $JD && rm -f o/* && $1 N=${2:-$FILES} OPT='$OPT' </dev/null >log 2>&1"; } # COMMAND [FILES]
# The compiler, and the headers, are fetched once, not in the measured runs.
build "make -j2" 6
for i in $(seq 2 "$MOST"); do as sprite ws1 bash -c "cd $JD && mig run -H ws$i make -s o/warm.$i -f- >warm.$i 2>&1 <<<'o/warm.$i: ; gcc -D_GNU_SOURCE -I. -Igen $OPT -c -o \$@ migd/office.c'" </dev/null >/dev/null 2>&1 & done
wait
address() { mig hosts --no-header -o NAME,ADDRESS | awk -v h="$1" '$1 == h { print $2 }'; }
with() { [[ " $WITH " == *" $1 "* ]]; }
list=localhost/1
if with distcc && command -v distccd >/dev/null; then
	for i in $(seq 2 "$MOST"); do
		on ws$i sh -c 'distccd --daemon --allow-private --enable-tcp-insecure --jobs 2 --user sprite --log-file /tmp/distccd.log'
		list="$list $(address ws$i)/1"
	done
fi
icecc_upto() { # starts what is not there yet; returns when the scheduler knows of all
	[ -n "${icecc:-}" ] || { on ws1 icecc-scheduler -d -vvv -n bench -l /tmp/scheduler.log; icecc=0; }
	while [ "$icecc" -lt "$1" ]; do
		icecc=$((icecc + 1))
		on ws$icecc sh -c "mkdir -p /var/cache/icecc; chown sprite /var/cache/icecc; iceccd -d -n bench -s $(address ws1) -m 1 -N ws$icecc -b /var/cache/icecc -u sprite -l /tmp/iceccd.log"
	done
	until_true 10 eval '[ "$(on ws1 grep -c "login ws" /tmp/scheduler.log)" -ge '"$1"' ]' # a daemon looks for it every 3 s; the line is one of -vvv
}
[ "$SHARE" = 0 ] || for i in $(seq "$MOST"); do lab cpu ws$i "$SHARE" >/dev/null; done
# CPU seconds of ws1, and of all workstations, since the nodes began
used() { for i in $(seq "$MOST"); do on ws$i sh -c 'cat /sys/fs/cgroup/unified/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu.stat' | awk '/^usage_usec/ { print $2 / 1e6 }'; done | awk 'NR == 1 { h = $1 } { s += $1 } END { print h, s }'; }
row() { awk -v what="$1" -v o="${ONE:-$2}" -v t="$2" -v c="$3" -v s="${4:-}" 'BEGIN { split(c, u); printf "%-40s %8.2f %9.2f %8.1f %8.1f %s\n", what, t, o / t, u[1], u[2], s }'; }
# measured CMD...: seconds in $t, CPU seconds in $c
measured() { local a; a=$(used); t=$(seconds "$@"); c=$(awk -v a="$a" -v b="$(used)" 'BEGIN { split(a, x); split(b, y); print y[1] - x[1], y[2] - x[2] }'); }
echo "$FILES files of C ($OPT), hosts of $SHARE % of a CPU each, on one machine of $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg) before"
printf '%-40s %8s %9s %8s %8s %s\n' hosts seconds speed-up home all "Sprite's pmake (kernel)"
for n in $HOSTS; do
	if [ "$n" = 1 ]; then
		measured build "make -j2"
		ONE=$t
		row "1, plain make -j2" "$t" "$c"
		continue
	fi
	if with mig; then
		for i in $(seq 2 "$MOST"); do on ws$i mig lend "$([ $i -le $n ] && echo on || echo off)" >/dev/null; done
		until_true 30 idle_all "$n"; sleep 1.5 # the master hears of it
		for again in "" ", again"; do # first, guests have to learn the home's names
			measured build "mig make --verbose --local 1 --remote $((n - 1)) -j$n"
			row "$n, mig make$again ($(on ws1 grep -c -- '-> ws' $JD/log) away)" "$t" "$c" "$(case $n in 2) echo 1.69;; 4) echo 2.75;; 6) echo 3.59;; 8) echo 3.96;; 10) echo 4.13;; 12) echo 4.35;; esac)"
		done
	fi
	if with distcc && command -v distcc >/dev/null; then
		measured build "DISTCC_HOSTS='$(cut -d' ' -f1-"$n" <<<"$list")' make -j$n CC='distcc gcc'"
		row "$n, distcc" "$t" "$c"
	fi
	if with icecc && command -v icecc >/dev/null; then
		icecc_upto "$n" || { echo "icecream is left out: its daemons do not find their scheduler"; WITH=${WITH/icecc}; continue; }
		build "make -j$n CC='icecc gcc'" "$n" # ships the compiler
		measured build "make -j$n CC='icecc gcc'"
		row "$n, icecream" "$t" "$c"
	fi
done
