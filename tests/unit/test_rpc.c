/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: what arrives is what was sent, errors have their numbers, what mutates is executed once, cancels and deadlines reach the other side. */
#include "tests/unit/rpc_kit.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include "conf/clock.h"

static void test_unary(void)
{
	uint64_t v = 0;

	CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 41, 0, 5000, &v), 0);
	CU_ASSERT_EQUAL(v, 42);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "ws1");
	CU_ASSERT_EQUAL(strncmp(kit_last_addr, "ipv4:127.0.0.1:", 15), 0);
	CU_ASSERT_EQUAL(kit_last_epoch, clock_epoch());
	CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 0, ENOTEMPTY, 5000, NULL), ENOTEMPTY); /* errno without a message */
	CU_ASSERT_EQUAL(kit_num(ch, &kit_none, 0, 0, 5000, NULL), -EOPNOTSUPP);
}

static bool inverted(const struct rpc_msg *m, const unsigned char *sent, size_t n)
{
	unsigned char *got = malloc(n + 1);
	size_t i;

	if (m->bulk_len != n || rpc_msg_copy(m, got, n) != n)
		n = (size_t)-1;
	for (i = 0; n != (size_t)-1 && i < n && got[i] == (sent[i] ^ 0xff); i++)
		;
	free(got);
	return i == n;
}

static void test_bulk(void)
{
	static const size_t sizes[] = { 0, 1, 15, 16, 4095, 65536, 131073, 1u << 20 };
	unsigned char *p = malloc(1 << 20);
	struct iovec v[RPC_IOV_MAX];
	struct rpc_msg m;
	size_t i, j, n;
	int nv;

	for (i = 0; i < 1 << 20; i++)
		p[i] = i * 2654435761u >> 13;
	for (i = 0; i < ARRAY_SIZE(sizes) * 2; i++) {
		Num in = num(i & 1 ? 7 : 0, 0);

		n = sizes[i / 2];
		for (nv = 0, j = 0; j < n && nv < 100; nv++) { /* uneven pieces, and the rest */
			size_t part = nv == 99 ? n - j : (size_t)nv * 37;

			part = part > n - j ? n - j : part;
			v[nv] = (struct iovec){ p + j, part };
			j += part;
		}
		CU_ASSERT_EQUAL(rpc_call(ch, &kit_bulk, &in.base, v, nv, 5000, &m), 0);
		CU_ASSERT_TRUE(inverted(&m, p, n));
		CU_ASSERT_TRUE(m.niov <= RPC_IOV_MAX);
		rpc_msg_clear(&m);
	}
	free(p);
}

static void test_limits(void)
{
	static char big[3 << 20];
	struct iovec v = { big, (1 << 20) + (64 << 10) };
	struct iovec many[RPC_IOV_MAX + 1] = { { 0 } };
	Num in = num(0, 0);
	struct rpc_msg m;

	CU_ASSERT_EQUAL(rpc_call(ch, &kit_bulk, &in.base, &v, 1, 5000, &m), -EMSGSIZE); /* header and message do not fit beside it */
	v.iov_len = RPC_CONTROL_MAX;
	CU_ASSERT_EQUAL(rpc_call(ch, &kit_echo, &in.base, &v, 1, 5000, &m), -EMSGSIZE); /* not a bulk method */
	CU_ASSERT_EQUAL(rpc_call(ch, &kit_bulk, &in.base, many, RPC_IOV_MAX + 1, 5000, &m), -EINVAL);
	CU_ASSERT_EQUAL(kit_num(ch, &kit_bulk, 0, 2, 5000, NULL), -EMSGSIZE); /* the server answers 2 MiB */
	CU_ASSERT_EQUAL(kit_num(ch, &kit_bulk, 0, 1, 5000, NULL), 0);
}

/* ---- async ---- */
static _Atomic uint32_t done_ok, done_bad, done_cancelled, done_late;
static void count_done(void *arg, int status, struct rpc_msg *out)
{
	uint64_t want = (uintptr_t)arg;

	if (status == -ECANCELED)
		done_cancelled++;
	else if (status == -ETIMEDOUT)
		done_late++;
	else if (status || out->err || ((Num *)out->msg)->seq != want)
		done_bad++;
	else
		done_ok++;
	rpc_msg_clear(out);
}

static void test_async(void)
{
	unsigned i;

	done_ok = done_bad = 0;
	for (i = 0; i < 5000; i++) {
		Num in = num(i, 0);

		rpc_call_async(ch, &kit_echo, &in.base, NULL, 0, 20000, count_done, (void *)(uintptr_t)(i + 1));
	}
	CU_ASSERT_TRUE(kit_wait(&done_ok, 5000, 20000));
	CU_ASSERT_EQUAL(done_bad, 0);
}

static void test_cancel(void)
{
	Num in = num(0, 0);
	uint64_t ticket;

	kit_cancelled = done_cancelled = 0;
	ticket = rpc_call_async(ch, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
	rpc_cancel(ch, ticket + 1000); /* nobody's */
	kit_sleep(20);
	CU_ASSERT_EQUAL(done_cancelled, 0);
	rpc_cancel(ch, ticket);
	CU_ASSERT_TRUE(kit_wait(&done_cancelled, 1, 3000));
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 3000));
	rpc_cancel(ch, ticket); /* of a finished call: harmless */
	CU_ASSERT_EQUAL(kit_hanging, 0);
}

static void test_deadline(void)
{
	uint64_t t0 = kit_ms(), took;

	kit_cancelled = 0;
	CU_ASSERT_EQUAL(kit_num(ch, &kit_hang, 0, 0, 200, NULL), -ETIMEDOUT);
	took = kit_ms() - t0;
	CU_ASSERT_TRUE(took >= 190 && took < 1500);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 3000)); /* the server learns of it */
}

/* Handlers that block for long do not keep a cancel from getting through. */
static void test_cancel_busy(void)
{
	Num in = num(1, 300);
	unsigned i;

	kit_cancelled = 0;
	CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 0, 0, 1000, NULL), 0);
	done_late = 0;
	rpc_call_async(ch, &kit_hang, &in.base, NULL, 0, 100, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
	for (i = 0; i < 3; i++) /* all workers */
		rpc_call_async(ch, &kit_add, &in.base, NULL, 0, 5000, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 200));
	kit_sleep(400);
}

/* A handler, or what is done with a reply, may keep its thread for as long as it likes: the others go on. */
static _Atomic uint32_t nested_ok;

static void call_again(void *arg, int status, struct rpc_msg *out)
{
	uint64_t n = 0;

	rpc_msg_clear(out);
	if (!status && kit_num(arg, &kit_echo, 5, 0, 10000, &n) == 0 && n == 6)
		nested_ok++;
}

static void wait_for_others(void *arg, int status, struct rpc_msg *out)
{
	rpc_msg_clear(out);
	if (!status && kit_wait(arg, 1, 10000))
		nested_ok++;
}

static void test_long(void)
{
	Num in = num(1, 0);
	unsigned i;

	done_ok = done_bad = nested_ok = 0;
	kit_free = false;
	for (i = 0; i < 2; i++) { /* of three workers */
		rpc_call_async(ch, &kit_block, &in.base, NULL, 0, -1, count_done, NULL);
		CU_ASSERT_TRUE(kit_wait(&kit_hanging, i + 1, 10000));
		CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 0, 0, 10000, NULL), 0);
	}
	for (i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 0, 0, 10000, NULL), 0);
	rpc_call_async(ch, &kit_echo, &in.base, NULL, 0, 10000, wait_for_others, &nested_ok);
	rpc_call_async(ch, &kit_echo, &in.base, NULL, 0, 10000, call_again, ch);
	CU_ASSERT_TRUE(kit_wait(&nested_ok, 2, 10000)); /* the fifth thread polls */
	kit_free = true;
	for (i = 0; i < 2000 && kit_hanging; i++)
		kit_sleep(5);
	CU_ASSERT_EQUAL(kit_hanging, 0);
	kit_free = false;
}

/* A caller that goes away. */
static void test_close(void)
{
	struct rpc_channel *c2 = kit_channel(tc, port, "fs1");
	Num in = num(0, 0);
	unsigned i;

	kit_cancelled = done_cancelled = 0;
	for (i = 0; i < 10; i++)
		rpc_call_async(c2, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 10, 3000));
	rpc_channel_close(c2);
	CU_ASSERT_EQUAL(done_cancelled, 10);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 10, 3000));
}

/* ---- executed once ---- */
static void reset_executed(void)
{
	memset((void *)kit_executed, 0, sizeof(kit_executed));
	kit_total = 0;
}

struct hammer {
	struct rpc_channel *ch;
	unsigned from, n;
	_Atomic unsigned *failed;
};

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;
	unsigned i;

	for (i = h->from; i < h->from + h->n; i++)
		if (kit_num(h->ch, &kit_add, i, i % 7 == 0 ? 3 : 0, 30000, NULL))
			(*h->failed)++;
	return NULL;
}

/* Connections are cut all the time; every call succeeds, and every one was executed once. */
static void test_once_over_cuts(void)
{
	enum { N = 4, PER = 700 };
	struct relay *r = relay_start(port);
	struct rpc_channel *c2 = kit_channel(tc, r->port, "fs1");
	_Atomic unsigned failed = 0;
	struct hammer h[N];
	pthread_t t[N];
	unsigned i, wrong = 0, cuts = 0;

	reset_executed();
	for (i = 0; i < N; i++) {
		h[i] = (struct hammer){ c2, 1 + i * PER, PER, &failed };
		pthread_create(&t[i], NULL, hammer_main, &h[i]);
	}
	while (kit_total < N * PER && cuts < 300) {
		kit_sleep(60 + cuts * 37 % 100);
		relay_cut(r);
		cuts++;
	}
	for (i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	for (i = 1; i <= N * PER; i++)
		wrong += kit_executed[i] != 1;
	CU_ASSERT_EQUAL(failed, 0);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(kit_total, N * PER);
	CU_ASSERT_TRUE(cuts >= 2);
	CU_ASSERT_TRUE(r->accepted >= 3); /* there were reconnects in the middle */
	rpc_channel_close(c2);
	relay_stop(r);
}

/* The connection goes while the handler runs: the second try waits for the first, and gets its answer. */
static void test_once_while_running(void)
{
	struct relay *r = relay_start(port);
	struct rpc_channel *c2 = kit_channel(tc, r->port, "fs1");
	Num in = num(5, 700);

	reset_executed();
	done_ok = done_bad = 0;
	rpc_call_async(c2, &kit_add, &in.base, NULL, 0, 10000, count_done, (void *)1);
	while (!kit_executed[5])
		kit_sleep(5);
	relay_cut(r);
	CU_ASSERT_TRUE(kit_wait(&done_ok, 1, 5000));
	CU_ASSERT_EQUAL(done_bad, 0);
	CU_ASSERT_EQUAL(kit_executed[5], 1);
	CU_ASSERT_EQUAL(kit_total, 1);
	CU_ASSERT_TRUE(r->accepted >= 2);
	rpc_channel_close(c2);
	relay_stop(r);
}

/* A mutating call that waits (a lock) was cancelled by the lost connection and not executed: the retry is. */
static void test_wait_survives_cut(void)
{
	struct relay *r = relay_start(port);
	struct rpc_channel *c2 = kit_channel(tc, r->port, "fs1");
	Num in = num(9, 0);

	reset_executed();
	kit_free = false;
	kit_cancelled = done_ok = done_bad = done_cancelled = 0;
	rpc_call_async(c2, &kit_lock, &in.base, NULL, 0, 20000, count_done, (void *)9);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
	relay_cut(r);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 3000));
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 5000)); /* asked for again */
	kit_free = true;
	relay_cut(r);
	CU_ASSERT_TRUE(kit_wait(&done_ok, 1, 5000));
	CU_ASSERT_EQUAL(kit_executed[9], 1);
	CU_ASSERT_TRUE(kit_again); /* the handler was told */
	CU_ASSERT_EQUAL(kit_num(c2, &kit_lock, 10, 0, 5000, NULL), 0);
	CU_ASSERT_FALSE(kit_again);
	CU_ASSERT_EQUAL(done_bad + done_cancelled, 0);
	kit_free = false;
	rpc_channel_close(c2);
	relay_stop(r);
}

/* Without `mutates` a lost connection is told to the caller. With it, only the deadline is. */
static void test_lost(void)
{
	struct rpc_channel *c2 = kit_channel(tc, 1, "fs1"); /* nobody listens there */
	uint64_t t0 = kit_ms();
	Num in = num(3, 0);
	uint64_t ticket;

	CU_ASSERT_EQUAL(kit_num(c2, &kit_echo, 0, 0, 5000, NULL), -EHOSTDOWN);
	CU_ASSERT_TRUE(kit_ms() - t0 < 1000);
	CU_ASSERT_EQUAL(kit_num(c2, &kit_add, 3, 0, 700, NULL), -ETIMEDOUT);
	done_cancelled = 0;
	ticket = rpc_call_async(c2, &kit_add, &in.base, NULL, 0, -1, count_done, NULL);
	kit_sleep(150);
	rpc_cancel(c2, ticket); /* while parked */
	CU_ASSERT_TRUE(kit_wait(&done_cancelled, 1, 1000));
	rpc_call_async(c2, &kit_add, &in.base, NULL, 0, -1, count_done, NULL);
	kit_sleep(150);
	rpc_channel_close(c2); /* as well */
	CU_ASSERT_EQUAL(done_cancelled, 2);
}

/* ---- a server process that is killed ---- */
/* Child: serves kit_add on the given port and writes "seq" of every execution into a file before it replies. */
static int log_fd;
static void logged_add(void *ctx, struct rpc_request *rq)
{
	const Num *in = (const Num *)rpc_request_msg(rq)->msg;
	uint64_t rec = in->seq;
	Num out = num(0, 0);

	(void)ctx;
	if (write(log_fd, &rec, sizeof(rec)) != sizeof(rec))
		_exit(1);
	usleep(200);
	rpc_reply(rq, 0, &out.base, NULL, 0, NULL, NULL);
}

static int child_main(char **argv)
{
	static const struct rpc_service svc = { &kit_add, logged_add, NULL };
	struct conf_addr a = { "127.0.0.1", atoi(argv[3]) };
	struct rpc_server_opts o = { .listen = &a, .nlisten = 1, .workers = 2, .services = &svc, .nservices = 1 };
	struct rpc_server *s;

	snprintf(kit_dir, sizeof(kit_dir), "%s", argv[2]);
	log_fd = open(argv[4], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	log_init("test_rpc-server");
	rpc_init();
	o.tls = kit_tls("fs1");
	if (log_fd < 0 || !o.tls || rpc_server_start(&o, &s, NULL) < 0)
		return 1;
	for (;;)
		pause();
}

static pid_t spawn_server(const char *p, const char *log)
{
	char *argv[] = { "/proc/self/exe", "--server", kit_dir, (char *)p, (char *)log, NULL };
	extern char **environ;
	pid_t pid;

	return posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) ? -1 : pid;
}

/* Executions in one life of the server that happened twice. */
static unsigned doubles(const char *log, unsigned *total, unsigned char *seen, unsigned max)
{
	unsigned char *here = calloc(1, max + 1);
	FILE *f = fopen(log, "r");
	unsigned d = 0;
	uint64_t v;

	while (f && fread(&v, sizeof(v), 1, f) == 1) {
		(*total)++;
		if (v > max || here[v]++)
			d++;
		else
			seen[v] = 1;
	}
	if (f)
		fclose(f);
	free(here);
	return d;
}

static void test_killed(void)
{
	enum { N = 3, PER = 400, LIVES = 5 };
	char text[8], log[LIVES][128];
	_Atomic unsigned failed = 0;
	unsigned char seen[N * PER + 1] = { 0 };
	unsigned i, life, missing = 0, total = 0, twice = 0;
	struct rpc_channel *c2;
	struct hammer h[N];
	pthread_t t[N];
	uint16_t p;
	pid_t pid;

	close(kit_listen(&p)); /* a port that is free */
	snprintf(text, sizeof(text), "%u", p);
	c2 = kit_channel(tc, p, "fs1");
	for (i = 0; i < N; i++) {
		h[i] = (struct hammer){ c2, 1 + i * PER, PER, &failed };
		pthread_create(&t[i], NULL, hammer_main, &h[i]);
	}
	for (life = 0; life < LIVES; life++) {
		snprintf(log[life], sizeof(log[life]), "%s/log%u", kit_dir, life);
		pid = spawn_server(text, log[life]);
		CU_ASSERT_FATAL(pid > 0);
		if (life == LIVES - 1)
			for (i = 0; i < N; i++)
				pthread_join(t[i], NULL);
		else
			kit_sleep(250);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	for (life = 0; life < LIVES; life++)
		twice += doubles(log[life], &total, seen, N * PER);
	for (i = 1; i <= N * PER; i++)
		missing += !seen[i];
	CU_ASSERT_EQUAL(failed, 0);
	CU_ASSERT_EQUAL(missing, 0);
	CU_ASSERT_EQUAL(twice, 0);
	CU_ASSERT_TRUE(total >= N * PER && total <= N * PER + N * LIVES); /* at most those under way at a kill, again in the next life */
	rpc_channel_close(c2);
}

/* ---- connections ---- */
static _Atomic uint32_t ups, downs;
static void on_change(void *arg, bool up)
{
	(void)arg;
	if (up)
		ups++;
	else
		downs++;
}

static void test_watch(void)
{
	struct relay *r = relay_start(port);
	struct rpc_channel *a = kit_channel(tc, r->port, "fs1"), *b = kit_channel(tc, r->port, "fs1");

	ups = downs = 0;
	rpc_channel_watch(a, on_change, NULL);
	CU_ASSERT_TRUE(kit_wait(&ups, 1, 3000)); /* connects although nobody calls */
	CU_ASSERT_EQUAL(kit_num(a, &kit_echo, 1, 0, 3000, NULL), 0);
	CU_ASSERT_EQUAL(r->accepted, 1);
	CU_ASSERT_EQUAL(kit_num(b, &kit_echo, 1, 0, 3000, NULL), 0);
	CU_ASSERT_EQUAL(r->accepted, 2); /* no two channels share a connection */
	relay_cut(r);
	CU_ASSERT_TRUE(kit_wait(&downs, 1, 3000));
	CU_ASSERT_TRUE(kit_wait(&ups, 2, 3000)); /* reconnects by itself */
	rpc_channel_close(a);
	rpc_channel_close(b);
	relay_stop(r);
}

/* By name, as configurations have it; and a name that does not exist is a host that is down. */
static void test_names(void)
{
	struct conf_addr a = { "localhost", port }, b = { "no-such-host.invalid", port };
	struct rpc_channel *c2 = rpc_channel_open(tc, &a, "fs1", "x"), *c3 = rpc_channel_open(tc, &b, "fs1", "x");

	CU_ASSERT_EQUAL(kit_num(c2, &kit_echo, 1, 0, 5000, NULL), 0);
	CU_ASSERT_EQUAL(kit_num(c3, &kit_echo, 1, 0, 5000, NULL), -EHOSTDOWN);
	rpc_channel_close(c2);
	rpc_channel_close(c3);
}

/* A peer that says nothing any more, without closing anything, is noticed without a deadline. Both sides. */
static void test_dead_peer(void)
{
	struct relay *r = relay_start(port);
	struct rpc_channel *c2 = kit_channel(tc, r->port, "fs1");
	int s;

	CU_ASSERT_EQUAL(kit_num(c2, &kit_echo, 1, 0, 3000, NULL), 0);
	kit_cancelled = 0;
	relay_hole(r, true);
	s = kit_num(c2, &kit_hang, 1, 0, 120000, NULL); /* its deadline would be -ETIMEDOUT */
	CU_ASSERT_EQUAL(s, -EHOSTDOWN);
	relay_hole(r, false);
	rpc_channel_close(c2);
	relay_stop(r);
}

static void test_resources(void)
{
	int fds = 0, threads = 0, i;
	struct rpc_channel *c2;
	struct rpc_server *s2;
	uint64_t t0;
	uint16_t p;

	for (i = 0; i < 6; i++) {
		if (i == 2) { /* gRPC keeps a few for good */
			fds = kit_count("/proc/self/fd");
			threads = kit_count("/proc/self/task");
		}
		p = 0;
		s2 = kit_server(ts, &p);
		c2 = kit_channel(tc, p, "fs1");
		CU_ASSERT_EQUAL(kit_num(c2, &kit_echo, 1, 0, 3000, NULL), 0);
		t0 = kit_ms();
		if (i & 1) {
			rpc_channel_close(c2);
			rpc_server_stop(s2);
		} else {
			rpc_server_stop(s2);
			rpc_channel_close(c2);
		}
		CU_ASSERT_TRUE(kit_ms() - t0 < 500);
	}
	kit_sleep(300);
	CU_ASSERT_TRUE(kit_count("/proc/self/fd") <= fds);
	CU_ASSERT_TRUE(kit_count("/proc/self/task") <= threads + 1);
}

static void test_port_taken(void)
{
	struct conf_addr a = { "127.0.0.1", port };
	static const struct rpc_service svc = { &kit_echo, echo_handler, NULL };
	struct rpc_server_opts o = { .tls = ts, .listen = &a, .nlisten = 1, .workers = 1, .services = &svc, .nservices = 1 };
	struct error e = { 0 };
	struct rpc_server *s;

	CU_ASSERT_EQUAL(rpc_server_start(&o, &s, &e), -EADDRINUSE);
	CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "127.0.0.1:"));
}

int main(int argc, char **argv)
{
	CU_pSuite s;

	if (argc == 5 && !strcmp(argv[1], "--server"))
		return child_main(argv);
	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("rpc", pair_begin, pair_end);
	CU_ADD_TEST(s, test_unary);
	CU_ADD_TEST(s, test_bulk);
	CU_ADD_TEST(s, test_limits);
	CU_ADD_TEST(s, test_async);
	CU_ADD_TEST(s, test_cancel);
	CU_ADD_TEST(s, test_deadline);
	CU_ADD_TEST(s, test_cancel_busy);
	CU_ADD_TEST(s, test_long);
	CU_ADD_TEST(s, test_close);
	CU_ADD_TEST(s, test_once_over_cuts);
	CU_ADD_TEST(s, test_once_while_running);
	CU_ADD_TEST(s, test_wait_survives_cut);
	CU_ADD_TEST(s, test_lost);
	CU_ADD_TEST(s, test_killed);
	CU_ADD_TEST(s, test_watch);
	CU_ADD_TEST(s, test_resources);
	CU_ADD_TEST(s, test_port_taken);
	CU_ADD_TEST(s, test_names);
	CU_ADD_TEST(s, test_dead_peer);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
