/* SPDX-License-Identifier: Apache-2.0 */
/*
 * At home: files that a guest has open and whose names lead nowhere any more, or elsewhere: they were renamed, replaced or removed here since. This host's spritefsd, which
 * serves them, has them open too, and tells its descriptor by the inode number that they have over there; we take a duplicate, and find the file on this host's own mount.
 */
#ifndef MIGD_HELD_H
#define MIGD_HELD_H
#include <stdint.h>

/* eng_hooks.by_inode; ctx: the family. */
int held_open(void *ctx, uint64_t ino, uint32_t mode, const char *path, int *access);

#endif
