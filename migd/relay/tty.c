// SPDX-License-Identifier: Apache-2.0
/* Terminals; see relay_tty.h. */
#include "migd/relay/tty.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

enum { LOOK_NS = 20 * 1000 * 1000 };

void relay_tty_init(struct relay_tty *t)
{
	*t = (struct relay_tty){ .fd = -1 };
}

void relay_tty_clear(struct relay_tty *t)
{
	relay_tty_init(t);
}

static bool look(const struct relay_tty *t, struct termios *tio)
{
	memset(tio, 0, sizeof(*tio));
	if (t->fd < 0 || tcgetattr(t->fd, tio))
		return false;
	tio->c_lflag &= ~(tcflag_t)EXTPROC;
	return true;
}

void relay_tty_home(struct relay_tty *t, int fd, pid_t holder)
{
	*t = (struct relay_tty){ .fd = fd, .home = true, .holder = holder };
	look(t, &t->seen);
	ioctl(fd, TIOCGWINSZ, &t->size);
}

static int ptys = -1; /* a devpts of our own, on no path: what a guest types must not look like input of this host's owner */
static pthread_once_t ptys_once = PTHREAD_ONCE_INIT;

static void ptys_open(void)
{
	_cleanup_close_ int fs = fsopen("devpts", FSOPEN_CLOEXEC);

	if (fs >= 0 && !fsconfig(fs, FSCONFIG_SET_STRING, "ptmxmode", "0600", 0) && !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		ptys = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (ptys < 0)
		log_warn("no devpts of our own (%s): guests' terminals count as input here", strerror(errno));
}

int relay_tty_guest(struct relay_tty *t, int *master, int *slave)
{
	pthread_once(&ptys_once, ptys_open);
	_cleanup_close_ int m = openat(ptys >= 0 ? ptys : AT_FDCWD, ptys >= 0 ? "ptmx" : "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	int s, unlock = 0;

	if (m < 0 || ioctl(m, TIOCSPTLCK, &unlock))
		return -errno;
	s = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (s < 0)
		return -errno;
	t->fd = m;
	t->home = false;
	*slave = s;
	*master = steal_fd(&m);
	return 0;
}

/* Does the holder live, and is its process group the foreground one of its terminal? proc_pid_stat(5): fields state (3), pgrp (5) and tpgid (8). */
static bool in_foreground(pid_t pid)
{
	char path[40], buf[512], *p;
	int pgrp, session, tty, tpgid;
	_cleanup_close_ int fd = -1;
	char state;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return false;
	buf[n] = 0;
	p = strrchr(buf, ')');
	if (!p || sscanf(p + 1, " %c %*d %d %d %d %d", &state, &pgrp, &session, &tty, &tpgid) != 5)
		return false;
	return pgrp == tpgid && state != 'Z' && state != 'X';
}

bool relay_tty_is_ours(struct relay_tty *t)
{
	t->looked_ns = clock_mono_ns();
	t->may_read = !t->left && in_foreground(t->holder);
	return t->may_read;
}

bool relay_tty_may_read(struct relay_tty *t)
{
	if (!t->looked_ns || clock_mono_ns() - t->looked_ns > LOOK_NS)
		relay_tty_is_ours(t);
	return t->may_read && !t->left;
}

bool relay_tty_size(struct relay_tty *t, struct winsize *ws, bool *changed)
{
	if (t->fd < 0 || !t->home || ioctl(t->fd, TIOCGWINSZ, ws) || (t->told && !memcmp(ws, &t->size, sizeof(*ws))))
		return false;
	*changed = memcmp(ws, &t->size, sizeof(*ws)) != 0;
	t->size = *ws;
	t->told = true;
	return true;
}

void relay_tty_sized(struct relay_tty *t)
{
	pid_t group = t->home && relay_tty_is_ours(t) ? getpgid(t->holder) : -1;

	if (group > 1)
		kill(-group, SIGWINCH);
}

bool relay_tty_set(struct relay_tty *t, struct termios *tio)
{
	bool first = !t->told;

	if (!look(t, tio))
		return false;
	if (t->home) {
		/* While another job, or the shell, has the terminal its settings are that one's. */
		if (!t->again && (!memcmp(tio, &t->seen, sizeof(*tio)) || !relay_tty_may_read(t) || !relay_tty_is_ours(t)))
			return false;
		t->count++;
	} else {
		t->cooked = tio->c_oflag & OPOST && tio->c_oflag & ONLCR;
		t->told = true;
		if (!t->again && (first || !memcmp(tio, &t->seen, sizeof(*tio)))) { /* at first: what it had at home, which need not be carried there */
			t->seen = *tio;
			return false;
		}
		t->set = true;
	}
	t->again = false;
	t->seen = *tio;
	return true;
}

void relay_tty_link(struct relay_tty *t)
{
	t->count = 0;
	t->again = !t->home && t->set;
	if (t->home)
		t->told = false;
}

/* What the other side has. Hung up: the family will see it. */
static void settle(struct relay_tty *t, const struct termios *want)
{
	tcsetattr(t->fd, TCSANOW, want);
	look(t, &t->seen);
}

size_t relay_tty_uncook(struct relay_tty *t, unsigned char *p, size_t n)
{
	size_t k = 0;

	if (!t->cooked)
		return n;
	for (size_t i = 0; i < n; i++)
		if (p[i] != '\r' || i + 1 == n || p[i + 1] != '\n')
			p[k++] = p[i];
	return k;
}

ssize_t relay_tty_write(int master, int slave, const unsigned char *p, size_t n)
{
	struct termios t;
	struct pollfd in = { .fd = slave, .events = POLLIN };
	unsigned char *eof;
	ssize_t done;

	if (tcgetattr(master, &t) || !(t.c_lflag & ECHO))
		return write(master, p, n);
	if (t.c_lflag & ICANON && *p == t.c_cc[VEOF])
		return write(master, p, 1); /* is not echoed */
	eof = t.c_lflag & ICANON ? memchr(p, t.c_cc[VEOF], n) : NULL;
	if (eof)
		n = eof - p;
	t.c_lflag |= EXTPROC;
	tcsetattr(master, TCSANOW, &t);
	done = write(master, p, n);
	poll(&in, 1, 0); /* has the kernel carry it over (n_tty_poll()) before the discipline works again */
	if (!tcgetattr(master, &t)) {
		t.c_lflag &= ~(tcflag_t)EXTPROC;
		tcsetattr(master, TCSANOW, &t); /* what is there counts as a line from now on (n_tty_set_termios()) */
	}
	return done;
}

void relay_tty_keep(struct relay_tty *t)
{
	t->kept = t->fd >= 0 && !tcgetattr(t->fd, &t->before);
}

void relay_tty_back(struct relay_tty *t)
{
	if (t->kept)
		settle(t, &t->before);
	t->kept = false;
}

void relay_tty_unread(struct relay_tty *t, const unsigned char *p, size_t n)
{
	struct termios was, quiet;

	if (!n || t->fd < 0 || tcgetattr(t->fd, &was))
		return;
	quiet = was;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
	tcsetattr(t->fd, TCSANOW, &quiet);
	for (size_t i = 0; i < n; i++)
		if (ioctl(t->fd, TIOCSTI, p + i)) {
			log_warn("%zu bytes of terminal input are lost: %s", n - i, strerror(errno));
			break;
		}
	tcsetattr(t->fd, TCSANOW, &was);
}

int relay_tty_input(struct relay_tty *t, bool size, uint64_t count, const void *data, size_t n)
{
	struct termios tio;
	struct winsize ws;

	if (t->fd < 0)
		return 0;
	if (n != (size ? sizeof(ws) : sizeof(tio)) || (size && t->home))
		return -EPROTO;
	if (size) {
		memcpy(&ws, data, sizeof(ws));
		ioctl(t->fd, TIOCSWINSZ, &ws);
		return 0;
	}
	memcpy(&tio, data, sizeof(tio));
	settle(t, &tio);
	if (t->home)
		t->again = count < t->count; /* it did not know ours, which is there now */
	else
		t->count = count;
	return 0;
}
