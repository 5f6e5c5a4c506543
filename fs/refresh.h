/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refresh, for home domains: the bulk bytes of the call are {u8 length, handle} for each object, those of the answer one struct refresh_answer for each, in the same
 * order, little-endian.
 */
#ifndef FS_REFRESH_H
#define FS_REFRESH_H
#include <stdint.h>

#define REFRESH_MAX 1024u /* objects */

struct refresh_answer {
	uint32_t err, watched; /* err: 0, or an errno: the handle leads nowhere any more. watched: 1: an event CHANGED will tell of its next change (fs/server/watch.c) */
	int64_t ctime;
	uint64_t change;      /* Attr.ctime, Attr.change */
};

#endif
