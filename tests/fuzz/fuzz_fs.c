// SPDX-License-Identifier: Apache-2.0
/*
 * What the file protocol's two sides decode beside the frames of rpc: readdir records, handles (none but ours may be taken), the prefix table, and
 * every message of the protocol. The first byte chooses.
 */
#include <endian.h>
#include "fs/dirent.h"
#include "fs/methods.h"
#include "fs/prefix.h"
#include "fs/server/handle.h"
#include "tests/fuzz/fuzz.h"

static const struct handle_key key = {{0x0123456789abcdefull, 42}};
static unsigned char good[HANDLE_MAX]; /* the one handle that was ever given out */
static size_t good_len;
static struct fuzz_seed seeds[40];
static size_t nseeds;

static void seed(uint8_t kind, const void *data, size_t len)
{
	uint8_t *p = malloc(len + 1);

	if (!p || nseeds == ARRAY_SIZE(seeds))
		abort();
	p[0] = kind;
	memcpy(p + 1, data, len);
	seeds[nseeds++] = (struct fuzz_seed){p, len + 1};
}

static void check(bool is)
{
	if (!is)
		abort();
}

static void dirents(const uint8_t *p, size_t len)
{
	struct fs_dirent d;
	uint8_t again[FS_DIRENT_HEAD + 255 + FS_DIRENT_ENTRYMAX];
	size_t n;

	for (; (n = fs_dirent_get(p, len, &d)) > 0; p += n, len -= n) {
		check(n <= len && d.namelen > 0 && d.namelen <= 255 && !memchr(d.name, '/', d.namelen));
		/* writing what was read gives the same bytes */
		check(fs_dirent_put(again, sizeof(again), &d) == n && !memcmp(again, p, n));
		Sprite__Fs__Entry *e = sprite__fs__entry__unpack(NULL, d.entrylen, d.entry);
		if (e)
			sprite__fs__entry__free_unpacked(e, NULL);
	}
}

static void handles(const uint8_t *p, size_t len)
{
	struct handle h;

	if (!handle_unpack(&key, p, len, &h))
		check(len == good_len && !memcmp(p, good, len));
}

static void prefixes(const uint8_t *p, size_t len)
{
	Sprite__Fs__PrefixesRep *rep = sprite__fs__prefixes_rep__unpack(NULL, len, p);
	struct prefix_table t = {0};

	if (!rep)
		return;
	if (!prefix_table_from_rep(&t, rep))
		for (size_t i = 0; i < t.n; i++) {
			check(prefix_valid(t.rows[i].prefix) && t.rows[i].server && t.rows[i].host);
			check(prefix_table_find(&t, t.rows[i].prefix, NULL) == &t.rows[i]);
			check(i == 0 || strcmp(t.rows[i - 1].prefix, t.rows[i].prefix) < 0);
		}
	prefix_table_clear(&t);
	sprite__fs__prefixes_rep__free_unpacked(rep, NULL);
}

static void messages(uint8_t which, const uint8_t *p, size_t len)
{
	const struct rpc_method *m = &fs_methods[which / 2 % FS_NOPS];
	ProtobufCMessage *msg = protobuf_c_message_unpack(which % 2 ? m->in : m->out, NULL, len, p);

	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	switch (data[0] % 4) {
	case 0:
		dirents(data + 1, len - 1);
		break;
	case 1:
		handles(data + 1, len - 1);
		break;
	case 2:
		prefixes(data + 1, len - 1);
		break;
	default:
		messages(data[0] / 4, data + 1, len - 1);
	}
}

static void seed_message(uint8_t kind, const ProtobufCMessage *m)
{
	uint8_t buf[1024];

	check(protobuf_c_message_get_packed_size(m) <= sizeof(buf));
	seed(kind, buf, protobuf_c_message_pack(m, buf));
}

int main(int argc, char **argv)
{
	struct handle h = {.domain = 7, .mount = 1, .type = 1, .len = 8, .fh = {1, 2, 3, 4, 5, 6, 7, 8}};
	Sprite__Fs__Attr attr = SPRITE__FS__ATTR__INIT;
	Sprite__Fs__Entry entry = SPRITE__FS__ENTRY__INIT;
	Sprite__Fs__Prefix row[2] = {SPRITE__FS__PREFIX__INIT, SPRITE__FS__PREFIX__INIT}, *rows[2] = {&row[0], &row[1]};
	Sprite__Fs__PrefixesRep rep = SPRITE__FS__PREFIXES_REP__INIT;
	uint8_t buf[2048], packed[400];
	size_t n = 0, entrylen;

	good_len = handle_pack(&key, &h, good);
	check(good_len > 0);
	seed(1, good, good_len);
	entry.handle = (ProtobufCBinaryData){good_len, good};
	entry.attr = &attr;
	entrylen = sprite__fs__entry__get_packed_size(&entry);
	check(entrylen <= sizeof(packed));
	sprite__fs__entry__pack(&entry, packed);
	for (int i = 0; i < 5; i++)
		n += fs_dirent_put(buf + n, sizeof(buf) - n,
			&(struct fs_dirent){.ino = (uint64_t)i, .cookie = (uint64_t)i + 1, .type = 8, .namelen = 4 + (unsigned)i, .name = "filename.c",
				.entrylen = i % 2 ? (uint32_t)entrylen : 0, .entry = packed});
	seed(0, buf, n);
	row[0].prefix = (char *)"/";
	row[1].prefix = (char *)"/hosts/ws1";
	for (int i = 0; i < 2; i++) {
		row[i].server = (char *)"fs1";
		row[i].host = (char *)"10.1.0.1";
		row[i].port = 7700;
	}
	rep.n_prefixes = 2;
	rep.prefixes = rows;
	rep.version = 3;
	seed_message(2, &rep.base);
	seed_message(3, &rep.base);
	seed_message(7 + 4 * 2 * FS_LOOKUP, &entry.base);
	return fuzz_main(argc, argv, "fs", seeds, nseeds, NULL, one);
}
