#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The same work on several file systems, by turns, row by row; cells: seconds or operations a second, and how many times better than the first column.
#   tests/bench/fs_table.sh [-n FILES] [-r ROUNDS] [NAME=DIR]...
# A directory of this machine's disk, /sprite of a lab, and the DIRs: peers, mounted by whoever asks (sshfs, mount -t glusterfs, mfsmount). Root: cold rows drop the caches. Figures of a busy machine mislead, ratios of one run less.
cd "$(dirname "$0")" || exit 1
FILES=1000 ROUNDS=1
while getopts n:r: o; do case $o in n) FILES=$OPTARG;; r) ROUNDS=$OPTARG;; *) exit 64;; esac; done
shift $((OPTIND - 1))
if [ -z "${FS_TABLE_NODE:-}" ]; then
	. ./lib.sh
	mkdir -p "$BUILD/fs_table"
	bench_up -n 1
	init=$(lab ls | awk '$1 == "ws1" { print $4 }') # its processes are what the node's spritefs can see
	nsenter --pid="/proc/$init/ns/pid" env FS_TABLE_NODE="$SPRITE_TESTS" "$PWD/tests/bench/fs_table.sh" -n "$FILES" -r "$ROUNDS" \
		"local=$(realpath "$BUILD/fs_table")" "sprite=/proc/$init/root/sprite" "$@"
	exit
fi
. ./source.sh
ROWS=$FS_TABLE_NODE/bench/fs_rows
TMP=$(mktemp -d) && trap 'rm -rf "$TMP"' EXIT
NAMES=() A=()
for s in "$@"; do NAMES+=("${s%%=*}"); A+=("${s#*=}"); done
mkdir "$TMP/src"; for i in $(seq 40); do mkdir -p "$TMP/src/d$((i % 8))"; source_c f$i 12 >"$TMP/src/d$((i % 8))/f$i.c"; for k in $(seq 20); do echo "$i $k" >"$TMP/src/d$((i % 8))/n$i.$k"; done; done
printf 'all: $(patsubst %%.c,%%.o,$(wildcard d*/*.c))\n' >"$TMP/src/Makefile"
tar cf "$TMP/src.tar" -C "$TMP/src" .
timed() { local t=$EPOCHREALTIME; timeout 120 "$@" >/dev/null 2>"$TMP/err" || { echo "failed"; return; }; awk -v a="$t" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f\n", b - a }'; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }
# rows: name, + more is better or - less is, command on $D
table='create 1 KiB files/s|+|mkdir $D/n; $ROWS create $D/n $FILES
stat, warm|+|$ROWS stat $D/n $FILES >/dev/null; $ROWS stat $D/n $FILES
open, read, close, warm|+|$ROWS read $D/n $FILES >/dev/null; $ROWS read $D/n $FILES
rename there and back|+|$ROWS rename $D/n $FILES
unlink|+|$ROWS unlink $D/n $FILES
unpack 841 files, s|-|mkdir $D/t; timed tar xf $TMP/src.tar -C $D/t
find and grep, warm, s|-|grep -r nothing $D/t >/dev/null; timed sh -c "find $D/t -type f; grep -rl return $D/t"
find and grep, cold, s|-|cold; timed sh -c "find $D/t -type f; grep -rl return $D/t"
make -j2 of 40 C files, s|-|timed make -s -j2 -C $D/t
rm -rf, s|-|timed rm -rf $D/t'
for r in $(seq "$ROUNDS"); do
	while IFS='|' read -r name sign cmd; do
		for i in "${!NAMES[@]}"; do
			D=${A[i]}/fs_table.$$; mkdir -p "$D"
			v=$(eval "$cmd" 2>"$TMP/err2" </dev/null | tail -1)
			printf '%s|%s|%s|%s\n' "$name" "$sign" "$i" "${v:-n/a}" >>"$TMP/all"
		done
	done <<<"$table"
	for d in "${A[@]}"; do rm -rf "$d/fs_table.$$"; done
done
echo "$(nproc) CPUs, $(uname -r), load $(cut -d' ' -f1 /proc/loadavg), $FILES files, medians of $ROUNDS"
awk -F'|' -v names="${NAMES[*]}" '
	{ if (!($1 in sign)) { order[++n] = $1; sign[$1] = $2 } k = $1 SUBSEP $3; c[k]++; v[k, c[k]] = $4 }
	function med(k,  i, j, t, m, x) { m = 0; for (i = 1; i <= c[k]; i++) if (v[k, i] + 0 > 0) x[++m] = v[k, i] + 0
		for (i = 1; i <= m; i++) for (j = i + 1; j <= m; j++) if (x[j] < x[i]) { t = x[i]; x[i] = x[j]; x[j] = t }
		return m ? x[int((m + 1) / 2)] : 0 }
	END { cols = split(names, nm, " "); printf "%-38s", ""; for (i = 1; i <= cols; i++) printf "%20s", nm[i]; print ""
		for (r = 1; r <= n; r++) { printf "%-38s", order[r]; base = med(order[r] SUBSEP 0)
			for (i = 0; i < cols; i++) { x = med(order[r] SUBSEP i); q = !x || !base ? 0 : sign[order[r]] == "+" ? x / base : base / x
				printf "%20s", x ? sprintf(x >= 100 ? "%.0f (%.2f)" : "%.3f (%.2f)", x, q) : "n/a" } print "" } }' "$TMP/all"
