// SPDX-License-Identifier: Apache-2.0
/* The worker on another host; see far.h. One thread; it holds nothing but pipes, so that it can be sent home at any time. */
#include "migd/cli/far.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/io.h"
#include "migd/cli/cli.h"

extern char **environ;

enum { TAILS = 32, CHUNK = 16384, OUT_MAX = 65536 };

/* The output of one recipe: of the one that runs, and of those that have left somebody behind who may still write. */
struct tail {
	uint32_t recipe;
	int from[2]; /* -1: at its end */
};

static struct worker {
	struct tail tail[TAILS];
	size_t ntails;
	pid_t pid; /* of the recipe, and its process group; 0: none */
	uint32_t recipe;
	bool over; /* no more of them */
	bool deaf; /* nobody listens any more */
	char tmp[40]; /* where recipes have their temporary files, "": where they say */
	char out[OUT_MAX + CHUNK + 64];
	size_t nout;
} w;

/* What our home's group is sent, the recipe, which has one of its own, is to have as well: a key, or what follows it. SIGCHLD is ours alone. */
static const int ours[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGCHLD};
static volatile sig_atomic_t child, killed; /* somebody has ended; signals for the recipe, a bit each. Set within ppoll(2) only */

static void on_signal(int sig)
{
	if (sig == SIGCHLD)
		child = 1;
	else if (sig == SIGTSTP || sig == SIGCONT) /* one takes the other off, as in the kernel */
		killed &= ~(1 << SIGTSTP | 1 << SIGCONT);
	if (sig != SIGCHLD)
		killed |= 1 << sig;
}

/* ---- what is said */

static void flush(void)
{
	if (w.nout && !w.deaf && io_write_all(1, w.out, w.nout))
		w.deaf = w.over = true;
	w.nout = 0;
}

static void say(enum far_kind kind, uint32_t recipe, const void *p, uint32_t n)
{
	struct far_frame f = {kind, recipe, n};

	memcpy(w.out + w.nout, &f, sizeof(f));
	if (n)
		memcpy(w.out + w.nout + sizeof(f), p, n);
	w.nout += sizeof(f) + n;
	if (w.nout >= OUT_MAX)
		flush();
}

/* ---- output */

static void tail_drop(size_t i)
{
	for (int k = 0; k < 2; k++)
		if (w.tail[i].from[k] >= 0)
			close(w.tail[i].from[k]);
	w.tail[i] = w.tail[--w.ntails];
}

/* What is there now, and no more: who writes without pause is not the only one to be looked after. */
static void tail_read(struct tail *t, int which)
{
	char buf[CHUNK];
	int left = 0;
	ssize_t n;

	if (t->from[which] < 0)
		return;
	ioctl(t->from[which], FIONREAD, &left);
	do {
		n = read(t->from[which], buf, sizeof(buf));
		if (n < 0)
			return;
		if (n > 0)
			say(which ? FAR_ERR : FAR_OUT, t->recipe, buf, (uint32_t)n);
		left -= (int)n;
	} while (n > 0 && left > 0);
	if (n > 0)
		return;
	close(t->from[which]);
	t->from[which] = -1;
	say(FAR_CLOSED, t->recipe, &(char){(char)which}, 1);
}

static struct tail *tail_new(uint32_t recipe)
{
	if (w.ntails == TAILS) /* whoever still writes there writes to nobody */
		tail_drop(0);
	w.tail[w.ntails] = (struct tail){.recipe = recipe, .from = {-1, -1}};
	return &w.tail[w.ntails++];
}

/* ---- a recipe */

static void as_it_was(const struct far_head *h)
{
	sigset_t blocked;

	sigemptyset(&blocked);
	for (int s = 1; s <= 64; s++) {
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, h->ignored >> (s - 1) & 1 ? SIG_IGN : SIG_DFL);
		if (h->blocked >> (s - 1) & 1)
			sigaddset(&blocked, s);
	}
	umask((mode_t)h->mask);
	if (h->nice > getpriority(PRIO_PROCESS, 0))
		setpriority(PRIO_PROCESS, 0, h->nice);
	for (int i = 0; i < RLIMIT_NLIMITS; i++) {
		struct rlimit now;

		if (!getrlimit((__rlimit_resource_t)i, &now) && (now.rlim_cur != h->limits[i].rlim_cur || now.rlim_max != h->limits[i].rlim_max))
			setrlimit((__rlimit_resource_t)i, &h->limits[i]);
	}
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static void become(struct far_recipe *r, const int to[2])
{
	int null = open("/dev/null", O_RDONLY);

	setpgid(0, 0);
	dup2(null, 0);
	dup2(to[0], 1);
	dup2(to[1], 2);
	close_range(3, ~0U, 0);
	as_it_was(&r->head);
	environ = r->env;
	if (w.tmp[0] && !getenv("TMPDIR"))
		setenv("TMPDIR", w.tmp, 1);
	if (chdir(r->dir)) {
		failed("%s: %s", r->dir, strerror(errno));
		_exit(1);
	}
	execvp(r->args[0], r->args);
	if (r->head.plain) /* the shell has the words for that */
		execl("/bin/sh", "/bin/sh", "-c", r->command, (char *)NULL);
	failed("%s: %s", r->args[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* -errno: it could not be begun. */
static int begin(uint32_t recipe, struct far_recipe *r)
{
	struct tail *t;
	int out[2], err[2];

	if (pipe2(out, O_CLOEXEC))
		return -errno;
	if (pipe2(err, O_CLOEXEC)) {
		close(out[0]);
		close(out[1]);
		return -EMFILE;
	}
	w.pid = fork();
	if (!w.pid)
		become(r, (const int[2]){out[1], err[1]});
	close(out[1]);
	close(err[1]);
	t = tail_new(recipe);
	t->from[0] = out[0];
	t->from[1] = err[0];
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	if (w.pid < 0) {
		w.pid = 0;
		tail_drop(w.ntails - 1);
		return -EAGAIN;
	}
	setpgid(w.pid, w.pid);
	w.recipe = recipe;
	return 0;
}

static void run(uint32_t recipe, char *bytes, size_t len)
{
	struct far_recipe r;
	int err = w.pid ? -EBUSY : far_unpack(bytes, len, &r);

	if (!err) {
		err = begin(recipe, &r);
		free(r.args);
	}
	if (!err)
		return;
	bytes = strerror(-err);
	say(FAR_ERR, recipe, bytes, (uint32_t)strlen(bytes));
	for (char which = 0; which < 2; which++)
		say(FAR_CLOSED, recipe, &which, 1);
	say(FAR_END, recipe, &(int){1 << 8}, sizeof(int));
}

static void look_for_end(void)
{
	int status;
	pid_t pid;

	child = 0;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != w.pid)
			continue;
		for (size_t i = 0; i < w.ntails; i++)
			for (int k = 0; k < 2 && w.tail[i].recipe == w.recipe; k++)
				tail_read(&w.tail[i], k);
		say(FAR_END, w.recipe, &status, sizeof(status));
		w.pid = 0;
	}
}

/* ---- what is asked */

static void take_frame(void)
{
	struct far_frame f;
	char *bytes = NULL;

	if (io_read_all(0, &f, sizeof(f)) || f.len > FAR_MAX || (f.len && (!(bytes = malloc(f.len)) || io_read_all(0, bytes, f.len)))) {
		w.over = true;
	} else if (f.kind == FAR_RUN) {
		run(f.recipe, bytes, f.len);
	} else if (f.kind == FAR_KILL && f.len == sizeof(int) && w.pid && f.recipe == w.recipe) {
		int sig;

		memcpy(&sig, bytes, sizeof(sig));
		kill(-w.pid, sig);
	}
	free(bytes);
}

static void turn(const sigset_t *waiting)
{
	struct pollfd p[1 + 2 * TAILS] = {{.fd = w.over ? -1 : 0, .events = POLLIN}};
	size_t n = 1;

	for (size_t i = 0; i < w.ntails; i++)
		for (int k = 0; k < 2; k++)
			p[n++] = (struct pollfd){.fd = w.tail[i].from[k], .events = POLLIN};
	flush();
	if (w.deaf && w.ntails) { /* as if whoever reads a pipe had gone */
		while (w.ntails)
			tail_drop(0);
		if (w.pid)
			kill(-w.pid, SIGTERM);
		return;
	}
	if (ppoll(p, n, NULL, waiting) < 0)
		n = 0;
	for (size_t i = 0; n && i < w.ntails; i++)
		for (int k = 0; k < 2; k++)
			if (p[1 + 2 * i + (size_t)k].revents)
				tail_read(&w.tail[i], k);
	for (size_t i = w.ntails; i-- > 0;)
		if (w.tail[i].from[0] < 0 && w.tail[i].from[1] < 0)
			tail_drop(i);
	for (size_t i = 0; killed && i < ARRAY_SIZE(ours); i++)
		if (w.pid && killed & 1 << ours[i])
			kill(-w.pid, ours[i]);
	w.over |= killed & (1 << SIGTERM | 1 << SIGHUP);
	killed = 0;
	if (child)
		look_for_end();
	if (n && p[0].revents)
		take_frame();
}

/*
 * A compiler writes what its assembler reads to a temporary file, by pages: in the home's /tmp each of them is a call to the home. In the tree that all share they are not even sent
 * before they are removed, if nobody else has to do with the directory. It is there for that where the site has a /sprite/tmp that is to all what /tmp is.
 */
static void tmp_make(void)
{
	struct stat st;

	if (stat(FAR_TMP, &st) || !S_ISDIR(st.st_mode) || (st.st_mode & 01003) != 01003)
		return;
	snprintf(w.tmp, sizeof(w.tmp), "%s/mig-make.XXXXXX", FAR_TMP);
	if (!mkdtemp(w.tmp))
		w.tmp[0] = 0;
}

int far_work(void)
{
	struct sigaction a = {.sa_handler = on_signal};
	sigset_t blocked, waiting;

	sigemptyset(&blocked);
	sigprocmask(SIG_SETMASK, NULL, &waiting);
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
		sigaddset(&blocked, ours[i]);
		sigdelset(&waiting, ours[i]);
		sigaction(ours[i], &a, NULL);
	}
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	signal(SIGPIPE, SIG_IGN);
	tmp_make();
	say(FAR_READY, 0, NULL, 0);
	while (!w.over || w.pid)
		turn(&waiting);
	flush();
	if (w.tmp[0])
		rmdir(w.tmp); /* not if somebody has left something there */
	return 0;
}

int far_go(const char *host)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	struct error e = {0};

	if (n <= 0 || ask(json_pack("{s:s, s:s}", "verb", "run", "host", host), NULL, NULL, NULL, &e))
		return 125;
	exe[n] = 0;
	execl(exe, "sprite-sh", "--work", (char *)NULL);
	return 125;
}
