/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the file server share: a server in this process with exports and files of every sort, two clients with valid certificates over loopback, and
 * calls. A header, because every test program is one file. Needs root (the server acts as callers).
 */
#ifndef TESTS_FSD_KIT_H
#define TESTS_FSD_KIT_H
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/dirent.h"
#include "fs/methods.h"
#include "fs/server/fsd.h"
#include "fs/server/ids.h"
#include "tests/unit/pki.h"

#pragma GCC diagnostic ignored "-Wunused-function"

static char dir[] = "/tmp/sprite-fsd-XXXXXX";
static struct fsd server;
static struct conf server_conf;
static struct rpc_tls *server_tls, *tls[2];
static struct rpc_channel *ch[2]; /* ws1, ws2 */
static uint64_t clock_ahead;

/* ---- set-up ---------------------------------------------------------------------------------------------- */

static uint64_t clock_source(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec + __atomic_load_n(&clock_ahead, __ATOMIC_RELAXED);
}

static char *path_in(const char *name)
{
	char *p;

	return asprintf(&p, "%s/%s", dir, name) < 0 ? NULL : p;
}

static struct conf *conf_for(const char *name)
{
	static struct conf c[3];
	static int n;
	struct conf *k = &c[n++];
	char file[64];

	k->name = (char *)name;
	snprintf(k->root_server.host, sizeof(k->root_server.host), "fs1");
	snprintf(file, sizeof(file), "%s.pem", name);
	k->tls_ca = path_in("ca.pem");
	k->tls_cert = path_in(file);
	snprintf(file, sizeof(file), "%s.key", name);
	k->tls_key = path_in(file);
	return k;
}

static void put_file(const char *name, const char *text, mode_t mode, uid_t uid)
{
	char *p = path_in(name);
	FILE *f = fopen(p, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	fputs(text, f);
	fclose(f);
	CU_ASSERT_EQUAL(chown(p, uid, uid), 0);
	CU_ASSERT_EQUAL(chmod(p, mode), 0);
	free(p);
}

static void make_dirs(const char *const *names)
{
	for (; *names; names++) {
		char *p = path_in(*names);

		CU_ASSERT_EQUAL(mkdir(p, 0777), 0);
		CU_ASSERT_EQUAL(chmod(p, 0777), 0);
		free(p);
	}
}

static void make_tree(void)
{
	static const char *const names[] = {"run", "state", "export", "export/open", "outside", "ro", "home", NULL};
	char *link = path_in("export/escape"), *dev = path_in("export/null"), *fifo = path_in("export/fifo");

	CU_ASSERT_EQUAL(chmod(dir, 0755), 0);
	make_dirs(names);
	put_file("outside/secret", "secret", 0644, 0);
	put_file("export/roots", "for root", 0600, 0);
	put_file("export/mine", "mine", 0600, 1000);
	put_file("export/run-only", "#!", 0711, 0);
	put_file("ro/file", "ro", 0666, 0);
	put_file("home/file", "home", 0600, 1000);
	CU_ASSERT_EQUAL(symlink("../outside", link), 0);
	CU_ASSERT_EQUAL(mknod(dev, S_IFCHR | 0666, 1 << 8 | 3), 0);
	CU_ASSERT_EQUAL(chmod(dev, 0666), 0);
	CU_ASSERT_EQUAL(mkfifo(fifo, 0666), 0);
	free(link);
	free(dev);
	free(fifo);
}

static struct conf_export exports[4];

static void make_conf(void)
{
	static char *all[] = {"*", NULL}, *only2[] = {"ws2", NULL}, *nobody[] = {NULL};
	static struct conf_addr listen = {.host = "127.0.0.1", .port = 0};
	struct conf *c = &server_conf;

	*c = *conf_for("fs1");
	c->run_dir = path_in("run");
	c->state_dir = path_in("state");
	c->mount = "/sprite";
	exports[0] = (struct conf_export){"/", path_in("export"), false, false, true, all, 0, UINT32_MAX - 1};
	exports[1] = (struct conf_export){"/ro", path_in("ro"), false, true, true, all, 500, 2000};
	exports[2] = (struct conf_export){"/two", path_in("outside"), false, false, false, only2, 0, UINT32_MAX - 1};
	exports[3] = (struct conf_export){"/hosts/fs1", path_in("home"), true, false, false, nobody, 0, 0};
	c->exports = exports;
	c->nexports = 4;
	c->fs_listen = &listen;
	c->fs_nlisten = 1;
}

static void start(void)
{
	struct error e = {0};
	struct pki_ca ca, host;
	struct conf_addr addr = {.host = "127.0.0.1"};

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	ca = pki_make(dir, "ca", NULL, NULL, -3600, 86400);
	for (int i = 0; i < 3; i++) {
		static const char *const names[] = {"fs1", "ws1", "ws2"};
		char san[32];

		snprintf(san, sizeof(san), "DNS:%s", names[i]);
		host = pki_make(dir, names[i], san, &ca, -3600, 86400);
		pki_free(&host);
	}
	pki_free(&ca);
	make_tree();
	make_conf();
	clock_fake(clock_source);
	rpc_init();
	CU_ASSERT_EQUAL_FATAL(ids_init(&e), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_tls_load(&server_conf, &server_tls, &e), 0);
	if (fsd_start(&server, &server_conf, server_tls, &e) < 0) {
		fprintf(stderr, "server: %s\n", e.text);
		exit(EXIT_FAILURE);
	}
	addr.port = rpc_server_port(server.server, 0);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(rpc_tls_load(conf_for(i ? "ws2" : "ws1"), &tls[i], &e), 0);
		ch[i] = rpc_channel_open(tls[i], &addr, "fs1", "meta");
	}
}

static void stop(void)
{
	char cmd[128];

	for (int i = 0; i < 2; i++)
		rpc_channel_close(ch[i]);
	fsd_stop(&server);
	for (int i = 0; i < 2; i++)
		rpc_tls_free(tls[i]);
	rpc_tls_free(server_tls);
	rpc_shutdown();
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	CU_ASSERT_EQUAL(system(cmd), 0);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

struct handle_copy {
	uint8_t b[128];
	size_t n;
};

static ProtobufCBinaryData as_bytes(struct handle_copy *h)
{
	return (ProtobufCBinaryData){h->n, h->b};
}

static struct handle_copy handle_of(ProtobufCBinaryData d)
{
	struct handle_copy h = {.n = d.len};

	memcpy(h.b, d.data, d.len <= sizeof(h.b) ? d.len : 0);
	return h;
}

static Sprite__Fs__Cred cred_of(uint32_t uid)
{
	Sprite__Fs__Cred c = SPRITE__FS__CRED__INIT;

	c.uid = c.gid = uid;
	c.umask = 022;
	return c;
}

/* errno of the answer; *out is filled when the caller wants it, else cleared. */
static int call(int who, enum fs_op op, const ProtobufCMessage *in, struct rpc_msg *out)
{
	struct rpc_msg m;
	int r = rpc_call(ch[who], &fs_methods[op], in, NULL, 0, 20000, &m);

	CU_ASSERT_EQUAL(r, 0);
	if (r < 0)
		return -r;
	r = m.err;
	if (out && !r)
		*out = m;
	else
		rpc_msg_clear(&m);
	return r;
}

static int attach(int who, const char *prefix, bool leases, struct handle_copy *root)
{
	Sprite__Fs__AttachReq q = SPRITE__FS__ATTACH_REQ__INIT;
	struct rpc_msg m;
	int r;

	q.prefix = (char *)prefix;
	q.leases = leases;
	r = call(who, FS_ATTACH, &q.base, &m);
	if (r == 0) {
		*root = handle_of(((Sprite__Fs__AttachRep *)m.msg)->handle);
		rpc_msg_clear(&m);
	}
	return r;
}

static int lookup(int who, uint32_t uid, struct handle_copy *d, const char *name, struct handle_copy *out)
{
	Sprite__Fs__LookupReq q = SPRITE__FS__LOOKUP_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);
	struct rpc_msg m;
	int r;

	q.cred = &c;
	q.dir = as_bytes(d);
	q.name = (char *)name;
	r = call(who, FS_LOOKUP, &q.base, &m);
	if (r == 0) {
		*out = handle_of(((Sprite__Fs__LookupRep *)m.msg)->entry->handle);
		rpc_msg_clear(&m);
	}
	return r;
}

static int open_handle(int who, uint32_t uid, struct handle_copy *h, uint32_t flags, uint64_t *id)
{
	Sprite__Fs__OpenReq q = SPRITE__FS__OPEN_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);
	struct rpc_msg m;
	int r;

	q.cred = &c;
	q.handle = as_bytes(h);
	q.flags = flags;
	r = call(who, FS_OPEN, &q.base, &m);
	if (r == 0) {
		*id = ((Sprite__Fs__OpenRep *)m.msg)->open;
		rpc_msg_clear(&m);
	}
	return r;
}

static int make_dir(int who, uint32_t uid, struct handle_copy *d, const char *name)
{
	Sprite__Fs__MakeReq q = SPRITE__FS__MAKE_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);

	q.cred = &c;
	q.dir = as_bytes(d);
	q.name = (char *)name;
	q.mode = S_IFDIR | 0777;
	return call(who, FS_MAKE, &q.base, NULL);
}

static int chmod_handle(int who, uint32_t uid, struct handle_copy *h, uint32_t mode)
{
	Sprite__Fs__SetattrReq q = SPRITE__FS__SETATTR_REQ__INIT;
	Sprite__Fs__Attr a = SPRITE__FS__ATTR__INIT;
	Sprite__Fs__Cred c = cred_of(uid);

	q.cred = &c;
	q.handle = as_bytes(h);
	q.valid = FS_SET_MODE;
	q.attr = &a;
	a.mode = mode;
	return call(who, FS_SETATTR, &q.base, NULL);
}

/* ---- calls that wait, events --------------------------------------------------------------------------- */

struct async {
	pthread_mutex_t lock;
	int done, err;
};

static void async_done(void *arg, int status, struct rpc_msg *out)
{
	struct async *a = arg;

	pthread_mutex_lock(&a->lock);
	a->done = 1;
	a->err = status < 0 ? status : out->err;
	pthread_mutex_unlock(&a->lock);
	if (status == 0)
		rpc_msg_clear(out);
}

static bool async_wait(struct async *a, int ms)
{
	for (; ms > 0; ms -= 10) {
		bool done;

		pthread_mutex_lock(&a->lock);
		done = a->done;
		pthread_mutex_unlock(&a->lock);
		if (done)
			return true;
		usleep(10000);
	}
	return false;
}

static struct rpc_stream *events_open(int who)
{
	Sprite__Fs__EventAck hello = SPRITE__FS__EVENT_ACK__INIT;
	struct rpc_stream *s = NULL;
	struct rpc_msg m;

	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(ch[who], &fs_methods[FS_EVENTS], -1, &s), 0);
	hello.epoch = clock_epoch();
	CU_ASSERT_EQUAL(rpc_stream_send(s, &hello.base, NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 60000), 1);
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->kind, SPRITE__FS__EVENT__KIND__NONE);
	rpc_msg_clear(&m);
	return s;
}

/* ---- a suite --------------------------------------------------------------------------------------------- */

struct kit_test {
	const char *name;
	CU_TestFunc run;
};

/* Starts the server, runs the tests in order, stops it. The status of the program: 77 without root. */
static int kit_run(const char *name, const struct kit_test *tests, size_t n)
{
	CU_pSuite s;
	unsigned failed;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return 77;
	}
	umask(0);
	log_init(name);
	CU_initialize_registry();
	s = CU_add_suite(name, NULL, NULL);
	CU_add_test(s, "start", start);
	for (size_t i = 0; i < n; i++)
		CU_add_test(s, tests[i].name, tests[i].run);
	CU_add_test(s, "stop", stop);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
