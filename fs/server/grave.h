/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inodes whose last name has just gone. Another client may be half way through a path to one (looked up, not yet read or opened); on one machine it would still
 * reach it. So a descriptor keeps each for a while: no ESTALE where a local file system has none. Large files are not kept (their space is wanted
 * back, and who has one open holds it anyway), and when space runs out all are let go.
 *
 * The last descriptor of an inode is closed by a thread of our own: a filesystem may wait for the disk there (a discard), and whoever removes thousands of files
 * need not wait along.
 *
 * Locking: one mutex; descriptors are closed after it was released.
 */
#ifndef FS_SERVER_GRAVE_H
#define FS_SERVER_GRAVE_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define GRAVES	      256  /* kept */
#define GRAVES_DUE    2048 /* more, which are being closed; then whoever removes closes one himself */
#define GRAVE_NS      5000000000ull
#define GRAVE_BLOCKS  128 /* of 512 bytes */
#define GRAVES_LATE   256 /* descriptors of written files, to be closed */

struct graves {
	pthread_mutex_t lock;
	pthread_cond_t due;
	struct {
		int fd;
		uint64_t since;
	} v[GRAVES + GRAVES_DUE];
	unsigned head, n; /* a ring: n from head on, all above GRAVES are due */
	int late[GRAVES_LATE];
	unsigned nlate;
	bool started, stop;
	bool closing; /* the thread is in a close(2) */
	pthread_cond_t closed;
	pthread_t closer;
};

void graves_init(struct graves *g);
int graves_start(struct graves *g);
/* Lets all go. */
void graves_stop(struct graves *g);
/* Opens what `name` is, if it is worth keeping when its name goes: -1 if not. */
int grave_open(int dirfd, const char *name, const struct stat *st);
/* Keeps it; -1 is ignored. */
void grave_keep(struct graves *g, int fd, uint64_t now);
/*
 * Closes it soon. A file that was truncated and written has its blocks allocated and its pages sent to the disk by its close (ext4), which nobody who waits for what
 * was written need wait for. false: there is no room, it is still the caller's.
 */
bool graves_close(struct graves *g, int fd);
/* Lets go what is older; UINT64_MAX: all. Returns how many went. */
unsigned graves_expire(struct graves *g, uint64_t now);

#endif
