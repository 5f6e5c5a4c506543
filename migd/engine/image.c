// SPDX-License-Identifier: Apache-2.0
/*
 * An image as a sequence of records {type, vpid, length, body}, buffered, over a stream descriptor. Host byte order: both ends are x86-64.
 * The reader believes no length above IMG_MAX and never reads past IMG_END.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <protobuf-c/protobuf-c.h>
#include "conf/io.h"
#include "migd/engine/core.h"

enum { BUF = 2 << 20, FLUSH = 256 << 10 };

struct eng_image {
	int fd;
	bool failed;
	char *buf;
	size_t cap, n;	/* writer: bytes waiting */
	size_t reserved;
	uint64_t total;
};

static struct eng_image *image_new(int fd)
{
	struct eng_image *im = calloc(1, sizeof(*im));

	if (!im)
		return NULL;
	im->fd = fd;
	im->cap = BUF;
	im->buf = malloc(im->cap);
	if (!im->buf) {
		free(im);
		return NULL;
	}
	return im;
}

struct eng_image *image_writer(int fd)
{
	int room = 4 << 20; /* of a socket: fewer switches between writer and pump */

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	return image_new(fd);
}

struct eng_image *image_reader(int fd)
{
	return image_new(fd);
}

void image_free(struct eng_image *im)
{
	if (!im)
		return;
	free(im->buf);
	free(im);
}

int image_flush(struct eng_image *im)
{
	int r = io_write_all(im->fd, im->buf, im->n);

	im->total += im->n;
	im->n = 0;
	return r;
}

static int grow(struct eng_image *im, size_t need)
{
	char *b;

	if (need <= im->cap)
		return 0;
	b = realloc(im->buf, need);
	if (!b)
		return -ENOMEM;
	im->buf = b;
	im->cap = need;
	return 0;
}

void *image_reserve(struct eng_image *im, size_t len)
{
	if (im->n >= FLUSH && image_flush(im) < 0) {
		im->failed = true;
		return NULL;
	}
	if (grow(im, im->n + sizeof(struct image_rec) + len) < 0)
		return NULL;
	return im->buf + im->n + sizeof(struct image_rec);
}

int image_commit(struct eng_image *im, uint32_t type, pid_t vpid, size_t len)
{
	struct image_rec rec = {type, vpid, len};

	memcpy(im->buf + im->n, &rec, sizeof(rec));
	im->n += sizeof(rec) + len;
	return im->n >= FLUSH ? image_flush(im) : 0;
}

int eng_image_put(struct eng_image *im, uint32_t type, pid_t vpid, const void *body, size_t len)
{
	void *to = image_reserve(im, len);

	if (!to)
		return im->failed ? -EPIPE : -ENOMEM;
	memcpy(to, body, len);
	return image_commit(im, type, vpid, len);
}

int eng_image_put_msg(struct eng_image *im, uint32_t type, pid_t vpid, const struct ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	void *to = image_reserve(im, len);

	if (!to)
		return im->failed ? -EPIPE : -ENOMEM;
	protobuf_c_message_pack(m, to);
	return image_commit(im, type, vpid, len);
}

int image_next(struct eng_image *im, struct image_rec *rec, const void **body)
{
	int r = io_read_all(im->fd, rec, sizeof(*rec));

	if (r < 0)
		return r;
	if (rec->len > IMG_MAX)
		return -EPROTO;
	r = grow(im, rec->len);
	if (r == 0)
		r = io_read_all(im->fd, im->buf, rec->len);
	*body = im->buf;
	return r;
}
