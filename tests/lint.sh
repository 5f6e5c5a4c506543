#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a reader would complain about, by machine: licence lines, white space, size, who includes whom, shell scripts, man pages, units. Runs at the top
# of the tree; every complaint is one line "FILE[:LINE]: what". Tools that are not installed are named and left out.
set -u
export LC_ALL=C
bad=0
say() { echo "$*"; bad=1; }
have() { command -v "$1" >/dev/null || { echo "lint: $1 is not installed: not checked by it"; return 1; }; }
if git rev-parse --git-dir >/dev/null 2>&1; then
	mapfile -t files < <(git ls-files -co --exclude-standard | while read -r f; do [[ -f $f ]] && echo "$f"; done)
else
	mapfile -t files < <(find . -type f -not -path './build*' -not -path './.git/*' | sed 's,^\./,,')
fi
sources=() scripts=()
for f in "${files[@]}"; do
	case $f in
	*.c | *.h | *.proto) sources+=("$f") ;;
	*.sh | rpc/sprite-pki | packaging/* | fs/client/mount.sprite | completion/*) scripts+=("$f") ;;
	esac
done

# ---- every source: licence in the first two lines, no blanks at the end, lines that fit, files that can be read ----
for f in "${sources[@]}" "${scripts[@]}"; do
	head -n 2 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || say "$f:1: no SPDX line"
	while IFS=: read -r n _; do say "$f:$n: blank at the end of the line"; done < <(grep -nE '[ 	]+$' "$f")
	[[ -z $(tail -c 1 "$f") ]] || say "$f: no newline at the end"
done
for f in "${sources[@]}"; do
	case $f in *.proto) continue ;; esac
	awk -v f="$f" 'length > 220 {print f ":" NR ": line of " length " characters"; bad = 1} END {exit bad}' "$f" || bad=1
	(($(wc -l <"$f") <= 900)) || say "$f: $(wc -l <"$f") lines: too long to read in one sitting"
done

# ---- who may include whom (HACKING.md): FOLDER: allowed beginnings of #include "..." ----
includes() {
	local where=$1 allowed=$2 f line
	shift 2
	for f in "${sources[@]}"; do
		[[ $f =~ $where && $f == *.[ch] ]] || continue
		while IFS= read -r line; do
			[[ ${line#*:} =~ \"([^\"]+)\" ]] || continue
			local i=${BASH_REMATCH[1]}
			[[ $i != */* || $i =~ $allowed ]] || say "$f:${line%%:*}: must not include \"$i\""
		done < <(grep -nE '^#[ 	]*include[ 	]+"' "$f")
	done
}
includes '^conf/' '^conf/'
includes '^rpc/' '^(conf|rpc)/'
includes '^fs/[^/]*$' '^(conf|rpc)/|^fs/[^/]*$'
includes '^fs/client/' '^(conf|rpc|fs/client)/|^fs/[^/]*$'
includes '^fs/server/' '^(conf|rpc|fs/server)/|^fs/[^/]*$'
includes '^migd/engine/' '^(conf|migd/engine)/|^rpc/image|^fs/hand\.h$'
includes '^migd/relay/' '^(conf|migd/relay)/'
includes '^migd/cli/' '^(conf|migd/cli)/|^rpc/local\.h$'
includes '^migd/[^/]*$' '^(conf|rpc|migd/engine)/|^migd/relay/(hub|half|wire)\.h$|^migd/[^/]*$'

# ---- time only through conf/clock.h (a timeout of poll(2) or a condition needs the kernel's own) ----
for f in "${sources[@]}"; do
	[[ $f =~ ^(fs|migd)/[a-z_]+\.c$|^fs/server/|^fs/client/ ]] || continue
	while IFS=: read -r n line; do
		[[ $line =~ CLOCK_(MONOTONIC|REALTIME) ]] || say "$f:$n: time comes from conf/clock.h"
	done < <(grep -nE '\b(gettimeofday|time)\(NULL\)|\bclock_gettime\(' "$f")
done

# ---- scripts (one without "#!" is read by bash) ----
for f in "${scripts[@]}"; do
	case $(head -n 1 "$f") in
	'#!/bin/sh'*) sh -n "$f" || bad=1 ;;
	*) bash -n "$f" || bad=1 ;;
	esac
done
if have shellcheck; then
	for f in "${scripts[@]}"; do
		case $(head -n 1 "$f") in
		'#!'*) shellcheck -S error -e SC1087 "$f" || bad=1 ;;
		*) shellcheck -S error -e SC1087 -s bash "$f" || bad=1 ;;
		esac
	done
fi

# ---- man pages, units ----
if have man; then
	for f in man/*.[0-9]; do
		[[ -f $f ]] || continue
		w=$(MANROFFSEQ='' MANWIDTH=120 man --warnings -E UTF-8 -l -Tutf8 -Z "$f" 2>&1 >/dev/null)
		[[ -z $w ]] || say "$f: $w"
	done
fi
if have systemd-analyze; then
	d=$(mktemp -d)
	for f in units/*; do sed -E 's#^(ExecStart=)/usr/sbin/[a-z]+#\1/bin/true#' "$f" >"$d/${f##*/}"; done
	w=$(cd "$d" && SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no ./*.service ./*.mount 2>&1 | grep -F -e sprite -e migd)
	rm -r "$d"
	[[ -z $w ]] || say "units: $w"
fi
((bad)) || echo "lint: nothing to complain about"
exit $bad
