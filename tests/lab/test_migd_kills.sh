# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 3000
# At each step of a move, in each direction, something is killed or cut that the step does not expect: another host's migd, the keeper, the file system, a link.
. "$(dirname "$0")/lib.sh"
. "$HERE/faults.sh"
faults_up
part=${PART:-1/1} n=0 # PART=2/3: the second third of the rounds
# victims FROM TO WHO STEP
victims() {
	local from=$1 to=$2 who=$3 step=$4 h
	for h in $(printf '%s\n' ws1 $from $to | sort -u); do echo kill:$h; done
	for h in $(printf '%s\n' $from $to | sort -u); do [ $h = ws1 ] || printf '%s\n' keeper:$h spritefs:$h; done
	echo spritefsd:ws1
	[ $from = ws1 ] || echo cut:ws1,$from
	[ $to = ws1 ] || echo cut:ws1,$to
	[ $from = ws1 ] || [ $to = ws1 ] || echo cut:$from,$to
}
# steps FROM TO: "WHO STEP" of all steps, as they come
steps() {
	local home=ws1
	printf '%s\n' "$home prepare" "$1 freeze" "$1 dump" "$2 fill" "$2 prepared" "$1 sent" "$home commit" "$home committed"
	[ $2 = $home ] || printf '%s\n' "$2 nest" "$2 go"
	[ $1 = $home ] || echo "$1 release"
	printf '%s\n' "$2 running" "$home done" "$home away"
}
for way in "ws1 ws2" "ws2 ws3" "ws2 ws1"; do
	set -- $way
	while read -r who step <&3; do
		for what in $(victims $1 $2 $who $step); do
			[ $((n++ % ${part#*/})) = $((${part%/*} - 1)) ] || continue
			[ "$step" != prepare ] || [ $2 != ws1 ] || continue # the hollows are always prepared
			round $who $step $1 $2 $what
		done
	done 3< <(steps $1 $2)
done
finish
