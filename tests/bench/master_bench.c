// SPDX-License-Identifier: Apache-2.0
/*
 * The master as it is (migd/master.c, behind gRPC and mutual TLS) with 100 to 100,000 simulated hosts: how long an agent waits for a slot at 1,000 questions a second.
 * Hosts are names that report every 5 s, as migd does; their reports come by a call of the master's own (a real one has a certificate and a connection each).
 * CPU is that of the whole process: master, agent and hosts.
 *	master_bench [SECONDS]     per row, default 3
 */
#define KIT_NO_CUNIT
#include "tests/unit/rpc_kit.h"
#include <sys/resource.h>
#include "migd/master.h"
#include "migd/mig_rpc.h"

enum { RATE = 1000, HELD = 64, REPORT_S = 5, MOST = 100000 };

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static double cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* ---- hosts ---- */

static struct hosts {
	struct master *ms;
	unsigned n;
	_Atomic bool stop;
} hosts;

static void report(unsigned i, unsigned round)
{
	Sprite__Master__Report r = SPRITE__MASTER__REPORT__INIT;
	char name[24];

	snprintf(name, sizeof(name), "ws%u", i);
	r.arch = "x86_64";
	r.features = i % 3 ? "avx2" : "avx2 avx512f";
	r.offers = (i + round) % 4; /* a quarter is in use, another one each time */
	r.idle_ms = i * 7919 % 86400 * 1000;
	r.slots = 1 + i % 8;
	master_host(hosts.ms, name, &r);
}

static void *hosts_main(void *unused)
{
	double start = now_us();

	(void)unused;
	for (uint64_t k = 0; !hosts.stop; k++) {
		double due = start + (double)k * REPORT_S * 1e6 / hosts.n;

		while (!hosts.stop && now_us() < due)
			usleep(500);
		report((unsigned)(k % hosts.n), (unsigned)(k / hosts.n));
	}
	return NULL;
}

/* ---- an agent ---- */

static void send_frame(struct rpc_stream *s, Sprite__Master__Frame__Kind kind, uint64_t id)
{
	Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;

	f.kind = kind;
	f.id = id;
	f.want = 1;
	f.uid = 1000;
	f.priority = SELECT_NORMAL;
	f.arch = "x86_64";
	f.features = "avx2";
	if (rpc_stream_send(s, &f.base, NULL, 0))
		pki_die("send");
}

/* One question. Returns the slot, 0: none; what the master says of other slots meanwhile is passed over. */
static uint64_t ask(struct rpc_stream *s)
{
	uint64_t slot = 0;
	struct rpc_msg m;
	bool through = false;

	send_frame(s, SPRITE__MASTER__FRAME__KIND__ASK, 0);
	while (!through) {
		const Sprite__Master__Frame *f;

		if (rpc_stream_recv(s, &m, 10000) != 1)
			pki_die("recv");
		f = (const Sprite__Master__Frame *)m.msg;
		if (f->kind == SPRITE__MASTER__FRAME__KIND__GRANTED)
			slot = f->id;
		through = f->kind == SPRITE__MASTER__FRAME__KIND__ANSWERED;
		rpc_msg_clear(&m);
	}
	return slot;
}

static void row(struct rpc_channel *ch, unsigned n, double seconds)
{
	static double took[100000];
	uint64_t held[HELD] = {0};
	struct rpc_stream *s;
	unsigned k = 0, none = 0;
	pthread_t t;

	for (unsigned i = hosts.n; i < n; i++)
		report(i, 0);
	hosts.n = n;
	hosts.stop = false;
	if (pthread_create(&t, NULL, hosts_main, NULL) || rpc_stream_open(ch, &mig_methods[MIG_MASTER_ASK], -1, &s))
		pki_die("start");
	for (int i = 0; i < 100; i++)
		send_frame(s, SPRITE__MASTER__FRAME__KIND__RELEASE, ask(s)); /* warm */
	double start = now_us(), cpu = cpu_us();

	for (; k < ARRAY_SIZE(took) && now_us() - start < seconds * 1e6; k++) {
		double due = start + k * 1e6 / RATE, t0;

		while (now_us() < due)
			usleep(50);
		if (held[k % HELD])
			send_frame(s, SPRITE__MASTER__FRAME__KIND__RELEASE, held[k % HELD]);
		t0 = now_us();
		held[k % HELD] = ask(s);
		took[k] = now_us() - t0;
		none += !held[k % HELD];
	}
	double wall = now_us() - start;

	cpu = cpu_us() - cpu;
	hosts.stop = true;
	pthread_join(t, NULL);
	rpc_stream_cancel(s);
	rpc_stream_finish(s, 0);
	qsort(took, k, sizeof(*took), by_value);
	printf("%7u hosts: %4.0f questions/s, p50 %6.0f us  p99 %6.0f us  worst %7.0f us; %u found nobody; %5.1f %% of a CPU with %u reports/s\n", n, k / wall * 1e6, took[k / 2],
		took[k * 99 / 100], took[k - 1], none, cpu / wall * 100, n / REPORT_S);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 3;
	struct migd m = {0};
	const struct rpc_service services[] = {{&mig_methods[MIG_MASTER_REPORT], master_serve_report, NULL}, {&mig_methods[MIG_MASTER_ASK], NULL, master_serve_ask}};
	struct conf_addr a = {"127.0.0.1", 0};
	struct rpc_server_opts o = {.listen = &a, .nlisten = 1, .workers = 4, .services = services, .nservices = ARRAY_SIZE(services), .ctx = &m};
	struct rpc_server *server = NULL;
	struct rpc_tls *ts, *tc;
	struct rpc_channel *ch;
	struct error e = {0};

	kit_begin();
	ts = kit_tls("fs1");
	tc = kit_tls("ws1");
	o.tls = ts;
	if (master_open(&m, &m.master) || !ts || !tc || rpc_server_start(&o, &server, &e))
		pki_die(e.text);
	hosts.ms = m.master;
	master_tick(m.master, true);
	ch = kit_channel(tc, rpc_server_port(server, 0), "fs1");
	for (unsigned n = 100; n <= MOST; n *= 10)
		row(ch, n, seconds);
	rpc_channel_close(ch);
	rpc_server_stop(server);
	master_close(m.master);
	rpc_tls_free(ts);
	rpc_tls_free(tc);
	return kit_end();
}
