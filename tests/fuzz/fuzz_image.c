// SPDX-License-Identifier: Apache-2.0
/* An image that comes over the network: the record reader and the messages in its records. It must end with -EPIPE or -EPROTO and never believe a length. */
#include <errno.h>
#include <sys/mman.h>
#include "migd/engine/core.h"
#include "rpc/image.pb-c.h"
#include "rpc/image_res.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message.h"

static const ProtobufCMessageDescriptor *const bodies[] = {
	&sprite__image__img_head__descriptor, &sprite__image__img_mm__descriptor, &sprite__image__img_thread__descriptor, &sprite__image__img_object__descriptor,
	&sprite__img__signals__descriptor, &sprite__img__timers__descriptor, &sprite__img__limits__descriptor, &sprite__img__creds__descriptor,
	&sprite__img__file__descriptor, &sprite__img__fds__descriptor, &sprite__img__fs__descriptor, &sprite__img__seccomp__descriptor,
	&sprite__img__sysv__descriptor, &sprite__img__sysv_attach__descriptor, &sprite__img__mqueue__descriptor,
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

static size_t record(uint8_t *to, const ProtobufCMessageDescriptor *d)
{
	struct image_rec rec = {.type = 1, .vpid = 1};

	rec.len = fuzz_message(to + sizeof(rec), 512, d);
	memcpy(to, &rec, sizeof(rec));
	return sizeof(rec) + rec.len;
}

int main(int argc, char **argv)
{
	static uint8_t each[ARRAY_SIZE(bodies)][1024], all[ARRAY_SIZE(bodies) * 1024];
	size_t n, total = 0;

	fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0)
		return 2;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		n = record(each[i], bodies[i]);
		seeds[i] = (struct fuzz_seed){each[i], n};
		memcpy(all + total, each[i], n);
		total += n;
	}
	seeds[ARRAY_SIZE(bodies)] = (struct fuzz_seed){all, total};
	return fuzz_main(argc, argv, "image", seeds, ARRAY_SIZE(seeds), NULL, one);
}
