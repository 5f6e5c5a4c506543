/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals. They stay at home and are relayed (res_file_relay.c); away the family has a pty, which begins with the settings and the size that the terminal has.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"

static bool is_tty(const struct file_look *l)
{
	unsigned ma = major(l->st.st_rdev);

	if (!S_ISCHR(l->st.st_mode) || l->flags & O_PATH)
		return false;
	return (ma >= 136 && ma <= 143) || ma == 3 || ma == 4 || (ma == 5 && minor(l->st.st_rdev) <= 1) || ma == 204;
}

static bool is_first_of(const struct file_look *l)
{
	char name[24];
	struct stat st;

	for (int i = 0; i < l->num; i++) {
		snprintf(name, sizeof name, "fd/%d", i);
		if (fstatat(l->dir, name, &st, 0) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == l->st.st_rdev)
			return false;
	}
	return true;
}

/*
 * A shell that controls jobs needs a terminal of which the kernel that runs it knows session and groups; a relayed one is known to the home's. It is told by what all such
 * shells do: to have a controlling terminal, and to ignore the three signals of job control.
 */
static void tty_probe(struct eng_probe *p, const struct file_look *l)
{
	enum { JOBS = 1 << (SIGTSTP - 1) | 1 << (SIGTTIN - 1) | 1 << (SIGTTOU - 1) };
	_cleanup_free_ char *status = eng_proc_read(l->dir, "status", NULL), *stat = eng_proc_read(l->dir, "stat", NULL);
	char *after = stat ? strrchr(stat, ')') : NULL;
	int tty = 0;

	if (!status || !after || sscanf(after + 1, " %*c %*d %*d %*d %d", &tty) != 1 || !tty)
		return;
	if ((res_field_u64(status, "SigIgn", 16, 0) & JOBS) == JOBS && is_first_of(l))
		file_reason(p, l, "controls the jobs of terminal %s, which stays here: start a shell there (mig shell)", l->link);
}

static int bytes_put(ProtobufCBinaryData *to, const void *p, size_t n)
{
	to->data = malloc(n);
	if (!to->data)
		return -ENOMEM;
	memcpy(to->data, p, n);
	to->len = n;
	return 0;
}

/* The one over there begins with the settings and the size of this one: what comes later it is told by the relay. */
static int tty_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);
	struct termios tio = {0};
	struct winsize ws;
	int r = 0;

	if (fd >= 0 && tcgetattr(fd, &tio) == 0)
		r = bytes_put(&m->termios, &tio, sizeof tio);
	if (r == 0 && fd >= 0 && ioctl(fd, TIOCGWINSZ, &ws) == 0)
		r = bytes_put(&m->winsize, &ws, sizeof ws);
	return r < 0 ? r : relay_dump(f, d, m, ENG_RELAY_TTY, e);
}

static void tty_begin(int fd, const Sprite__Img__File *m)
{
	struct termios tio;

	if (m->termios.len == sizeof tio) {
		memcpy(&tio, m->termios.data, sizeof tio);
		tio.c_lflag &= ~(tcflag_t)EXTPROC;
		tcsetattr(fd, TCSANOW, &tio);
	}
	if (m->winsize.len == sizeof(struct winsize))
		ioctl(fd, TIOCSWINSZ, m->winsize.data);
}

static int tty_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	int fd = d->image->relay ? relay_open(f, d, NULL, e) : res_bad_record(e, "terminals");

	(void)p;
	if (fd >= 0 && !f->home) /* at home it is the very one */
		tty_begin(fd, d->image);
	return fd;
}

static bool tty_stays(struct eng_proc *p, const struct file_look *l)
{
	(void)p, (void)l;
	return true;
}

const struct file_kind file_tty = {.name = "tty", .is = is_tty, .probe = tty_probe, .dump = tty_dump, .open = tty_open, .stays = tty_stays};
