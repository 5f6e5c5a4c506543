// SPDX-License-Identifier: Apache-2.0
/* An image that comes over the network: the record reader and the messages in its records. It must end with -EPIPE or -EPROTO and never believe a length. */
#include <errno.h>
#include <sys/mman.h>
#include "migd/engine/core.h"
#include "rpc/image.pb-c.h"
#include "rpc/image_res.pb-c.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *const bodies[] = {
	&sprite__image__img_head__descriptor, &sprite__image__img_mm__descriptor, &sprite__image__img_thread__descriptor, &sprite__image__img_object__descriptor,
	&sprite__img__signals__descriptor, &sprite__img__timers__descriptor, &sprite__img__limits__descriptor, &sprite__img__creds__descriptor,
	&sprite__img__file__descriptor, &sprite__img__fds__descriptor, &sprite__img__fs__descriptor, &sprite__img__seccomp__descriptor,
};
static struct fuzz_seed seeds[ARRAY_SIZE(bodies) + 1];
static int fd;

static void one(const uint8_t *data, size_t len)
{
	static struct eng_image *im; /* its large buffer is worth keeping */
	struct image_rec rec;
	const void *body;
	uint8_t *exact;
	size_t total = 0;
	int r;

	if (ftruncate(fd, 0) || pwrite(fd, data, len, 0) != (ssize_t)len || lseek(fd, 0, SEEK_SET) || (!im && !(im = image_reader(fd))))
		abort();
	while (!(r = image_next(im, &rec, &body))) {
		total += sizeof(rec) + rec.len;
		if (rec.len > IMG_MAX || total > len)
			abort();
		exact = malloc(rec.len ? rec.len : 1);
		if (!exact)
			abort();
		memcpy(exact, body, rec.len);
		for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
			ProtobufCMessage *m = protobuf_c_message_unpack(bodies[i], NULL, rec.len, exact);

			if (m)
				protobuf_c_message_free_unpacked(m, NULL);
		}
		free(exact);
	}
	if (r != -EPIPE && r != -EPROTO)
		abort();
}

/* A record of each kind with every repeated or embedded field filled once, as far as the descriptor tells how. */
static size_t fill(uint8_t *to, const ProtobufCMessageDescriptor *d)
{
	uint8_t msg[512];
	size_t n = 0;
	struct image_rec rec = {.type = 1, .vpid = 1};

	for (unsigned i = 0; i < d->n_fields && n + 24 < sizeof(msg); i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		bool text = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES || f->type == PROTOBUF_C_TYPE_MESSAGE;
		unsigned tag = f->id << 3 | (text ? 2 : 0);

		if (tag >= 128)
			msg[n++] = (uint8_t)(tag | 128), tag >>= 7;
		msg[n++] = (uint8_t)tag;
		if (text) {
			msg[n++] = 4;
			memcpy(msg + n, "\x08\x01\x10\x02", 4); /* two numbers, if it is a message */
			n += 4;
		} else {
			msg[n++] = (uint8_t)(i + 1);
		}
	}
	rec.len = n;
	memcpy(to, &rec, sizeof(rec));
	memcpy(to + sizeof(rec), msg, n);
	return sizeof(rec) + n;
}

int main(int argc, char **argv)
{
	static uint8_t each[ARRAY_SIZE(bodies)][1024], all[ARRAY_SIZE(bodies) * 1024];
	size_t n, total = 0;

	fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0)
		return 2;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		n = fill(each[i], bodies[i]);
		seeds[i] = (struct fuzz_seed){each[i], n};
		memcpy(all + total, each[i], n);
		total += n;
	}
	seeds[ARRAY_SIZE(bodies)] = (struct fuzz_seed){all, total};
	return fuzz_main(argc, argv, "image", seeds, ARRAY_SIZE(seeds), NULL, one);
}
