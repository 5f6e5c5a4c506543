// SPDX-License-Identifier: Apache-2.0
/* See user.h. */
#include "migd/user.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/aim.h"

enum { ANSWER_MAX = 512 };

void user_of(struct user_ids *u, struct family *f, pid_t pid, uid_t uid, gid_t gid)
{
	_cleanup_free_ char *line = NULL;
	const struct member *m;
	char path[40];
	size_t room = 0;
	FILE *file;

	u->uid = f->uid ? f->uid : uid;
	u->gid = f->uid ? f->gid : gid;
	u->ngroups = 0;
	if (!f->uid && u->uid) /* has become somebody else since: whose groups nobody here knows */
		return;
	pthread_mutex_lock(&f->lock);
	m = family_member(f, pid);
	if (!m || !m->hollow)
		pid = f->pid;
	pthread_mutex_unlock(&f->lock);
	u->groups[u->ngroups++] = u->gid;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && getline(&line, &room, file) > 0) {
		char *s = line + 7, *end;

		if (strncmp(line, "Groups:", 7))
			continue;
		for (unsigned long g = strtoul(s, &end, 10); end != s && u->ngroups < USER_GROUPS; g = strtoul(s, &end, 10)) {
			u->groups[u->ngroups++] = (gid_t)g;
			s = end;
		}
	}
	if (file)
		fclose(file);
}

/* Not this user's to look into; nor does it stay when we die. */
static bool apart(void)
{
	return !prctl(PR_SET_DUMPABLE, 0) && !prctl(PR_SET_PDEATHSIG, SIGKILL);
}

bool user_become(const struct user_ids *u)
{
	return !syscall(SYS_setgroups, u->ngroups, u->groups) && !syscall(SYS_setresgid, u->gid, u->gid, u->gid) && !syscall(SYS_setresuid, u->uid, u->uid, u->uid) && apart();
}

bool user_files(const struct user_ids *u)
{
	if (syscall(SYS_setgroups, u->ngroups, u->groups))
		return false;
	syscall(SYS_setfsgid, u->gid);
	syscall(SYS_setfsuid, u->uid); /* takes the capabilities that a file system asks for */
	return syscall(SYS_setfsgid, -1) == (long)u->gid && syscall(SYS_setfsuid, -1) == (long)u->uid && apart();
}

struct answer {
	struct iovec v;
	struct msghdr h;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
};

static struct msghdr *answer_of(struct answer *a, void *p, size_t len)
{
	a->v = (struct iovec){ p, len };
	a->h = (struct msghdr){ .msg_iov = &a->v, .msg_iovlen = 1, .msg_control = &a->control, .msg_controllen = sizeof(a->control) };
	return &a->h;
}

static void child_main(int (*fn)(const void *arg, void *answer), const void *arg, size_t len, int to)
{
	uint8_t bytes[ANSWER_MAX] = { 0 };
	struct answer a = { 0 };
	struct msghdr *h = answer_of(&a, bytes, len);
	int fd = fn(arg, bytes);

	*CMSG_FIRSTHDR(h) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(h)), &fd, sizeof(fd));
	if (fd < 0)
		h->msg_controllen = 0;
	_exit(sendmsg(to, h, MSG_NOSIGNAL) != (ssize_t)len);
}

int user_run(int (*fn)(const void *arg, void *answer), const void *arg, int ms, void *answer, size_t len, int *fd)
{
	struct pollfd p = { .events = POLLIN };
	struct answer a = { 0 };
	struct msghdr *h = answer_of(&a, answer, len);
	bool done = false;
	int s[2], got;
	pid_t pid;

	if (len > ANSWER_MAX)
		return -EINVAL;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		return -errno;
	aim_hold();
	pid = _Fork();
	if (!pid)
		child_main(fn, arg, len, s[1]);
	aim_let_go();
	close(s[1]);
	p.fd = s[0];
	if (fd)
		*fd = -1;
	if (pid > 0 && poll(&p, 1, ms) == 1 && recvmsg(s[0], h, MSG_CMSG_CLOEXEC) == (ssize_t)len) {
		done = true;
		if (CMSG_FIRSTHDR(h)) {
			memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(h)), sizeof(got));
			if (fd)
				*fd = got;
			else
				close(got);
		}
	}
	close(s[0]);
	if (pid > 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return done ? 0 : -EAGAIN;
}
