// SPDX-License-Identifier: Apache-2.0
/*
 * Requests put aside, as the kernel sent them: what they wait for (a chunk of a directory, ahead.c) is most likely to spare them a call of their own. Then they are handled
 * anew from their start, once, by whoever brought it.
 *
 *	NEW -> WAITS -> AGAIN	what it waited for is there, or
 *	       WAITS -> AGAIN	somebody wants to be rid of it: it waits no longer, and sends the call of its own, which is interrupted as any other (call.c)
 *
 * Locking: the list that it waits in is under the lock of its inode; `intr` and fs.parked_intr under fs.wait_lock, which comes before. The interrupt function runs under
 * libfuse's lock of the request, so it only links; the ticker does the rest. A request that is in fs.parked_intr is not freed while fs.wait_lock is held.
 */
#include "fs/client/client.h"
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"

struct parked {
	struct list link, intr_link;
	struct fs *fs;
	struct inode *at;
	fuse_req_t req;
	bool waits, intr;
	int fd;
	uint64_t since;
	size_t len;
	uint64_t bytes[];
};

static void parked_interrupted(fuse_req_t req, void *arg)
{
	struct parked *p = arg;

	(void)req;
	pthread_mutex_lock(&p->fs->wait_lock);
	p->intr = true;
	list_move_tail(&p->fs->parked_intr, &p->intr_link);
	pthread_cond_signal(&p->fs->wait_cond);
	pthread_mutex_unlock(&p->fs->wait_lock);
}

struct parked *park_new(struct fs *fs, fuse_req_t req, struct inode *at)
{
	size_t len;
	const void *bytes = session_request(&len);
	struct parked *p = session_second() ? NULL : malloc(sizeof(*p) + len);

	if (!p)
		return NULL;
	*p = (struct parked){.fs = fs, .at = at, .req = req, .fd = session_fd(), .since = clock_mono_ns(), .len = len};
	list_init(&p->link);
	list_init(&p->intr_link);
	memcpy(p->bytes, bytes, len);
	fuse_req_interrupt_func(req, parked_interrupted, p);
	return p;
}

void park_put(struct parked *p, struct list *waiters)
{
	p->waits = true;
	list_add_tail(waiters, &p->link);
}

/* Nobody else has it any more. Was it interrupted? */
static bool parked_end(struct parked *p)
{
	bool intr;

	fuse_req_interrupt_func(p->req, NULL, NULL); /* waits for one that runs */
	pthread_mutex_lock(&p->fs->wait_lock);
	list_del(&p->intr_link);
	intr = p->intr;
	pthread_mutex_unlock(&p->fs->wait_lock);
	return intr;
}

void park_drop(struct parked *p)
{
	if (p)
		parked_end(p);
	free(p);
}

void park_take(struct list *to, struct list *waiters)
{
	struct parked *p;

	list_each(p, waiters, link)
		p->waits = false;
	list_splice_tail(to, waiters);
}

void park_take_reads(struct list *to, struct list *waiters, uint64_t node)
{
	struct parked *p, *next;

	list_each_safe(p, next, waiters, link) {
		const struct fuse_in_header *h = (const void *)p->bytes;

		if (h->opcode != FUSE_READ || h->nodeid != node)
			continue;
		p->waits = false;
		list_move_tail(to, &p->link);
	}
}

void park_again(struct fs *fs, struct list *parked)
{
	struct list *l;

	while ((l = list_pop(parked))) {
		struct parked *p = list_entry(l, struct parked, link);
		bool intr = parked_end(p);

		fuse_reply_none(p->req); /* this life of it */
		session_replay(fs, p->bytes, p->len, p->fd, p->since, intr);
		free(p);
	}
}

void park_tick(struct fs *fs)
{
	struct list mine;
	struct parked *p;

	list_init(&mine);
	pthread_mutex_lock(&fs->wait_lock);
	list_each(p, &fs->parked_intr, intr_link) {
		pthread_mutex_lock(&p->at->lock);
		if (p->waits) {
			p->waits = false;
			list_move_tail(&mine, &p->link);
		}
		pthread_mutex_unlock(&p->at->lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	park_again(fs, &mine);
}
