// SPDX-License-Identifier: Apache-2.0
/*
 * The engine alone: moves a running process into a nest on this machine and back into its hollow, N times, and prints what each step took.
 *
 *   engine_trip [-n TRIPS] [-w MS between] [-k KEEPER] [-p] [-q] PID      -p: pre-copy
 *   engine_trip -S FILE PID ; engine_trip -R FILE                         the daemon dies while PID is away, another one brings it home
 *   engine_trip [...] -- CMD ARGS     runs CMD as a child and moves that; its exit status is ours
 *
 * Both "hosts" are this one, so paths and inodes agree; pipes and ttys are handed over as they are (no relay). Needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/engine.h"

struct pump {
	int from, to;
	uint64_t bytes;
};

/* What migd does by rpc: all bytes from the source's socket to the destination's, a few MiB at most under way. */
static void *pump_main(void *arg)
{
	struct pump *p = arg;
	size_t cap = 1 << 20;
	char *buf = malloc(cap);
	ssize_t n;

	while (buf && (n = read(p->from, buf, cap)) > 0) {
		ssize_t done = 0, r = 1;

		while (done < n && r > 0) {
			r = send(p->to, buf + done, n - done, MSG_NOSIGNAL);
			done += r > 0 ? r : 0;
		}
		p->bytes += done;
		if (r <= 0)
			shutdown(p->from, SHUT_RD); /* the destination gave up: the source sees EPIPE */
	}
	free(buf);
	shutdown(p->to, SHUT_WR);
	return NULL;
}

struct relay { /* descriptions that are handed over as they are */
	uint64_t id;
	int fd;
};
static struct relay relays[256];
static int nrelays;

static int relay_found(void *ctx, const struct eng_relay *r)
{
	(void)ctx;
	for (int i = 0; i < nrelays; i++)
		if (relays[i].id == r->id) {
			close(r->fd);
			return 0;
		}
	if (nrelays == 256)
		return -ENFILE;
	relays[nrelays++] = (struct relay){r->id, r->fd};
	return 0;
}

static int relay_open(void *ctx, struct eng_relay *r)
{
	(void)ctx;
	for (int i = 0; i < nrelays; i++)
		if (relays[i].id == r->id) {
			r->fd = fcntl(relays[i].fd, F_DUPFD_CLOEXEC, 0);
			return r->fd < 0 ? -errno : 0;
		}
	return -ENOENT;
}

static sem_t ready; /* what was sent ahead is in place, or never will be */

static void ahead_done(void *ctx)
{
	(void)ctx;
	sem_post(&ready);
}

static const struct eng_hooks hooks = {.relay_found = relay_found, .relay_open = relay_open, .ahead_done = ahead_done};

static pid_t child;
static struct eng_family *the_nest;

struct other;
static int job_discard(struct other *o);
static int on_other(int (*job)(struct other *));

static void must(int r, const struct error *e, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "engine_trip: %s: %s (%s)\n", what, e->text, strerror(-r));
	if (child)
		kill(child, SIGKILL);
	if (the_nest)
		on_other(job_discard);
	exit(125);
}

static double ms(uint64_t from, uint64_t to)
{
	return (double)(to - from) / 1e6;
}

struct link {
	int src[2], dst[2];
	struct pump pump;
	pthread_t thread;
};

static void link_open(struct link *l)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, l->src) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, l->dst) < 0)
		exit(125);
	l->pump = (struct pump){l->src[1], l->dst[0], 0};
	pthread_create(&l->thread, NULL, pump_main, &l->pump);
}

static void link_end(struct link *l)
{
	shutdown(l->src[0], SHUT_WR);
}

static void link_close(struct link *l)
{
	pthread_join(l->thread, NULL);
	for (int i = 0; i < 2; i++) {
		close(l->src[i]);
		close(l->dst[i]);
	}
}

static void print_reasons(struct eng_reasons *why)
{
	for (size_t i = 0; i < why->n; i++)
		fprintf(stderr, "engine_trip: %s\n", why->line[i]);
}

static char root[] = "/tmp/engine-trip-XXXXXX";

static void make_root(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || !mkdtemp(root) ||
		mount("/", root, NULL, MS_BIND | MS_REC, NULL) < 0) {
		perror("engine_trip: root view");
		exit(125);
	}
}

static void drop_root(void)
{
	umount2(root, MNT_DETACH);
	rmdir(root);
}

static bool ahead; /* -p: pre-copy */

/*
 * The other host: a thread of its own, as in migd (ptrace relations belong to threads), that does one job at a time.
 */
struct other {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int (*job)(struct other *);
	bool busy;
	int result;
	struct error e;
	struct eng_family *nest;
	const char *keeper;
	int fd;
	pid_t root_pid;
	uint64_t nested, filled;
};
static struct other other = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void *other_main(void *arg)
{
	struct other *o = arg;

	pthread_mutex_lock(&o->lock);
	for (;;) {
		int (*job)(struct other *);

		while (!o->job)
			pthread_cond_wait(&o->cond, &o->lock);
		job = o->job;
		pthread_mutex_unlock(&o->lock);
		o->e = (struct error){0};
		o->result = job(o);
		pthread_mutex_lock(&o->lock);
		o->job = NULL;
		o->busy = false;
		pthread_cond_broadcast(&o->cond);
	}
	return NULL;
}

static void other_start(int (*job)(struct other *))
{
	if (!other.thread)
		pthread_create(&other.thread, NULL, other_main, &other);
	pthread_mutex_lock(&other.lock);
	other.busy = true;
	other.job = job;
	pthread_cond_broadcast(&other.cond);
	pthread_mutex_unlock(&other.lock);
}

static int other_wait(void)
{
	int r;

	pthread_mutex_lock(&other.lock);
	while (other.busy)
		pthread_cond_wait(&other.cond, &other.lock);
	r = other.result;
	pthread_mutex_unlock(&other.lock);
	return r;
}

static int job_take(struct other *o)
{
	char name[256] = "";
	struct eng_nest_opts opts = {.keeper = o->keeper, .root = root, .host_network = true, .hostname = name};
	struct nest *nest = NULL;
	int r;

	gethostname(name, sizeof(name) - 1);
	r = eng_nest_make(&opts, &nest, &o->e);
	if (r == 0)
		r = eng_nest(o->fd, nest, &hooks, &o->nest, &o->e);

	if (r == 0)
		eng_nest_held(o->nest);
	o->nested = clock_mono_ns();
	if (r < 0) {
		shutdown(o->fd, SHUT_RD);
		sem_post(&ready);
		return r;
	}
	r = eng_fill(o->nest, o->fd, &hooks, &o->e);
	o->filled = clock_mono_ns();
	if (r < 0) {
		shutdown(o->fd, SHUT_RD);
		sem_post(&ready);
		eng_abandon(o->nest);
		o->nest = NULL;
	}
	return r;
}

static int job_resume(struct other *o)
{
	return eng_resume(o->nest, &o->e);
}

static int job_discard(struct other *o)
{
	int r = eng_discard(o->nest);

	o->nest = NULL;
	return r;
}

static int job_send(struct other *o)
{
	struct eng_reasons why = {0};
	int r = ahead ? eng_precopy(o->root_pid, o->fd, 5000, &hooks, &o->nest, &o->e) : 0;

	if (r == 1)
		sem_wait(&ready);
	r = r < 0 ? r : 0;

	if (r == 0)
		r = eng_freeze(o->root_pid, &hooks, &o->nest, &why, &o->e);
	print_reasons(&why);
	eng_reasons_clear(&why);
	o->nested = clock_mono_ns();
	if (r == 0)
		r = eng_dump(o->nest, o->fd, &o->e);
	shutdown(o->fd, SHUT_WR);
	o->filled = clock_mono_ns();
	return r;
}

static int on_other(int (*job)(struct other *))
{
	other_start(job);
	return other_wait();
}

/* Out: returns the nest's family; NULL: it has ended. The hollow is left in *home. */
static struct eng_family *go_out(struct eng_family **home, pid_t pid, const char *keeper, bool quiet)
{
	struct eng_reasons why = {0};
	struct error e = {0};
	struct link l;
	uint64_t t0, t1, t2, t5;
	int r = 0;

	link_open(&l);
	other.keeper = keeper;
	other.fd = l.dst[1];
	if (ahead) {
		other_start(job_take);
		r = eng_precopy(pid, l.src[0], 5000, &hooks, home, &e);
		if (r == 1)
			sem_wait(&ready);
		r = r < 0 ? r : 0;
	}
	t0 = clock_mono_ns();
	if (r == 0)
		r = eng_freeze(pid, &hooks, home, &why, &e);
	print_reasons(&why);
	eng_reasons_clear(&why);
	if (r == -ESRCH) { /* ended meanwhile */
		link_end(&l);
		if (ahead)
			other_wait();
		link_close(&l);
		return NULL;
	}
	must(r, &e, "freeze");
	t1 = clock_mono_ns();
	if (!ahead)
		other_start(job_take);
	r = eng_dump(*home, l.src[0], &e);
	link_end(&l);
	t2 = clock_mono_ns();
	if (other_wait() < 0 || r < 0) {
		eng_thaw(*home);
		must(r == -EPIPE ? 0 : r, &e, "dump");
		must(other.result, &other.e, "nest or fill");
		must(r, &e, "dump");
	}
	must(on_other(job_resume), &other.e, "resume");
	t5 = clock_mono_ns();
	must(eng_hollow(*home, &e), &e, "hollow");
	if (!quiet)
		printf("out: frozen %.2f ms (explain %.2f freeze %.2f dump %.2f fill +%.2f resume %.2f) hollow %.2f, %lu kB\n",
			ms(eng_frozen_ns(*home), t5), ms(t0, eng_frozen_ns(*home)), ms(eng_frozen_ns(*home), t1), ms(t1, t2), ms(t2, other.filled),
			ms(other.filled, t5), ms(t5, clock_mono_ns()), (long)l.pump.bytes / 1024);
	link_close(&l);
	return other.nest;
}

static bool come_back(struct eng_family *home, struct eng_family *nest, bool quiet)
{
	struct error e = {0};
	struct link l;
	size_t n;
	uint64_t frozen, t3, t4;
	int r;

	link_open(&l);
	other.root_pid = eng_pids(nest, &n)[0];
	other.fd = l.src[0];
	other_start(job_send);
	r = eng_fill(home, l.dst[1], &hooks, &e);
	t3 = clock_mono_ns();
	if (other_wait() < 0) {
		bool gone = other.result == -ESRCH;

		link_close(&l);
		if (!gone)
			must(other.result, &other.e, "freeze or dump away");
		return false;
	}
	must(r, &e, "fill at home");
	must(eng_resume(home, &e), &e, "resume at home");
	t4 = clock_mono_ns();
	frozen = eng_frozen_ns(nest);
	if (!quiet)
		printf("back: frozen %.2f ms (freeze %.2f dump %.2f fill +%.2f resume %.2f)", ms(frozen, t4), ms(frozen, other.nested),
			ms(other.nested, other.filled), ms(other.filled, t3), ms(t3, t4));
	the_nest = NULL;
	must(on_other(job_discard), &e, "discard");
	if (!quiet)
		printf(" discard %.2f, %lu kB\n", ms(t4, clock_mono_ns()), (long)l.pump.bytes / 1024);
	link_close(&l);
	return true;
}

/* Ended away: its hollow ends in the same way. True if so. */
static bool ended(struct eng_family *home, struct eng_family *nest)
{
	struct eng_event ev;
	bool end = false;

	while (eng_next_event(nest, &ev) == 1) {
		if (ev.kind == ENG_EXITED) {
			size_t n;

			eng_exit_hollow(home, ev.pid, ev.status);
			eng_pids(nest, &n);
			end |= n == 0;
		}
		if (ev.kind == ENG_STOPPED)
			eng_stop_hollow(home, ev.pid, ev.info.si_signo);
		if (ev.kind == ENG_CONTINUED)
			eng_stop_hollow(home, ev.pid, SIGCONT);
	}
	while (eng_next_event(home, &ev) == 1)
		if (ev.kind == ENG_SIGNAL)
			eng_signal(nest, ev.pid, ev.tid, &ev.info, 0);
		else if (ev.kind == ENG_STOPPED)
			eng_signal(nest, ev.pid, 0, &(siginfo_t){.si_signo = SIGSTOP}, 0);
		else if (ev.kind == ENG_EXITED) {
			eng_signal(nest, ev.pid, 0, &(siginfo_t){.si_signo = SIGKILL}, 0);
			end = true;
		}
	return end;
}

static bool linger(struct eng_family *home, struct eng_family *nest, unsigned wait_ms)
{
	uint64_t end = clock_mono_ns() + wait_ms * 1000000ULL;

	while (clock_mono_ns() < end) {
		struct pollfd pf[2] = {{eng_event_fd(home), POLLIN, 0}, {eng_event_fd(nest), POLLIN, 0}};

		poll(pf, 2, (end - clock_mono_ns()) / 1000000 + 1);
		if (ended(home, nest))
			return true;
	}
	return false;
}

/* -S FILE: the daemon dies while the family is away. -R FILE: another one finds both halves again and brings it home. */
static int save_and_die(struct eng_family *home, struct eng_family *nest, const char *file)
{
	char *h = NULL, *n = NULL;
	FILE *o = fopen(file, "w");

	if (!o || eng_save(home, &h) < 0 || eng_save(nest, &n) < 0)
		return 125;
	fprintf(o, "%s----\n%s", h, n);
	fclose(o);
	umount2(root, MNT_DETACH);
	rmdir(root);
	_exit(0);
}

static char *nest_state;

static int job_reattach(struct other *o)
{
	return eng_reattach(nest_state, &hooks, &o->nest, &o->e);
}

static int find_again(const char *file, unsigned wait_ms, bool quiet)
{
	static char text[65536];
	struct eng_family *home = NULL;
	struct error e = {0};
	FILE *in = fopen(file, "r");
	size_t n = in ? fread(text, 1, sizeof(text) - 1, in) : 0;
	char *cut = n ? strstr(text, "----\n") : NULL;

	if (!cut)
		return 125;
	fclose(in);
	*cut = '\0';
	nest_state = cut + 5;
	must(eng_reattach(text, &hooks, &home, &e), &e, "reattach of the hollow");
	must(on_other(job_reattach), &other.e, "reattach of the nest");
	printf("found again: %s, %s\n", eng_state_name(home), eng_state_name(other.nest));
	if (linger(home, other.nest, wait_ms))
		return 1;
	return come_back(home, other.nest, quiet) ? 0 : 1;
}

static pid_t start(char **argv)
{
	pid_t pid = fork();

	if (pid == 0) {
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	usleep(300000);
	return pid;
}

int main(int argc, char **argv)
{
	char keeper[4096] = "";
	const char *save = NULL, *again = NULL;
	unsigned trips = 1, wait_ms = 200;
	bool quiet = false;
	int opt, st = 0;
	pid_t pid;

	log_init("engine_trip");
	sem_init(&ready, 0, 0);
	while ((opt = getopt(argc, argv, "+n:w:k:qpS:R:")) != -1)
		if (opt == 'n')
			trips = atoi(optarg);
		else if (opt == 'w')
			wait_ms = atoi(optarg);
		else if (opt == 'k')
			snprintf(keeper, sizeof(keeper), "%s", optarg);
		else if (opt == 'q')
			quiet = true;
		else if (opt == 'p')
			ahead = true;
		else if (opt == 'S')
			save = optarg;
		else if (opt == 'R')
			again = optarg;
		else
			return 2;
	if (again)
		return find_again(again, wait_ms, quiet);
	if (optind >= argc)
		return 2;
	if (!keeper[0]) { /* ../../bin beside tests/bench */
		ssize_t n = readlink("/proc/self/exe", keeper, sizeof(keeper) - 40);

		keeper[n > 0 ? n : 0] = '\0';
		*strrchr(keeper, '/') = '\0';
		strcat(keeper, "/../../bin/sprite-keeper");
	}
	setlinebuf(stdout);
	signal(SIGPIPE, SIG_IGN);
	pid = atoi(argv[optind]);
	if (pid <= 0)
		pid = child = start(argv + optind);
	make_root();
	for (unsigned i = 0; i < trips; i++) {
		struct eng_family *home = NULL, *nest;

		if (child && waitpid(child, &st, WNOHANG) == child) {
			child = 0;
			break;
		}
		nest = the_nest = go_out(&home, pid, keeper, quiet);
		if (!nest)
			break;
		if (linger(home, nest, wait_ms)) {
			on_other(job_discard);
			eng_discard(home);
			break;
		}
		if (save)
			return save_and_die(home, nest, save);
		if (!come_back(home, nest, quiet)) {
			linger(home, nest, 2000);
			on_other(job_discard);
			eng_discard(home);
			break;
		}
		usleep(wait_ms * 1000 / 4);
	}
	drop_root();
	if (child)
		waitpid(child, &st, 0);
	return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
}
