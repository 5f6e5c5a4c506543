# SPDX-License-Identifier: Apache-2.0
# lab: own
# /sprite by a line of fstab, as mount.sprite(8) says: mount(8) finds the helper, a mistake is named, umount ends it all.
. "$(dirname "$0")/lib.sh"
lab_up -n 1
# a node sees this machine's /usr: the helper is put there for its eyes only
sh_on ws1 'mkdir /tmp/sbin; cp -a /usr/sbin/. /tmp/sbin; ln -sf /opt/sprite/bin/mount.sprite /tmp/sbin/mount.sprite; mount --bind /tmp/sbin /usr/sbin; mkdir /mnt/x
	printf "none /sprite sprite defaults,_netdev,nofail 0 0\nnone /mnt/x sprite nonsense 0 0\n" >/etc/fstab'
check "umount" sh_on ws1 'echo before >/sprite/f && umount /sprite'
check "its spritefs ends with it" until_true 20 eval '! on ws1 pgrep -x spritefs'
own=$(lab logs ws1 migd | wc -l)
lab kill ws1 migd TERM
until_true 20 lab start ws1 migd || flunk "migd starts without /sprite"
check "a migd that starts without it says so" until_true 10 eval '[[ $(lab logs ws1 migd | tail -n +$((own + 1))) == *"Nothing moves before"* ]]'
# who reads what it says is not kept waiting by what it has started
check "mount by fstab" timeout 60 "$BIN/sprite-lab" exec ws1 -- bash -c 'said=$(mount /sprite 2>&1) || { echo "$said"; false; }'
same "the tree is there, with what was written" "before" "$(on ws1 cat /sprite/f)"
check "and can be written" sh_on ws1 'echo after >/sprite/f && sync -f /sprite/f'
same "at the server" "after" "$(on fs1 cat /srv/sprite/f)"
refused "a second one there" 1 '/sprite: already served' on ws1 mount -t sprite none /sprite
refused "an option that there is not" 1 'mount.sprite: /mnt/x: unknown option "nonsense"' on ws1 mount /mnt/x
# what is known is not asked for when a path is walked: a spritefs that stands holds up nobody, root or not
as sprite ws1 cat /sprite/f >/dev/null; as sprite ws1 stat /sprite/f >/dev/null
on ws1 sh -c 'kill -STOP $(pgrep -x spritefs)'
check "a user walks a path that is known without a message" timeout 20 "$BIN/sprite-lab" exec ws1 -u sprite -- timeout 10 stat /sprite/f || note "$(on ws1 uname -r)"
on ws1 sh -c 'kill -CONT $(pgrep -x spritefs)'
check "umount again" on ws1 umount /sprite
check "and nothing of it is left" until_true 20 eval '! on ws1 pgrep "spritefs$|sprite-holder"'

# it dies on its way there: the next one, of its holder or ours, mounts; once
F=/tmp/fault
on ws1 mkdir $F
there() { [ "$(on ws1 cat /sprite/f 2>/dev/null)" = after ] || { lab start ws1 spritefs >/dev/null 2>&1; false; }; }
gone() { ! on ws1 pgrep "spritefs$|sprite-holder"; }
for step in mount-made mount-away mount-shown; do
	on ws1 sh -c "echo die >$F/$step"
	lab start ws1 spritefs SPRITE_FAULT=$F >/dev/null 2>&1
	check "$step: spritefs dies there" until_true 5 on ws1 test ! -e $F/$step
	check "$step: and the tree is mounted" until_true 20 there
	same "$step: once" 1 "$(on ws1 grep -c ' /sprite ' /proc/self/mountinfo)"
	check "$step: and can be unmounted" on ws1 umount /sprite
	until_true 20 gone
done
# what programs see while the directory that is shown takes the mount's place
on ws1 sh -c "echo hold >$F/mount-away"
lab start ws1 spritefs SPRITE_FAULT=$F >/dev/null 2>&1 & start=$!
until_true 20 on ws1 test -e $F/mount-away.held
if [ "$(printf '%s\n' 6.5 "$(on ws1 uname -r)" | sort -V | head -1)" = 6.5 ]; then same "there is no moment without a mount" 1 "$(on ws1 grep -c ' /sprite ' /proc/self/mountinfo)"; fi
on ws1 rm $F/mount-away.held; wait $start
check "and it goes on" until_true 20 there
on ws1 umount /sprite; until_true 20 gone
# the kernel writes the space in a name as \040
at() { timeout 60 "$BIN/sprite-lab" exec ws1 -- /opt/sprite/bin/spritefs --config /etc/sprite/sprite.conf --mount '/mnt/a b' --background; }
on ws1 mkdir '/mnt/a b'
check "a mount point with a space" at
on ws1 sh -c 'kill -9 $(pgrep sprite-holder) $(pgrep -x spritefs)'
until_true 20 gone
check "is mounted again when all of it was killed" at
same "once" "1 after" "$(sh_on ws1 'echo $(grep -c "/mnt/a.040b " /proc/self/mountinfo) $(cat "/mnt/a b/f")')"
check "umount" on ws1 umount '/mnt/a b'
finish
