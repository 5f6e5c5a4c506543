/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One entry of a readdir reply, as it lies in the bulk bytes: a packed little-endian head of FS_DIRENT_HEAD bytes
 * {u64 ino, u64 cookie, u32 type (DT_*), u32 namelen, u32 entrylen, u32 datalen}, the name without a NUL, a packed sprite.fs.Entry (entrylen 0: none),
 * the whole contents of the file (datalen FS_DIRENT_NODATA: not sent), which are of the time of the Entry's lease. `cookie` continues after this entry.
 */
#ifndef FS_DIRENT_H
#define FS_DIRENT_H
#include <stddef.h>
#include <stdint.h>

#define FS_DIRENT_HEAD	   32u
#define FS_DIRENT_ENTRYMAX 400u /* a packed Entry is never longer */
#define FS_DIRENT_DATAMAX  (256u << 10)
#define FS_DIRENT_NODATA   0xffffffffu

struct fs_dirent {
	uint64_t ino, cookie;
	uint32_t type;
	uint32_t namelen;
	uint32_t entrylen;
	uint32_t datalen;     /* or FS_DIRENT_NODATA */
	const char *name;     /* not terminated */
	const uint8_t *entry; /* packed Entry */
	const uint8_t *data;
};
/* Writes at `to` (room bytes); returns the length, or 0 when it does not fit. */
size_t fs_dirent_put(uint8_t *to, size_t room, const struct fs_dirent *d);
/* Reads one record; returns its length, or 0 when the bytes are not a whole valid one. */
size_t fs_dirent_get(const uint8_t *from, size_t n, struct fs_dirent *d);

#endif
