/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of rpc share: certificates, a server with a few methods, channels to it, and a TCP relay that can fail. A header, because every test
 * program is one file.
 */
#ifndef TESTS_RPC_KIT_H
#define TESTS_RPC_KIT_H
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifndef KIT_NO_CUNIT
#include <CUnit/Basic.h>
#endif
#include "conf/cleanup.h"
#include "conf/log.h"
#include "rpc/rpc.h"
#include "rpc/rpc.pb-c.h"
#include "tests/unit/pki.h"

#pragma GCC diagnostic ignored "-Wunused-function"

/* The tests' messages are of the header's own type: numbers in, numbers out. */
typedef Sprite__Rpc__Head Num;
static Num num(uint64_t seq, uint32_t err)
{
	Num n = SPRITE__RPC__HEAD__INIT;

	n.seq = seq;
	n.err = err;
	return n;
}
#define NUMS &sprite__rpc__head__descriptor, &sprite__rpc__head__descriptor
static const struct rpc_method kit_echo = { "/t/Echo", RPC_UNARY, false, false, NUMS }; /* seq + 1, errno err */
static const struct rpc_method kit_bulk = { "/t/Bulk", RPC_UNARY, false, true, NUMS };	 /* the bytes XOR 0xff; err n: n MiB of zeros */
static const struct rpc_method kit_add = { "/t/Add", RPC_UNARY, true, false, NUMS };	 /* counts executions of seq, takes err ms */
static const struct rpc_method kit_hang = { "/t/Hang", RPC_UNARY, false, false, NUMS };	 /* until cancelled */
static const struct rpc_method kit_lock = { "/t/Lock", RPC_UNARY, true, false, NUMS };	 /* until cancelled, or kit_free is set */
static const struct rpc_method kit_block = { "/t/Block", RPC_UNARY, false, false, NUMS }; /* keeps its thread until kit_free */
static const struct rpc_method kit_str = { "/t/Str", RPC_BIDI, false, true, NUMS };	 /* see str_handler() */
static const struct rpc_method kit_none = { "/t/None", RPC_UNARY, false, false, NUMS };	 /* no such method */

#define KIT_SEQ_MAX 100000
static _Atomic uint32_t kit_executed[KIT_SEQ_MAX];
static _Atomic uint32_t kit_total, kit_hanging, kit_cancelled, kit_lost, kit_str_ended;
static _Atomic int kit_str_last; /* what the stream handler's last recv or send returned */
static _Atomic bool kit_free, kit_again;
static char kit_dir[64], kit_last_peer[256], kit_last_addr[128];
static _Atomic uint64_t kit_last_epoch;
static struct pki_ca kit_ca;

/* ---- time, counts ---- */
static uint64_t kit_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

static void kit_sleep(unsigned ms)
{
	usleep(ms * 1000);
}

/* `ms` is what it may take on a quiet machine: time decides nothing here but when to give up. */
static bool kit_wait(_Atomic uint32_t *v, uint32_t want, int ms)
{
	for (ms *= 20; ms > 0 && atomic_load(v) < want; ms -= 5)
		kit_sleep(5);
	return atomic_load(v) >= want;
}

static int kit_count(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n - 3; /* ".", "..", the directory itself; the same for both uses */
}

/* ---- the server ---- */
static void echo_handler(void *ctx, struct rpc_request *rq)
{
	const Num *in = (const Num *)rpc_request_msg(rq)->msg;
	Num out = num(in->seq + 1, 0);

	(void)ctx;
	snprintf(kit_last_peer, sizeof(kit_last_peer), "%s", rpc_request_peer(rq));
	snprintf(kit_last_addr, sizeof(kit_last_addr), "%s", rpc_request_addr(rq));
	kit_last_epoch = rpc_request_epoch(rq);
	rpc_reply(rq, in->err, in->err ? NULL : &out.base, NULL, 0, NULL, NULL);
}

static void bulk_handler(void *ctx, struct rpc_request *rq)
{
	const struct rpc_msg *m = rpc_request_msg(rq);
	const Num *in = (const Num *)m->msg;
	size_t n = in->err ? (size_t)in->err << 20 : m->bulk_len, i;
	char *p = calloc(1, n + 1);
	Num out = num(m->niov, 0);
	struct iovec v[2];

	(void)ctx;
	if (!in->err) {
		rpc_msg_copy(m, p, n);
		for (i = 0; i < n; i++)
			p[i] ^= 0xff;
	}
	v[0] = (struct iovec){ p, n / 3 };
	v[1] = (struct iovec){ p + n / 3, n - n / 3 };
	if (in->seq == 7) { /* without release: copied by the callee */
		rpc_reply(rq, 0, &out.base, v, 2, NULL, NULL);
		memset(p, 0x55, n);
		free(p);
	} else {
		rpc_reply(rq, 0, &out.base, v, 2, free, p);
	}
}

static void add_handler(void *ctx, struct rpc_request *rq)
{
	const Num *in = (const Num *)rpc_request_msg(rq)->msg;
	Num out;

	(void)ctx;
	if (in->seq < KIT_SEQ_MAX)
		kit_executed[in->seq]++;
	if (in->err)
		kit_sleep(in->err);
	out = num(++kit_total, 0);
	rpc_reply(rq, 0, &out.base, NULL, 0, NULL, NULL);
}

static void hang_cancelled(void *arg)
{
	struct rpc_request *rq = arg;

	kit_cancelled++;
	kit_hanging--;
	rpc_reply(rq, ECANCELED, NULL, NULL, 0, NULL, NULL);
}

static void hang_handler(void *ctx, struct rpc_request *rq)
{
	const Num *in = (const Num *)rpc_request_msg(rq)->msg;
	Num out = num(in->seq, 0);

	(void)ctx;
	if (kit_free) {
		kit_executed[in->seq]++;
		kit_again = rpc_request_again(rq);
		rpc_reply(rq, 0, &out.base, NULL, 0, NULL, NULL);
		return;
	}
	kit_hanging++;
	rpc_request_on_cancel(rq, hang_cancelled, rq);
}

static void block_handler(void *ctx, struct rpc_request *rq)
{
	Num out = num(0, 0);

	(void)ctx;
	kit_hanging++;
	while (!kit_free)
		kit_sleep(1);
	kit_hanging--;
	rpc_reply(rq, 0, &out.base, NULL, 0, NULL, NULL);
}

/*
 * By the err of the first message: 0: echo everything, end with ENOTTY when the peer has sent an odd number. 1: reads no more until cancelled.
 * n > 1: sends n - 2 frames with 64 KiB each and ends with EXDEV.
 */
static void str_handler(void *ctx, struct rpc_stream *s)
{
	static char zeros[65536];
	struct iovec v = { zeros, sizeof(zeros) };
	struct rpc_msg m;
	unsigned n = 0, mode = 0, i;
	int r;

	(void)ctx;
	while ((r = rpc_stream_recv(s, &m, -1)) == 1) {
		r = 0;
		mode = n++ ? mode : ((Num *)m.msg)->err;
		if (!mode)
			r = rpc_stream_send(s, m.msg, m.iov, m.niov);
		rpc_msg_clear(&m);
		if (mode || r)
			break;
	}
	if (mode == 1)
		while (!rpc_stream_cancelled(s))
			kit_sleep(5);
	for (i = 2; i < mode && !r; i++) {
		Num out = num(i, 0);

		r = rpc_stream_send(s, &out.base, &v, 1);
	}
	kit_str_last = r;
	kit_str_ended++;
	rpc_stream_finish(s, mode > 1 ? EXDEV : n & 1 ? ENOTTY : 0);
}

static void lost_handler(void *ctx, const char *peer)
{
	(void)ctx;
	(void)peer;
	kit_lost++;
}

static bool kit_lanes; /* servers take direct connections */

static struct rpc_server *kit_server(struct rpc_tls *t, uint16_t *port)
{
	static const struct rpc_service services[] = {
		{ &kit_echo, echo_handler, NULL }, { &kit_bulk, bulk_handler, NULL }, { &kit_add, add_handler, NULL },
		{ &kit_hang, hang_handler, NULL }, { &kit_lock, hang_handler, NULL }, { &kit_block, block_handler, NULL },
		{ &kit_str, NULL, str_handler },
	};
	struct conf_addr a = { "127.0.0.1", *port };
	struct rpc_server_opts o = { .tls = t, .listen = &a, .nlisten = 1, .workers = 3, .lanes = kit_lanes, .services = services, .nservices = ARRAY_SIZE(services),
		.peer_lost = lost_handler };
	struct rpc_server *s = NULL;
	struct error e = { 0 };

	if (rpc_server_start(&o, &s, &e) < 0)
		fprintf(stderr, "server: %s\n", e.text);
	else
		*port = rpc_server_port(s, 0);
	return s;
}

/* ---- clients ---- */
static struct rpc_tls *kit_tls_crl(const char *ca, const char *name, const char *crl)
{
	char paths[4][128];
	struct conf c = { .name = NULL, .tls_ca = paths[0], .tls_cert = paths[1], .tls_key = paths[2], .tls_crl = crl ? paths[3] : NULL };
	struct rpc_tls *t = NULL;
	struct error e = { 0 };

	snprintf(paths[0], 128, "%s/%s.pem", kit_dir, ca);
	snprintf(paths[1], 128, "%s/%s.pem", kit_dir, name);
	snprintf(paths[2], 128, "%s/%s.key", kit_dir, name);
	snprintf(paths[3], 128, "%s/%s.crl", kit_dir, crl ? crl : "");
	if (rpc_tls_load(&c, &t, &e) < 0)
		fprintf(stderr, "tls: %s\n", e.text);
	return t;
}

static struct rpc_tls *kit_tls(const char *name)
{
	return kit_tls_crl("ca", name, NULL);
}

static struct rpc_channel *kit_channel(struct rpc_tls *t, uint16_t port, const char *server)
{
	struct conf_addr a = { "127.0.0.1", port };

	return rpc_channel_open(t, &a, server, "test");
}

/* The transport's -errno, or the reply's errno. */
static int kit_num(struct rpc_channel *ch, const struct rpc_method *m, uint64_t seq, uint32_t err, int ms, uint64_t *out)
{
	Num in = num(seq, err);
	struct rpc_msg rep;
	int r = rpc_call(ch, m, &in.base, NULL, 0, ms, &rep);

	if (!r && rep.msg && out)
		*out = ((Num *)rep.msg)->seq;
	if (!r)
		r = rep.err;
	rpc_msg_clear(&rep);
	return r;
}

/* ---- relay ---- */
#define RELAY_MAX 64
struct relay {
	pthread_t thread;
	int lfd, wake[2];
	uint16_t port, to;
	_Atomic bool hole, stop, cut;
	_Atomic unsigned accepted;
	struct {
		int fd[2];
	} c[RELAY_MAX];
	int n;
};

static int kit_listen(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 64) || getsockname(fd, (struct sockaddr *)&a, &n))
		pki_die("listen");
	*port = ntohs(a.sin_port);
	return fd;
}

static int kit_connect(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void relay_drop(struct relay *r, int i)
{
	struct linger hard = { 1, 0 };

	setsockopt(r->c[i].fd[0], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(r->c[i].fd[0]);
	close(r->c[i].fd[1]);
	r->c[i] = r->c[--r->n];
}

static bool relay_copy(int from, int to)
{
	char buf[16384];
	ssize_t n = read(from, buf, sizeof(buf)), done = 0, w;

	for (; n > 0 && done < n; done += w) {
		w = send(to, buf + done, n - done, MSG_NOSIGNAL);
		if (w <= 0)
			return false;
	}
	return n > 0;
}

static void relay_accept(struct relay *r)
{
	int a = accept4(r->lfd, NULL, NULL, SOCK_CLOEXEC), b;

	if (a < 0)
		return;
	b = kit_connect(r->to);
	if (b < 0 || r->n == RELAY_MAX) {
		close(a);
		if (b >= 0)
			close(b);
		return;
	}
	r->c[r->n].fd[0] = a;
	r->c[r->n++].fd[1] = b;
	r->accepted++;
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;
	struct pollfd p[2 + 2 * RELAY_MAX];
	int i;

	while (!r->stop) {
		p[0] = (struct pollfd){ r->wake[0], POLLIN, 0 };
		p[1] = (struct pollfd){ r->lfd, POLLIN, 0 };
		for (i = 0; i < 2 * r->n; i++)
			p[2 + i] = (struct pollfd){ r->c[i / 2].fd[i % 2], r->hole ? 0 : POLLIN, 0 };
		poll(p, 2 + 2 * r->n, -1);
		if (p[0].revents && read(r->wake[0], &(char){ 0 }, 1) < 0)
			break;
		for (i = r->n - 1; i >= 0; i--)
			if (r->cut || (p[2 + 2 * i].revents && !relay_copy(r->c[i].fd[0], r->c[i].fd[1])) ||
				(p[3 + 2 * i].revents && !relay_copy(r->c[i].fd[1], r->c[i].fd[0])))
				relay_drop(r, i);
		r->cut = false;
		if (p[1].revents)
			relay_accept(r);
	}
	while (r->n)
		relay_drop(r, r->n - 1);
	return NULL;
}

static void relay_poke(struct relay *r)
{
	if (write(r->wake[1], "", 1) != 1)
		pki_die("wake");
}

static struct relay *relay_start(uint16_t to)
{
	struct relay *r = calloc(1, sizeof(*r));

	r->to = to;
	r->lfd = kit_listen(&r->port);
	if (pipe(r->wake) || pthread_create(&r->thread, NULL, relay_main, r))
		pki_die("relay");
	return r;
}

/* Closes every connection, with a reset. */
static void relay_cut(struct relay *r)
{
	r->cut = true;
	relay_poke(r);
}

/* Takes no more bytes: what a host that lost its power looks like. */
static void relay_hole(struct relay *r, bool on)
{
	r->hole = on;
	relay_poke(r);
}

static void relay_stop(struct relay *r)
{
	r->stop = true;
	relay_poke(r);
	pthread_join(r->thread, NULL);
	close(r->lfd);
	close(r->wake[0]);
	close(r->wake[1]);
	free(r);
}

/* ---- frame of a test program ---- */
static void kit_host(const char *name, const struct pki_ca *ca, const char *san, long from, long to)
{
	struct pki_ca c = pki_make(kit_dir, name, san, ca, from, to);

	pki_free(&c);
}

static void kit_files(void)
{
	strcpy(kit_dir, "/tmp/test_rpc.XXXXXX");
	if (!mkdtemp(kit_dir))
		pki_die("mkdtemp");
	kit_ca = pki_make(kit_dir, "ca", NULL, NULL, -3600, 86400);
	kit_host("fs1", &kit_ca, "DNS:fs1,IP:127.0.0.1", -3600, 86400);
	kit_host("ws1", &kit_ca, "DNS:ws1,IP:127.0.0.1", -3600, 86400);
	log_init("test_rpc");
}

static void kit_begin(void)
{
	kit_files();
	rpc_init();
}

static int kit_end(void)
{
	unsigned failed = 0;
	char cmd[128];

#ifndef KIT_NO_CUNIT
	failed = CU_get_number_of_failures() || CU_get_number_of_suites_failed();
	CU_cleanup_registry();
#endif
	rpc_shutdown();
	pki_free(&kit_ca);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", kit_dir);
	if (system(cmd))
		failed = 1;
	return failed ? 1 : 0;
}

#ifndef KIT_NO_CUNIT
/* ---- a suite's server and one channel to it ---- */
static struct rpc_tls *ts, *tc;
static struct rpc_server *srv;
static struct rpc_channel *ch;
static uint16_t port;

static int pair_begin(void)
{
	port = 0;
	ts = kit_tls("fs1");
	tc = kit_tls("ws1");
	srv = ts ? kit_server(ts, &port) : NULL;
	ch = srv ? kit_channel(tc, port, "fs1") : NULL;
	return !ch;
}

static int pair_end(void)
{
	rpc_channel_close(ch);
	rpc_server_stop(srv);
	rpc_tls_free(ts);
	rpc_tls_free(tc);
	return 0;
}
#endif

#endif
