/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing an open file over from node to node: what an engine that moves a process says to spritefs. Root only.
 *
 *	source, the process is frozen	ioctl(fd, SPRITE_IOC_OFFER, &hand) on a duplicate of the descriptor; hand.name is how it is called over there
 *	destination, filling		open(MOUNT "/" hand.name, the same access mode and O_APPEND; nothing else), lseek to hand.pos, flock/fcntl again
 *	after the commit		the source closes
 *	abort				the destination closes; ioctl(fd, SPRITE_IOC_CANCEL) at the source
 *
 * In between both have it open: an unlinked file never goes, and a lock is never free: those of `pid` and of the description itself, and those taken
 * through the new descriptor, stand beside each other until one side closes. The name is a secret, good until the source has closed.
 */
#ifndef FS_HAND_H
#define FS_HAND_H
#include <linux/ioctl.h>
#include <stdint.h>

#define HAND_TOKEN	16 /* bytes */
#define HAND_OWNERS_MAX 1024 /* whose locks go along with one open */
#define HAND_PREFIX ".sprite-hand-" /* then the token in hex; in the root of the file's domain */

/*
 * The description stays in use at the source too, and its offset is the server's from now on. All who have it, those who stay as well, open the name and
 * put what they get in the place of the old one (dup3, lseek to hand.pos) before they run again. Files opened for writing only: reads are not told from
 * preads. A write(2) where the description stood is a write at the common offset, any other is a pwrite(2).
 */
#define SPRITE_HAND_SHARED 1u

struct sprite_hand {
	uint64_t pos;	/* in: where the description stands (/proc/PID/fdinfo); out: the same, or the server's offset if it was shared before */
	uint32_t flags; /* SPRITE_HAND_* */
	int32_t pid;	/* whose fcntl locks go along; 0: none */
	char name[512]; /* out: relative to the mount */
};
#define SPRITE_IOC_OFFER  _IOWR('S', 0x70, struct sprite_hand)
#define SPRITE_IOC_CANCEL _IO('S', 0x71)

/* Which locks are held through the file here (the kernel's /proc does not tell of a FUSE file): in: a pid, out: SPRITE_LOCKS_*. Asks nobody. */
#define SPRITE_IOC_LOCKS   _IOWR('S', 0x72, uint32_t)
#define SPRITE_LOCKS_RANGE 1u /* taken by that pid */
#define SPRITE_LOCKS_FLOCK 2u /* of this description */

#endif
