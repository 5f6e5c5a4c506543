// SPDX-License-Identifier: Apache-2.0
/* See pipe_proc.h. x86-64 numbers of system calls: a 32-bit program's FIFOs stay native to its node. */
#include "fs/client/pipe_proc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"

#define SLEEP_TRIES 5000 /* seconds */
#define OPEN_TICKS 10 /* 100 ms of CPU: no open takes that much, it must have left it */
#define EXITING 0x4 /* PF_EXITING of linux/sched.h */

static int read_line(pid_t tid, const char *what, char *to, size_t size)
{
	char path[64];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", tid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, to, size - 1);
	if (n < 0)
		return -errno;
	to[n] = 0;
	to[strcspn(to, "\n")] = 0;
	return n ? 0 : -ESRCH;
}

/* proc_pid_stat(5) of one thread; /proc/TID/stat would give the CPU time of its whole process. */
struct thread_stat {
	char state;		       /* field 3 */
	bool dies;		       /* PF_EXITING (field 9), or a SIGKILL that waits (field 31): each thread of a process that is killed has one */
	unsigned long long cpu, born; /* fields 14 and 15 together (the kernel divides them by guessing), 22 */
};

static bool thread_stat(pid_t tid, struct thread_stat *out)
{
	unsigned long long ut, st, waits;
	char what[32], buf[1024], *p;
	unsigned flags;

	snprintf(what, sizeof(what), "task/%d/stat", tid);
	*out = (struct thread_stat){0};
	if (read_line(tid, what, buf, sizeof(buf)) || !(p = strrchr(buf, ')')) ||
	    sscanf(p + 1, " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu %*u %*d %*u %*u %*u %*u %*u %*u %llu", &out->state, &flags, &ut,
		   &st, &out->born, &waits) != 6)
		return false;
	out->dies = flags & EXITING || waits & 1ull << (SIGKILL - 1);
	out->cpu = ut + st;
	return true;
}

uint64_t pipe_proc_born(pid_t pid)
{
	struct thread_stat st;

	return thread_stat(pid, &st) ? st.born : 0;
}

static bool flags_of(pid_t tid, const char *call, unsigned long long *flags)
{
	unsigned long long a[4];
	struct open_how how;
	long nr;

	if (sscanf(call, "%ld %llx %llx %llx %llx", &nr, &a[0], &a[1], &a[2], &a[3]) != 5)
		return false;
	if (nr == SYS_open) {
		*flags = a[1];
	} else if (nr == SYS_creat) {
		*flags = O_WRONLY;
	} else if (nr == SYS_openat || nr == SYS_open_by_handle_at) {
		*flags = a[2];
	} else if (nr == SYS_openat2) {
		struct iovec to = {&how, sizeof(how.flags)}, from = {(void *)(uintptr_t)a[2], sizeof(how.flags)};

		if (process_vm_readv(tid, &to, 1, &from, 1, 0) != (ssize_t)sizeof(how.flags))
			return false;
		*flags = how.flags;
	} else {
		return false;
	}
	return true;
}

bool pipe_proc_opening(pid_t tid, struct pipe_proc *out)
{
	unsigned long long flags;
	struct thread_stat st;
	char own[64];
	int tries;

	snprintf(own, sizeof(own), "/proc/self/task/%d", tid);
	if (access(own, F_OK) == 0)
		return false;
	*out = (struct pipe_proc){.tid = tid};
	/* it may not have gone to sleep yet, on a busy machine for long: then its call cannot be read. It does, since it waits for us */
	for (tries = 0; tries < SLEEP_TRIES; tries++) {
		if (read_line(tid, "syscall", out->call, sizeof(out->call)))
			return false;
		if (strcmp(out->call, "running"))
			break;
		usleep(tries < 200 ? 20 : 1000);
	}
	if (!flags_of(tid, out->call, &flags) || flags & O_PATH)
		return false;
	out->r = (flags & O_ACCMODE) != O_WRONLY;
	out->w = (flags & O_ACCMODE) != O_RDONLY;
	out->cpu = thread_stat(tid, &st) ? st.cpu : 0;
	return true;
}

/*
 * A stopped thread (by a signal, or by migd, which moves it) has left its open, though its registers still tell of it: it stops where signals are delivered. Either it has got what it
 * opened, or the call will be made again, and told again. One that dies has left it for good, though it may run, or wait in it, for some time yet: what it was let in by it will never use.
 */
enum pipe_where pipe_proc_where(const struct pipe_proc *p)
{
	char call[sizeof(p->call)], in[64];
	struct thread_stat st;

	if (read_line(p->tid, "syscall", call, sizeof(call)) || !thread_stat(p->tid, &st))
		return PIPE_LEFT;
	if (!strcmp(call, "running"))
		return st.dies || st.cpu > p->cpu + OPEN_TICKS ? PIPE_LEFT : PIPE_MAYBE;
	if (strcmp(call, p->call))
		return PIPE_LEFT;
	if (st.state == 't' || st.state == 'T')
		return PIPE_STANDS;
	if (!read_line(p->tid, "wchan", in, sizeof(in)) && strstr(in, "request_wait_answer")) /* the same line of its program, which opens another file */
		return PIPE_LEFT;
	return st.dies || st.state == 'Z' || st.state == 'X' ? PIPE_LEFT : PIPE_IN;
}

/* We, or the machine, have no room to look: that tells nothing. */
static bool short_of_room(void)
{
	return errno == EMFILE || errno == ENFILE || errno == ENOMEM;
}

/* Access mode of a descriptor, from its fdinfo; -1: it is gone. */
static int mode_of(int dir, const char *num)
{
	char path[300], text[256], *p;
	unsigned flags = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "fdinfo/%s", num);
	_cleanup_close_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return short_of_room() ? O_RDWR : -1; /* not known: as if it were both */
	n = read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = 0;
	p = strstr(text, "flags:");
	if (!p || sscanf(p + 6, "%o", &flags) != 1 || flags & O_PATH)
		return -1;
	return (int)(flags & O_ACCMODE);
}

/* What a walk through the descriptors of processes does with each FIFO. False: enough. */
typedef bool on_fifo(void *arg, int dir, pid_t pid, const char *num, const struct statx *x);

/* *known: false if they could not be looked at */
static bool fifos_of(int dir, pid_t pid, on_fifo *fn, void *arg, bool *known)
{
	int fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fds < 0 ? NULL : fdopendir(fds);
	bool more = true;
	struct dirent *e;
	struct statx x;
	char link[16];

	if (!d) {
		*known &= !short_of_room();
		if (fds >= 0)
			close(fds);
		return *known;
	}
	while (more && (e = readdir(d))) {
		/* most are no files of ours, and are told from them without asking anybody for attributes */
		if (*e->d_name == '.' || readlinkat(fds, e->d_name, link, sizeof(link)) < 1 || *link != '/' || !strncmp(link, "/dev/", 5))
			continue;
		if (statx(fds, e->d_name, AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE, &x) == 0 && S_ISFIFO(x.stx_mode))
			more = fn(arg, dir, pid, e->d_name, &x);
	}
	closedir(d);
	return more;
}

static uint64_t namespace_at(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, *name ? 0 : AT_EMPTY_PATH) == 0 ? st.st_ino : 0;
}

int pipe_proc_namespace(pid_t pid)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || namespace_at(fd, "") != namespace_at(AT_FDCWD, "/proc/self/ns/pid"))
		return fd;
	close(fd);
	return -1;
}

/* Processes of other namespaces than `not` (0: all), but for ourselves. False: /proc cannot be read. */
static bool walk(uint64_t not, on_fifo *fn, void *arg)
{
	DIR *proc = opendir("/proc");
	bool more = true, known = proc != NULL;
	struct dirent *e;

	while (proc && more && (e = readdir(proc))) {
		int pid = atoi(e->d_name);

		if (pid <= 0 || pid == getpid())
			continue;
		_cleanup_close_ int dir = openat(dirfd(proc), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir < 0)
			known &= !short_of_room();
		else if (!not || namespace_at(dir, "ns/pid") != not)
			more = fifos_of(dir, pid, fn, arg, &known);
	}
	if (proc)
		closedir(proc);
	return known;
}

static bool same_file(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && a->stx_dev_major == b->stx_dev_major && a->stx_dev_minor == b->stx_dev_minor;
}

struct holders {
	struct statx want;
	struct pipe_witness *who;
	bool r, w;
};

static bool holder_seen(void *arg, int dir, pid_t pid, const char *num, const struct statx *x)
{
	struct holders *h = arg;
	int mode = same_file(x, &h->want) ? mode_of(dir, num) : -1;

	if (mode < 0)
		return true;
	h->r |= mode != O_WRONLY;
	h->w |= mode != O_RDONLY;
	if (h->who)
		*h->who = (struct pipe_witness){pid, atoi(num)};
	return !(h->who || (h->r && h->w));
}

void pipe_proc_holders(int path, int but, bool *r, bool *w)
{
	struct holders h = {0};
	bool known = statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &h.want) == 0 && walk(but < 0 ? 0 : namespace_at(but, ""), holder_seen, &h);

	*r = h.r || !known; /* not known: as if there were */
	*w = h.w || !known;
}

bool pipe_proc_has(int path, pid_t pid)
{
	struct holders h = {0};
	struct dirent *e;
	bool known = true;
	char name[32];
	DIR *tasks;

	snprintf(name, sizeof(name), "/proc/%d/task", pid);
	if (statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &h.want))
		return true;
	tasks = opendir(name);
	if (!tasks)
		return short_of_room();
	while (known && (e = readdir(tasks))) { /* one that has ended shows nothing, though others have the table still */
		_cleanup_close_ int dir = *e->d_name == '.' ? -1 : openat(dirfd(tasks), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0 && !fifos_of(dir, pid, holder_seen, &h, &known))
			break;
		known &= dir >= 0 || *e->d_name == '.' || !short_of_room();
	}
	closedir(tasks);
	return h.r || h.w || !known;
}

bool pipe_proc_any(int path, struct pipe_witness *who)
{
	struct holders h = {.who = who};
	char name[64];
	struct statx x;

	if (statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &h.want))
		return true;
	snprintf(name, sizeof(name), "/proc/%d/fd/%d", who->pid, who->fd);
	if (who->pid > 0 && statx(AT_FDCWD, name, AT_STATX_DONT_SYNC, STATX_INO, &x) == 0 && same_file(&x, &h.want)) {
		_cleanup_close_ int dir = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
		char info[64];

		snprintf(info, sizeof(info), "%d", who->pid);
		_cleanup_close_ int its = openat(dir, info, O_PATH | O_DIRECTORY | O_CLOEXEC);

		snprintf(info, sizeof(info), "%d", who->fd);
		if (its >= 0 && mode_of(its, info) >= 0)
			return true;
	}
	*who = (struct pipe_witness){0};
	return !walk(0, holder_seen, &h) || h.r || h.w;
}

static bool fifo_seen(void *arg, int dir, pid_t pid, const char *num, const struct statx *x)
{
	struct pipe_seen *s = arg;
	int mode = mode_of(dir, num);

	if (mode < 0)
		return true;
	if (s->n == s->room) {
		size_t room = s->room ? 2 * s->room : 64;
		struct pipe_open *p = realloc(s->v, room * sizeof(*p));

		if (!p) {
			s->all = true;
			return false;
		}
		s->v = p;
		s->room = room;
	}
	s->v[s->n++] = (struct pipe_open){x->stx_ino, pid, atoi(num), mode != O_WRONLY, mode != O_RDONLY};
	return true;
}

void pipe_proc_seen(struct pipe_seen *s)
{
	*s = (struct pipe_seen){0};
	s->all |= !walk(0, fifo_seen, s);
}

bool pipe_seen_has(const struct pipe_seen *s, uint64_t ino)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].ino == ino)
			return true;
	return s->all;
}
