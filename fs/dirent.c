/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of readdir records; see dirent.h. No locking: works on the caller's bytes. */
#include "fs/dirent.h"
#include <endian.h>
#include <string.h>

static size_t data_bytes(uint32_t datalen)
{
	return datalen == FS_DIRENT_NODATA ? 0 : datalen;
}

size_t fs_dirent_put(uint8_t *to, size_t room, const struct fs_dirent *d)
{
	size_t datalen = data_bytes(d->datalen), len = (size_t)FS_DIRENT_HEAD + d->namelen + d->entrylen + datalen;
	uint64_t v8[2] = {htole64(d->ino), htole64(d->cookie)};
	uint32_t v4[4] = {htole32(d->type), htole32(d->namelen), htole32(d->entrylen), htole32(d->datalen)};

	if (len > room)
		return 0;
	memcpy(to, v8, sizeof(v8));
	memcpy(to + sizeof(v8), v4, sizeof(v4));
	memcpy(to + FS_DIRENT_HEAD, d->name, d->namelen);
	if (d->entrylen)
		memcpy(to + FS_DIRENT_HEAD + d->namelen, d->entry, d->entrylen);
	if (datalen)
		memcpy(to + FS_DIRENT_HEAD + d->namelen + d->entrylen, d->data, datalen);
	return len;
}

size_t fs_dirent_get(const uint8_t *from, size_t n, struct fs_dirent *d)
{
	uint64_t v8[2];
	uint32_t v4[4];
	size_t len;

	if (n < FS_DIRENT_HEAD)
		return 0;
	memcpy(v8, from, sizeof(v8));
	memcpy(v4, from + sizeof(v8), sizeof(v4));
	d->ino = le64toh(v8[0]);
	d->cookie = le64toh(v8[1]);
	d->type = le32toh(v4[0]);
	d->namelen = le32toh(v4[1]);
	d->entrylen = le32toh(v4[2]);
	d->datalen = le32toh(v4[3]);
	if (d->namelen == 0 || d->namelen > 255 || d->entrylen > FS_DIRENT_ENTRYMAX || data_bytes(d->datalen) > FS_DIRENT_DATAMAX)
		return 0;
	len = (size_t)FS_DIRENT_HEAD + d->namelen + d->entrylen + data_bytes(d->datalen);
	if (n < len)
		return 0;
	d->name = (const char *)from + FS_DIRENT_HEAD;
	if (memchr(d->name, '/', d->namelen) || memchr(d->name, 0, d->namelen))
		return 0;
	d->entry = from + FS_DIRENT_HEAD + d->namelen;
	d->data = d->entry + d->entrylen;
	return len;
}
