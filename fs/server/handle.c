/* SPDX-License-Identifier: Apache-2.0 */
/* Packing and proving handles; see handle.h. No locking: the key does not change after it was loaded. */
#include "fs/server/handle.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/siphash.h"

#define HANDLE_VERSION 1

void handle_mac(const struct handle_key *key, const void *data, size_t len, unsigned char mac[HANDLE_MAC])
{
	uint64_t v[4], out[2];

	sip_begin(v, key->k);
	v[1] ^= 0xee;
	sip_absorb(v, data, len, 2);
	v[2] ^= 0xee;
	sip_rounds(v, 4);
	out[0] = htole64(v[0] ^ v[1] ^ v[2] ^ v[3]);
	v[1] ^= 0xdd;
	sip_rounds(v, 4);
	out[1] = htole64(v[0] ^ v[1] ^ v[2] ^ v[3]);
	memcpy(mac, out, HANDLE_MAC);
}

size_t handle_pack(const struct handle_key *key, const struct handle *h, unsigned char out[HANDLE_MAX])
{
	uint16_t type = htole16((uint16_t)h->type);
	uint64_t domain = htole64(h->domain), mount = htole64(h->mount);
	size_t n = HANDLE_HEAD + h->len;

	if (h->len > HANDLE_FH_MAX || h->type < 0 || h->type > UINT16_MAX)
		return 0;
	out[0] = HANDLE_VERSION;
	out[1] = (unsigned char)h->len;
	memcpy(out + 2, &type, 2);
	memcpy(out + 4, &domain, 8);
	memcpy(out + 12, &mount, 8);
	memcpy(out + HANDLE_HEAD, h->fh, h->len);
	handle_mac(key, out, n, out + n);
	return n + HANDLE_MAC;
}

int handle_unpack(const struct handle_key *key, const void *bytes, size_t len, struct handle *out)
{
	const unsigned char *b = bytes;
	unsigned char mac[HANDLE_MAC], differ = 0;
	uint16_t type;
	size_t n;

	if (len < HANDLE_HEAD + HANDLE_MAC || len > HANDLE_MAX || b[0] != HANDLE_VERSION)
		return -ESTALE;
	n = HANDLE_HEAD + (size_t)b[1];
	if (len != n + HANDLE_MAC)
		return -ESTALE;
	handle_mac(key, b, n, mac);
	for (int i = 0; i < HANDLE_MAC; i++) /* in constant time */
		differ |= mac[i] ^ b[n + i];
	if (differ)
		return -ESTALE;
	memcpy(&type, b + 2, 2);
	memcpy(&out->domain, b + 4, 8);
	memcpy(&out->mount, b + 12, 8);
	out->type = le16toh(type);
	out->domain = le64toh(out->domain);
	out->mount = le64toh(out->mount);
	out->len = b[1];
	memcpy(out->fh, b + HANDLE_HEAD, out->len);
	return 0;
}

static int key_make(const char *path, struct handle_key *key, struct error *e)
{
	char tmp[4096];
	_cleanup_close_ int fd = -1;

	if (getrandom(key, sizeof(*key), 0) != sizeof(*key))
		return error_set(e, errno, "getrandom: %s", strerror(errno));
	snprintf(tmp, sizeof(tmp), "%s.%d", path, (int)getpid());
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, key, sizeof(*key)) != sizeof(*key) || fsync(fd) < 0 || rename(tmp, path) < 0)
		return error_set(e, errno ? errno : EIO, "%s: cannot write the server key: %s", path, strerror(errno));
	return 0;
}

int handle_key_load(const char *path, struct handle_key *key, struct error *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0 && errno == ENOENT)
		return key_make(path, key, e);
	if (fd < 0)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	n = read(fd, key, sizeof(*key));
	if (n != sizeof(*key))
		return error_set(e, EINVAL, "%s: expected a server key of %zu bytes, found %zd", path, sizeof(*key), n);
	return 0;
}
