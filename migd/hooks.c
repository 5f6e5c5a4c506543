// SPDX-License-Identifier: Apache-2.0
/*
 * What the engine asks of migd in a freeze, dump or fill (struct eng_hooks); ctx is the family. Called in the actor. Relays: at home sprite-relay gets the original ends,
 * on a guest host it makes others; named pipes: spritefs of this host is asked; files of a home whose names lead elsewhere: held.c.
 */
#include "migd/hooks.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/forward.h"
#include "migd/guest_parts.h"
#include "migd/held.h"
#include "migd/home.h"
#include "migd/mig_rpc.h"
#include "migd/relays.h"
#include "migd/terminal.h"
#include "rpc/local.h"

/* They are the same: engine/ and relay/ know nothing of each other. */
_Static_assert((int)ENG_RELAY_DGRAM == RELAY_DGRAM && (int)ENG_RELAY_SEQ == RELAY_SEQ && (int)ENG_RELAY_UDP == RELAY_UDP && (int)ENG_RELAY_LISTEN == RELAY_LISTEN && (int)ENG_RELAY_TCP == RELAY_TCP &&
	(int)ENG_NET_V6ONLY == RELAY_NET_V6ONLY && (int)ENG_NET_REUSEPORT == RELAY_NET_REUSEPORT && (int)ENG_NET_PLACES == RELAY_SPACES, "as in engine.h");

static int hook_found(void *ctx, const struct eng_relay *r)
{
	struct family *f = ctx;

	if (f->adopt) { /* whoever has the other end stays, and there will be no way back to him */
		if (r->fd >= 0)
			close(r->fd);
		return -EOPNOTSUPP;
	}
	if (f->role == FAM_HOME)
		return relays_add(f->relays, r->id, (enum relay_kind)r->kind, r->fd, r->pid);
	if (r->fd >= 0)
		close(r->fd); /* ours already: the other end of a fresh pipe */
	return 0;
}

/* Where sprite-relay was killed nobody but the hollow has it. Its number comes from the host that it was on, so: only a hollow of the family. */
static int original_of_hollow(struct family *f, const struct eng_relay *r)
{
	_cleanup_close_ int pidfd = -1;
	const struct member *m;
	bool ours;
	int fd;

	pthread_mutex_lock(&f->lock);
	m = family_member(f, r->pid);
	ours = m && m->hollow;
	pthread_mutex_unlock(&f->lock);
	pidfd = ours ? (int)syscall(SYS_pidfd_open, r->pid, 0) : -1;
	fd = pidfd >= 0 ? (int)syscall(SYS_pidfd_getfd, pidfd, r->num, 0) : -1;
	return fd >= 0 ? fd : ours ? -errno : -ENOENT;
}

static int hook_open(void *ctx, struct eng_relay *r)
{
	struct family *f = ctx;
	struct relay_net net;
	int fd;

	if (f->adopt)
		return -EOPNOTSUPP;
	if (r->net) {
		net = (struct relay_net){ .domain = r->net->domain, .flags = r->net->flags, .backlog = r->net->backlog };
		memcpy(net.local, r->net->local, sizeof(net.local));
		memcpy(net.peer, r->net->peer, sizeof(net.peer));
	}
	fd = f->role == FAM_HOME ? relays_original(f->relays, r->id) : relays_make(f->relays, r->id, (enum relay_kind)r->kind, r->net ? &net : NULL);

	if (f->role == FAM_HOME && (fd == -ENOENT || fd == -ECONNREFUSED))
		fd = original_of_hollow(f, r);
	if (fd < 0)
		return fd;
	if (f->role == FAM_GUEST && r->kind == ENG_RELAY_TTY && f->eng)
		terminal_show(eng_keeper(f->eng), fd);
	r->fd = fd;
	return 0;
}

static int hook_whose(void *ctx, uint64_t ino, uint64_t *id)
{
	return relays_whose(((struct family *)ctx)->relays, ino, id);
}

/* If we die now it must be found again: what stands still is let go by the next migd. Journal notes: they do not wait for the disk. */
static void hook_standing(void *ctx, struct eng_family *standing)
{
	struct family *f = ctx;

	if (f->role == FAM_HOME)
		home_actor_journal_move(f, standing);
	else
		guest_actor_journal(f, NULL);
}

/* The source, which still runs there, may freeze now. */
static void hook_ahead_done(void *ctx)
{
	Sprite__Mig__ImageFrame ready = SPRITE__MIG__IMAGE_FRAME__INIT;
	struct family *f = ctx;

	fault_point("ahead");
	ready.ready = true;
	if (f->image && rpc_stream_send(f->image, &ready.base, NULL, 0))
		log_debug("family %s: the source does not hear that all is ready", f->id); /* and the image ends early */
}

#define FIFO_TRIES 100 /* five seconds */

/* Named pipes: the pipe agent of this host's spritefs does it. */
static int hook_fifo(void *ctx, enum eng_fifo_verb verb, const struct eng_fifo *x, struct error *e)
{
	static const char *const words[] = {[ENG_FIFO_KNOWN] = "known", [ENG_FIFO_HOLD] = "hold", [ENG_FIFO_UNHOLD] = "unhold",
		[ENG_FIFO_PLEDGE] = "pledge", [ENG_FIFO_TAKE] = "take"};
	struct family *f = ctx;
	struct error why;
	_cleanup_free_ char *path = NULL;
	json_t *rq = json_pack("{s:s, s:s, s:i, s:i, s:I, s:b, s:b, s:i}", "verb", "pipe", "do", words[verb], "pid", (int)x->pid, "fd", x->num, "token", (json_int_t)x->token,
		"r", (int)x->reads, "w", (int)x->writes, "size", x->size), *answer = NULL;
	int r, size;

	if (!rq || asprintf(&path, "%s/spritefs.sock", f->m->conf->run_dir) < 0) {
		json_decref(rq);
		return error_set(e, ENOMEM, "out of memory");
	}
	/* One that is killed is started again by its holder, and knows what was answered: what was not is asked again. */
	for (int i = 0;; i++) {
		why = (struct error){ 0 };
		r = local_call(path, json_incref(rq), NULL, NULL, &answer, &why);
		if ((!why.absent && r != -ECONNRESET) || i == FIFO_TRIES)
			break;
		usleep(50000);
	}
	json_decref(rq);
	size = (int)json_integer_value(json_object_get(answer, "size"));
	json_decref(answer);
	return r ? error_set(e, -r, "%s", why.text) : size > 0 ? size : 0;
}

static void hook_call(void *ctx, const struct eng_foreign *c, const void *data, size_t len)
{
	forward_call(ctx, c, data, len);
}

void hooks_of(struct family *f, struct eng_hooks *out)
{
	*out = (struct eng_hooks){ .ctx = f, .relay_open = hook_open, .standing = hook_standing, .relay_found = hook_found, .relay_whose = hook_whose,
		.fifo = hook_fifo, .by_inode = held_open, .ahead_done = hook_ahead_done, .call = hook_call };
}
