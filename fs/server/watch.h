/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches on a home's own objects, which its programs change without asking anybody: clients believe what they know of a watched one until they are told that something has
 * changed (event CHANGED, to all of them), and then ask for it anew (fs/refresh.h). inotify(7) tells us, whoever it was; not of stores through a shared mapping.
 */
#ifndef FS_SERVER_WATCH_H
#define FS_SERVER_WATCH_H
#include "fs/server/fsd.h"

/* Without inotify nothing is watched. -ENOMEM */
int watches_start(struct fsd *d);
void watches_stop(struct fsd *d);
/* Is the object behind this descriptor (O_PATH will do) watched from now on? Look at it after this, not before. */
bool watch(struct fsd *d, int fd);
/* Something has changed that no watch tells of: what is mounted. */
void watches_tell(struct fsd *d);

#endif
