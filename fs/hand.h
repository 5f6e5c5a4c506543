/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing an open file over from node to node: what an engine that moves a process says to spritefs. Root only.
 *
 *	source, the process is frozen	on a duplicate of the descriptor: SPRITE_IOC_LIST, SPRITE_IOC_OFFER; hand.name is how it is called over there
 *	destination, filling		open(MOUNT "/" hand.name, the same access mode and O_APPEND; nothing else), lseek to hand.pos, the locks again
 *	after the commit		the source closes
 *	abort				the destination closes; ioctl(fd, SPRITE_IOC_CANCEL) at the source
 *
 * In between both have it open: an unlinked file never goes, and a lock is never free: those of the offer, and those taken through the new descriptor,
 * stand beside each other until one side closes. The name is a secret, good until the source has closed, also over a restart of the server and of either spritefs.
 * The open(2) of a name is matched with its look-up by the thread that makes them.
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
	int32_t unused;
	char name[512]; /* out: relative to the mount */
};
#define SPRITE_IOC_OFFER  _IOWR('S', 0x70, struct sprite_hand)
#define SPRITE_IOC_CANCEL _IO('S', 0x71)

/* Which locks are held through the file here (the kernel's /proc does not tell of a FUSE file): in: a pid, out: SPRITE_LOCKS_*. Asks nobody. */
#define SPRITE_IOC_LOCKS   _IOWR('S', 0x72, uint32_t)
#define SPRITE_LOCKS_RANGE 1u /* OFD locks of this description, or fcntl locks that the process of that pid took through it */
#define SPRITE_LOCKS_FLOCK 2u /* of this description */

/*
 * The same, one by one: what the destination has to take again: SPRITE_FLOCK by flock(2), SPRITE_OFD by F_OFD_SETLK (any holder of the description can),
 * SPRITE_POSIX by F_SETLK in the process whose it is. -E2BIG: there are more.
 */
#define SPRITE_LOCKS_MAX 400
enum sprite_lock_kind { SPRITE_FLOCK = 1, SPRITE_OFD, SPRITE_POSIX };
struct sprite_lock {
	uint64_t start, end; /* end: inclusive, INT64_MAX: for ever */
	uint32_t kind, type; /* type: F_RDLCK, F_WRLCK */
	int32_t pid;	     /* who took it, as this host numbers it */
	uint32_t unused;
};
#define SPRITE_LIST_WHOLE 1u /* the mount shows the whole tree: files of it can be offered to who has it mounted too */
#define SPRITE_LIST_LOCKED 2u /* somebody of this mount holds a lock on the file, through whatever description */
struct sprite_locks {
	uint32_t n, flags;
	struct sprite_lock lock[SPRITE_LOCKS_MAX];
};
#define SPRITE_IOC_LIST _IOR('S', 0x73, struct sprite_locks)

/*
 * Others write to the end of that file through the description that this one stands for elsewhere: from now on a write(2) where it stands is an append, of which it goes on behind its
 * own bytes; any other is a pwrite(2), as after an lseek(2), which is not seen. in: where it stands, UINT64_MAX: that is only asked; out: where it stands now. To be opened with O_DIRECT:
 * through the page cache the kernel would cut a write at the ends of pages.
 */
#define SPRITE_IOC_TAIL _IOWR('S', 0x74, uint64_t)

/*
 * FUSE tells an OFD lock from a process's only by who owns it, and not who that is. F_OFD_GETLK of one byte there, by root, tells spritefs the owner that this
 * description is, and finds nothing; SPRITE_IOC_LIST and _LOCKS go by it. Before it was asked all ranges count as a process's.
 */
#define SPRITE_OWNER_AT ((1ll << 62) + 0x5370726974)

#endif
