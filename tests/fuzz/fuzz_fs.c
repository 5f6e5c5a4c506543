// SPDX-License-Identifier: Apache-2.0
/*
 * What the file protocol's two sides decode beside the frames of rpc: readdir records, handles (none but ours may be taken), the prefix table, batches and
 * their answers, and every message of the protocol. The first byte chooses.
 */
#include <endian.h>
#include "fs/batch.h"
#include "fs/dirent.h"
#include "fs/methods.h"
#include "fs/prefix.h"
#include "fs/server/handle.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message.h"

static const struct handle_key key = {{0x0123456789abcdefull, 42}};
static unsigned char good[HANDLE_MAX]; /* the one handle that was ever given out */
static size_t good_len;
static struct fuzz_seed seeds[10 + 2 * FS_NOPS];
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
	static uint8_t again[FS_DIRENT_HEAD + 255 + FS_DIRENT_ENTRYMAX + FS_DIRENT_DATAMAX];
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

static void messages(unsigned which, const uint8_t *p, size_t len)
{
	const struct rpc_method *m = &fs_methods[which / 2 % FS_NOPS];
	ProtobufCMessage *msg = protobuf_c_message_unpack(which % 2 ? m->in : m->out, NULL, len, p);

	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}

static void batches(const uint8_t *p, size_t len)
{
	const uint8_t *msg, *a = p;
	struct batch_record r;
	size_t n, left = len;
	uint32_t mlen, index;
	int err;

	for (; (n = batch_get(p, left, &r)) > 0; p += n, left -= n) {
		check(n <= left && batch_takes(r.method) && r.msg >= p && r.data >= p && r.msg + r.msg_len <= p + n && r.data + r.data_len <= p + n);
		ProtobufCMessage *m = protobuf_c_message_unpack(fs_methods[r.method].in, NULL, r.msg_len, r.msg);
		if (m)
			protobuf_c_message_free_unpacked(m, NULL);
		if (batch_ref_get(r.msg, r.msg_len, &index))
			check(r.msg_len == BATCH_REF);
	}
	for (left = len; (n = batch_answer_get(a, left, &err, &msg, &mlen)) > 0; a += n, left -= n)
		check(n <= left && msg >= a && msg + mlen <= a + n && err >= 0);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	switch (data[0] % 5) {
	case 0:
		dirents(data + 1, len - 1);
		break;
	case 1:
		handles(data + 1, len - 1);
		break;
	case 2:
		prefixes(data + 1, len - 1);
		break;
	case 3:
		batches(data + 1, len - 1);
		break;
	default:
		if (len > 1)
			messages(data[1], data + 2, len - 2);
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
				.entrylen = i % 2 ? (uint32_t)entrylen : 0, .entry = packed, .datalen = i == 3 ? 9 : FS_DIRENT_NODATA, .data = good});
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
	n = batch_put(buf, FS_REMOVE, 5, 0);
	batch_ref_put(buf + n, 1);
	n += 5;
	n += batch_put(buf + n, FS_WRITE, (uint32_t)entrylen, 7);
	memcpy(buf + n, packed, entrylen);
	n += entrylen + 7;
	seed(3, buf, n);
	n = batch_answer_put(buf, 2, 0);
	n += batch_answer_put(buf + n, 0, (uint32_t)entrylen);
	memcpy(buf + n, packed, entrylen);
	seed(3, buf, n + entrylen);
	for (unsigned which = 0; which < 2 * FS_NOPS; which++) {
		buf[0] = (uint8_t)which;
		seed(4, buf, 1 + fuzz_message(buf + 1, sizeof(buf) - 1, which % 2 ? fs_methods[which / 2].in : fs_methods[which / 2].out));
	}
	return fuzz_main(argc, argv, "fs", seeds, nseeds, NULL, one);
}
