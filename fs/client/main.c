// SPDX-License-Identifier: Apache-2.0
/*
 * spritefs: mounts the single image.
 *
 *	spritefs [--config FILE] [--mount DIR] [--prefix PREFIX] [--background] [--no-holder]
 *
 * It becomes sprite-holder, which runs another spritefs that does the work and starts it again when it is killed: holder.h.
 * Without --prefix (or with "/") the whole tree of the prefix table; with one, only that domain, without set-user-id: the root view of a guest.
 * Exit: 0 in order; 1 could not start (one line says why); 78 bad configuration.
 */
#include "fs/client/client.h"
#include "fs/client/special.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/daemon.h"
#include "conf/log.h"
#include "conf/notify.h"
#include "fs/client/holder.h"

static const char *opt_mount, *opt_prefix = "/";
static bool opt_background, opt_alone;
static const struct daemon_option options[] = {
	{"mount", "DIR", "mount there (default: \"mount\" of the configuration)", &opt_mount, NULL},
	{"prefix", "PREFIX", "only this domain of the tree (default: /, the whole)", &opt_prefix, NULL},
	{"background", NULL, "return when mounted, go on in the background", NULL, &opt_background},
	{"no-holder", NULL, "be one process: a kill -9 of it breaks the mount", NULL, &opt_alone},
	{0},
};

/* Where the control socket and the lock lie: "$run_dir/spritefs.sock", "$run_dir/spritefs-hosts-ws1.sock". */
static void run_path(const struct fs *fs, const char *suffix, char *out, size_t n)
{
	char *p;
	int at = snprintf(out, n, "%s/spritefs", fs->conf->run_dir);

	if (!fs->whole) {
		snprintf(out + at, n - (size_t)at, "%s", fs->prefix);
		for (p = out + at; *p; p++)
			if (*p == '/')
				*p = '-';
	}
	strncat(out, suffix, n - strlen(out) - 1);
}

static bool locked;

/* Whoever had it removes it when it ends. */
static bool still_there(int fd, const char *path)
{
	struct stat held, now;

	return fstat(fd, &held) == 0 && stat(path, &now) == 0 && held.st_ino == now.st_ino && held.st_dev == now.st_dev;
}

static int lock_take(const struct fs *fs, struct error *e)
{
	char path[PATH_MAX], text[32] = "";
	int fd = hold_take(HOLD_LOCK);

	locked = fd >= 0;
	if (locked) /* the holder has it */
		return 0;

	if (mkdir(fs->conf->run_dir, 0755) < 0 && errno != EEXIST)
		return error_set(e, errno, "%s: %s", fs->conf->run_dir, strerror(errno));
	run_path(fs, ".lock", path, sizeof(path));
	while (!locked) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			return error_set(e, errno, "%s: %s", path, strerror(errno));
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			break;
		locked = still_there(fd, path);
		if (!locked)
			close(fd);
	}
	if (!locked) {
		int err = errno;
		ssize_t k = read(fd, text, sizeof(text) - 1);

		close(fd);
		if (k > 0)
			text[strcspn(text, "\n")] = 0;
		return err == EWOULDBLOCK ? error_set(e, EBUSY, "%s: already served by another spritefs (process %s)", fs->mount, *text ? text : "?")
					  : error_set(e, err, "%s: %s", path, strerror(err));
	}
	if (ftruncate(fd, 0) == 0)
		dprintf(fd, "%d\n", (int)(hold_active() ? getppid() : getpid()));
	hold_keep(HOLD_LOCK, fd);
	return 0; /* held until we end */
}

/* The last thing of ours that goes: who comes next makes all the rest anew. */
static void lock_drop(const struct fs *fs)
{
	char path[PATH_MAX];

	run_path(fs, ".lock", path, sizeof(path));
	if (locked)
		unlink(path);
}

static int mount_point(struct fs *fs, struct error *e)
{
	static char path[PATH_MAX];
	const char *want = opt_mount ? opt_mount : fs->conf->mount;
	int r;

	/* a dead mount has to go before its path can be looked at */
	r = mount_busy(want);
	if (!r && !realpath(want, path))
		return error_set(e, errno, "%s: %s", want, strerror(errno));
	if (!r)
		r = mount_busy(path);
	if (r > 0)
		return error_set(e, EBUSY, "%s: already served by another spritefs", want);
	if (r < 0)
		return error_set(e, -r, "%s: %s", want, strerror(-r));
	fs->mount = path;
	if (strlen(path) < sizeof(keep_head()->mount))
		strcpy(keep_head()->mount, path);
	return 0;
}

/* Waits until the root is attached, or the server has refused it, we are told to end, or `ms` are over. Returns 0, -EACCES, -EINTR, -ETIMEDOUT. */
static int root_wait(struct fs *fs, int ms)
{
	struct domain *d = fs->root->dom;
	uint64_t end = clock_mono_ns() + (uint64_t)ms * 1000000;
	bool attached = false, known;

	while (clock_mono_ns() < end) {
		pthread_mutex_lock(&fs->table_lock);
		known = fs->table_known;
		pthread_mutex_unlock(&fs->table_lock);
		pthread_mutex_lock(&fs->wait_lock);
		attached = d->attached;
		pthread_mutex_unlock(&fs->wait_lock);
		if (attached)
			return 0;
		if (known && d->server) {
			if (atomic_load(&fs->attach_failures))
				return -EACCES;
			prefix_attach(fs, d);
		}
		if (daemon_told_to_end())
			return -EINTR;
		usleep(10000);
	}
	return -ETIMEDOUT;
}

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_DONT_MASK |
			FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL | FUSE_CAP_ASYNC_DIO | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
			FUSE_CAP_CACHE_SYMLINKS; /* what a symbolic link says never changes */

	/* pages of a home domain go when its attributes show a change; under leases they go by recall, and an mtime of our own making must not drop them */
	want |= fs->whole ? FUSE_CAP_EXPLICIT_INVAL_DATA : FUSE_CAP_AUTO_INVAL_DATA;
	conn->want = want & conn->capable;
	conn->max_write = FS_IO_MAX;
	conn->max_readahead = FS_IO_MAX;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
}

static int session_new(struct fs *fs, struct error *e)
{
	static struct fuse_lowlevel_ops ops;
	char *argv[] = {"spritefs", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);

	ops.init = on_init;
	ops_name(&ops);
	ops_attr(&ops);
	ops_file(&ops);
	ops_read(&ops);
	ops_dir(&ops);
	ops_lock(&ops);
	ops_hand(&ops);
	if (fs->whole)
		special_wrap(&ops);
	fs->se = fuse_session_new(&args, &ops, sizeof(ops), fs);
	fuse_opt_free_args(&args); /* it has made them its own */
	return fs->se ? 0 : error_set(e, EIO, "libfuse does not begin");
}

/* What outlives us: new, or what an earlier spritefs left together with its mount, whose device is then *dev. */
static int state_open(struct fs *fs, int *dev, struct error *e)
{
	int state = hold_take(HOLD_STATE), r;

	*dev = hold_take(HOLD_DEV);
	if (*dev < 0 && state >= 0) { /* killed before it had mounted */
		close(state);
		state = -1;
	}
	r = keep_open(state);
	if (r < 0)
		return error_set(e, -r, r == -EPROTO ? "the mount was made by another version of spritefs: unmount it first" : "no memory for what is kept: %s", strerror(-r));
	fs->resumed = *dev >= 0;
	if (fs->resumed) {
		clock_epoch_adopt(keep_head()->epoch);
		keep_head()->restarts++;
		fs->mount = keep_head()->mount;
	} else {
		keep_head()->epoch = clock_epoch();
		hold_keep(HOLD_STATE, keep_fd());
	}
	rpc_seq_keep(&keep_head()->next_seq);
	return 0;
}

/* The mount is there and its processes wait: nothing that goes over it may be looked at before its requests are read. */
static int resume(struct fs *fs, int dev, struct error *e)
{
	int r = resume_tables(fs, e);

	if (r == 0)
		r = session_new(fs, e);
	if (r == 0)
		r = session_resume(fs, dev, e);
	if (r == 0)
		r = recall_start(fs);
	if (r == 0)
		r = call_ticker_start(fs);
	if (r == 0)
		r = events_start(fs->root_server);
	if (r < 0)
		return error_set(e, -r, "%s: cannot go on: %s", fs->mount, strerror(-r));
	resume_go(fs);
	return 0;
}

static int start(struct fs *fs, struct error *e)
{
	char path[PATH_MAX];
	int dev, r = state_open(fs, &dev, e);

	if (r == 0 && !fs->resumed)
		r = mount_point(fs, e);
	if (r == 0)
		r = lock_take(fs, e);
	if (r == 0)
		r = rpc_tls_load(fs->conf, &fs->tls, e);
	if (r < 0)
		return r;
	blocks_init(&fs->blocks, fs->conf->cache_bytes / 4 * 3); /* the rest is for what is unsent */
	inode_table_init(fs);
	call_init(fs);
	lease_init(fs);
	r = prefix_start(fs, e);
	if (r < 0)
		return error_set(e, -r, "cannot start: %s", strerror(-r));
	run_path(fs, ".sock", path, sizeof(path));
	if (fs->resumed) {
		r = resume(fs, dev, e);
		unlink(path); /* a thread of the dead one that hangs may still listen there */
		return r < 0 ? r : ctl_start(fs, path, e);
	}
	r = call_ticker_start(fs);
	if (r == 0)
		r = events_start(fs->root_server);
	if (r < 0)
		return error_set(e, -r, "cannot start: %s", strerror(-r));
	if (!fs->whole && (r = root_wait(fs, 15000)) < 0)
		return error_set(e, -r, "%s: %s", fs->prefix,
			r == -EACCES					 ? "its server does not let this host in"
			: r == -EINTR					 ? "told to end before its server answered"
			: fs->table_known && !fs->root->dom->server ? "no such domain in the prefix table"
								     : "its server, or the root server, is away");
	r = session_new(fs, e);
	if (r == 0)
		r = recall_start(fs);
	if (r == 0)
		r = mount_make(fs, !fs->whole, e);
	if (r < 0)
		return r;
	return ctl_start(fs, path, e);
}

static void *session_thread(void *arg)
{
	struct fs *fs = arg;
	int r = session_run(fs);

	if (r < 0)
		log_error("%s: cannot read requests: %s", fs->mount, strerror(-r));
	kill(getpid(), SIGTERM); /* unmounted: main ends as if asked to */
	return NULL;
}

/* The child goes on; the parent waits for its byte and exits with it. Before any thread is made: gRPC cannot fork. */
static int background(void)
{
	int p[2], null;
	char status = 1;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		log_error("cannot go into the background: %s", strerror(errno));
		exit(1);
	}
	if (pid) {
		close(p[1]);
		if (read(p[0], &status, 1) != 1)
			status = 1;
		_exit(status);
	}
	close(p[0]);
	setsid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		close(null);
	}
	return p[1];
}

static bool all_sent(struct fs *fs)
{
	struct server *s;
	bool r = true;

	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link)
		r &= dirq_empty(s); /* the ticker sends */
	pthread_mutex_unlock(&fs->table_lock);
	return r;
}

static void end(struct fs *fs)
{
	int i;

	wb_tick(fs, 0, true);
	for (i = 0; i < 300 && (atomic_load(&fs->dirty_bytes) > 0 || !all_sent(fs)); i++)
		usleep(10000);
	mount_end(fs);
	/* what was released last is still on its way */
	for (i = 0; i < 20 && atomic_load(&fs->calls) > 0; i++)
		usleep(10000);
	call_stop_all(fs);
	if (fs->ctl)
		local_server_stop(fs->ctl);
	lock_drop(fs);
}

static int check_more(const struct conf *c, struct error *e)
{
	int r = rpc_tls_check(c, e);

	return r < 0 ? r : rpc_listen_check(c->pipe_listen, c->pipe_nlisten, false, e);
}

int main(int argc, char **argv)
{
	struct daemon d = {.program = "spritefs", .summary = "mounts the single image", .options = options, .check = rpc_tls_check_pair, .check_more = check_more, .root = true};
	static struct fs fs;
	struct error e = {0};
	pthread_t session;
	int status, up = -1;
	char **given = calloc((size_t)argc + 1, sizeof(*given)); /* daemon_begin() takes them apart */

	if (given)
		memcpy(given, argv, (size_t)argc * sizeof(*given));
	if (!daemon_begin(&d, argc, argv, &status)) {
		free(given);
		return status;
	}
	fs.conf = d.conf;
	fs.prefix = opt_prefix;
	fs.whole = !strcmp(opt_prefix, "/");
	if (!fs.whole && (!opt_mount || *opt_prefix != '/' || opt_prefix[strlen(opt_prefix) - 1] == '/')) {
		log_error("--prefix: expected an absolute prefix such as /hosts/ws1, together with --mount DIR");
		free(given);
		return 64;
	}
	if (opt_background && !getenv(HOLD_ENV))
		up = background();
	if (!opt_alone && given && !getenv(HOLD_ENV) && (status = hold_exec(given, up)) < 0)
		log_note("no holder (%s): a kill -9 of spritefs will break its mount", strerror(-status));
	status = hold_begin();
	if (status && status != -EAGAIN) {
		log_error("the holder does not speak: run spritefs without $" HOLD_ENV);
		return 1;
	}
	free(given);
	fs.started_ns = (uint64_t)clock_real_ns();
	if (!status)
		status = rpc_init();
	if (status) {
		log_error("cannot start: %s", strerror(-status));
		_exit(1);
	}
	if (start(&fs, &e) < 0 || pthread_create(&session, NULL, session_thread, &fs) != 0) {
		log_error("%s", *e.text ? e.text : "cannot start a thread");
		if (fs.mounted)
			mount_end(&fs);
		if (!fs.resumed)
			lock_drop(&fs);
		if (e.code == EPROTO) /* another try would end as this one did */
			hold_bye(1);
		_exit(1);
	}
	if (fs.whole && !fs.resumed && root_wait(&fs, 2000) < 0)
		log_note("%s: root server %s %s; calls wait for it", fs.mount, fs.conf->root_server.host,
			rpc_resolves(fs.conf->root_server.host) ? "is not there yet" : "does not resolve (DNS or /etc/hosts)");
	if (opt_background)
		log_leave_pipe();
	hold_active() ? hold_ready() : (void)notify_ready();
	if (up >= 0 && write(up, "", 1) == 1)
		close(up);
	daemon_wait(&d, NULL, NULL);
	notify_stopping();
	end(&fs);
	hold_bye(0);
	/* Not all threads can be waited for: one may hang with a request of a mount that is only detached. The kernel ends it with us. */
	daemon_leave(0);
}
