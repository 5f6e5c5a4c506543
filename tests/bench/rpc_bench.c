/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a call costs, beside hand-written TLS and plain TCP over the same loopback, interleaved, so that a busy machine slows all alike: latency of a
 * small call (p50, p99), calls per second one after the other and 32 at once, 1 MiB messages in both directions, CPU and context switches per call of
 * both sides, memory and threads. The servers are in a process of their own.
 *
 *	rpc_bench [SECONDS [small]]     per measurement, default 1; small: only small calls
 */
#define KIT_NO_CUNIT
#include "tests/unit/rpc_kit.h"
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/resource.h>

enum { SMALL = 64, MIB = 1 << 20 };
static char big[MIB];
static double seconds = 1;

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static pid_t peer; /* the servers' process */

static double clock_us(clockid_t c)
{
	struct timespec ts;

	clock_gettime(c, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

/* Of both sides. */
static double cpu_us(void)
{
	clockid_t c;

	return clock_us(CLOCK_PROCESS_CPUTIME_ID) + (clock_getcpuclockid(peer, &c) == 0 ? clock_us(c) : 0);
}

/* How often their threads have slept. */
static double sleeps_of(pid_t pid)
{
	char path[300], line[128];
	struct dirent *d;
	double n = 0;
	DIR *dir;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, d->d_name);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f))
			if (!strncmp(line, "voluntary_ctxt", 14))
				n += atof(strchr(line, ':') + 1);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return n;
}

/* ---- the raw sockets: a thread that answers u32 length + bytes with as many (or 4) bytes ---- */
struct wire {
	int fd;
	SSL *ssl;
};

static bool put(struct wire *w, const void *p, size_t n)
{
	size_t done = 0;
	ssize_t r;

	for (; done < n; done += r) {
		r = w->ssl ? SSL_write(w->ssl, (const char *)p + done, n - done) : send(w->fd, (const char *)p + done, n - done, MSG_NOSIGNAL);
		if (r <= 0)
			return false;
	}
	return true;
}

static bool get(struct wire *w, void *p, size_t n)
{
	size_t done = 0;
	ssize_t r;

	for (; done < n; done += r) {
		r = w->ssl ? SSL_read(w->ssl, (char *)p + done, n - done) : recv(w->fd, (char *)p + done, n - done, 0);
		if (r <= 0)
			return false;
	}
	return true;
}

static SSL_CTX *ctx_new(bool server)
{
	SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	char path[128];

	SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION);
	snprintf(path, sizeof(path), "%s/fs1.pem", kit_dir);
	SSL_CTX_use_certificate_file(c, path, SSL_FILETYPE_PEM);
	snprintf(path, sizeof(path), "%s/fs1.key", kit_dir);
	SSL_CTX_use_PrivateKey_file(c, path, SSL_FILETYPE_PEM);
	return c;
}

struct raw {
	int lfd;
	uint16_t port;
	SSL_CTX *server, *client; /* NULL: plain */
	struct wire w;
	pthread_t t;
};

/* A request is u32 size of the request, u32 size of the answer, bytes. */
static void *raw_main(void *arg)
{
	struct raw *r = arg;
	struct wire w = { accept4(r->lfd, NULL, NULL, SOCK_CLOEXEC), NULL };
	char *buf = malloc(MIB);
	uint32_t h[2];
	int one = 1;

	setsockopt(w.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (r->server) {
		w.ssl = SSL_new(r->server);
		SSL_set_fd(w.ssl, w.fd);
		if (SSL_accept(w.ssl) != 1)
			pki_die("SSL_accept");
	}
	while (get(&w, h, sizeof(h)) && get(&w, buf, h[0]) && put(&w, buf, h[1]))
		;
	SSL_free(w.ssl);
	close(w.fd);
	free(buf);
	return NULL;
}

static void raw_serve(struct raw *r, bool tls)
{
	r->server = tls ? ctx_new(true) : NULL;
	pthread_create(&r->t, NULL, raw_main, r);
}

static void raw_open(struct raw *r, bool tls)
{
	int one = 1;

	r->client = tls ? ctx_new(false) : NULL;
	r->w = (struct wire){ kit_connect(r->port), NULL };
	setsockopt(r->w.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (tls) {
		r->w.ssl = SSL_new(r->client);
		SSL_set_fd(r->w.ssl, r->w.fd);
		if (SSL_connect(r->w.ssl) != 1)
			pki_die("SSL_connect");
	}
}

static void raw_close(struct raw *r)
{
	if (r->w.ssl)
		SSL_shutdown(r->w.ssl);
	SSL_free(r->w.ssl);
	close(r->w.fd);
	SSL_CTX_free(r->client);
}

static char frame[8 + MIB], sink[MIB];
static bool raw_call(struct raw *r, uint32_t out, uint32_t in)
{
	memcpy(frame, &out, 4);
	memcpy(frame + 4, &in, 4);
	return put(&r->w, frame, 8 + out) && get(&r->w, sink, in);
}

/* ---- rpc ---- */
static void nothing(void *arg)
{
	(void)arg;
}

static void give(void *ctx, struct rpc_request *rq)
{
	const Num *in = (const Num *)rpc_request_msg(rq)->msg;
	struct iovec v = { big, in->seq };
	Num out = num(0, 0);

	(void)ctx;
	rpc_reply(rq, 0, &out.base, &v, in->seq ? 1 : 0, nothing, NULL);
}

static struct rpc_channel *ch;
static bool rpc_once(uint32_t out, uint32_t in)
{
	Num n = num(in, 0);
	struct iovec v = { big, out };
	struct rpc_msg m;
	int r = rpc_call(ch, &kit_bulk, &n.base, &v, out ? 1 : 0, 10000, &m);

	rpc_msg_clear(&m);
	return !r;
}

static bool one(int which, struct raw *r, uint32_t out, uint32_t in)
{
	return which == 2 ? rpc_once(out, in) : raw_call(&r[which], out, in);
}

static int by_value(const void *a, const void *b)
{
	double x = *(double *)a, y = *(double *)b;

	return x < y ? -1 : x > y;
}

static const char *const names[] = { "plain TCP", "raw TLS 1.3", "rpc" };

static void latency(struct raw *raw)
{
	enum { MAX = 200000, TURN = 200 };
	double *t[3], end = now_us() + seconds * 3e6, t0, cpu[3] = { 0 }, c0, slept[3][2] = { 0 }, s0, s1;
	int n[3] = { 0 }, k, i;

	for (k = 0; k < 3; k++)
		t[k] = malloc(MAX * sizeof(double));
	while (now_us() < end)
		for (k = 0; k < 3; k++) {
			s0 = sleeps_of(getpid());
			s1 = sleeps_of(peer);
			c0 = cpu_us();
			for (i = 0; i < TURN && n[k] < MAX; i++) {
				t0 = now_us();
				if (!one(k, raw, k == 2 ? 0 : SMALL, k == 2 ? 0 : SMALL))
					pki_die(names[k]);
				t[k][n[k]++] = now_us() - t0;
			}
			cpu[k] += cpu_us() - c0;
			slept[k][0] += sleeps_of(getpid()) - s0;
			slept[k][1] += sleeps_of(peer) - s1;
		}
	printf("small call, one after the other:       p50 us   p99 us   calls/s   CPU us/call   sleeps/call of client, server\n");
	for (k = 0; k < 3; k++) {
		double sum = 0;

		for (i = 0; i < n[k]; i++)
			sum += t[k][i];
		qsort(t[k], n[k], sizeof(double), by_value);
		printf("  %-34s %8.1f %8.1f %9.0f %10.1f %10.2f %6.2f\n", names[k], t[k][n[k] / 2], t[k][n[k] * 99 / 100], n[k] / sum * 1e6, cpu[k] / n[k],
			slept[k][0] / n[k], slept[k][1] / n[k]);
		free(t[k]);
	}
}

static void throughput(struct raw *raw, uint32_t out, uint32_t in, const char *what)
{
	double end = now_us() + seconds * 3e6, t[3] = { 0 }, cpu[3] = { 0 }, t0, c0;
	int n[3] = { 0 }, k, i;

	while (now_us() < end)
		for (k = 0; k < 3; k++) {
			t0 = now_us();
			c0 = cpu_us();
			for (i = 0; i < 20; i++)
				if (!one(k, raw, out, in))
					pki_die(names[k]);
			n[k] += i;
			t[k] += now_us() - t0;
			cpu[k] += cpu_us() - c0;
		}
	printf("%s:      MiB/s   us/message   CPU us/message\n", what);
	for (k = 0; k < 3; k++)
		printf("  %-34s %8.0f %10.0f %12.0f\n", names[k], n[k] / t[k] * 1e6, t[k] / n[k], cpu[k] / n[k]);
}

/* ---- many at once ---- */
static _Atomic uint32_t inflight, finished;
static _Atomic bool going;
static uint32_t conc_out, conc_in;

static void again(void *arg, int status, struct rpc_msg *out)
{
	Num n = num(conc_in, 0);
	static struct iovec v;

	(void)arg;
	if (status)
		pki_die("concurrent call");
	rpc_msg_clear(out);
	finished++;
	v = (struct iovec){ big, conc_out };
	if (going)
		rpc_call_async(ch, &kit_bulk, &n.base, &v, conc_out ? 1 : 0, 10000, again, NULL);
	else
		inflight--;
}

static void concurrent(uint32_t width, uint32_t out, uint32_t in, const char *what)
{
	struct rpc_msg none = { 0 };
	double t0, c0, t;
	uint32_t i;

	conc_out = out;
	conc_in = in;
	finished = 0;
	inflight = width;
	going = true;
	t0 = now_us();
	c0 = cpu_us();
	for (i = 0; i < width; i++)
		again(NULL, 0, &none);
	usleep(seconds * 1e6);
	t = now_us() - t0;
	printf("%-38s %6.0f calls/s  %8.1f CPU us/call", what, finished / t * 1e6, (cpu_us() - c0) / finished);
	if (out || in)
		printf("  %6.0f MiB/s", finished / t * 1e6 * (out + in) / MIB);
	printf("\n");
	going = false;
	while (inflight)
		usleep(1000);
}

/* A stream of 1 MiB frames, as the image of a process travels. */
static void drain(void *ctx, struct rpc_stream *s)
{
	struct rpc_msg m;

	(void)ctx;
	while (rpc_stream_recv(s, &m, -1) == 1)
		rpc_msg_clear(&m);
	rpc_stream_finish(s, 0);
}

static void streaming(void)
{
	struct rpc_stream *s;
	struct iovec v = { big, MIB };
	double t0 = now_us(), c0 = cpu_us();
	int n = 0;

	if (rpc_stream_open(ch, &kit_str, -1, &s))
		pki_die("stream");
	while (now_us() - t0 < seconds * 1e6) {
		Num m = num(n, 0);

		if (rpc_stream_send(s, &m.base, &v, 1))
			pki_die("send");
		n++;
	}
	if (rpc_stream_finish(s, 0))
		pki_die("finish");
	printf("%-38s %6.0f MiB/s   %8.0f CPU us/MiB\n", "rpc stream of 1 MiB frames", n / (now_us() - t0) * 1e6, (cpu_us() - c0) / n);
}

static void memory(const char *when)
{
	char line[128];
	FILE *f = fopen("/proc/self/status", "r");

	printf("%s:", when);
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "VmRSS", 5) || !strncmp(line, "Threads", 7) || !strncmp(line, "RssAnon", 7))
			printf("  %.*s", (int)strcspn(line, "\n"), line);
	printf("\n");
	if (f)
		fclose(f);
}

/* The servers: all in one process, until its pipe is closed. */
static void serve(struct raw *raw, int out, int in)
{
	static const struct rpc_service services[] = { { &kit_bulk, give, NULL }, { &kit_str, NULL, drain } };
	struct conf_addr a = { "127.0.0.1", 0 };
	struct rpc_server_opts o = { .listen = &a, .nlisten = 1, .workers = 2, .services = services, .nservices = ARRAY_SIZE(services) };
	struct rpc_server *s;
	struct error e = { 0 };
	uint16_t port;
	char c;

	rpc_init();
	o.tls = kit_tls("fs1");
	if (rpc_server_start(&o, &s, &e) < 0)
		pki_die(e.text);
	raw_serve(&raw[0], false);
	raw_serve(&raw[1], true);
	port = rpc_server_port(s, 0);
	if (write(out, &port, sizeof(port)) != sizeof(port) || read(in, &c, 1) < 0)
		pki_die("pipe");
	rpc_server_stop(s);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct raw raw[2] = { 0 };
	struct rpc_tls *t;
	uint16_t port;
	int p[2], q[2];

	if (argc > 1)
		seconds = atof(argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	kit_files();
	raw[0].lfd = kit_listen(&raw[0].port);
	raw[1].lfd = kit_listen(&raw[1].port);
	if (pipe2(p, O_CLOEXEC) || pipe2(q, O_CLOEXEC) || (peer = fork()) < 0)
		pki_die("fork");
	if (!peer) {
		close(q[1]);
		serve(raw, p[1], q[0]);
	}
	close(q[0]);
	rpc_init();
	if (read(p[0], &port, sizeof(port)) != sizeof(port))
		pki_die("server");
	t = kit_tls("ws1");
	ch = kit_channel(t, port, "fs1");
	if (!rpc_once(0, 0))
		pki_die("call");
	memory("idle");
	raw_open(&raw[0], false);
	raw_open(&raw[1], true);
	latency(raw);
	concurrent(32, 0, 0, "rpc, 32 small calls at once");
	if (argc <= 2) {
		throughput(raw, MIB, 0, "1 MiB sent, one after the other    ");
		throughput(raw, 0, MIB, "1 MiB received, one after the other");
		concurrent(4, MIB, 0, "rpc, 4 times 1 MiB sent at once");
		concurrent(4, 0, MIB, "rpc, 4 times 1 MiB received at once");
		streaming();
		memory("after");
	}
	raw_close(&raw[0]);
	raw_close(&raw[1]);
	rpc_channel_close(ch);
	rpc_tls_free(t);
	close(q[1]);
	return kit_end();
}
