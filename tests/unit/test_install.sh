#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make install DESTDIR=`: every program is there and reachable, has a manual page and says in it what --help says; units name programs that exist;
# every key of the configuration is explained. Reads what is built in $BUILD (default build); builds nothing.
set -u
cd "$(dirname "$0")/../.." || exit 2
export BUILD=${BUILD:-build} LC_ALL=C
STAGE=$(mktemp -d) || exit 2
trap 'rm -rf "$STAGE"' EXIT
failed=0
bad() { echo "not ok: $*"; failed=1; }

[[ -d $BUILD/bin ]] || { echo "test_install: nothing is built in $BUILD: skipped"; exit 77; }
make -s BUILD="$BUILD" DESTDIR="$STAGE" install >"$STAGE/log" 2>&1 || { tail -n 20 "$STAGE/log"; echo "not ok: make install"; exit 1; }

# page FILE: a manual page's text; man(1) need not be installed. "Fl Fl name" is how mdoc(7) writes --name.
page() { sed -E 's/Fl Fl /--/g; s/^\.(It|Op|Xr|Cm|Pa) //' "$1"; }
for p in "$STAGE"/usr/lib/sprite/*; do
	program=$p p=${p##*/}
	link=$(ls "$STAGE/usr/bin/$p" "$STAGE/usr/sbin/$p" 2>/dev/null)
	case $p in
	sprite-keeper | sprite-relay | sprite-sh | sprite-holder) # migd's, mig make's and spritefs's, not the user's
		[[ -z $link ]] || bad "$link: nobody starts it by hand" ;;
	*)
		[[ -n $link && $(wc -l <<<"$link") == 1 && -x $link ]] || { bad "$p: expected one link in bin or sbin that leads to it"; continue; }
		[[ $(readlink -f "$link") == "$(readlink -f "$STAGE")/usr/lib/sprite/$p" ]] || bad "$link leads elsewhere" ;;
	esac
	text=$(page "$(ls "$STAGE"/usr/share/man/man[18]/"$p".[18] 2>/dev/null)" 2>/dev/null)
	[[ -n $text ]] || { bad "$p has no manual page"; continue; }
	"$program" --help >"$STAGE/help" 2>&1 </dev/null || bad "$p --help: exit status $?"
	[[ -s $STAGE/help ]] || bad "$p --help says nothing"
	[[ $("$program" --version 2>&1 </dev/null) =~ ^$p.*\ [0-9.]+$ ]] || bad "$p --version: $("$program" --version 2>&1 </dev/null | head -1)"
	for o in $(grep -oE '(^|[][ |=])--[a-z][a-z-]+' "$STAGE/help" | grep -oE -- '--[a-z-]+' | sort -u); do
		grep -qF -- "$o" <<<"$text" || bad "$p($o): not in its manual page"
	done
done

for u in "$STAGE"/usr/lib/systemd/system/*; do
	for e in $(sed -nE 's/^Exec[A-Za-z]*=[-+!@]*([^ ]+).*/\1/p' "$u"); do
		[[ -x $STAGE$e ]] || bad "${u##*/}: $e is not installed"
	done
done

keys=$(grep -oE '"[a-z_]+":' sprite.conf.example | tr -d '":' | sort -u)
text=$STAGE/usr/share/man/man5/sprite.conf.5
for k in $keys crl; do
	grep -qE "^\.(It|Ss) .*\b$k\b" "$text" || bad "sprite.conf(5) does not explain \"$k\""
done
for c in "$STAGE"/usr/share/bash-completion/completions/*; do
	bash -n "$c" || bad "${c##*/}: completion"
	[[ -e $STAGE/usr/bin/${c##*/} || -e $STAGE/usr/sbin/${c##*/} ]] || bad "completion of ${c##*/}, which is not installed"
done
((failed)) || echo "test_install: all good"
exit $failed
