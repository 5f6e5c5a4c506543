// SPDX-License-Identifier: Apache-2.0
/*
 * How the pipe agent hears of things, by other threads: the GETATTR just before the open of a FIFO (pipe_agent.h), migd's requests, what a spritefs before us knew. All goes to the agent's mailbox.
 */
#include "fs/client/pipe_agent.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "fs/client/pipe_int.h"

int fifo_behind(struct fs *fs, pid_t pid, int num, struct inode **out)
{
	struct {
		struct file_handle h;
		uint32_t id[8];
	} fh = {.h = {.handle_bytes = sizeof(fh.id)}};
	struct statx ours, theirs;
	char path[64];
	int id;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, num);
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &theirs) || statx(AT_FDCWD, fs->mount, AT_STATX_DONT_SYNC, STATX_TYPE, &ours))
		return -errno;
	if (theirs.stx_dev_major != ours.stx_dev_major || theirs.stx_dev_minor != ours.stx_dev_minor || !S_ISFIFO(theirs.stx_mode))
		return -EOPNOTSUPP;
	if (name_to_handle_at(fd, "", &fh.h, &id, AT_EMPTY_PATH))
		return -errno;
	*out = inode_get(fs, (uint64_t)fh.id[0] << 32 | fh.id[1]); /* cannot be forgotten while fd is open */
	if ((*out)->dom && !(*out)->dom->home)
		return 0;
	inode_put(fs, *out);
	return -EOPNOTSUPP;
}

static void *group_room(void *arg, size_t n)
{
	(void)arg;
	return malloc(n);
}

/* As the kernel will decide: an opener that is to be refused must not look like one to the others. (An ACL counts as its mask, the group's bits.) */
static bool may(const struct fuse_ctx *who, const struct stat *st, bool r, bool w)
{
	_cleanup_free_ uint32_t *groups = NULL;
	unsigned need = (r ? 4u : 0) | (w ? 2u : 0), mode = st->st_mode;
	bool in_group = who->gid == st->st_gid;
	size_t n = 0;

	if (who->uid == 0)
		return true;
	if (who->uid == st->st_uid)
		return (mode >> 6 & need) == need;
	if (!in_group && cred_groups(who->pid, &groups, &n, group_room, NULL) == 0)
		for (size_t i = 0; i < n; i++)
			in_group |= groups[i] == st->st_gid;
	return ((in_group ? mode >> 3 : mode) & need) == need;
}

/* migd opens for a process that moves, which is known otherwise. */
static bool is_mover(struct fs *fs, pid_t tid)
{
	pid_t mover = fs->pipe_mover;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", mover, tid);
	return mover && access(path, F_OK) == 0;
}

bool pipe_agent_open(struct fs *fs, fuse_req_t req, int fd, struct inode *ino, const struct stat *st)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct pipe_proc p;
	struct agent *a;
	struct opener *o;
	struct mail *m;

	if (!ino->dom || ino->dom->home || is_mover(fs, who->pid) || !pipe_proc_opening(who->pid, &p) || !may(who, st, p.r, p.w))
		return false;
	a = agent_of(fs);
	m = a ? calloc(1, sizeof(*m)) : NULL;
	o = m ? calloc(1, sizeof(*o)) : NULL;
	if (!o) {
		free(m);
		return false;
	}
	*o = (struct opener){.who = p, .req = req, .fd = fd, .st = *st};
	*m = (struct mail){.kind = MAIL_OPEN, .ino = inode_hold(fs, ino), .opener = o};
	pipe_post(a, m);
	return true;
}

/* ---- the control socket, and what a spritefs before us was told by it ---- */

int pipe_agent_resume(struct fs *fs, struct inode *ino, struct keep *k)
{
	struct agent *a = agent_of(fs);
	struct mail *m = a ? calloc(1, sizeof(*m)) : NULL;

	if (!m) {
		inode_put(fs, ino);
		return -ENOMEM;
	}
	*m = (struct mail){.kind = MAIL_FOUND, .ino = ino, .keep = k};
	pipe_post(a, m);
	return 0;
}


void pipe_agent_look(struct fs *fs)
{
	struct agent *a = agent_of(fs);
	struct mail *m = a ? calloc(1, sizeof(*m)) : NULL;

	if (!m)
		return;
	m->kind = MAIL_LOOK;
	pipe_post(a, m);
}

int pipe_agent_call(struct fs *fs, pid_t caller, enum pipe_verb verb, pid_t pid, int fd, uint64_t token, bool r, bool w, int size)
{
	struct pipe_call c = {.verb = verb, .pid = pid, .token = token, .r = r, .w = w, .size = size, .since = clock_mono_ns()};
	struct agent *a = agent_of(fs);
	struct mail *m;
	int err = 0;

	fs->pipe_mover = caller;
	if (verb == PIPE_KNOWN || verb == PIPE_HOLD || verb == PIPE_PLEDGE)
		err = fifo_behind(fs, pid, fd, &c.ino);
	if (err || verb == PIPE_KNOWN) {
		if (!err)
			inode_put(fs, c.ino);
		return err;
	}
	m = a ? calloc(1, sizeof(*m)) : NULL;
	if (!m) {
		if (c.ino)
			inode_put(fs, c.ino);
		return -ENOMEM;
	}
	sem_init(&c.done, 0, 0);
	*m = (struct mail){.kind = MAIL_CALL, .call = &c};
	pipe_post(a, m);
	while (sem_wait(&c.done) && errno == EINTR)
		;
	sem_destroy(&c.done);
	return c.result;
}
